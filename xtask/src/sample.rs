//! Small repositories for the tests of the rules.

use crate::tidy::{File, Problem, Repository, problems};

/// A repository that breaks no rule, with `changes` (path, text) on top.
pub(crate) fn repository(changes: &[(&str, &str)]) -> Repository {
    let clean = [
        ("README.md", "# x\n"),
        (
            "Cargo.lock",
            "[[package]]\nname = \"serde\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n",
        ),
        (
            "deny.toml",
            "[bans]\ndeny = [\n    { name = \"ring\", reason = \"one is enough\" },\n]\n[sources]\nallow-registry = [\"https://github.com/rust-lang/crates.io-index\"]\n",
        ),
        (
            "crates/a/Cargo.toml",
            "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n",
        ),
        ("crates/a/src/lib.rs", "//! A crate.\n"),
    ];
    let mut files: Vec<File> = clean
        .iter()
        .filter(|(path, _)| changes.iter().all(|(changed, _)| changed != path))
        .chain(changes)
        .map(|(path, text)| File::new(path, text))
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Repository {
        files,
        crates: vec!["serde".to_owned()],
        checkout: "/srv/checkout".to_owned(),
    }
}

/// The problems of a repository with one file changed or added.
pub(crate) fn problems_with(path: &str, text: &str) -> Vec<Problem> {
    problems(&repository(&[(path, text)]))
}

/// Fails unless the one problem of the repository with that file is of `rule` at `line`.
#[track_caller]
pub(crate) fn assert_breaks(path: &str, text: &str, line: usize, rule: &str) {
    let found = problems_with(path, text);
    let short: Vec<_> = found
        .iter()
        .map(|p| (p.path.as_str(), p.line, p.rule))
        .collect();
    assert_eq!(short, [(path, line, rule)], "{found:#?}");
}

#[test]
fn the_sample_is_clean() {
    assert_eq!(problems(&repository(&[])), []);
}
