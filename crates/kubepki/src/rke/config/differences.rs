//! Where a `cluster.yml` differs from what the state was made for, as far as certificates go.

use std::fmt;

use super::{ClusterConfig, Node};

/// One difference. RKE's rotation goes by the state; `rke up` goes by `cluster.yml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A node that only `cluster.yml` has.
    NodeAdded {
        /// Its address.
        address: String,
    },
    /// A node that only the state has.
    NodeRemoved {
        /// Its address.
        address: String,
    },
    /// The same nodes in another order, which is the order of SANs.
    NodeOrder,
    /// A node with another value.
    Node {
        /// Its address.
        address: String,
        /// The key in `cluster.yml`.
        key: &'static str,
        /// The value in the state.
        current: String,
        /// The value in `cluster.yml`.
        wanted: String,
    },
    /// Another value of the whole cluster.
    Cluster {
        /// The key in `cluster.yml`: `authentication.sans`.
        key: &'static str,
        /// The value in the state.
        current: String,
        /// The value in `cluster.yml`.
        wanted: String,
    },
    /// Another text that is not shown: certificates and keys.
    Hidden {
        /// The key in `cluster.yml`.
        key: &'static str,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeAdded { address } => {
                write!(f, "node {address} is in cluster.yml and not in the state")
            }
            Self::NodeRemoved { address } => {
                write!(f, "node {address} is in the state and not in cluster.yml")
            }
            Self::NodeOrder => {
                f.write_str("the nodes stand in another order in cluster.yml than in the state")
            }
            Self::Node {
                address,
                key,
                current,
                wanted,
            } => write!(
                f,
                "node {address}: {key} is {wanted} in cluster.yml and {current} in the state"
            ),
            Self::Cluster {
                key,
                current,
                wanted,
            } => write!(
                f,
                "{key} is {wanted} in cluster.yml and {current} in the state"
            ),
            Self::Hidden { key } => write!(f, "{key} in cluster.yml is not that of the state"),
        }
    }
}

/// What certificates would come out otherwise if `wanted` (`cluster.yml`) counted instead of
/// `current` (the state's `rkeConfig`): nodes, names, ranges, switches, external etcd.
pub fn differences(current: &ClusterConfig, wanted: &ClusterConfig) -> Vec<Difference> {
    let mut found = nodes(current, wanted);
    for ((key, current), (_, wanted)) in fields(current).into_iter().zip(fields(wanted)) {
        if current != wanted {
            found.push(Difference::Cluster {
                key,
                current,
                wanted,
            });
        }
    }
    let hidden = [
        (
            "services.etcd.ca_cert",
            current.etcd.ca_cert == wanted.etcd.ca_cert,
        ),
        ("services.etcd.cert", current.etcd.cert == wanted.etcd.cert),
        ("services.etcd.key", current.etcd.key == wanted.etcd.key),
    ];
    let differing = hidden.into_iter().filter(|(_, same)| !same);
    found.extend(differing.map(|(key, _)| Difference::Hidden { key }));
    found
}

/// What concerns the whole cluster, as text.
fn fields(config: &ClusterConfig) -> [(&'static str, String); 7] {
    let list = |items: &[String]| format!("[{}]", items.join(", "));
    [
        ("cluster_name", config.cluster_name.clone()),
        ("authentication.sans", list(&config.sans)),
        (
            "services.kube-api.service_cluster_ip_range",
            config.service_range.clone(),
        ),
        (
            "services.kubelet.cluster_domain",
            config.cluster_domain.clone(),
        ),
        (
            "services.kubelet.generate_serving_certificate",
            config.serving_certificates.to_string(),
        ),
        (
            "services.etcd.external_urls",
            list(&config.etcd.external_urls),
        ),
        (
            "services.etcd.uid:gid",
            format!("{}:{}", config.etcd.uid, config.etcd.gid),
        ),
    ]
}

fn nodes(current: &ClusterConfig, wanted: &ClusterConfig) -> Vec<Difference> {
    let mut found = Vec::new();
    for node in &wanted.nodes {
        match current.node(&node.address) {
            Some(former) => found.extend(node_differences(former, node)),
            None => found.push(Difference::NodeAdded {
                address: node.address.clone(),
            }),
        }
    }
    let gone = current
        .nodes
        .iter()
        .filter(|node| wanted.node(&node.address).is_none());
    found.extend(gone.map(|node| Difference::NodeRemoved {
        address: node.address.clone(),
    }));
    let common = |config: &ClusterConfig, other: &ClusterConfig| -> Vec<String> {
        let nodes = config.nodes.iter().map(|node| node.address.clone());
        nodes
            .filter(|address| other.node(address).is_some())
            .collect()
    };
    if common(current, wanted) != common(wanted, current) {
        found.push(Difference::NodeOrder);
    }
    found
}

fn node_differences(current: &Node, wanted: &Node) -> Vec<Difference> {
    let roles = |node: &Node| {
        let mut roles = node.roles.clone();
        roles.sort_unstable();
        roles.dedup();
        let names: Vec<_> = roles.into_iter().map(super::Role::name).collect();
        format!("[{}]", names.join(", "))
    };
    let fields = [
        ("role", roles(current), roles(wanted)),
        (
            "internal_address",
            current.internal_address.clone(),
            wanted.internal_address.clone(),
        ),
        (
            "hostname_override",
            current.hostname.clone(),
            wanted.hostname.clone(),
        ),
    ];
    let differing = fields.into_iter().filter(|(_, from, to)| from != to);
    differing
        .map(|(key, current, to)| Difference::Node {
            address: wanted.address.clone(),
            key,
            current,
            wanted: to,
        })
        .collect()
}
