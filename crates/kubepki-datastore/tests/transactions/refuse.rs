//! What is refused, and who else may have written.

use async_trait::async_trait;
use kubepki::apply::{Aftermath, ApplyError, Executor, StepError, unfinished};
use kubepki::datastore::{Datastore, DatastoreError, Record};
use kubepki::error_chain;
use kubepki::journal::Progress;
use kubepki::plan::*;

use crate::places::Case;
use crate::scene::{OLD_KEY, cluster, executor, finished, new_key, passphrase};

#[tokio::test]
async fn a_row_that_was_changed_since_the_plan_is_refused_and_nothing_is_changed() {
    let case = Case::sqlite().await;
    let revision = case.begin().await;
    let plan = case.scene.rotation(revision).await;
    let store = case.store().await;
    store.update(OLD_KEY, revision, b"another").await.unwrap();
    store.create(&new_key(), b"in the way").await.unwrap();
    let before = store.list("/bootstrap").await.unwrap();
    let state = case.scene.state().lock().unwrap();
    let outcome = executor(&state, store.as_ref()).apply(&plan).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.aftermath(), Aftermath::Refused);
    let ApplyError::Stale { differences, .. } = &error else {
        panic!("{error}")
    };
    let steps: Vec<u32> = differences.iter().map(|it| it.step).collect();
    assert_eq!(steps, [3, 4], "{error}");
    let text = error.to_string();
    assert!(text.contains(OLD_KEY) && text.contains(&format!("expected revision {revision}")));
    assert_eq!(store.list("/bootstrap").await.unwrap(), before);
    assert_eq!(case.scene.tree().listing(), case.original.listing());
    assert!(state.plans().unwrap().is_empty());
}

/// Somebody else writes, or we die, just before one of our writes.
#[derive(Debug)]
struct Meddler<'a> {
    store: &'a dyn Datastore,
    /// What is done first; and whether the write is still tried.
    foreign: bool,
    writes: bool,
}

impl Meddler<'_> {
    async fn meddle(&self, key: &str, revision: i64) -> Result<(), DatastoreError> {
        if self.foreign {
            self.store.update(key, revision, b"another's").await?;
        }
        match self.writes {
            true => Ok(()),
            false => Err(DatastoreError::Failed {
                action: "write".to_owned(),
                source: "the test broke it".into(),
            }),
        }
    }
}

#[async_trait]
impl Datastore for Meddler<'_> {
    async fn get(&self, key: &str) -> Result<Option<Record>, DatastoreError> {
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Record>, DatastoreError> {
        self.store.list(prefix).await
    }

    async fn create(&self, key: &str, value: &[u8]) -> Result<i64, DatastoreError> {
        self.store.create(key, value).await
    }

    async fn update(&self, key: &str, revision: i64, value: &[u8]) -> Result<i64, DatastoreError> {
        self.meddle(key, revision).await?;
        self.store.update(key, revision, value).await
    }

    async fn delete(&self, key: &str, revision: i64) -> Result<Option<i64>, DatastoreError> {
        self.meddle(key, revision).await?;
        self.store.delete(key, revision).await
    }
}

fn progress(executor: &Executor<'_>, plan: &Plan) -> Progress {
    let entries = executor.state.journal(&plan.id).unwrap().entries;
    kubepki::journal::replay(&entries).unwrap().progress
}

#[tokio::test]
async fn a_row_that_is_changed_between_look_and_write_is_not_written_over() {
    let case = Case::sqlite().await;
    let revision = case.begin().await;
    let plan = case.scene.rotation(revision).await;
    let store = case.store().await;
    let state = case.scene.state().lock().unwrap();
    let meddler = Meddler {
        store: store.as_ref(),
        foreign: true,
        writes: true,
    };
    let outcome = executor(&state, &meddler).apply(&plan).await;
    let error = outcome.unwrap_err();
    let text = error_chain(&error);
    let ApplyError::Stopped {
        step: 4, source, ..
    } = &error
    else {
        panic!("{text}")
    };
    assert!(matches!(**source, StepError::Outrun { .. }), "{text}");
    assert!(
        text.contains("somebody else") && text.contains(OLD_KEY),
        "{text}"
    );
    // It is certain that the step was not done.
    let executor = executor(&state, store.as_ref());
    assert_eq!(progress(&executor, &plan), Progress::InProgress { next: 4 });
    let past = unfinished(&state).unwrap().unwrap();
    assert!(format!("{:?}", past.standing).contains("somebody else"));

    let resumed = executor.resume(&plan.id).await.unwrap_err();
    assert!(matches!(resumed, ApplyError::Stale { .. }), "{resumed}");
    let undo = executor.undo(&plan.id).await.unwrap();
    finished(executor.apply(&undo).await);
    assert_others_row(&case, store.as_ref()).await;
}

/// The same while a write is in doubt: a crash came, and then somebody else.
#[tokio::test]
async fn a_row_that_somebody_else_wrote_after_a_crash_stays_his() {
    let case = Case::sqlite().await;
    let revision = case.begin().await;
    let plan = case.scene.rotation(revision).await;
    let store = case.store().await;
    let state = case.scene.state().lock().unwrap();
    let broken = Meddler {
        store: store.as_ref(),
        foreign: true,
        writes: false,
    };
    let outcome = executor(&state, &broken).apply(&plan).await;
    assert!(outcome.is_err());
    let executor = executor(&state, store.as_ref());
    assert_eq!(progress(&executor, &plan), Progress::InFlight { step: 4 });

    let error = executor.resume(&plan.id).await.unwrap_err();
    let text = error_chain(&error);
    let ApplyError::Stopped { source, .. } = &error else {
        panic!("{text}")
    };
    assert!(matches!(**source, StepError::Overtaken { .. }), "{text}");
    assert!(text.contains("kubepki undo"), "{text}");
    let undo = executor.undo(&plan.id).await.unwrap();
    let note = undo.notes.iter().find(|note| note.contains(OLD_KEY));
    assert!(
        note.is_some_and(|it| it.contains("stays as it is")),
        "{:?}",
        undo.notes
    );
    finished(executor.apply(&undo).await);
    assert_others_row(&case, store.as_ref()).await;
}

async fn assert_others_row(case: &Case, store: &dyn Datastore) {
    let rows = store.list("/bootstrap").await.unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(
        (rows[0].key.as_str(), &**rows[0].value),
        (OLD_KEY, &b"another's"[..])
    );
    let options = testkit::DiffOptions::exact().without_directory_mtimes();
    testkit::Tree::assert_equal(&case.original, &case.scene.tree(), &options);
}

/// An undo is made while a write seems not to have been done; then the write comes through.
#[tokio::test]
async fn an_undo_that_a_late_write_overtakes_is_refused_before_it_begins() {
    let case = Case::sqlite().await;
    let revision = case.begin().await;
    let plan = case.scene.rotation(revision).await;
    let store = case.store().await;
    let state = case.scene.state().lock().unwrap();
    let broken = Meddler {
        store: store.as_ref(),
        foreign: false,
        writes: false,
    };
    assert!(executor(&state, &broken).apply(&plan).await.is_err());
    let executor = executor(&state, store.as_ref());
    let undo = executor.undo(&plan.id).await.unwrap();
    store.delete(OLD_KEY, revision).await.unwrap();
    let error = executor.apply(&undo).await.unwrap_err();
    assert!(matches!(error, ApplyError::Stale { .. }), "{error}");
    assert!(error.to_string().contains("after all"), "{error}");
    let undo = executor.undo(&plan.id).await.unwrap();
    finished(executor.apply(&undo).await);
    let at = store.as_ref();
    case.scene.assert_original(&case.original, at).await;
}

#[tokio::test]
async fn a_plan_is_held_to_its_datastore() {
    let case = Case::sqlite().await;
    let revision = case.begin().await;
    let plan = case.scene.rotation(revision).await;
    let store = case.store().await;
    let state = case.scene.state().lock().unwrap();
    let mut executor = executor(&state, store.as_ref());
    let mut other = cluster(store.as_ref(), &[]);
    other.description = "another one";
    executor.cluster = Some(other);
    let error = executor.apply(&plan).await.unwrap_err();
    assert!(
        matches!(error, ApplyError::OtherDatastore { .. }),
        "{error}"
    );
    executor.cluster = None;
    let error = executor.apply(&plan).await.unwrap_err();
    assert!(matches!(error, ApplyError::NoDatastore { .. }), "{error}");
    assert_eq!(error.aftermath(), Aftermath::Refused);
    assert!(state.plans().unwrap().is_empty());

    executor.cluster = Some(cluster(store.as_ref(), &[]));
    finished(executor.apply(&plan).await);
    executor.cluster = Some(other);
    let error = executor.undo(&plan.id).await.unwrap_err();
    assert!(
        matches!(error, ApplyError::OtherDatastore { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn what_cannot_be_taken_back_says_why_unless_nothing_was_done() {
    let case = Case::sqlite().await;
    let revision = case.begin().await;
    let mut plan = case.scene.rotation(revision).await;
    plan.irreversible = Some("the old keys are known to others".to_owned());
    // Only the datastore's steps, so that the first one is in doubt.
    plan.steps.drain(..2);
    plan.steps.truncate(1);
    plan.steps[0].number = 1;
    let store = case.store().await;
    let state = case.scene.state().lock().unwrap();
    let meddler = Late {
        store: store.as_ref(),
    };
    assert!(executor(&state, &meddler).apply(&plan).await.is_err());
    let executor = executor(&state, store.as_ref());
    let undo = executor.undo(&plan.id).await.unwrap();
    assert!(
        undo.steps.is_empty() && undo.irreversible.is_none(),
        "{undo:?}"
    );
    finished(executor.resume(&plan.id).await);
    let error = executor.undo(&plan.id).await.unwrap_err();
    assert!(error.to_string().contains("known to others"), "{error}");
    assert_eq!(error.aftermath(), Aftermath::Refused);
    let row = store.get(&new_key()).await.unwrap().unwrap();
    assert!(kubepki::bootstrap::open(&row.value, &passphrase(crate::scene::NEW)).is_ok());
}

/// Never comes to create anything.
#[derive(Debug)]
struct Late<'a> {
    store: &'a dyn Datastore,
}

#[async_trait]
impl Datastore for Late<'_> {
    async fn get(&self, key: &str) -> Result<Option<Record>, DatastoreError> {
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Record>, DatastoreError> {
        self.store.list(prefix).await
    }

    async fn create(&self, _key: &str, _value: &[u8]) -> Result<i64, DatastoreError> {
        Err(DatastoreError::Failed {
            action: "create".to_owned(),
            source: "the test broke it".into(),
        })
    }

    async fn update(&self, key: &str, revision: i64, value: &[u8]) -> Result<i64, DatastoreError> {
        self.store.update(key, revision, value).await
    }

    async fn delete(&self, key: &str, revision: i64) -> Result<Option<i64>, DatastoreError> {
        self.store.delete(key, revision).await
    }
}
