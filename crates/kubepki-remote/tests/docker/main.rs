//! Hosts of an RKE cluster over real SSH and Docker: files, containers, locks, and what breaks.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and prepare files of their own"
)]

mod containers;
mod crash;
mod files;
mod lock;
mod secrets;
mod world;
