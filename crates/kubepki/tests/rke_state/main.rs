//! RKE's state file, configuration and rules, held to what RKE 1.6 itself wrote.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod config;
mod differences;
mod generate;
mod go;
mod hosts;
mod json;
mod state;
mod stored;

use std::path::{Path, PathBuf};

use kubepki::rke::{Bundle, ClusterConfig, Half, State};
use testkit::{Fixture, fixture};

/// One recording of RKE 1.6.
pub(crate) struct Recording {
    fixture: Fixture,
    folder: &'static str,
}

impl Recording {
    /// The one without hosts: `cluster.rkestate`, `csr/`, `after/`.
    pub(crate) fn state() -> Self {
        Self {
            fixture: fixture("rke-1.6-state"),
            folder: "rke-1.6",
        }
    }

    /// The one with three live hosts.
    pub(crate) fn live() -> Self {
        Self {
            fixture: fixture("rke-1.6-live"),
            folder: "",
        }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.fixture.extra(self.folder).join(path)
    }

    pub(crate) fn bytes(&self, path: &str) -> Vec<u8> {
        let path = self.path(path);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub(crate) fn text(&self, path: &str) -> String {
        String::from_utf8(self.bytes(path)).unwrap()
    }

    pub(crate) fn parsed(&self, path: &str) -> State {
        State::parse(&self.bytes(path)).unwrap()
    }

    /// What a rotation starts from: `currentState` of the state before it.
    pub(crate) fn current(&self) -> (ClusterConfig, Bundle) {
        let state = self.parsed("cluster.rkestate");
        let config = ClusterConfig::from_rke_config(state.rke_config(Half::Current).unwrap());
        (config.unwrap(), state.bundle(Half::Current))
    }

    /// Every state file in it, before and after.
    pub(crate) fn states(&self) -> Vec<PathBuf> {
        let mut paths = vec![self.path("cluster.rkestate")];
        let after = std::fs::read_dir(self.path("after")).unwrap();
        paths.extend(after.map(|file| file.unwrap().path()));
        paths.sort();
        assert_eq!(paths.len(), 5);
        paths
    }
}

/// The names of the files in a folder, sorted.
pub(crate) fn files_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
