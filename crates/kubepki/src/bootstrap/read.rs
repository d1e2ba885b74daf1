//! The bootstrap data as it lies in a directory: a server's own, or a staged set.

use std::path::{Path, PathBuf};

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
        let not_a_file = |what| ReadError::NotAFile {
            path: path.clone(),
            what,
        };
        let content = match entry.kind {
            EntryKind::File(bytes) => bytes,
            EntryKind::Directory => return Err(not_a_file("a directory".to_owned())),
            EntryKind::Link(to) => return Err(not_a_file(format!("a link to {}", to.display()))),
        };
        let (seconds, nanoseconds) = entry.attributes.mtime.unwrap_or_default();
        let stamp = Stamp {
            seconds,
            nanoseconds,
        };
        bundle.files.insert(field, SharedFile { stamp, content });
    }
    Ok(bundle)
}
