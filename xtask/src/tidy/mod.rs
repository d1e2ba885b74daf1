//! The rules of the house that no compiler knows.
//!
//! Each rule is a pure function from the repository's texts to problems. A rule that cries wolf is
//! worse than none: words are matched whole, and only where they are meant for readers.

mod lexer;
mod manifest;
mod modules;
mod size;
mod words;

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use lexer::Lexed;

/// The texts of a repository.
#[derive(Debug)]
pub(crate) struct Repository {
    /// Every text file, sorted by path.
    pub(crate) files: Vec<File>,
    /// Names of all crates that are built for this machine, with every feature of ours.
    pub(crate) crates: Vec<String>,
    /// Absolute path of this checkout, which must not be written down anywhere.
    pub(crate) checkout: String,
}

/// One file.
#[derive(Debug)]
pub(crate) struct File {
    /// Relative to the repository, with `/`.
    pub(crate) path: String,
    /// Its content.
    pub(crate) text: String,
    /// The same, taken apart, if it is Rust.
    pub(crate) rust: Option<Lexed>,
}

/// Something that has to be mended.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    /// Where.
    pub(crate) path: String,
    /// Line, from 1.
    pub(crate) line: usize,
    /// Which rule.
    pub(crate) rule: &'static str,
    /// What is wrong and what to do.
    pub(crate) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            rule,
            message,
        } = self;
        write!(f, "{path}:{line}: {rule}: {message}")
    }
}

/// All problems, sorted by path and line.
pub(crate) fn problems(repository: &Repository) -> Vec<Problem> {
    let rules = [size::check, words::check, modules::check, manifest::check];
    let mut problems: Vec<Problem> = rules.iter().flat_map(|rule| rule(repository)).collect();
    problems.sort();
    problems
}

impl File {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let rust = path.ends_with(".rs").then(|| Lexed::new(text));
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            rust,
        }
    }

    /// A problem in this file.
    fn problem(&self, line: usize, rule: &'static str, message: String) -> Problem {
        Problem {
            path: self.path.clone(),
            line,
            rule,
            message,
        }
    }
}

impl Repository {
    /// Reads every text file below `root` that could be committed.
    pub(crate) fn read(root: &Path) -> io::Result<Self> {
        let root = root.canonicalize()?;
        let mut files = Vec::new();
        let mut open = vec![root.clone()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let file_type = entry.file_type()?;
                if file_type.is_dir() {
                    // Build output and git's own are nobody's text.
                    let ours = name != ".git" && (name != "target" || folder != root);
                    if ours {
                        open.push(entry.path());
                    }
                } else if file_type.is_file() {
                    let path = entry.path();
                    let relative = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy();
                    // In a second worktree `.git` is a file that names this machine's folders.
                    if let (Ok(text), false) = (fs::read_to_string(&path), name == ".git") {
                        files.push(File::new(&relative, &text));
                    }
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let crates = crates(&root)?;
        Ok(Self {
            files,
            crates,
            checkout: root.to_string_lossy().into_owned(),
        })
    }

    fn get(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Rust files with their lexed text.
    fn rust(&self) -> impl Iterator<Item = (&File, &Lexed)> {
        self.files
            .iter()
            .filter_map(|file| Some((file, file.rust.as_ref()?)))
    }
}

/// Asks cargo what it builds.
#[expect(
    clippy::disallowed_methods,
    reason = "cargo alone knows which features are on"
)]
fn crates(root: &Path) -> io::Result<Vec<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root)
        .args([
            "tree",
            "--quiet",
            "--workspace",
            "--locked",
            "--all-features",
        ])
        .args([
            "--edges",
            "normal,build,dev",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(format!("cargo tree: {said}")));
    }
    let tree = String::from_utf8_lossy(&output.stdout);
    let mut names: Vec<String> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}
