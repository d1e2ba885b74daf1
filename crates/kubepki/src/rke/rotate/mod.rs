//! Rotating what an RKE cluster has, as a plan: state file first, then hosts, then restarts.
//!
//! ```text
//! desire    the state file's desiredState gets the new entries; currentState stays
//! deploy    hosts in waves, each its whole set of changed files
//! restart   what reads a changed file: etcd one by one while the others are a quorum, control
//!           plane host by host, kubelets and kube-proxies in waves; each proven before the next
//! promote   entries whose readers are all proven go to currentState
//! admin     the local kubeconfig, then kube-admin and the configuration in currentState
//! put off   (if it cannot be done now) the copy in the cluster, system pods, hosts that are away
//! ```
//!
//! New CAs come in two such phases. In the first the trust bundle is the new root, the
//! cross-certificate (the new root's name and key, signed by the old one) and the old root, and
//! every leaf carries the cross-certificate behind it: whoever has loaded the old bundle or the
//! new one takes whatever is served, in any order of restarts, on the way there and back. In the
//! second the new root is left alone. System pods are deleted between the two, so that they have
//! loaded the new root before the old one goes; while that is put off, so is the second phase
//! ([`Plan::holds_back`]). An entry whose issuer changes, too, waits for it
//! before it goes to `currentState`, which so is whole at every moment.
//!
//! Taking back relies on each phase's restarts coming after all of its deployments: the old set
//! is deployed first, and what had loaded the new one restarts after that.

mod authority;
mod change;
mod draft;
mod error;
mod install;
mod notes;
mod proofs;
mod refuse;
mod share;
mod site;

use std::collections::BTreeSet;

use pki::UnixTime;
use zeroize::Zeroizing;

use super::{ClusterConfig, Rotation, State};
use crate::edge::{Entropy, KeySource};
use crate::init::Staged;
use crate::plan::{Plan, PlanId};

pub use change::{Changes, EntryChange, Phase};
pub use draft::draft;
pub use error::RotateError;
pub use install::install;
pub use proofs::{etcd_health, ports};
pub use refuse::{Ask, quorum, scene};
pub use site::Site;

use super::survey::Survey;

/// How many hosts get files at once, as many as RKE works on.
pub const WAVE: usize = 50;

/// The labels of the pods that RKE deletes after a rotation of CAs (`k8s/pod.go`), in the order
/// of its table.
pub const SYSTEM_PODS: [&str; 12] = [
    "k8s-app=flannel",
    "k8s-app=canal",
    "name=weave-net",
    "app=ingress-nginx",
    "k8s-app=metrics-server",
    "k8s-app=kube-dns",
    "k8s-app=kube-dns-autoscaler",
    "k8s-app=coredns-autoscaler",
    "app=kube-api-auth",
    "app=cattle-cluster-agent",
    "k8s-app=calico-node",
    "k8s-app=calico-kube-controllers",
];

/// What a rotation is planned from.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The plan's name.
    pub id: &'a PlanId,
    /// What is rotated.
    pub rotation: &'a Rotation,
    /// How.
    pub options: &'a Options,
    /// The files on this machine.
    pub site: &'a Site,
    /// The state file.
    pub state: &'a State,
    /// `cluster.yml` as it is now.
    pub config: &'a ClusterConfig,
    /// What lies and runs on the hosts.
    pub survey: &'a Survey,
    /// Now.
    pub now: UnixTime,
    /// Serial numbers.
    pub entropy: &'a dyn Entropy,
    /// Keys of new CAs.
    pub keys: &'a dyn KeySource,
}

/// What the operator says beyond what is rotated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How the CAs change; leaves alone do not ask.
    pub switch: Switch,
    /// Whether the old root stays trusted, so that the second phase is left out.
    pub keep_old: bool,
    /// Hosts that may be left out if they cannot be reached, by address.
    pub skip_unreachable: BTreeSet<String>,
    /// Whether etcd may lose its quorum for a while. All its members restart at once only where
    /// those that are healthy make no quorum.
    pub allow_etcd_outage: bool,
    /// How many hosts restart kubelet and kube-proxy at once; a tenth of them, at least one,
    /// unless given.
    pub max_unavailable: Option<usize>,
    /// Whether everything of a kind restarts at once, as RKE does.
    pub parallel_restarts: bool,
    /// Whether names and ranges are taken from `cluster.yml` instead of from the state.
    pub apply_config: bool,
    /// Whether the cluster's API could not be asked: its pods cannot be told of a new root, so
    /// the old one stays trusted.
    pub api_away: bool,
}

/// How CAs change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Switch {
    /// The old root vouches for the new one, and both are trusted in between.
    #[default]
    Cross,
    /// RKE's way: the old root is gone at once, and nothing talks to anything until all is
    /// restarted.
    Hard,
    /// The old keys are in wrong hands: as [`Self::Hard`], with a new service-account key, and
    /// not to be taken back.
    Compromised,
}

/// Plans a rotation.
///
/// The staged bytes (keys of new CAs) must be kept with [`crate::init::stage`] before the plan is
/// applied, and forgotten if it is not.
///
/// # Errors
///
/// [`RotateError`]; then nothing was made.
pub fn plan(request: &Request<'_>) -> Result<(Plan, Vec<Staged>), RotateError> {
    let scene = scene(request, Ask::of(request.rotation))?;
    let changes = change::changes(request, &scene)?;
    draft(request, &scene, changes)
}

/// What the refusals have found out on the way, and everything else goes by.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The configuration that counts.
    pub config: ClusterConfig,
    /// `currentState`'s bundle.
    pub bundle: super::Bundle,
    /// How the CAs change, if they do.
    pub switch: Option<Switch>,
    /// Whether the old root stays trusted.
    pub keep_old: bool,
    /// Hosts that are left out until they come back, by address.
    pub skipped: BTreeSet<String>,
    /// Hosts that only the state knows, by address: `cluster.yml` has dropped them.
    pub gone: BTreeSet<String>,
    /// Whether etcd's members restart all at once, and nobody looks at their quorum.
    pub etcd_at_once: bool,
    /// Members of etcd that were reached and are not healthy, by address: they restart first.
    pub etcd_sick: BTreeSet<String>,
    /// The API server that the administrator's kubeconfig names, or else that of the state.
    pub admin_server: Option<String>,
    /// What is to be said about it.
    pub notes: Vec<String>,
    /// `rkeConfig` for `desiredState`, if it changes.
    pub new_config: Option<Zeroizing<Vec<u8>>>,
}

impl Scene {
    /// The nodes that are worked on, those left out among them, in order.
    pub fn nodes(&self) -> impl Iterator<Item = &super::Node> {
        let nodes = self.config.nodes.iter();
        nodes.filter(|node| !self.gone.contains(&node.address))
    }

    /// Whether a host is left out.
    pub fn is_skipped(&self, node: &super::Node) -> bool {
        self.skipped.contains(&node.address)
    }
}
