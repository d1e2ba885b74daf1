//! From a saved plan to a changed disk and back, on real files.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod carry_out;
mod case;
mod faulty;
mod node;
mod prove;
mod refuse;
