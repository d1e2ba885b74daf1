//! What shows that a container runs with what it was given (`services/healthcheck.go`).

use std::net::IpAddr;

use pki::Certificate;

use super::{Request, Scene, change::Phase};
use crate::plan::{ContainerRestart, Content, Credential, LeafId, Plan, Proof};
use crate::rke::survey::FileFacts;
use crate::rke::{ClusterConfig, Node, Role, Service, names};

/// The API server's port.
const API: u16 = 6443;
const ETCD: u16 = 2379;
const KUBELET: u16 = 10250;
const KUBELET_HEALTH: u16 = 10248;
const PROXY_HEALTH: u16 = 10256;

/// Where a node's components are asked for their health: the host itself. A node whose address
/// is a loopback address shares that host with others, and answers there only.
fn local(node: &Node) -> String {
    match node.address.parse::<IpAddr>() {
        Ok(address) if address.is_loopback() => bracketed(&node.address),
        _ => "127.0.0.1".to_owned(),
    }
}

/// Where other hosts reach a node.
fn inner(node: &Node) -> String {
    bracketed(match node.internal_address.is_empty() {
        true => &node.address,
        false => &node.internal_address,
    })
}

fn bracketed(address: &str) -> String {
    match address.contains(':') {
        true => format!("[{address}]"),
        false => address.to_owned(),
    }
}

/// The URL of an etcd member's health.
pub fn etcd_health(node: &Node) -> String {
    format!("https://{}:{ETCD}/health", inner(node))
}

/// The addresses at which a node serves certificates of the bundle, as the node itself dials
/// them, with the entry that belongs there.
pub fn ports(node: &Node, config: &ClusterConfig) -> Vec<(String, String)> {
    let mut ports = Vec::new();
    if node.has(Role::Etcd) && !config.has_external_etcd() {
        ports.push((format!("{}:{ETCD}", inner(node)), names::etcd_entry(node)));
    }
    if node.has(Role::ControlPlane) {
        let entry = names::KUBE_APISERVER.to_owned();
        ports.push((format!("{}:{API}", local(node)), entry));
    }
    if config.serving_certificates {
        let address = format!("{}:{KUBELET}", inner(node));
        ports.push((address, names::kubelet_entry(node)));
    }
    ports
}

/// Makes restarts with their guards and proofs.
pub(super) struct Prover<'a> {
    pub request: &'a Request<'a>,
    pub scene: &'a Scene,
    pub plan: &'a Plan,
    pub phase: &'a Phase,
}

impl Prover<'_> {
    /// The restart of a component on a node's host.
    pub fn restart(&self, node: &Node, component: Service) -> ContainerRestart {
        let guard = match component {
            Service::Etcd => self.quorum(node).into_iter().collect(),
            _ => Vec::new(),
        };
        ContainerRestart {
            host: node.address.clone(),
            container: component.name().to_owned(),
            guard,
            proof: self.proofs(node, component),
        }
    }

    /// That the other members can do without this one.
    fn quorum(&self, node: &Node) -> Option<Proof> {
        if self.scene.etcd_at_once {
            return None;
        }
        let members = || self.scene.config.with_role(Role::Etcd);
        let total = members().count();
        let others: Vec<(String, String)> = members()
            .filter(|other| {
                other.address != node.address && !self.scene.gone.contains(&other.address)
            })
            .filter(|other| !self.scene.is_skipped(other) && !self.has_no_etcd(other))
            .map(|other| (other.address.clone(), etcd_health(other)))
            .collect();
        // With an outage allowed, whoever else is there must be healthy all the same.
        let needed = super::quorum(total).min(others.len());
        let needed = u32::try_from(needed).ok().filter(|needed| *needed > 0)?;
        Some(Proof::Quorum {
            members: others,
            needed,
            client: self.client(names::KUBE_NODE),
        })
    }

    /// Whether a member has no container: nothing here makes it healthy. The plan is refused then
    /// unless an outage was allowed.
    fn has_no_etcd(&self, node: &Node) -> bool {
        let view = self.request.survey.host(&node.address);
        view.is_some_and(|view| !view.containers.contains_key(Service::Etcd.name()))
    }

    fn proofs(&self, node: &Node, component: Service) -> Vec<Proof> {
        let mut proofs = Vec::new();
        match component {
            Service::Etcd => {
                proofs.extend(self.served(node, &names::etcd_entry(node)));
                let mut healthy = self.healthy(node, etcd_health(node), Some(names::KUBE_NODE));
                if let Proof::Healthy { member, .. } = &mut healthy {
                    *member = Some(("health".to_owned(), "true".to_owned()));
                }
                proofs.push(healthy);
            }
            Service::KubeApiserver => {
                proofs.extend(self.served(node, names::KUBE_APISERVER));
                let url = format!("https://{}:{API}/healthz", local(node));
                proofs.push(self.healthy(node, url, Some(names::KUBE_APISERVER)));
                proofs.extend(self.accepted(node, names::KUBE_ADMIN));
            }
            Service::KubeControllerManager => {
                let url = self.health_of(node, 22, 10257, 10252);
                proofs.push(self.healthy(node, url, None));
                proofs.extend(self.accepted(node, names::KUBE_CONTROLLER_MANAGER));
            }
            Service::KubeScheduler => {
                let url = self.health_of(node, 23, 10259, 10251);
                proofs.push(self.healthy(node, url, None));
                proofs.extend(self.accepted(node, names::KUBE_SCHEDULER));
            }
            Service::Kubelet => {
                let url = format!("http://{}:{KUBELET_HEALTH}/healthz", local(node));
                proofs.push(self.healthy(node, url, None));
                proofs.extend(self.served(node, &names::kubelet_entry(node)));
                proofs.extend(self.accepted(node, names::KUBE_NODE));
            }
            Service::KubeProxy => {
                let url = format!("http://{}:{PROXY_HEALTH}/healthz", local(node));
                proofs.push(self.healthy(node, url, None));
                proofs.extend(self.accepted(node, names::KUBE_PROXY));
            }
        }
        proofs
    }

    /// `https` from a minor version of Kubernetes on, `http` before.
    fn health_of(&self, node: &Node, since: u32, secure: u16, plain: u16) -> String {
        let minor = self.scene.config.kubernetes_minor();
        match minor.is_none_or(|minor| minor >= since) {
            true => format!("https://{}:{secure}/healthz", local(node)),
            false => format!("http://{}:{plain}/healthz", local(node)),
        }
    }

    fn healthy(&self, node: &Node, url: String, client: Option<&str>) -> Proof {
        Proof::Healthy {
            host: node.address.clone(),
            url,
            client: client.map(|entry| self.client(entry)),
            member: None,
        }
    }

    /// That what is put in place is served: the very certificate, whether the plan issues it or it
    /// comes from elsewhere.
    fn served(&self, node: &Node, entry: &str) -> Option<Proof> {
        let change = self.phase.entries.get(entry)?;
        let (address, _) = ports(node, &self.scene.config)
            .into_iter()
            .find(|(_, it)| it == entry)?;
        let host = node.address.clone();
        match (change.certificate.as_ref()?, &change.leaf) {
            // The second phase takes away what stands behind a leaf; the leaf is the same.
            (Content::BareCertificate(_), _) => None,
            (_, Some(leaf)) => Some(Proof::ServesAt {
                host,
                address,
                leaf: leaf.clone(),
            }),
            (Content::Text(pem), None) => {
                let certificates = Certificate::all_from_pem(pem.as_bytes()).ok()?;
                let leaf = certificates.first()?;
                Some(Proof::ServesExactly {
                    host,
                    address,
                    sha256: leaf.fingerprint().to_string(),
                    kept: self.holds(node, entry, leaf),
                })
            }
            _ => None,
        }
    }

    /// Whether a host has a certificate already where an entry's belongs.
    fn holds(&self, node: &Node, entry: &str, leaf: &Certificate) -> bool {
        let view = self.request.survey.host(&node.address);
        let file = view.and_then(|view| view.file(&format!("{entry}.pem")));
        match file.map(|file| &file.facts) {
            Some(FileFacts::Certificates(found)) => {
                found.first().is_some_and(|first| first.der() == leaf.der())
            }
            _ => false,
        }
    }

    /// That an API server takes the new client certificate: the host's own, or else the first
    /// that is there.
    fn accepted(&self, node: &Node, entry: &str) -> Option<Proof> {
        let client = self.renewed(entry)?;
        let server = match node.has(Role::ControlPlane) {
            true => local(node),
            false => {
                let planes = self.scene.nodes();
                let mut planes = planes.filter(|it| it.has(Role::ControlPlane));
                let there = planes.find(|it| !self.scene.is_skipped(it))?;
                match there.address.parse::<IpAddr>() {
                    Ok(address) if address.is_loopback() => local(there),
                    _ => inner(there),
                }
            }
        };
        Some(Proof::Accepts {
            host: node.address.clone(),
            url: format!("https://{server}:{API}/healthz"),
            client,
        })
    }

    /// The client certificate that the phase puts in place: the plan's, or one from elsewhere,
    /// which with its key is in the state file by then.
    fn renewed(&self, entry: &str) -> Option<Credential> {
        let change = self.phase.entries.get(entry)?;
        if let Some(leaf) = &change.leaf {
            return Some(Credential::Leaf(leaf.clone()));
        }
        let keyless = Content::Text(String::new());
        let key = change.key.as_ref().filter(|key| **key != keyless);
        key.and(change.certificate.as_ref())?;
        Some(Credential::RkeDesired {
            path: self.request.site.state.clone(),
            entry: entry.to_owned(),
        })
    }

    /// A client certificate: the new one, or else that of the state.
    fn client(&self, entry: &str) -> Credential {
        let id = LeafId(entry.to_owned());
        match self.plan.leaves.contains_key(&id) {
            true => Credential::Leaf(id),
            false => self.renewed(entry).unwrap_or_else(|| Credential::RkeState {
                path: self.request.site.state.clone(),
                entry: entry.to_owned(),
            }),
        }
    }
}
