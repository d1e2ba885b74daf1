//! What is to be done, in which order, on what condition: data that leaves the executor no choice.
//!
//! A [`Plan`] is made by the planner from what should be and what is, saved, printed, and only
//! then applied. It names keys by the SHA-256 of their public half and never holds a private one.
//! The vocabulary is the same for files, datastore rows, units and calls, so that one journal and
//! one undo serve all of them.

mod copies;
mod error;
mod issuer;
mod planner;
mod select;
mod show;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use pki::UnixTime;
use serde::{Deserialize, Serialize};

use crate::host::{Attributes, Entry, EntryKind};

pub use copies::{StaleCopy, plan_copies};
pub use error::PlanError;
pub(crate) use issuer::certificate;
pub use issuer::{can_be_carried, served_chain};
pub use planner::{Request, Selection, plan_leaves};
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
    /// What the operator should know or do afterwards, a sentence each.
    pub notes: Vec<String>,
}

/// A plan's name: moment and purpose, sortable, and a suffix against collisions:
/// `20261122T101500Z-rotate-1f0c`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlanId(pub String);

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
    /// Whatever is there: only for targets without a state of their own.
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
    /// Restarts the target and waits for the proof.
    Restart {
        /// The command, when it is not the target's own way; no shell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        command: Option<Vec<String>>,
        /// What must hold afterwards.
        proof: Vec<Proof>,
    },
    /// Deletes pods so that their controllers make new ones.
    DeletePods {
        /// `namespace/name` or `namespace/label=value`.
        selectors: Vec<String>,
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

/// Content of a [`Action::Put`], secret bytes by reference.
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
            | Self::NewListenerSecret { .. } => true,
            Self::Directory
            | Self::Link(_)
            | Self::Text(_)
            | Self::Staged { .. }
            | Self::Backup { .. }
            | Self::CopyOf { .. }
            | Self::LeafCertificate(_) => false,
        }
    }
}

/// Something that can be looked at to see that a change has taken hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// The address completes a TLS handshake and serves the leaf of this plan.
    Serves {
        /// `host:port`.
        address: String,
        /// The leaf.
        leaf: LeafId,
    },
    /// The address serves a certificate whose SHA-256 is not this one.
    ServesOther {
        /// `host:port`.
        address: String,
        /// SHA-256 of the certificate served before, hex.
        sha256: String,
    },
    /// The address accepts connections.
    Listens {
        /// `host:port`.
        address: String,
    },
    /// `systemctl is-active` says so.
    Active {
        /// The unit.
        unit: String,
    },
    /// A file exists and holds a certificate that is not this one.
    FileRenewed {
        /// Where.
        path: PathBuf,
        /// SHA-256 of the certificate before, hex; `None` if there was none.
        sha256: Option<String>,
    },
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
