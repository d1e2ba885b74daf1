//! `ca::verify`: K3s's verdict on real and on spoilt sets, held to Go and to K3s's own log.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and write their own files"
)]

mod fixtures;
mod lab;
mod wrong;
