//! No command ever writes a set of CAs into a live `tls`.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::CaError;

/// Refuses `wanted`, a directory to write to or to read a staged set from, when it is the live
/// `<data-dir>/server/tls` or `server`, lies in the live `tls`, or contains it directly.
///
/// Names do not decide: links, `..`, relative paths and bind mounts are told by device and inode
/// of every existing directory on the way up. `wanted` need not exist yet.
///
/// # Errors
///
/// [`CaError::LiveDirectory`], or when the path cannot be looked at.
pub fn refuse_live(wanted: &Path, data_dir: &Path) -> Result<(), CaError> {
    let server = data_dir.join("server");
    let tls = server.join("tls");
    let refused = |why| CaError::LiveDirectory {
        path: wanted.to_owned(),
        why,
        live: tls.clone(),
    };
    let absolute = absolute(wanted)?;
    let steps = ancestors(&absolute)?;
    let live_tls = identity(&tls)?;
    let live_etcd = identity(&tls.join("etcd"))?;
    let live_server = identity(&server)?;
    // The names may not exist yet, when a new server is prepared.
    let named = canonical(&absolute)?;
    let tls_named =
        canonical(&std::path::absolute(&tls).map_err(|source| unreadable(&tls, source))?)?;
    if named == tls_named || steps.first().is_some_and(|it| same(*it, live_tls)) {
        return Err(refused("is the live tls directory"));
    }
    if named.starts_with(&tls_named)
        || steps
            .iter()
            .any(|it| same(*it, live_tls) || same(*it, live_etcd))
    {
        return Err(refused("lies in the live tls directory"));
    }
    // `<wanted>/tls` would be the live one.
    if tls_named.parent() == Some(&named) || steps.first().is_some_and(|it| same(*it, live_server))
    {
        return Err(refused("holds the live tls directory"));
    }
    let inner = identity(&absolute.join("tls"))?;
    if inner.is_some() && (inner == live_tls || inner == live_etcd) {
        return Err(refused("has the live tls directory as its tls"));
    }
    let inner = identity(&absolute.join("tls/etcd"))?;
    if inner.is_some() && (inner == live_tls || inner == live_etcd) {
        return Err(refused("has the live tls/etcd directory as its tls/etcd"));
    }
    Ok(())
}

type Identity = Option<(u64, u64)>;

fn same(one: Identity, other: Identity) -> bool {
    one.is_some() && one == other
}

/// Device and inode of what `path` leads to; `None` if nothing is there.
fn identity(path: &Path) -> Result<Identity, CaError> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(id(&metadata))),
        Err(error) if absent(&error) => Ok(None),
        Err(source) => Err(unreadable(path, source)),
    }
}

fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The identity of `path` and of every directory above it, links resolved, nearest first.
fn ancestors(path: &Path) -> Result<Vec<Identity>, CaError> {
    let real = canonical(path)?;
    real.ancestors().map(identity).collect()
}

/// `path` with every link of its existing part resolved; what does not exist yet is appended.
/// `..` in the part that does not exist goes one name back.
pub(super) fn canonical(path: &Path) -> Result<PathBuf, CaError> {
    let mut missing: Vec<std::path::Component<'_>> = Vec::new();
    let mut existing = path;
    let real = loop {
        match std::fs::canonicalize(existing) {
            Ok(real) => break real,
            Err(error) if absent(&error) => {}
            Err(source) => return Err(unreadable(existing, source)),
        }
        // A link to nothing would be followed by whoever writes there.
        if std::fs::symlink_metadata(existing).is_ok() {
            let source = io::Error::new(io::ErrorKind::NotFound, "a link that leads nowhere");
            return Err(unreadable(existing, source));
        }
        let mut parts = existing.components();
        missing.extend(parts.next_back());
        existing = parts.as_path();
        if existing.as_os_str().is_empty() {
            break PathBuf::from("/");
        }
    };
    Ok(missing.into_iter().rev().fold(real, |mut path, part| {
        match part {
            std::path::Component::ParentDir => drop(path.pop()),
            std::path::Component::Normal(name) => path.push(name),
            _ => {}
        }
        path
    }))
}

fn absolute(path: &Path) -> Result<PathBuf, CaError> {
    std::path::absolute(path).map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: io::Error) -> CaError {
    CaError::Write {
        action: "look at",
        path: path.to_owned(),
        source,
    }
}
