//! Kills (SIGKILL) at every kind of step of rotations of an RKE cluster: of the program, of a host's
//! OpenSSH server, its Docker engine, its power, of a member of etcd. What is resumed or undone
//! ends whole; what is kept suffices to go back at every moment.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

mod faults;
mod kept;
mod operator;
mod program;
mod quorum;
#[path = "../rke/scene.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod scene;
