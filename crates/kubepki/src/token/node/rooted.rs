//! Paths below a root directory, their links resolved as if the root were `/`.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use crate::host::{Entry, EntryKind, Host, HostError};

/// How many links a path may go through: the kernel's number.
const LINKS: usize = 40;

/// A directory that holds a node's file system. No link leads out of it: an absolute one begins
/// at it, and `..` ends at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rooted<'a> {
    pub(super) host: &'a dyn Host,
    pub(super) root: &'a Path,
}

/// Something found below a root.
pub(super) struct Resolved {
    /// Its place on the host, free of links below the root.
    pub(super) path: PathBuf,
    pub(super) entry: Entry,
}

impl Rooted<'_> {
    /// What `path` leads to; `None` if there is nothing, or its links go in circles.
    pub(super) async fn find(&self, path: &Path) -> Result<Option<Resolved>, HostError> {
        let mut real: Vec<OsString> = Vec::new();
        let mut left: VecDeque<OsString> = names(path).into();
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                real.pop();
                continue;
            }
            let mut below: PathBuf = real.iter().collect();
            below.push(&name);
            let Some(entry) = self.host.read(&self.root.join(&below)).await? else {
                return Ok(None);
            };
            match entry.kind {
                EntryKind::Link(target) => {
                    let target = own_token(&name, target);
                    links += 1;
                    if links > LINKS {
                        return Ok(None);
                    }
                    if target.is_absolute() {
                        real.clear();
                    }
                    for name in names(&target).into_iter().rev() {
                        left.push_front(name);
                    }
                }
                _ if left.is_empty() => {
                    let path = self.root.join(below);
                    return Ok(Some(Resolved { path, entry }));
                }
                EntryKind::File(_) => return Ok(None),
                EntryKind::Directory => real.push(name),
            }
        }
        Ok(None)
    }

    /// The names in a directory below the root; none where there is no directory.
    pub(super) async fn list(&self, path: &Path) -> Result<Vec<String>, HostError> {
        match self.find(path).await? {
            Some(Resolved { path, entry }) if entry.kind == EntryKind::Directory => {
                Ok(self.host.list(&path).await?.unwrap_or_default())
            }
            _ => Ok(Vec::new()),
        }
    }
}

/// K3s's links to `token` mean the file beside them; in a copied tree they lead to the live one.
fn own_token(name: &OsString, target: PathBuf) -> PathBuf {
    let of_k3s = name == "node-token" || name == "agent-token";
    match of_k3s && target.ends_with("server/token") {
        true => PathBuf::from("token"),
        false => target,
    }
}

/// The names that a path consists of, `..` among them.
fn names(path: &Path) -> Vec<OsString> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}
