//! What init looks at before it plans: the inventory, the directories, and the secrets that new
//! files have to agree with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use pki::UnixTime;
use zeroize::Zeroizing;

use super::{InitError, Passwd, Spec};
use crate::bootstrap::{Bundle, Directory, Disk, Field, staged_name};
use crate::catalogue::{K3S, Kind, Side};
use crate::host::{Attributes, Entry, EntryKind, Host, HostError, is_directory};
use crate::inventory::{Found, Inventory, Observed, ObservedRow, Role, Site, SiteError, collect};
use crate::plan::Fingerprint;
use crate::token::Token;

/// Below the server's directory; rotate-ca's handler and `certificate rotate` leave it there.
pub(crate) const TRIGGER: &str = "tls/dynamic-cert-regenerate";

/// What there is at the place of a new server. It holds secrets and has no Debug.
pub struct Survey {
    /// What is there, without secrets.
    pub inventory: Inventory,
    /// Directories that a new tree needs, and whether they are there.
    pub(super) directories: BTreeMap<PathBuf, bool>,
    /// What `cred/passwd` says; empty if there is none.
    pub(super) passwd: Passwd,
    /// The token that lies there.
    pub(super) token: Option<Token>,
    /// The agents' token, where it has a file of its own.
    pub(super) agent_token: Option<Token>,
    /// The cluster's own datastore, if there is one.
    pub(super) datastore: Option<PathBuf>,
    /// The file at whose sight K3s makes the listener's certificate anew when it starts.
    pub(super) trigger: Option<(PathBuf, Fingerprint)>,
    /// Private keys that stand without the file that is made from them, by path.
    pub(super) keys: BTreeMap<PathBuf, Zeroizing<Vec<u8>>>,
    /// Files that steps before the plan's own put in place, and their names in its staging
    /// directory where they are secret.
    pub(super) foreseen: BTreeMap<PathBuf, Option<String>>,
}

/// Looks at `data_dir`, whose links are resolved and which may not exist yet.
///
/// # Errors
///
/// When it is an agent's, or something in it cannot be read.
pub async fn survey(
    host: &dyn Host,
    data_dir: &Path,
    spec: &Spec,
    now: UnixTime,
) -> Result<Survey, InitError> {
    let site = site(host, data_dir, spec).await?;
    let mut inventory = collect(host, &site, &K3S, now).await;
    if spec.with_agent {
        add_agent(&mut inventory);
    }
    let server = site.server();
    let passwd = match file(host, &server.join("cred/passwd")).await? {
        Some((path, bytes)) => parse_passwd(path, &bytes)?,
        None => Passwd::default(),
    };
    let token = match file(host, &server.join("token")).await? {
        Some((path, bytes)) => Some(parse_token(path, &bytes)?),
        None => None,
    };
    let agent_token = match file(host, &server.join("agent-token")).await? {
        Some((path, bytes)) => Some(parse_token(path, &bytes)?),
        None => None,
    };
    let mut keys = BTreeMap::new();
    for path in lone_keys(&inventory) {
        keys.extend(file(host, &path).await?);
    }
    let directories = directories(host, &site, spec).await?;
    let datastore = datastore(host, &server.join("db")).await?;
    let trigger = server.join(TRIGGER);
    let trigger = host.read(&trigger).await?.and_then(|entry| {
        let is_file = matches!(entry.kind, EntryKind::File(_));
        is_file.then(|| (trigger, Fingerprint::of(&entry)))
    });
    Ok(Survey {
        inventory,
        directories,
        passwd,
        token,
        agent_token,
        datastore,
        trigger,
        keys,
        foreseen: BTreeMap::new(),
    })
}

impl Survey {
    /// Notes that the datastore was asked, and has no CAs.
    pub fn asked_datastore(&mut self) {
        self.datastore = None;
    }

    /// Tells of the bootstrap data `bundle` as if they were written to `disk` already, the secret
    /// ones from where [`staged_name`] says that they are staged.
    ///
    /// What is planned then fits the CAs that will be in force: leaves under them, and every copy
    /// of them that a start of K3s writes.
    ///
    /// # Errors
    ///
    /// [`InitError::Passwd`] when the data's list of users cannot be read.
    pub fn foresee(&mut self, bundle: &Bundle, disk: &Disk) -> Result<(), InitError> {
        // The cluster's CAs are at hand: the datastore does not hide others.
        self.asked_datastore();
        for (field, file) in &bundle.files {
            let path = field.under(&disk.server);
            let fingerprint = disk.fingerprints.get(field);
            let attributes = match fingerprint {
                Some(present) => present.attributes.clone(),
                None => Attributes::new(0o600),
            };
            self.inventory.foresee(&path, &file.content, attributes);
            match field {
                Field::PasswdFile => self.passwd = parse_passwd(path.clone(), &file.content)?,
                Field::ServiceKey => {
                    self.keys.insert(path.clone(), file.content.clone());
                }
                _ => {}
            }
            // What lies there and stays needs no staging.
            let stays = disk.bundle.content(*field) == Some(file.content.as_slice());
            let staged = (field.is_secret() && !stays).then(|| staged_name(*field));
            self.foreseen.insert(path, staged);
        }
        for (path, found) in &disk.directories {
            if *found == Directory::Missing {
                self.directories.insert(path.clone(), true);
            }
        }
        Ok(())
    }
}

/// Makes `data_dir` and what is missing above it, mode 0755 as K3s does.
///
/// # Errors
///
/// When one of them cannot be made.
pub async fn make_data_dir(host: &dyn Host, data_dir: &Path) -> Result<(), HostError> {
    let mut missing = Vec::new();
    for directory in data_dir.ancestors() {
        if is_directory(host, directory).await? {
            break;
        }
        missing.push(directory);
    }
    for directory in missing.into_iter().rev() {
        let attributes = crate::host::Attributes::new(0o755);
        host.put(
            directory,
            &Entry {
                kind: EntryKind::Directory,
                attributes,
            },
        )
        .await?;
    }
    Ok(())
}

async fn site(host: &dyn Host, data_dir: &Path, spec: &Spec) -> Result<Site, InitError> {
    match Site::open(host, data_dir, spec.kubeconfig.clone()).await {
        Ok(site) if site.role == Role::AgentOnly => Err(InitError::AgentNode {
            path: site.data_dir,
        }),
        Ok(site) => Ok(site),
        Err(SiteError::NotADataDir { .. }) => Ok(Site {
            data_dir: data_dir.to_owned(),
            role: Role::Server,
            has_k3s: true,
            admin_kubeconfig: spec.kubeconfig.clone(),
            recorded_data_dir: data_dir.to_owned(),
        }),
        Err(error) => Err(error.into()),
    }
}

/// The inventory leaves an agent out that has no directory yet; here it gets one.
fn add_agent(inventory: &mut Inventory) {
    let agent = inventory.site.agent();
    let absent = |path: PathBuf| Observed {
        path: agent.join(path),
        found: Found::Absent,
    };
    for row in inventory.flavour.rows {
        if row.side == Side::Agent && inventory.row(row.id).is_none() {
            inventory.rows.push(ObservedRow {
                row,
                file: absent(row.file()),
                key: row.key_file().filter(|_| row.is_pair()).map(absent),
            });
        }
    }
}

/// A regular file's bytes. A link is not followed: in a copied tree it leads to the original.
async fn file(
    host: &dyn Host,
    path: &Path,
) -> Result<Option<(PathBuf, Zeroizing<Vec<u8>>)>, InitError> {
    Ok(match host.read(path).await?.map(|entry| entry.kind) {
        Some(EntryKind::File(bytes)) => Some((path.to_owned(), bytes)),
        Some(EntryKind::Directory | EntryKind::Link(_)) | None => None,
    })
}

fn parse_passwd(path: PathBuf, bytes: &[u8]) -> Result<Passwd, InitError> {
    match str::from_utf8(bytes) {
        Ok(text) => Passwd::parse(text).map_err(|source| InitError::Passwd { path, source }),
        Err(_) => Err(InitError::NotText { path }),
    }
}

fn parse_token(path: PathBuf, bytes: &[u8]) -> Result<Token, InitError> {
    match str::from_utf8(bytes) {
        Ok(text) => Token::parse(text).map_err(|source| InitError::TokenFile { path, source }),
        Err(_) => Err(InitError::NotText { path }),
    }
}

/// SQLite's file, or the directory of embedded etcd.
async fn datastore(host: &dyn Host, directory: &Path) -> Result<Option<PathBuf>, InitError> {
    let names = host.list(directory).await?.unwrap_or_default();
    let known = |name: &&String| matches!(name.as_str(), "state.db" | "etcd");
    Ok(names.iter().find(known).map(|name| directory.join(name)))
}

/// Keys whose other half is missing: a CA's without its certificate, the service-account keys
/// without the file that holds the first of them alone.
fn lone_keys(inventory: &Inventory) -> Vec<PathBuf> {
    let current = inventory.row("service.current.key");
    let has_current = current.is_some_and(|current| !current.file.is_absent());
    let path = |observed: &ObservedRow| match observed.row.kind {
        Kind::Authority { .. } if observed.file.is_absent() => observed
            .key
            .as_ref()
            .filter(|key| !key.is_absent())
            .map(|key| key.path.clone()),
        Kind::ServiceAccountKeys if !has_current && !observed.file.is_absent() => {
            Some(observed.file.path.clone())
        }
        _ => None,
    };
    inventory.rows.iter().filter_map(path).collect()
}

/// Which of the directories that a new tree has are there.
async fn directories(
    host: &dyn Host,
    site: &Site,
    spec: &Spec,
) -> Result<BTreeMap<PathBuf, bool>, InitError> {
    let mut wanted: BTreeSet<PathBuf> = BTreeSet::new();
    for (path, _) in MODES {
        wanted.insert(site.data_dir.join(path));
    }
    let outside = spec.kubeconfig.as_deref().and_then(Path::parent);
    wanted.extend(
        outside
            .into_iter()
            .flat_map(Path::ancestors)
            .map(Path::to_owned),
    );
    let mut found = BTreeMap::new();
    for path in wanted {
        let there = is_directory(host, &path).await?;
        found.insert(path, there);
    }
    Ok(found)
}

/// The mode of a directory that K3s makes (reference section 1.2); `path` starts below the data
/// directory.
pub(super) fn directory_mode(path: &Path) -> u32 {
    MODES
        .iter()
        .find(|(known, _)| Path::new(known) == path)
        .map_or(0o755, |(_, mode)| *mode)
}

/// The API server's own scratch directory, which K3s makes with the others.
pub(super) const TEMPORARY: &str = "server/tls/temporary-certs";

/// Below the data directory.
const MODES: [(&str, u32); 9] = [
    ("server", 0o700),
    ("server/tls", 0o700),
    (TEMPORARY, 0o700),
    ("server/tls/etcd", 0o755),
    ("server/tls/kube-scheduler", 0o755),
    ("server/tls/kube-controller-manager", 0o755),
    ("server/cred", 0o700),
    ("server/etc", 0o700),
    ("agent", 0o700),
];
