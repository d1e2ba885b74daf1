//! No key and no token in anything that the program says or writes down, whatever goes wrong.
//!
//! Backups and staged keys hold keys by design: they are what undo and resume need. They are
//! 0600 in directories of 0700 (`rotate.rs` and `crash.rs` look), and are left out here. So is
//! `kubeconfig create --out -`, which is asked for a key on standard output.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use std::path::Path;

use common::{KUBEPKI, Node, STATE, saved_plan};
use testkit::{Run, Secrets, Victim};

/// A node all of whose outputs are kept, with all its secrets, old and new.
struct Watched {
    node: Node,
    secrets: Secrets,
    said: Vec<(String, Vec<u8>)>,
}

impl Watched {
    fn new(fixture: &str) -> Self {
        let node = Node::new(fixture);
        let secrets = Secrets::below(node.root());
        Self {
            node,
            secrets,
            said: Vec::new(),
        }
    }

    /// Runs a command on the node with all that could make it talkative, and learns the keys that
    /// it made.
    fn run(&mut self, args: &[&str]) -> Run {
        let site = self.node.site();
        let site = site.iter().map(String::as_str);
        let all: Vec<&str> = args.iter().copied().chain(site).collect();
        self.run_bare(&all)
    }

    /// The same without naming the node.
    fn run_bare(&mut self, args: &[&str]) -> Run {
        let talkative = ["RUST_LOG=trace", "RUST_BACKTRACE=full", KUBEPKI];
        let run = testkit::run("env", &[&talkative, args].concat(), b"");
        let (stdout, stderr) = (run.stdout.clone(), run.stderr.clone());
        self.said.push((format!("stdout of {args:?}"), stdout));
        self.said.push((format!("stderr of {args:?}"), stderr));
        self.secrets.add_below(self.node.root());
        run
    }

    /// Nothing that was said, and nothing in the state directory but backups and staging, holds
    /// a secret that was there at any time.
    fn assert_silent(&self) {
        for (what, bytes) in &self.said {
            self.secrets.assert_absent(what, bytes);
        }
        let state = self.node.path(STATE);
        let (backups, staging) = (state.join("backups"), state.join("staging"));
        let by_design = |path: &Path| path.starts_with(&backups) || path.starts_with(&staging);
        self.secrets.assert_absent_below(&state, by_design);
        for part in ["plans", "journal"] {
            let entries = std::fs::read_dir(state.join(part)).unwrap();
            assert!(entries.count() > 0, "no {part} was looked through");
        }
        // The search would find what there is to find.
        let key = std::fs::read(self.node.path("data/server/tls/client-admin.key"));
        if let Ok(key) = key {
            assert!(!self.secrets.leaks(&key).is_empty());
        }
    }
}

#[test]
fn ordinary_work_says_no_secret() {
    for fixture in [
        "k3s-1.36-sqlite",
        "k3s-1.36-custom-ca",
        "k3s-1.36-encryption-token-rotated",
        "k3s-1.36-agent-only",
    ] {
        let mut watched = Watched::new(fixture);
        for args in [
            &["rotate", "--dry-run"][..],
            &["rotate", "--dry-run", "-o", "json"],
            &["rotate", "--yes", "-o", "json"],
            &["rotate", "--yes", "--keep-key"],
            &["renew", "--yes", "--tls-san", "api.example.org"],
            &["history"],
            &["history", "-o", "json"],
            &["undo", "--yes"],
            &["resume"],
        ] {
            let run = watched.run(args);
            assert!(run.success(), "{fixture}: {args:?}: {}", run.text());
        }
        let saved = watched.run(&["plan", "--service", "all"]);
        let id = saved_plan(&saved);
        watched.run(&["history", &id]);
        watched.run(&["history", &id, "-o", "json"]);
        assert!(watched.run(&["apply", &id, "--yes"]).success());
        assert!(watched.run(&["undo", &id, "--yes"]).success());
        watched.assert_silent();
    }
}

#[test]
fn looking_says_no_secret() {
    let mut watched = Watched::new("k3s-1.36-encryption-token-rotated");
    for form in ["table", "text", "json", "yaml", "prometheus"] {
        assert!(watched.run(&["check", "--all", "-o", form]).code < Some(5));
    }
    watched.run(&["check", "--timeline", "-o", "json"]);
    watched.run(&["check", "--at", "2040-01-01T00:00:00Z"]);
    let data_dir = watched.node.text_path("data");
    for form in ["text", "table", "json", "yaml"] {
        let args = [
            "k3s",
            "certificate",
            "check",
            "--debug",
            "-o",
            form,
            "-d",
            &data_dir,
        ];
        assert!(watched.run_bare(&args).success());
    }
    // Every file there is, the token, the passwords and the keys too.
    let tree = watched.node.tree();
    let mut read = 0;
    for file in tree.files() {
        let path = watched.node.text_path(file);
        for form in ["text", "json"] {
            let run = watched.run_bare(&["inspect", &path, "-o", form]);
            assert!(matches!(run.code, Some(0..=4)), "{}", run.text());
            read += usize::from(run.success());
        }
    }
    assert!(read > 100, "{read} files were understood");
    for (what, bytes) in &watched.said {
        watched.secrets.assert_absent(what, bytes);
    }
}

#[test]
fn other_changes_say_no_secret() {
    let mut watched = Watched::new("k3s-1.36-sqlite");
    let copy = watched.node.text_path("extra/k3s.yaml");
    let made = watched.node.text_path("extra/made.yaml");
    for args in [
        &["kubeconfig", "list", &copy][..],
        &["kubeconfig", "list", &copy, "-o", "json"],
        &[
            "kubeconfig",
            "create",
            "--user",
            "jane",
            "--group",
            "dev",
            "--out",
            &made,
            "--yes",
        ],
        &["rotate", "--yes"],
        &["kubeconfig", "renew", &made, "--yes"],
    ] {
        let run = watched.run(args);
        assert!(run.success(), "{args:?}: {}", run.text());
    }
    let data_dir = watched.node.text_path("data");
    let args = [
        "k3s",
        "certificate",
        "rotate",
        "--debug",
        "--data-dir",
        &data_dir,
    ];
    let run = watched.run_bare(&args);
    assert!(run.success(), "{}", run.text());
    watched.assert_silent();
}

#[test]
fn a_backup_is_what_the_search_finds() {
    let mut watched = Watched::new("k3s-1.36-sqlite");
    watched.run(&["rotate", "--yes", "--service", "admin"]);
    let found = std::panic::catch_unwind(|| {
        let state = watched.node.path(STATE);
        watched.secrets.assert_absent_below(state, |_| false);
    });
    assert!(
        found.is_err(),
        "the old key lies in a backup and was not found"
    );
    watched.assert_silent();
}

#[test]
fn broken_files_are_described_without_their_content() {
    const KEY: &str = "data/server/tls/client-admin.key";
    const CA_KEY: &str = "data/server/tls/client-ca.key";
    const LISTENER: &str = "data/server/tls/dynamic-cert.json";
    const KUBECONFIG: &str = "extra/k3s.yaml";
    let mut watched = Watched::new("k3s-1.36-sqlite");
    for path in [KEY, CA_KEY, LISTENER, KUBECONFIG] {
        let whole = std::fs::read(watched.node.path(path)).unwrap();
        let middle = whole.len() / 2;
        let mut flipped = whole.clone();
        flipped[middle] = b'!';
        let doubled = [&whole[..], &whole[..]].concat();
        let last = [&whole[..], b"}: [\n\t- '"].concat();
        for broken in [
            &whole[..middle],
            &whole[..whole.len() - 40],
            &flipped,
            &doubled,
            &last,
            b"",
        ] {
            watched.node.overwrite(path, broken);
            watched.run(&["rotate", "--dry-run"]);
            watched.run(&[
                "rotate",
                "--yes",
                "--keep-key",
                "--service",
                "admin,k3s-server",
            ]);
            watched.run(&["plan", "-o", "json"]);
        }
        watched.node.overwrite(path, &whole);
        assert!(watched.run(&["rotate", "--yes"]).success(), "{path}");
    }
    watched.assert_silent();
}

#[test]
fn an_interruption_says_no_secret() {
    let mut watched = Watched::new("k3s-1.36-encryption-token-rotated");
    let args = ["rotate", "--service", "admin,k3s-server", "--yes"].map(str::to_owned);
    let victim = Victim::new(KUBEPKI, args.into_iter().chain(watched.node.site())).alone();
    let points = victim.crash_points();
    watched.secrets.add_below(watched.node.root());
    let renames: Vec<_> = points
        .iter()
        .filter(|point| point.call.starts_with("rename") && point.seen.contains("/tls/."))
        .collect();
    assert_eq!(renames.len(), 3, "{points:?}");
    for point in renames {
        watched.run(&["undo", "--yes"]);
        victim.crash_at(point);
        // What is staged at this moment is never said either.
        watched.secrets.add_below(watched.node.root());
        watched.run(&["rotate", "--yes"]);
        watched.run(&["history", "-o", "json"]);
        assert!(watched.run(&["resume"]).success());
    }
    let failing = [
        "rotate",
        "--yes",
        "--service",
        "admin",
        "--restart-command",
        "false",
    ];
    assert_eq!(watched.run(&failing).code, Some(6));
    watched.run(&["history"]);
    watched.assert_silent();
}
