//! Every certificate of an RKE cluster: rows only.
//!
//! They are rows of their own kind, not [`crate::catalogue::Row`]s: an entry of RKE belongs to a
//! cluster or to each node of a role, its files are named after it and lie on many hosts at once,
//! and its names follow one rule for the whole cluster. K3s's rows are paths on one node.

use pki::Purpose::{self, ClientAuth, ServerAuth};

use super::generate::Service;
use super::{ClusterConfig, Node, Role, names};

/// One entry of the bundle, or one for each node of a kind.
#[derive(Debug)]
pub struct Row {
    /// The entry's name; of a row for nodes, what goes before `-` and the node's id.
    pub id: &'static str,
    /// What it is for, for reports.
    pub summary: &'static str,
    /// Whether there is one, or one for each node.
    pub per: Per,
    /// What it holds.
    pub kind: Kind,
    /// In which clusters it exists.
    pub when: When,
    /// The hosts that have the certificate, and the kubeconfig if there is one: those of any of
    /// these roles.
    pub certificate_on: &'static [Role],
    /// The hosts that have the key.
    pub key_on: &'static [Role],
    /// The `--service` that renews it.
    pub service: Option<Service>,
    /// Why it is odd, if it is.
    pub because: Option<&'static str>,
}

/// How many of a row there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// One.
    Cluster,
    /// One for each node with this role, for its host alone.
    NodeWith(Role),
    /// One for each node, for its host alone.
    Node,
}

/// In which clusters a row exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// In all.
    Always,
    /// With `services.kubelet.generate_serving_certificate`.
    ServingCertificates,
    /// With `services.etcd.external_urls`.
    ExternalEtcd,
}

/// What a row holds.
#[derive(Debug)]
pub enum Kind {
    /// A self-signed CA whose CN is its name.
    Authority,
    /// A leaf.
    Leaf(Profile),
    /// The key of service-account tokens with a certificate that nobody reads. No rotation
    /// touches it, so that tokens stay valid.
    ServiceAccountKey(Profile),
    /// What `cluster.yml` brings along.
    Given,
}

/// A leaf's profile.
#[derive(Debug)]
pub struct Profile {
    /// The entry of the CA that signs.
    pub issuer: &'static str,
    /// `CN`.
    pub common_name: CommonName,
    /// Each `O`.
    pub organizations: &'static [&'static str],
    /// Extended key usage, in order.
    pub purposes: &'static [Purpose],
    /// Subject alternative names.
    pub sans: SanRule,
}

/// A subject's common name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommonName {
    /// Always this.
    Literal(&'static str),
    /// The entry's name.
    Entry,
}

/// Which names a leaf has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SanRule {
    /// None.
    None,
    /// [`super::kube_apiserver_sans`].
    KubeApiserver,
    /// [`super::etcd_sans`].
    Etcd,
    /// [`super::kubelet_sans`].
    Kubelet,
}

/// Days that a CA is valid: ten years without leap days, as RKE has it.
pub const AUTHORITY_DAYS: i64 = 3650;
/// Days that a leaf is valid, unless its CA ends before: we issue none that outlives its CA, RKE
/// does.
pub const LEAF_DAYS: i64 = 3650;
/// Bits of every key: RKE reads no other kind than RSA.
pub const KEY_BITS: u32 = 2048;

const EVERYWHERE: &[Role] = &[Role::ControlPlane, Role::Etcd, Role::Worker];
const CONTROL_PLANE: &[Role] = &[Role::ControlPlane];
const ETCD: &[Role] = &[Role::Etcd];
const NOWHERE: &[Role] = &[];

const CLIENT: &[Purpose] = &[ClientAuth];
const BOTH: &[Purpose] = &[ClientAuth, ServerAuth];

const CA_KEY_ON_HOSTS: &str = "RKE keeps the cluster CA's key on every control-plane host, where \
     `rke` can find it when the state file is lost; so do we, and nowhere else";
const SHARED_IDENTITY: &str = "one kubelet identity for all nodes; the API server uses it towards \
     etcd, too";
const SERVES_AND_ASKS: &str = "RKE lets this client be a server, too";
const OWN_HOST_ONLY: &str = "RKE gives every node the keys of all; we give each its own";

/// Every row, in the order in which RKE makes them.
pub static RKE: &[Row] = &[
    Row {
        because: Some(CA_KEY_ON_HOSTS),
        ..authority(
            names::KUBE_CA,
            "signs every certificate of the cluster",
            EVERYWHERE,
        )
    },
    authority(
        names::REQUEST_HEADER_CA,
        "signs the API server's certificate towards aggregated API servers",
        CONTROL_PLANE,
    ),
    Row {
        service: Some(Service::KubeApiserver),
        ..leaf(
            names::KUBE_APISERVER,
            "the API server, to clients and towards kubelets",
            CONTROL_PLANE,
            profile(CommonName::Entry, BOTH, SanRule::KubeApiserver),
        )
    },
    Row {
        kind: Kind::ServiceAccountKey(profile(CommonName::Entry, CLIENT, SanRule::None)),
        because: Some("only the key matters; its certificate is never renewed"),
        ..leaf(
            names::SERVICE_ACCOUNT_TOKEN,
            "the key that signs service-account tokens",
            CONTROL_PLANE,
            profile(CommonName::Entry, CLIENT, SanRule::None),
        )
    },
    component(
        names::KUBE_CONTROLLER_MANAGER,
        "the controller manager towards the API server",
        Service::KubeControllerManager,
        CONTROL_PLANE,
        profile(
            CommonName::Literal("system:kube-controller-manager"),
            CLIENT,
            SanRule::None,
        ),
    ),
    component(
        names::KUBE_SCHEDULER,
        "the scheduler towards the API server",
        Service::KubeScheduler,
        CONTROL_PLANE,
        profile(
            CommonName::Literal("system:kube-scheduler"),
            CLIENT,
            SanRule::None,
        ),
    ),
    component(
        names::KUBE_PROXY,
        "kube-proxy towards the API server",
        Service::KubeProxy,
        EVERYWHERE,
        profile(
            CommonName::Literal("system:kube-proxy"),
            CLIENT,
            SanRule::None,
        ),
    ),
    Row {
        because: Some(SHARED_IDENTITY),
        ..component(
            names::KUBE_NODE,
            "kubelets towards the API server, and the API server towards etcd",
            Service::Kubelet,
            EVERYWHERE,
            Profile {
                organizations: &["system:nodes"],
                ..profile(CommonName::Literal("system:node"), CLIENT, SanRule::None)
            },
        )
    },
    Row {
        because: Some("system:masters bypasses RBAC and cannot be taken away by it"),
        ..leaf(
            names::KUBE_ADMIN,
            "the administrator, in the local kubeconfig only",
            NOWHERE,
            Profile {
                organizations: &["system:masters"],
                ..profile(CommonName::Entry, CLIENT, SanRule::None)
            },
        )
    },
    Row {
        because: Some(SERVES_AND_ASKS),
        ..leaf(
            names::PROXY_CLIENT,
            "the API server towards aggregated API servers",
            CONTROL_PLANE,
            Profile {
                issuer: names::REQUEST_HEADER_CA,
                ..profile(CommonName::Entry, BOTH, SanRule::None)
            },
        )
    },
    Row {
        per: Per::NodeWith(Role::Etcd),
        because: Some(OWN_HOST_ONLY),
        ..component(
            names::KUBE_ETCD,
            "an etcd member, to clients and other members",
            Service::Etcd,
            ETCD,
            profile(CommonName::Literal("kube-etcd"), BOTH, SanRule::Etcd),
        )
    },
    Row {
        per: Per::Node,
        when: When::ServingCertificates,
        because: Some(OWN_HOST_ONLY),
        ..component(
            names::KUBE_KUBELET,
            "a kubelet as server",
            Service::Kubelet,
            EVERYWHERE,
            profile(CommonName::Entry, BOTH, SanRule::Kubelet),
        )
    },
    given(
        names::ETCD_CLIENT,
        "the API server towards the external etcd",
        CONTROL_PLANE,
    ),
    given(
        names::ETCD_CLIENT_CA,
        "what the external etcd is trusted by",
        NOWHERE,
    ),
];

const fn row(id: &'static str, summary: &'static str, hosts: &'static [Role], kind: Kind) -> Row {
    Row {
        id,
        summary,
        per: Per::Cluster,
        kind,
        when: When::Always,
        certificate_on: hosts,
        key_on: hosts,
        service: None,
        because: None,
    }
}

const fn authority(id: &'static str, summary: &'static str, hosts: &'static [Role]) -> Row {
    Row {
        key_on: CONTROL_PLANE,
        ..row(id, summary, hosts, Kind::Authority)
    }
}

const fn leaf(
    id: &'static str,
    summary: &'static str,
    hosts: &'static [Role],
    profile: Profile,
) -> Row {
    row(id, summary, hosts, Kind::Leaf(profile))
}

const fn component(
    id: &'static str,
    summary: &'static str,
    service: Service,
    hosts: &'static [Role],
    profile: Profile,
) -> Row {
    Row {
        service: Some(service),
        ..row(id, summary, hosts, Kind::Leaf(profile))
    }
}

const fn given(id: &'static str, summary: &'static str, keys: &'static [Role]) -> Row {
    Row {
        when: When::ExternalEtcd,
        key_on: keys,
        ..row(id, summary, CONTROL_PLANE, Kind::Given)
    }
}

const fn profile(common_name: CommonName, purposes: &'static [Purpose], sans: SanRule) -> Profile {
    Profile {
        issuer: names::KUBE_CA,
        common_name,
        organizations: &[],
        purposes,
        sans,
    }
}

/// The row that `entry` belongs to; `None` for foreign names.
pub fn row_of(entry: &str) -> Option<&'static Row> {
    let whole = RKE
        .iter()
        .find(|row| row.per == Per::Cluster && row.id == entry);
    whole.or_else(|| {
        RKE.iter().find(|row| {
            let id = entry.strip_prefix(row.id);
            row.per != Per::Cluster && id.is_some_and(|id| id.starts_with('-'))
        })
    })
}

impl Row {
    /// Whether a cluster of that configuration has it.
    pub fn exists_in(&self, config: &ClusterConfig) -> bool {
        match self.when {
            When::Always => true,
            When::ServingCertificates => config.serving_certificates,
            When::ExternalEtcd => config.has_external_etcd(),
        }
    }

    /// The names of its entries in a cluster, each with the node that it is for, in the order of
    /// the nodes.
    pub fn entries<'c>(&self, config: &'c ClusterConfig) -> Vec<(String, Option<&'c Node>)> {
        let named = |node: &'c Node| (format!("{}-{}", self.id, names::host_id(node)), Some(node));
        match self.per {
            Per::Cluster => vec![(self.id.to_owned(), None)],
            Per::NodeWith(role) => config.with_role(role).map(named).collect(),
            Per::Node => config.nodes.iter().map(named).collect(),
        }
    }

    /// The profile of a leaf, or of the service-account key's certificate.
    pub fn profile(&self) -> Option<&Profile> {
        match &self.kind {
            Kind::Leaf(profile) | Kind::ServiceAccountKey(profile) => Some(profile),
            Kind::Authority | Kind::Given => None,
        }
    }
}
