//! A directory in which servers are made.

use std::path::{Path, PathBuf};

use kubepki::apply::{Executor, Outcome, Patience, Quiet, plan_id};
use kubepki::edge::{FixedClock, FreshKeys, SystemEntropy};
use kubepki::host::{Entry, EntryKind, Host, LocalHost};
use kubepki::init::{
    InitError, Request, Spec, Staged, Survey, Words, make_data_dir, plan_init, stage, survey,
};
use kubepki::plan::Plan;
use kubepki::state::StateDir;
use kubepki::token::Token;
use pki::UnixTime;
use tempfile::TempDir;

/// When K3s made the CAs of the fixture `k3s-1.36-sqlite`.
pub const FIRST_START: UnixTime = UnixTime::from_secs(1_795_328_351);
/// The password of every fixture's tokens.
pub const PASSWORD: &str = "fixture-token-0123456789abcdef";

/// An empty place for a server, gone with this value.
pub struct Place {
    folder: TempDir,
    data_dir: PathBuf,
    pub now: UnixTime,
}

impl Place {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let data_dir = folder.path().join("lib/k3s");
        Self {
            folder,
            data_dir,
            now: FIRST_START,
        }
    }

    /// A server that is somewhere else.
    pub fn at(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            ..Self::new()
        }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone()
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("etc/k3s/k3s.yaml")
    }

    /// What the fixtures' servers were told.
    pub fn spec(&self) -> Spec {
        let words = Words {
            node_name: "k3s-fixture".to_owned(),
            node_ip: vec!["127.0.0.1".to_owned()],
            ..Words::default()
        };
        Spec {
            disable_agent: true,
            with_agent: true,
            kubeconfig: Some(self.kubeconfig()),
            ..Spec::new(&words).unwrap()
        }
    }

    pub async fn survey(&self, spec: &Spec) -> Survey {
        survey(&LocalHost, &self.data_dir(), spec, self.now)
            .await
            .unwrap()
    }

    pub async fn plan(
        &self,
        spec: &Spec,
        token: Option<&Token>,
    ) -> Result<(Plan, Vec<Staged>), InitError> {
        self.plan_with(spec, token, None).await
    }

    pub async fn plan_with(
        &self,
        spec: &Spec,
        token: Option<&Token>,
        agent_token: Option<&Token>,
    ) -> Result<(Plan, Vec<Staged>), InitError> {
        let survey = survey(&LocalHost, &self.data_dir(), spec, self.now).await?;
        plan_init(&Request {
            id: &plan_id(self.now, "init", &SystemEntropy).unwrap(),
            spec,
            survey: &survey,
            token,
            agent_token,
            now: self.now,
            entropy: &SystemEntropy,
            keys: &FreshKeys,
        })
    }

    pub async fn apply(&self, plan: &Plan, staged: &[Staged]) {
        make_data_dir(&LocalHost, &self.data_dir()).await.unwrap();
        let state = StateDir::of_data_dir(&self.data_dir()).lock().unwrap();
        stage(&state, &plan.id, staged).unwrap();
        let executor = Executor {
            host: &LocalHost,
            state: &state,
            clock: &FixedClock(self.now),
            entropy: &SystemEntropy,
            keys: &FreshKeys,
            observer: &Quiet,
            patience: Patience::default(),
            cluster: None,
            caller: None,
            machines: None,
            kubernetes: None,
        };
        let outcome = executor.apply(plan).await.unwrap_or_else(|error| {
            panic!("{}", kubepki::error_chain(&error));
        });
        assert!(
            matches!(outcome, Outcome::Finished { untidy: None, .. }),
            "{outcome:?}"
        );
    }

    /// Plans and applies.
    pub async fn make(&self, spec: &Spec) -> Plan {
        let token = Token::parse(PASSWORD).unwrap();
        let made = self.plan(spec, Some(&token)).await;
        let (plan, staged) = made.unwrap_or_else(|error| panic!("{error}"));
        self.apply(&plan, &staged).await;
        plan
    }

    pub async fn bring(&self, from: &Path, file: &str) {
        self.bring_as(from, file, file).await;
    }

    /// Copies a file with its attributes, making the directories above it.
    pub async fn bring_as(&self, from: &Path, file: &str, to: &str) {
        let entry = LocalHost.read(&from.join(file)).await.unwrap();
        let target = self.data_dir().join(to);
        make_data_dir(&LocalHost, target.parent().unwrap())
            .await
            .unwrap();
        LocalHost
            .put(&target, &entry.unwrap_or_else(|| panic!("no {file}")))
            .await
            .unwrap();
    }

    pub async fn write(&self, file: &str, text: &str) {
        let target = self.data_dir().join(file);
        make_data_dir(&LocalHost, target.parent().unwrap())
            .await
            .unwrap();
        let kind = EntryKind::File(text.as_bytes().to_vec().into());
        let attributes = kubepki::host::Attributes::new(0o600);
        LocalHost
            .put(&target, &Entry { kind, attributes })
            .await
            .unwrap();
    }

    pub async fn remove(&self, file: &str) {
        LocalHost.remove(&self.data_dir().join(file)).await.unwrap();
    }

    pub fn read(&self, file: &str) -> String {
        let path = self.data_dir().join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}
