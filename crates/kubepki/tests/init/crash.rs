//! A first start that is cut short.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kubepki::apply::{ApplyError, Executor, Patience, Quiet};
use kubepki::edge::{FixedClock, FreshKeys, SystemEntropy};
use kubepki::host::{Entry, Host, HostError, LocalHost, Output};
use kubepki::init::{make_data_dir, stage};
use kubepki::state::{Locked, StateDir};
use testkit::Tree;

use crate::place::Place;

/// This machine, until so many files are written.
#[derive(Debug)]
struct Dying(AtomicUsize);

#[async_trait]
impl Host for Dying {
    async fn read(&self, path: &Path) -> Result<Option<Entry>, HostError> {
        LocalHost.read(path).await
    }

    async fn put(&self, path: &Path, entry: &Entry) -> Result<(), HostError> {
        if self.0.fetch_sub(1, Ordering::SeqCst) == 0 {
            self.0.store(0, Ordering::SeqCst);
            let source = std::io::Error::other("the power failed");
            return Err(HostError::File {
                action: "write",
                path: path.to_owned(),
                source,
            });
        }
        LocalHost.put(path, entry).await
    }

    async fn remove(&self, path: &Path) -> Result<(), HostError> {
        LocalHost.remove(path).await
    }

    async fn list(&self, path: &Path) -> Result<Option<Vec<String>>, HostError> {
        LocalHost.list(path).await
    }

    async fn run(&self, argv: &[String], timeout: Duration) -> Result<Output, HostError> {
        LocalHost.run(argv, timeout).await
    }
}

fn executor<'a>(host: &'a dyn Host, state: &'a Locked, clock: &'a FixedClock) -> Executor<'a> {
    Executor {
        host,
        state,
        clock,
        entropy: &SystemEntropy,
        keys: &FreshKeys,
        observer: &Quiet,
        patience: Patience::default(),
        cluster: None,
        caller: None,
        machines: None,
        kubernetes: None,
    }
}

/// Stops after `files` files.
async fn cut_short(place: &Place, files: usize) -> (Locked, kubepki::plan::PlanId) {
    let (plan, staged) = place.plan(&place.spec(), None).await.unwrap();
    make_data_dir(&LocalHost, &place.data_dir()).await.unwrap();
    let state = StateDir::of_data_dir(&place.data_dir()).lock().unwrap();
    stage(&state, &plan.id, &staged).unwrap();
    let dying = Dying(AtomicUsize::new(files));
    let clock = FixedClock(place.now);
    let stopped = executor(&dying, &state, &clock).apply(&plan).await;
    assert!(
        matches!(stopped, Err(ApplyError::Stopped { .. })),
        "{files}: {stopped:?}"
    );
    (state, plan.id)
}

#[tokio::test]
async fn goes_on_where_it_was_cut_short() {
    for files in [0, 11, 12, 13, 40, 75] {
        let place = Place::new();
        let (state, id) = cut_short(&place, files).await;
        let clock = FixedClock(place.now);
        executor(&LocalHost, &state, &clock)
            .resume(&id)
            .await
            .unwrap();
        let (again, staged) = place.plan(&place.spec(), None).await.unwrap();
        assert_eq!((again.steps.len(), staged.len()), (0, 0), "{files}");
        assert!(state.read_staged(&id, "server-ca.key").unwrap().is_none());
    }
}

#[tokio::test]
async fn is_taken_back_where_it_was_cut_short() {
    for files in [0, 12, 60] {
        let place = Place::new();
        let (state, id) = cut_short(&place, files).await;
        let clock = FixedClock(place.now);
        let executor = executor(&LocalHost, &state, &clock);
        let undo = executor.undo(&id).await.unwrap();
        executor.apply(&undo).await.unwrap();
        let left = Tree::snapshot(place.data_dir()).without("kubepki");
        assert_eq!(
            left.nodes().map(|(path, _)| path).collect::<Vec<_>>(),
            ["."],
            "{files}"
        );
        assert!(!place.kubeconfig().exists());
    }
}
