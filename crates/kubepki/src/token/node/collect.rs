//! Finding the files: configuration, units, drop-ins, environment files, token files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use super::rooted::{Resolved, Rooted};
use crate::host::{Entry, EntryKind, Host, HostError};
use crate::k3s::{Unit, environment_file};
use crate::yaml::{Content, Document};

/// A file of a node in which a token may stand.
#[derive(Clone, Debug)]
pub struct NodeFile {
    /// Its place on the host, free of links below the root.
    pub path: PathBuf,
    /// The same as the node sees it.
    pub shown: PathBuf,
    /// It, as it is.
    pub entry: Entry,
    /// What it is to K3s.
    pub kind: FileKind,
}

/// What a file is to K3s, which decides how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// `config.yaml` and what lies in `config.yaml.d`.
    Yaml,
    /// A unit, drop-in, environment file or script.
    Words,
    /// A token and nothing else.
    Token,
}

/// A file that could not be used, and what it may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeProblem {
    /// As the node sees it.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for NodeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problem)
    }
}

/// Everything in which a node may keep a token.
#[derive(Debug, Default)]
pub struct NodeFiles {
    /// The files, by path.
    pub files: Vec<NodeFile>,
    /// What could not be looked at.
    pub problems: Vec<NodeProblem>,
}

/// Where systemd looks for units.
const UNITS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// K3s's configuration unless told otherwise.
const CONFIG: &str = "/etc/rancher/k3s/config.yaml";
/// Where the installer puts things on systems without systemd.
const OTHERS: [&str; 5] = [
    "/etc/init.d/k3s",
    "/etc/init.d/k3s-agent",
    "/etc/rancher/k3s/k3s.env",
    "/etc/conf.d/k3s",
    "/etc/conf.d/k3s-agent",
];

impl NodeFiles {
    /// Looks through the node whose file system begins at `root` (`/` for this machine), at the
    /// configuration file `config` if it is given, and at `more` files, all named as the node
    /// sees them. Links are resolved below the root.
    ///
    /// # Errors
    ///
    /// When a directory cannot be listed. A file that cannot be read is an entry of
    /// [`Self::problems`].
    pub async fn collect(
        host: &dyn Host,
        root: &Path,
        config: Option<&Path>,
        more: &[PathBuf],
    ) -> Result<Self, HostError> {
        let mut collector = Collector {
            rooted: Rooted { host, root },
            found: BTreeMap::new(),
            problems: Vec::new(),
            configs: [Some(Path::new(CONFIG)), config]
                .into_iter()
                .flatten()
                .map(Path::to_owned)
                .collect(),
            tokens: BTreeSet::new(),
        };
        collector.units().await?;
        for path in OTHERS {
            collector.words(Path::new(path), "k3s").await;
        }
        for path in std::mem::take(&mut collector.configs) {
            collector.config(&path).await?;
        }
        for path in std::mem::take(&mut collector.tokens) {
            collector.add(&path, FileKind::Token).await;
        }
        for path in more {
            let yaml = path
                .extension()
                .is_some_and(|it| it == "yaml" || it == "yml");
            let kind = if yaml {
                FileKind::Yaml
            } else {
                FileKind::Words
            };
            if collector.add(path, kind).await.is_none() {
                collector.problem(path, "there is no such file".to_owned());
            }
        }
        Ok(Self {
            files: collector.found.into_values().collect(),
            problems: collector.problems,
        })
    }
}

struct Collector<'a> {
    rooted: Rooted<'a>,
    /// By place on the host.
    found: BTreeMap<PathBuf, NodeFile>,
    problems: Vec<NodeProblem>,
    configs: BTreeSet<PathBuf>,
    tokens: BTreeSet<PathBuf>,
}

impl Collector<'_> {
    /// Units and drop-ins that are K3s's by name, and what they name.
    async fn units(&mut self) -> Result<(), HostError> {
        for folder in UNITS.map(Path::new) {
            for name in self.rooted.list(folder).await? {
                let path = folder.join(&name);
                if !name.starts_with("k3s") {
                    continue;
                }
                if let Some(unit) = name.strip_suffix(".service") {
                    self.words(&path, unit).await;
                } else if name.ends_with(".env") {
                    self.words(&path, "k3s").await;
                } else if let Some(unit) = name.strip_suffix(".service.d") {
                    for drop_in in self.rooted.list(&path).await? {
                        if drop_in.ends_with(".conf") {
                            self.words(&path.join(drop_in), unit).await;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// A unit, drop-in or environment file, and the files that it names.
    async fn words(&mut self, path: &Path, unit: &str) {
        let mut waiting = vec![path.to_owned()];
        let mut seen = BTreeSet::new();
        while let Some(path) = waiting.pop() {
            if !seen.insert(path.clone()) {
                continue;
            }
            let Some(text) = self.add(&path, FileKind::Words).await else {
                continue;
            };
            let parsed = Unit::parse(unit, [text.as_str()]);
            waiting.extend(
                parsed
                    .environment_files
                    .iter()
                    .map(|(path, _)| path.clone()),
            );
            let arguments = parsed.arguments().map_or(&[][..], |(_, it)| it);
            self.names_in_arguments(arguments);
            let pairs = parsed.environment.iter().cloned();
            for (name, value) in pairs.chain(environment_file(&text)) {
                self.name(&name, &value);
            }
        }
    }

    fn names_in_arguments(&mut self, arguments: &[String]) {
        for (index, argument) in arguments.iter().enumerate() {
            let (flag, value) = match argument.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (
                    argument.as_str(),
                    arguments.get(index + 1).map(String::as_str),
                ),
            };
            if let Some(value) = value {
                self.name(flag, value);
            }
        }
    }

    /// A setting that names a file.
    fn name(&mut self, setting: &str, value: &str) {
        let path = Path::new(value);
        if !path.is_absolute() {
            return;
        }
        match setting {
            "--config" | "-c" | "config" | "K3S_CONFIG_FILE" => {
                self.configs.insert(path.to_owned());
            }
            "--token-file"
            | "--agent-token-file"
            | "token-file"
            | "agent-token-file"
            | "K3S_TOKEN_FILE"
            | "K3S_AGENT_TOKEN_FILE" => {
                self.tokens.insert(path.to_owned());
            }
            _ => {}
        }
    }

    /// A configuration file, those of its `.d` directory, and the token files that they name.
    async fn config(&mut self, path: &Path) -> Result<(), HostError> {
        let mut folder = path.as_os_str().to_owned();
        folder.push(".d");
        let folder = PathBuf::from(folder);
        let mut paths = vec![path.to_owned()];
        for name in self.rooted.list(&folder).await? {
            let lower = name.to_ascii_lowercase();
            if lower.ends_with(".yaml") || lower.ends_with(".yml") {
                paths.push(folder.join(name));
            }
        }
        for path in paths {
            if let Some(text) = self.add(&path, FileKind::Yaml).await {
                self.settings(&path, &text);
            }
        }
        Ok(())
    }

    fn settings(&mut self, path: &Path, text: &str) {
        let document = match Document::parse(text.as_bytes()) {
            Ok(document) => document,
            Err(error) if error.detail == "empty" => return,
            Err(error) => {
                let problem = format!("line {}: {}", error.line, error.detail);
                return self.problem(path, problem);
            }
        };
        let Content::Map(pairs) = &document.root.content else {
            return;
        };
        for (key, value) in pairs {
            let Some(name) = key.text() else { continue };
            let Some(text) = document.resolve(value).text() else {
                continue;
            };
            self.name(name.trim_end_matches('+'), text);
            // A token that is folded over lines or written with escapes is one to K3s only.
            let is_token = matches!(name, "token" | "agent-token");
            let whole = document.text.contains(text);
            if is_token && !whole {
                let problem = format!(
                    "line {}: {name} is written with escapes or on several \
                                       lines; write it on one",
                    value.line
                );
                self.problem(path, problem);
            }
        }
    }

    /// Takes a file up, and answers its text. Absent files are none.
    async fn add(&mut self, path: &Path, kind: FileKind) -> Option<zeroize::Zeroizing<String>> {
        let Resolved { path: real, entry } = match self.rooted.find(path).await {
            Ok(found) => found?,
            Err(error) => {
                self.problem(path, crate::error_chain(&error));
                return None;
            }
        };
        let EntryKind::File(bytes) = &entry.kind else {
            self.problem(path, "it is no file".to_owned());
            return None;
        };
        let text = String::from_utf8_lossy(bytes).into_owned().into();
        let shown = real.strip_prefix(self.rooted.root).unwrap_or(&real);
        let file = NodeFile {
            shown: Path::new("/").join(shown),
            path: real.clone(),
            entry,
            kind,
        };
        self.found.entry(real).or_insert(file);
        Some(text)
    }

    fn problem(&mut self, path: &Path, problem: String) {
        let path = path.to_owned();
        let found = NodeProblem { path, problem };
        if !self.problems.contains(&found) {
            self.problems.push(found);
        }
    }
}
