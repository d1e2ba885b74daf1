//! Every Rust file is compiled: rustc does not mention a file that nobody names.

use std::collections::BTreeSet;

use super::{Problem, Repository};

pub(crate) fn check(repository: &Repository) -> Vec<Problem> {
    let paths: BTreeSet<&str> = repository
        .rust()
        .map(|(file, _)| file.path.as_str())
        .collect();
    let mut reached: BTreeSet<String> = paths
        .iter()
        .filter(|path| is_root(path))
        .map(|path| (*path).to_owned())
        .collect();
    let mut open: Vec<String> = reached.iter().cloned().collect();
    while let Some(path) = open.pop() {
        let Some(file) = repository.get(&path) else {
            continue;
        };
        let code = file.rust.as_ref().map_or("", |lexed| lexed.code.as_str());
        for candidate in named_files(&path, code, &file.text) {
            if paths.contains(candidate.as_str()) && reached.insert(candidate.clone()) {
                open.push(candidate);
            }
        }
    }
    repository
        .rust()
        .filter(|(file, _)| !reached.contains(&file.path))
        .map(|(file, _)| {
            let message = "no `mod` names this file: it is never compiled".to_owned();
            file.problem(1, "unreferenced", message)
        })
        .collect()
}

/// Whether cargo compiles the file by itself.
fn is_root(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let last = folder.rsplit('/').next().unwrap_or_default();
    match name {
        "build.rs" => true,
        "lib.rs" => last == "src",
        // `src/main.rs`, and `src/bin/x/main.rs` and its like.
        "main.rs" => last == "src" || in_targets(folder.rsplit_once('/').map_or("", |p| p.0)),
        _ => in_targets(folder),
    }
}

/// Whether each file directly in `folder` is a target of its own.
fn in_targets(folder: &str) -> bool {
    let mut parts = folder.rsplit('/');
    match parts.next() {
        Some("tests" | "benches" | "examples") => !folder.contains("/src/"),
        Some("bin") => parts.next() == Some("src"),
        _ => false,
    }
}

/// Where the modules that the file at `path` declares may lie.
fn named_files(path: &str, code: &str, text: &str) -> Vec<String> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let below = match name.strip_suffix(".rs").unwrap_or(name) {
        "mod" => folder.to_owned(),
        _ if is_root(path) => folder.to_owned(),
        stem => format!("{folder}/{stem}"),
    };
    let mut files = Vec::new();
    for (code, text) in code.lines().zip(text.lines()) {
        if let Some(module) = declared(code) {
            files.push(format!("{below}/{module}.rs"));
            files.push(format!("{below}/{module}/mod.rs"));
        }
        // The value of `#[path = "…"]` is a string, so the code has it no more.
        if code.contains("#[path") {
            files.extend(
                text.split('"')
                    .nth(1)
                    .map(|named| below_or_beside(folder, named)),
            );
        }
    }
    files
}

/// A path counted from `folder`, which may lead out of it.
fn below_or_beside(folder: &str, named: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').collect();
    for part in named.split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The name in `mod name;`, whatever stands before it.
fn declared(line: &str) -> Option<&str> {
    let (before, rest) = line.trim().split_once("mod ")?;
    let visible = before.is_empty() || before.ends_with([' ', ']']);
    let name = rest.trim().strip_suffix(';')?.trim();
    visible.then_some(name.strip_prefix("r#").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use crate::sample::{assert_breaks, problems_with, repository};
    use crate::tidy::problems;

    #[test]
    fn a_file_that_nobody_names_is_found() {
        assert_breaks("crates/a/src/lost.rs", "//! x\n", 1, "unreferenced");
        assert_breaks(
            "crates/a/tests/common/lost.rs",
            "//! x\n",
            1,
            "unreferenced",
        );
    }

    #[test]
    fn modules_are_followed() {
        let clean = repository(&[
            (
                "crates/a/src/lib.rs",
                "//! x\npub mod b;\n#[cfg(test)]\nmod c;\npub(crate) mod g;\n",
            ),
            ("crates/a/src/b.rs", "//! x\nmod d;\n"),
            ("crates/a/src/b/d.rs", "//! x\n"),
            (
                "crates/a/src/c/mod.rs",
                "//! x\nmod e;\n#[path = \"other.rs\"]\nmod f;\n",
            ),
            ("crates/a/src/c/e.rs", "//! x\n"),
            ("crates/a/src/c/other.rs", "//! x\n"),
            ("crates/a/src/g.rs", "//! x\n"),
            ("crates/a/src/bin/tool.rs", "//! x\n"),
            ("crates/a/tests/suite.rs", "//! x\nmod common;\n"),
            ("crates/a/tests/common/mod.rs", "//! x\n"),
            (
                "crates/a/tests/large/main.rs",
                "//! x\nmod part;\n#[path = \"../common/shared.rs\"]\nmod shared;\n",
            ),
            ("crates/a/tests/common/shared.rs", "//! x\n"),
            ("crates/a/tests/large/part.rs", "//! x\n"),
            ("crates/a/build.rs", "//! x\n"),
        ]);
        assert_eq!(problems(&clean), []);
    }

    #[test]
    fn words_in_comments_declare_nothing() {
        let found = problems(&repository(&[
            ("crates/a/src/lib.rs", "//! x\n// mod b;\n"),
            ("crates/a/src/b.rs", "//! x\n"),
        ]));
        assert_eq!(found.len(), 1);
        assert_eq!(problems_with("crates/a/src/lib.rs", "//! x\n"), []);
    }
}
