//! The bootstrap data's rules, case by case.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod compare;
mod locate;
mod save;
