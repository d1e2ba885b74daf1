//! Plans for RKE clusters, made from what RKE 1.6 wrote.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod admin;
mod bad_input;
mod check;
mod cut_off;
mod first;
mod lab;
mod plans;
mod refuse;
mod words;
mod world;
