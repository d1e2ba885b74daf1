//! Reading a node.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pki::{Certificate, PrivateKey, UnixTime};

use super::{
    DetectedRelease, Facts, Found, Inventory, KeyFacts, Observed, ObservedRow, Present, Role, Site,
};
use crate::catalogue::{Flavour, Kind, Row, Side};
use crate::host::{EntryKind, Host, HostError};
use crate::plan::Fingerprint;

/// Reads every file that `flavour` knows of and this kind of node can have.
///
/// Nothing fails: what cannot be read is in the result as such.
pub async fn collect(
    host: &dyn Host,
    site: &Site,
    flavour: &'static Flavour,
    now: UnixTime,
) -> Inventory {
    // A server's tree can be without its agent: copied in part, or from before 1.22.
    let without_agent = matches!(host.list(&site.agent()).await, Ok(None));
    let mut rows = Vec::new();
    for row in flavour.rows {
        if row.side == Side::Agent && without_agent {
            continue;
        }
        let Some(base) = base_of(site, row) else {
            continue;
        };
        let file = match row.side {
            Side::Admin => base,
            Side::Server | Side::Agent => base.join(row.file()),
        };
        let key = match row.is_pair() {
            true => row
                .key_file()
                .map(|key| directory_of(site, row.side).join(key)),
            false => None,
        };
        rows.push(ObservedRow {
            row,
            file: observe(host, file, reader_of(row)).await,
            key: match key {
                Some(key) => Some(observe(host, key, Reader::Keys).await),
                None => None,
            },
        });
    }
    let directories = directories(host, site, &rows).await;
    let strays = strays(host, site, &rows).await;
    let release = DetectedRelease::from_rows(&rows);
    Inventory {
        site: site.clone(),
        at: now,
        flavour,
        rows,
        directories,
        strays,
        release,
    }
}

/// Where the row's path starts; `None` when this node has nothing of the kind.
fn base_of(site: &Site, row: &Row) -> Option<PathBuf> {
    match (row.side, site.role) {
        (Side::Admin, Role::Server) => site.admin_kubeconfig.clone(),
        (Side::Server, Role::Server) | (Side::Agent, _) => Some(directory_of(site, row.side)),
        (Side::Server | Side::Admin, Role::AgentOnly) => None,
    }
}

fn directory_of(site: &Site, side: Side) -> PathBuf {
    match side {
        Side::Agent => site.agent(),
        Side::Server | Side::Admin => site.server(),
    }
}

/// What a file's content is read as.
#[derive(Clone, Copy)]
enum Reader {
    Certificates,
    Keys,
    Kubeconfig,
    Listener,
    Token,
    Opaque,
}

fn reader_of(row: &Row) -> Reader {
    match &row.kind {
        Kind::Authority { .. } | Kind::Leaf(_) | Kind::FirstOf { .. } | Kind::CopyOf { .. } => {
            Reader::Certificates
        }
        Kind::Key | Kind::ServiceAccountKeys | Kind::CurrentServiceAccountKey => Reader::Keys,
        Kind::Kubeconfig { .. } | Kind::AdminKubeconfig { .. } => Reader::Kubeconfig,
        Kind::Listener { .. } => Reader::Listener,
        Kind::TokenAlias => Reader::Token,
        Kind::Secret if row.id == "token" => Reader::Token,
        Kind::Secret | Kind::Plain => Reader::Opaque,
    }
}

/// Looks at one kubeconfig, wherever it lies.
pub async fn observe_kubeconfig(host: &dyn Host, path: PathBuf) -> Observed {
    observe(host, path, Reader::Kubeconfig).await
}

async fn observe(host: &dyn Host, path: PathBuf, reader: Reader) -> Observed {
    let found = match host.read(&path).await {
        Ok(None) => Found::Absent,
        Err(error) => Found::Unreadable(why(&error)),
        Ok(Some(entry)) => {
            let facts = match &entry.kind {
                EntryKind::Directory => Facts::Directory,
                EntryKind::Link(to) => Facts::Link(to.clone()),
                EntryKind::File(bytes) => facts_of(bytes, reader),
            };
            Found::Present(Box::new(Present {
                fingerprint: Fingerprint::of(&entry),
                facts,
            }))
        }
    };
    Observed { path, found }
}

/// Why something cannot be read, without its path.
fn why(error: &HostError) -> String {
    match error {
        HostError::File { source, .. } => source.to_string(),
        HostError::Special { .. } => "it is a socket, pipe or device".to_owned(),
        HostError::TooLarge { size, limit, .. } => {
            format!("it has {size} bytes, and more than {limit} are not read")
        }
        other => crate::error_chain(other),
    }
}

/// The directories between the data directory and the rows' files.
async fn directories(host: &dyn Host, site: &Site, rows: &[ObservedRow]) -> Vec<Observed> {
    let paths: BTreeSet<PathBuf> = rows
        .iter()
        .flat_map(|row| row.file.path.ancestors().skip(1))
        .filter(|path| path.starts_with(&site.data_dir) && *path != site.data_dir)
        .map(Path::to_owned)
        .collect();
    let mut directories = Vec::new();
    for path in paths {
        directories.push(observe(host, path, Reader::Opaque).await);
    }
    directories
}

/// What the only file of `row`, or its certificate, says with this content.
pub(super) fn facts(row: &Row, bytes: &[u8]) -> Facts {
    facts_of(bytes, reader_of(row))
}

/// The same for the private key of a row.
pub(super) fn key_file_facts(bytes: &[u8]) -> Facts {
    facts_of(bytes, Reader::Keys)
}

fn facts_of(bytes: &[u8], reader: Reader) -> Facts {
    let read = match reader {
        Reader::Certificates => Certificate::all_from_pem(bytes)
            .map(Facts::Certificates)
            .map_err(|e| e.to_string()),
        Reader::Keys => key_facts(bytes).map(Facts::Keys).map_err(|e| e.to_string()),
        Reader::Kubeconfig => super::embedded::kubeconfig(bytes).map(Facts::Kubeconfig),
        Reader::Listener => super::embedded::listener(bytes).map(Facts::Listener),
        Reader::Token => Ok(Facts::Token(super::embedded::token(bytes))),
        Reader::Opaque => Ok(Facts::Opaque),
    };
    read.unwrap_or_else(Facts::Malformed)
}

/// The private keys of a PEM text, as facts.
pub(super) fn key_facts(bytes: &[u8]) -> Result<Vec<KeyFacts>, pki::Error> {
    let keys = PrivateKey::all_from_pem(bytes)?;
    Ok(keys
        .iter()
        .map(|key| KeyFacts {
            spki: key.spki_sha256(),
            algorithm: key.algorithm(),
        })
        .collect())
}

/// Where CA keys come to lie: beside the CAs, in the API server's own directory, and in the
/// directory that `rotate-ca` and its script use by default.
const STRAY_DIRECTORIES: [&str; 5] = [
    "tls",
    "tls/etcd",
    "tls/temporary-certs",
    "rotate-ca/tls",
    "rotate-ca/tls/etcd",
];

/// PEM files in the directories of the server's CAs that no row names.
async fn strays(host: &dyn Host, site: &Site, rows: &[ObservedRow]) -> Vec<Observed> {
    if site.role != Role::Server {
        return Vec::new();
    }
    let known: BTreeSet<&Path> = rows
        .iter()
        .flat_map(|row| [Some(&row.file), row.key.as_ref()])
        .flatten()
        .map(|observed| observed.path.as_path())
        .collect();
    let mut strays = Vec::new();
    for directory in STRAY_DIRECTORIES {
        let directory = site.server().join(directory);
        let names = host
            .list(&directory)
            .await
            .ok()
            .flatten()
            .unwrap_or_default();
        for name in names {
            let path = directory.join(&name);
            let reader = match path.extension().and_then(|extension| extension.to_str()) {
                Some("key") => Reader::Keys,
                Some("crt" | "pem") => Reader::Certificates,
                _ => continue,
            };
            if !known.contains(path.as_path()) {
                strays.push(observe(host, path, reader).await);
            }
        }
    }
    strays
}
