//! What a K3s server does with the bootstrap data when it starts, as a plan: so that a data
//! directory can be made ready for a new, wiped or lost server while no K3s runs.
//!
//! ```text
//! Opened + Disk --compare--> Comparison --decide--> Decision       reference sections 4.5, 4.6
//! Decision + Survey --plan_reconcile--> Plan + Staged:
//!     the data's files, then everything that K3s makes from them at every start: leaves under
//!     the CAs in force, first certificates, service.current.key, kubeconfigs, tokens
//! ```
//!
//! K3s's lock is K3s's, never ours: where the datastore has nothing, the data are created only if
//! they are still not there.

mod decide;
mod draft;
mod reset;

use pki::UnixTime;

use crate::bootstrap::{Disk, Opened, SealError};
use crate::edge::{Entropy, KeySource};
use crate::init::{InitError, Spec, Survey};
use crate::plan::{PlanId, Step};
use crate::token::Token;

pub use decide::{Decision, Keep, decide};
pub use draft::plan_reconcile;

/// What a reconciliation is planned from.
pub struct Request<'a> {
    /// The plan's name.
    pub id: &'a PlanId,
    /// The server.
    pub spec: &'a Spec,
    /// What is there.
    pub survey: Survey,
    /// The same for the files of the data.
    pub disk: &'a Disk,
    /// The cluster's data; `None` where the datastore has none yet.
    pub opened: Option<&'a Opened>,
    /// The datastore in words, without credentials.
    pub datastore: &'a str,
    /// Which side counts where they differ.
    pub keep: Option<Keep>,
    /// `--cluster-reset`: everything is extracted, whatever lies there.
    pub reset: Option<Reset>,
    /// The server token, for data that are created.
    pub token: Option<&'a Token>,
    /// Now.
    pub now: UnixTime,
    /// Serial numbers, salts.
    pub entropy: &'a dyn Entropy,
    /// CA keys and service-account keys, where they are made.
    pub keys: &'a dyn KeySource,
}

/// What K3s does on `--cluster-reset` before it extracts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reset {
    /// The steps that copy `<server>/tls` to `<server>/tls-<unix seconds>`.
    pub backup: Vec<Step>,
}

/// Why a server cannot be reconciled; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Newer on disk: K3s would not start.
    #[error(
        "K3s would not start: {words}\nSay --keep datastore to replace these files by the \
         datastore's, or --keep disk to put the disk's files into the datastore"
    )]
    Newer {
        /// K3s's last words.
        words: String,
    },
    /// The disk is to count, and has nothing.
    #[error(
        "the disk cannot be kept: {} missing or empty, and K3s then writes everything out from \
         the datastore; leave --keep disk out",
        directories.join(", ")
    )]
    NothingToKeep {
        /// What is missing or empty.
        directories: Vec<String>,
    },
    /// The server's files cannot be planned.
    #[error(transparent)]
    Init(#[from] InitError),
    /// The data cannot be encrypted.
    #[error("the bootstrap data cannot be encrypted")]
    Seal(#[from] SealError),
    /// A new cluster's data without a password.
    #[error(
        "{field} is not known, without which no data can be created: give the token with \
         --token-file"
    )]
    Incomplete {
        /// What is missing.
        field: String,
    },
}
