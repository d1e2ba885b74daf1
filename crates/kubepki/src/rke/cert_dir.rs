//! The directory of requests, certificates and keys that an operator exchanges with a CA.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::names;
use crate::host::{Attributes, Entry, EntryKind, Host, HostError};

/// What lies in it: every file whose name holds `.pem`, links followed. Nothing else is looked at.
#[derive(Clone)]
pub struct CertDir {
    /// Where it is, as messages show it: `./cluster_certs`.
    pub path: PathBuf,
    /// Whether it is there at all; RKE takes a missing one for an empty one.
    pub exists: bool,
    files: BTreeMap<String, DirFile>,
}

/// One of its files.
#[derive(Clone)]
pub struct DirFile {
    /// What is in it. It may be a key.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Permission bits.
    pub mode: u32,
    /// Where it lies, links followed.
    pub path: PathBuf,
}

/// A new file for it.
#[derive(Clone)]
pub struct NewFile {
    /// Its name.
    pub name: String,
    /// What will be in it.
    pub bytes: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for CertDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertDir({}, {:?})", self.path.display(), self.files)
    }
}

impl fmt::Debug for DirFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {:04o}", self.bytes.len(), self.mode)
    }
}

impl fmt::Debug for NewFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewFile({}, {} bytes)", self.name, self.bytes.len())
    }
}

/// Why it cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CertDirError {
    /// A file operation failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Something of that name is not what it should be.
    #[error("{} {problem}", path.display())]
    Place {
        /// What.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
}

impl CertDir {
    /// Reads the directory `path`; `shown` is how messages call it.
    ///
    /// # Errors
    ///
    /// When it is no directory, or a `.pem` in it is no file or cannot be read.
    pub async fn read(host: &dyn Host, path: &Path, shown: &Path) -> Result<Self, CertDirError> {
        let mut directory = Self {
            path: shown.to_owned(),
            exists: false,
            files: BTreeMap::new(),
        };
        let names = match host.read(path).await?.map(|entry| entry.kind) {
            None => return Ok(directory),
            Some(EntryKind::File(_)) => {
                return Err(place(shown, "is not a directory; name another one"));
            }
            Some(EntryKind::Directory | EntryKind::Link(_)) => host.list(path).await?,
        };
        let Some(names) = names else {
            return Err(place(shown, "leads to no directory; name another one"));
        };
        directory.exists = true;
        for name in names.into_iter().filter(|name| name.contains(".pem")) {
            let Some(file) = read_file(host, &path.join(&name), &shown.join(&name)).await? else {
                continue;
            };
            directory.files.insert(name, file);
        }
        Ok(directory)
    }

    /// The file called `name`; an empty one counts as none, as RKE has it.
    pub fn file(&self, name: &str) -> Option<&DirFile> {
        self.files.get(name).filter(|file| !file.bytes.is_empty())
    }

    /// The names of all files, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Whether the key of `entry` can be read by others than its owner.
    pub fn key_is_open(&self, entry: &str) -> Option<u32> {
        let file = self.file(&names::key_file(entry))?;
        (file.mode & 0o077 != 0).then_some(file.mode)
    }
}

/// The file at `path`, links followed; `None` if there is none any more.
async fn read_file(
    host: &dyn Host,
    path: &Path,
    shown: &Path,
) -> Result<Option<DirFile>, CertDirError> {
    const LINKS: usize = 8;
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let Some(entry) = host.read(&path).await? else {
            return match path.ends_with(shown.file_name().unwrap_or_default()) {
                true => Ok(None),
                false => Err(place(shown, "is a link to nothing; remove or mend it")),
            };
        };
        match entry.kind {
            EntryKind::File(bytes) => {
                let mode = entry.attributes.mode;
                return Ok(Some(DirFile { bytes, mode, path }));
            }
            EntryKind::Directory => {
                return Err(place(shown, "is a directory; move it out of the way"));
            }
            EntryKind::Link(to) => path = path.parent().unwrap_or(Path::new("/")).join(to),
        }
    }
    Err(place(shown, "is a link in a circle; remove or mend it"))
}

/// Writes `files` into the directory `path`, each atomically and 0600. The directory is made if
/// it is missing, 0700 (RKE: 0755, files 0640, keys, too).
///
/// # Errors
///
/// The first that cannot be written; those before it are.
pub async fn write(host: &dyn Host, path: &Path, files: &[NewFile]) -> Result<(), HostError> {
    if files.is_empty() {
        return Ok(());
    }
    let mut missing = Vec::new();
    for directory in path.ancestors() {
        if directory.as_os_str().is_empty() || host.list(directory).await?.is_some() {
            break;
        }
        missing.push(directory);
    }
    for directory in missing.into_iter().rev() {
        let entry = Entry {
            kind: EntryKind::Directory,
            attributes: Attributes::new(0o700),
        };
        host.put(directory, &entry).await?;
    }
    for file in files {
        let entry = Entry {
            kind: EntryKind::File(file.bytes.clone()),
            attributes: Attributes::new(0o600),
        };
        host.put(&path.join(&file.name), &entry).await?;
    }
    Ok(())
}

fn place(path: &Path, problem: &'static str) -> CertDirError {
    CertDirError::Place {
        path: path.to_owned(),
        problem,
    }
}
