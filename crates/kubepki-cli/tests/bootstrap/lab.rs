//! A server's tree with its datastore, and the program on it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kubepki::bootstrap::{Bundle, Candidates, Field, KEY_PREFIX, Opened, locate};
use kubepki::datastore::Datastore;
use kubepki_datastore::{Access, SqliteStore};
use testkit::{DiffOptions, Fixture, Run, Tree};

/// The program under test.
pub const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");
/// The server token of most fixtures.
pub const TOKEN: &str = "fixture-token-0123456789abcdef";

/// A copy of what a real cluster wrote, datastore and all.
pub struct Lab {
    pub fixture: Fixture,
}

impl Lab {
    pub fn new(name: &str) -> Self {
        let fixture = Fixture::new(name);
        Self { fixture }
    }

    /// Without its own datastore.
    pub fn bare(name: &str) -> Self {
        let fixture = Fixture::without_datastore(name);
        Self { fixture }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.fixture.data_dir()
    }

    pub fn server(&self) -> PathBuf {
        self.data_dir().join("server")
    }

    /// A path beside the data directory.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.fixture.scratch(name)
    }

    /// A file with a token.
    pub fn token(&self, token: &str) -> String {
        let path = self.scratch(&format!("token-{}", token.len()));
        fs::write(&path, format!("{token}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Runs `kubepki ARGS` on it; its standard input is no terminal.
    pub fn run(&self, args: &[&str]) -> Run {
        let data_dir = self.data_dir();
        let mut all = args.to_vec();
        all.extend(["--data-dir", data_dir.to_str().unwrap()]);
        testkit::run(KUBEPKI, &all, b"")
    }

    /// The same, and its exit code must be `code`.
    #[track_caller]
    pub fn ends(&self, args: &[&str], code: i32) -> Run {
        let run = self.run(args);
        assert_eq!(run.code, Some(code), "{}: {}", args.join(" "), run.text());
        run
    }

    /// Everything, datastore included; SQLite's own side files come and go with readers.
    pub fn tree(&self) -> Tree {
        Tree::snapshot(self.fixture.scratch(""))
    }

    /// Fails if anything but times of directories and the state directory's lock is not as in
    /// `before`. SQLite's index of its log is memory that readers share, not data.
    #[track_caller]
    pub fn assert_untouched(&self, before: &Tree) {
        let mut options = DiffOptions::exact()
            .without_directory_mtimes()
            .ignoring("data/kubepki")
            .ignoring("data/server/db/state.db-shm");
        let log = "data/server/db/state.db-wal";
        let length = fs::metadata(self.scratch(log)).map_or(0, |it| it.len());
        if before.get(log).is_none() && length == 0 {
            // A reader of a database that was closed in order makes an empty log.
            options = options.ignoring(log);
        }
        Tree::assert_equal(before, &self.tree(), &options);
    }

    /// The bootstrap data in the tree's SQLite file.
    pub fn opened(&self, token: &str) -> Opened {
        let path = self.server().join("db/state.db");
        block_on(async {
            let store = SqliteStore::open(&path, Access::Read).await.unwrap();
            let records = store.list(KEY_PREFIX).await.unwrap();
            locate(&records, &candidates(token)).unwrap()
        })
    }
}

pub fn candidates(token: &str) -> Candidates {
    let mut candidates = Candidates::new();
    candidates.add_token(token, "the test").unwrap();
    candidates
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

/// Every regular file below a directory, by path.
pub fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let tree = Tree::snapshot(root);
    tree.files()
        .map(|path| (PathBuf::from(path), fs::read(root.join(path)).unwrap()))
        .collect()
}

/// What was extracted to `to` is what lies in `from`, in modes and times by K3s's rule.
#[track_caller]
pub fn assert_extracted(to: &Path, from: &Path, bundle: &Bundle) {
    let found = files(to);
    assert_eq!(found.len(), bundle.files.len());
    for (field, file) in &bundle.files {
        let (there, here) = (from.join(field.path()), to.join(field.path()));
        assert_eq!(found[field.path()], fs::read(&there).unwrap(), "{field}");
        assert_by_rule(*field, &here, (file.stamp.seconds, file.stamp.nanoseconds));
    }
    for directory in ["", "cred", "tls", "tls/etcd"] {
        let mode = fs::metadata(to.join(directory)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o700, "{directory}");
    }
}

#[track_caller]
fn assert_by_rule(field: Field, path: &Path, (seconds, nanoseconds): (i64, u32)) {
    let metadata = fs::metadata(path).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o600, "{field}");
    if seconds > 0 {
        let mtime = (metadata.mtime(), metadata.mtime_nsec());
        assert_eq!(mtime, (seconds, i64::from(nanoseconds)), "{field}");
    }
}
