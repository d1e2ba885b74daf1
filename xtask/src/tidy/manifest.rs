//! What Cargo.toml, Cargo.lock and deny.toml promise each other.

use super::{File, Problem, Repository};

pub(crate) fn check(repository: &Repository) -> Vec<Problem> {
    let mut problems: Vec<Problem> = repository.files.iter().filter_map(lints).collect();
    if let (Some(lock), Some(deny)) = (repository.get("Cargo.lock"), repository.get("deny.toml")) {
        problems.extend(banned(&repository.crates, deny));
        problems.extend(sources(lock, deny));
    }
    problems
}

/// Every crate opts into the workspace's lints: one that forgets is not held to any.
fn lints(file: &File) -> Option<Problem> {
    if !file.path.ends_with("/Cargo.toml") {
        return None;
    }
    let opted = section(&file.text, "[lints]").any(|(_, line)| line.trim() == "workspace = true");
    let message = "add `[lints]` with `workspace = true`".to_owned();
    (!opted).then(|| file.problem(1, "workspace-lints", message))
}

/// No crate of `[bans]` is built.
///
/// Cargo.lock alone would accuse too many: it also names what an optional feature that nobody
/// turns on would bring (rustls's `ring`).
fn banned(crates: &[String], deny: &File) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, line) in section(&deny.text, "[bans]") {
        let Some(name) = value(line, "name") else {
            continue;
        };
        if crates.iter().any(|built| built == name) {
            let reason = value(line, "reason").unwrap_or("not allowed");
            let message =
                format!("{name} is built: {reason}; `cargo tree -i {name}` names who brings it");
            problems.push(deny.problem(index + 1, "banned-crate", message));
        }
    }
    problems
}

/// Every locked crate comes from a registry that `[sources]` allows.
fn sources(lock: &File, deny: &File) -> Vec<Problem> {
    let allowed: Vec<&str> = section(&deny.text, "[sources]")
        .filter(|(_, line)| line.starts_with("allow-registry"))
        .flat_map(|(_, line)| line.split('"').skip(1).step_by(2))
        .collect();
    let mut problems = Vec::new();
    for (index, line) in lock.text.lines().enumerate() {
        let Some(source) = line
            .strip_prefix("source = ")
            .map(|text| text.trim_matches('"'))
        else {
            continue;
        };
        let known = source
            .strip_prefix("registry+")
            .is_some_and(|url| allowed.contains(&url));
        if !known {
            let message = format!("{source} is not among the registries of deny.toml");
            problems.push(lock.problem(index + 1, "source", message));
        }
    }
    problems
}

/// The lines of a TOML table, with their index.
fn section<'a>(text: &'a str, header: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    text.lines()
        .enumerate()
        .skip_while(move |(_, line)| line.trim() != header)
        .skip(1)
        .take_while(|(_, line)| !line.starts_with('['))
}

/// The text of `key = "…"` in an inline table.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!("{key} = \""))?;
    rest.split_once('"').map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{assert_breaks, repository};

    #[test]
    fn a_crate_without_the_workspace_lints_is_found() {
        for text in ["[package]\n", "[lints]\n[dependencies]\nworkspace = true\n"] {
            assert_breaks("crates/a/Cargo.toml", text, 1, "workspace-lints");
        }
    }

    #[test]
    fn a_banned_crate_is_found() {
        let mut repository = repository(&[]);
        repository.crates.push("spring".to_owned());
        assert_eq!(check(&repository), []);
        repository.crates.push("ring".to_owned());
        let found = check(&repository);
        let [problem] = found.as_slice() else {
            panic!("{found:#?}")
        };
        assert_eq!((problem.path.as_str(), problem.line), ("deny.toml", 3));
        assert_eq!(problem.rule, "banned-crate");
        assert!(problem.message.contains("one is enough"), "{problem}");
        assert!(problem.message.contains("cargo tree -i ring"), "{problem}");
    }

    #[test]
    fn a_foreign_source_is_found() {
        for source in [
            "git+https://example.org/x",
            "registry+https://example.org/index",
        ] {
            let lock = format!("[[package]]\nname = \"x\"\nsource = \"{source}\"\n");
            assert_breaks("Cargo.lock", &lock, 3, "source");
        }
    }

    #[test]
    fn our_own_bans_are_read() {
        let deny = File::new("deny.toml", include_str!("../../../deny.toml"));
        for name in ["ring", "openssl-sys", "native-tls", "serde_yml", "rcgen"] {
            assert_eq!(banned(&[name.to_owned()], &deny).len(), 1, "{name}");
        }
    }
}
