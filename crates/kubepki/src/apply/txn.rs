//! One write to the datastore: read, compare, keep, intend, write at the revision, read back.
//!
//! A connection that breaks in the middle leaves open whether the write was done. The journal
//! holds the SHA-256 of the new value, so the row tells: the same revision means that nothing was
//! done, the new value that all of it was, anything else that somebody else wrote.

use zeroize::Zeroizing;

use super::Executor;
use super::compare::describe;
use super::failure::StepError;
use super::restamp::ready;
use super::step::{Taken, Verdict};
use crate::datastore::{DatastoreError, Record};
use crate::journal::{Found, Intend, Journal, Replay};
use crate::plan::{Before, Content, Plan, Step, TxnOperation};

/// What a datastore key holds, without the bytes.
pub(super) fn row(record: Option<&Record>) -> Found {
    match record {
        None => Found::Absent,
        Some(record) => Found::Value {
            revision: Some(record.revision),
            sha256: pki::sha256(&record.value).to_string(),
        },
    }
}

/// Judges a transaction in flight; `None` when somebody else wrote.
pub(super) fn verdict(intend: &Intend, found: &Found) -> Option<Verdict> {
    if *found == intend.before {
        return Some(Verdict::NotDone);
    }
    match (&intend.after, found) {
        (Found::Absent, Found::Absent) => Some(Verdict::Done),
        (Found::Value { sha256: wanted, .. }, Found::Value { sha256, .. }) if wanted == sha256 => {
            Some(Verdict::Done)
        }
        _ => None,
    }
}

/// The revision that a condition asks for; `None` for "no such key". `replay` knows what earlier
/// steps left.
pub(super) fn wanted(before: &Before, replay: Option<&Replay>) -> Result<Option<i64>, String> {
    match before {
        Before::Absent => Ok(None),
        Before::Revision(revision) => Ok(Some(*revision)),
        Before::RevisionOfStep(number) => {
            let record = replay.and_then(|replay| replay.steps.get(number));
            match record.and_then(|record| record.after.as_ref()) {
                Some(Found::Value {
                    revision: Some(revision),
                    ..
                }) => Ok(Some(*revision)),
                _ => Err(format!("step {number} left no revision")),
            }
        }
        Before::Present(_) | Before::LeftBy(_) | Before::Any => {
            Err("the plan names no revision".to_owned())
        }
    }
}

/// How the revision that is there differs from the one that should be, in words.
pub(super) fn revision_difference(wanted: Option<i64>, found: Option<i64>) -> Option<String> {
    let words = |revision: Option<i64>| {
        revision.map_or_else(|| "nothing".to_owned(), |it| format!("revision {it}"))
    };
    (wanted != found).then(|| format!("expected {}, found {}", words(wanted), words(found)))
}

impl Executor<'_> {
    pub(super) async fn take_txn(
        &self,
        plan: &Plan,
        journal: &mut Journal,
        step: &Step,
        (key, operation): (&str, &TxnOperation),
    ) -> Result<Taken, StepError> {
        let store = self.store(key)?;
        let replay = journal.replay()?;
        let present = store.get(key).await?;
        let found = present.as_ref().map(|record| record.revision);
        let problem = match wanted(&step.before, Some(&replay)) {
            Ok(wanted) => revision_difference(wanted, found),
            Err(problem) => Some(problem),
        };
        if let Some(detail) = problem {
            return Err(changed(key, detail));
        }
        let value = match operation.content() {
            Some(content) => {
                let made = self.value(plan, step, content, &replay, present.as_ref());
                Some(made.await?)
            }
            None => None,
        };
        if let Some(present) = &present {
            self.state.backup(&plan.id, step.number, &present.value)?;
        }
        let after = value.as_ref().map_or(Found::Absent, |value| Found::Value {
            revision: None,
            sha256: pki::sha256(value).to_string(),
        });
        let intend = Intend {
            step: step.number,
            before: row(present.as_ref()),
            after,
            leaves: Vec::new(),
            // Whoever has the token of that time has the CAs' keys.
            holds_ca_key: present.is_some(),
        };
        self.intend(journal, intend.clone())?;

        let value = value.as_deref().map(Vec::as_slice);
        let written = match (value, found) {
            (Some(value), None) => store.create(key, value).await.map(drop),
            (Some(value), Some(revision)) => store.update(key, revision, value).await.map(drop),
            (None, Some(revision)) => store.delete(key, revision).await.map(drop),
            (None, None) => Ok(()),
        };
        let now = match (&written, store.get(key).await) {
            (_, Ok(record)) => row(record.as_ref()),
            // Why it broke says more than that it is still broken.
            (Err(_), Err(_)) => return written.map(|()| Taken::Done).map_err(StepError::from),
            (Ok(()), Err(error)) => return Err(error.into()),
        };
        match (verdict(&intend, &now), written) {
            (Some(Verdict::Done), _) => self.done(journal, step, now),
            (_, Err(source @ DatastoreError::Conflict { .. })) => Err(StepError::Outrun { source }),
            (_, Err(error)) => Err(error.into()),
            (_, Ok(())) => Err(StepError::Unverified {
                path: place(key),
                detail: format!("expected what was written, found {}", describe(&now)),
            }),
        }
    }

    /// Takes a transaction in flight to its end.
    pub(super) async fn take_txn_again(
        &self,
        plan: &Plan,
        journal: &mut Journal,
        step: &Step,
        (key, operation): (&str, &TxnOperation),
    ) -> Result<Taken, StepError> {
        let Some(record) = journal.replay()?.steps.remove(&step.number) else {
            return self.take_txn(plan, journal, step, (key, operation)).await;
        };
        let now = row(self.store(key)?.get(key).await?.as_ref());
        match verdict(&record.intend, &now) {
            Some(Verdict::Done) => self.done(journal, step, now),
            Some(_) => self.take_txn(plan, journal, step, (key, operation)).await,
            None => Err(overtaken(key, &record.intend, &now)),
        }
    }

    /// The value to write. One that is sealed for this step is staged, so that the same bytes are
    /// written after a crash: the first attempt may still be on its way to the server.
    async fn value(
        &self,
        plan: &Plan,
        step: &Step,
        content: &Content,
        replay: &Replay,
        present: Option<&Record>,
    ) -> Result<Zeroizing<Vec<u8>>, StepError> {
        let workshop = self.workshop(plan);
        if !matches!(content, Content::Restamped { .. }) {
            return Ok(ready(&workshop, content, &step.target, present).await?);
        }
        let name = format!("value-{}", step.number);
        let intended = replay.steps.get(&step.number).map(|it| &it.intend.after);
        if let (Some(Found::Value { sha256, .. }), Some(staged)) =
            (intended, self.state.read_staged(&plan.id, &name)?)
            && pki::sha256(&staged).to_string() == *sha256
        {
            return Ok(staged);
        }
        let value = ready(&workshop, content, &step.target, present).await?;
        self.state.stage(&plan.id, &name, &value)?;
        Ok(value)
    }

    pub(super) fn store(&self, key: &str) -> Result<&dyn crate::datastore::Datastore, StepError> {
        match self.cluster {
            Some(cluster) => Ok(cluster.store),
            // Refused before the first step.
            None => Err(changed(key, "no datastore was given".to_owned())),
        }
    }
}

/// The error of a transaction whose [`verdict`] is `None`.
pub(super) fn overtaken(key: &str, intend: &Intend, found: &Found) -> StepError {
    StepError::Overtaken {
        key: key.to_owned(),
        before: describe(&intend.before),
        after: describe(&intend.after),
        found: describe(found),
    }
}

fn changed(key: &str, detail: String) -> StepError {
    StepError::Changed {
        path: place(key),
        detail,
    }
}

fn place(key: &str) -> std::path::PathBuf {
    format!("datastore key {key}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(revision: Option<i64>, value: &str) -> Found {
        Found::Value {
            revision,
            sha256: value.to_owned(),
        }
    }

    fn judge(before: &Found, after: &Found, found: &Found) -> Option<Verdict> {
        let intend = Intend {
            step: 1,
            before: before.clone(),
            after: after.clone(),
            leaves: Vec::new(),
            holds_ca_key: false,
        };
        verdict(&intend, found)
    }

    #[test]
    fn the_row_tells_whether_the_write_was_done() {
        use Verdict::{Done, NotDone};

        let (old, new) = (value(Some(4), "old"), value(None, "new"));
        let cases = [
            // Update.
            (&old, &new, value(Some(4), "old"), Some(NotDone)),
            (&old, &new, value(Some(5), "new"), Some(Done)),
            (&old, &new, value(Some(9), "new"), Some(Done)),
            (&old, &new, value(Some(5), "other"), None),
            (&old, &new, value(Some(6), "old"), None),
            (&old, &new, Found::Absent, None),
            // The same bytes again: only the revision tells.
            (
                &old,
                &value(None, "old"),
                value(Some(4), "old"),
                Some(NotDone),
            ),
            (&old, &value(None, "old"), value(Some(5), "old"), Some(Done)),
            // Create.
            (&Found::Absent, &new, Found::Absent, Some(NotDone)),
            (&Found::Absent, &new, value(Some(7), "new"), Some(Done)),
            (&Found::Absent, &new, value(Some(7), "other"), None),
            // Delete.
            (&old, &Found::Absent, Found::Absent, Some(Done)),
            (&old, &Found::Absent, value(Some(4), "old"), Some(NotDone)),
            (&old, &Found::Absent, value(Some(5), "old"), None),
        ];
        for (before, after, found, expected) in cases {
            assert_eq!(
                judge(before, after, &found),
                expected,
                "{before:?} {after:?} {found:?}"
            );
        }
    }

    #[test]
    fn a_condition_names_a_revision_or_says_why_not() {
        assert_eq!(wanted(&Before::Absent, None), Ok(None));
        assert_eq!(wanted(&Before::Revision(3), None), Ok(Some(3)));
        assert!(wanted(&Before::RevisionOfStep(1), None).is_err());
        assert!(wanted(&Before::Any, None).is_err());
        assert_eq!(revision_difference(Some(3), Some(3)), None);
        let text = revision_difference(Some(3), None).unwrap_or_default();
        assert_eq!(text, "expected revision 3, found nothing");
    }
}
