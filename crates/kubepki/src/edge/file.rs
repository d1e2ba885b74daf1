//! Writing files on this machine so that a crash leaves either the old or the new one.
//!
//! Every function here takes the path as it is: a link at its last component is replaced or
//! removed, never followed. A replacement is made beside its target under [`temporary_beside`]'s
//! name, which is the same for every attempt: what a crash leaves behind, the next attempt (or
//! [`remove_temporary`]) takes away. Callers hold a lock that keeps a second writer out.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use xattr::FileExt as _;

use crate::host::Attributes;

/// Where a replacement for `path` is made: `.<name>.kubepki-tmp` in the same directory.
///
/// `None` when `path` ends in no name (`/`, `..`).
pub fn temporary_beside(path: &Path) -> Option<PathBuf> {
    let mut name = OsString::from(".");
    name.push(path.file_name()?);
    name.push(TEMPORARY);
    Some(path.with_file_name(name))
}

/// Whether `path` has a name that only [`temporary_beside`] gives.
pub fn is_temporary(path: &Path) -> bool {
    let name = path
        .file_name()
        .map(std::ffi::OsStr::to_string_lossy)
        .unwrap_or_default();
    name.starts_with('.') && name.ends_with(TEMPORARY)
}

/// Makes `path` a regular file of `bytes` with `attributes`, atomically and durably.
///
/// The file is born 0600 and empty; owner, ACL, mode and label are in force before the first
/// byte is in it. Where mode and ACL disagree on the group, the mode wins.
///
/// # Errors
///
/// The first system call that failed; `path` is then as it was.
pub fn replace(path: &Path, bytes: &[u8], attributes: &Attributes) -> io::Result<()> {
    via_temporary(path, |temporary| {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(temporary, flags, PRIVATE)?);
        protect(&file, attributes)?;
        file.write_all(bytes)?;
        set_mtime(&file, attributes)?;
        file.sync_all()
    })
}

/// Makes `path` a symbolic link to `target`, atomically and durably. Mode and ACL of
/// `attributes` do not apply to links.
///
/// # Errors
///
/// The first system call that failed; `path` is then as it was.
pub fn replace_link(path: &Path, target: &Path, attributes: &Attributes) -> io::Result<()> {
    via_temporary(path, |temporary| {
        symlink(target, temporary)?;
        if attributes.uid.is_some() || attributes.gid.is_some() {
            let (uid, gid) = owner(attributes);
            rustix::fs::chownat(CWD, temporary, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(label) = &attributes.label {
            xattr::set(temporary, SELINUX, &decoded(label)?)?;
        }
        if let Some(times) = times(attributes) {
            rustix::fs::utimensat(CWD, temporary, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    })
}

/// Makes the directory `path` if it is absent, and gives it `attributes` in any case.
///
/// # Errors
///
/// The first system call that failed. A crash or failure in between can leave a new directory
/// 0700 or an old one with part of its attributes; doing it again mends that.
pub fn make_directory(path: &Path, attributes: &Attributes) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let directory = open_directory(path)?;
    protect(&directory, attributes)?;
    set_mtime(&directory, attributes)?;
    directory.sync_all()?;
    sync_parent(path)
}

/// Removes the file, link or empty directory at `path`, durably. Nothing there is success.
///
/// # Errors
///
/// When it cannot be removed, a directory that is not empty included.
pub fn remove(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if metadata.is_dir() {
        std::fs::remove_dir(path)?
    } else {
        std::fs::remove_file(path)?
    }
    sync_parent(path)
}

/// Removes what a crashed replacement of `path` left beside it, if anything.
///
/// # Errors
///
/// When it is there and cannot be removed.
pub fn remove_temporary(path: &Path) -> io::Result<()> {
    match temporary_beside(path) {
        Some(temporary) => remove(&temporary),
        None => Ok(()),
    }
}

/// Writes `bytes` at the end of `file` and waits until they are on the disk.
///
/// # Errors
///
/// When writing or syncing fails; part of `bytes` may then be in the file.
pub fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_data()
}

/// Waits until the entries of the directory that holds `path` are on the disk.
///
/// # Errors
///
/// When the directory cannot be opened or synced.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // The parent may be a link (K3s's data directory often is); only the last component of
    // `path` itself must not be followed.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    File::from(rustix::fs::open(parent, flags, Mode::empty())?).sync_all()
}

/// The extended attribute of POSIX access ACLs, in the kernel's binary form.
pub(crate) const POSIX_ACL: &str = "system.posix_acl_access";
/// The extended attribute of SELinux labels.
pub(crate) const SELINUX: &str = "security.selinux";

fn via_temporary(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary_beside(path).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path does not end in a file name",
        )
    })?;
    match std::fs::remove_file(&temporary) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let made = make(&temporary).and_then(|()| Ok(rustix::fs::rename(&temporary, path)?));
    if let Err(error) = made {
        // The first error is the one to report; what stays behind has a name that the next
        // attempt looks for.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    sync_parent(path)
}

fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Gives `file` owner, ACL, mode and label, in the order in which none undoes another: a change
/// of owner drops set-id bits, an ACL changes the group bits of the mode.
fn protect(file: &File, attributes: &Attributes) -> io::Result<()> {
    let present = file.metadata()?;
    let other = |wanted: Option<u32>, found: u32| wanted.is_some_and(|wanted| wanted != found);
    if other(attributes.uid, present.uid()) || other(attributes.gid, present.gid()) {
        let (uid, gid) = owner(attributes);
        rustix::fs::fchown(file, uid, gid)?;
    }
    let inherited = read_xattr(file, POSIX_ACL)?;
    match &attributes.acl {
        Some(acl) => {
            let acl = decoded(acl)?;
            if inherited.as_ref() != Some(&acl) {
                file.set_xattr(POSIX_ACL, &acl)?;
            }
        }
        // A directory's default ACL must not open a key file to anybody.
        None if inherited.is_some() => file.remove_xattr(POSIX_ACL)?,
        None => {}
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(attributes.mode & 0o7777))?;
    if let Some(label) = &attributes.label {
        let label = decoded(label)?;
        if read_xattr(file, SELINUX)?.as_ref() != Some(&label) {
            file.set_xattr(SELINUX, &label)?;
        }
    }
    Ok(())
}

/// An extended attribute of an open file; `None` also where the file system has none at all.
fn read_xattr(file: &File, name: &str) -> io::Result<Option<Vec<u8>>> {
    unsupported_is_none(file.get_xattr(name))
}

/// Turns "this file system has no extended attributes" into `None`.
pub(crate) fn unsupported_is_none(
    found: io::Result<Option<Vec<u8>>>,
) -> io::Result<Option<Vec<u8>>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(None),
        found => found,
    }
}

fn set_mtime(file: &File, attributes: &Attributes) -> io::Result<()> {
    if let Some(times) = times(attributes) {
        rustix::fs::futimens(file, &times)?;
    }
    Ok(())
}

fn times(attributes: &Attributes) -> Option<Timestamps> {
    let (tv_sec, nanoseconds) = attributes.mtime?;
    Some(Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec,
            tv_nsec: nanoseconds.into(),
        },
    })
}

fn owner(attributes: &Attributes) -> (Option<Uid>, Option<Gid>) {
    (
        attributes.uid.map(Uid::from_raw),
        attributes.gid.map(Gid::from_raw),
    )
}

fn decoded(base64: &str) -> io::Result<Vec<u8>> {
    STANDARD
        .decode(base64)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

const TEMPORARY: &str = ".kubepki-tmp";
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaces_with_mode_and_time_and_leaves_nothing_beside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        let attributes = Attributes {
            mtime: Some((1_700_000_000, 123_456_789)),
            ..Attributes::new(0o640)
        };
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        // A crash left this; it must neither stop the next attempt nor be written through.
        std::os::unix::fs::symlink("/nowhere", temporary_beside(&path).unwrap()).unwrap();
        replace(&path, b"one", &attributes).unwrap();

        let metadata = std::fs::symlink_metadata(&path).unwrap();
        assert!(metadata.is_file());
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
        assert_eq!(
            (metadata.mtime(), metadata.mtime_nsec()),
            (1_700_000_000, 123_456_789)
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_file_and_nothing_beside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        replace(&path, b"old", &Attributes::new(0o600)).unwrap();
        let broken = Attributes {
            acl: Some("no base64!".to_owned()),
            ..Attributes::new(0o600)
        };
        replace(&path, b"new", &broken).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_default_acl_of_the_directory_does_not_reach_a_file_without_one() {
        let directory = tempfile::tempdir().unwrap();
        // Version 2; user::rwx, user:1000:r--, group::r-x, mask::rwx, other::---.
        let acl = acl_for_user_1000();
        match xattr::set(directory.path(), "system.posix_acl_default", &acl) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return,
            set => set.unwrap(),
        }
        let path = directory.path().join("a.key");
        replace(&path, b"secret", &Attributes::new(0o600)).unwrap();
        assert_eq!(xattr::get(&path, POSIX_ACL).unwrap(), None);

        let kept = Attributes {
            acl: Some(STANDARD.encode(&acl)),
            ..Attributes::new(0o670)
        };
        replace(&path, b"secret", &kept).unwrap();
        assert_eq!(xattr::get(&path, POSIX_ACL).unwrap(), Some(acl));
    }

    fn acl_for_user_1000() -> Vec<u8> {
        let entries: [(u16, u16, u32); 5] = [
            (1, 6, u32::MAX),
            (2, 4, 1000),
            (4, 5, u32::MAX),
            (16, 7, u32::MAX),
            (32, 0, u32::MAX),
        ];
        let mut acl = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            acl.extend(tag.to_le_bytes());
            acl.extend(permissions.to_le_bytes());
            acl.extend(id.to_le_bytes());
        }
        acl
    }

    #[test]
    fn removing_is_repeatable_and_never_takes_a_full_directory() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("d");
        make_directory(&inner, &Attributes::new(0o755)).unwrap();
        make_directory(&inner, &Attributes::new(0o711)).unwrap();
        assert_eq!(
            std::fs::metadata(&inner).unwrap().permissions().mode() & 0o7777,
            0o711
        );
        replace(&inner.join("f"), b"", &Attributes::new(0o600)).unwrap();
        remove(&inner).unwrap_err();
        remove(&inner.join("f")).unwrap();
        remove(&inner).unwrap();
        remove(&inner).unwrap();
        remove(&inner.join("below-nothing")).unwrap();
    }
}
