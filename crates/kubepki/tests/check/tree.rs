//! A fixture as a tree that can be changed and asked.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use kubepki::catalogue::K3S;
use kubepki::check::{self, AUTHORITY_WINDOW, Finding, Severity};
use kubepki::cluster::{Policy, Wishes};
use kubepki::host::LocalHost;
use kubepki::inventory::{Inventory, Site, collect};
use pki::{Certificate, UnixTime};
use testkit::Fixture;

/// The day on which the fixtures were written, after the last of them: 2026-11-22T07:32:00Z.
pub const AT: UnixTime = UnixTime::from_secs(1_795_332_720);

/// A fixture's private copy.
pub struct Tree {
    fixture: Fixture,
}

impl Tree {
    pub fn fixture(name: &str) -> Self {
        Self {
            fixture: Fixture::without_datastore(name),
        }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.fixture.data_dir()
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.data_dir().join(below)
    }

    /// The administrator's kubeconfig, if the archive has one.
    pub fn admin_kubeconfig(&self) -> Option<PathBuf> {
        ["k3s.yaml", "kubeconfig.yaml"]
            .into_iter()
            .map(|name| self.fixture.extra(name))
            .find(|path| path.exists())
    }

    pub fn extra_text(&self, below: &str) -> String {
        self.fixture.extra_text(below)
    }

    pub fn read(&self, below: &str) -> Vec<u8> {
        std::fs::read(self.path(below)).unwrap()
    }

    /// Writes and keeps the mode.
    pub fn write(&self, below: &str, bytes: &[u8]) {
        std::fs::write(self.path(below), bytes).unwrap();
    }

    /// Content only; the mode of `to` stays.
    pub fn copy(&self, from: &str, to: &str) {
        let new = !self.path(to).exists();
        self.write(to, &self.read(from));
        if new {
            self.chmod(to, 0o600);
        }
    }

    pub fn remove(&self, below: &str) {
        std::fs::remove_file(self.path(below)).unwrap();
    }

    pub fn chmod(&self, below: &str, mode: u32) {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.path(below), mode).unwrap();
    }

    pub fn certificates(&self, below: &str) -> Vec<Certificate> {
        Certificate::all_from_pem(&self.read(below)).unwrap()
    }

    pub fn inventory(&self) -> Inventory {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let site = Site::open(&LocalHost, &self.data_dir(), self.admin_kubeconfig())
                .await
                .unwrap();
            collect(&LocalHost, &site, &K3S, AT).await
        })
    }

    pub fn check(&self, now: UnixTime) -> Vec<Finding> {
        Question::of(&self.inventory()).ask(now)
    }

    /// Each finding but notes as `severity rule path`.
    pub fn found(&self, now: UnixTime) -> Vec<String> {
        self.check(now)
            .iter()
            .filter(|finding| finding.severity > Severity::Note)
            .map(|finding| {
                let path = self.redacted(&finding.path.display().to_string());
                let path = path.trim_start_matches("DATA/").replace("EXTRA", "extra");
                format!("{} {} {path}", finding.severity, finding.kind.rule())
            })
            .collect()
    }

    /// Fails unless exactly that is found, notes aside.
    #[track_caller]
    pub fn finds(&self, now: UnixTime, expected: &[&str]) {
        let found = self.found(now);
        assert_eq!(found, expected, "{:#?}", self.check(now));
    }

    /// `text` without the place of the copy.
    pub fn redacted(&self, text: &str) -> String {
        let mut text = text.replace(&self.data_dir().display().to_string(), "DATA");
        if let Some(kubeconfig) = self.admin_kubeconfig()
            && let Some(parent) = kubeconfig.parent()
        {
            text = text.replace(&parent.display().to_string(), "EXTRA");
        }
        text
    }
}

/// What can be varied about a question.
pub struct Question<'a> {
    pub inventory: &'a Inventory,
    pub wishes: Wishes,
    pub policy: Policy,
    pub authority_window: i64,
}

impl<'a> Question<'a> {
    pub fn of(inventory: &'a Inventory) -> Self {
        Self {
            inventory,
            wishes: Wishes {
                node: None,
                add_sans: Vec::new(),
                drop_sans: Vec::new(),
                release: inventory.release,
            },
            policy: Policy::k3s(inventory.release),
            authority_window: AUTHORITY_WINDOW,
        }
    }

    pub fn asked(&self, now: UnixTime) -> check::Question<'_> {
        check::Question {
            inventory: self.inventory,
            wishes: &self.wishes,
            policy: &self.policy,
            now,
            authority_window: self.authority_window,
        }
    }

    pub fn ask(&self, now: UnixTime) -> Vec<Finding> {
        check::check(&self.asked(now))
    }
}
