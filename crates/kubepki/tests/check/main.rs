//! `kubepki check` as a library: rules, report and timeline on files that real K3s wrote.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]
#![expect(clippy::disallowed_methods, reason = "trees are broken on purpose")]

mod fixtures;
mod issue;
mod report;
mod rules;
mod rules_chain;
mod tree;
