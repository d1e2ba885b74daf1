//! The bootstrap data's files as they lie under a server directory, with what a plan has to know
//! of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Bundle, Field, ReadError, SharedFile, Stamp};
use crate::host::{EntryKind, Host};
use crate::plan::Fingerprint;

/// How a directory stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directory {
    /// There is none.
    Missing,
    /// Nothing lies in it.
    Empty,
    /// Something lies in it.
    Filled,
}

/// A server directory, looked at.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The directory that holds `tls/` and `cred/`.
    pub server: PathBuf,
    /// The files.
    pub bundle: Bundle,
    /// Each file's kind, digest and attributes.
    pub fingerprints: BTreeMap<Field, Fingerprint>,
    /// It and the directories below it that files of the data lie in, outer ones first.
    pub directories: Vec<(PathBuf, Directory)>,
    /// Directories that are links, and where each leads. K3s follows them.
    pub links: Vec<(PathBuf, PathBuf)>,
}

/// The directories of which K3s wants none missing or empty (reference section 4.6, rule 1).
const NEEDED: [&str; 3] = ["cred", "tls", "tls/etcd"];

impl Disk {
    /// Looks at `server`, which may not exist.
    ///
    /// # Errors
    ///
    /// [`ReadError`] for the first path that holds something else than a readable file.
    pub async fn look(host: &dyn Host, server: &Path) -> Result<Self, ReadError> {
        let mut disk = Self {
            server: server.to_owned(),
            bundle: Bundle::default(),
            fingerprints: BTreeMap::new(),
            directories: Vec::new(),
            links: Vec::new(),
        };
        for below in ["", "cred", "tls", "tls/etcd"] {
            let path = match below {
                "" => server.to_owned(),
                below => server.join(below),
            };
            disk.look_into(host, path).await?;
        }
        for field in Field::ALL {
            let path = field.under(server);
            let Some(entry) = host.read(&path).await? else {
                continue;
            };
            let (seconds, nanoseconds) = entry.attributes.mtime.unwrap_or_default();
            let fingerprint = Fingerprint::of(&entry);
            let content = super::read::content(path, entry.kind)?;
            let stamp = Stamp {
                seconds,
                nanoseconds,
            };
            disk.fingerprints.insert(field, fingerprint);
            let file = SharedFile { stamp, content };
            disk.bundle.files.insert(field, file);
        }
        Ok(disk)
    }

    async fn look_into(&mut self, host: &dyn Host, path: PathBuf) -> Result<(), ReadError> {
        match host.read(&path).await?.map(|entry| entry.kind) {
            Some(EntryKind::Link(to)) => self.links.push((path.clone(), to)),
            Some(EntryKind::File(_)) => {
                let what = "a file".to_owned();
                return Err(ReadError::NotADirectory { path, what });
            }
            Some(EntryKind::Directory) | None => {}
        }
        let found = match host.list(&path).await? {
            None if self.links.last().is_some_and(|(link, _)| *link == path) => {
                let what = "a link to nothing".to_owned();
                return Err(ReadError::NotADirectory { path, what });
            }
            None => Directory::Missing,
            Some(names) if names.is_empty() => Directory::Empty,
            Some(_) => Directory::Filled,
        };
        self.directories.push((path, found));
        Ok(())
    }

    /// The directories for whose sake K3s writes everything out without comparing: missing or
    /// empty ones.
    pub fn wiped(&self) -> Vec<&Path> {
        let needed = |path: &Path| NEEDED.iter().any(|below| path == self.server.join(below));
        self.directories
            .iter()
            .filter(|(path, found)| needed(path) && *found != Directory::Filled)
            .map(|(path, _)| path.as_path())
            .collect()
    }

    /// Whether nothing at all is there: no directory, or an empty one.
    pub fn is_blank(&self) -> bool {
        self.directories
            .first()
            .is_some_and(|(_, found)| *found != Directory::Filled)
    }
}
