//! There and back, whole and in parts.

use std::sync::atomic::Ordering;

use kubepki::apply::{ApplyError, Outcome, Standing, history, put_off, unfinished};
use kubepki::error_chain;
use kubepki::journal::Event;
use kubepki::plan::*;
use kubepki::state::StateError;

use crate::scene::{NAMES, Scene, finished, hosts};

#[tokio::test]
async fn a_rotation_is_carried_out_taken_back_and_brought_about_again() {
    let scene = Scene::new();
    let before = scene.picture().await;
    let plan = scene.plan("20261122T101500Z-rotate-0001", None).await;
    let state = scene.lock();
    let executor = scene.executor(&state);
    finished(executor.apply(&plan).await);
    scene.assert_renewed(&before).await;
    assert_eq!(
        scene.restarts(),
        6,
        "each container is started once more, and once only"
    );
    assert_eq!(scene.api.deleted.load(Ordering::SeqCst), 1);
    let saved = scene.api.saved.lock().unwrap().last().cloned();
    assert_eq!(saved, Some(scene.state_file().render_compact().to_vec()));
    let journal = state.journal(&plan.id).unwrap();
    let mut told: Vec<String> = Vec::new();
    for entry in &journal.entries {
        if let Event::Progress { host, what, .. } = &entry.event {
            told.push(format!("{host} {what}"));
        }
    }
    for host in NAMES {
        for what in [
            "deployed 4 files",
            "restarted web",
            "proved web",
            "has no nginx-proxy",
        ] {
            assert!(told.contains(&format!("{host} {what}")), "{what}: {told:?}");
        }
    }
    assert!(told.contains(&"local deleted pods kube-system/k8s-app=canal".to_owned()));
    let text = std::fs::read_to_string(
        state
            .path()
            .join("journal")
            .join(format!("{}.jsonl", plan.id)),
    );
    assert!(!text.unwrap_or_default().contains("PRIVATE KEY"));

    let renewed = scene.picture().await;
    let undo = executor.undo(&plan.id).await.unwrap();
    let kinds: Vec<&str> = undo.steps.iter().map(kind).collect();
    let expected = [
        "file", "file", "deploy", "file", "restart", "restart", "restart", "save", "pods",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(undo.deferrable.iter().copied().collect::<Vec<_>>(), [8, 9]);
    finished(executor.apply(&undo).await);
    assert_eq!(scene.picture().await, before);
    scene.assert_serves().await;
    assert_eq!(unfinished(&state).unwrap(), None);

    let again = executor.undo(&undo.id).await.unwrap();
    finished(executor.apply(&again).await);
    assert_eq!(scene.picture().await, renewed);
    scene.assert_serves().await;
}

fn kind(step: &Step) -> &'static str {
    match step.action {
        Action::Put { .. } | Action::Remove => "file",
        Action::Deploy { .. } => "deploy",
        Action::RestartContainers { .. } => "restart",
        Action::SaveState { .. } => "save",
        Action::DeletePods { .. } => "pods",
        _ => "other",
    }
}

/// Calls between two of those that break; with all of them the test takes minutes.
const STRIDE: usize = 7;

/// At one call to a host after the other everything breaks; then it is resumed, or undone.
#[tokio::test]
async fn a_break_at_any_call_to_a_host_is_mended() {
    let scene = Scene::new();
    let before = scene.picture().await;
    let state = scene.lock();
    let executor = scene.executor(&state);
    let mut brief = executor;
    brief.patience.proof = std::time::Duration::from_millis(200);
    for nth in (1..).step_by(STRIDE) {
        let plan = scene
            .plan(&format!("20261122T101500Z-rotate-{nth:04}"), None)
            .await;
        scene.hosts.faults.at(nth);
        let outcome = brief.apply(&plan).await;
        let broke = scene.hosts.faults.broken.load(Ordering::SeqCst);
        scene.hosts.faults.at(0);
        if !broke {
            finished(outcome);
            assert!(nth > 60, "{nth} calls only");
            return;
        }
        let changed = scene.picture().await != before;
        if (nth / STRIDE).is_multiple_of(2) {
            match executor.resume(&plan.id).await {
                Err(ApplyError::NotBegun { .. } | ApplyError::State(StateError::NoPlan { .. })) => {
                    assert!(!changed, "{nth}");
                    finished(executor.apply(&plan).await);
                }
                outcome => finished(outcome),
            }
            scene.assert_renewed(&before).await;
        }
        match executor.undo(&plan.id).await {
            Err(ApplyError::NothingDone { .. } | ApplyError::State(StateError::NoPlan { .. })) => {
                assert!(!changed, "{nth}");
            }
            Ok(undo) => finished(executor.apply(&undo).await),
            Err(error) => panic!("{nth}: {}", error_chain(&error)),
        }
        assert_eq!(scene.picture().await, before, "{nth}");
        scene.assert_serves().await;
        assert_eq!(unfinished(&state).unwrap(), None, "{nth}");
    }
}

#[tokio::test]
async fn a_host_that_is_away_waits_and_comes_back() {
    let scene = Scene::new();
    let before = scene.picture().await;
    let away = scene.node(NAMES[2]);
    let plan = scene
        .plan("20261122T101500Z-rotate-0001", Some(NAMES[2]))
        .await;
    away.away.store(true, Ordering::SeqCst);
    scene.api.away.store(true, Ordering::SeqCst);
    let state = scene.lock();
    let executor = scene.executor(&state);
    // The guards ask every other host; with one away there is no majority to spare.
    let mut plan = plan;
    for step in &mut plan.steps {
        if let Action::RestartContainers { restarts } = &mut step.action {
            restarts.iter_mut().for_each(|it| it.guard.clear());
        }
    }
    for _ in 0..2 {
        let outcome = match state.load_plan(&plan.id) {
            Ok(_) => executor.resume(&plan.id).await,
            Err(_) => executor.apply(&plan).await,
        };
        let Ok(Outcome::Partly { open, leaves }) = outcome else {
            panic!("{outcome:?}");
        };
        let numbers: Vec<u32> = open.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [7, 8, 9, 10], "{open:?}");
        assert!(open[0].1.contains("10.0.0.3 cannot be reached"), "{open:?}");
        assert!(open[1].1.contains("after step 7"), "{open:?}");
        assert!(open[2].1.contains("503"), "{open:?}");
        assert!(leaves.len() >= 3);
    }
    assert_eq!(unfinished(&state).unwrap(), None);
    let past = put_off(&state).unwrap().unwrap();
    assert_eq!(past.id, plan.id);

    away.away.store(false, Ordering::SeqCst);
    let outcome = executor.resume(&plan.id).await;
    let open = match outcome {
        Ok(Outcome::Partly { open, .. }) => open,
        other => panic!("{other:?}"),
    };
    assert_eq!(open.len(), 2, "{open:?}");
    scene.api.away.store(false, Ordering::SeqCst);
    finished(executor.resume(&plan.id).await);
    scene.assert_renewed(&before).await;
    let undo = executor.undo(&plan.id).await.unwrap();
    finished(executor.apply(&undo).await);
    assert_eq!(scene.picture().await, before);
}

#[tokio::test]
async fn a_new_plan_takes_the_place_of_one_that_is_put_off() {
    let scene = Scene::new();
    scene.api.away.store(true, Ordering::SeqCst);
    let state = scene.lock();
    let executor = scene.executor(&state);
    let plan = scene.plan("20261122T101500Z-rotate-0001", None).await;
    let outcome = executor.apply(&plan).await.unwrap();
    assert!(matches!(outcome, Outcome::Partly { .. }), "{outcome:?}");
    scene.api.away.store(false, Ordering::SeqCst);
    // The file that was removed is there no more, nor to be removed.
    let next = scene.plan_of(
        "20261122T111500Z-rotate-0002",
        vec![(hosts(&NAMES), Before::Any, scene.restart_only(&NAMES))],
        1,
    );
    finished(executor.apply(&next).await);
    let past = history(&state).unwrap();
    let older = past.iter().find(|past| past.id == plan.id).unwrap();
    let by = next.id.clone();
    assert_eq!(older.standing, Standing::Superseded { by });
    let error = executor.resume(&plan.id).await.unwrap_err();
    assert!(matches!(error, ApplyError::Abandoned { .. }), "{error}");
    assert_eq!(unfinished(&state).unwrap(), None);
}

impl Scene {
    /// Restarts without proofs of what is served.
    fn restart_only(&self, names: &[&str]) -> Action {
        let restarts = names.iter().map(|host| ContainerRestart {
            host: (*host).to_owned(),
            container: "web".to_owned(),
            guard: Vec::new(),
            proof: Vec::new(),
        });
        Action::RestartContainers {
            restarts: restarts.collect(),
        }
    }
}
