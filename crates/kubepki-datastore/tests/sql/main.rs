//! kine's table in real SQLite files, PostgreSQL and MariaDB servers.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod common;
mod fixtures;
