//! Connections that break in the middle of a plan, at each piece that is sent.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use kubepki::apply::{Aftermath, unfinished};
use kubepki::datastore::{Datastore, DatastoreError, Record};
use kubepki::error_chain;
use kubepki::plan::Plan;
use kubepki::state::Locked;
use testkit::Tree;
use testkit::server::{Etcd, MariaDb, Postgres};

use crate::places::{Case, mariadb, postgres};
use crate::proxy::{Cut, Proxy};
use crate::scene::{connect, executor, finished, rotation_id};

#[tokio::test]
async fn postgresql_may_be_cut_off_anywhere() {
    let port = Postgres::shared().port();
    cut_off_anywhere(&Case::at(postgres("cut")).await, port).await;
}

#[tokio::test]
async fn mariadb_may_be_cut_off_anywhere() {
    let port = MariaDb::shared().port();
    cut_off_anywhere(&Case::at(mariadb("cut")).await, port).await;
}

#[tokio::test]
async fn etcd_may_be_cut_off_anywhere() {
    let etcd = Etcd::plain();
    let url = etcd.url(0);
    let (_, port) = url.rsplit_once(':').unwrap();
    let port = port.parse().unwrap();
    cut_off_anywhere(&Case::at(url).await, port).await;
}

async fn cut_off_anywhere(case: &Case, port: u16) {
    let rotated = rotated(case).await;
    let mut cuts = [0; 2];
    for nth in 1.. {
        let mut came = false;
        // etcd sends many pieces: there every other one is resumed, the rest undone.
        let directions = match case.endpoint.starts_with("http") {
            true => vec![nth % 2 == 0],
            false => vec![true, false],
        };
        let kinds = [(false, true), (true, true), (true, false)];
        let runs = kinds
            .into_iter()
            .flat_map(|kind| directions.iter().map(move |resumes| (kind, *resumes)));
        for ((delivered, lasting), resumes) in runs {
            let revision = case.begin().await;
            let plan = case.scene.rotation(revision).await;
            let cut = Cut {
                nth,
                delivered,
                lasting,
            };
            let proxy = Proxy::start(port, cut);
            let through = case
                .endpoint
                .replace(&format!(":{port}"), &format!(":{}", proxy.port()));
            let through = through.replace(&format!("({port})"), &format!("({})", proxy.port()));
            assert_ne!(through, case.endpoint);
            let state = case.scene.state().lock().unwrap();
            if let Ok(store) = connect(&through, &case.scene.server()).await {
                let outcome = executor(&state, store.as_ref()).apply(&plan).await;
                cuts[usize::from(outcome.is_ok())] += usize::from(proxy.has_cut());
                assert!(outcome.is_ok() || proxy.has_cut(), "{outcome:?}");
                if let Err(error) = outcome {
                    let begun = !state.journal(&plan.id).unwrap().entries.is_empty();
                    let expected = match begun {
                        true => Aftermath::Interrupted,
                        false => Aftermath::Unchanged,
                    };
                    assert_eq!(error.aftermath(), expected, "{}", error_chain(&error));
                }
            }
            came |= proxy.has_cut();
            mend(case, &state, &plan, resumes, &rotated).await;
        }
        if !came {
            break;
        }
    }
    println!("cut off {cuts:?} times: stopped, got over");
    // Every piece was cut off; how many there are is a matter of how busy the machine is.
    assert!(cuts[0] > 20, "{cuts:?}");
}

/// The tree that the rotation ends with.
async fn rotated(case: &Case) -> Tree {
    let revision = case.begin().await;
    let plan = case.scene.rotation(revision).await;
    let store = case.store().await;
    let state = case.scene.state().lock().unwrap();
    finished(executor(&state, store.as_ref()).apply(&plan).await);
    let rotated = case.scene.tree();
    case.scene.assert_rotated(&rotated, store.as_ref()).await;
    rotated
}

/// Goes on with the plan or takes it back, over a connection that holds.
async fn mend(case: &Case, state: &Locked, plan: &Plan, resumes: bool, rotated: &Tree) {
    let store = case.store().await;
    let executor = executor(state, store.as_ref());
    if state.journal(&plan.id).unwrap().entries.is_empty() {
        case.scene
            .assert_original(&case.original, store.as_ref())
            .await;
    } else if resumes {
        finished(executor.resume(&plan.id).await);
        case.scene.assert_rotated(rotated, store.as_ref()).await;
    } else {
        let undo = executor.undo(&plan.id).await;
        let undo = undo.unwrap_or_else(|error| panic!("{}", error_chain(&error)));
        finished(executor.apply(&undo).await);
        case.scene
            .assert_original(&case.original, store.as_ref())
            .await;
        assert_eq!(unfinished(state).unwrap(), None);
    }
}

/// Fails at one call and all later ones: what a program sees of a datastore that went away.
#[derive(Debug)]
struct Failing<'a> {
    store: &'a dyn Datastore,
    left: AtomicUsize,
    /// Whether the failing call is carried out before it fails.
    after: bool,
}

impl Failing<'_> {
    fn count(&self, action: &str) -> Result<bool, DatastoreError> {
        let left = self.left.load(Ordering::Relaxed);
        if left > 0 {
            self.left.store(left - 1, Ordering::Relaxed);
        }
        match left {
            0 => Err(gone(action)),
            1 if !self.after => Err(gone(action)),
            left => Ok(left == 1),
        }
    }
}

fn gone(action: &str) -> DatastoreError {
    DatastoreError::Failed {
        action: action.to_owned(),
        source: "the test broke it".into(),
    }
}

fn answer<T>(fails: bool, action: &str, answer: T) -> Result<T, DatastoreError> {
    match fails {
        true => Err(gone(action)),
        false => Ok(answer),
    }
}

#[async_trait]
impl Datastore for Failing<'_> {
    async fn get(&self, key: &str) -> Result<Option<Record>, DatastoreError> {
        let fails = self.count("read")?;
        answer(fails, "read", self.store.get(key).await?)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Record>, DatastoreError> {
        let fails = self.count("list")?;
        answer(fails, "list", self.store.list(prefix).await?)
    }

    async fn create(&self, key: &str, value: &[u8]) -> Result<i64, DatastoreError> {
        let fails = self.count("create")?;
        answer(fails, "create", self.store.create(key, value).await?)
    }

    async fn update(&self, key: &str, revision: i64, value: &[u8]) -> Result<i64, DatastoreError> {
        let fails = self.count("update")?;
        answer(
            fails,
            "update",
            self.store.update(key, revision, value).await?,
        )
    }

    async fn delete(&self, key: &str, revision: i64) -> Result<Option<i64>, DatastoreError> {
        let fails = self.count("delete")?;
        answer(fails, "delete", self.store.delete(key, revision).await?)
    }
}

/// Every call fails once, before and after it takes effect; resuming and undoing fail too.
#[tokio::test]
async fn every_failing_call_can_be_resumed_and_undone() {
    let case = Case::sqlite().await;
    let rotated = rotated(&case).await;
    let mut failures = 0;
    for nth in 1.. {
        let mut failed = false;
        for (after, resumes) in [(false, true), (false, false), (true, true), (true, false)] {
            let revision = case.begin().await;
            let plan = case.scene.rotation(revision).await;
            let state = case.scene.state().lock().unwrap();
            let store = case.store().await;
            let failing = |nth| Failing {
                store: store.as_ref(),
                left: AtomicUsize::new(nth),
                after,
            };
            let first = failing(nth);
            let outcome = executor(&state, &first).apply(&plan).await;
            failed |= outcome.is_err();
            failures += usize::from(outcome.is_err());
            let begun = !state.journal(&plan.id).unwrap().entries.is_empty();
            if begun {
                let second = failing(nth % 7 + 1);
                stumble(&state, &executor(&state, &second), resumes).await;
            }
            // What could not be undone is given up for the undo that has begun.
            let stumbled = unfinished(&state).unwrap();
            let by = stumbled.filter(|past| past.undoes.is_some());
            if let Some(undo) = by {
                finished(executor(&state, store.as_ref()).resume(&undo.id).await);
                let at = store.as_ref();
                case.scene.assert_original(&case.original, at).await;
            } else if !state.plans().unwrap().iter().any(|id| *id != plan.id) {
                mend(&case, &state, &plan, resumes, &rotated).await;
            } else {
                let at = store.as_ref();
                case.scene.assert_original(&case.original, at).await;
            }
        }
        if !failed {
            break;
        }
    }
    println!("{failures} failures, each resumed or undone");
    assert!(failures > 40, "{failures}");
}

/// Tries to mend it over a connection that fails again.
async fn stumble(state: &Locked, executor: &kubepki::apply::Executor<'_>, resumes: bool) {
    if resumes {
        let _ = executor.resume(&rotation_id()).await;
        return;
    }
    if let Ok(undo) = executor.undo(&rotation_id()).await
        && executor.apply(&undo).await.is_err()
    {
        let begun = !state.journal(&undo.id).unwrap().entries.is_empty();
        assert_eq!(begun, state.load_plan(&undo.id).is_ok());
    }
}

/// The server itself dies between two steps, and comes back.
#[tokio::test]
async fn a_server_that_dies_between_steps_is_come_back_to() {
    let mut server = Postgres::start(false);
    let fixture = testkit::fixture("k3s-1.36-postgres");
    server.load("kubernetes", &fixture.extra("kubernetes.sql"));
    let mut case = Case::at(server.endpoint("kubernetes")).await;
    let rotated = rotated(&case).await;
    for resumes in [true, false] {
        let revision = case.begin().await;
        let plan = case.scene.rotation(revision).await;
        let state = case.scene.state().lock().unwrap();
        let store = case.store().await;
        let dying = Dying {
            store: store.as_ref(),
            server: &server,
        };
        let error = executor(&state, &dying).apply(&plan).await.unwrap_err();
        assert_eq!(error.aftermath(), Aftermath::Interrupted, "{error}");
        let resumed = executor(&state, store.as_ref()).resume(&plan.id).await;
        assert!(resumed.is_err(), "nobody is there: {resumed:?}");
        server.restart();
        case.endpoint = server.endpoint("kubernetes");
        mend(&case, &state, &plan, resumes, &rotated).await;
    }
}

/// Takes its server along with the first delete.
#[derive(Debug)]
struct Dying<'a> {
    store: &'a dyn Datastore,
    server: &'a Postgres,
}

#[async_trait]
impl Datastore for Dying<'_> {
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
        self.store.update(key, revision, value).await
    }

    async fn delete(&self, key: &str, revision: i64) -> Result<Option<i64>, DatastoreError> {
        self.server.kill();
        self.store.delete(key, revision).await
    }
}
