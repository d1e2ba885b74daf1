//! What a hostile new user does to CAs, datastore and tokens: every refusal is clear and leaves
//! tree and datastore as they were.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking and spoil files"
)]

mod datastore;
mod places;
mod sets;

use std::path::{Path, PathBuf};

use kubepki::bootstrap::Field;
use testkit::{DiffOptions, Fixture, Run, Tree};

const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");

/// A stopped server with its SQLite file.
struct Lab {
    fixture: Fixture,
}

impl Lab {
    fn new(name: &str) -> Self {
        let fixture = Fixture::new(name);
        Self { fixture }
    }

    fn server(&self) -> PathBuf {
        self.fixture.data_dir().join("server")
    }

    /// A path beside the data directory, as text.
    fn beside(&self, name: &str) -> String {
        self.fixture.scratch(name).display().to_string()
    }

    /// The set that comes next under the same root.
    fn good(&self) -> String {
        let path = self.fixture.extra("staged-same-root");
        path.display().to_string()
    }

    fn run(&self, args: &[&str]) -> Run {
        let data_dir = self.fixture.data_dir().display().to_string();
        let socket = format!("KUBEPKI_SYSLOG={}", self.beside("syslog"));
        let mut words = vec!["-u", "K3S_TOKEN", &socket, KUBEPKI];
        words.extend(args);
        words.extend(["--data-dir", &data_dir]);
        testkit::run("env", &words, b"")
    }

    /// Runs it; its exit code must be `code`, and it must say `word`.
    #[track_caller]
    fn ends(&self, args: &[&str], code: i32, word: &str) -> Run {
        let run = self.run(args);
        let text = run.text();
        assert_eq!(run.code, Some(code), "{args:?}: {text}");
        assert!(
            text.contains(word),
            "{args:?} does not say {word:?}: {text}"
        );
        assert!(!text.contains("panicked at"), "{text}");
        assert!(!text.contains("PRIVATE KEY-----\n"), "{text}");
        run
    }

    fn tree(&self) -> Tree {
        Tree::snapshot(self.fixture.scratch(""))
    }

    /// Fails if anything but the state directory's lock and empty folders came.
    #[track_caller]
    fn assert_untouched(&self, before: &Tree) {
        let options = DiffOptions::exact()
            .without_directory_mtimes()
            .ignoring("syslog")
            .ignoring("data/kubepki/lock")
            .ignoring("data/server/db/state.db-shm");
        let left = |tree: &Tree| {
            let empty = ["data/kubepki", "data/kubepki/staging"];
            let others = tree.nodes().map(|(path, _)| path.to_owned());
            others
                .filter(|path| path.starts_with("data/kubepki/staging/"))
                .filter(|path| !empty.contains(&path.as_str()))
                .count()
        };
        assert_eq!(left(&self.tree()), 0, "staged secrets were left");
        let options = options
            .ignoring("data/kubepki/staging")
            .ignoring("data/kubepki");
        Tree::assert_equal(before, &self.tree(), &options);
    }
}

fn stage(set: &Path, field: Field, content: impl AsRef<[u8]>) {
    let path = field.under(set);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}
