//! Trees that real K3s wrote: which are clean, and what exactly is found in the others.

use std::fmt::Write;

use kubepki::check::Severity;

use crate::tree::{AT, Tree};

/// Fixtures without findings; notes are allowed.
const CLEAN: [&str; 4] = [
    "k3s-1.36-sqlite",
    "k3s-1.36-encryption-token-rotated",
    "k3s-1.36-etcd-embedded",
    "k3s-1.36-etcd-external",
];

/// Every other fixture with a data directory.
const OTHERS: [&str; 9] = [
    "k3s-1.21-custom-ca",
    "k3s-1.21-sqlite",
    "k3s-1.36-agent-only",
    "k3s-1.36-custom-ca",
    "k3s-1.36-custom-ca-rotated",
    "k3s-1.36-default-rotated",
    "k3s-1.36-mariadb",
    "k3s-1.36-new-root-forced",
    "k3s-1.36-postgres",
];

#[test]
fn what_k3s_leaves_behind_is_clean() {
    for name in CLEAN {
        let tree = Tree::fixture(name);
        let findings = tree.check(AT);
        let worse: Vec<String> = findings
            .iter()
            .filter(|finding| finding.severity > Severity::Note)
            .map(ToString::to_string)
            .collect();
        assert!(worse.is_empty(), "{name}: {worse:#?}");
    }
}

#[test]
fn every_fixture_has_exactly_its_reviewed_findings() {
    for name in CLEAN.into_iter().chain(OTHERS) {
        let tree = Tree::fixture(name);
        let mut text = String::new();
        for finding in tree.check(AT) {
            writeln!(text, "{finding}").unwrap();
            if let Some(mends) = &finding.mends {
                writeln!(text, "    {mends}").unwrap();
            }
        }
        let text = tree.redacted(&text);
        testkit::assert_golden(format!("tests/golden/check/{name}.txt"), &text);
    }
}
