//! What is to be done, in which order, on what condition: data that leaves the executor no choice.
//!
//! A [`Plan`] is made by the planner from what should be and what is, saved, printed, and only
//! then applied. It names keys by the SHA-256 of their public half and never holds a private one.
//! The vocabulary is the same for files, datastore rows, units and calls, so that one journal and
//! one undo serve all of them.

mod content;
mod copies;
mod error;
mod hosts;
mod issuer;
mod planner;
mod proof;
mod select;
mod show;
mod show_hosts;
mod show_state;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use pki::UnixTime;
use serde::{Deserialize, Serialize};

use crate::host::{Attributes, Entry, EntryKind};

pub use content::Content;
pub use copies::{StaleCopy, plan_copies};
pub use error::PlanError;
pub(crate) use hosts::kept_at;
pub use hosts::{ContainerRestart, FileChange, FileSet, StateConfig, StateEdit, StateEntry};
pub(crate) use issuer::certificate;
pub use issuer::{can_be_carried, served_chain};
pub use planner::{Request, Selection, plan_leaves};
pub use proof::{Credential, Proof};
pub use select::{Due, UnknownService, due, renamed, requested, services};
pub use show::{headline, show};

/// The version that [`Plan`]s are written in; a newer one is refused.
pub const PLAN_FORMAT: u32 = 1;

/// A saved intention: leaves to issue, steps to take, things left to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`PLAN_FORMAT`] when written.
    pub format: u32,
    /// Its name.
    pub id: PlanId,
    /// The plan that this one takes back, if it is an undo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<PlanId>,
    /// What it is for, in a few words: `rotate admin, scheduler`.
    pub title: String,
    /// The node that it was made for.
    pub node: String,
    /// The data directory that it was made for, links resolved.
    pub root: PathBuf,
    /// The datastore that it was made for, without credentials; another one is refused. A plan
    /// with a [`Action::Txn`] has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<String>,
    /// Why it cannot be taken back, if it cannot: its undo is refused with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub irreversible: Option<String>,
    /// When it was made.
    #[serde(with = "unix_time")]
    pub created: UnixTime,
    /// When it was made as if at another moment (`--at`), which forbids applying it.
    #[serde(default)]
    pub hypothetical: bool,
    /// Certificates that the steps put in place, by name.
    pub leaves: BTreeMap<LeafId, Leaf>,
    /// What is done, in this order.
    pub steps: Vec<Step>,
    /// Steps, by number, that are put off when they cannot be done now (a host that is away, an
    /// API that does not answer): the rest goes on, and the plan stays unfinished until a
    /// `resume` has done them. Pods that have to read a new root hold back what follows:
    /// [`Plan::holds_back`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub deferrable: BTreeSet<u32>,
    /// What the operator should know or do afterwards, a sentence each.
    pub notes: Vec<String>,
}

/// A plan's name: moment and purpose, sortable, and a suffix against collisions:
/// `20261122T101500Z-rotate-1f0c`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlanId(pub String);

impl PlanId {
    /// Purpose and suffix: `rotate-1f0c`; `None` for a name of another form.
    pub fn without_moment(&self) -> Option<&str> {
        self.0.split_once("Z-").map(|(_, rest)| rest)
    }
}

impl fmt::Display for PlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A leaf's name inside its plan: the catalogue row's id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeafId(pub String);

impl fmt::Display for LeafId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An end-entity certificate to issue, or a key to make: everything but the key itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Leaf {
    /// Where its key comes from.
    pub key: KeyOrigin,
    /// The certificate; `None` where only a key is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<LeafCertificate>,
}

/// Where a leaf's key comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyOrigin {
    /// Made when the first step that needs it is intended; staged 0600.
    New {
        /// `p256`, `p384`, `p521`, `rsa2048`, `rsa3072`, `rsa4096` or `ed25519`.
        algorithm: String,
    },
    /// The key that lies in a file now.
    Keep {
        /// The file: PEM, or a kubeconfig or Secret that inlines it.
        path: PathBuf,
        /// SHA-256 of its SubjectPublicKeyInfo, hex.
        spki: String,
    },
}

/// What is signed, the public key excepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeafCertificate {
    /// Each `O`, in order.
    pub organizations: Vec<String>,
    /// `CN`.
    pub common_name: String,
    /// dNSNames and iPAddresses as text, in order.
    pub sans: Vec<String>,
    /// `server-auth`, `client-auth`, in order.
    pub purposes: Vec<String>,
    /// Serial number, hex, positive.
    pub serial: String,
    /// First valid second.
    #[serde(with = "unix_time")]
    pub not_before: UnixTime,
    /// Last valid second.
    #[serde(with = "unix_time")]
    pub not_after: UnixTime,
    /// Who signs.
    pub issuer: IssuerRef,
    /// PEM of the certificates that follow the leaf in its file.
    pub chain: String,
}

/// The signing CA: its certificate by value, its key by place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IssuerRef {
    /// PEM of the one certificate that signs.
    pub certificate: String,
    /// Where its key is.
    pub key: SecretRef,
    /// SHA-256 of the CA's SubjectPublicKeyInfo, hex; a key that differs is refused.
    pub spki: String,
}

/// Where secret bytes come from; the plan never holds them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretRef {
    /// A file on the host.
    File(PathBuf),
    /// A file in this plan's staging directory, made before the plan.
    Staged(String),
    /// A key of RKE's state file.
    RkeState {
        /// The `.rkestate`.
        path: PathBuf,
        /// The entry of `currentState`'s bundle whose `keyPEM` it is.
        entry: String,
    },
}

/// One act, its condition, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Position in the plan, from 1.
    pub number: u32,
    /// What is touched.
    pub target: Target,
    /// What must be there.
    pub before: Before,
    /// What is done.
    pub action: Action,
    /// Why, for the operator.
    pub reason: String,
}

/// What a step touches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// A file, link or directory at a host.
    File {
        /// The host's name; `local` is this machine.
        host: String,
        /// Absolute path.
        path: PathBuf,
    },
    /// A key in the cluster's datastore.
    DatastoreKey {
        /// Its name.
        key: String,
    },
    /// A service unit at a host.
    Unit {
        /// The host's name.
        host: String,
        /// The unit: `k3s.service`.
        name: String,
    },
    /// A container at a host.
    Container {
        /// The host's name.
        host: String,
        /// The container's name.
        name: String,
    },
    /// An HTTP call.
    Http {
        /// `PUT`.
        method: String,
        /// Without credentials.
        url: String,
    },
    /// Something that a person does.
    Manual {
        /// Where.
        host: String,
    },
    /// Hosts that are changed together: a wave.
    Hosts {
        /// Their names, in the order of the cluster's configuration.
        hosts: Vec<String>,
    },
    /// The cluster behind a Kubernetes API.
    Kubernetes {
        /// The cluster's name.
        cluster: String,
    },
}

/// The condition under which a step may be taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Before {
    /// Nothing is there.
    Absent,
    /// Exactly this is there.
    Present(Fingerprint),
    /// The datastore key is at this revision.
    Revision(i64),
    /// The datastore key is at the revision that an earlier step of this plan gave it.
    RevisionOfStep(u32),
    /// What an earlier step of this plan left there: content that is not known when the plan is
    /// made.
    LeftBy(u32),
    /// Whatever is there: for targets without a state of their own, for a file that others may
    /// make meanwhile and that has to go, also when the plan is taken back, and for one that
    /// servers write anew whenever they like, when it is put back.
    Any,
}

/// An entry of a file system without its bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// File, directory or link.
    pub kind: FingerprintKind,
    /// Mode, owner, time, labels.
    pub attributes: Attributes,
}

impl Fingerprint {
    /// An entry without its bytes.
    pub fn of(entry: &Entry) -> Self {
        let kind = match &entry.kind {
            EntryKind::File(bytes) => FingerprintKind::File(pki::sha256(bytes).to_string()),
            EntryKind::Directory => FingerprintKind::Directory,
            EntryKind::Link(target) => FingerprintKind::Link(target.clone()),
        };
        Self {
            kind,
            attributes: entry.attributes.clone(),
        }
    }
}

/// What an entry is, its content by digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FingerprintKind {
    /// SHA-256 of the content, hex.
    File(String),
    /// A directory.
    Directory,
    /// A link and its target.
    Link(PathBuf),
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Puts content in place, with these attributes.
    Put {
        /// Mode, owner, mtime, label.
        attributes: Attributes,
        /// What.
        content: Content,
    },
    /// Removes what is there.
    Remove,
    /// A transaction on a datastore key.
    Txn {
        /// Which one.
        operation: TxnOperation,
    },
    /// Calls the target, which answers that it was done.
    ///
    /// The call must do no harm a second time: after a crash it is repeated.
    Call {
        /// What is sent.
        body: Content,
        /// What has to be sent to take it back; kept as the step's backup, time stamps of
        /// bootstrap data renewed when it is sent.
        former: Content,
        /// The URL that `former` has to be sent to, if another than the target's: K3s takes its
        /// former CAs back only with `?force=true`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        former_url: Option<String>,
    },
    /// Restarts the target and waits for the proof.
    Restart {
        /// The command, when it is not the target's own way; no shell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        command: Option<Vec<String>>,
        /// What must hold afterwards.
        proof: Vec<Proof>,
    },
    /// Stops the target, so that files can be changed under it, and waits for the proof; a later
    /// [`Self::Restart`] of the same target in the plan starts it. What the plan did before the
    /// stop was done through the running target, and is taken back through it.
    Stop {
        /// The command, when it is not the target's own way; no shell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        command: Option<Vec<String>>,
        /// What must hold before anything is changed.
        proof: Vec<Proof>,
    },
    /// Puts files in place on several hosts at once; the former files are kept on each host.
    Deploy {
        /// One set for each host of the target.
        sets: Vec<FileSet>,
    },
    /// Restarts containers: one host's after each other, several hosts at once.
    RestartContainers {
        /// In order.
        restarts: Vec<ContainerRestart>,
    },
    /// Deletes pods so that their controllers make new ones.
    DeletePods {
        /// `label=value`, in all namespaces.
        selectors: Vec<String>,
    },
    /// Saves RKE's state file in the cluster (Secret `full-cluster-state`).
    SaveState {
        /// The file.
        path: PathBuf,
    },
    /// Something that a person does; stays open until the probe passes.
    Manual {
        /// What to do, for a person.
        instruction: String,
        /// How to see that it is done.
        probe: Vec<Proof>,
    },
}

/// What is done to a datastore key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TxnOperation {
    /// Only if it does not exist.
    Create(Content),
    /// Only at the revision in [`Step::before`].
    Update(Content),
    /// Only at the revision in [`Step::before`].
    Delete,
}

impl Plan {
    /// Whether everything after `step` is put off with it: it has pods read a new root, and what
    /// follows takes away the old one.
    pub fn holds_back(&self, step: &Step) -> bool {
        let firm =
            |later: &Step| later.number > step.number && !self.deferrable.contains(&later.number);
        matches!(step.action, Action::DeletePods { .. })
            && self.deferrable.contains(&step.number)
            && self.steps.iter().any(firm)
    }
}

impl Action {
    /// What it puts, writes, sends, or keeps to take it back.
    pub fn contents(&self) -> Vec<&Content> {
        match self {
            Self::Put { content, .. } => vec![content],
            Self::Txn { operation } => operation.content().into_iter().collect(),
            Self::Call { body, former, .. } => vec![body, former],
            Self::Deploy { sets } => {
                let files = sets.iter().flat_map(|set| set.files.values());
                files.filter_map(|file| file.content.as_ref()).collect()
            }
            Self::Remove
            | Self::Restart { .. }
            | Self::Stop { .. }
            | Self::RestartContainers { .. }
            | Self::DeletePods { .. }
            | Self::SaveState { .. }
            | Self::Manual { .. } => Vec::new(),
        }
    }
}

impl TxnOperation {
    /// The value that it writes: the bytes as they will be in the datastore.
    pub fn content(&self) -> Option<&Content> {
        match self {
            Self::Create(content) | Self::Update(content) => Some(content),
            Self::Delete => None,
        }
    }
}

/// Serialises a moment as RFC 3339 text, so that a person can read a plan.
pub mod unix_time {
    use pki::UnixTime;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes RFC 3339 in UTC.
    pub fn serialize<S: Serializer>(time: &UnixTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(time)
    }

    /// Reads RFC 3339.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UnixTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        let moment: jiff::Timestamp = text.parse().map_err(D::Error::custom)?;
        Ok(UnixTime::from_secs(moment.as_second()))
    }
}
