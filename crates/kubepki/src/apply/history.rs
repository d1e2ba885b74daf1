//! What was planned, done, interrupted and taken back.

use pki::UnixTime;

use super::error::ApplyError;
use crate::error_chain;
use crate::journal::{Event, JournalError, Progress, replay};
use crate::plan::PlanId;
use crate::state::{StateDir, StateError};

/// A plan of the past, as far as it can be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Past {
    /// Its name.
    pub id: PlanId,
    /// What it was for; empty when the plan cannot be read.
    pub title: String,
    /// When it was made; `None` when the plan cannot be read.
    pub created: Option<UnixTime>,
    /// When its journal last grew; `None` if it was never begun.
    pub last: Option<UnixTime>,
    /// How many steps it has.
    pub steps: usize,
    /// The plan that it takes back.
    pub undoes: Option<PlanId>,
    /// The finished undo that took it back and was not itself taken back.
    pub undone_by: Option<PlanId>,
    /// Where it stands.
    pub standing: Standing,
}

/// Where a plan stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Saved, not begun.
    Planned,
    /// Begun and neither finished nor given up.
    Interrupted {
        /// The step that comes next or is in doubt.
        step: u32,
        /// Whether it is in doubt.
        in_flight: bool,
        /// Whether it waits for a person.
        waiting: bool,
        /// The last failure.
        failure: Option<String>,
    },
    /// Done but for steps that were put off; `resume` tries them, a new plan takes its place.
    PutOff {
        /// The steps that are open, and why.
        open: Vec<(u32, String)>,
    },
    /// Done to the end.
    Finished,
    /// Given up for an undo.
    Abandoned,
    /// Left with steps that were put off, and then another plan took its place.
    Superseded {
        /// The later plan.
        by: PlanId,
    },
    /// Plan or journal cannot be used; why.
    Unreadable(String),
}

/// All saved plans, oldest first. A plan that cannot be read is an entry, not a failure.
///
/// # Errors
///
/// When the state directory cannot be listed.
pub fn history(state: &StateDir) -> Result<Vec<Past>, StateError> {
    let mut past: Vec<Past> = state
        .plans()?
        .into_iter()
        .map(|id| one(state, id))
        .collect();
    past.sort_by_key(|plan| plan.created);
    let undone: Vec<Option<PlanId>> = past
        .iter()
        .map(|plan| undone_by(&past, &plan.id, 0))
        .collect();
    for (plan, undone) in past.iter_mut().zip(undone) {
        plan.undone_by = undone;
    }
    Ok(past)
}

/// The plan that has to be resumed or undone before another may be applied, if any.
///
/// # Errors
///
/// When the state directory cannot be listed.
pub fn unfinished(state: &StateDir) -> Result<Option<Past>, StateError> {
    let past = history(state)?;
    let being_undone = |id: &PlanId| {
        past.iter()
            .any(|plan| plan.undoes.as_ref() == Some(id) && plan.is_interrupted())
    };
    let interrupted = past
        .iter()
        .find(|plan| plan.is_interrupted() && !being_undone(&plan.id));
    // Given up for an undo, and then that undo was taken back: half done, as at the crash.
    let half = || {
        past.iter()
            .find(|plan| plan.standing == Standing::Abandoned && plan.undone_by.is_none())
    };
    Ok(interrupted.or_else(half).cloned())
}

/// The plan of which only steps that were put off are left, if any. It is in no other plan's way.
///
/// # Errors
///
/// When the state directory cannot be listed.
pub fn put_off(state: &StateDir) -> Result<Option<Past>, StateError> {
    Ok(history(state)?.into_iter().rfind(Past::is_put_off))
}

/// The first plan that cannot be read, if any: nobody can tell whether it was interrupted, so
/// nothing new may begin.
///
/// # Errors
///
/// [`ApplyError::Unreadable`], or when the state directory cannot be listed.
pub fn refuse_unreadable(state: &StateDir) -> Result<(), ApplyError> {
    for past in history(state)? {
        if let Standing::Unreadable(detail) = past.standing {
            return Err(ApplyError::Unreadable {
                plan: past.id,
                detail,
            });
        }
    }
    Ok(())
}

impl Past {
    /// Whether it is begun and neither finished nor given up.
    pub fn is_interrupted(&self) -> bool {
        matches!(self.standing, Standing::Interrupted { .. })
    }

    /// Whether only steps that were put off are left of it.
    pub fn is_put_off(&self) -> bool {
        matches!(self.standing, Standing::PutOff { .. })
    }
}

fn one(state: &StateDir, id: PlanId) -> Past {
    let plan = state.load_plan(&id);
    let (last, mut standing) = match state.journal(&id) {
        Ok(contents) => {
            let standing = standing(&contents.entries);
            (contents.entries.last().map(|entry| entry.at), standing)
        }
        // The plan is named already.
        Err(StateError::Journal { source, .. }) => {
            (None, Standing::Unreadable(error_chain(&source)))
        }
        Err(error) => (None, Standing::Unreadable(error_chain(&error))),
    };
    let mut past = Past {
        id,
        title: String::new(),
        created: None,
        last,
        steps: 0,
        undoes: None,
        undone_by: None,
        standing: Standing::Planned,
    };
    match plan {
        Ok(plan) => {
            past.title = plan.title;
            past.created = Some(plan.created);
            past.steps = plan.steps.len();
            past.undoes = plan.undoes;
        }
        Err(error) => standing = Standing::Unreadable(error_chain(&error)),
    }
    past.standing = standing;
    past
}

fn standing(entries: &[crate::journal::Entry]) -> Standing {
    let replay = match replay(entries) {
        Ok(replay) => replay,
        Err(error) => {
            return Standing::Unreadable(error_chain(&JournalError::Contradiction(error)));
        }
    };
    let (step, in_flight) = match replay.progress {
        Progress::NotStarted => return Standing::Planned,
        Progress::Finished => return Standing::Finished,
        Progress::Abandoned => {
            return match entries.last().map(|entry| &entry.event) {
                Some(Event::Superseded { by }) => Standing::Superseded { by: by.clone() },
                _ => Standing::Abandoned,
            };
        }
        Progress::InProgress { .. } if replay.only_deferred => {
            return Standing::PutOff {
                open: replay.deferred.into_iter().collect(),
            };
        }
        Progress::InProgress { next } => (next, false),
        Progress::InFlight { step } => (step, true),
    };
    let waiting = matches!(
        entries.last().map(|entry| &entry.event),
        Some(Event::Waiting { .. })
    );
    Standing::Interrupted {
        step,
        in_flight,
        waiting,
        failure: replay.failure,
    }
}

/// The finished undo of `id` that is not itself undone. `depth` ends a circle in damaged plans.
fn undone_by(past: &[Past], id: &PlanId, depth: usize) -> Option<PlanId> {
    if depth > past.len() {
        return None;
    }
    let undo = past.iter().find(|plan| {
        plan.undoes.as_ref() == Some(id)
            && plan.standing == Standing::Finished
            && undone_by(past, &plan.id, depth + 1).is_none()
    });
    undo.map(|plan| plan.id.clone())
}
