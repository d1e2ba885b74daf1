//! Where files live and commands run: this machine, later one reached over SSH or Docker.
//!
//! A [`Host`] moves bytes and says what it found. It knows nothing of certificates, plans or
//! journals, and decides nothing.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error_chain;

mod local;

pub use local::LocalHost;

/// A machine: five verbs, all required.
#[async_trait]
pub trait Host: Send + Sync + fmt::Debug {
    /// What is at `path`, without following a link at its last component; `None` if nothing.
    async fn read(&self, path: &Path) -> Result<Option<Entry>, HostError>;

    /// Makes `path` hold exactly `entry`, atomically: temporary file beside it, attributes,
    /// fsync, rename, fsync of the directory. A directory is made if absent and given the
    /// attributes. The parent directory must exist.
    async fn put(&self, path: &Path, entry: &Entry) -> Result<(), HostError>;

    /// Removes the file, link or empty directory at `path`, and fsyncs its parent. Nothing there
    /// is success: the step may have been done before a crash.
    async fn remove(&self, path: &Path) -> Result<(), HostError>;

    /// Names in the directory `path`, sorted bytewise; `None` if there is no such directory.
    async fn list(&self, path: &Path) -> Result<Option<Vec<String>>, HostError>;

    /// Runs `argv` without a shell and waits. Secrets never go into `argv`.
    async fn run(&self, argv: &[String], timeout: Duration) -> Result<Output, HostError>;
}

/// Something in a file system, whole: what it is, its content, its attributes.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// File, directory or link, with the content.
    pub kind: EntryKind,
    /// Mode, owner, time and labels.
    pub attributes: Attributes,
}

/// The three kinds of entry that a cluster's PKI consists of.
#[derive(Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file's bytes. They may hold a key, so they are wiped after use.
    File(Zeroizing<Vec<u8>>),
    /// A directory; what lies in it is not part of the entry.
    Directory,
    /// A symbolic link and where it points.
    Link(PathBuf),
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            EntryKind::File(bytes) => format!("file of {} bytes", bytes.len()),
            EntryKind::Directory => "directory".to_owned(),
            EntryKind::Link(to) => format!("link to {}", to.display()),
        };
        f.debug_struct("Entry")
            .field("kind", &kind)
            .field("attributes", &self.attributes)
            .finish()
    }
}

impl Entry {
    /// A file's bytes; `None` for anything else.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.kind {
            EntryKind::File(bytes) => Some(bytes),
            EntryKind::Directory | EntryKind::Link(_) => None,
        }
    }
}

/// What a replacement has to keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Permission bits, `0o7777` at most. Links have none of their own: `0o777`.
    pub mode: u32,
    /// Owner's user id; `None` when putting means "whoever this process is".
    pub uid: Option<u32>,
    /// Owner's group id.
    pub gid: Option<u32>,
    /// Modification time as (seconds, nanoseconds); `None` when putting means "now".
    pub mtime: Option<(i64, u32)>,
    /// POSIX ACL as the kernel stores it (`system.posix_acl_access`), base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<String>,
    /// SELinux label (`security.selinux`), base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

impl Attributes {
    /// The attributes of a new entry with `mode`, owned by this process, modified now.
    pub fn new(mode: u32) -> Self {
        Self {
            mode,
            uid: None,
            gid: None,
            mtime: None,
            acl: None,
            label: None,
        }
    }
}

/// Whether `path` is a directory, or a link to one. What lies in it is nobody's business: a name
/// that is not UTF-8 cannot be listed.
///
/// # Errors
///
/// When it cannot be looked at, or is something else.
pub async fn is_directory(host: &dyn Host, path: &Path) -> Result<bool, HostError> {
    match host.read(path).await?.map(|entry| entry.kind) {
        Some(EntryKind::Directory) => Ok(true),
        None => Ok(false),
        Some(EntryKind::Link(_) | EntryKind::File(_)) => Ok(host.list(path).await?.is_some()),
    }
}

/// Where links at the last component of `path` lead, and what is there; `None` if nothing, as at
/// the end of a link to a file that is yet to be made.
///
/// # Errors
///
/// When something on the way cannot be read, or the links lead in a circle.
pub async fn followed(
    host: &dyn Host,
    mut path: PathBuf,
) -> Result<(PathBuf, Option<Entry>), HostError> {
    for _ in 0..LINKS {
        let entry = host.read(&path).await?;
        let Some(EntryKind::Link(target)) = entry.as_ref().map(|entry| &entry.kind) else {
            return Ok((path, entry));
        };
        let mut next = path.parent().map(Path::to_owned).unwrap_or_default();
        for part in target.components() {
            match part {
                Component::CurDir => {}
                // Above a link is not above where it leads.
                Component::ParentDir if is_plain_directory(host, &next).await? => {
                    next.pop();
                }
                part => next.push(part),
            }
        }
        path = next;
    }
    Err(HostError::File {
        action: "read",
        path,
        source: rustix::io::Errno::LOOP.into(),
    })
}

async fn is_plain_directory(host: &dyn Host, path: &Path) -> Result<bool, HostError> {
    let entry = host.read(path).await?;
    Ok(entry.is_some_and(|entry| entry.kind == EntryKind::Directory))
}

/// How many links are followed, as many as Linux follows.
const LINKS: usize = 40;

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it complained of.
    pub stderr: Vec<u8>,
}

/// A host could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: "read", "write", "remove", "list".
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Neither file, directory nor link.
    #[error("{} is a socket, pipe or device, not a file", path.display())]
    Special {
        /// Where.
        path: PathBuf,
    },
    /// A file larger than anything this tool should read into memory.
    #[error("{} has {size} bytes; files over {limit} bytes are not read", path.display())]
    TooLarge {
        /// Where.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A command could not be started.
    #[error("cannot run {program}")]
    Run {
        /// The program's name.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another machine does not answer.
    #[error("{host} cannot be reached")]
    Unreachable {
        /// Its name.
        host: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another machine answers, and could not do what it was asked.
    #[error("{host}: {message}")]
    Remote {
        /// Its name.
        host: String,
        /// What was asked, what it said, and what to do.
        message: String,
        /// The client library's own error.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A command ran past its time.
    #[error("{program} did not end within {seconds} s and was stopped")]
    Timeout {
        /// The program's name.
        program: String,
        /// The limit.
        seconds: u64,
    },
}

impl HostError {
    /// The same with all reasons, for a text that names the machine already.
    pub fn reason(&self) -> String {
        match self {
            Self::Unreachable { source, .. } => error_chain(&**source),
            Self::Remote {
                message,
                source: Some(source),
                ..
            } => format!("{message}: {}", error_chain(&**source)),
            Self::Remote { message, .. } => message.clone(),
            other => error_chain(other),
        }
    }
}
