//! A stopped server with its SQLite datastore, and sets of CA files for it.

use std::path::{Path, PathBuf};

use kubepki::bootstrap::Field;
use testkit::{DiffOptions, Fixture, Run, Tree};

use crate::common::KUBEPKI;

/// A copy of a fixture, datastore included.
pub struct Server {
    pub fixture: Fixture,
}

impl Server {
    pub fn new(name: &str) -> Self {
        let fixture = Fixture::new(name);
        Self { fixture }
    }

    pub fn server(&self) -> PathBuf {
        self.fixture.data_dir().join("server")
    }

    /// Runs `kubepki ARGS` on this server.
    pub fn run(&self, args: &[&str]) -> Run {
        let data_dir = self.fixture.data_dir().display().to_string();
        let mut all = args.to_vec();
        all.extend(["--data-dir", &data_dir]);
        let socket = self.fixture.scratch("syslog").display().to_string();
        // Whoever listens there hears what the system log would.
        let variable = format!("KUBEPKI_SYSLOG={socket}");
        let mut words = vec!["-u", "K3S_TOKEN", &variable, KUBEPKI];
        words.extend(all);
        testkit::run("env", &words, b"")
    }

    /// The same, and its exit code must be `code`.
    #[track_caller]
    pub fn ends(&self, args: &[&str], code: i32) -> Run {
        let run = self.run(args);
        assert_eq!(run.code, Some(code), "kubepki {args:?}: {}", run.text());
        run
    }

    /// `rotate-ca` straight into the datastore, without asking or waiting.
    #[track_caller]
    pub fn rotate(&self, set: &Path, more: &[&str], code: i32) -> Run {
        let set = set.display().to_string();
        let kubeconfig = self.fixture.admin_kubeconfig().display().to_string();
        let mut args = vec!["rotate-ca", "--path", &set, "--yes", "--still-for", "0"];
        args.extend(["--kubeconfig", &kubeconfig]);
        args.extend(more);
        self.ends(&args, code)
    }

    #[track_caller]
    pub fn undo(&self, code: i32) -> Run {
        let kubeconfig = self.fixture.admin_kubeconfig().display().to_string();
        let args = [
            "undo",
            "--yes",
            "--still-for",
            "0",
            "--kubeconfig",
            &kubeconfig,
        ];
        self.ends(&args, code)
    }

    pub fn tree(&self) -> Tree {
        Tree::snapshot(self.fixture.scratch(""))
    }

    /// Fails if anything at all changed, the datastore included.
    #[track_caller]
    pub fn assert_untouched(&self, before: &Tree) {
        // SQLite's index of its log is made anew by whoever opens it; a directory's time tells of
        // what a test put beside the tree.
        let options = DiffOptions::exact()
            .without_directory_mtimes()
            .ignoring("syslog")
            .ignoring("data/server/db/state.db-shm");
        Tree::assert_equal(before, &self.tree(), &options);
    }

    pub fn read(&self, below: &str) -> String {
        let path = self.server().join(below);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// A new directory that holds a copy of the rotatable files of `from`.
    pub fn set(&self, name: &str, from: &Path) -> PathBuf {
        let set = self.fixture.scratch(name);
        for field in Field::ALL.into_iter().filter(|field| field.is_rotatable()) {
            let source = field.under(from);
            if source.exists() {
                stage(&set, field, std::fs::read(source).unwrap());
            }
        }
        set
    }
}

pub fn stage(set: &Path, field: Field, content: impl AsRef<[u8]>) {
    let path = field.under(set);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

pub fn blocks(text: &str) -> Vec<&str> {
    text.split_inclusive("-----END CERTIFICATE-----\n")
        .filter(|block| block.contains("BEGIN"))
        .collect()
}

/// Whether `openssl verify` takes the chain in `served` (leaf first) with `root` as only trust.
pub fn openssl_trusts(server: &Server, served: &str, root: &str) -> bool {
    let write = |name: &str, text: &str| {
        let path = server.fixture.scratch(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let certificates = blocks(served);
    let leaf = write("leaf.pem", certificates[0]);
    let untrusted = write("served.pem", &certificates[1..].concat());
    let root = write("root.pem", root);
    let arguments = [
        "verify",
        "-no-CAfile",
        "-no-CApath",
        "-CAfile",
        &root,
        "-untrusted",
        &untrusted,
        &leaf,
    ];
    let run = testkit::openssl(&arguments, b"");
    for name in ["leaf.pem", "served.pem", "root.pem"] {
        std::fs::remove_file(server.fixture.scratch(name)).unwrap();
    }
    run.success()
}
