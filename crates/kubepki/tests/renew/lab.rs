//! A node whose clock the test sets.

use std::collections::BTreeSet;
use std::path::Path;

use kubepki::apply::{Executor, Outcome, Patience, Quiet, plan_id};
use kubepki::catalogue::K3S;
use kubepki::cluster::{Policy, Wishes};
use kubepki::edge::{FixedClock, FreshKeys, SystemEntropy};
use kubepki::host::LocalHost;
use kubepki::inventory::{Inventory, Site, collect};
use kubepki::plan::{self, Due, Plan, PlanError, Request, Selection};
use kubepki::state::StateDir;
use pki::{DAY, UnixTime};
use testkit::{Fixture, NodeKind, Tree};

/// A copy of a fixture, and the library on it.
pub struct Lab {
    fixture: Fixture,
}

impl Lab {
    /// A copy of the fixture `name`.
    pub fn new(name: &str) -> Self {
        Self {
            fixture: Fixture::without_datastore(name),
        }
    }

    /// What is there at `now`.
    pub async fn inventory(&self, now: UnixTime) -> Inventory {
        let kubeconfig = Some(self.fixture.admin_kubeconfig());
        let site = Site::open(&LocalHost, &self.fixture.data_dir(), kubeconfig)
            .await
            .unwrap();
        collect(&LocalHost, &site, &K3S, now).await
    }

    /// What is due at `now` with a window of `days`.
    pub async fn due(&self, now: UnixTime, days: i64) -> Due {
        let inventory = self.inventory(now).await;
        let policy = policy(&inventory, days);
        plan::due(&inventory, &wishes(&inventory), &policy, now).unwrap()
    }

    /// The plan that renews what is due.
    pub async fn plan(&self, now: UnixTime, days: i64) -> Result<Plan, PlanError> {
        let due = self.due(now, days).await;
        self.plan_of(now, days, &due.selected).await
    }

    /// The plan that rotates a service.
    pub async fn rotation(&self, now: UnixTime, service: &str) -> Plan {
        let inventory = self.inventory(now).await;
        let names = [service.to_owned()];
        let services = plan::services(&K3S, inventory.site.role, &names).unwrap();
        let selected = plan::requested(&inventory, &services);
        self.plan_of(now, 0, &selected).await.unwrap()
    }

    async fn plan_of(
        &self,
        now: UnixTime,
        days: i64,
        selected: &[Selection],
    ) -> Result<Plan, PlanError> {
        let inventory = self.inventory(now).await;
        let request = Request {
            id: plan_id(now, "test", &SystemEntropy).unwrap(),
            title: "test".to_owned(),
            inventory: &inventory,
            wishes: &wishes(&inventory),
            policy: policy(&inventory, days),
            now,
            hypothetical: false,
            entropy: &SystemEntropy,
        };
        plan::plan_leaves(&request, selected)
    }

    /// Carries `plan` out at `now`; says which files changed.
    pub async fn apply(&self, plan: &Plan, now: UnixTime) -> BTreeSet<String> {
        let before = self.tree();
        let state = StateDir::of_data_dir(&self.fixture.data_dir())
            .lock()
            .unwrap();
        let executor = Executor {
            host: &LocalHost,
            state: &state,
            clock: &FixedClock(now),
            entropy: &SystemEntropy,
            keys: &FreshKeys,
            observer: &Quiet,
            patience: Patience::default(),
            cluster: None,
            caller: None,
            machines: None,
            kubernetes: None,
        };
        let outcome = executor.apply(plan).await.unwrap();
        assert!(matches!(outcome, Outcome::Finished { untidy: None, .. }));
        let after = self.tree();
        after
            .nodes()
            .filter(|(_, node)| node.kind != NodeKind::Directory)
            .filter(|(path, node)| before.get(path) != Some(*node))
            .map(|(path, _)| name(Path::new(path)))
            .collect()
    }

    /// Everything but the state directory.
    pub fn tree(&self) -> Tree {
        Tree::snapshot(self.fixture.scratch("")).without("data/kubepki")
    }

    /// When the first leaf of a row ends.
    pub async fn end(&self, row: &str) -> UnixTime {
        let inventory = self.inventory(UnixTime::from_secs(0)).await;
        let observed = inventory.row(row).unwrap();
        let first = observed.file.first_certificate().unwrap();
        first.validity().not_after
    }
}

/// The names of the files that a plan touches, folders left out.
pub fn files(plan: &Plan) -> BTreeSet<String> {
    plan.steps
        .iter()
        .map(|step| match &step.target {
            plan::Target::File { path, .. } => name(path),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// K3s's policy with a window of `days`.
pub fn policy(inventory: &Inventory, days: i64) -> Policy {
    Policy {
        window: days * DAY,
        ..Policy::k3s(inventory.release)
    }
}

/// Nothing beyond what is there.
pub fn wishes(inventory: &Inventory) -> Wishes {
    Wishes {
        node: None,
        add_sans: Vec::new(),
        drop_sans: Vec::new(),
        release: inventory.release,
    }
}
