//! Who connects to whom while CAs change: what was promised, held to the libraries themselves.
//!
//! Every connection here is a TLS connection over loopback, with a request and an answer. Needs
//! `go`, `openssl`, `curl`, `gnutls-cli`, `gnutls-serv`, `java` and `javac`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod lab;
mod orders;
mod rotations;
