//! The bootstrap data of real clusters, in real datastores.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "tests lay out and spoil their own trees"
)]

mod crash;
mod lab;
mod read;
mod reconcile;
mod refuse;
mod servers;
mod silent;
mod write;
