//! `init` on real directories, held against what K3s wrote.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod authorities;
mod crash;
mod existing;
mod facts;
mod first_start;
mod place;
