//! One step: intend, do, verify, done.

use std::path::Path;

use super::Executor;
use super::compare::{Care, describe, difference, found};
use super::failure::{MakeError, StepError};
use super::hosts::wanted;
use super::render::{Rendered, leaves_of, render};
use crate::edge::file::temporary_beside;
use crate::host::{Entry, EntryKind};
use crate::journal::{Event, Found, Intend, Journal, Replay};
use crate::plan::{Action, Fingerprint, FingerprintKind, Plan, Proof, Step, Target};
use crate::state::looks_like_ca_key;

/// How a step went.
pub(super) enum Taken {
    Done,
    /// A person has to act first.
    Waiting {
        instruction: String,
        unmet: Vec<String>,
    },
}

/// What the target of a step in flight says about the step.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It was done.
    Done,
    /// It was not done.
    NotDone,
    /// A directory that has part of its attributes; doing it again is safe.
    HalfDone,
}

/// Judges a step in flight; `None` when somebody else must have changed the target.
pub(super) fn verdict(intend: &Intend, found: &Found) -> Option<Verdict> {
    if difference(&intend.after, found, Care::After).is_none() {
        return Some(Verdict::Done);
    }
    if difference(&intend.before, found, Care::Before).is_none() {
        return Some(Verdict::NotDone);
    }
    match (&intend.after, found) {
        (Found::Present(Fingerprint { kind, .. }), Found::Present(found))
            if *kind == FingerprintKind::Directory && found.kind == *kind =>
        {
            Some(Verdict::HalfDone)
        }
        _ => None,
    }
}

/// The error of a step whose [`verdict`] is `None`.
pub(super) fn conflict(path: &Path, intend: &Intend, found: &Found) -> StepError {
    StepError::Conflict {
        path: path.to_owned(),
        before: describe(&intend.before),
        after: describe(&intend.after),
        found: describe(found),
    }
}

impl Executor<'_> {
    /// Takes a step from its beginning.
    pub(super) async fn take(
        &self,
        plan: &Plan,
        journal: &mut Journal,
        step: &Step,
    ) -> Result<Taken, StepError> {
        match (&step.target, &step.action) {
            (Target::File { path, .. }, _) => self.take_file(plan, journal, step, path).await,
            (Target::DatastoreKey { key }, Action::Txn { operation }) => {
                self.take_txn(plan, journal, step, (key, operation)).await
            }
            (Target::Http { method, url }, Action::Call { body, former, .. }) => {
                let contents = (body, former);
                self.take_call(plan, journal, step, (method, url), contents)
                    .await
            }
            (Target::Unit { name, .. }, Action::Restart { command, proof }) => {
                self.intend_stateless(journal, step)?;
                let own = || ["systemctl", "restart", name].map(str::to_owned).to_vec();
                self.restart(&command.clone().unwrap_or_else(own)).await?;
                self.wait_for(plan, journal, proof).await?;
                self.done(journal, step, Found::Stateless)
            }
            (Target::Unit { name, .. }, Action::Stop { command, proof }) => {
                self.intend_stateless(journal, step)?;
                let own = || ["systemctl", "stop", name].map(str::to_owned).to_vec();
                self.restart(&command.clone().unwrap_or_else(own)).await?;
                self.wait_for(plan, journal, proof).await?;
                self.done(journal, step, Found::Stateless)
            }
            (_, Action::Manual { instruction, probe }) => {
                self.intend_stateless(journal, step)?;
                let eyes = self.eyes(plan, journal.replay()?.leaves);
                let unmet = eyes.unmet(probe).await;
                if unmet.is_empty() {
                    return self.done(journal, step, Found::Stateless);
                }
                journal.append(self.now(), Event::Waiting { step: step.number })?;
                Ok(Taken::Waiting {
                    instruction: instruction.clone(),
                    unmet,
                })
            }
            (Target::Hosts { .. }, Action::Deploy { sets }) => {
                self.take_deploy(plan, journal, step, sets).await
            }
            (Target::Hosts { .. }, Action::RestartContainers { restarts }) => {
                self.take_restarts(plan, journal, step, restarts).await
            }
            (Target::Kubernetes { cluster }, Action::SaveState { path }) => {
                self.take_save(journal, step, (cluster, path)).await
            }
            (Target::Kubernetes { cluster }, Action::DeletePods { selectors }) => {
                self.take_pods(journal, step, (cluster, selectors)).await
            }
            // Refused before the first step; a plan that gets here was never checked.
            (target, _) => Err(StepError::Changed {
                path: self.state.path().to_owned(),
                detail: format!("no backend for {target:?}"),
            }),
        }
    }

    /// Takes the step in flight to its end, after a crash.
    pub(super) async fn take_again(
        &self,
        plan: &Plan,
        journal: &mut Journal,
        step: &Step,
    ) -> Result<Taken, StepError> {
        if let (Target::DatastoreKey { key }, Action::Txn { operation }) =
            (&step.target, &step.action)
        {
            let row = (key.as_str(), operation);
            return self.take_txn_again(plan, journal, step, row).await;
        }
        let record = journal.replay()?.steps.remove(&step.number);
        if let (Action::Deploy { sets }, Some(record)) = (&step.action, &record) {
            let intend = &record.intend;
            return self
                .take_deploy_again(plan, journal, step, sets, intend)
                .await;
        }
        let (Target::File { path, .. }, Some(record)) = (&step.target, record) else {
            // A restart or call does no harm a second time; a manual step is asked for again.
            return self.take(plan, journal, step).await;
        };
        self.remove_temporary(path).await?;
        let now = found(self.host.read(path).await?.as_ref());
        match verdict(&record.intend, &now) {
            Some(Verdict::Done) => self.done(journal, step, now),
            Some(Verdict::NotDone) => self.take(plan, journal, step).await,
            Some(Verdict::HalfDone) => {
                let attributes = match &step.action {
                    Action::Put { attributes, .. } => attributes.clone(),
                    _ => return Err(conflict(path, &record.intend, &now)),
                };
                let entry = Entry {
                    kind: EntryKind::Directory,
                    attributes,
                };
                self.host.put(path, &entry).await?;
                self.verify(journal, step, path, &record.intend.after).await
            }
            None => Err(conflict(path, &record.intend, &now)),
        }
    }

    /// Removes what a crashed `put` left beside its target.
    pub(super) async fn remove_temporary(&self, path: &Path) -> Result<(), StepError> {
        if let Some(temporary) = temporary_beside(path) {
            self.host.remove(&temporary).await?;
        }
        Ok(())
    }

    async fn take_file(
        &self,
        plan: &Plan,
        journal: &mut Journal,
        step: &Step,
        path: &Path,
    ) -> Result<Taken, StepError> {
        let present = self.host.read(path).await?;
        let before = found(present.as_ref());
        let changed = match wanted(&step.before, Some(&journal.replay()?), None) {
            Ok(wanted) => wanted.and_then(|it| difference(&it, &before, Care::Before)),
            Err(problem) => Some(problem),
        };
        if let Some(detail) = changed {
            return Err(StepError::Changed {
                path: path.to_owned(),
                detail,
            });
        }
        let (entry, leaves) = match &step.action {
            Action::Put {
                attributes,
                content,
            } => {
                let workshop = self.workshop(plan);
                workshop.make_keys(leaves_of(content))?;
                let Rendered { kind, leaves } =
                    render(&workshop, content, present.as_ref()).await?;
                (
                    Some(Entry {
                        kind,
                        attributes: attributes.clone(),
                    }),
                    leaves,
                )
            }
            _ => (None, Vec::new()),
        };
        refuse_other_leaves(&journal.replay()?, &leaves)?;

        let mut holds_ca_key = false;
        if let Some(bytes) = present.as_ref().and_then(Entry::bytes) {
            self.state.backup(&plan.id, step.number, bytes)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // RKE keeps the CAs' keys in its state file.
            holds_ca_key = looks_like_ca_key(&name, bytes) || name.ends_with(".rkestate");
        }
        let after = found(entry.as_ref());
        let number = step.number;
        let intend = Intend {
            step: number,
            before,
            after: after.clone(),
            leaves,
            holds_ca_key,
        };
        self.intend(journal, intend)?;

        match &entry {
            Some(entry) => self.host.put(path, entry).await?,
            None => self.host.remove(path).await?,
        }
        self.verify(journal, step, path, &after).await
    }

    /// Reads back what a step left, and notes it.
    async fn verify(
        &self,
        journal: &mut Journal,
        step: &Step,
        path: &Path,
        after: &Found,
    ) -> Result<Taken, StepError> {
        let now = found(self.host.read(path).await?.as_ref());
        match difference(after, &now, Care::After) {
            None => self.done(journal, step, now),
            Some(detail) => Err(StepError::Unverified {
                path: path.to_owned(),
                detail,
            }),
        }
    }

    pub(super) fn intend(&self, journal: &mut Journal, intend: Intend) -> Result<(), StepError> {
        Ok(journal.append(self.now(), Event::Intend(intend))?)
    }

    pub(super) fn done(
        &self,
        journal: &mut Journal,
        step: &Step,
        after: Found,
    ) -> Result<Taken, StepError> {
        journal.append(
            self.now(),
            Event::Done {
                step: step.number,
                after,
            },
        )?;
        Ok(Taken::Done)
    }

    pub(super) fn intend_stateless(
        &self,
        journal: &mut Journal,
        step: &Step,
    ) -> Result<(), StepError> {
        let intend = Intend {
            step: step.number,
            before: Found::Stateless,
            after: Found::Stateless,
            leaves: Vec::new(),
            holds_ca_key: false,
        };
        self.intend(journal, intend)
    }

    async fn restart(&self, argv: &[String]) -> Result<(), StepError> {
        let output = self.host.run(argv, self.patience.command).await?;
        if output.code == Some(0) {
            return Ok(());
        }
        let ending = match output.code {
            Some(code) => format!("exit code {code}"),
            None => "a signal".to_owned(),
        };
        let stderr = String::from_utf8_lossy(&output.stderr);
        let tail = stderr
            .trim()
            .lines()
            .rev()
            .take(STDERR_LINES)
            .collect::<Vec<_>>();
        let stderr = tail.into_iter().rev().collect::<Vec<_>>().join(" / ");
        Err(StepError::Command {
            command: argv.join(" "),
            ending,
            stderr,
        })
    }

    /// Looks at the proofs until all hold or patience ends.
    async fn wait_for(
        &self,
        plan: &Plan,
        journal: &Journal,
        proofs: &[Proof],
    ) -> Result<(), StepError> {
        let eyes = self.eyes(plan, journal.replay()?.leaves);
        let deadline = tokio::time::Instant::now() + self.patience.proof;
        loop {
            let unmet = eyes.unmet(proofs).await;
            if unmet.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(StepError::Unproven {
                    seconds: self.patience.proof.as_secs(),
                    unmet,
                });
            }
            tokio::time::sleep(self.patience.pause).await;
        }
    }
}

/// A leaf that an earlier step put in place must be the same in a later one.
pub(super) fn refuse_other_leaves(
    replay: &Replay,
    leaves: &[crate::journal::LeafRecord],
) -> Result<(), MakeError> {
    for leaf in leaves {
        let other = |known: &crate::journal::LeafRecord| {
            let certificates = known.certificate.as_ref().zip(leaf.certificate.as_ref());
            known.spki != leaf.spki || certificates.is_some_and(|(known, new)| known != new)
        };
        if replay.leaves.get(&leaf.leaf).is_some_and(other) {
            return Err(MakeError::Staging {
                leaf: leaf.leaf.clone(),
            });
        }
    }
    Ok(())
}

/// How many lines of a failed command's complaint are reported.
const STDERR_LINES: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Attributes;

    fn directory(mode: u32) -> Found {
        let kind = FingerprintKind::Directory;
        Found::Present(Fingerprint {
            kind,
            attributes: Attributes::new(mode),
        })
    }

    fn file(digest: &str, mtime: i64) -> Found {
        let kind = FingerprintKind::File(digest.to_owned());
        let attributes = Attributes {
            mtime: Some((mtime, 0)),
            ..Attributes::new(0o600)
        };
        Found::Present(Fingerprint { kind, attributes })
    }

    fn judge(before: &Found, after: &Found, found: &Found) -> Option<Verdict> {
        let (before, after) = (before.clone(), after.clone());
        let leaves = Vec::new();
        verdict(
            &Intend {
                step: 1,
                before,
                after,
                leaves,
                holds_ca_key: false,
            },
            found,
        )
    }

    #[test]
    fn the_target_tells_whether_the_step_was_done() {
        let (old, new, other) = (file("a", 1), file("b", 2), file("c", 3));
        assert_eq!(judge(&old, &new, &new), Some(Verdict::Done));
        assert_eq!(judge(&old, &new, &old), Some(Verdict::NotDone));
        assert_eq!(judge(&old, &new, &other), None);
        assert_eq!(judge(&old, &new, &Found::Absent), None);
        assert_eq!(
            judge(&old, &Found::Absent, &Found::Absent),
            Some(Verdict::Done)
        );
        assert_eq!(
            judge(&Found::Absent, &new, &Found::Absent),
            Some(Verdict::NotDone)
        );
        // Same content, another time: only the time tells.
        assert_eq!(
            judge(&file("a", 1), &file("a", 2), &file("a", 1)),
            Some(Verdict::NotDone)
        );
        assert_eq!(
            judge(&file("a", 1), &file("a", 2), &file("a", 2)),
            Some(Verdict::Done)
        );
        // A directory born 0700 that did not get its mode.
        let wanted = directory(0o755);
        assert_eq!(
            judge(&Found::Absent, &wanted, &directory(0o700)),
            Some(Verdict::HalfDone)
        );
        assert_eq!(judge(&Found::Absent, &wanted, &new), None);
    }
}
