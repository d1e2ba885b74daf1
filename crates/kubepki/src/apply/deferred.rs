//! Steps that are put off because what they need is away, and plans of which only such are left.
//!
//! A plan names the steps that may be put off. When one cannot be done now, a line says so and
//! the rest goes on; the plan ends [`Outcome::Partly`] and stays open. `resume` tries what is open
//! again, in order. Where the rest would cut off who has missed that step, it is put off with it
//! ([`Plan::holds_back`]). Such a plan stands in nobody's way: the next plan that begins takes its place,
//! and a line of the older one says so (`superseded`).

use std::collections::{BTreeMap, BTreeSet};

use super::error::ApplyError;
use super::failure::StepError;
use super::{Executor, Outcome, history};
use crate::error_chain;
use crate::journal::{Event, Journal, Replay};
use crate::plan::{Action, Before, Plan, PlanId, Step, Target};

/// Why `step` has to wait for one that is put off: an earlier one that holds back all that
/// follows, or one for a host of its own, or whose work it changes again. `None` if it need not,
/// or may not.
pub(super) fn waits_for(
    plan: &Plan,
    step: &Step,
    deferred: &BTreeMap<u32, String>,
) -> Option<String> {
    let earlier = |other: &&Step| other.number < step.number;
    let mut open = plan.steps.iter().filter(earlier);
    let held = open.find(|it| deferred.contains_key(&it.number) && plan.holds_back(it));
    match held {
        Some(first) => Some(comes_after(first.number)),
        None => waits_for_own(plan, step, deferred),
    }
}

fn comes_after(first: u32) -> String {
    format!("it comes after step {first}, which is put off")
}

/// The first step that is put off though it cannot be alone, or that holds others back: from
/// there on a `resume` takes all there is.
pub(super) fn held_from(plan: &Plan, replay: &Replay) -> Option<u32> {
    let open = |step: &&Step| replay.deferred.contains_key(&step.number);
    let mut open = plan.steps.iter().filter(open);
    let first = open.find(|it| !plan.deferrable.contains(&it.number) || plan.holds_back(it));
    first.map(|step| step.number)
}

/// As [`waits_for`], for what may be put off itself.
pub(super) fn waits_for_own(
    plan: &Plan,
    step: &Step,
    deferred: &BTreeMap<u32, String>,
) -> Option<String> {
    if !plan.deferrable.contains(&step.number) {
        return None;
    }
    let earlier = |number: &&u32| **number < step.number;
    let first = deferred.keys().filter(earlier).find(|number| {
        let other = plan.steps.iter().find(|other| other.number == **number);
        other.is_some_and(|other| shares_host(step, other)) || builds_on(step, **number)
    })?;
    Some(comes_after(*first))
}

fn shares_host(step: &Step, other: &Step) -> bool {
    match (&step.target, &other.target) {
        (Target::Hosts { hosts }, Target::Hosts { hosts: others }) => {
            hosts.iter().any(|host| others.contains(host))
        }
        _ => false,
    }
}

fn builds_on(step: &Step, number: u32) -> bool {
    let left = Before::LeftBy(number);
    let in_sets = match &step.action {
        Action::Deploy { sets } => {
            let mut files = sets.iter().flat_map(|set| set.files.values());
            files.any(|file| file.before == left)
        }
        _ => false,
    };
    step.before == left || in_sets
}

impl Executor<'_> {
    /// Puts a failed step off, if that is what its failure and the plan allow.
    pub(super) fn put_off(
        &self,
        plan: &Plan,
        journal: &mut Journal,
        step: &Step,
        failure: &StepError,
    ) -> Result<bool, ApplyError> {
        if !plan.deferrable.contains(&step.number) || !failure.can_wait() {
            return Ok(false);
        }
        self.defer(plan, journal, step, error_chain(failure))?;
        Ok(true)
    }

    pub(super) fn defer(
        &self,
        plan: &Plan,
        journal: &mut Journal,
        step: &Step,
        reason: String,
    ) -> Result<(), ApplyError> {
        self.observer.deferred(step, &reason);
        let step = step.number;
        self.write(journal, plan, Event::Deferred { step, reason })
    }

    /// Ends a run that has left steps open. The hosts are free: nothing of the plan is half done
    /// but what is put off.
    pub(super) async fn leave_open(&self, plan: &Plan, replay: Replay) -> Outcome {
        // A host that is away keeps its lock until the plan is resumed or superseded.
        let _ = self.release_hosts(plan).await;
        Outcome::Partly {
            open: replay.deferred.into_iter().collect(),
            leaves: replay.leaves,
        }
    }

    /// The plans of which only steps that were put off are left, other than `plan`'s own and the
    /// one that it takes back.
    pub(super) fn put_off_plans(&self, plan: &Plan) -> Result<Vec<PlanId>, ApplyError> {
        let past = history(self.state)?.into_iter();
        let others = past.filter(|past| {
            past.is_put_off() && past.id != plan.id && plan.undoes.as_ref() != Some(&past.id)
        });
        Ok(others.map(|past| past.id).collect())
    }

    /// Takes the place of plans of which only steps that were put off are left, once `plan` has
    /// begun. Done already, it does nothing.
    pub(super) fn supersede(&self, plan: &Plan) -> Result<(), ApplyError> {
        for id in self.put_off_plans(plan)? {
            let older = self.state.load_plan(&id)?;
            let mut journal = self.begun_journal(&older)?;
            let by = plan.id.clone();
            self.write(&mut journal, &older, Event::Superseded { by })?;
        }
        Ok(())
    }

    /// Which of the open steps a run tries: those that were open before it.
    pub(super) fn to_retry(replay: &Replay) -> BTreeSet<u32> {
        replay.deferred.keys().copied().collect()
    }
}
