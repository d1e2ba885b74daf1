//! What was done: one file per plan, a line before and after each step.
//!
//! A journal is JSON lines. Each line begins with `{"sum":"<hex>",`, and the sum is the SHA-256
//! of the line before's sum and of everything that follows the comma: a line cannot be changed,
//! lost or put elsewhere unnoticed. The first line says which plan and which [`FORMAT`]; a newer
//! format is refused. A last line that is cut short or does not fit its sum is *torn*: the crash
//! came while it was written. It is reported, counts as never written, and is cut off before the
//! next line is added. The same further up is an error, for nothing can be known after it.
//!
//! The rule that everything rests on: **a target is touched only after the line that intends it
//! is on the disk.** So of all steps at most one, the one in flight, can be in doubt; and as its
//! line records what was there and what will be there, looking at the target resolves the doubt.
//!
//! | state | entered by | may go to |
//! |---|---|---|
//! | not started | | `begin` |
//! | in progress, next step N | `begin`, `done N-1`, `deferred N-1`, `withdrawn N` | `intend N`, `deferred N`, `abandoned` |
//! | the last step passed | the same | `finished` if no step is put off, `intend D` and `deferred D` for each step D that is, `superseded` if one is, `abandoned` |
//! | step N in flight | `intend N` (again, too), `failed N`, `waiting N`, `progress N` | `done N`, `withdrawn N`, `deferred N` |
//! | finished | `finished` | |
//! | abandoned (an undo or a later plan took over) | `abandoned`, `superseded` | |
//!
//! A step that is put off leaves the row of steps: the others go on, and it is tried again after
//! the last of them. It was touched perhaps, if a line intends it; so of all steps those in doubt
//! are the one in flight and those that are put off.
//!
//! Keys appear by the SHA-256 of their SubjectPublicKeyInfo only.

use std::collections::BTreeMap;
use std::fmt;

use pki::UnixTime;
use serde::{Deserialize, Serialize};

use crate::plan::{Fingerprint, LeafId, PlanId, unix_time};

mod file;
mod format;
mod replay;

pub use file::Journal;
pub use format::{Contents, JournalError, Torn, parse};
pub use replay::{Misplaced, Progress, Replay, StepRecord, replay};

/// The version that journals are written in; a newer one is refused.
pub const FORMAT: u32 = 1;

/// One line, its number and checksum taken away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was written.
    #[serde(with = "unix_time")]
    pub at: UnixTime,
    /// What it says.
    pub event: Event,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The first line.
    Begin(Header),
    /// A step will be done. Nothing at its target has been touched before this is on the disk.
    Intend(Intend),
    /// A step was done, read back, and found as intended.
    Done {
        /// Its number.
        step: u32,
        /// What was read back.
        after: Found,
    },
    /// A step did not succeed; what its target holds now is not known.
    Failed {
        /// Its number.
        step: u32,
        /// The error, without secrets.
        error: String,
    },
    /// A manual step's probe does not pass yet.
    Waiting {
        /// Its number.
        step: u32,
    },
    /// Part of a step is done: a host of a wave.
    Progress {
        /// The step's number.
        step: u32,
        /// The host.
        host: String,
        /// What was done there: `deployed 12 files`, `restarted etcd`.
        what: String,
    },
    /// A step cannot be done now and is put off; the steps after it go on.
    Deferred {
        /// Its number.
        step: u32,
        /// Why.
        reason: String,
    },
    /// The step in flight was found not to have been done.
    Withdrawn {
        /// Its number.
        step: u32,
    },
    /// Every step is done.
    Finished,
    /// The plan will not be continued: an undo took over.
    Abandoned {
        /// The undo.
        by: PlanId,
    },
    /// Nothing was left of the plan but steps that were put off, and a later plan took over.
    Superseded {
        /// The later plan.
        by: PlanId,
    },
}

/// What the first line says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`] when written.
    pub format: u32,
    /// The plan.
    pub plan: PlanId,
    /// SHA-256 of the plan as saved, hex: a plan changed after it was begun is not continued.
    pub plan_sha256: String,
    /// How many steps it has.
    pub steps: u32,
}

/// A step's condition and promise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intend {
    /// Its number.
    pub step: u32,
    /// What is there, in full. Its bytes are in the backup of this step.
    pub before: Found,
    /// What will be there; attributes that are `None` are left to chance (mtime: now).
    pub after: Found,
    /// The leaves that this step puts in place, made at this moment or for an earlier step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaves: Vec<LeafRecord>,
    /// Whether the backup holds the private key of a CA, which only `history forget` removes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub holds_ca_key: bool,
}

/// What a target holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// Nothing.
    Absent,
    /// A file, link or directory.
    Present(Fingerprint),
    /// A datastore key at this revision.
    Revision(i64),
    /// A value: of a datastore key, or what a call sends.
    Value {
        /// The key's revision; `None` for one that is still to be given, and for calls.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revision: Option<i64>,
        /// SHA-256 of the value, hex.
        sha256: String,
    },
    /// Several: the files of a wave of hosts, by `host:/path`.
    Set(BTreeMap<String, Found>),
    /// The target has no state that can be compared: a unit, a person.
    Stateless,
}

/// A leaf's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafRecord {
    /// Its name in the plan.
    pub leaf: LeafId,
    /// SHA-256 of its SubjectPublicKeyInfo, hex.
    pub spki: String,
    /// SHA-256 of its certificate, hex; `None` where only a key was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

impl Event {
    /// The step that it is about.
    pub fn step(&self) -> Option<u32> {
        match self {
            Self::Intend(intend) => Some(intend.step),
            Self::Done { step, .. }
            | Self::Failed { step, .. }
            | Self::Waiting { step }
            | Self::Progress { step, .. }
            | Self::Deferred { step, .. }
            | Self::Withdrawn { step } => Some(*step),
            Self::Begin(_) | Self::Finished | Self::Abandoned { .. } | Self::Superseded { .. } => {
                None
            }
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Begin(header) => return write!(f, "begin {}", header.plan),
            Self::Intend(_) => "intend",
            Self::Done { .. } => "done",
            Self::Failed { .. } => "failed",
            Self::Waiting { .. } => "waiting",
            Self::Progress { host, what, .. } => {
                let step = self.step().unwrap_or(0);
                return write!(f, "progress {step}: {host} {what}");
            }
            Self::Deferred { .. } => "deferred",
            Self::Withdrawn { .. } => "withdrawn",
            Self::Finished => return f.write_str("finished"),
            Self::Abandoned { by } => return write!(f, "abandoned for {by}"),
            Self::Superseded { by } => return write!(f, "superseded by {by}"),
        };
        write!(f, "{word} {}", self.step().unwrap_or(0))
    }
}
