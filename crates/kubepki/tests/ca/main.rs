//! CAs made, requested, imported and staged: what comes out is held against OpenSSL, Go, our own
//! verifier and K3s's scripts.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod create;
mod forms;
mod import;
mod lab;
mod output;
mod properties;
mod script;
mod stage;
