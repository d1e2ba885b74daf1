//! Why a step did not succeed, or content could not be made.

use std::path::PathBuf;

use super::outside::CallError;
use crate::datastore::DatastoreError;
use crate::host::HostError;
use crate::journal::JournalError;
use crate::plan::LeafId;
use crate::state::StateError;

/// Why a step did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// What is there is not what the step is for.
    #[error("{}: {detail}", path.display())]
    Changed {
        /// Where.
        path: PathBuf,
        /// What was expected and what was found.
        detail: String,
    },
    /// The step was in flight, and what is there is neither what was nor what was to be.
    #[error(
        "{}: a crash came during this step, which should leave {before} (not done) or {after} \
         (done), but {found} is there; somebody else changed it, put one of the two back \
         (the first is in the backups)", path.display()
    )]
    Conflict {
        /// Where.
        path: PathBuf,
        /// What was there.
        before: String,
        /// What was to be there.
        after: String,
        /// What is there.
        found: String,
    },
    /// A transaction was in flight, and somebody else has written since.
    #[error(
        "the datastore key {key}: a crash or a broken connection came during this step, which \
         should leave {before} (not done) or {after} (done), but {found} is there: somebody else \
         wrote it. `kubepki undo` leaves the key as it is and takes back the rest"
    )]
    Overtaken {
        /// The key.
        key: String,
        /// What was there.
        before: String,
        /// What was to be there.
        after: String,
        /// What is there.
        found: String,
    },
    /// Somebody else wrote between the look at the datastore and the write, which was refused.
    #[error("this step was not done")]
    Outrun {
        /// Which revision was expected, and which was found.
        #[source]
        source: DatastoreError,
    },
    /// A server refused a call, or was never reached.
    #[error("this step was not done")]
    Refused {
        /// What it answered.
        #[source]
        source: CallError,
    },
    /// It is not known whether a call was done.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The step was done and reading back shows something else.
    #[error("{}: after writing, {detail}", path.display())]
    Unverified {
        /// Where.
        path: PathBuf,
        /// What was expected and what was found.
        detail: String,
    },
    /// The content cannot be made.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// A command failed.
    #[error("`{command}` ended with {ending}{}", stderr_tail(stderr))]
    Command {
        /// The command.
        command: String,
        /// Its exit code, or that a signal ended it.
        ending: String,
        /// The end of what it complained of.
        stderr: String,
    },
    /// What must hold before a restart does not: nothing was stopped.
    #[error("nothing was stopped, for after {seconds} s: {}", unmet.join("; "))]
    Unsafe {
        /// How long was waited.
        seconds: u64,
        /// What does not hold, and what was seen instead.
        unmet: Vec<String>,
    },
    /// The step is for a Kubernetes API that was not reached.
    #[error("the Kubernetes API of cluster {cluster} is not reached")]
    NoKubernetes {
        /// The cluster's name.
        cluster: String,
    },
    /// What should hold after a restart does not.
    #[error("{seconds} s after the restart: {}", unmet.join("; "))]
    Unproven {
        /// How long was waited.
        seconds: u64,
        /// What does not hold, and what was seen instead.
        unmet: Vec<String>,
    },
    /// The host failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The datastore failed.
    #[error(transparent)]
    Datastore(#[from] DatastoreError),
    /// The state directory failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl StepError {
    /// Whether it is certain that the step in flight was not done.
    pub(super) fn is_not_done(&self) -> bool {
        matches!(self, Self::Outrun { .. } | Self::Refused { .. })
    }
}

impl StepError {
    /// Whether the step only has to wait: for a host that is away, an API that does not answer,
    /// members of etcd that are not well.
    pub(super) fn can_wait(&self) -> bool {
        match self {
            Self::Host(error) => matches!(error, HostError::Unreachable { .. }),
            // Nothing was stopped; what the guard waits for may come later.
            Self::Unsafe { .. } | Self::NoKubernetes { .. } | Self::Call(_) => true,
            _ => false,
        }
    }
}

fn stderr_tail(stderr: &str) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!(": {stderr}")
    }
}

/// Why content, a key or a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// A leaf was signed and could not be recorded: nobody gets it.
    #[error("what was signed is not put in place, for it cannot be recorded: {problem}")]
    Unrecorded {
        /// Why.
        problem: String,
    },
    /// The key that should sign is another one.
    #[error(
        "the key in {place} has SPKI SHA-256 {found}, the plan needs {expected}: \
         it was replaced since, make a new plan"
    )]
    OtherKey {
        /// Where the key was read.
        place: String,
        /// The SPKI that the plan names.
        expected: String,
        /// The SPKI of what is there.
        found: String,
    },
    /// There is nothing to read.
    #[error("{place} is missing")]
    Missing {
        /// Where.
        place: String,
    },
    /// Bytes that are not those the plan names.
    #[error("{place} has SHA-256 {found}, the plan needs {expected}")]
    OtherBytes {
        /// Where.
        place: String,
        /// The digest that the plan names.
        expected: String,
        /// The digest of what is there.
        found: String,
    },
    /// A file holds no private key that can be used.
    #[error("no usable private key in {place}")]
    NoKey {
        /// Where.
        place: String,
        /// Why.
        #[source]
        source: pki::Error,
    },
    /// A key or certificate cannot be made.
    #[error("cannot make leaf {leaf}")]
    Leaf {
        /// The leaf.
        leaf: LeafId,
        /// Why.
        #[source]
        source: pki::Error,
    },
    /// The plan names something that it does not define, or in a form that is not known.
    #[error("leaf {leaf}: {problem}")]
    Plan {
        /// The leaf.
        leaf: LeafId,
        /// What is wrong.
        problem: String,
    },
    /// A staged key or certificate is not the one that the journal names.
    #[error("the staged files of leaf {leaf} do not belong together; undo the plan")]
    Staging {
        /// The leaf.
        leaf: LeafId,
    },
    /// No passphrase at hand is the one that a datastore key names.
    #[error(
        "{place} is to be sealed again, and no token at hand opens it: give the token of that \
         time with --token-file"
    )]
    NoPassphrase {
        /// Which value, and which plan kept it.
        place: String,
    },
    /// Bootstrap data that was kept cannot be used again.
    #[error("{place} cannot be used again")]
    Bootstrap {
        /// Which value, and which plan kept it.
        place: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file with inlined keys cannot be edited.
    #[error("cannot edit {what}")]
    Edit {
        /// "kubeconfig", "listener Secret", "the state file".
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The host failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The state directory failed.
    #[error(transparent)]
    State(#[from] StateError),
}
