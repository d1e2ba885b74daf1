//! What a step puts in place.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{LeafId, PlanId, StateEdit};

/// What a step puts, writes or sends, secret bytes by reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// A directory.
    Directory,
    /// A symbolic link.
    Link(PathBuf),
    /// Nothing secret, by value.
    Text(String),
    /// A file in this plan's staging directory.
    Staged {
        /// Its name there.
        name: String,
        /// SHA-256 of its bytes, hex.
        sha256: String,
    },
    /// What an earlier step of another plan replaced.
    Backup {
        /// The plan that kept it.
        plan: PlanId,
        /// Its step.
        step: u32,
        /// SHA-256 of the bytes, hex.
        sha256: String,
    },
    /// Bootstrap data that a step of another plan replaced, each file's time set to the moment at
    /// which it is written again: K3s dies of files that are newer than the datastore. What came
    /// from a datastore is opened with the passphrase that its key names, and sealed with the
    /// same.
    Restamped {
        /// The plan that kept it.
        plan: PlanId,
        /// Its step.
        step: u32,
        /// SHA-256 of the bytes that were kept, hex.
        sha256: String,
        /// Whether what the step sent is meant, instead of what takes it back. Only calls send.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        sent: bool,
    },
    /// A copy of another file on the host.
    CopyOf {
        /// Which one.
        path: PathBuf,
        /// SHA-256 of its bytes, hex.
        sha256: String,
    },
    /// A leaf's private key in the form that K3s writes.
    LeafKey(LeafId),
    /// A leaf's certificate followed by its chain.
    LeafCertificate(LeafId),
    /// The file as it is, with one user's inlined certificate and key replaced, and the
    /// cluster's CA if given; comments and everything else stay.
    Kubeconfig {
        /// The user entry's name.
        user: String,
        /// The leaf to inline.
        leaf: LeafId,
        /// PEM of a new `certificate-authority-data`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        authority: Option<String>,
    },
    /// The dynamic listener's Secret as it is, with certificate, key and fingerprint annotation
    /// replaced.
    ListenerSecret {
        /// The leaf.
        leaf: LeafId,
    },
    /// A kubeconfig where there was none, that inlines a leaf with its key: K3s's `k3s.yaml`.
    NewKubeconfig {
        /// Name of cluster, user and context.
        name: String,
        /// URL of the API server.
        server: String,
        /// PEM of the trust bundle.
        authority: String,
        /// Whether there is a line `preferences: {}`.
        preferences: bool,
        /// The leaf to inline.
        leaf: LeafId,
    },
    /// A leaf's certificate without its chain.
    BareCertificate(LeafId),
    /// RKE's state file as it is, with one change.
    RkeState(Box<StateEdit>),
    /// RKE's local administrator's kubeconfig: inlines trust bundle, certificate and key.
    AdminKubeconfig {
        /// `https://<address>:6443`.
        server: String,
        /// `cluster_name`.
        cluster: String,
        /// PEM of the trust bundle.
        authority: String,
        /// The leaf to inline.
        leaf: LeafId,
    },
    /// A file of the host that the content goes to, kept there by an earlier plan.
    OnHost {
        /// Where.
        path: PathBuf,
        /// SHA-256 of its bytes, hex.
        sha256: String,
    },
    /// The dynamic listener's Secret where there was none; the names that it asks for are the
    /// leaf's.
    NewListenerSecret {
        /// The leaf.
        leaf: LeafId,
    },
}

impl Content {
    /// Whether it holds a private key that is made for it.
    pub fn is_secret(&self) -> bool {
        match self {
            Self::LeafKey(_)
            | Self::Kubeconfig { .. }
            | Self::NewKubeconfig { .. }
            | Self::ListenerSecret { .. }
            | Self::RkeState(_)
            | Self::AdminKubeconfig { .. }
            | Self::NewListenerSecret { .. } => true,
            Self::Directory
            | Self::Link(_)
            | Self::Text(_)
            | Self::Staged { .. }
            | Self::Backup { .. }
            | Self::Restamped { .. }
            | Self::CopyOf { .. }
            | Self::OnHost { .. }
            | Self::BareCertificate(_)
            | Self::LeafCertificate(_) => false,
        }
    }

    /// Whether it is bytes that exist before the step: what a datastore or a server can be given.
    pub fn is_ready(&self) -> bool {
        matches!(
            self,
            Self::Text(_)
                | Self::Staged { .. }
                | Self::Backup { .. }
                | Self::Restamped { .. }
                | Self::CopyOf { .. }
        )
    }

    /// The plan whose backups it is taken from.
    pub fn kept_by(&self) -> Option<&PlanId> {
        match self {
            Self::Backup { plan, .. } | Self::Restamped { plan, .. } => Some(plan),
            _ => None,
        }
    }
}
