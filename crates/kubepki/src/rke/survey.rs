//! What lies and runs on the hosts of a cluster, at one moment.
//!
//! A survey is a value: plans and checks are made from it, and reach no host themselves. A host
//! that cannot be reached is an entry like the others.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use pki::{Certificate, Digest, KeyAlgorithm, PrivateKey, UnixTime};
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::rotate::etcd_health;
use super::{Bundle, ClusterConfig, Role, names};
use crate::apply::Witness;
use crate::error_chain;
use crate::host::{Entry, HostError};
use crate::machine::{ContainerState, Machine, Machines};
use crate::plan::Fingerprint;

/// How many hosts are looked at at once, as many as RKE works on.
pub const HOSTS_AT_ONCE: usize = 50;

/// The hosts of a cluster at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Survey {
    /// When it was begun.
    pub taken: UnixTime,
    /// By address in cluster.yml.
    pub hosts: BTreeMap<String, Seen>,
}

/// What is known of one host.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// It was looked at.
    Here(Box<HostView>),
    /// It was not.
    Away {
        /// Why, in words.
        why: String,
        /// Whether it answers and turns us away: waiting would not help.
        refuses: bool,
    },
}

/// A host that was looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostView {
    /// The files of [`names::SSL_DIRECTORY`]; `None` if there is no such directory.
    pub files: Option<BTreeMap<String, FileView>>,
    /// The containers that RKE names, those that exist.
    pub containers: BTreeMap<String, ContainerState>,
    /// What was asked for at addresses of the host, by `host:port`.
    pub served: BTreeMap<String, Result<Certificate, String>>,
    /// Whether an etcd member says that it is healthy, by the URL that was asked.
    pub health: BTreeMap<String, Result<(), String>>,
}

/// A file, its secrets left out.
#[derive(Clone, Debug, PartialEq)]
pub struct FileView {
    /// What a plan can hold it to.
    pub fingerprint: Fingerprint,
    /// SHA-256 of its text with exactly one line end after it, as RKE's deployer writes files.
    pub text: Digest,
    /// What is in it.
    pub facts: FileFacts,
}

/// What is in a file.
#[derive(Clone, Debug, PartialEq)]
pub enum FileFacts {
    /// PEM certificates, in order.
    Certificates(Vec<Certificate>),
    /// A private key.
    Key {
        /// SHA-256 of its SubjectPublicKeyInfo.
        spki: Digest,
        /// What kind.
        algorithm: KeyAlgorithm,
    },
    /// It should be one of both, by its name, and cannot be read as that.
    Malformed(String),
    /// Something else: a kubeconfig.
    Other,
}

/// What to look at on one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Its address in cluster.yml.
    pub host: String,
    /// Addresses (`host:port`) that the host dials to see what is served there.
    pub ports: Vec<String>,
}

/// The containers whose restart a rotation may need.
pub const CONTAINERS: [&str; 6] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];

impl Survey {
    /// A host that was looked at.
    pub fn host(&self, address: &str) -> Option<&HostView> {
        match self.hosts.get(address)? {
            Seen::Here(view) => Some(view),
            Seen::Away { .. } => None,
        }
    }

    /// Hosts that were not, and why.
    pub fn away(&self) -> impl Iterator<Item = (&str, &str)> {
        self.hosts.iter().filter_map(|(host, seen)| match seen {
            Seen::Here(_) => None,
            Seen::Away { why, .. } => Some((host.as_str(), why.as_str())),
        })
    }
}

impl HostView {
    /// A file of the certificates' directory.
    pub fn file(&self, name: &str) -> Option<&FileView> {
        self.files.as_ref()?.get(name)
    }
}

impl FileView {
    /// What is to be known of the file called `name`.
    pub fn of(name: &str, entry: &Entry) -> Self {
        let bytes = entry.bytes().unwrap_or_default();
        Self {
            fingerprint: Fingerprint::of(entry),
            text: text_digest(bytes),
            facts: facts(name, bytes),
        }
    }

    /// Its certificates; none if it is something else.
    pub fn certificates(&self) -> &[Certificate] {
        match &self.facts {
            FileFacts::Certificates(certificates) => certificates,
            _ => &[],
        }
    }
}

/// SHA-256 of a text with exactly one line end after it: equal for a PEM of the state file and
/// for what RKE's deployer makes of it.
pub fn text_digest(text: &[u8]) -> Digest {
    pki::sha256(&with_line_end(text))
}

/// A text as RKE's deployer writes it: exactly one line end after it.
pub fn with_line_end(text: &[u8]) -> zeroize::Zeroizing<Vec<u8>> {
    let end = text.iter().rposition(|byte| *byte != b'\n');
    let kept = end.map_or(0, |last| last.saturating_add(1));
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(kept.saturating_add(1)));
    bytes.extend_from_slice(text.get(..kept).unwrap_or_default());
    bytes.push(b'\n');
    bytes
}

fn facts(name: &str, bytes: &[u8]) -> FileFacts {
    if name.ends_with("-key.pem") {
        return match PrivateKey::from_pem(bytes) {
            Ok(key) => FileFacts::Key {
                spki: key.spki_sha256(),
                algorithm: key.algorithm(),
            },
            Err(error) => FileFacts::Malformed(error.to_string()),
        };
    }
    if !name.ends_with(".pem") {
        return FileFacts::Other;
    }
    match Certificate::all_from_pem(bytes) {
        Ok(certificates) => FileFacts::Certificates(certificates),
        Err(error) => FileFacts::Malformed(error.to_string()),
    }
}

/// Looks at every host, [`HOSTS_AT_ONCE`] at a time. `look` is the time for one handshake.
pub async fn survey(
    machines: &dyn Machines,
    subjects: &[Subject],
    now: UnixTime,
    look: Duration,
) -> Survey {
    let views = stream::iter(subjects).map(|subject| async move {
        let seen = match view(machines, subject, look).await {
            Ok(view) => Seen::Here(Box::new(view)),
            Err(error) => Seen::Away {
                refuses: !matches!(error, HostError::Unreachable { .. }),
                why: error.reason(),
            },
        };
        (subject.host.clone(), seen)
    });
    Survey {
        taken: now,
        hosts: views.buffer_unordered(HOSTS_AT_ONCE).collect().await,
    }
}

async fn view(
    machines: &dyn Machines,
    subject: &Subject,
    look: Duration,
) -> Result<HostView, HostError> {
    let machine = machines.machine(&subject.host).await?;
    let found = machine
        .read_directory(Path::new(names::SSL_DIRECTORY))
        .await?;
    let files = found.map(|files| {
        files
            .iter()
            .map(|(name, entry)| (name.clone(), FileView::of(name, entry)))
            .collect()
    });
    let mut containers = BTreeMap::new();
    for name in CONTAINERS {
        if let Some(state) = machine.container(name).await? {
            containers.insert(name.to_owned(), state);
        }
    }
    let mut served = BTreeMap::new();
    for address in &subject.ports {
        let seen = served_at(machine.as_ref(), address, look).await;
        served.insert(address.clone(), seen);
    }
    Ok(HostView {
        files,
        containers,
        served,
        health: BTreeMap::new(),
    })
}

/// Asks every member of etcd that was reached whether it is healthy, with the state's
/// `kube-node`, as RKE does (`services/etcd_util.go`), and notes it in the survey.
pub async fn ask_etcd(
    survey: &mut Survey,
    machines: &dyn Machines,
    config: &ClusterConfig,
    bundle: &Bundle,
    look: Duration,
) {
    if config.has_external_etcd() {
        return;
    }
    let client = bundle.get(names::KUBE_NODE);
    let client = client.map(|entry| (entry.certificate_pem.as_str(), &*entry.key_pem));
    let members: Vec<(String, String)> = config
        .with_role(Role::Etcd)
        .filter(|node| survey.host(&node.address).is_some())
        .map(|node| (node.address.clone(), etcd_health(node)))
        .collect();
    let asked = stream::iter(members).map(|(host, url)| async move {
        let look = tokio::time::timeout(look, member_health(machines, &host, &url, client));
        let late = || Err(format!("{url} did not answer in time"));
        let health = look.await.unwrap_or_else(|_| late());
        (host, url, health)
    });
    let answers: Vec<_> = asked.buffer_unordered(HOSTS_AT_ONCE).collect().await;
    for (host, url, health) in answers {
        if let Some(Seen::Here(view)) = survey.hosts.get_mut(&host) {
            view.health.insert(url, health);
        }
    }
}

async fn member_health(
    machines: &dyn Machines,
    host: &str,
    url: &str,
    client: Option<(&str, &str)>,
) -> Result<(), String> {
    let words = |error: HostError| error_chain(&error);
    let machine = machines.machine(host).await.map_err(words)?;
    let address = url.trim_start_matches("https://");
    let address = address.split('/').next().unwrap_or(address);
    let stream = machine.dial(address).await.map_err(words)?;
    let (status, body) = crate::apply::ask(stream, url, client).await?;
    let text = String::from_utf8_lossy(&body);
    let json: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let health = json.as_ref().and_then(|json| json.get("health")?.as_str());
    match (status, health) {
        (200, Some("true")) => Ok(()),
        _ => Err(format!("{url} answers {status}: {}", text.trim())),
    }
}

/// What `address` serves to a host, whoever is trusted; the server has shown its key.
///
/// # Errors
///
/// In words: nobody listens, or no handshake gets that far within `look`.
pub async fn served_at(
    machine: &dyn Machine,
    address: &str,
    look: Duration,
) -> Result<Certificate, String> {
    let words = |error: &dyn std::error::Error| error_chain(error);
    let (config, witness) = Witness::client().map_err(|error| words(&error))?;
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(|error| words(&error))?;
    let handshake = async {
        let stream = machine.dial(address).await.map_err(|error| words(&error))?;
        let connector = TlsConnector::from(Arc::new(config));
        let connected = connector.connect(name, stream).await;
        connected.map(drop).map_err(|error| words(&error))
    };
    let ended = tokio::time::timeout(look, handshake).await;
    match (witness.proven(), ended) {
        (Some(der), _) => Certificate::from_der(&der).map_err(|error| words(&error)),
        (None, Ok(Ok(()))) => Err(format!("{address} proved no key")),
        (None, Ok(Err(error))) => Err(error),
        (None, Err(_)) => Err(format!("{address} did not answer in time")),
    }
}
