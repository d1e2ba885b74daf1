//! kine's table in real SQLite files, PostgreSQL and MariaDB servers.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod common;
mod cuts;
mod failures;
mod files;
mod fixtures;
mod model;
mod race;
mod rows;
mod tls;
