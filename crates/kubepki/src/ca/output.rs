//! A set of CAs on disk: one directory for the servers, one for the safe.
//!
//! ```text
//! DIR/tls/…           the files; `rotate-ca --path DIR` of K3s takes them too
//! DIR/staged.json     what they are, for `rotate-ca --staged`
//! OFFLINE/…           keys and certificates of the CAs that were made above the five
//! ```
//!
//! Both are made whole or not at all, 0700, every file 0600.

use std::io;
use std::path::{Path, PathBuf};

use pki::PrivateKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{CaError, Kind, OfflineFile, StagedSet, refuse_live};
use crate::edge::{directory, file};
use crate::host::Attributes;

/// Where a set goes.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// For the servers.
    pub out: &'a Path,
    /// For the safe; needed when the set has something for it.
    pub offline: Option<&'a Path>,
    /// Data directories on this machine, whose `server/tls` is never written to: the configured
    /// one, and the one that was named.
    pub data_dirs: &'a [PathBuf],
    /// Whether what belongs offline may lie in one of them all the same.
    pub keep_on_node: bool,
    /// Encrypts the keys for the safe.
    pub passphrase: Option<&'a [u8]>,
}

/// What `staged.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedNote {
    /// 1.
    pub format: u32,
    /// `first`, `same-root`, `new-root`, `cross-signed`, `service-key-only`, `compromised`.
    pub kind: String,
    /// When it was made, RFC 3339.
    pub made: String,
    /// The hash that tokens pin once it is in force.
    pub token_hash: String,
    /// What the operator was told.
    pub notes: Vec<String>,
}

/// The name of the file with [`StagedNote`].
pub const NOTE: &str = "staged.json";

impl Kind {
    /// As [`StagedNote::kind`] has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::SameRoot => "same-root",
            Self::NewRoot => "new-root",
            Self::CrossSigned => "cross-signed",
            Self::ServiceKeyOnly => "service-key-only",
            Self::Compromised => "compromised",
        }
    }
}

/// Refuses places that a set must not be written to. [`write()`] does so too; asking before keys
/// are made saves the time.
///
/// # Errors
///
/// [`CaError::LiveDirectory`], [`CaError::NotEmpty`], [`CaError::Place`].
pub fn check_places(places: &Places<'_>) -> Result<(), CaError> {
    let all: Vec<&Path> = std::iter::once(places.out).chain(places.offline).collect();
    for path in &all {
        for data_dir in places.data_dirs {
            refuse_live(path, data_dir)?;
        }
        free(path)?;
    }
    let Some(offline) = places.offline else {
        return Ok(());
    };
    let (out, safe) = (resolved(places.out)?, resolved(offline)?);
    let refuse = |problem: String| CaError::Place {
        path: offline.to_owned(),
        problem,
    };
    if safe.starts_with(&out) || out.starts_with(&safe) {
        return Err(refuse(format!(
            "and {} lie in each other: what belongs offline needs a place of its own",
            places.out.display()
        )));
    }
    for data_dir in places.data_dirs {
        if !places.keep_on_node && safe.starts_with(resolved(data_dir)?) {
            return Err(refuse(format!(
                "lies in the data directory {}: keys of roots do not belong on a node. Name a \
                 place outside, or say --keep-on-node",
                data_dir.display()
            )));
        }
    }
    Ok(())
}

/// Writes the set, and says which files it wrote for the safe.
///
/// # Errors
///
/// [`CaError`]; then neither directory is there, or, when the second could not be given its name,
/// the one for the safe alone.
pub fn write(set: &StagedSet, places: &Places<'_>) -> Result<Vec<PathBuf>, CaError> {
    check_places(places)?;
    let mut safe = Vec::new();
    if !set.offline.is_empty() {
        let offline = places.offline.ok_or_else(|| CaError::Place {
            path: places.out.to_owned(),
            problem: "is for servers; name a directory for the keys of the new roots too, with \
                      --offline"
                .to_owned(),
        })?;
        let files = encrypted(&set.offline, places.passphrase)?;
        publish(offline, |directory| {
            files.iter().try_for_each(|(name, bytes)| {
                file::replace(&directory.join(name), bytes, &Attributes::new(0o600))
            })
        })?;
        safe = files.iter().map(|(name, _)| offline.join(name)).collect();
    }
    publish(places.out, |directory| fill(set, directory))?;
    Ok(safe)
}

fn fill(set: &StagedSet, directory: &Path) -> io::Result<()> {
    let private = Attributes::new(0o700);
    for below in ["tls", "tls/etcd"] {
        file::make_directory(&directory.join(below), &private)?;
    }
    for (field, shared) in &set.bundle.files {
        let attributes = Attributes {
            mtime: Some((shared.stamp.seconds, shared.stamp.nanoseconds)),
            ..Attributes::new(0o600)
        };
        file::replace(&field.under(directory), &shared.content, &attributes)?;
    }
    let made = set.bundle.files.values().map(|it| it.stamp).max();
    let note = StagedNote {
        format: 1,
        kind: set.kind.word().to_owned(),
        made: made.map(|stamp| stamp.to_string()).unwrap_or_default(),
        token_hash: set.hash.after.to_string(),
        notes: set.notes.clone(),
    };
    let mut text = serde_json::to_vec_pretty(&note).map_err(io::Error::other)?;
    text.push(b'\n');
    file::replace(&directory.join(NOTE), &text, &Attributes::new(0o600))
}

/// Reads the note of a staged directory; `None` where there is none, as in those that K3s's
/// scripts make.
///
/// # Errors
///
/// When it is there and no note.
pub async fn read_note(
    host: &dyn crate::host::Host,
    directory: &Path,
) -> Result<Option<StagedNote>, CaError> {
    let path = directory.join(NOTE);
    let Some(bytes) = super::pool::file(host, &path).await? else {
        return Ok(None);
    };
    let note = serde_json::from_slice(&bytes).map_err(|error| CaError::Place {
        path,
        problem: format!("is no note of kubepki: {error}"),
    })?;
    Ok(Some(note))
}

type Named = (String, Zeroizing<Vec<u8>>);

fn encrypted(files: &[OfflineFile], passphrase: Option<&[u8]>) -> Result<Vec<Named>, CaError> {
    let one = |file: &OfflineFile| {
        let Some(passphrase) = passphrase.filter(|_| file.secret) else {
            return Ok((file.name.clone(), file.content.clone()));
        };
        let text = PrivateKey::from_pem(&file.content)
            .and_then(|key| key.to_encrypted_pem(passphrase))
            .map_err(super::profile::cannot_make(&file.name))?;
        let bytes = Zeroizing::new(text.as_bytes().to_vec());
        Ok((file.name.clone(), bytes))
    };
    files.iter().map(one).collect()
}

/// [`directory::publish`], with what its refusals mean here.
pub(super) fn publish(
    path: &Path,
    fill: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), CaError> {
    directory::publish(path, fill).map_err(|source| match source.kind() {
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => CaError::NotEmpty {
            path: path.to_owned(),
        },
        io::ErrorKind::ResourceBusy => CaError::Place {
            path: path.to_owned(),
            problem: "is a mount point: name a directory in it".to_owned(),
        },
        _ => CaError::Write {
            action: "write",
            path: path.to_owned(),
            source,
        },
    })
}

/// Refuses a place where something is.
pub(super) fn free(path: &Path) -> Result<(), CaError> {
    let place = |problem: &str| CaError::Place {
        path: path.to_owned(),
        problem: problem.to_owned(),
    };
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
            return match parent.is_none_or(Path::is_dir) {
                true => Ok(()),
                false => Err(place(
                    "is in a directory that does not exist: make that first",
                )),
            };
        }
        Err(source) => return Err(look_at(path, source)),
    };
    if metadata.is_symlink() {
        return Err(place("is a link: name the directory itself"));
    }
    if !metadata.is_dir() {
        return Err(place("is not a directory"));
    }
    let mut entries = std::fs::read_dir(path).map_err(|source| look_at(path, source))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(CaError::NotEmpty {
            path: path.to_owned(),
        }),
    }
}

fn look_at(path: &Path, source: io::Error) -> CaError {
    CaError::Write {
        action: "look at",
        path: path.to_owned(),
        source,
    }
}

/// The real path, of what exists of it.
fn resolved(path: &Path) -> Result<PathBuf, CaError> {
    let absolute = std::path::absolute(path).map_err(|source| look_at(path, source))?;
    super::live::canonical(&absolute)
}
