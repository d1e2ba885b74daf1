//! Words that must not stand in the repository, each with its reason.

use super::{File, Problem, Repository};

/// GLOSSARY.md's wrong words that have no right use in our documentation and messages.
const WRONG: &[(&str, &str)] = &[
    (
        "thumbprint",
        "say fingerprint: the SHA-256 of the whole DER",
    ),
    ("alt names", "say SANs"),
    ("ca cert file", "say trust bundle: it may hold several"),
    ("cert bundle", "say chain, or trust bundle"),
    (
        "expiring soon",
        "say due: a fact about now and the renewal window",
    ),
    ("expiry date", "say notAfter"),
    ("ext usage", "say purpose, or extended key usage"),
    (
        "generate a certificate",
        "keys are generated, certificates issued",
    ),
    (
        "generate certificates",
        "keys are generated, certificates issued",
    ),
    (
        "generates certificates",
        "keys are generated, certificates issued",
    ),
    ("renew the ca", "a CA is rotated"),
    ("renew a ca", "a CA is rotated"),
    ("renews the ca", "a CA is rotated"),
    ("regenerate the certificate", "say reissue, or renew"),
];

/// A line with this word in a comment quotes somebody else's text.
const QUOTED: &str = "tidy: quoted";

/// Rows of the catalogue, in a file or the folder of that name: a distribution is data.
const ROWS: &[&str] = &["crates/kubepki/src/catalogue/k3s"];

pub(crate) fn check(repository: &Repository) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in &repository.files {
        problems.extend(unfinished(file));
        problems.extend(machine_paths(file, &repository.checkout));
    }
    for (file, lexed) in repository.rust() {
        problems.extend(wrong_words(file, &lexed.prose));
        problems.extend(code_words(file, &lexed.code));
    }
    problems
}

/// Marks of work that was put off. What is not done is not there, or is an issue.
fn unfinished(file: &File) -> Vec<Problem> {
    // Joined here, so that this file does not break its own rule.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("HA", "CK"),
    ];
    let mut problems = Vec::new();
    // An archive's base64 or a lock file's checksum may spell anything.
    if file.path.ends_with(".lock") {
        return problems;
    }
    for (number, line) in numbered(&file.text) {
        for mark in marks.iter().filter(|mark| has_word(line, mark)) {
            let message = format!("{mark}: do it, or open an issue");
            problems.push(file.problem(number, "unfinished", message));
        }
    }
    problems
}

/// Folders of one machine: nobody else has them.
fn machine_paths(file: &File, checkout: &str) -> Vec<Problem> {
    let folders = [
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
        concat!("/wo", "rk/"),
        concat!("/work", "space/"),
        concat!("/bui", "lds/"),
    ];
    let mut problems = Vec::new();
    for (number, line) in numbered(&file.text) {
        let foreign = folders.iter().any(|folder| starts_path(line, folder));
        if foreign || line.contains(checkout) {
            let message = "a path of one machine".to_owned();
            problems.push(file.problem(number, "machine-path", message));
        }
    }
    problems
}

/// Whether an absolute path in `line` starts with `folder`.
fn starts_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || "._-/}~>".contains(c))
    })
}

fn wrong_words(file: &File, prose: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !file.path.starts_with("crates/") || !file.path.contains("/src/") {
        return problems;
    }
    let mut quoted_above = false;
    for ((number, line), (_, source)) in numbered(prose).zip(numbered(&file.text)) {
        let quoted = source.contains(QUOTED);
        let lower = line.to_lowercase();
        for (wrong, instead) in WRONG {
            if has_word(&lower, wrong) && !quoted && !quoted_above {
                let message = format!("\"{wrong}\": {instead}");
                problems.push(file.problem(number, "glossary", message));
            }
        }
        quoted_above = quoted;
    }
    problems
}

fn code_words(file: &File, code: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (number, line) in numbered(code) {
        if line.contains("#[ignore") {
            let message = "a test that nobody runs proves nothing".to_owned();
            problems.push(file.problem(number, "ignored-test", message));
        }
        if is_rows(&file.path) && has_word(line, "fn") {
            let message = "rows only: code belongs beside the columns".to_owned();
            problems.push(file.problem(number, "catalogue-rows", message));
        }
    }
    problems
}

fn is_rows(path: &str) -> bool {
    ROWS.iter()
        .filter_map(|rows| path.strip_prefix(rows))
        .any(|rest| rest == ".rs" || rest.starts_with('/'))
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

/// Whether `word` stands in `line` and is not a part of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line
            .get(at + word.len()..)
            .and_then(|text| text.chars().next());
        !part(before) && !part(after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{assert_breaks, problems_with};

    const LIB: &str = "crates/a/src/lib.rs";

    #[test]
    fn every_wrong_word_is_found_in_documentation_and_strings() {
        for (wrong, _) in WRONG {
            assert_breaks(
                LIB,
                &format!("//! x\n\n/// The {wrong}.\nfn a() {{}}\n"),
                3,
                "glossary",
            );
            assert_breaks(
                LIB,
                &format!("//! x\nconst A: &str = \"{wrong}!\";\n"),
                2,
                "glossary",
            );
            let upper = wrong.to_uppercase();
            assert_breaks(LIB, &format!("//! The {upper}\n"), 1, "glossary");
        }
    }

    #[test]
    fn code_notes_quotations_and_longer_words_are_left_alone() {
        for text in [
            "//! x\n// the thumbprint\n",
            "//! x\nfn thumbprint() {}\n",
            "//! Thumbprints.\n",
            "//! x\n// tidy: quoted from K3s\nconst A: &str = \"expiry date\";\n",
            "//! x\nconst A: &str = \"expiry date\"; // tidy: quoted from K3s\n",
        ] {
            assert_eq!(problems_with(LIB, text), [], "{text}");
        }
        assert_eq!(problems_with("GLOSSARY.md", "not thumbprint\n"), []);
    }

    #[test]
    fn marks_of_unfinished_work_are_found_everywhere() {
        for mark in ["TO-DO", "FIX-ME", "XX-X", "HA-CK"].map(|mark| mark.replace('-', "")) {
            assert_breaks(LIB, &format!("//! x\n// {mark}: later\n"), 2, "unfinished");
            assert_breaks("docs/x.md", &format!("{mark}\n"), 1, "unfinished");
        }
        assert_eq!(
            problems_with(LIB, &"//! XX-XL and hack\n".replace('-', "")),
            []
        );
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        let path = format!("see {}me/ann/kubepki\n", "/ho");
        assert_breaks("docs/x.md", &path, 1, "machine-path");
        assert_breaks("docs/x.md", "cd /srv/checkout/crates\n", 1, "machine-path");
        assert_eq!(
            problems_with("docs/x.md", &format!("$HOME{}me/x a/home/b\n", "/ho")),
            []
        );
    }

    #[test]
    fn ignored_tests_are_found() {
        assert_breaks(
            LIB,
            "//! x\n#[test]\n#[ignore]\nfn a() {}\n",
            3,
            "ignored-test",
        );
        assert_breaks(
            LIB,
            "//! x\n#[ignore = \"slow\"]\nfn a() {}\n",
            2,
            "ignored-test",
        );
        assert_eq!(problems_with(LIB, "//! `#[ignore]`\n"), []);
    }

    #[test]
    fn code_among_rows_is_found() {
        let rows = "crates/kubepki/src/catalogue/k3s.rs";
        let found = problems_with(
            rows,
            "//! Rows.\npub static ROWS: &[u8] = &[];\nfn a() {}\n",
        );
        assert!(
            found
                .iter()
                .any(|p| p.rule == "catalogue-rows" && p.line == 3),
            "{found:?}"
        );
        let clean = problems_with(rows, "//! No fn here.\npub static ROWS: &[u8] = &[];\n");
        assert!(
            clean.iter().all(|p| p.rule != "catalogue-rows"),
            "{clean:?}"
        );
    }
}
