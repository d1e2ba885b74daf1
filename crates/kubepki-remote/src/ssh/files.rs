//! A host's files over SFTP, its commands over SSH.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kubepki::edge::file;
use kubepki::host::{Attributes, Entry, EntryKind, Host, HostError, Output};
use russh_sftp::protocol::{FileAttributes, FileType};
use tokio::sync::Mutex;

use super::sftp::Sftp;
use super::{Session, SshError};

/// Files larger than this many bytes are not read: [`LocalHost`](kubepki::host::LocalHost)'s limit.
const READ_LIMIT: u64 = 16 * 1024 * 1024;

/// A host as the user who logs in sees it: what he may not read or write, this cannot.
///
/// It does what [`Host`] promises with the means of SFTP version 3 and OpenSSH's extensions, and
/// these fall short of the local file system:
/// - there are no ACLs and no SELinux labels. What is read has none in its attributes, what is to
///   be put with one is refused, and a file that is replaced loses an ACL of its own (new files
///   get the label that the policy gives to their directory);
/// - times are whole seconds from 1970 to 2106. Nanoseconds are cut off, and setting a
///   modification time sets the access time too;
/// - a path is looked at first and opened then: somebody who may write in the directory could put
///   a link in between;
/// - the server's buffers, and the library's, are not wiped of the keys that went through them.
pub struct SftpHost {
    session: Session,
    /// Opened anew after the channel was lost; a broken connection stays broken.
    channel: Mutex<Option<Arc<Sftp>>>,
}

impl fmt::Debug for SftpHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SftpHost").field(&self.session).finish()
    }
}

impl SftpHost {
    pub(super) async fn open(session: Session) -> Result<Self, SshError> {
        let channel = Arc::new(Sftp::open(&session).await?);
        Ok(Self {
            session,
            channel: Mutex::new(Some(channel)),
        })
    }

    /// The connection that the files come through.
    pub fn session(&self) -> &Session {
        &self.session
    }

    async fn sftp(&self) -> io::Result<Arc<Sftp>> {
        let mut channel = self.channel.lock().await;
        if let Some(error) = self.session.broken_now() {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, error));
        }
        if let Some(open) = &*channel {
            return Ok(open.clone());
        }
        let opened = Sftp::open(&self.session).await;
        let opened = Arc::new(opened.map_err(io::Error::other)?);
        *channel = Some(opened.clone());
        Ok(opened)
    }

    /// The error of an operation, with the reason where the connection broke. The channel is given
    /// up where it cannot be trusted to answer the next request.
    async fn failed(&self, action: &'static str, path: &Path, error: io::Error) -> HostError {
        use io::ErrorKind::{ConnectionReset, TimedOut};

        let mut source = error;
        if matches!(source.kind(), ConnectionReset | TimedOut) {
            *self.channel.lock().await = None;
        }
        if source.kind() == ConnectionReset
            && let Some(broken) = self.session.broken_soon().await
        {
            source = io::Error::new(ConnectionReset, broken);
        }
        HostError::File {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

#[async_trait]
impl Host for SftpHost {
    async fn read(&self, path: &Path) -> Result<Option<Entry>, HostError> {
        let read = async {
            let sftp = self.sftp().await?;
            read(&sftp, path).await
        };
        match read.await {
            Ok(Found::Nothing) => Ok(None),
            Ok(Found::Entry(entry)) => Ok(Some(entry)),
            Ok(Found::Special) => Err(HostError::Special {
                path: path.to_owned(),
            }),
            Ok(Found::TooLarge(size)) => Err(HostError::TooLarge {
                path: path.to_owned(),
                size,
                limit: READ_LIMIT,
            }),
            Err(error) => Err(self.failed("read", path, error).await),
        }
    }

    async fn put(&self, path: &Path, entry: &Entry) -> Result<(), HostError> {
        let put = async {
            let sftp = self.sftp().await?;
            put(&sftp, path, entry).await
        };
        match put.await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed("write", path, error).await),
        }
    }

    async fn remove(&self, path: &Path) -> Result<(), HostError> {
        let removed = async {
            let sftp = self.sftp().await?;
            remove(&sftp, path).await
        };
        match removed.await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed("remove", path, error).await),
        }
    }

    async fn list(&self, path: &Path) -> Result<Option<Vec<String>>, HostError> {
        let list = async {
            let sftp = self.sftp().await?;
            let mut names = sftp.list(text(path)?).await?;
            if let Some(names) = &mut names {
                names.sort_unstable();
            }
            Ok(names)
        };
        match list.await {
            Ok(names) => Ok(names),
            Err(error) => Err(self.failed("list", path, error).await),
        }
    }

    async fn run(&self, argv: &[String], timeout: Duration) -> Result<Output, HostError> {
        let output = self.session.exec(argv, b"", timeout).await;
        output.map_err(|error| match error {
            SshError::ExecTimedOut {
                program, seconds, ..
            } => HostError::Timeout { program, seconds },
            error => HostError::Run {
                program: argv.first().cloned().unwrap_or_default(),
                source: io::Error::other(error),
            },
        })
    }
}

enum Found {
    Nothing,
    Entry(Entry),
    Special,
    TooLarge(u64),
}

async fn read(sftp: &Sftp, path: &Path) -> io::Result<Found> {
    let name = text(path)?;
    let Some(found) = sftp.stat(name).await? else {
        return Ok(Found::Nothing);
    };
    let entry = |kind, found: &FileAttributes| {
        Ok(Found::Entry(Entry {
            kind,
            attributes: attributes(found)?,
        }))
    };
    match found.file_type() {
        FileType::Symlink => {
            let target = PathBuf::from(sftp.read_link(name).await?);
            entry(EntryKind::Link(target), &found)
        }
        FileType::Dir => entry(EntryKind::Directory, &found),
        FileType::File if found.len() > READ_LIMIT => Ok(Found::TooLarge(found.len())),
        FileType::File => match sftp.read(name, READ_LIMIT).await? {
            (found, Some(bytes)) => entry(EntryKind::File(bytes), &found),
            (found, None) if found.is_regular() => Ok(Found::TooLarge(found.len())),
            (_, None) => Ok(Found::Special),
        },
        FileType::Other => Ok(Found::Special),
    }
}

fn attributes(found: &FileAttributes) -> io::Result<Attributes> {
    let missing = || io::Error::other("the host's SFTP does not tell mode and owner");
    let mode = found.permissions.ok_or_else(missing)?;
    let link = found.file_type() == FileType::Symlink;
    Ok(Attributes {
        mode: if link { 0o777 } else { mode & 0o7777 },
        uid: Some(found.uid.ok_or_else(missing)?),
        gid: Some(found.gid.ok_or_else(missing)?),
        mtime: found.mtime.map(|seconds| (i64::from(seconds), 0)),
        acl: None,
        label: None,
    })
}

async fn put(sftp: &Sftp, path: &Path, entry: &Entry) -> io::Result<()> {
    let name = text(path)?;
    let wanted = wanted(&entry.attributes)?;
    let folder = text(path.parent().unwrap_or(Path::new("/")))?;
    let done = match &entry.kind {
        EntryKind::Directory => put_directory(sftp, name, &wanted).await,
        EntryKind::File(_) | EntryKind::Link(_) => replace(sftp, path, entry, &wanted).await,
    };
    if let Err(error) = done {
        // "Failure" is all that SFTP says of a full disk.
        if error.kind() == io::ErrorKind::Other && sftp.is_full(folder).await {
            let text = format!("no space left on the file system of {folder}");
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        return Err(error);
    }
    sftp.sync_directory(folder).await
}

async fn put_directory(sftp: &Sftp, name: &str, wanted: &FileAttributes) -> io::Result<()> {
    match sftp.stat(name).await? {
        None => sftp.make_directory(name).await?,
        Some(found) if found.is_dir() => {}
        Some(_) => {
            let text = "something that is no directory is there";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
    }
    sftp.set(name, wanted).await
}

/// The replacement is made beside its target, under the name that every attempt uses: what a crash
/// leaves behind, the next one takes away.
async fn replace(
    sftp: &Sftp,
    path: &Path,
    entry: &Entry,
    wanted: &FileAttributes,
) -> io::Result<()> {
    let name = text(path)?;
    let beside = file::temporary_beside(path)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path ends in no name"))?;
    let beside = text(&beside)?;
    match sftp.remove(beside).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let made = async {
        match &entry.kind {
            EntryKind::File(bytes) => sftp.create(beside, bytes, wanted).await?,
            EntryKind::Link(target) => sftp.link(beside, text_of(target)?, wanted).await?,
            EntryKind::Directory => {}
        }
        sftp.rename(beside, name).await
    };
    let made = made.await;
    if made.is_err() {
        // The reason is what counts; the next attempt removes it if this one cannot.
        let _ = sftp.remove(beside).await;
    }
    made
}

async fn remove(sftp: &Sftp, path: &Path) -> io::Result<()> {
    let name = text(path)?;
    let Some(found) = sftp.stat(name).await? else {
        return Ok(());
    };
    if found.is_dir() {
        sftp.remove_directory(name).await.map_err(|error| {
            if error.kind() != io::ErrorKind::Other {
                return error;
            }
            io::Error::new(
                io::ErrorKind::DirectoryNotEmpty,
                "the directory is not empty",
            )
        })?;
    } else {
        sftp.remove(name).await?;
    }
    sftp.sync_directory(text(path.parent().unwrap_or(Path::new("/")))?)
        .await
}

fn wanted(attributes: &Attributes) -> io::Result<FileAttributes> {
    let unsupported = |text: &str| io::Error::new(io::ErrorKind::Unsupported, text.to_owned());
    if attributes.acl.is_some() {
        return Err(unsupported("an ACL cannot be set over SFTP"));
    }
    if attributes.label.is_some() {
        return Err(unsupported("an SELinux label cannot be set over SFTP"));
    }
    let mtime = match attributes.mtime {
        None => None,
        Some((seconds, _)) => Some(
            u32::try_from(seconds)
                .map_err(|_| unsupported("SFTP has no times before 1970 or after 2106"))?,
        ),
    };
    Ok(FileAttributes {
        permissions: Some(attributes.mode & 0o7777),
        uid: attributes.uid,
        gid: attributes.gid,
        mtime,
        ..FileAttributes::empty()
    })
}

/// A path as SFTP sends it. One that is not absolute would start at the user's home.
fn text(path: &Path) -> io::Result<&str> {
    if !path.is_absolute() {
        let text = "the path is not absolute";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    text_of(path)
}

fn text_of(path: &Path) -> io::Result<&str> {
    path.to_str()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8"))
}
