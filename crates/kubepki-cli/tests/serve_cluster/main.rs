//! Several `kubepki serve` over one real datastore.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, and start the program themselves"
)]

mod beside;
mod change;
mod fixtures;
mod killed;
mod lab;
mod names;
mod records;
mod three;
mod undo;
