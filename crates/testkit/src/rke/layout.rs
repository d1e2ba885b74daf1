//! Which nodes a cluster has, and what RKE writes onto each.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::Value;

use super::network::Network;

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `controlplane`.
    ControlPlane,
    /// `etcd`.
    Etcd,
    /// `worker`.
    Worker,
}

impl Role {
    /// As `cluster.yml` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ControlPlane => "controlplane",
            Self::Etcd => "etcd",
            Self::Worker => "worker",
        }
    }
}

/// A cluster to be.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Name, last byte of the address, roles.
    pub nodes: Vec<(String, u8, Vec<Role>)>,
    /// `services.kubelet.generate_serving_certificate`.
    pub serving_certificates: bool,
    /// The user in `cluster.yml`: `root` or [`USER`](super::USER).
    pub user: String,
    /// `prefix_path`.
    pub prefix: String,
    /// More lines of `cluster.yml`, top-level keys.
    pub more: String,
    /// Whether it is to have the addresses of fixture `rke-1.6-live`: `10.99.0.0/24`.
    pub recorded: bool,
    /// Components call each other five times more rarely: most of what a cluster costs, and worth
    /// it only where calls are looked at.
    pub calm: bool,
}

impl Spec {
    /// Three nodes, etcd on each, control plane on `cp1` (.11) and `cp2` (.12), `w1` (.13) behind
    /// nginx-proxy; serving certificates, root.
    pub fn three() -> Self {
        use Role::{ControlPlane, Etcd, Worker};

        let control = vec![ControlPlane, Etcd, Worker];
        Self {
            nodes: vec![
                ("cp1".to_owned(), 11, control.clone()),
                ("cp2".to_owned(), 12, control),
                ("w1".to_owned(), 13, vec![Etcd, Worker]),
            ],
            serving_certificates: true,
            user: "root".to_owned(),
            prefix: "/".to_owned(),
            more: String::new(),
            recorded: false,
            calm: false,
        }
    }

    /// The same, for tests that do not look at who calls whom.
    pub fn calm() -> Self {
        Self {
            calm: true,
            ..Self::three()
        }
    }

    /// The nodes of fixture `rke-1.6-live`: control plane and etcd on `cp1` and `cp2`, `w1` a
    /// worker, all with its addresses.
    pub fn recorded() -> Self {
        use Role::{ControlPlane, Etcd, Worker};

        let control = vec![ControlPlane, Etcd];
        Self {
            nodes: vec![
                ("cp1".to_owned(), 11, control.clone()),
                ("cp2".to_owned(), 12, control),
                ("w1".to_owned(), 13, vec![Worker]),
            ],
            recorded: true,
            ..Self::three()
        }
    }
}

/// A node with its address.
#[derive(Clone, Debug)]
pub struct Node {
    /// `hostname_override`.
    pub name: String,
    /// `address`, and `internal_address` too.
    pub address: Ipv4Addr,
    /// What it is for.
    pub roles: Vec<Role>,
}

impl Node {
    /// Whether it has a role.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// As in the names of its certificates: `10-99-0-11`.
    pub fn id(&self) -> String {
        self.address.to_string().replace('.', "-")
    }
}

/// A cluster with addresses.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) nodes: Vec<Node>,
    pub(super) serving_certificates: bool,
    pub(super) calm: bool,
    prefix: String,
}

impl Layout {
    pub(super) fn new(spec: &Spec, network: &Network) -> Self {
        let nodes = spec.nodes.iter().map(|(name, last, roles)| Node {
            name: name.clone(),
            address: network.address(*last),
            roles: roles.clone(),
        });
        Self {
            nodes: nodes.collect(),
            serving_certificates: spec.serving_certificates,
            calm: spec.calm,
            prefix: spec.prefix.trim_end_matches('/').to_owned(),
        }
    }

    /// Where a path of RKE's lies on hosts.
    pub(super) fn on_host(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// A bind of such a path.
    pub(super) fn bind(&self, path: &str, inside: &str) -> String {
        format!("{}:{inside}", self.on_host(path))
    }

    /// `cluster.yml` as an operator writes it.
    pub(super) fn cluster_yml(&self, spec: &Spec, key: &Path) -> String {
        let mut text =
            "cluster_name: local\nkubernetes_version: v1.30.5-rancher1-1\nnodes:\n".to_owned();
        for node in &self.nodes {
            let roles: Vec<_> = node.roles.iter().map(|it| it.name()).collect();
            text.push_str(&format!(
                "  - address: {}\n    hostname_override: {}\n    user: {}\n    role: [{}]\n",
                node.address,
                node.name,
                spec.user,
                roles.join(", ")
            ));
        }
        text.push_str(&format!(
            "services:\n  kubelet:\n    generate_serving_certificate: {}\nnetwork:\n  plugin: canal\nssh_key_path: {}\n",
            spec.serving_certificates,
            key.display()
        ));
        if spec.prefix != "/" {
            text.push_str(&format!("prefix_path: {}\n", spec.prefix));
        }
        text.push_str(&spec.more);
        text
    }

    /// A recorded `cluster.yml` or state file with these machines in place of its own: their
    /// addresses for `127.0.0.x`, the usual socket, the operator's key. Nothing else changes.
    pub(super) fn adopted(&self, text: &str, key: &Path) -> String {
        let mut text = text.replace("\"./id\"", &format!("\"{}\"", key.display()));
        text = text.replace(": ./id\n", &format!(": {}\n", key.display()));
        for node in &self.nodes {
            let [.., last] = node.address.octets();
            text = text.replace(&format!("127.0.0.{last}"), &node.address.to_string());
        }
        for number in 1..=self.nodes.len() {
            text = text.replace(
                &format!("/run/h{number}-docker.sock"),
                "/var/run/docker.sock",
            );
        }
        text
    }

    /// What RKE's deployer puts into a node's `/etc/kubernetes/ssl`, by file name, from the
    /// `certificatesBundle` of a state file; every node gets what RKE gives it, which is more than
    /// it needs.
    pub(super) fn files(&self, node: &Node, bundle: &Value) -> BTreeMap<String, String> {
        let mut names = vec!["kube-ca", "kube-node", "kube-proxy"];
        if node.has(Role::ControlPlane) {
            names.extend([
                "kube-apiserver",
                "kube-service-account-token",
                "kube-controller-manager",
                "kube-scheduler",
                "kube-etcd-client",
                "kube-etcd-client-ca",
                "kube-apiserver-requestheader-ca",
                "kube-apiserver-proxy-client",
            ]);
        }
        let entries = bundle.as_object().into_iter().flatten();
        let mut files = BTreeMap::new();
        for (name, entry) in entries {
            let everybodys = name.starts_with("kube-kubelet-")
                || name.starts_with("kube-etcd-1") && node.has(Role::Etcd);
            if !everybodys && !names.contains(&name.as_str()) {
                continue;
            }
            let mut put = |file: String, field: &str| {
                let text = entry.get(field).and_then(Value::as_str).unwrap_or_default();
                if !text.is_empty() {
                    files.insert(file, format!("{}\n", text.trim_end_matches('\n')));
                }
            };
            put(format!("{name}.pem"), "certificatePEM");
            if name != "kube-ca" || node.has(Role::ControlPlane) {
                put(format!("{name}-key.pem"), "keyPEM");
            }
            put(format!("kubecfg-{name}.yaml"), "config");
        }
        files
    }
}
