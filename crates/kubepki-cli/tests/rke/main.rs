//! The native commands on an RKE cluster: three hosts, each with its own OpenSSH server and Docker
//! engine, a real etcd of three members, certificates checked by OpenSSL.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

mod away;
mod company;
mod dropin;
mod expired;
mod modes;
mod pods;
mod recorded;
#[path = "../common/rke_log.rs"]
mod rke_log;
mod rotate;
mod scene;
mod watch;
mod ways;
