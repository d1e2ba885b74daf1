//! An operator's folder.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use testkit::{Fixture, Run};

/// A folder with the recorded cluster's files, whose hosts do not answer.
pub struct Operator(pub Fixture);

impl Operator {
    pub fn new() -> Self {
        let fixture = testkit::fixture("rke-1.6-live");
        let operator = Self(fixture);
        let folder = operator.folder();
        fs::create_dir_all(&folder).unwrap();
        for name in ["cluster.yml", "cluster.rkestate"] {
            fs::copy(operator.0.extra(name), folder.join(name)).unwrap();
        }
        // Nobody listens at port 1.
        operator.edit("cluster.yml", |text| {
            text.replace("user: root", "user: root\n    port: 1")
        });
        let key = folder.join("id");
        let key = key.to_str().unwrap();
        let made = testkit::run(
            "ssh-keygen",
            &["-q", "-t", "ed25519", "-N", "", "-f", key],
            b"",
        );
        assert!(made.success(), "{}", made.text());
        operator
    }

    pub fn folder(&self) -> PathBuf {
        self.0.scratch("operator")
    }

    pub fn edit(&self, name: &str, edit: impl FnOnce(&str) -> String) {
        let path = self.folder().join(name);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, edit(&text)).unwrap();
    }

    /// Changes the state file's JSON.
    pub fn state(&self, edit: impl FnOnce(&mut Value)) {
        self.edit("cluster.rkestate", |text| {
            let mut state = serde_json::from_str(text).unwrap();
            edit(&mut state);
            serde_json::to_string_pretty(&state).unwrap()
        });
    }

    /// Runs `kubepki ARGS` in the folder.
    pub fn run(&self, args: &[&str]) -> Run {
        run_in(&self.folder(), args)
    }
}

pub fn run_in(folder: &Path, args: &[&str]) -> Run {
    let folder = folder.to_str().unwrap();
    let mut all = vec![
        "-i",
        "-C",
        folder,
        "LC_ALL=C",
        "TZ=UTC",
        "HOME=/nonexistent",
    ];
    all.push(env!("CARGO_BIN_EXE_kubepki"));
    all.extend(args);
    testkit::run("env", &all, b"")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub fn entry<'a>(state: &'a mut Value, name: &str) -> &'a mut Value {
    let bundle = format!("/currentState/certificatesBundle/{name}");
    state.pointer_mut(&bundle).unwrap()
}
