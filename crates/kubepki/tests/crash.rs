//! A plan's run, killed at every system call that changes a file, then resumed, and then undone.
//!
//! Without libtest: it runs tests in threads, and the program to be killed is this one itself,
//! whose main thread does all the work.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

#[path = "engine/node.rs"]
mod node;

use std::path::{Path, PathBuf};

use kubepki::apply::{ApplyError, Outcome};
use kubepki::host::LocalHost;
use kubepki::plan::{Plan, PlanId};
use kubepki::state::StateError;
use testkit::Victim;

use node::{Node, executor, scratch};

const FOLDER: &str = "KUBEPKI_TEST_CRASH_FOLDER";

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    match std::env::var_os(FOLDER) {
        Some(folder) => runtime.block_on(victim(&PathBuf::from(folder))),
        // Anything but "run" is a question about which tests there are.
        None if std::env::args().any(|argument| argument == "--list") => {}
        None => runtime.block_on(every_crash_is_mended()),
    }
}

/// The program that is killed.
async fn victim(folder: &Path) {
    let node = Node::at(folder);
    let text = std::fs::read(folder.join("plan.json")).unwrap();
    let plan: Plan = serde_json::from_slice(&text).unwrap();
    let state = node.state().lock().unwrap();
    let outcome = executor(&LocalHost, &state).apply(&plan).await.unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
}

async fn every_crash_is_mended() {
    let folder = scratch();
    let node = Node::at(folder.path());
    node.make();
    let original = node.tree();
    let kept = folder.path().join("kept");
    node.keep(&kept);
    let plan = node.plan().await;
    let text = serde_json::to_string(&plan).unwrap();
    kubepki::edge::file::replace(
        &folder.path().join("plan.json"),
        text.as_bytes(),
        &kubepki::host::Attributes::new(0o600),
    )
    .unwrap();
    let none: [&str; 0] = [];
    let victim = Victim::new(std::env::current_exe().unwrap(), none).env(FOLDER, folder.path());

    node.restore(&kept);
    let points = victim.crash_points();
    let finished = node.tree();
    node.assert_finished(&finished, &plan.id);

    let crashed = folder.path().join("crashed");
    for point in &points {
        node.restore(&kept);
        victim.crash_at(point);
        let left = Node {
            root: crashed.clone(),
        };
        left.restore(&node.root);
        let what = format!("{} number {} ({})", point.call, point.nth, point.seen);
        println!("killed at {what}");
        resume(&node, &plan).await;
        node.assert_finished(&finished, &plan.id);

        node.restore(&crashed);
        undo(&node, &plan.id).await;
        node.assert_original(&original);
    }
    println!("{} crashes, each resumed and undone", points.len());
    assert!(points.len() > 100, "{}", points.len());
}

async fn resume(node: &Node, plan: &Plan) {
    let state = node.state().lock().unwrap();
    let executor = executor(&LocalHost, &state);
    let outcome = match executor.resume(&plan.id).await {
        // The crash came before the journal's first line.
        Err(ApplyError::NotBegun { .. } | ApplyError::State(StateError::NoPlan { .. })) => {
            executor.apply(plan).await
        }
        outcome => outcome,
    };
    assert!(
        matches!(outcome, Ok(Outcome::Finished { untidy: None, .. })),
        "{outcome:?}"
    );
}

async fn undo(node: &Node, id: &PlanId) {
    let state = node.state().lock().unwrap();
    let executor = executor(&LocalHost, &state);
    let undo = match executor.undo(id).await {
        Err(ApplyError::NothingDone { .. } | ApplyError::State(StateError::NoPlan { .. })) => {
            return;
        }
        undo => undo.unwrap(),
    };
    let outcome = executor.apply(&undo).await;
    assert!(
        matches!(outcome, Ok(Outcome::Finished { untidy: None, .. })),
        "{outcome:?}"
    );
    assert_eq!(kubepki::apply::unfinished(&state).unwrap(), None);
}
