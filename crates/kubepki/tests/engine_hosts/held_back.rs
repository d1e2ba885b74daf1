//! What would cut off pods that have missed a step is put off with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use kubepki::apply::{ApplyError, Outcome, Standing, history, put_off, unfinished};
use kubepki::error_chain;
use kubepki::host::Attributes;
use kubepki::plan::*;

use crate::scene::{NAMES, SSL, Scene, finished, hosts};

/// The step that has pods read what the first phase has put in place.
const PODS: u32 = 8;
const LAST: u32 = 12;

/// A rotation in two phases: pods are deleted between them.
async fn two_phases(scene: &Scene, id: &str) -> Plan {
    let base = scene.plan(id, None).await;
    let steps = base.steps.into_iter();
    let mut steps: Vec<(Target, Before, Action)> = steps
        .map(|step| (step.target, step.before, step.action))
        .collect();
    let (pods, save) = (steps.pop().unwrap(), steps.pop().unwrap());
    steps.push(pods);
    let set = |host: &&str| FileSet {
        host: (*host).to_owned(),
        directory: SSL.into(),
        files: BTreeMap::from([(
            "new.txt".to_owned(),
            FileChange {
                before: Before::LeftBy(2),
                attributes: Attributes::new(0o640),
                content: Some(Content::Text("newer\n".to_owned())),
            },
        )]),
    };
    let sets = NAMES.iter().map(set).collect();
    steps.push((hosts(&NAMES), Before::Any, Action::Deploy { sets }));
    steps.push((hosts(&[NAMES[0]]), Before::Any, healthy(scene)));
    let (target, _, promote) = steps[5].clone();
    steps.push((target, Before::LeftBy(6), promote));
    steps.push(save);
    let certain = steps.len();
    let mut plan = scene.plan_of(id, steps, certain);
    plan.deferrable = BTreeSet::from([PODS, LAST]);
    plan
}

/// A restart that leaves the leaf as it is.
fn healthy(scene: &Scene) -> Action {
    let mut action = scene.restart(&[NAMES[0]]);
    if let Action::RestartContainers { restarts } = &mut action {
        for restart in restarts {
            restart.proof = Vec::new();
        }
    }
    action
}

/// Whether the second phase has come to the hosts.
async fn is_second(scene: &Scene) -> bool {
    let picture = scene.picture().await;
    let mut newer = NAMES
        .iter()
        .map(|host| picture[&format!("{host}/new.txt")].1 == b"newer\n");
    let first = newer.next().unwrap();
    assert!(newer.all(|it| it == first));
    first
}

#[track_caller]
fn held_back(outcome: Result<Outcome, ApplyError>) {
    let Ok(Outcome::Partly { open, .. }) = outcome else {
        panic!("{outcome:?}");
    };
    let numbers: Vec<u32> = open.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (PODS..=LAST).collect::<Vec<_>>(), "{open:?}");
    assert!(open[0].1.contains("503"), "{open:?}");
    for (_, reason) in &open[1..] {
        assert_eq!(reason, "it comes after step 8, which is put off");
    }
}

#[tokio::test]
async fn the_old_root_stays_until_pods_have_read_the_new_one() {
    let scene = Scene::new();
    let before = scene.picture().await;
    let state = scene.lock();
    let executor = scene.executor(&state);
    let plan = two_phases(&scene, "20261122T101500Z-rotate-0001").await;
    scene.api.away.store(true, Ordering::SeqCst);
    held_back(executor.apply(&plan).await);
    assert!(!is_second(&scene).await);
    assert_eq!(scene.restarts(), 6);
    for node in scene.hosts.boxes.values() {
        assert_eq!(*node.owner.lock().unwrap(), None, "{} is locked", node.name);
    }
    // Still away: nothing more is done.
    held_back(executor.resume(&plan.id).await);
    assert!(!is_second(&scene).await);
    assert_eq!(scene.restarts(), 6);
    assert_eq!(scene.api.saved.lock().unwrap().len(), 0);
    assert_eq!(put_off(&state).unwrap().unwrap().id, plan.id);

    // The API is back, and a host that the second phase needs is not.
    scene.api.away.store(false, Ordering::SeqCst);
    let away = scene.node(NAMES[1]);
    away.away.store(true, Ordering::SeqCst);
    let error = executor.resume(&plan.id).await.unwrap_err();
    assert!(error_chain(&error).contains(NAMES[1]), "{error}");
    assert_eq!(scene.api.deleted.load(Ordering::SeqCst), 0);
    away.away.store(false, Ordering::SeqCst);
    assert!(!is_second(&scene).await);
    finished(executor.resume(&plan.id).await);
    assert!(is_second(&scene).await);
    assert_eq!(scene.restarts(), 7);
    assert_eq!(scene.api.deleted.load(Ordering::SeqCst), 1);
    assert_eq!(scene.api.saved.lock().unwrap().len(), 1);

    let undo = executor.undo(&plan.id).await.unwrap();
    finished(executor.apply(&undo).await);
    assert_eq!(scene.picture().await, before);
    scene.assert_serves().await;
}

/// Calls between two of those that break.
const STRIDE: usize = 9;

/// The second phase breaks on its way; then it is resumed, or undone.
#[tokio::test]
async fn a_second_phase_that_breaks_is_mended() {
    let scene = Scene::new();
    let before = scene.picture().await;
    let state = scene.lock();
    let executor = scene.executor(&state);
    let mut brief = executor;
    brief.patience.proof = std::time::Duration::from_millis(100);
    for nth in (1..).step_by(STRIDE) {
        let id = format!("20261122T101500Z-rotate-{nth:04}");
        let plan = two_phases(&scene, &id).await;
        scene.api.away.store(true, Ordering::SeqCst);
        held_back(executor.apply(&plan).await);
        scene.api.away.store(false, Ordering::SeqCst);
        scene.hosts.faults.at(nth);
        let outcome = brief.resume(&plan.id).await;
        let broke = scene.hosts.faults.broken.load(Ordering::SeqCst);
        scene.hosts.faults.at(0);
        if !broke {
            finished(outcome);
            assert!(nth > 20, "{nth} calls only");
            return;
        }
        if (nth / STRIDE).is_multiple_of(2) {
            finished(executor.resume(&plan.id).await);
            assert!(is_second(&scene).await, "{nth}");
        }
        match executor.undo(&plan.id).await {
            Ok(undo) => finished(executor.apply(&undo).await),
            Err(error) => panic!("{nth}: {}", error_chain(&error)),
        }
        assert_eq!(scene.picture().await, before, "{nth}");
        scene.assert_serves().await;
        assert_eq!(unfinished(&state).unwrap(), None, "{nth}");
    }
}

/// Who wants something else meanwhile is not kept from it.
#[tokio::test]
async fn another_plan_takes_its_place() {
    let scene = Scene::new();
    let state = scene.lock();
    let executor = scene.executor(&state);
    let plan = two_phases(&scene, "20261122T101500Z-rotate-0001").await;
    scene.api.away.store(true, Ordering::SeqCst);
    held_back(executor.apply(&plan).await);
    let next = scene.plan_of(
        "20261122T111500Z-rotate-0002",
        vec![(hosts(&[NAMES[0]]), Before::Any, healthy(&scene))],
        1,
    );
    finished(executor.apply(&next).await);
    let past = history(&state).unwrap();
    let older = past.iter().find(|past| past.id == plan.id).unwrap();
    let by = next.id.clone();
    assert_eq!(older.standing, Standing::Superseded { by });
    assert!(!is_second(&scene).await);
}
