//! What was done on hosts, taken back.

use std::collections::{BTreeMap, BTreeSet};

use super::compare::{Care, difference};
use super::hosts::place;
use super::inverse::proof_of_undo;
use crate::host::Attributes;
use crate::journal::{Found, Replay, StepRecord};
use crate::plan::{
    Action, Before, ContainerRestart, Content, Credential, FileChange, FileSet, FingerprintKind,
    LeafId, Plan, PlanId, Proof, StateEdit, Step, Target, kept_at,
};

/// The deployment that puts back what a deployment replaced, from where each host keeps it;
/// `None` if there is nothing to put back. Files that it had not come to are left as they are.
pub(super) fn take_back(
    plan: &PlanId,
    step: &Step,
    sets: &[FileSet],
    record: &StepRecord,
) -> Option<Step> {
    let (Found::Set(before), Some(Found::Set(after))) = (&record.intend.before, &record.after)
    else {
        return None;
    };
    let mut back = Vec::new();
    for set in sets {
        let mut files = BTreeMap::new();
        for name in set.files.keys() {
            let at = place(&set.host, &set.directory, name);
            if let (Some(before), Some(after)) = (before.get(&at), after.get(&at))
                && let Some(change) = change_back(plan, step.number, set, name, before, after)
            {
                files.insert(name.clone(), change);
            }
        }
        if !files.is_empty() {
            back.push(FileSet {
                files,
                ..set.clone()
            });
        }
    }
    if back.is_empty() {
        return None;
    }
    let hosts = back.iter().map(|set| set.host.clone()).collect();
    Some(Step {
        target: Target::Hosts { hosts },
        action: Action::Deploy { sets: back },
        reason: format!("as it was before step {}", step.number),
        ..step.clone()
    })
}

fn change_back(
    plan: &PlanId,
    number: u32,
    set: &FileSet,
    name: &str,
    before: &Found,
    after: &Found,
) -> Option<FileChange> {
    let unchanged = difference(before, after, Care::Before).is_none();
    if unchanged {
        return None;
    }
    let there = match after {
        Found::Present(fingerprint) => Before::Present(fingerprint.clone()),
        _ => Before::Absent,
    };
    let (attributes, content) = match before {
        Found::Present(fingerprint) => match &fingerprint.kind {
            FingerprintKind::File(sha256) => (
                // Its time says when it was put there.
                Attributes {
                    mtime: None,
                    ..fingerprint.attributes.clone()
                },
                Some(Content::OnHost {
                    path: kept_at(&set.directory, plan, number).join(name),
                    sha256: sha256.clone(),
                }),
            ),
            FingerprintKind::Directory | FingerprintKind::Link(_) => return None,
        },
        _ => (Attributes::new(0o600), None),
    };
    Some(FileChange {
        before: there,
        attributes,
        content,
    })
}

/// The restarts that make hosts give up what they had taken up.
pub(super) fn restarts(plan: &Plan, restarts: &[ContainerRestart], replay: &Replay) -> Action {
    let entries = entries(plan);
    let back = |proofs: &[Proof], guard: bool| {
        let proofs = proofs.iter().filter_map(|proof| {
            let proof = if guard {
                Some(proof.clone())
            } else {
                proof_of_undo(proof, replay)
            };
            proof.and_then(|proof| with_former_client(proof, &entries))
        });
        proofs.collect()
    };
    let restarts = restarts.iter().map(|restart| ContainerRestart {
        guard: back(&restart.guard, true),
        proof: back(&restart.proof, false),
        ..restart.clone()
    });
    Action::RestartContainers {
        restarts: restarts.collect(),
    }
}

/// Where the state file has the entry of a leaf: what `currentState` holds there when the undo
/// needs it is what the hosts know by then.
fn entries(plan: &Plan) -> BTreeMap<&LeafId, Credential> {
    let mut entries = BTreeMap::new();
    for step in &plan.steps {
        let (Target::File { path, .. }, Action::Put { content, .. }) = (&step.target, &step.action)
        else {
            continue;
        };
        let Content::RkeState(edit) = content else {
            continue;
        };
        let StateEdit::Desire { entries: edits, .. } = &**edit else {
            continue;
        };
        for (name, entry) in edits {
            if let Some(Content::LeafCertificate(leaf)) = &entry.certificate {
                let credential = Credential::RkeState {
                    path: path.clone(),
                    entry: name.clone(),
                };
                entries.insert(leaf, credential);
            }
        }
    }
    entries
}

/// The proof with a client certificate that is in force again; `None` if it cannot be looked at
/// without one.
fn with_former_client(proof: Proof, entries: &BTreeMap<&LeafId, Credential>) -> Option<Proof> {
    let former = |client: Credential| match &client {
        Credential::Leaf(leaf) => entries.get(leaf).cloned(),
        Credential::RkeState { .. } => Some(client),
        // What is wanted goes back with the rest; what was in force is in force again.
        Credential::RkeDesired { path, entry } => Some(Credential::RkeState {
            path: path.clone(),
            entry: entry.clone(),
        }),
    };
    Some(match proof {
        Proof::Healthy {
            host,
            url,
            client: Some(client),
            member,
        } => Proof::Healthy {
            host,
            url,
            client: Some(former(client)?),
            member,
        },
        Proof::Quorum {
            members,
            needed,
            client,
        } => Proof::Quorum {
            members,
            needed,
            client: former(client)?,
        },
        // It is about the client that is taken back.
        Proof::Accepts { .. } => return None,
        other => other,
    })
}

/// The steps of a record that are in doubt.
pub(super) fn in_doubt(replay: &Replay) -> BTreeSet<u32> {
    let open = replay
        .steps
        .iter()
        .filter(|(_, record)| record.after.is_none());
    open.map(|(number, _)| *number).collect()
}
