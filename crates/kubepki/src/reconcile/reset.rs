//! What `--cluster-reset` keeps before it extracts.

use std::path::{Path, PathBuf};

use pki::UnixTime;

use super::Reset;
use crate::host::{Entry, EntryKind, Host, HostError};
use crate::plan::{Action, Before, Content, Step, Target};

impl Reset {
    /// Copies `<server>/tls` to `<server>/tls-<unix seconds>`, modes and times as they are. A
    /// server without `tls` has nothing to keep.
    ///
    /// # Errors
    ///
    /// When something in it cannot be read: a backup is whole or not made.
    pub async fn keeping(host: &dyn Host, server: &Path, now: UnixTime) -> Result<Self, HostError> {
        let tls = server.join("tls");
        let kept = server.join(format!("tls-{}", now.as_secs()));
        let mut backup = Vec::new();
        let mut open = vec![PathBuf::new()];
        while let Some(below) = open.pop() {
            let at = |root: &Path| match below.as_os_str().is_empty() {
                true => root.to_owned(),
                false => root.join(&below),
            };
            let from = at(&tls);
            let Some(mut entry) = host.read(&from).await? else {
                continue;
            };
            // A `tls` that is linked elsewhere is kept as the directory that it leads to; links
            // in it are kept as links.
            let is_root = below.as_os_str().is_empty();
            let names = match entry.kind {
                EntryKind::File(_) => None,
                EntryKind::Link(_) if !is_root => None,
                EntryKind::Directory | EntryKind::Link(_) => host.list(&from).await?,
            };
            if names.is_some() {
                entry.kind = EntryKind::Directory;
            }
            // Children stand after their directory.
            let children = names.unwrap_or_default();
            open.extend(children.iter().rev().map(|name| below.join(name)));
            backup.push(copy(&from, at(&kept), entry));
        }
        Ok(Self { backup })
    }
}

fn copy(from: &Path, to: PathBuf, entry: Entry) -> Step {
    let mut attributes = entry.attributes;
    let content = match entry.kind {
        EntryKind::File(bytes) => Content::CopyOf {
            path: from.to_owned(),
            sha256: pki::sha256(&bytes).to_string(),
        },
        EntryKind::Directory => {
            attributes.mtime = None;
            attributes.mode = match attributes.mode {
                0o777 => 0o700,
                mode => mode,
            };
            Content::Directory
        }
        EntryKind::Link(target) => Content::Link(target),
    };
    let host = "local".to_owned();
    Step {
        number: 0,
        target: Target::File { host, path: to },
        before: Before::Absent,
        action: Action::Put {
            attributes,
            content,
        },
        reason: "kept before a cluster reset".to_owned(),
    }
}
