//! Making a directory of files so that a crash leaves all of it or nothing.

use std::io;
use std::path::Path;

use rustix::fs::Mode;

use super::file::{remove, sync_parent, temporary_beside};

/// Makes `path` a directory, 0700, with what `fill` puts into it. `path` must be absent or an
/// empty directory; its parent must exist.
///
/// Everything is made in [`temporary_beside`] and gets its name at the end, so `path` never holds
/// a part. What a crash leaves under the temporary name is removed by the next attempt.
///
/// # Errors
///
/// The first system call that failed, or what `fill` says; `path` is then as it was.
/// [`io::ErrorKind::DirectoryNotEmpty`] when something lies in `path`.
pub fn publish(path: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary_beside(path).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path does not end in a name",
        )
    })?;
    remove_tree(&temporary, DEPTH)?;
    // Not made twice: a directory that somebody else put there is not ours to fill with keys.
    rustix::fs::mkdir(&temporary, Mode::RWXU)?;
    let made = fill(&temporary).and_then(|()| {
        // An empty directory at `path` is replaced, one with content is not.
        rustix::fs::rename(&temporary, path).map_err(io::Error::from)
    });
    if let Err(error) = made {
        // The first error is the one to report.
        let _ = remove_tree(&temporary, DEPTH);
        return Err(error);
    }
    sync_parent(path)
}

/// Removes `path` and what is in it, without following links. Nothing there is success.
fn remove_tree(path: &Path, depth: usize) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if metadata.is_dir() && depth > 0 {
        for entry in std::fs::read_dir(path)? {
            remove_tree(&entry?.path(), depth - 1)?;
        }
    }
    remove(path)
}

/// Deeper than anything that is ever made here.
const DEPTH: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::file::{make_directory, replace};
    use crate::host::Attributes;

    #[test]
    fn all_or_nothing() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("out");
        let fill = |directory: &Path| {
            make_directory(&directory.join("tls"), &Attributes::new(0o700))?;
            replace(&directory.join("tls/a"), b"a", &Attributes::new(0o600))
        };
        publish(&path, |directory| {
            fill(directory)?;
            Err(io::Error::other("disk on fire"))
        })
        .unwrap_err();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        // A crash left this behind.
        let stale = temporary_beside(&path).unwrap();
        std::fs::create_dir(&stale).unwrap();
        fill(&stale).unwrap();
        publish(&path, fill).unwrap();
        assert_eq!(std::fs::read(path.join("tls/a")).unwrap(), b"a");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
        let again = publish(&path, fill).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::DirectoryNotEmpty);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_empty_directory_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("out");
        std::fs::create_dir(&path).unwrap();
        publish(&path, |_| Ok(())).unwrap();
        assert!(path.is_dir());
    }
}
