//! What is done on the hosts of a cluster: sets of files, and containers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Before, Content, PlanId, Proof};
use crate::host::Attributes;

/// The files that one host gets in one directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileSet {
    /// The host's name: its address in cluster.yml.
    pub host: String,
    /// Where they belong.
    pub directory: PathBuf,
    /// What changes, by file name.
    pub files: BTreeMap<String, FileChange>,
}

/// Where a step keeps the files of `directory` that it replaces, on the host itself.
pub(crate) fn kept_at(directory: &Path, plan: &PlanId, step: u32) -> PathBuf {
    let above = directory.parent().unwrap_or(directory);
    above
        .join(".kubepki")
        .join(format!("{plan}-{step}"))
        .join("old")
}

/// One file of a [`FileSet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileChange {
    /// What must be there: absent, present, or left by an earlier step. A host that could not be
    /// looked at takes [`Before::Any`].
    pub before: Before,
    /// Mode and owner.
    pub attributes: Attributes,
    /// What is put; `None` removes it.
    pub content: Option<Content>,
}

/// One container to restart, on one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerRestart {
    /// The host's name.
    pub host: String,
    /// The container's name. One that does not exist there is passed over, as RKE does: not every
    /// host runs every component.
    pub container: String,
    /// What must hold before it is stopped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guard: Vec<Proof>,
    /// What must hold once it runs again, beside that it was started anew.
    pub proof: Vec<Proof>,
}

/// A change of RKE's state file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateEdit {
    /// What is wanted: `desiredState`'s bundle becomes `currentState`'s with `entries` put and
    /// `removed` taken out. `currentState` is not touched.
    Desire {
        /// The new entries, by bundle key.
        entries: BTreeMap<String, StateEntry>,
        /// Entries to leave out.
        removed: Vec<String>,
        /// A staged file with the `rkeConfig` (JSON) for `desiredState`, if it changes. It may hold
        /// SSH keys and passwords, so it is not in the plan.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<Content>,
    },
    /// What was proven: these entries of `desiredState` are copied to `currentState`; one that
    /// `desiredState` lacks is removed there.
    Promote {
        /// Bundle keys.
        entries: Vec<String>,
        /// Whether `rkeConfig` and `encryptionConfig` are copied too: the last step.
        config: bool,
    },
}

/// A bundle entry to write: PEMs by reference. `None` keeps what `currentState` has, or else what
/// `desiredState` has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateEntry {
    /// `certificatePEM`: a leaf's certificate, or a CA's bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Content>,
    /// `keyPEM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Content>,
    /// `config`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<StateConfig>,
}

impl StateEdit {
    /// What it puts into the file.
    pub fn contents(&self) -> Vec<&Content> {
        match self {
            Self::Desire {
                entries, config, ..
            } => {
                let pems = entries.values().flat_map(|it| [&it.certificate, &it.key]);
                pems.chain([config]).flatten().collect()
            }
            Self::Promote { .. } => Vec::new(),
        }
    }
}

/// A bundle entry's kubeconfig.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateConfig {
    /// By value: paths only, nothing secret.
    Text(String),
    /// The administrator's, that inlines trust bundle, certificate and key: see
    /// [`Content::AdminKubeconfig`].
    Admin {
        /// `https://<address>:6443`.
        server: String,
        /// `cluster_name`.
        cluster: String,
        /// PEM of the trust bundle.
        authority: String,
        /// Where the local file lies, as RKE spells it: `./kube_config_cluster.yml`.
        path: String,
    },
}
