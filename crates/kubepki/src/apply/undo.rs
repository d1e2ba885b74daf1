//! Taking a plan back, which is a plan too.

use std::collections::BTreeMap;

use super::compare::{describe, found};
use super::deploy::{judge, read};
use super::error::{ApplyError, Difference};
use super::failure::StepError;
use super::hosts::{Reached, found_in};
use super::inverse::inverse;
use super::inverse_hosts::in_doubt;
use super::preflight::{check_before, check_reach, check_sources, plans_cluster};
use super::step::{Verdict, conflict, verdict};
use super::{Executor, numbered, plan_id, txn, unfinished};
use crate::journal::{Event, Found, Intend, Journal, Progress, Replay};
use crate::plan::{Action, FileSet, Plan, PlanId, Step, Target};

impl Executor<'_> {
    /// Makes the plan that takes `id` back; applying it is a second act. Changes nothing: a plan
    /// that was interrupted is given up only when its undo begins.
    ///
    /// Steps are taken back in reverse, except that a restart still comes after the files and rows
    /// that it is there for. A datastore key gets a new row with the former content and the
    /// present time, never the old row; the passphrase that its name asks for must be among the
    /// executor's, or in the token and passwd files that the plan touches.
    ///
    /// # Errors
    ///
    /// [`ApplyError::Stale`] when something is no longer as the plan left it, with the list;
    /// [`ApplyError::NothingDone`], [`ApplyError::Undone`], [`ApplyError::BeingUndone`];
    /// [`ApplyError::Unfinished`] while another plan is interrupted; [`ApplyError::Irreversible`];
    /// [`ApplyError::Unprepared`] when a backup is missing or no passphrase opens it.
    pub async fn undo(&self, id: &PlanId) -> Result<Plan, ApplyError> {
        let plan = self.state.load_plan(id)?;
        let journal = self.begun_journal(&plan)?;
        let mut replay = self.replay(&journal, id)?;
        if replay.progress == Progress::NotStarted {
            return Err(ApplyError::NothingDone { plan: id.clone() });
        }
        self.refuse_being_undone(id)?;
        self.refuse_undone(id)?;
        if let Some(other) = unfinished(self.state)?
            && other.id != *id
        {
            return Err(ApplyError::Unfinished { plan: other.id });
        }
        let mut notes = Vec::new();
        // The step in flight, and those that were put off after they were begun.
        for step in in_doubt(&replay) {
            self.judge_in_flight(&plan, step, &mut replay, &mut notes)
                .await?;
        }
        // One that has done nothing can always be given up.
        if let (Some(reason), false) = (&plan.irreversible, replay.steps.is_empty()) {
            return Err(ApplyError::Irreversible {
                plan: id.clone(),
                reason: reason.clone(),
            });
        }
        refuse_stopped(&plan, &replay)?;
        let now = self.now();
        let undo_id = plan_id(now, "undo", self.entropy).map_err(ApplyError::Entropy)?;
        let taken_up = self.with_taken_up(&plan, &mut replay).await?;
        let mut undo = Plan {
            id: undo_id,
            created: now,
            ..inverse(&taken_up, &replay)
        };
        undo.notes.extend(notes);
        check_reach(&undo, 1, self)?;
        let stale = |error| match error {
            ApplyError::Stale { differences, .. } => ApplyError::Stale {
                plan: id.clone(),
                differences,
                begun: true,
            },
            other => other,
        };
        check_before(&undo, self.host, self.cluster)
            .await
            .map_err(stale)?;
        self.check_hosts(&undo).await.map_err(stale)?;
        check_sources(&self.workshop(&undo), 1).await?;
        Ok(undo)
    }

    /// Replaces doubt about the step in flight by what its target says: its record is completed
    /// or removed. Answers what it left, if it was done.
    async fn judge_in_flight(
        &self,
        plan: &Plan,
        number: u32,
        replay: &mut Replay,
        notes: &mut Vec<String>,
    ) -> Result<Option<Found>, ApplyError> {
        let (Some(step), Some(record)) = (numbered(plan, number), replay.steps.get_mut(&number))
        else {
            return Ok(None);
        };
        let after = match (&step.target, &step.action) {
            (Target::File { path, .. }, _) => {
                let now = found(self.host.read(path).await?.as_ref());
                match verdict(&record.intend, &now) {
                    Some(Verdict::Done | Verdict::HalfDone) => Some(now),
                    Some(Verdict::NotDone) => None,
                    None => {
                        let source = Box::new(conflict(path, &record.intend, &now));
                        let plan = plan.id.clone();
                        return Err(ApplyError::Stopped {
                            plan,
                            step: number,
                            source,
                        });
                    }
                }
            }
            (Target::DatastoreKey { key }, _) => {
                let store = plans_cluster(plan, self.cluster)?.store;
                let now = txn::row(store.get(key).await?.as_ref());
                match txn::verdict(&record.intend, &now) {
                    Some(Verdict::Done | Verdict::HalfDone) => Some(now),
                    Some(Verdict::NotDone) => None,
                    // Nothing of the step is left to take back, and what is there is not ours.
                    None => {
                        notes.push(format!(
                            "The datastore key {key} stays as it is: somebody else wrote it ({}) \
                             while step {number} of {} was in flight.",
                            describe(&now),
                            plan.id
                        ));
                        None
                    }
                }
            }
            (Target::Hosts { .. }, Action::Deploy { sets }) => {
                let done = self
                    .judge_deployment(plan, step, sets, &record.intend)
                    .await?;
                (!done.is_empty()).then_some(Found::Set(done))
            }
            // It may have happened, so it is taken back.
            (_, Action::RestartContainers { .. }) | (Target::Kubernetes { .. }, _) => {
                Some(Found::Stateless)
            }
            (_, Action::Call { .. }) => Some(record.intend.after.clone()),
            (_, Action::Restart { .. }) => Some(Found::Stateless),
            _ => None,
        };
        match &after {
            Some(after) => record.after = Some(after.clone()),
            None => drop(replay.steps.remove(&number)),
        }
        Ok(after)
    }

    /// The files of a wave in doubt that are as they were to be.
    async fn judge_deployment(
        &self,
        plan: &Plan,
        step: &Step,
        sets: &[FileSet],
        intend: &Intend,
    ) -> Result<BTreeMap<String, Found>, ApplyError> {
        let mut done = BTreeMap::new();
        let judged = async {
            let mut machines = Reached::new();
            let owner = self.state.owner(self.entropy)?;
            for set in sets {
                let machine = self.machine(&set.host).await?;
                // What the killed program started on the host comes to its end first.
                machine.lock(&owner).await?;
                machines.insert(set.host.clone(), machine);
            }
            let listings = read(&machines, sets).await?;
            for set in sets {
                done.extend(judge(intend, &found_in(set, &listings))?);
            }
            Ok::<_, StepError>(())
        };
        judged.await.map_err(|source| ApplyError::Stopped {
            plan: plan.id.clone(),
            step: step.number,
            source: Box::new(source),
        })?;
        Ok(done)
    }

    /// Refuses an undo that was made while a write to the datastore was in doubt and seemed not to
    /// have been done, if it has come through since.
    pub(super) async fn refuse_overtaken_undo(&self, undo: &Plan) -> Result<(), ApplyError> {
        let Some(id) = &undo.undoes else {
            return Ok(());
        };
        let plan = self.state.load_plan(id)?;
        let mut replay = self.replay(&self.begun_journal(&plan)?, id)?;
        let Progress::InFlight { step: number } = replay.progress else {
            return Ok(());
        };
        let in_flight = numbered(&plan, number).map(|step| &step.target);
        let Some(target @ Target::DatastoreKey { key }) = in_flight else {
            return Ok(());
        };
        let done = self
            .judge_in_flight(&plan, number, &mut replay, &mut Vec::new())
            .await?;
        let Some(after) = done else {
            return Ok(());
        };
        if undo.steps.iter().any(|step| step.target == *target) {
            return Ok(());
        }
        Err(ApplyError::Stale {
            plan: undo.id.clone(),
            differences: vec![Difference {
                step: number,
                path: format!("datastore key {key}").into(),
                detail: format!(
                    "the write in doubt was done after all: {}",
                    describe(&after)
                ),
            }],
            begun: false,
        })
    }

    /// Gives up the interrupted plan that `undo` takes back, once `undo` has begun. Does nothing
    /// if that is done already, or if `undo` is no undo.
    pub(super) async fn give_up_undone(&self, undo: &Plan) -> Result<(), ApplyError> {
        let Some(id) = &undo.undoes else {
            return Ok(());
        };
        let plan = self.state.load_plan(id)?;
        let mut journal = self.begun_journal(&plan)?;
        let mut replay = self.replay(&journal, id)?;
        if let Progress::InFlight { step } = replay.progress {
            self.settle(&plan, &mut journal, step, &mut replay).await?;
            replay = self.replay(&journal, id)?;
        }
        match replay.progress {
            Progress::InProgress { .. } => self.write(
                &mut journal,
                &plan,
                Event::Abandoned {
                    by: undo.id.clone(),
                },
            ),
            _ => Ok(()),
        }
    }

    async fn settle(
        &self,
        plan: &Plan,
        journal: &mut Journal,
        number: u32,
        replay: &mut Replay,
    ) -> Result<(), ApplyError> {
        if let Some(Target::File { path, .. }) = numbered(plan, number).map(|step| &step.target) {
            self.remove_temporary(path)
                .await
                .map_err(|source| ApplyError::Stopped {
                    plan: plan.id.clone(),
                    step: number,
                    source: Box::new(source),
                })?;
        }
        let event = match self
            .judge_in_flight(plan, number, replay, &mut Vec::new())
            .await?
        {
            Some(after) => Event::Done {
                step: number,
                after,
            },
            None => Event::Withdrawn { step: number },
        };
        self.write(journal, plan, event)
    }
}

/// Refuses while something is stopped that an earlier step, to be taken back, was done through.
fn refuse_stopped(plan: &Plan, replay: &Replay) -> Result<(), ApplyError> {
    match stopped(plan, replay) {
        Some((step, Target::Unit { name, .. })) => Err(ApplyError::HalfWay {
            plan: plan.id.clone(),
            step: step.number,
            unit: name.clone(),
        }),
        _ => Ok(()),
    }
}

/// The step that starts again what an earlier one has stopped, and its target.
pub fn stopped<'a>(plan: &'a Plan, replay: &Replay) -> Option<(&'a Step, &'a Target)> {
    let done = |step: &Step| {
        let record = replay.steps.get(&step.number);
        record.is_some_and(|record| record.after.is_some())
    };
    let is_stop = |it: &&Step| matches!(it.action, Action::Stop { .. }) && done(it);
    let stop = plan.steps.iter().rfind(is_stop)?;
    let mut later = plan.steps.iter().filter(|it| it.number > stop.number);
    let starts = later.find(|it| {
        it.target == stop.target && matches!(it.action, Action::Restart { .. }) && !done(it)
    });
    starts.map(|step| (step, &step.target))
}
