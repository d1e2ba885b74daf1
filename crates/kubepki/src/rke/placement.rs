//! Which files each host has, and who reads them.
//!
//! As RKE has it (`pki/util.go`, `pki/deploy.go`, `cert-deployer`), with one named difference: a
//! host gets the etcd and kubelet keys of its own node only, where RKE gives every host those of
//! all. The cluster CA's key stays on control-plane hosts, as with RKE: it is what a lost state
//! file is rebuilt from. So does the key of the aggregation layer's CA.

use zeroize::Zeroizing;

use super::catalogue::{Per, RKE, Row, row_of};
use super::generate::Service;
use super::{Bundle, ClusterConfig, Entry, Node, Role, names};

/// Mode of [`names::SSL_DIRECTORY`].
pub const DIRECTORY_MODE: u32 = 0o755;

/// A file in [`names::SSL_DIRECTORY`] of a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostFile {
    /// Its name in the directory.
    pub name: String,
    /// Its mode.
    pub mode: u32,
    /// User and group: root, but for etcd's files where `services.etcd` names others.
    pub owner: (u32, u32),
    /// The entry that it is a part of.
    pub entry: String,
    /// Which part.
    pub part: Part,
}

/// A part of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The certificate and what follows it.
    Certificate,
    /// The key.
    Key,
    /// The kubeconfig.
    Kubeconfig,
}

impl Part {
    /// The file's name.
    pub fn file_of(self, entry: &str) -> String {
        match self {
            Self::Certificate => names::certificate_file(entry),
            Self::Key => names::key_file(entry),
            Self::Kubeconfig => names::config_file(entry),
        }
    }

    /// Its text in an entry; empty where it has none.
    pub fn text_of(self, entry: &Entry) -> &str {
        match self {
            Self::Certificate => &entry.certificate_pem,
            Self::Key => &entry.key_pem,
            Self::Kubeconfig => &entry.config,
        }
    }
}

impl HostFile {
    /// Its path on the host.
    pub fn path(&self) -> String {
        format!("{}/{}", names::SSL_DIRECTORY, self.name)
    }

    /// Its bytes: the entry's text and one more LF, byte for byte what RKE's `cert-deployer`
    /// writes. `None` when the bundle does not have it.
    pub fn content(&self, bundle: &Bundle) -> Option<Zeroizing<Vec<u8>>> {
        let text = self.part.text_of(bundle.get(&self.entry)?);
        if text.is_empty() {
            return None;
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() + 1));
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(b'\n');
        Some(bytes)
    }

    /// Whether it holds a private key.
    pub fn is_secret(&self) -> bool {
        self.part == Part::Key
    }
}

/// The files that `node`'s host is to have, by name. What the bundle does not have is left out.
pub fn files_of(node: &Node, bundle: &Bundle, config: &ClusterConfig) -> Vec<HostFile> {
    collect(node, bundle, config, |row, entry| belongs(row, entry, node))
}

/// Files that RKE puts on `node`'s host and [`files_of`] does not: other nodes' certificates and
/// keys. They are of no use there.
pub fn surplus_of(node: &Node, bundle: &Bundle, config: &ClusterConfig) -> Vec<HostFile> {
    let mut files = collect(node, bundle, config, |_, _| true);
    let wanted = files_of(node, bundle, config);
    files.retain(|file| !wanted.contains(file));
    files
}

fn collect(
    node: &Node,
    bundle: &Bundle,
    config: &ClusterConfig,
    mine: impl Fn(&Row, &str) -> bool,
) -> Vec<HostFile> {
    let mut files = Vec::new();
    for row in RKE.iter().filter(|row| row.exists_in(config)) {
        for (entry, _) in row.entries(config) {
            let Some(present) = bundle.get(&entry).filter(|_| mine(row, &entry)) else {
                continue;
            };
            let parts = [
                (Part::Certificate, row.certificate_on),
                (Part::Key, row.key_on),
                (Part::Kubeconfig, row.certificate_on),
            ];
            for (part, roles) in parts {
                let here = roles.iter().any(|role| node.has(*role));
                let known = part != Part::Kubeconfig || names::has_host_config(&entry);
                if here && known && !part.text_of(present).is_empty() {
                    files.push(file(node, config, &entry, part));
                }
            }
        }
    }
    files.sort();
    files
}

/// Whether an entry is the cluster's or this node's own.
fn belongs(row: &Row, entry: &str, node: &Node) -> bool {
    row.per == Per::Cluster || entry == format!("{}-{}", row.id, names::host_id(node))
}

fn file(node: &Node, config: &ClusterConfig, entry: &str, part: Part) -> HostFile {
    let name = part.file_of(entry);
    let owner = config.etcd_owner().filter(|_| node.has(Role::Etcd));
    let (mode, owner) = match owner {
        // etcd does not run as root then, and must read both.
        Some(ids) if name.contains(names::KUBE_ETCD) => (0o600, ids),
        Some(_) if name == names::certificate_file(names::KUBE_CA) => (0o644, (0, 0)),
        _ => (0o600, (0, 0)),
    };
    HostFile {
        name,
        mode,
        owner,
        entry: entry.to_owned(),
        part,
    }
}

/// The containers that RKE runs on a node's host and that read files of ours, in the order in
/// which RKE restarts them.
pub fn components_of(node: &Node) -> Vec<Service> {
    let mut components = Vec::new();
    if node.has(Role::Etcd) {
        components.push(Service::Etcd);
    }
    if node.has(Role::ControlPlane) {
        components.extend([
            Service::KubeApiserver,
            Service::KubeControllerManager,
            Service::KubeScheduler,
        ]);
    }
    components.extend([Service::Kubelet, Service::KubeProxy]);
    components
}

/// The containers that read a file of [`names::SSL_DIRECTORY`], by the flags that RKE gives them
/// (`cluster/plan.go`), through kubeconfigs that name it, and by `extra_args` of `cluster.yml`.
///
/// RKE's own list of what to restart forgets scheduler and kube-proxy, whose kubeconfigs name
/// `kube-ca.pem`, and that the API server shows `kube-node` to etcd.
pub fn readers(file: &str, config: &ClusterConfig) -> Vec<Service> {
    let mut readers = by_flags(file, config);
    for (service, named) in &config.extra_files {
        if named == file && !readers.contains(service) {
            readers.push(*service);
        }
    }
    readers.sort_unstable();
    readers
}

/// The containers on `node`'s host that read any of these files, in the order of
/// [`components_of`].
pub fn affected(node: &Node, files: &[HostFile], config: &ClusterConfig) -> Vec<Service> {
    let mut components = components_of(node);
    components.retain(|component| {
        files
            .iter()
            .any(|file| readers(&file.name, config).contains(component))
    });
    components
}

/// Whether an API server was started with these arguments by RKE before 0.2: it checks
/// service-account tokens with its own certificate's key (`cluster/certificates.go`).
pub fn is_legacy_apiserver(arguments: &[String]) -> bool {
    let key = names::key_path(names::KUBE_APISERVER);
    let mut arguments = arguments.iter();
    arguments.any(|it| it.contains("service-account-key-file") && it.contains(&key))
}

fn by_flags(file: &str, config: &ClusterConfig) -> Vec<Service> {
    let (entry, part) = match (file.strip_prefix("kubecfg-"), file.strip_suffix("-key.pem")) {
        (Some(rest), _) => (rest.strip_suffix(".yaml"), Part::Kubeconfig),
        (None, Some(entry)) => (Some(entry), Part::Key),
        (None, None) => (file.strip_suffix(".pem"), Part::Certificate),
    };
    let Some(row) = entry.and_then(row_of) else {
        return Vec::new();
    };
    match (row.id, part) {
        (names::KUBE_CA, Part::Certificate) => Service::ALL.to_vec(),
        (names::REQUEST_HEADER_CA, Part::Certificate)
        | (names::KUBE_APISERVER | names::PROXY_CLIENT, Part::Certificate | Part::Key)
        | (names::ETCD_CLIENT, Part::Certificate | Part::Key)
        | (names::ETCD_CLIENT_CA, Part::Certificate) => vec![Service::KubeApiserver],
        (names::SERVICE_ACCOUNT_TOKEN, Part::Key) => {
            vec![Service::KubeApiserver, Service::KubeControllerManager]
        }
        // The API server shows it to an etcd of RKE's.
        (names::KUBE_NODE, Part::Certificate | Part::Key) if !config.has_external_etcd() => {
            vec![Service::KubeApiserver, Service::Kubelet]
        }
        // The CA keys, the service-account certificate, and kubeconfigs that nobody uses.
        (names::KUBE_CA | names::REQUEST_HEADER_CA | names::PROXY_CLIENT, _)
        | (names::SERVICE_ACCOUNT_TOKEN, _) => Vec::new(),
        _ => row.service.into_iter().collect(),
    }
}
