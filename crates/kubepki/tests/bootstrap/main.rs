//! The bootstrap data's rules, case by case.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests lay out and spoil their own directories"
)]

mod audit;
mod compare;
mod locate;
mod save;
