//! Tokens with a record while `kubepki serve` serves: joined with, counted across servers, ended,
//! good after a rotation; those of Kubernetes beside ours.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, and start the program themselves"
)]

mod kubernetes;
mod lab;
mod made;
mod races;
