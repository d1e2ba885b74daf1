//! The plan that takes another one back, from what its journal says was done.

use std::collections::{BTreeMap, BTreeSet};

use super::compare::{Care, difference};
use super::inverse_hosts;
use crate::journal::{Found, LeafRecord, Replay, StepRecord};
use crate::plan::{
    Action, Before, Content, FingerprintKind, PLAN_FORMAT, Plan, PlanId, Proof, Step, Target,
    TxnOperation,
};

/// The plan that takes back what `replay` says was done of `plan`, but for id and moment.
pub(super) fn inverse(plan: &Plan, replay: &Replay) -> Plan {
    let mut draft = Draft::new(plan);
    for step in &plan.steps {
        if let Some(record) = replay.steps.get(&step.number) {
            draft.take(step, record, replay);
        }
    }
    let issued = |leaf: &LeafRecord| leaf.certificate.is_some();
    if replay.leaves.values().any(issued) {
        draft.notes.push(format!(
            "Certificates that plan {} issued stay valid until they end: Kubernetes looks at no \
             revocation lists.",
            plan.id
        ));
    }
    let (steps, deferrable, notes) = draft.finish();
    Plan {
        format: PLAN_FORMAT,
        undoes: Some(plan.id.clone()),
        title: format!("undo: {}", plan.title),
        irreversible: None,
        deferrable,
        leaves: BTreeMap::new(),
        steps,
        notes,
        ..plan.clone()
    }
}

/// The steps that take others back, in the order of those.
struct Draft<'a> {
    plan: &'a Plan,
    parts: Vec<Part>,
    /// What has to be done again once all is as it was.
    last: Vec<Step>,
    notes: Vec<String>,
}

/// What was changed, and then the restarts that made it take hold.
#[derive(Default)]
struct Part {
    changes: Vec<Change>,
    restarts: Vec<Step>,
    /// What was stopped for the changes from this one on.
    stop: Option<(usize, Box<Step>)>,
    /// Whether a person made it take hold.
    closed: bool,
}

enum Change {
    /// One step, taken back by one.
    Step(Box<Step>),
    /// All that was done to one datastore key.
    Row(Box<Row>),
}

/// A datastore key before and after the steps of one part.
struct Row {
    key: String,
    /// The first of the steps, whose backup holds the value of before.
    first: Step,
    before: Found,
    after: Found,
}

impl<'a> Draft<'a> {
    fn new(plan: &'a Plan) -> Self {
        Self {
            plan,
            parts: vec![Part::default()],
            last: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn take(&mut self, step: &Step, record: &StepRecord, replay: &Replay) {
        let id = &self.plan.id;
        match (&step.target, &step.action) {
            // Others make it whenever they like, so it goes once more.
            (Target::File { .. }, Action::Remove) if step.before == Before::Any => {
                self.change(Change::Step(Box::new(step.clone())));
            }
            (Target::File { .. }, _) => {
                if let Some(step) = take_back(id, step, record) {
                    self.change(Change::Step(Box::new(step)));
                }
            }
            (Target::Hosts { .. }, Action::Deploy { sets }) => {
                if let Some(step) = inverse_hosts::take_back(id, step, sets, record) {
                    self.change(Change::Step(Box::new(step)));
                }
            }
            (Target::DatastoreKey { key }, _) => self.row(key, step, record),
            (Target::Http { .. }, Action::Call { former_url, .. }) => {
                if let Some(step) = call_back(id, step, record, former_url.as_deref()) {
                    self.change(Change::Step(Box::new(step)));
                }
            }
            (_, Action::Restart { command, proof }) => {
                let proof = proof.iter().filter_map(|it| proof_of_undo(it, replay));
                let action = Action::Restart {
                    command: command.clone(),
                    proof: proof.collect(),
                };
                self.restart(step, action);
            }
            (_, Action::RestartContainers { restarts }) => {
                let action = inverse_hosts::restarts(self.plan, restarts, replay);
                self.restart(step, action);
            }
            (Target::Kubernetes { .. }, Action::SaveState { .. } | Action::DeletePods { .. }) => {
                self.again(step);
            }
            (_, Action::Stop { .. }) => {
                if let Some(part) = self.part(None) {
                    let reason = format!("as step {} did", step.number);
                    let step = Step {
                        reason,
                        ..step.clone()
                    };
                    part.stop = Some((part.changes.len(), Box::new(step)));
                }
            }
            (_, Action::Manual { instruction, .. }) => {
                self.notes.push(format!(
                    "Step {} was done by hand and has to be taken back by hand: {instruction}",
                    step.number
                ));
                if let Some(part) = self.parts.last_mut() {
                    part.closed = true;
                }
            }
            _ => self
                .notes
                .push(format!("Step {} cannot be taken back.", step.number)),
        }
    }

    /// What is done once more at the end: its outcome depends on what is put back.
    fn again(&mut self, step: &Step) {
        if let Action::DeletePods { .. } = &step.action {
            self.notes.push(
                "Pods that were deleted are deleted once more, so that new ones trust what \
                 is put back."
                    .to_owned(),
            );
        }
        self.last.push(Step {
            reason: format!(
                "again, for step {} was done with what is taken back",
                step.number
            ),
            ..step.clone()
        });
    }

    /// A restart after which what a step put in place is not in use any more.
    fn restart(&mut self, step: &Step, action: Action) {
        if let Some(part) = self.parts.last_mut() {
            part.restarts.push(Step {
                action,
                reason: format!("so that what step {} put in place is given up", step.number),
                ..step.clone()
            });
        }
    }

    /// The part to which a change that comes now belongs.
    ///
    /// Where hosts are deployed to, only a deployment opens a part: what changes on this machine
    /// between the restarts of several hosts is bookkeeping, and no restart is for it.
    fn part(&mut self, change: Option<&Change>) -> Option<&mut Part> {
        let is_deployment = |step: &Step| matches!(step.action, Action::Deploy { .. });
        let bookkeeping = self.plan.steps.iter().any(is_deployment)
            && !matches!(change, Some(Change::Step(step)) if is_deployment(step));
        let over = |part: &Part| part.closed || !part.restarts.is_empty() && !bookkeeping;
        if self.parts.last().is_some_and(over) {
            self.parts.push(Part::default());
        }
        self.parts.last_mut()
    }

    fn change(&mut self, change: Change) {
        if let Some(part) = self.part(Some(&change)) {
            part.changes.push(change);
        }
    }

    /// Of several writes to one key between two restarts only the first and the last count: what
    /// was between them was in force for nobody.
    fn row(&mut self, key: &str, step: &Step, record: &StepRecord) {
        let Some(after) = record.after.clone() else {
            return;
        };
        let Some(part) = self.part(None) else {
            return;
        };
        let known = part.changes.iter_mut().find_map(|change| match change {
            Change::Row(row) if row.key == key => Some(row),
            _ => None,
        });
        match known {
            Some(row) => row.after = after,
            None => part.changes.push(Change::Row(Box::new(Row {
                key: key.to_owned(),
                first: step.clone(),
                before: record.intend.before.clone(),
                after,
            }))),
        }
    }

    fn finish(self) -> (Vec<Step>, BTreeSet<u32>, Vec<String>) {
        let Self {
            plan,
            parts,
            last,
            mut notes,
        } = self;
        let mut steps: Vec<Step> = Vec::new();
        let mut deferrable = BTreeSet::new();
        let mut add = |steps: &mut Vec<Step>, step: Step| {
            let number = next_number(steps);
            if plan.deferrable.contains(&step.number) {
                deferrable.insert(number);
            }
            steps.push(Step { number, ..step });
        };
        // Where a step of the undo has left each key; `None` when it deleted it.
        let mut left: BTreeMap<String, Option<u32>> = BTreeMap::new();
        for part in parts.into_iter().rev() {
            let mut changes = part.changes;
            // What was done before the stop needs what was stopped, so it comes first again.
            let (under, stop) = match part.stop {
                Some((at, stop)) => (changes.split_off(at), Some(Change::Step(stop))),
                None => (Vec::new(), None),
            };
            let changes = changes.into_iter().rev().chain(stop);
            for change in changes.chain(under.into_iter().rev()) {
                let number = next_number(&steps);
                let step = match change {
                    Change::Step(step) => Some(*step),
                    Change::Row(row) => {
                        let step = row.take_back(&plan.id, left.get(&row.key), &mut notes);
                        if let Some(step) = &step {
                            let deletes = step.action.contents().is_empty();
                            left.insert(row.key, (!deletes).then_some(number));
                        }
                        step
                    }
                };
                if let Some(step) = step {
                    add(&mut steps, step);
                }
            }
            for step in part.restarts {
                add(&mut steps, step);
            }
        }
        for step in last {
            add(&mut steps, step);
        }
        (steps, deferrable, notes)
    }
}

fn next_number(steps: &[Step]) -> u32 {
    u32::try_from(steps.len()).map_or(u32::MAX, |length| length.saturating_add(1))
}

impl Row {
    /// The step that brings the former content back; `None` if there is nothing to do. `left` is
    /// where an earlier step of the undo has left the key.
    fn take_back(
        &self,
        plan: &PlanId,
        left: Option<&Option<u32>>,
        notes: &mut Vec<String>,
    ) -> Option<Step> {
        let there = match left {
            Some(Some(number)) => Before::RevisionOfStep(*number),
            Some(None) => Before::Absent,
            None => match &self.after {
                Found::Value {
                    revision: Some(revision),
                    ..
                } => Before::Revision(*revision),
                _ => Before::Absent,
            },
        };
        let former = match &self.before {
            Found::Value { sha256, .. } if *sha256 == pki::sha256(b"").to_string() => {
                notes.push(format!(
                    "K3s's lock {} is not put back: nobody holds it any more.",
                    self.key
                ));
                None
            }
            Found::Value { sha256, .. } => Some(sha256.clone()),
            _ => None,
        };
        let number = self.first.number;
        let content = former.map(|sha256| Content::Restamped {
            plan: plan.clone(),
            step: number,
            sha256,
            sent: false,
        });
        let (operation, reason) = match (content, &there) {
            (None, Before::Absent) => return None,
            (None, _) => (TxnOperation::Delete, format!("step {number} made it")),
            (Some(content), Before::Absent) => (
                TxnOperation::Create(content),
                format!("step {number} deleted it"),
            ),
            (Some(content), _) => (
                TxnOperation::Update(content),
                format!("as it was before step {number}"),
            ),
        };
        Some(Step {
            before: there,
            action: Action::Txn { operation },
            reason,
            ..self.first.clone()
        })
    }
}

/// The call that takes a call back.
fn call_back(
    plan: &PlanId,
    step: &Step,
    record: &StepRecord,
    former_url: Option<&str>,
) -> Option<Step> {
    let (Target::Http { method, url }, Some(_)) = (&step.target, &record.after) else {
        return None;
    };
    let kept = |found: &Found, sent| match found {
        Found::Value { sha256, .. } => Some(Content::Restamped {
            plan: plan.clone(),
            step: step.number,
            sha256: sha256.clone(),
            sent,
        }),
        _ => None,
    };
    Some(Step {
        target: Target::Http {
            method: method.clone(),
            url: former_url.unwrap_or(url).to_owned(),
        },
        action: Action::Call {
            body: kept(&record.intend.before, false)?,
            former: kept(&record.intend.after, true)?,
            former_url: Some(url.clone()),
        },
        reason: format!("as it was before step {}", step.number),
        ..step.clone()
    })
}

/// Whether the file is one that servers write anew whenever they like: the dynamic listener's
/// Secret, whose certificate gets a name or another end. What is there by then is lost nowhere: a
/// server keeps the names elsewhere too.
fn is_rewritten(step: &Step) -> bool {
    let Action::Put { content, .. } = &step.action else {
        return false;
    };
    step.before == Before::Any || matches!(content, Content::ListenerSecret { .. })
}

/// The step that puts back what a file step replaced; `None` if it changed nothing.
fn take_back(plan: &PlanId, step: &Step, record: &StepRecord) -> Option<Step> {
    let before = match record.after.as_ref()? {
        _ if is_rewritten(step) => Before::Any,
        Found::Absent => Before::Absent,
        Found::Present(fingerprint) => Before::Present(fingerprint.clone()),
        Found::Revision(revision) => Before::Revision(*revision),
        Found::Value { .. } | Found::Set(_) | Found::Stateless => Before::Any,
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
        Found::Absent
        | Found::Revision(_)
        | Found::Value { .. }
        | Found::Set(_)
        | Found::Stateless => Action::Remove,
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
pub(super) fn proof_of_undo(proof: &Proof, replay: &Replay) -> Option<Proof> {
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
        Proof::ServesAt {
            host,
            address,
            leaf,
        } => {
            let record = replay.leaves.get(leaf);
            Proof::ServesOtherAt {
                host: host.clone(),
                address: address.clone(),
                sha256: record.and_then(|record| record.certificate.clone())?,
            }
        }
        Proof::ServesExactly { kept: true, .. } => proof.clone(),
        Proof::ServesExactly {
            host,
            address,
            sha256,
            ..
        } => Proof::ServesOtherAt {
            host: host.clone(),
            address: address.clone(),
            sha256: sha256.clone(),
        },
        // It may serve what it served before: that is the question no more.
        Proof::ServesOtherAt { .. } => return None,
        Proof::Holds { .. } => return None,
        other => other.clone(),
    };
    Some(proof)
}
