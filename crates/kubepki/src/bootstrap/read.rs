//! The bootstrap data as it lies in a directory: a server's own, or a staged set.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{Bundle, Field, SharedFile, Stamp};
use crate::host::{EntryKind, Host, HostError};

/// A file that cannot be taken into the bootstrap data.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A directory, or a link, whose target K3s would read.
    #[error("{} is {what}: put the file itself", path.display())]
    NotAFile {
        /// Where.
        path: PathBuf,
        /// "a directory", "a link to …".
        what: String,
    },
    /// Something else than a directory where `tls` or `cred` should be.
    #[error("{} is {what}, not a directory: move it away", path.display())]
    NotADirectory {
        /// Where.
        path: PathBuf,
        /// "a file", "a link to nothing".
        what: String,
    },
    /// It cannot be read.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Reads the files of the bootstrap data under `directory`, which holds `tls/` and, if it is a
/// server's, `cred/`. Missing files are left out; times are modification times.
///
/// # Errors
///
/// [`ReadError`] for the first path that holds something else than a readable file.
pub async fn read_directory(host: &dyn Host, directory: &Path) -> Result<Bundle, ReadError> {
    let mut bundle = Bundle::default();
    for field in Field::ALL {
        let path = field.under(directory);
        let Some(entry) = host.read(&path).await? else {
            continue;
        };
        let (seconds, nanoseconds) = entry.attributes.mtime.unwrap_or_default();
        let content = content(path, entry.kind)?;
        let stamp = Stamp {
            seconds,
            nanoseconds,
        };
        bundle.files.insert(field, SharedFile { stamp, content });
    }
    Ok(bundle)
}

/// A file's bytes.
pub(super) fn content(path: PathBuf, kind: EntryKind) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let what = match kind {
        EntryKind::File(bytes) => return Ok(bytes),
        EntryKind::Directory => "a directory".to_owned(),
        EntryKind::Link(to) => format!("a link to {}", to.display()),
    };
    Err(ReadError::NotAFile { path, what })
}
