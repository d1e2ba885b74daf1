//! What must exist: one typed table for each distribution.
//!
//! A [`Flavour`] is data. Generation, renewal, checks and reports all read the same rows, so a
//! certificate that is in the table is known to every part, and one that is not is known to
//! none. What only a cluster knows stands as a named placeholder ([`SanRule`], [`CommonName`]),
//! resolved in one place. Adding a distribution means adding rows.

mod check;
mod k3s;
mod release;
mod row;
mod services;

use std::path::PathBuf;

use pki::Purpose;

pub use check::{TableFault, check_table};
pub use k3s::K3S;
pub use release::{Release, ReleaseError, Since};

/// A Kubernetes distribution's certificates.
#[derive(Debug)]
pub struct Flavour {
    /// `k3s`.
    pub name: &'static str,
    /// Every file, in the order in which a first start makes them.
    pub rows: &'static [Row],
    /// The units that an operator can rotate.
    pub services: &'static [Service],
}

/// One file or certificate-and-key pair.
#[derive(Debug)]
pub struct Row {
    /// Its name, unique in the flavour: `client-admin`, `agent/client-kubelet`.
    pub id: &'static str,
    /// What it is for, for reports.
    pub summary: &'static str,
    /// Which node has it, and under which directory.
    pub side: Side,
    /// Path under that directory; of a pair the stem, without `.crt` and `.key`.
    pub path: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// From which release on it exists.
    pub since: Since,
    /// From which release on it exists no more.
    pub until: Option<Since>,
    /// When it may be missing: the setting that it depends on.
    pub depends_on: Option<&'static str>,
    /// Why it is odd, if it is.
    pub because: Option<&'static str>,
}

/// Which directory of the data dir a row lives under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// `<data>/server`: control plane.
    Server,
    /// `<data>/agent`: kubelet and kube-proxy, on every node.
    Agent,
    /// The admin kubeconfig, outside the data dir.
    Admin,
}

/// What a row holds.
#[derive(Debug)]
pub enum Kind {
    /// A CA pair.
    Authority {
        /// CN when K3s makes it itself, without `@<unix seconds>`.
        common_name: &'static str,
        /// What it signs, in words.
        signs: &'static str,
    },
    /// A leaf pair, its certificate followed by the CA's whole file.
    Leaf(LeafSpec),
    /// A private key without a certificate.
    Key,
    /// The first certificate of a CA's file.
    FirstOf {
        /// The CA's row.
        authority: &'static str,
    },
    /// An agent's copy of a CA file.
    CopyOf {
        /// The CA's row.
        authority: &'static str,
    },
    /// A kubeconfig that points to files.
    Kubeconfig {
        /// The client leaf's row.
        leaf: &'static str,
        /// Path of the server CA under the row's own side.
        authority: &'static str,
    },
    /// The kubeconfig that inlines the administrator's certificate and key.
    AdminKubeconfig {
        /// The client leaf's row.
        leaf: &'static str,
        /// The row of the CA that it trusts.
        authority: &'static str,
    },
    /// Service-account keys: the first signs, all verify.
    ServiceAccountKeys,
    /// The first key of the service-account keys.
    CurrentServiceAccountKey,
    /// The dynamic listener's certificate, as a Secret.
    Listener {
        /// The CA's row.
        authority: &'static str,
    },
    /// Bytes that must stay secret: passwords, tokens, pre-shared keys.
    Secret,
    /// A link, or a file of its own, that says what [`Kind::Secret`] says.
    TokenAlias,
    /// Configuration without secrets.
    Plain,
}

/// A leaf's profile.
#[derive(Debug)]
pub struct LeafSpec {
    /// The row of the CA that signs.
    pub authority: &'static str,
    /// Each `O`.
    pub organizations: &'static [&'static str],
    /// `CN`.
    pub common_name: CommonName,
    /// Extended key usage, in order.
    pub purposes: &'static [Purpose],
    /// Subject alternative names, in order.
    pub sans: &'static [SanRule],
    /// The `CN` that older releases gave it, without any `O`. A leaf that has it keeps it: only
    /// K3s knows when it changes over.
    pub formerly: Option<&'static str>,
}

/// A subject's common name.
#[derive(Debug, PartialEq, Eq)]
pub enum CommonName {
    /// Always this.
    Literal(&'static str),
    /// This, then the node's name.
    NodeNamed(&'static str),
}

/// Subject alternative names that only a cluster knows.
#[derive(Debug, PartialEq, Eq)]
pub enum SanRule {
    /// Always this.
    Literal(&'static str),
    /// This, from a release on.
    LiteralSince(&'static str, Since),
    /// `kubernetes`, `kubernetes.default`, `kubernetes.default.svc` and that with the domain.
    KubernetesService,
    /// The list of reference section 1.5: `--tls-san`, loopback, node name and addresses, the
    /// first service address.
    ServerNames,
    /// The node's name.
    NodeName,
    /// The node's addresses.
    NodeAddresses,
}

/// A unit of rotation: `k3s certificate rotate --service NAME`.
#[derive(Debug)]
pub struct Service {
    /// Its name on the command line.
    pub name: &'static str,
    /// Whether it belongs to the list for servers or for agents.
    pub side: Side,
    /// Its rows in K3s's order.
    pub rows: &'static [&'static str],
}

impl Flavour {
    /// The row called `id`.
    pub fn row(&self, id: &str) -> Option<&'static Row> {
        self.rows.iter().find(|row| row.id == id)
    }

    /// The service called `name`.
    pub fn service(&self, name: &str) -> Option<&'static Service> {
        self.services.iter().find(|service| service.name == name)
    }

    /// The service that rotates `row`.
    pub fn service_of(&self, row: &Row) -> Option<&'static Service> {
        self.services
            .iter()
            .find(|service| service.rows.contains(&row.id))
    }

    /// The leaves that the CA `authority` signs.
    pub fn signed_by(&self, authority: &str) -> impl Iterator<Item = &'static Row> {
        self.rows
            .iter()
            .filter(move |row| row.leaf().is_some_and(|leaf| leaf.authority == authority))
    }
}

impl Row {
    /// The leaf's profile, if it is one.
    pub fn leaf(&'static self) -> Option<&'static LeafSpec> {
        match &self.kind {
            Kind::Leaf(leaf) => Some(leaf),
            _ => None,
        }
    }

    /// Whether it is a CA.
    pub fn is_authority(&self) -> bool {
        matches!(self.kind, Kind::Authority { .. })
    }

    /// Whether certificate and key are two files.
    pub fn is_pair(&self) -> bool {
        matches!(self.kind, Kind::Authority { .. } | Kind::Leaf(_))
    }

    /// The file with the certificate, or the only file, under its side's directory.
    pub fn file(&self) -> PathBuf {
        match self.is_pair() {
            true => PathBuf::from(format!("{}.crt", self.path)),
            false => PathBuf::from(self.path),
        }
    }

    /// The file with the private key, under its side's directory.
    pub fn key_file(&self) -> Option<PathBuf> {
        match self.kind {
            Kind::Authority { .. } | Kind::Leaf(_) => {
                Some(PathBuf::from(format!("{}.key", self.path)))
            }
            Kind::Key | Kind::ServiceAccountKeys | Kind::CurrentServiceAccountKey => {
                Some(PathBuf::from(self.path))
            }
            _ => None,
        }
    }

    /// The mode of [`Self::file`] where K3s makes it: certificates are readable on servers,
    /// everything else is for root alone.
    pub fn mode(&self) -> u32 {
        match (&self.kind, self.side) {
            (Kind::Authority { .. } | Kind::Leaf(_) | Kind::FirstOf { .. }, Side::Server) => 0o644,
            _ => 0o600,
        }
    }

    /// Whether a cluster of `release` has it.
    pub fn exists_in(&self, release: Release) -> bool {
        self.since.includes(release) && !self.until.is_some_and(|until| until.includes(release))
    }
}
