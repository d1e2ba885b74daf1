//! SFTP version 3 with OpenSSH's extensions, as far as files are replaced with it.

use std::collections::HashMap;
use std::io;

use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use russh::ChannelMsg;
use russh_sftp::client::error::Error;
use russh_sftp::client::{Config, RawSftpSession};
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet, StatusCode};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Session, SshError};

const RENAME: &str = "posix-rename@openssh.com";
const FSYNC: &str = "fsync@openssh.com";
const SET_LINK: &str = "lsetstat@openssh.com";
const FILE_SYSTEM: &str = "statvfs@openssh.com";

/// Bytes in one request. Every server takes 32 KiB.
const PIECE: usize = 32 * 1024;
/// Requests on the way at once.
const AT_ONCE: usize = 16;

/// A channel with the host's file service at its end.
pub(super) struct Sftp {
    raw: RawSftpSession,
    extensions: HashMap<String, String>,
}

impl Sftp {
    pub(super) async fn open(session: &Session) -> Result<Self, SshError> {
        let failed = |reason: String| SshError::Sftp {
            host: session.host().to_owned(),
            reason,
        };
        let mut channel = session.channel().await?;
        let asked = session.bounded("asking for SFTP", async {
            channel.request_subsystem(true, "sftp").await?;
            loop {
                match channel.wait().await {
                    Some(ChannelMsg::Success) => return Ok(true),
                    Some(ChannelMsg::Failure) => return Ok(false),
                    Some(_) => {}
                    None => return Err(russh::Error::Disconnect),
                }
            }
        });
        match asked.await? {
            Ok(true) => {}
            Ok(false) => {
                let text = "sshd refused it; its sshd_config needs `Subsystem sftp internal-sftp`";
                return Err(failed(text.to_owned()));
            }
            Err(error) => return Err(session.broken(&error).await),
        }
        let raw = RawSftpSession::new_with_config(
            channel.into_stream(),
            Config {
                request_timeout_secs: session.timeouts().request.as_secs().max(1),
                ..Config::default()
            },
        );
        let version = raw.init().await.map_err(|error| {
            let error = said(error);
            failed(format!(
                "the server does not answer: {error}; a login script that prints does that"
            ))
        })?;
        let extensions = version.extensions;
        for needed in [RENAME, FSYNC] {
            if !extensions.contains_key(needed) {
                return Err(failed(format!(
                    "the server lacks {needed}, without which files cannot be replaced safely; \
                     OpenSSH has it since 6.5"
                )));
            }
        }
        Ok(Self { raw, extensions })
    }

    /// What is at `path`, a link as a link; `None` if nothing.
    pub(super) async fn stat(&self, path: &str) -> io::Result<Option<FileAttributes>> {
        match self.raw.lstat(path).await {
            Ok(found) => Ok(Some(found.attrs)),
            Err(error) => none_if_missing(error),
        }
    }

    pub(super) async fn read_link(&self, path: &str) -> io::Result<String> {
        let name = self.raw.readlink(path).await.map_err(said)?;
        match name.files.into_iter().next() {
            Some(file) => utf8(file.filename),
            None => Err(io::Error::other("the server sent no target for the link")),
        }
    }

    /// A regular file's bytes and attributes; `None` for the bytes of one over `limit`, or of
    /// something that is no regular file any more.
    pub(super) async fn read(
        &self,
        path: &str,
        limit: u64,
    ) -> io::Result<(FileAttributes, Option<Zeroizing<Vec<u8>>>)> {
        let none = FileAttributes::empty();
        let opened = self.raw.open(path, OpenFlags::READ, none).await;
        let handle = opened.map_err(said)?.handle;
        let content = self.read_all(&handle, limit).await;
        let closed = self.raw.close(&handle).await.map_err(said);
        let content = content?;
        closed?;
        Ok(content)
    }

    async fn read_all(
        &self,
        handle: &str,
        limit: u64,
    ) -> io::Result<(FileAttributes, Option<Zeroizing<Vec<u8>>>)> {
        let mut attributes = self.raw.fstat(handle).await.map_err(said)?.attrs;
        let size = attributes.len();
        if !attributes.is_regular() || size > limit {
            return Ok((attributes, None));
        }
        // One buffer that never moves: a copy of a key would stay behind.
        let size = usize::try_from(size).unwrap_or(0);
        let mut bytes = Zeroizing::new(Vec::with_capacity(size.saturating_add(PIECE)));
        let offsets = (0..size).step_by(PIECE);
        let reads: Vec<_> = offsets
            .map(|offset| {
                let length = PIECE.min(size.saturating_sub(offset));
                self.read_piece(handle, offset, length).boxed()
            })
            .collect();
        let mut reads = stream::iter(reads).buffered(AT_ONCE);
        while let Some(piece) = reads.try_next().await? {
            bytes.extend_from_slice(&piece);
        }
        drop(reads);
        // It may have grown, or shrunk.
        loop {
            let piece = self.read_piece(handle, bytes.len(), PIECE).await?;
            if piece.is_empty() {
                break;
            }
            if bytes.len().saturating_add(piece.len()) > bytes.capacity() {
                let mut larger = Zeroizing::new(Vec::with_capacity(bytes.capacity() * 2 + PIECE));
                larger.extend_from_slice(&bytes);
                bytes = larger;
            }
            bytes.extend_from_slice(&piece);
            attributes.size = Some(bytes.len() as u64);
            if bytes.len() as u64 > limit {
                return Ok((attributes, None));
            }
        }
        Ok((attributes, Some(bytes)))
    }

    /// `length` bytes from `offset` on, fewer only at the file's end.
    async fn read_piece(
        &self,
        handle: &str,
        offset: usize,
        length: usize,
    ) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut piece = Zeroizing::new(Vec::with_capacity(length));
        while piece.len() < length {
            let from = offset.saturating_add(piece.len()) as u64;
            let want = u32::try_from(length - piece.len()).unwrap_or(u32::MAX);
            match self.raw.read(handle, from, want).await {
                Ok(mut data) if data.data.len() <= want as usize => {
                    piece.extend_from_slice(&data.data);
                    data.data.zeroize();
                }
                Ok(_) => return Err(io::Error::other("the server sent more than was asked for")),
                Err(Error::Status(status)) if status.status_code == StatusCode::Eof => break,
                Err(error) => return Err(said(error)),
            }
        }
        Ok(piece)
    }

    /// Makes the file `path`, which must not exist, of `bytes` with `attributes`, on the disk when
    /// this returns. It is born 0600 and empty.
    pub(super) async fn create(
        &self,
        path: &str,
        bytes: &[u8],
        attributes: &FileAttributes,
    ) -> io::Result<()> {
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        let private = mode(0o600);
        let opened = self.raw.open(path, flags, private).await;
        let handle = opened.map_err(said)?.handle;
        let filled = self.fill(&handle, bytes, attributes).await;
        let closed = self.raw.close(&handle).await.map_err(said);
        filled?;
        closed?;
        Ok(())
    }

    async fn fill(
        &self,
        handle: &str,
        bytes: &[u8],
        attributes: &FileAttributes,
    ) -> io::Result<()> {
        // Nobody may read it who may not read it in the end: owner and mode before the first byte.
        // A change of owner drops set-id bits, so it goes first.
        let now = self.raw.fstat(handle).await.map_err(said)?.attrs;
        if let Some(owner) = owner(attributes, &now) {
            self.raw.fsetstat(handle, owner).await.map_err(said)?;
        }
        let only_mode = FileAttributes {
            permissions: attributes.permissions,
            ..FileAttributes::empty()
        };
        self.raw.fsetstat(handle, only_mode).await.map_err(said)?;
        let pieces = bytes.chunks(PIECE).enumerate();
        let writes: Vec<_> = pieces
            .map(|(index, piece)| self.write_piece(handle, index, piece).boxed())
            .collect();
        let mut writes = stream::iter(writes).buffered(AT_ONCE);
        while writes.try_next().await?.is_some() {}
        drop(writes);
        if attributes.mtime.is_some() {
            let times = times(attributes);
            self.raw.fsetstat(handle, times).await.map_err(said)?;
        }
        self.raw.fsync(handle).await.map_err(said)?;
        Ok(())
    }

    async fn write_piece(&self, handle: &str, index: usize, piece: &[u8]) -> io::Result<()> {
        let offset = index.saturating_mul(PIECE) as u64;
        let written = self.raw.write(handle, offset, piece.to_vec()).await;
        written.map_err(said)?;
        Ok(())
    }

    /// Owner, mode and times of what is at `path`, which is no link.
    pub(super) async fn set(&self, path: &str, attributes: &FileAttributes) -> io::Result<()> {
        let now = self.raw.lstat(path).await.map_err(said)?.attrs;
        if let Some(owner) = owner(attributes, &now) {
            self.raw.setstat(path, owner).await.map_err(said)?;
        }
        let only_mode = FileAttributes {
            permissions: attributes.permissions,
            ..FileAttributes::empty()
        };
        self.raw.setstat(path, only_mode).await.map_err(said)?;
        if attributes.mtime.is_some() {
            let times = times(attributes);
            self.raw.setstat(path, times).await.map_err(said)?;
        }
        Ok(())
    }

    /// Makes the link `path`, which must not exist, to `target`.
    pub(super) async fn link(
        &self,
        path: &str,
        target: &str,
        attributes: &FileAttributes,
    ) -> io::Result<()> {
        // OpenSSH takes the target first, unlike the protocol's text (PROTOCOL, section 4.1).
        self.raw.symlink(target, path).await.map_err(said)?;
        let now = self.raw.lstat(path).await.map_err(said)?.attrs;
        for part in [owner(attributes, &now), times_of_link(attributes)] {
            let Some(part) = part else { continue };
            if !self.extensions.contains_key(SET_LINK) {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("the server lacks {SET_LINK}, which OpenSSH has since 8.0"),
                ));
            }
            let mut data = string(path);
            data.extend(link_attributes(&part));
            self.extended(SET_LINK, data).await?;
        }
        Ok(())
    }

    /// Makes the directory `path` if it is absent.
    pub(super) async fn make_directory(&self, path: &str) -> io::Result<()> {
        self.raw.mkdir(path, mode(0o700)).await.map_err(said)?;
        Ok(())
    }

    /// Puts `from` in the place of `to`, whatever file is there.
    pub(super) async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut data = string(from);
        data.extend(string(to));
        self.extended(RENAME, data).await
    }

    pub(super) async fn remove(&self, path: &str) -> io::Result<()> {
        self.raw.remove(path).await.map_err(said)?;
        Ok(())
    }

    pub(super) async fn remove_directory(&self, path: &str) -> io::Result<()> {
        self.raw.rmdir(path).await.map_err(said)?;
        Ok(())
    }

    /// Waits until the directory's entries are on the disk: a directory opens for reading like a
    /// file.
    pub(super) async fn sync_directory(&self, path: &str) -> io::Result<()> {
        let none = FileAttributes::empty();
        let opened = self.raw.open(path, OpenFlags::READ, none).await;
        let handle = opened.map_err(said)?.handle;
        let synced = self.raw.fsync(&handle).await.map_err(said);
        let closed = self.raw.close(&handle).await.map_err(said);
        synced?;
        closed?;
        Ok(())
    }

    /// Names in a directory; `None` if there is none.
    pub(super) async fn list(&self, path: &str) -> io::Result<Option<Vec<String>>> {
        let handle = match self.raw.opendir(path).await {
            Ok(opened) => opened.handle,
            Err(error) => {
                let none = none_if_missing(error)?;
                // OpenSSH says of something else in its place that there is nothing.
                if self.raw.stat(path).await.is_ok() {
                    let text = "not a directory";
                    return Err(io::Error::new(io::ErrorKind::NotADirectory, text));
                }
                return Ok(none);
            }
        };
        let names = self.names(&handle).await;
        let closed = self.raw.close(&handle).await.map_err(said);
        let names = names?;
        closed?;
        Ok(Some(names))
    }

    async fn names(&self, handle: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        loop {
            match self.raw.readdir(handle).await {
                Ok(more) => {
                    for file in more.files {
                        if file.filename != "." && file.filename != ".." {
                            names.push(utf8(file.filename)?);
                        }
                    }
                }
                Err(Error::Status(status)) if status.status_code == StatusCode::Eof => {
                    return Ok(names);
                }
                Err(error) => return Err(said(error)),
            }
        }
    }

    /// Whether the file system that holds `path` has no space left for this user. SFTP calls
    /// every failure "failure".
    pub(super) async fn is_full(&self, path: &str) -> bool {
        if !self.extensions.contains_key(FILE_SYSTEM) {
            return false;
        }
        let found = self.raw.statvfs(path).await;
        found.is_ok_and(|it| it.blocks_avail == 0 || (it.inodes > 0 && it.inodes_avail == 0))
    }

    async fn extended(&self, name: &str, data: Vec<u8>) -> io::Result<()> {
        match self.raw.extended(name, data).await.map_err(said)? {
            Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
            Packet::Status(status) => Err(said(Error::Status(status))),
            _ => Err(io::Error::other("the server answered something else")),
        }
    }
}

/// A string as SSH encodes it.
fn string(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// Owner or times as SFTP encodes attributes (draft-ietf-secsh-filexfer-02, section 5).
fn link_attributes(attributes: &FileAttributes) -> Vec<u8> {
    const OWNER: u32 = 2;
    const TIMES: u32 = 8;
    let pair = |flag: u32, first: u32, second: u32| {
        [flag, first, second]
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .collect()
    };
    match (attributes.uid, attributes.gid, attributes.mtime) {
        (Some(uid), Some(gid), _) => pair(OWNER, uid, gid),
        (_, _, Some(mtime)) => pair(TIMES, mtime, mtime),
        _ => 0_u32.to_be_bytes().to_vec(),
    }
}

fn mode(mode: u32) -> FileAttributes {
    FileAttributes {
        permissions: Some(mode),
        ..FileAttributes::empty()
    }
}

/// The change of owner that `wanted` needs; the protocol knows both numbers or none.
fn owner(wanted: &FileAttributes, now: &FileAttributes) -> Option<FileAttributes> {
    let uid = wanted.uid.or(now.uid)?;
    let gid = wanted.gid.or(now.gid)?;
    if (now.uid, now.gid) == (Some(uid), Some(gid)) {
        return None;
    }
    Some(FileAttributes {
        uid: Some(uid),
        gid: Some(gid),
        ..FileAttributes::empty()
    })
}

fn times(wanted: &FileAttributes) -> FileAttributes {
    FileAttributes {
        atime: wanted.mtime,
        mtime: wanted.mtime,
        ..FileAttributes::empty()
    }
}

fn times_of_link(wanted: &FileAttributes) -> Option<FileAttributes> {
    wanted.mtime.map(|_| times(wanted))
}

/// russh-sftp replaces what is not UTF-8; such a name would be another file's.
fn utf8(name: String) -> io::Result<String> {
    if name.contains(char::REPLACEMENT_CHARACTER) {
        let text = format!("the file name {name} is not UTF-8");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(name)
}

fn none_if_missing<T>(error: Error) -> io::Result<Option<T>> {
    match error {
        Error::Status(status) if status.status_code == StatusCode::NoSuchFile => Ok(None),
        other => Err(said(other)),
    }
}

fn said(error: Error) -> io::Error {
    match error {
        Error::Status(status) => {
            let kind = match status.status_code {
                StatusCode::NoSuchFile => io::ErrorKind::NotFound,
                StatusCode::PermissionDenied => io::ErrorKind::PermissionDenied,
                StatusCode::OpUnsupported => io::ErrorKind::Unsupported,
                StatusCode::ConnectionLost | StatusCode::NoConnection => {
                    io::ErrorKind::ConnectionReset
                }
                _ => io::ErrorKind::Other,
            };
            let text = match status.status_code {
                StatusCode::NoSuchFile => "no such file or directory".to_owned(),
                StatusCode::PermissionDenied => "permission denied".to_owned(),
                code => format!("the host's SFTP says only: {code}"),
            };
            io::Error::new(kind, text)
        }
        Error::Timeout => {
            let text = "the host's SFTP did not answer in time";
            io::Error::new(io::ErrorKind::TimedOut, text)
        }
        // russh-sftp's words for a channel that is gone.
        Error::UnexpectedBehavior(text) if text == "session closed" || text == "sender dropped" => {
            io::Error::new(io::ErrorKind::ConnectionReset, "the SFTP channel is closed")
        }
        other => io::Error::other(other.to_string()),
    }
}
