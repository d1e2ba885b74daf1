//! A server on trees that real clusters wrote, asked by strangers.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

mod admission;
mod agents;
mod common;
mod forgotten;
mod forms;
mod grammar;
mod guesses;
mod heartbeats;
mod hostile;
mod listener;
mod names;
mod noise;
mod overtaken;
mod recordings;
mod secrets;
mod servers;
mod strict;
mod tokens;
mod tunnel;
