//! Why a plan was not carried out, or not to its end.

use std::fmt;
use std::path::PathBuf;

use crate::host::HostError;
use crate::journal::JournalError;
use crate::plan::{LeafId, PlanId};
use crate::state::StateError;

/// A plan was refused, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The plan was made for another moment.
    #[error("plan {plan} was made with --at for another moment; make one for now")]
    Hypothetical {
        /// The plan.
        plan: PlanId,
    },
    /// The plan contradicts itself or asks for what its format does not allow.
    #[error("plan {plan} cannot be carried out: {problem}")]
    Unfit {
        /// The plan.
        plan: PlanId,
        /// Which step, and what is wrong with it.
        problem: String,
    },
    /// A step needs a backend that is not there.
    #[error("this build cannot {what} (step {step}); nothing was changed")]
    Unsupported {
        /// The step.
        step: u32,
        /// What it cannot do.
        what: String,
    },
    /// What is there is not what the plan was made for.
    #[error("plan {plan} {}:{}", stale_advice(*begun), list(differences))]
    Stale {
        /// The plan.
        plan: PlanId,
        /// Everything that differs.
        differences: Vec<Difference>,
        /// Whether the plan was begun, so that making a new one is no way out.
        begun: bool,
    },
    /// Another plan is begun and not finished.
    #[error("plan {plan} was interrupted; `kubepki resume {plan}` or `kubepki undo {plan}` first")]
    Unfinished {
        /// The other plan.
        plan: PlanId,
    },
    /// A plan of the past or its journal cannot be read, so it may be half done.
    #[error(
        "plan {plan} may be half done, for it cannot be read: {detail}. When its files are looked \
         after, `kubepki history --forget {plan}` clears the way"
    )]
    Unreadable {
        /// The other plan.
        plan: PlanId,
        /// Why it cannot be read.
        detail: String,
    },
    /// The plan was begun before.
    #[error("plan {plan} was begun before; `kubepki resume {plan}` goes on with it")]
    Begun {
        /// The plan.
        plan: PlanId,
    },
    /// The plan cannot be resumed, because it was never begun.
    #[error("plan {plan} was not begun; `kubepki apply {plan}` begins it")]
    NotBegun {
        /// The plan.
        plan: PlanId,
    },
    /// The plan cannot be resumed, because an undo took over.
    #[error("plan {plan} was given up for its undo")]
    Abandoned {
        /// The plan.
        plan: PlanId,
    },
    /// The plan is done.
    #[error("plan {plan} is done; make a new plan to do it again")]
    Over {
        /// The plan.
        plan: PlanId,
    },
    /// The plan was taken back.
    #[error("plan {plan} was taken back by {by}; `kubepki undo {by}` brings it about again")]
    Undone {
        /// The plan.
        plan: PlanId,
        /// Its undo.
        by: PlanId,
    },
    /// An undo of the plan has begun.
    #[error("the undo {by} of plan {plan} has begun; `kubepki resume {by}` goes on with it")]
    BeingUndone {
        /// The plan.
        plan: PlanId,
        /// Its undo.
        by: PlanId,
    },
    /// There is nothing to take back.
    #[error("plan {plan} has changed nothing; there is nothing to undo")]
    NothingDone {
        /// The plan.
        plan: PlanId,
    },
    /// The saved plan is not the one that was begun.
    #[error("plan {plan} was changed after it was begun; put the saved plan back as it was")]
    PlanChanged {
        /// The plan.
        plan: PlanId,
    },
    /// A disk that the plan writes to is too full.
    #[error(
        "{} has {free} bytes free, the plan may need {needed}; nothing was changed, make room",
        path.display()
    )]
    NoSpace {
        /// A directory on it.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes wanted.
        needed: u64,
    },
    /// Content cannot be made, found out before anything was changed.
    #[error("step {step} of plan {plan} cannot be prepared; nothing was changed")]
    Unprepared {
        /// The plan.
        plan: PlanId,
        /// The step.
        step: u32,
        /// Why.
        #[source]
        source: Box<StepError>,
    },
    /// A step did not succeed.
    #[error(
        "plan {plan} stopped at step {step}; `kubepki resume {plan}` tries again, \
         `kubepki undo {plan}` takes back what was done"
    )]
    Stopped {
        /// The plan.
        plan: PlanId,
        /// The step.
        step: u32,
        /// Why.
        #[source]
        source: Box<StepError>,
    },
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The host could not be looked at.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Randomness for an id is missing.
    #[error("cannot name the undo")]
    Entropy(#[source] pki::Error),
}

/// What an [`ApplyError`] leaves behind, for exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aftermath {
    /// Failed, nothing changed.
    Unchanged,
    /// Refused: stale, unfit, unsupported; nothing changed.
    Refused,
    /// A plan is interrupted; `resume` or `undo` has to be run.
    Interrupted,
}

impl ApplyError {
    /// What is left behind.
    pub fn aftermath(&self) -> Aftermath {
        match self {
            Self::Hypothetical { .. }
            | Self::Unfit { .. }
            | Self::Unsupported { .. }
            | Self::Stale { .. }
            | Self::PlanChanged { .. }
            | Self::Unreadable { .. }
            | Self::NothingDone { .. }
            | Self::Begun { .. }
            | Self::NotBegun { .. }
            | Self::Over { .. }
            | Self::Undone { .. }
            | Self::Abandoned { .. } => Aftermath::Refused,
            Self::Unfinished { .. } | Self::BeingUndone { .. } | Self::Stopped { .. } => {
                Aftermath::Interrupted
            }
            Self::NoSpace { .. }
            | Self::Unprepared { .. }
            | Self::State(_)
            | Self::Host(_)
            | Self::Entropy(_) => Aftermath::Unchanged,
        }
    }
}

impl ApplyError {
    /// The same for a plan of which something is done already.
    pub(super) fn when_begun(self) -> Self {
        match self {
            Self::Stale {
                plan, differences, ..
            } => Self::Stale {
                plan,
                differences,
                begun: true,
            },
            other => other,
        }
    }
}

/// One thing that is not as the plan expects it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The step that expects it.
    pub step: u32,
    /// Where.
    pub path: PathBuf,
    /// What was expected and what was found.
    pub detail: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "step {}: {}: {}",
            self.step,
            self.path.display(),
            self.detail
        )
    }
}

fn stale_advice(begun: bool) -> &'static str {
    if begun {
        "cannot go on, for what it left or still needs was changed since; nothing was changed now, \
         put these back first"
    } else {
        "is stale; nothing was changed, make a new plan"
    }
}

fn list(differences: &[Difference]) -> String {
    differences
        .iter()
        .map(|difference| format!("\n  {difference}"))
        .collect()
}

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
    /// The state directory failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
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
    /// A file with inlined keys cannot be edited.
    #[error("cannot edit {what}")]
    Edit {
        /// "kubeconfig", "listener Secret".
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
