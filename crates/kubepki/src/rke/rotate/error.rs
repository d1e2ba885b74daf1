//! Why a rotation is not planned.

use pki::UnixTime;

use crate::rke::generate::GenerateError;

/// Why a rotation is not planned; nothing was made or changed.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// `currentState` has no configuration: the file is missing, empty, or of a cluster that was
    /// never finished.
    #[error("Failed to rotate certificates: can't find old certificates")]
    NoCurrentState,
    /// The stored configuration cannot be used.
    #[error("the rkeConfig of currentState cannot be used: {0}")]
    Config(String),
    /// `currentState` has no `kube-ca`.
    #[error("Failed to rotate certificates: can't find CA certificate")]
    NoAuthority,
    /// It has, without a certificate in it.
    #[error("Failed to rotate certificates: CA certificate is nil")]
    EmptyAuthority,
    /// The CA is out of its time or may not sign.
    #[error(
        "Failed to rotate certificates: CA certificate is invalid, please use the --rotate-ca flag \
         to rotate CA certificate, error: {0}"
    )]
    InvalidAuthority(String),
    /// The cluster CA's key is not in the state.
    #[error("CA Certificate or Key is empty")]
    KeylessAuthority,
    /// That of the aggregation layer's CA.
    #[error("Request Header CA Certificate or Key is empty")]
    KeylessRequestHeader,
    /// An entry cannot be used as a CA.
    #[error("{entry} in the state file cannot sign: {problem}")]
    BadAuthority {
        /// The entry.
        entry: String,
        /// What is wrong.
        problem: String,
    },
    /// The present CA cannot vouch for a new one.
    #[error(
        "{entry} cannot vouch for a new root: {problem}. With --hard the old root is given up at \
         once, and the cluster is out of order until all of it has been restarted"
    )]
    NoCross {
        /// The CA's entry.
        entry: String,
        /// Why.
        problem: String,
    },
    /// Hosts that nobody said may be left out.
    #[error("{}", unreached(hosts, refusing))]
    Unreachable {
        /// Address and reason of each that does not answer.
        hosts: Vec<(String, String)>,
        /// Address and reason of each that answers and turns us away: waiting does not help.
        refusing: Vec<(String, String)>,
    },
    /// Every host is away.
    #[error("no host of the cluster can be reached, so there is nothing to do now")]
    NobodyThere,
    /// A host to skip that the cluster does not have.
    #[error(
        "--skip-unreachable {host}: the cluster has no such host; its hosts are {}",
        known.join(", ")
    )]
    UnknownHost {
        /// What was said.
        host: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Restarting a member of etcd would cost the quorum.
    #[error(
        "etcd would be out of order while a member restarts: of its {members} members {reachable} \
         can be reached, and {needed} have to be healthy at any time. Say --allow-etcd-outage if \
         the cluster may stand still for that time"
    )]
    Quorum {
        /// How many members there are.
        members: usize,
        /// How many of them can be reached.
        reachable: usize,
        /// How many make a quorum.
        needed: usize,
    },
    /// A member of etcd is not healthy before anything is done.
    #[error(
        "etcd is not healthy:{}\nMend it first. {}",
        listed(members),
        if healthy < needed {
            "If it is down because its certificates have expired, --allow-etcd-outage restarts \
             all its members at once with the new ones"
        } else {
            "The others are a quorum still: --allow-etcd-outage gives these their new \
             certificates first, and stops if they do not get well with them"
        }
    )]
    Unhealthy {
        /// Address and reason of each.
        members: Vec<(String, String)>,
        /// How many members are.
        healthy: usize,
        /// How many make a quorum.
        needed: usize,
    },
    /// `--apply-config` where the nodes differ.
    #[error(
        "--apply-config cannot add, remove or move nodes: {0}. Run `rke up` for that, then rotate"
    )]
    Nodes(String),
    /// `--apply-config` where containers would have to be made anew.
    #[error(
        "--apply-config cannot make containers anew, and without that nobody would read the new \
         files: {0}. Run `rke up` first, then rotate"
    )]
    Containers(String),
    /// Certificates of an etcd that RKE does not run.
    #[error(
        "the cluster's etcd is an external one (services.etcd.external_urls), so there is nothing \
         to rotate for the service etcd: renew its certificates where it runs; what the API server \
         shows it comes from services.etcd in cluster.yml"
    )]
    ExternalEtcd,
    /// API servers as RKE before 0.2 started them.
    #[error(
        "kube-apiserver on {} checks service-account tokens with its own certificate's key, as RKE \
         before 0.2 started it: a new key would void every token. Run `rke up` with RKE 0.2 or \
         later first, which starts it with the service-account key, then rotate",
        hosts.join(", ")
    )]
    Legacy {
        /// Their addresses.
        hosts: Vec<String>,
    },
    /// Custom certificates that are all there already.
    #[error("these certificates are in force already")]
    Same,
    /// What to issue cannot be said.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// A lifetime that would be over at once.
    #[error("{entry} would not be valid: its CA ends at {end}")]
    NoTime {
        /// The entry.
        entry: String,
        /// The CA's last second.
        end: UnixTime,
    },
    /// No key, number or certificate could be made.
    #[error("cannot make {what}")]
    Make {
        /// What.
        what: String,
        /// Why.
        #[source]
        source: pki::Error,
    },
}

/// A line for each host.
fn listed(hosts: &[(String, String)]) -> String {
    let lines = hosts.iter().map(|(host, why)| format!("\n  {host}: {why}"));
    lines.collect()
}

/// Who was not reached, and what to do about it.
fn unreached(hosts: &[(String, String)], refusing: &[(String, String)]) -> String {
    let mut text = String::new();
    if !refusing.is_empty() {
        text = format!(
            "{} of the cluster's hosts answer and turn us away:{}\nMend this first: the SSH key, \
             user or known host key, or the user's access to Docker",
            refusing.len(),
            listed(refusing)
        );
    }
    if !hosts.is_empty() {
        let first = if text.is_empty() { "" } else { "\n" };
        text.push_str(&format!(
            "{first}{} of the cluster's hosts cannot be reached:{}\nBring them back, or name them \
             with --skip-unreachable; `kubepki resume` picks them up later",
            hosts.len(),
            listed(hosts)
        ));
    }
    text.push_str("\nNothing was changed");
    text
}

impl RotateError {
    /// Whether the command line is to blame.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::UnknownHost { .. })
    }

    /// What to do about it, where the words are RKE's own and do not say.
    pub fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoCurrentState => {
                "the state file (cluster.rkestate beside cluster.yml) is missing, has another \
                 name than --config, or its currentState is empty: put it there, get it from the \
                 cluster with `kubepki state pull`, or rebuild it with \
                 `kubepki state rebuild`"
            }
            Self::NoAuthority | Self::EmptyAuthority => {
                "rebuild the state file from a control-plane host with `kubepki state rebuild`"
            }
            Self::KeylessAuthority | Self::KeylessRequestHeader => {
                "the CA's key is not in the state file, as after `rke up --custom-certs` without \
                 it: have the certificates signed by its owner (`kubepki rke cert generate-csr`, \
                 then `kubepki custom-certs install`)"
            }
            _ => return None,
        })
    }
}
