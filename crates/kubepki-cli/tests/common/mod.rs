//! What the command's tests share: a node to work on, the program, and what must hold of leaves.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "each test file is a crate of its own that uses a part of this, and tests panic"
)]

pub mod leaves;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use testkit::{DiffOptions, Fixture, Run, Tree};

/// The program under test.
pub const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");
/// Where plans and journals are kept, below [`Node::root`].
pub const STATE: &str = "data/kubepki";

/// A copy of what a real cluster wrote, to be worked on.
///
/// Paths of its files are below [`Self::root`]: `data/server/…`, `data/agent/…`, `extra/k3s.yaml`.
pub struct Node {
    fixture: Fixture,
}

impl Node {
    /// The fixture `name`, without its datastore.
    pub fn new(name: &str) -> Self {
        let fixture = Fixture::without_datastore(name);
        Self { fixture }
    }

    /// Everything of the fixture lies below this.
    pub fn root(&self) -> PathBuf {
        self.fixture.scratch("")
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.fixture.data_dir()
    }

    /// A path below [`Self::root`].
    pub fn path(&self, below: &str) -> PathBuf {
        self.fixture.scratch(below)
    }

    /// The same as text.
    pub fn text_path(&self, below: &str) -> String {
        self.path(below).to_str().unwrap().to_owned()
    }

    /// The administrator's kubeconfig below [`Self::root`], if the fixture has one.
    pub fn kubeconfig(&self) -> Option<&'static str> {
        ["extra/k3s.yaml", "extra/kubeconfig.yaml"]
            .into_iter()
            .find(|path| self.path(path).is_file())
    }

    /// Arguments that name this node.
    pub fn site(&self) -> Vec<String> {
        let mut site = vec!["--data-dir".to_owned(), self.text_path("data")];
        if let Some(path) = self.kubeconfig() {
            site.extend(["--kubeconfig".to_owned(), self.text_path(path)]);
        }
        site
    }

    /// Runs `kubepki ARGS` on this node; its standard input is no terminal.
    pub fn run(&self, args: &[&str]) -> Run {
        let site = self.site();
        let all: Vec<&str> = args
            .iter()
            .copied()
            .chain(site.iter().map(String::as_str))
            .collect();
        testkit::run(KUBEPKI, &all, b"")
    }

    /// The same, and its exit code must be `code`.
    #[track_caller]
    pub fn ends(&self, args: &[&str], code: i32) -> Run {
        let run = self.run(args);
        assert_eq!(
            run.code,
            Some(code),
            "kubepki {}: {}",
            args.join(" "),
            run.text()
        );
        run
    }

    /// The same, and it must succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Run {
        self.ends(args, 0)
    }

    /// What is there now.
    pub fn tree(&self) -> Tree {
        Tree::snapshot(self.root())
    }

    /// The bytes of every regular file that a plan may touch.
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let tree = self.tree().without(STATE);
        tree.files()
            .map(|path| (path.to_owned(), std::fs::read(self.path(path)).unwrap()))
            .collect()
    }

    /// Replaces a file's bytes and nothing else of it; one that has gone comes back 0600.
    pub fn overwrite(&self, below: &str, bytes: &[u8]) {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;

        let path = self.path(below);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        file.write_all(bytes).unwrap();
    }

    /// Fails unless everything but the state directory is as in `before`, times of directories
    /// excepted: replacing a file touches its directory.
    #[track_caller]
    pub fn assert_is(&self, before: &Tree) {
        let options = DiffOptions::exact()
            .without_directory_mtimes()
            .ignoring(STATE);
        Tree::assert_equal(before, &self.tree(), &options);
    }

    /// Fails if anything at all is not as in `before`.
    #[track_caller]
    pub fn assert_untouched(&self, before: &Tree) {
        Tree::assert_equal(before, &self.tree(), &DiffOptions::exact());
    }
}

/// The paths that differ between two trees, state directory and times of directories excepted.
/// A file that came, went, or has another mode, owner or attribute is marked: `-path`, `+path`,
/// `!path`; what has other content only is not.
pub fn changed(before: &Tree, after: &Tree) -> BTreeSet<String> {
    let ignored = |path: &str| Path::new(path).starts_with(STATE);
    let paths: BTreeSet<&str> = before
        .nodes()
        .chain(after.nodes())
        .map(|(path, _)| path)
        .filter(|path| !ignored(path))
        .collect();
    let mut changed = BTreeSet::new();
    for path in paths {
        match (before.get(path), after.get(path)) {
            (Some(_), None) => changed.insert(format!("-{path}")),
            (None, Some(_)) => changed.insert(format!("+{path}")),
            (Some(old), Some(new)) => {
                let kept = (old.mode, old.uid, old.gid, &old.xattrs)
                    == (new.mode, new.uid, new.gid, &new.xattrs);
                match () {
                    () if !kept => changed.insert(format!("!{path}")),
                    () if old.kind != new.kind => changed.insert(path.to_owned()),
                    () => false,
                }
            }
            (None, None) => false,
        };
    }
    changed
}

/// Asks the Go program in `judge.go`; each question is a line.
#[track_caller]
pub fn go_accepts(questions: &[String]) {
    let program = testkit::go_program(include_str!("judge.go"));
    let run = testkit::run::<_, &str>(program, &[], questions.join("\n").as_bytes());
    assert!(run.success(), "{}", run.text());
}

/// The plan id that `kubepki plan` tells.
pub fn saved_plan(run: &Run) -> String {
    let text = run.text();
    let (_, rest) = text.split_once("kubepki apply ").expect("a saved plan");
    rest.split_whitespace().next().unwrap().to_owned()
}
