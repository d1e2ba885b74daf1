//! Plans for the hosts of a cluster: each a directory here, their containers TLS servers.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod carry_out;
mod exact;
mod held_back;
mod refuse;
mod scene;
mod world;
