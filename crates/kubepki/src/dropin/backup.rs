//! What K3s copies before it rotates: `<data>/server/tls-<unix seconds>`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pki::UnixTime;

use super::error::DropinError;
use super::layout::Layout;
use super::read::follow;
use crate::catalogue::Side;
use crate::host::{Entry, EntryKind, Host, HostError};
use crate::plan::Content;

/// A backup to be made.
pub(super) struct Backup {
    /// Its directory.
    pub(super) folder: PathBuf,
    /// Path below the directory, which is empty for itself; parents stand before children.
    pub(super) copies: BTreeMap<PathBuf, Kept>,
    /// Whether the node has `<data>/server/tls`.
    pub(super) has_tls: bool,
}

/// One entry of a backup.
pub(super) struct Kept {
    pub(super) mode: u32,
    pub(super) content: Content,
}

/// The whole of `<server>/tls`, where there is one, and the agent's files flat over it.
///
/// Differences from K3s: a key is 0600 whatever the original is (K3s copies an agent's keys with
/// 0644), and a `tls` that is a link is copied, not linked: K3s would "back up" the directory that
/// it then takes the files from.
///
/// # Errors
///
/// [`DropinError::Unsaved`] for what cannot be copied: a backup is whole or not made.
pub(super) async fn gather(
    host: &dyn Host,
    layout: &Layout,
    agent_files: &[PathBuf],
    now: UnixTime,
) -> Result<Backup, DropinError> {
    let name = PathBuf::from(format!("tls-{}", now.as_secs()));
    let tls = layout.real(Side::Server, Path::new("tls"));
    let root = follow(host, &tls)
        .await
        .map_err(|error| unsaved(layout, &tls, error))?;
    let mut backup = match root {
        Some((place, entry)) => {
            let folder = layout.real(Side::Server, &name);
            let mut backup = Backup {
                folder,
                copies: BTreeMap::new(),
                has_tls: true,
            };
            if entry.kind != EntryKind::Directory {
                let shown = layout.shown(Side::Server, Path::new("tls"));
                let reason = "not a directory".to_owned();
                return Err(DropinError::File {
                    operation: "open",
                    path: shown,
                    reason,
                });
            }
            add_tree(host, layout, &place, entry, &mut backup).await?;
            backup
        }
        None => {
            let folder = layout.real(Side::Agent, &name);
            Backup {
                folder,
                copies: BTreeMap::new(),
                has_tls: false,
            }
        }
    };
    for file in agent_files {
        add_agent_file(host, layout, file, &mut backup).await?;
    }
    Ok(backup)
}

/// Everything below `root`; links are copied as links, as K3s does.
async fn add_tree(
    host: &dyn Host,
    layout: &Layout,
    root: &Path,
    entry: Entry,
    backup: &mut Backup,
) -> Result<(), DropinError> {
    let mut open = vec![(PathBuf::new(), entry)];
    while let Some((below, entry)) = open.pop() {
        let place = if below.as_os_str().is_empty() {
            root.to_owned()
        } else {
            root.join(&below)
        };
        if entry.kind == EntryKind::Directory {
            let unsaved = |error| unsaved(layout, &place, error);
            for name in host
                .list(&place)
                .await
                .map_err(unsaved)?
                .unwrap_or_default()
            {
                let path = place.join(&name);
                let read = host.read(&path).await;
                // What goes away meanwhile was not there.
                if let Some(entry) = read.map_err(|error| self::unsaved(layout, &path, error))? {
                    open.push((below.join(&name), entry));
                }
            }
        }
        backup
            .copies
            .insert(below, copy_of(&place, &entry, entry.attributes.mode));
    }
    Ok(())
}

/// K3s writes an agent's file with its bare name into the same directory: over a server's file of
/// that name, whose mode then stays.
async fn add_agent_file(
    host: &dyn Host,
    layout: &Layout,
    file: &Path,
    backup: &mut Backup,
) -> Result<(), DropinError> {
    let path = layout.real(Side::Agent, file);
    let found = follow(host, &path)
        .await
        .map_err(|error| unsaved(layout, &path, error))?;
    let Some((place, entry)) = found else {
        return Ok(());
    };
    let name = PathBuf::from(file.file_name().unwrap_or_default());
    let in_the_way = backup.copies.get(&name);
    let is_directory = in_the_way.is_some_and(|copy| copy.content == Content::Directory);
    if entry.kind == EntryKind::Directory || is_directory {
        let path = if is_directory {
            Path::new("tls").join(&name)
        } else {
            file.to_owned()
        };
        let side = if is_directory {
            Side::Server
        } else {
            Side::Agent
        };
        return Err(DropinError::Directory {
            path: layout.shown(side, &path),
        });
    }
    let mode = match in_the_way {
        Some(Kept {
            content: Content::CopyOf { .. },
            mode,
        }) => *mode,
        _ => 0o644,
    };
    if backup.copies.is_empty() {
        let folder = Kept {
            mode: 0o755,
            content: Content::Directory,
        };
        backup.copies.insert(PathBuf::new(), folder);
    }
    backup.copies.insert(name, copy_of(&place, &entry, mode));
    Ok(())
}

fn copy_of(path: &Path, entry: &Entry, mode: u32) -> Kept {
    match &entry.kind {
        EntryKind::Directory => Kept {
            mode,
            content: Content::Directory,
        },
        EntryKind::Link(target) => Kept {
            mode,
            content: Content::Link(target.clone()),
        },
        EntryKind::File(bytes) => {
            let sha256 = pki::sha256(bytes).to_string();
            Kept {
                // K3s keeps each mode, and gives an agent's keys 0644; a backup is for root alone.
                mode: mode & 0o600,
                content: Content::CopyOf {
                    path: path.to_owned(),
                    sha256,
                },
            }
        }
    }
}

fn unsaved(layout: &Layout, path: &Path, source: HostError) -> DropinError {
    DropinError::Unsaved {
        path: layout.show(path),
        source,
    }
}
