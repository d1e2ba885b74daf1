//! A folder and everything in it, to be compared with what it was.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What there is to know of each path below a folder; the folder itself is `.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is, with its content.
    pub kind: NodeKind,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Extended attributes, ACLs and labels among them: name and bytes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// What a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// SHA-256 of the content, hex: keys are compared here, never printed.
        sha256: String,
    },
    /// A symbolic link and where it points.
    Link(PathBuf),
    /// A socket, pipe or device.
    Special,
}

/// What a comparison leaves out.
#[derive(Clone, Debug, Default)]
pub struct DiffOptions {
    no_mtimes: bool,
    no_directory_mtimes: bool,
    ignored: Vec<String>,
    contents: Vec<String>,
    mtimes: Vec<String>,
}

impl DiffOptions {
    /// Everything is compared.
    pub fn exact() -> Self {
        Self::default()
    }

    /// Modification times are not compared.
    pub fn without_mtimes(mut self) -> Self {
        self.no_mtimes = true;
        self
    }

    /// Modification times of directories are not compared: replacing a file touches its parent's.
    pub fn without_directory_mtimes(mut self) -> Self {
        self.no_directory_mtimes = true;
        self
    }

    /// `path` (`server/db`) and everything below it are not compared.
    pub fn ignoring(mut self, path: &str) -> Self {
        self.ignored.push(path.to_owned());
        self
    }

    /// The content of the file `path`, and its time, may differ; what it is and its mode may not.
    pub fn content_may_differ(mut self, path: &str) -> Self {
        self.contents.push(path.to_owned());
        self
    }

    /// The time of `path` may differ.
    pub fn mtime_may_differ(mut self, path: &str) -> Self {
        self.mtimes.push(path.to_owned());
        self
    }

    fn ignores(&self, path: &str) -> bool {
        self.ignored
            .iter()
            .any(|ignored| Path::new(path).starts_with(ignored))
    }

    fn compares_content(&self, path: &str) -> bool {
        !self.contents.iter().any(|named| named == path)
    }

    fn compares_mtime(&self, path: &str, node: &Node) -> bool {
        let left_out = self.no_mtimes
            || (self.no_directory_mtimes && node.kind == NodeKind::Directory)
            || self.mtimes.iter().any(|named| named == path);
        !left_out && self.compares_content(path)
    }
}

impl Tree {
    /// Reads `folder` and everything below it, following no link.
    pub fn snapshot(folder: impl AsRef<Path>) -> Self {
        let folder = folder.as_ref();
        let mut nodes = BTreeMap::new();
        let mut open = vec![(".".to_owned(), folder.to_owned())];
        while let Some((name, path)) = open.pop() {
            let node = Node::read(&path)
                .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
            if node.kind == NodeKind::Directory {
                let children = fs::read_dir(&path)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .unwrap_or_else(|error| panic!("cannot list {}: {error}", path.display()));
                for child in children {
                    let file_name = child.file_name().to_string_lossy().into_owned();
                    let below = if name == "." {
                        file_name
                    } else {
                        format!("{name}/{file_name}")
                    };
                    open.push((below, child.path()));
                }
            }
            nodes.insert(name, node);
        }
        Self { nodes }
    }

    /// Every path with its node, in byte order; the folder itself is `.`.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// The node at `path`, relative to the folder.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// The paths of regular files, in byte order.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.nodes()
            .filter(|(_, node)| matches!(node.kind, NodeKind::File { .. }))
            .map(|(path, _)| path)
    }

    /// The tree without `path` and what is below it.
    pub fn without(mut self, path: &str) -> Self {
        self.nodes
            .retain(|name, _| !Path::new(name).starts_with(path));
        self
    }

    /// What differs between two trees, one line each, sorted by path; empty when they are equal.
    ///
    /// `-` is only in `before`, `+` only in `after`, `~` in both.
    pub fn diff(before: &Self, after: &Self, options: &DiffOptions) -> Vec<String> {
        let mut paths: Vec<&str> = before
            .nodes()
            .chain(after.nodes())
            .map(|(p, _)| p)
            .collect();
        paths.sort_unstable();
        paths.dedup();
        let mut lines = Vec::new();
        for path in paths.into_iter().filter(|path| !options.ignores(path)) {
            match (before.get(path), after.get(path)) {
                (Some(old), None) => lines.push(format!("- {path} ({})", old.words())),
                (None, Some(new)) => lines.push(format!("+ {path} ({})", new.words())),
                (Some(old), Some(new)) => {
                    let changes = changes(path, old, new, options);
                    if !changes.is_empty() {
                        lines.push(format!("~ {path}: {}", changes.join("; ")));
                    }
                }
                (None, None) => {}
            }
        }
        lines
    }

    /// Fails the test, listing the differences, unless the trees are equal.
    #[track_caller]
    pub fn assert_equal(before: &Self, after: &Self, options: &DiffOptions) {
        let lines = Self::diff(before, after, options);
        assert!(lines.is_empty(), "the trees differ:\n{}", lines.join("\n"));
    }

    /// The tree as the recordings list one: `type mode size ./path link` for each path, sorted.
    ///
    /// Directories always show 4096 bytes: their size says something of the file system only.
    pub fn listing(&self) -> String {
        let mut lines: Vec<(String, String)> = self
            .nodes()
            .map(|(path, node)| {
                let path = if path == "." {
                    path.to_owned()
                } else {
                    format!("./{path}")
                };
                let (letter, size, link) = match &node.kind {
                    NodeKind::Directory => ('d', 4096, String::new()),
                    NodeKind::File { size, .. } => ('f', *size, String::new()),
                    NodeKind::Link(to) => {
                        ('l', to.as_os_str().len() as u64, to.display().to_string())
                    }
                    NodeKind::Special => ('s', 0, String::new()),
                };
                let line = format!("{letter} {:o} {size} {path} {link}\n", node.mode);
                (path, line)
            })
            .collect();
        lines.sort();
        lines.into_iter().map(|(_, line)| line).collect()
    }
}

impl Node {
    fn read(path: &Path) -> std::io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        let file_type = metadata.file_type();
        let kind = if file_type.is_dir() {
            NodeKind::Directory
        } else if file_type.is_symlink() {
            NodeKind::Link(fs::read_link(path)?)
        } else if file_type.is_file() {
            NodeKind::File {
                size: metadata.size(),
                sha256: crate::sha256(&fs::read(path)?),
            }
        } else {
            NodeKind::Special
        };
        Ok(Self {
            kind,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            xattrs: xattrs(path)?,
        })
    }

    fn words(&self) -> String {
        match &self.kind {
            NodeKind::Directory => format!("directory, {:o}", self.mode),
            NodeKind::File { size, .. } => format!("file, {:o}, {size} bytes", self.mode),
            NodeKind::Link(to) => format!("link to {}", to.display()),
            NodeKind::Special => format!("special, {:o}", self.mode),
        }
    }
}

fn xattrs(path: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        // Some file systems have none.
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut found = BTreeMap::new();
    for name in names {
        if let Some(value) = xattr::get(path, &name)? {
            found.insert(String::from_utf8_lossy(name.as_bytes()).into_owned(), value);
        }
    }
    Ok(found)
}

fn changes(path: &str, old: &Node, new: &Node, options: &DiffOptions) -> Vec<String> {
    let mut changes: Vec<String> = kind_change(path, old, new, options).into_iter().collect();
    if old.mode != new.mode {
        changes.push(format!("mode {:o} -> {:o}", old.mode, new.mode));
    }
    if (old.uid, old.gid) != (new.uid, new.gid) {
        changes.push(format!(
            "owner {}:{} -> {}:{}",
            old.uid, old.gid, new.uid, new.gid
        ));
    }
    if old.mtime != new.mtime && options.compares_mtime(path, new) {
        changes.push(format!(
            "mtime {} -> {}",
            seconds(old.mtime),
            seconds(new.mtime)
        ));
    }
    if old.xattrs != new.xattrs {
        changes.push(format!(
            "attributes {} -> {}",
            names(&old.xattrs),
            names(&new.xattrs)
        ));
    }
    changes
}

fn kind_change(path: &str, old: &Node, new: &Node, options: &DiffOptions) -> Option<String> {
    if old.kind == new.kind {
        return None;
    }
    let (
        NodeKind::File { size, sha256 },
        NodeKind::File {
            size: new_size,
            sha256: new_sha256,
        },
    ) = (&old.kind, &new.kind)
    else {
        return Some(format!("{} -> {}", old.words(), new.words()));
    };
    let (from, to) = (short(sha256), short(new_sha256));
    options
        .compares_content(path)
        .then(|| format!("content {size} bytes {from} -> {new_size} bytes {to}"))
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn seconds((seconds, nanoseconds): (i64, i64)) -> String {
    format!("{seconds}.{nanoseconds:09}")
}

fn names(xattrs: &BTreeMap<String, Vec<u8>>) -> String {
    let mut text = String::from("[");
    for (name, value) in xattrs {
        let separator = if text.len() > 1 { ", " } else { "" };
        // Writing to a String does not fail.
        let _ = write!(text, "{separator}{name}={}", short(&crate::sha256(value)));
    }
    text.push(']');
    text
}
