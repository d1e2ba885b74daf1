//! etcd: running, stopped, as a snapshot, and damaged.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod damage;
mod files;
mod history;
mod lab;
mod running;
mod trust;
