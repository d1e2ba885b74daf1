//! A plan that changes files and rows, killed at every system call that changes a file, at every
//! one that changes the SQLite database, and at every piece that goes to a server or comes from
//! one; then resumed, and, from the same crash again, undone.
//!
//! Without libtest: it runs tests in threads, and the program to be killed is this one itself.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

#[path = "transactions/places.rs"]
mod places;
#[path = "transactions/scene.rs"]
mod scene;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kubepki::apply::{ApplyError, Outcome, unfinished};
use kubepki::edge::file::replace;
use kubepki::error_chain;
use kubepki::host::Attributes;
use kubepki::plan::Plan;
use kubepki::state::{StateDir, StateError};
use testkit::server::Etcd;
use testkit::{CrashPoint, Tree, Victim};

use places::{Case, mariadb, postgres};
use scene::{connect, executor, finished, rotation_id};

const DATA: &str = "KUBEPKI_TEST_CRASH_DATA";
const ENDPOINT: &str = "KUBEPKI_TEST_CRASH_ENDPOINT";

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    if let Some(data) = std::env::var_os(DATA) {
        let endpoint = std::env::var(ENDPOINT).unwrap();
        return runtime.block_on(victim(&PathBuf::from(data), &endpoint));
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // A question about which tests there are.
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let wanted = |name: &str| {
        let mut names = arguments
            .iter()
            .filter(|it| !it.starts_with('-'))
            .peekable();
        names.peek().is_none() || names.any(|it| name.contains(it.as_str()))
    };
    runtime.block_on(async {
        if wanted("sqlite") {
            killed_over_sqlite().await;
        }
        if wanted("postgresql") {
            killed_over_a_server("postgresql", postgres("crash")).await;
        }
        if wanted("mariadb") {
            killed_over_a_server("mariadb", mariadb("crash")).await;
        }
        if wanted("etcd") {
            let etcd = Etcd::plain();
            killed_over_a_server("etcd", etcd.url(0)).await;
        }
    });
    ExitCode::SUCCESS
}

/// The program that is killed.
async fn victim(data: &Path, endpoint: &str) -> ExitCode {
    let text = std::fs::read(data.with_file_name("plan.json")).unwrap();
    let plan: Plan = serde_json::from_slice(&text).unwrap();
    let state = StateDir::of_data_dir(data).lock().unwrap();
    let store = connect(endpoint, &data.join("server")).await.unwrap();
    match executor(&state, store.as_ref()).apply(&plan).await {
        Ok(Outcome::Finished { untidy: None, .. }) => ExitCode::SUCCESS,
        Ok(other) => panic!("{other:?}"),
        Err(error) => {
            eprintln!("{}", error_chain(&error));
            ExitCode::from(6)
        }
    }
}

/// Says where it was, if the test fails while this lives.
struct Told<'a>(&'a str, &'a CrashPoint);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(what, CrashPoint { call, nth, seen }) = self;
            eprintln!("{what}: killed at {call} number {nth} ({seen})");
        }
    }
}

/// A case, its plan's end, and the program that is killed on the way.
struct Killing {
    case: Case,
    rotated: Tree,
    victim: Victim,
}

impl Killing {
    async fn new(case: Case) -> Self {
        let victim = Victim::new(std::env::current_exe().unwrap(), ["--nocapture"])
            .env(DATA, &case.scene.data)
            .env(ENDPOINT, &case.endpoint);
        let mut killing = Self {
            rotated: case.original.clone(),
            case,
            victim,
        };
        killing.begin().await;
        let state = killing.case.scene.state().lock().unwrap();
        let store = killing.case.store().await;
        let plan = killing.plan();
        finished(executor(&state, store.as_ref()).apply(&plan).await);
        killing.rotated = killing.case.scene.tree();
        killing
    }

    fn path_of_plan(&self) -> PathBuf {
        self.case.scene.data.with_file_name("plan.json")
    }

    fn plan(&self) -> Plan {
        serde_json::from_slice(&std::fs::read(self.path_of_plan()).unwrap()).unwrap()
    }

    /// Everything as at first, and the plan for it.
    async fn begin(&self) {
        let revision = self.case.begin().await;
        let plan = self.case.scene.rotation(revision).await;
        let text = serde_json::to_vec(&plan).unwrap();
        replace(&self.path_of_plan(), &text, &Attributes::new(0o600)).unwrap();
    }

    async fn points(&self, victim: &Victim) -> Vec<CrashPoint> {
        self.begin().await;
        victim.crash_points()
    }

    /// Kills `victim` at `point`. How often tokio wakes the main thread by a `write` of its own is
    /// chance, so that the same line may be written by an earlier one.
    async fn crash(&self, victim: &Victim, point: &CrashPoint) {
        for nth in (1..=point.nth).rev() {
            self.begin().await;
            let point = CrashPoint {
                nth,
                ..point.clone()
            };
            if victim.crash_if_reached(&point) {
                return;
            }
            assert_eq!(point.call, "write", "{}", point.seen);
        }
        panic!("never killed: {}", point.seen);
    }

    /// What a crash left in files is resumed, and undone in a copy that is kept in `crashed`.
    async fn survive(&self, what: &str, point: &CrashPoint, crashed: &Path) {
        let _at = Told(what, point);
        forget(crashed);
        self.case.scene.keep(crashed);
        self.resume().await;
        self.case.scene.restore(crashed);
        self.undo().await;
    }

    async fn resume(&self) {
        let state = self.case.scene.state().lock().unwrap();
        let store = self.case.store().await;
        let executor = executor(&state, store.as_ref());
        let outcome = match executor.resume(&rotation_id()).await {
            // It came before the journal's first line.
            Err(ApplyError::NotBegun { .. } | ApplyError::State(StateError::NoPlan { .. })) => {
                executor.apply(&self.plan()).await
            }
            outcome => outcome,
        };
        finished(outcome);
        let scene = &self.case.scene;
        scene.assert_rotated(&self.rotated, store.as_ref()).await;
        assert!(!state.path().join("staging").join(rotation_id().0).exists());
    }

    async fn undo(&self) {
        let state = self.case.scene.state().lock().unwrap();
        let store = self.case.store().await;
        let executor = executor(&state, store.as_ref());
        match executor.undo(&rotation_id()).await {
            // It came before the journal's first line.
            Err(ApplyError::NothingDone { .. } | ApplyError::State(StateError::NoPlan { .. })) => {}
            undo => {
                let undo = undo.unwrap_or_else(|error| panic!("{}", error_chain(&error)));
                finished(executor.apply(&undo).await);
            }
        }
        assert_eq!(unfinished(&state).unwrap(), None);
        let scene = &self.case.scene;
        scene
            .assert_original(&self.case.original, store.as_ref())
            .await;
    }
}

/// SQLite's rows lie in a file: one crash is looked at twice, in two copies.
async fn killed_over_sqlite() {
    let killing = Killing::new(Case::sqlite().await).await;
    let scene = &killing.case.scene;
    let database = [
        "state.db",
        "state.db-wal",
        "state.db-shm",
        "state.db-journal",
    ]
    .map(|name| scene.server().join("db").join(name));
    let own = killing.victim.clone();
    let of_database = killing.victim.clone().at_files(database);
    let crashed = scene.data.with_file_name("crashed");
    // Which of SQLite's threads lets go of the file last, ours or its own, is chance, and that one
    // writes the log back into it: what the main thread does there counts below.
    let mut of_plan = killing.points(&own).await;
    of_plan.retain(|point| !point.seen.contains("/server/db/"));
    // Six steps, two lines of the journal for each, three files.
    assert!(of_plan.len() >= 110, "{}", of_plan.len());
    for point in &of_plan {
        killing.crash(&own, point).await;
        killing.survive("a file of the plan", point, &crashed).await;
    }
    println!(
        "SQLite: {} crashes at a file of the plan, each resumed and undone",
        of_plan.len()
    );
    let points = killing.points(&of_database).await;
    assert!(points.len() > 10, "{}", points.len());
    let mut crashes = 0;
    for point in &points {
        killing.begin().await;
        if of_database.crash_if_reached(point) {
            crashes += 1;
            killing.survive("the database", point, &crashed).await;
        }
    }
    println!("SQLite: {crashes} crashes at the database, each resumed and undone");
    assert!(crashes * 2 > points.len(), "{crashes} of {}", points.len());
}

/// A server's rows cannot be copied: each crash is brought about twice.
async fn killed_over_a_server(name: &str, endpoint: String) {
    let killing = Killing::new(Case::at(endpoint).await).await;
    let victim = killing.victim.clone().at_network();
    let points = killing.points(&victim).await;
    assert!(points.len() > 30, "{name}: {}", points.len());
    let mut crashes = 0;
    for point in &points {
        for resumes in [true, false] {
            killing.begin().await;
            // How often it looks whether an answer is there is chance.
            if !victim.crash_if_reached(point) {
                continue;
            }
            crashes += 1;
            let _at = Told(name, point);
            match resumes {
                true => killing.resume().await,
                false => killing.undo().await,
            }
        }
    }
    println!("{name}: {crashes} crashes, resumed and undone in turn");
    assert!(crashes > points.len(), "{crashes} of {}", points.len());
}

#[expect(clippy::disallowed_methods, reason = "a folder of this test")]
fn forget(folder: &Path) {
    if folder.exists() {
        std::fs::remove_dir_all(folder).unwrap();
    }
}
