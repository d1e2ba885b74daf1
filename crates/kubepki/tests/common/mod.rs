//! A fixture as a tree that can be changed and asked.

use std::path::PathBuf;

use kubepki::catalogue::K3S;
use kubepki::check::{AUTHORITY_WINDOW, Finding, Question, check};
use kubepki::cluster::{Policy, Wishes};
use kubepki::host::LocalHost;
use kubepki::inventory::{Inventory, Site, collect};
use pki::UnixTime;
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

    pub fn inventory(&self) -> Inventory {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let site = Site::open(&LocalHost, &self.data_dir(), self.admin_kubeconfig())
                .await
                .expect("a data directory");
            collect(&LocalHost, &site, &K3S, AT).await
        })
    }

    pub fn check(&self, now: UnixTime) -> Vec<Finding> {
        check_inventory(&self.inventory(), now)
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

pub fn check_inventory(inventory: &Inventory, now: UnixTime) -> Vec<Finding> {
    let wishes = Wishes {
        node: None,
        add_sans: Vec::new(),
        drop_sans: Vec::new(),
        release: inventory.release,
    };
    let policy = Policy::k3s(inventory.release);
    check(&Question {
        inventory,
        wishes: &wishes,
        policy: &policy,
        now,
        authority_window: AUTHORITY_WINDOW,
    })
}
