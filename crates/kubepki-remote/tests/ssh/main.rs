//! Hosts over SSH: OpenSSH's own server, agent and keys at the other end.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod bastion;
mod broken;
mod channels;
mod common;
mod connect;
mod exec;
mod files;
mod known_hosts;
mod replace;
