//! `kubepki check` as a library: rules, report and timeline on files that real K3s wrote.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]
#![expect(clippy::disallowed_methods, reason = "trees are broken on purpose")]

mod fixtures;
mod report;
mod rules;
mod tree;
