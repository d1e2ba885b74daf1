//! `rotate-ca`, `token rotate` and `sa-key rotate` on SQLite, PostgreSQL, MariaDB and etcd, killed
//! at every step: before and after each line of the journal, each file, each piece that goes to a
//! database server or comes from it. What is left is resumed in one copy and undone in another.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and lay out their own files"
)]

mod change;
mod lost_server;
mod moments;
mod place;
mod rotations;
mod scene;
mod undo;
