//! Why a plan was not carried out, or not to its end.

use std::fmt;
use std::path::PathBuf;

use super::failure::StepError;
use crate::datastore::DatastoreError;
use crate::host::HostError;
use crate::plan::PlanId;
use crate::state::StateError;

/// A plan was refused, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The plan writes to a datastore, and none was given.
    #[error(
        "plan {plan} writes to the datastore {datastore}: say how to reach it with \
         --datastore-endpoint; nothing was changed"
    )]
    NoDatastore {
        /// The plan.
        plan: PlanId,
        /// The one that it was made for, without credentials.
        datastore: String,
    },
    /// The plan was made for another datastore than the one that was given.
    #[error(
        "plan {plan} was made for the datastore {planned}, not for {given}; nothing was changed"
    )]
    OtherDatastore {
        /// The plan.
        plan: PlanId,
        /// The one that it was made for.
        planned: String,
        /// The one that was given.
        given: String,
    },
    /// The plan calls a server, and nothing was given that could.
    #[error(
        "step {step} of plan {plan} calls {url}, for which the server and its token are needed: \
         give --server and --token-file; nothing was changed"
    )]
    NoCaller {
        /// The plan.
        plan: PlanId,
        /// The step.
        step: u32,
        /// Where it calls.
        url: String,
    },
    /// The plan changes hosts, and nothing was given that could reach them.
    #[error(
        "plan {plan} changes hosts of a cluster: name its configuration with --cluster; nothing \
         was changed"
    )]
    NoMachines {
        /// The plan.
        plan: PlanId,
    },
    /// The plan needs a Kubernetes API that is not reached.
    #[error(
        "step {step} of plan {plan} needs the Kubernetes API of cluster {cluster}, which is not \
         reached; nothing was changed"
    )]
    NoKubernetes {
        /// The plan.
        plan: PlanId,
        /// The step.
        step: u32,
        /// The cluster's name.
        cluster: String,
    },
    /// Hosts that the plan changes are away.
    #[error(
        "plan {plan} changes hosts that are away; nothing was changed now. {}:{}",
        away_advice(*begun), lines(hosts)
    )]
    Unreachable {
        /// The plan.
        plan: PlanId,
        /// Each, and why.
        hosts: Vec<String>,
        /// Whether the plan was begun, so that making a new one is no way out.
        begun: bool,
    },
    /// The plan cannot be taken back.
    #[error("plan {plan} cannot be taken back: {reason}")]
    Irreversible {
        /// The plan.
        plan: PlanId,
        /// Why.
        reason: String,
    },
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
    /// The plan cannot be resumed, because an undo or a later plan took over.
    #[error("plan {plan} was given up for its undo, or for a plan that came later")]
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
    /// What the plan has stopped has to run when it is taken back.
    #[error(
        "plan {plan} has stopped {unit} and step {step} starts it again; only then can it be taken \
         back: `kubepki resume {plan}`"
    )]
    HalfWay {
        /// The plan.
        plan: PlanId,
        /// The step that starts it.
        step: u32,
        /// What is stopped.
        unit: String,
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
    /// The datastore could not be looked at.
    #[error(transparent)]
    Datastore(#[from] DatastoreError),
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
            | Self::NoDatastore { .. }
            | Self::OtherDatastore { .. }
            | Self::NoCaller { .. }
            | Self::NoMachines { .. }
            | Self::NoKubernetes { .. }
            | Self::Irreversible { .. }
            | Self::Stale { .. }
            | Self::PlanChanged { .. }
            | Self::Unreadable { .. }
            | Self::NothingDone { .. }
            | Self::Begun { .. }
            | Self::NotBegun { .. }
            | Self::Over { .. }
            | Self::Undone { .. }
            | Self::Abandoned { .. } => Aftermath::Refused,
            Self::Unfinished { .. }
            | Self::BeingUndone { .. }
            | Self::HalfWay { .. }
            | Self::Unreachable { begun: true, .. }
            | Self::Stopped { .. } => Aftermath::Interrupted,
            Self::NoSpace { .. }
            | Self::Unreachable { .. }
            | Self::Unprepared { .. }
            | Self::State(_)
            | Self::Host(_)
            | Self::Datastore(_)
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
            Self::Unreachable { plan, hosts, .. } => Self::Unreachable {
                plan,
                hosts,
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
    /// Where: a path, or `datastore key …`.
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

fn away_advice(begun: bool) -> &'static str {
    match begun {
        true => "Mend them, then run `kubepki resume`",
        false => "Mend them, or make a plan that names them with --skip-unreachable",
    }
}

fn list(differences: &[Difference]) -> String {
    lines(differences)
}

fn lines(items: &[impl fmt::Display]) -> String {
    items.iter().map(|item| format!("\n  {item}")).collect()
}
