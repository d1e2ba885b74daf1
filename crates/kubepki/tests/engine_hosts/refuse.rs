//! What is refused, and that nothing is changed by it.

use std::path::Path;
use std::sync::atomic::Ordering;

use kubepki::apply::{Aftermath, ApplyError, Executor};
use kubepki::edge::file::replace;
use kubepki::error_chain;
use kubepki::host::Attributes;
use kubepki::plan::*;

use crate::scene::{NAMES, SSL, Scene, finished, hosts, leaf_id};

const ID: &str = "20261122T101500Z-rotate-0001";

#[tokio::test]
async fn a_host_that_is_away_locked_or_changed_refuses_the_plan() {
    let scene = Scene::new();
    let plan = scene.plan(ID, None).await;
    let before = scene.picture().await;
    let state = scene.lock();
    let executor = scene.executor(&state);
    let node = scene.node(NAMES[1]);

    node.away.store(true, Ordering::SeqCst);
    let error = executor.apply(&plan).await.unwrap_err();
    assert!(matches!(error, ApplyError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("10.0.0.2: no route"), "{error}");
    node.away.store(false, Ordering::SeqCst);

    *node.owner.lock().unwrap() = Some("another".to_owned());
    let error = executor.apply(&plan).await.unwrap_err();
    assert!(
        error.to_string().contains("plan another holds the lock"),
        "{error}"
    );
    *node.owner.lock().unwrap() = None;

    let file = node.at(Path::new(SSL)).join("new.txt");
    replace(&file, b"somebody else's", &Attributes::new(0o600)).unwrap();
    let error = executor.apply(&plan).await.unwrap_err();
    assert!(matches!(error, ApplyError::Stale { .. }), "{error}");
    assert_eq!(error.aftermath(), Aftermath::Refused);
    let place = "step 2: 10.0.0.2:/etc/kubernetes/ssl/new.txt: expected nothing";
    assert!(error.to_string().contains(place), "{error}");
    kubepki::edge::file::remove(&file).unwrap();

    let mut without = executor;
    without.machines = None;
    let error = without.apply(&plan).await.unwrap_err();
    assert!(matches!(error, ApplyError::NoMachines { .. }), "{error}");

    assert_eq!(scene.picture().await, before);
    assert!(state.plans().unwrap().is_empty());
    for node in scene.hosts.boxes.values() {
        assert_eq!(*node.owner.lock().unwrap(), None);
    }
    finished(executor.apply(&plan).await);
}

#[tokio::test]
async fn nothing_is_stopped_without_the_others_and_nothing_is_believed() {
    let scene = Scene::new();
    let state = scene.lock();
    let executor = scene.executor(&state);
    let mut plan = scene.plan(ID, None).await;
    let restarts = scene.restarts();
    // A member too many is asked for.
    if let Action::RestartContainers { restarts } = &mut plan.steps[2].action {
        for restart in restarts {
            if let Some(Proof::Quorum { needed, .. }) = restart.guard.first_mut() {
                *needed = 3;
            }
        }
    }
    let error = executor.apply(&plan).await.unwrap_err();
    let text = error_chain(&error);
    assert!(
        text.contains("nothing was stopped, for after 1 s: 2 of 2 etcd members"),
        "{text}"
    );
    assert_eq!(error.aftermath(), Aftermath::Interrupted);
    assert_eq!(scene.restarts(), restarts);
    let undo = executor.undo(&plan.id).await.unwrap();
    finished(executor.apply(&undo).await);

    // Somebody changes a file of the wave in flight.
    let plan = scene.plan("20261122T101500Z-rotate-0002", None).await;
    let calls = &scene.hosts.faults.calls;
    calls.store(0, Ordering::SeqCst);
    // Reached, locked and read twice each, and then some of the files.
    scene.hosts.faults.at(3 * 5 + 6);
    let error = executor.apply(&plan).await.unwrap_err();
    scene.hosts.faults.at(0);
    assert!(
        error_chain(&error).contains("stopped at step 2"),
        "{}",
        error_chain(&error)
    );
    let file = scene.node(NAMES[0]).at(Path::new(SSL)).join("web.pem");
    replace(&file, b"somebody else's", &Attributes::new(0o600)).unwrap();
    for error in [
        executor.resume(&plan.id).await.unwrap_err(),
        executor.undo(&plan.id).await.unwrap_err(),
    ] {
        let text = error_chain(&error);
        assert!(
            text.contains("10.0.0.1:/etc/kubernetes/ssl/web.pem: a crash came"),
            "{text}"
        );
    }
}

fn step(good: &Plan, change: &dyn Fn(&mut Plan)) -> Plan {
    let mut plan = good.clone();
    change(&mut plan);
    plan
}

/// The plan with its first host's files changed.
fn set(good: &Plan, change: &dyn Fn(&mut FileSet)) -> Plan {
    step(good, &|plan| {
        if let Action::Deploy { sets } = &mut plan.steps[1].action {
            change(&mut sets[0]);
        }
    })
}

fn file(good: &Plan, change: &dyn Fn(&mut FileChange)) -> Plan {
    set(good, &|set| change(set.files.get_mut("web.pem").unwrap()))
}

fn container(good: &Plan, change: &dyn Fn(&mut ContainerRestart)) -> Plan {
    step(good, &|plan| {
        if let Action::RestartContainers { restarts } = &mut plan.steps[2].action {
            change(&mut restarts[0]);
        }
    })
}

/// No plan fits, and nothing of it is kept.
async fn unfit(executor: &Executor<'_>, cases: impl IntoIterator<Item = (&str, Plan)>) {
    for (expected, plan) in cases {
        let error = executor.apply(&plan).await.unwrap_err();
        assert!(
            matches!(error, ApplyError::Unfit { .. }),
            "{expected}: {error}"
        );
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
    assert!(executor.state.plans().unwrap().is_empty());
}

#[tokio::test]
async fn files_that_do_not_fit_are_refused() {
    let scene = Scene::new();
    let good = scene.plan(ID, None).await;
    let state = scene.lock();
    let executor = scene.executor(&state);
    let cases = [
        (
            "one for each of its hosts",
            set(&good, &|it| it.host = "other".to_owned()),
        ),
        (
            "no absolute path",
            set(&good, &|it| it.directory = "ssl".into()),
        ),
        ("there are no files", set(&good, &|it| it.files.clear())),
        (
            "no name of a file",
            set(&good, &|it| {
                let change = it.files["web.pem"].clone();
                it.files.insert("../web.pem".to_owned(), change);
            }),
        ),
        (
            "does not fit its place",
            file(&good, &|it| it.content = Some(Content::Directory)),
        ),
        (
            "condition on web.pem",
            file(&good, &|it| it.before = Before::LeftBy(1)),
        ),
        (
            "what leaf nobody is",
            file(&good, &|it| {
                it.content = Some(Content::LeafKey(LeafId("nobody".to_owned())));
            }),
        ),
    ];
    unfit(&executor, cases).await;
}

#[tokio::test]
async fn containers_and_an_order_that_do_not_fit_are_refused() {
    let scene = Scene::new();
    let good = scene.plan(ID, None).await;
    let state = scene.lock();
    let executor = scene.executor(&state);
    let healthy = |url: &str| Proof::Healthy {
        host: NAMES[0].to_owned(),
        url: url.to_owned(),
        client: None,
        member: None,
    };
    let cases = [
        (
            "no name of a container",
            container(&good, &|it| it.container = "a/b".to_owned()),
        ),
        (
            "not those of its hosts",
            container(&good, &|it| it.host = NAMES[1].to_owned()),
        ),
        (
            "is no URL",
            container(&good, &|it| it.proof.push(healthy("ftp://x"))),
        ),
        (
            "has no certificate",
            container(&good, &|it| {
                let leaf = leaf_id("nobody");
                let (host, address) = (NAMES[0].to_owned(), "x:1".to_owned());
                it.proof.push(Proof::ServesAt {
                    host,
                    address,
                    leaf,
                });
            }),
        ),
        (
            "there is none",
            step(&good, &|it| it.deferrable.extend([99])),
        ),
        (
            "cannot be put off, but an earlier one",
            step(&good, &|it| it.deferrable.extend([2])),
        ),
        (
            "one of them twice",
            step(&good, &|it| {
                it.steps[1].target = hosts(&[NAMES[0], NAMES[0]])
            }),
        ),
        (
            "with its files",
            step(&good, &|it| it.steps[1].before = Before::Absent),
        ),
        (
            "what must be there before",
            step(&good, &|it| it.steps[5].before = Before::LeftBy(2)),
        ),
    ];
    unfit(&executor, cases).await;
}
