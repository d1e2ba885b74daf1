//! What the operator wants: the node's names and addresses, and how long leaves live.

mod desired;
mod startup;

use std::net::IpAddr;

use pki::{DAY, KeyAlgorithm, San};

use crate::inventory::DetectedRelease;

pub use desired::{LeafWant, WantError, listener_sans, want};
pub use startup::{Leaf, Regenerates, k3s_keeps};

/// A node as K3s's flags describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// `--node-name`, lower-case.
    pub name: String,
    /// `--node-ip`.
    pub addresses: Vec<IpAddr>,
    /// `--node-external-ip`.
    pub external_addresses: Vec<IpAddr>,
    /// `--tls-san`, in order.
    pub tls_sans: Vec<String>,
    /// `--cluster-domain`.
    pub cluster_domain: String,
    /// The first usable address of the first service CIDR.
    pub service_address: IpAddr,
}

impl NodeSpec {
    /// The names that API server, etcd and listener share, in K3s's order (reference section
    /// 1.5), without duplicates.
    pub fn server_names(&self) -> Vec<San> {
        let short = self.name.split_once('.').map(|(short, _)| short);
        let texts = self
            .tls_sans
            .iter()
            .cloned()
            .chain(["127.0.0.1", "::1", "localhost"].map(str::to_owned))
            .chain([self.name.clone()])
            .chain(self.external_addresses.iter().map(ToString::to_string))
            .chain(short.map(str::to_owned))
            .chain(self.addresses.iter().map(ToString::to_string))
            .chain([self.service_address.to_string()]);
        let mut names: Vec<San> = Vec::new();
        for san in texts.map(|text| San::from_text(&text)) {
            if !names.contains(&san) {
                names.push(san);
            }
        }
        names
    }

    /// The API server's names inside the cluster.
    pub fn service_names(&self) -> Vec<San> {
        let inside = "kubernetes.default.svc";
        ["kubernetes", "kubernetes.default", inside]
            .into_iter()
            .map(str::to_owned)
            .chain([format!("{inside}.{}", self.cluster_domain)])
            .map(San::Dns)
            .collect()
    }
}

/// What is wanted of an existing tree beyond what its certificates say.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// The node, where flags or configuration describe it; needed for certificates that are
    /// missing.
    pub node: Option<NodeSpec>,
    /// Names that servers must carry: `--tls-san`, config.yaml, the unit.
    pub add_sans: Vec<San>,
    /// Names that they must carry no more: `--tls-san-drop`.
    pub drop_sans: Vec<San>,
    /// Which K3s.
    pub release: DetectedRelease,
}

/// Lifetimes, windows and keys.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Seconds before the end from which a leaf is due.
    pub window: i64,
    /// A leaf's lifetime in seconds.
    pub lifetime: i64,
    /// Seconds that notBefore lies back, for clocks that are behind.
    pub backdate: i64,
    /// Whether leaves keep their keys.
    pub keep_key: bool,
    /// What new keys are.
    pub algorithm: KeyAlgorithm,
}

/// Seconds before its end from which a leaf of `lifetime` seconds is due where `most` is K3s's window:
/// a third of its life at most. K3s renews leaves of less than its window at every start; who looks
/// every few hours would do so every few hours.
pub fn renewal_window(most: i64, lifetime: i64) -> i64 {
    most.min(lifetime / 3)
}

impl Policy {
    /// The same for leaves that live `lifetime` seconds.
    pub fn lasting(self, lifetime: i64) -> Self {
        Self {
            window: renewal_window(self.window, lifetime),
            lifetime,
            ..self
        }
    }

    /// The same without a window: only what has expired is due by its date.
    pub fn undated(self) -> Self {
        Self { window: -1, ..self }
    }

    /// K3s's: 365 days, one hour back, P-256, the window of the release.
    pub fn k3s(release: DetectedRelease) -> Self {
        Self {
            window: release.renewal_window_days() * DAY,
            lifetime: 365 * DAY,
            backdate: 3_600,
            keep_key: false,
            algorithm: KeyAlgorithm::P256,
        }
    }
}
