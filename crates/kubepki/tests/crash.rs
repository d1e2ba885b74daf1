//! A plan's run, killed at every system call that changes a file, then resumed, and then undone;
//! and the same with a full disk in place of the kill.
//!
//! Without libtest: it runs tests in threads, and the program to be killed is this one itself,
//! whose main thread does all the work.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

#[path = "engine/node.rs"]
mod node;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kubepki::apply::{ApplyError, Outcome, unfinished};
use kubepki::edge::file::replace;
use kubepki::error_chain;
use kubepki::host::{Attributes, LocalHost};
use kubepki::plan::Plan;
use kubepki::state::StateError;
use testkit::{CrashPoint, Tree, Victim};

use node::{Node, executor, scratch};

const FOLDER: &str = "KUBEPKI_TEST_CRASH_FOLDER";

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    match std::env::var_os(FOLDER) {
        Some(folder) => return runtime.block_on(victim(&PathBuf::from(folder))),
        // A question about which tests there are.
        None if std::env::args().any(|argument| argument == "--list") => {}
        None => runtime.block_on(async {
            let case = Case::new().await;
            case.every_crash_is_mended().await;
            case.every_failure_is_reported_and_mended().await;
        }),
    }
    ExitCode::SUCCESS
}

/// The program that is killed.
async fn victim(folder: &Path) -> ExitCode {
    match apply(folder).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::from(6)
        }
    }
}

async fn apply(folder: &Path) -> Result<(), String> {
    let text = std::fs::read(folder.join("plan.json")).unwrap();
    let plan: Plan = serde_json::from_slice(&text).unwrap();
    let state = Node::at(folder)
        .state()
        .lock()
        .map_err(|error| error_chain(&error))?;
    let outcome = executor(&LocalHost, &state).apply(&plan).await;
    match outcome.map_err(|error| error_chain(&error))? {
        Outcome::Finished { untidy: None, .. } => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// Says where it was, if the test fails while this lives.
struct Told<'a>(&'static str, &'a CrashPoint);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(what, CrashPoint { call, nth, seen }) = self;
            eprintln!("{what} at {call} number {nth} ({seen})");
        }
    }
}

struct Case {
    folder: tempfile::TempDir,
    node: Node,
    plan: Plan,
    victim: Victim,
    points: Vec<CrashPoint>,
    original: Tree,
    finished: Tree,
}

impl Case {
    async fn new() -> Self {
        let folder = scratch();
        let node = Node::at(folder.path());
        node.make();
        let original = node.tree();
        node.keep(&folder.path().join("kept"));
        let plan = node.plan().await;
        let text = serde_json::to_vec(&plan).unwrap();
        replace(
            &folder.path().join("plan.json"),
            &text,
            &Attributes::new(0o600),
        )
        .unwrap();
        let none: [&str; 0] = [];
        let victim = Victim::new(std::env::current_exe().unwrap(), none).env(FOLDER, folder.path());
        let points = victim.crash_points();
        let finished = node.tree();
        node.assert_finished(&finished, &plan.id);
        assert!(points.len() > 200, "{}", points.len());
        Self {
            folder,
            node,
            plan,
            victim,
            points,
            original,
            finished,
        }
    }

    fn kept(&self) -> PathBuf {
        self.folder.path().join("kept")
    }

    async fn every_crash_is_mended(&self) {
        let crashed = self.folder.path().join("crashed");
        for point in &self.points {
            self.node.restore(&self.kept());
            self.victim.crash_at(point);
            Node {
                root: crashed.clone(),
            }
            .restore(&self.node.root);
            let _at = Told("killed", point);
            self.resume().await;
            self.node.restore(&crashed);
            self.undo().await;
        }
        println!("{} crashes, each resumed and undone", self.points.len());
    }

    async fn every_failure_is_reported_and_mended(&self) {
        let mut reported = 0;
        for (number, point) in self.points.iter().enumerate() {
            self.node.restore(&self.kept());
            let output = self.victim.fail_at(point, "ENOSPC");
            let _at = Told("full disk", point);
            // Making sure that nothing is in the way may fail where nothing is.
            if output.status.success() {
                self.node.assert_finished(&self.finished, &self.plan.id);
                continue;
            }
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(6), "{text}");
            assert!(text.contains("No space left on device"), "{text}");
            reported += 1;
            if number % 2 == 0 {
                self.resume().await;
            } else {
                self.undo().await;
            }
        }
        println!("{reported} failures, each reported and mended");
        assert!(reported > 190, "{reported}");
    }

    async fn resume(&self) {
        let state = self.node.state().lock().unwrap();
        let executor = executor(&LocalHost, &state);
        let outcome = match executor.resume(&self.plan.id).await {
            // It came before the journal's first line.
            Err(ApplyError::NotBegun { .. } | ApplyError::State(StateError::NoPlan { .. })) => {
                executor.apply(&self.plan).await
            }
            outcome => outcome,
        };
        assert!(
            matches!(outcome, Ok(Outcome::Finished { untidy: None, .. })),
            "{outcome:?}"
        );
        self.node.assert_finished(&self.finished, &self.plan.id);
    }

    async fn undo(&self) {
        let state = self.node.state().lock().unwrap();
        let executor = executor(&LocalHost, &state);
        match executor.undo(&self.plan.id).await {
            // It came before the journal's first line.
            Err(ApplyError::NothingDone { .. } | ApplyError::State(StateError::NoPlan { .. })) => {}
            undo => {
                let outcome = executor.apply(&undo.unwrap()).await;
                let done = matches!(outcome, Ok(Outcome::Finished { untidy: None, .. }));
                assert!(done, "{outcome:?}");
            }
        }
        assert_eq!(unfinished(&state).unwrap(), None);
        self.node.assert_original(&self.original);
    }
}
