//! `kubepki rotate-ca` and `kubepki k3s certificate rotate-ca` on trees and datastores of real
//! clusters.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and write their own files"
)]

#[path = "../common/mod.rs"]
mod common;
mod compromise;
mod direct;
mod driven;
mod lab;
mod refuse;
mod through;
mod wrong;
