//! Taking a plan back, which is a plan too.

use std::collections::BTreeMap;

use super::compare::{Care, difference, found};
use super::error::ApplyError;
use super::preflight::check_before;
use super::step::{Verdict, conflict, verdict};
use super::{Executor, history, numbered, plan_id, unfinished};
use crate::journal::{Event, Found, Journal, Progress, Replay, StepRecord};
use crate::plan::{
    Action, Before, Content, FingerprintKind, PLAN_FORMAT, Plan, PlanId, Proof, Step, Target,
};

impl Executor<'_> {
    /// Makes the plan that takes `id` back; applying it is a second act. Changes nothing: a plan
    /// that was interrupted is given up only when its undo begins.
    ///
    /// Steps are taken back in reverse, except that a restart still comes after the files that
    /// it is there for.
    ///
    /// # Errors
    ///
    /// [`ApplyError::Stale`] when something is no longer as the plan left it, with the list;
    /// [`ApplyError::NothingDone`], [`ApplyError::Undone`], [`ApplyError::BeingUndone`];
    /// [`ApplyError::Unfinished`] while another plan is interrupted.
    pub async fn undo(&self, id: &PlanId) -> Result<Plan, ApplyError> {
        let plan = self.state.load_plan(id)?;
        let journal = self.begun_journal(&plan)?;
        let mut replay = self.replay(&journal, id)?;
        if replay.progress == Progress::NotStarted {
            return Err(ApplyError::NothingDone { plan: id.clone() });
        }
        self.refuse_being_undone(id)?;
        let past = history(self.state)?;
        if let Some(by) = past
            .into_iter()
            .find(|past| past.id == *id)
            .and_then(|it| it.undone_by)
        {
            return Err(ApplyError::Undone {
                plan: id.clone(),
                by,
            });
        }
        if let Some(other) = unfinished(self.state)?
            && other.id != *id
        {
            return Err(ApplyError::Unfinished { plan: other.id });
        }
        if let Progress::InFlight { step } = replay.progress {
            self.judge_in_flight(&plan, step, &mut replay).await?;
        }
        let now = self.now();
        let undo_id = plan_id(now, "undo", self.entropy).map_err(ApplyError::Entropy)?;
        let undo = Plan {
            id: undo_id,
            created: now,
            ..inverse(&plan, &replay)
        };
        check_before(&undo, self.host)
            .await
            .map_err(|error| match error {
                ApplyError::Stale { differences, .. } => ApplyError::Stale {
                    plan: id.clone(),
                    differences,
                    begun: true,
                },
                other => other,
            })?;
        Ok(undo)
    }

    /// Replaces doubt about the step in flight by what its target says: its record is completed
    /// or removed. `true` if it was done.
    async fn judge_in_flight(
        &self,
        plan: &Plan,
        number: u32,
        replay: &mut Replay,
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
            // It may have happened, so it is taken back.
            (_, Action::Restart { .. }) => Some(Found::Stateless),
            _ => None,
        };
        match &after {
            Some(after) => record.after = Some(after.clone()),
            None => drop(replay.steps.remove(&number)),
        }
        Ok(after)
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
        let event = match self.judge_in_flight(plan, number, replay).await? {
            Some(after) => Event::Done {
                step: number,
                after,
            },
            None => Event::Withdrawn { step: number },
        };
        self.write(journal, plan, event)
    }
}

/// The plan that takes back what `replay` says was done of `plan`, but for id and moment.
fn inverse(plan: &Plan, replay: &Replay) -> Plan {
    let mut notes = Vec::new();
    let mut parts = vec![Part::default()];
    for step in &plan.steps {
        let Some(record) = replay.steps.get(&step.number) else {
            continue;
        };
        match (&step.target, &step.action) {
            (Target::File { .. }, _) => {
                if parts.last().is_some_and(|part| !part.restarts.is_empty()) {
                    parts.push(Part::default());
                }
                let taken_back = take_back(&plan.id, step, record);
                if let (Some(part), Some(step)) = (parts.last_mut(), taken_back) {
                    part.files.push(step);
                }
            }
            (_, Action::Restart { command, proof }) => {
                let action = Action::Restart {
                    command: command.clone(),
                    proof: proof
                        .iter()
                        .filter_map(|proof| proof_of_undo(proof, replay))
                        .collect(),
                };
                let reason = format!("so that what step {} put in place is given up", step.number);
                if let Some(part) = parts.last_mut() {
                    part.restarts.push(Step {
                        action,
                        reason,
                        ..step.clone()
                    });
                }
            }
            (_, Action::Manual { instruction, .. }) => notes.push(format!(
                "Step {} was done by hand and has to be taken back by hand: {instruction}",
                step.number
            )),
            _ => notes.push(format!("Step {} cannot be taken back.", step.number)),
        }
    }
    if replay
        .leaves
        .values()
        .any(|leaf| leaf.certificate.is_some())
    {
        notes.push(format!(
            "Certificates that plan {} issued stay valid until they end: Kubernetes looks at no \
             revocation lists.",
            plan.id
        ));
    }
    let in_order = parts.into_iter().rev().flat_map(|part| {
        let files = part.files.into_iter().rev();
        files.chain(part.restarts)
    });
    let steps = in_order
        .zip(1_u32..)
        .map(|(step, number)| Step { number, ..step })
        .collect();
    Plan {
        format: PLAN_FORMAT,
        undoes: Some(plan.id.clone()),
        title: format!("undo: {}", plan.title),
        leaves: BTreeMap::new(),
        steps,
        notes,
        ..plan.clone()
    }
}

/// Files, and then the restarts that make their change take hold.
#[derive(Default)]
struct Part {
    files: Vec<Step>,
    restarts: Vec<Step>,
}

/// The step that puts back what a file step replaced; `None` if it changed nothing.
fn take_back(plan: &PlanId, step: &Step, record: &StepRecord) -> Option<Step> {
    let before = match record.after.as_ref()? {
        Found::Absent => Before::Absent,
        Found::Present(fingerprint) => Before::Present(fingerprint.clone()),
        Found::Revision(revision) => Before::Revision(*revision),
        Found::Value { .. } | Found::Stateless => Before::Any,
    };
    let after = record.after.as_ref()?;
    let unchanged = difference(&record.intend.before, after, Care::Before).is_none()
        && difference(&record.intend.before, after, Care::After).is_none();
    if unchanged {
        return None;
    }
    let action = match &record.intend.before {
        Found::Present(fingerprint) => Action::Put {
            attributes: fingerprint.attributes.clone(),
            content: match &fingerprint.kind {
                FingerprintKind::Directory => Content::Directory,
                FingerprintKind::Link(target) => Content::Link(target.clone()),
                FingerprintKind::File(sha256) => Content::Backup {
                    plan: plan.clone(),
                    step: step.number,
                    sha256: sha256.clone(),
                },
            },
        },
        Found::Absent | Found::Revision(_) | Found::Value { .. } | Found::Stateless => {
            Action::Remove
        }
    };
    let reason = match &action {
        Action::Remove => format!("step {} made it", step.number),
        _ => format!("as it was before step {}", step.number),
    };
    Some(Step {
        before,
        action,
        reason,
        ..step.clone()
    })
}

/// What must hold after the restart that takes a restart back: where the new certificate had to
/// be served, it must no longer be.
fn proof_of_undo(proof: &Proof, replay: &Replay) -> Option<Proof> {
    let proof = match proof {
        Proof::Serves { address, leaf } => {
            let record = replay.leaves.get(leaf);
            match record.and_then(|record| record.certificate.clone()) {
                Some(sha256) => Proof::ServesOther {
                    address: address.clone(),
                    sha256,
                },
                None => Proof::Listens {
                    address: address.clone(),
                },
            }
        }
        Proof::ServesOther { address, .. } | Proof::ServesUnder { address, .. } => Proof::Listens {
            address: address.clone(),
        },
        Proof::Holds { .. } => return None,
        other => other.clone(),
    };
    Some(proof)
}
