//! A K3s server's files and rows, and the plan that gives the cluster another token.

use std::path::{Path, PathBuf};

use kubepki::apply::{ApplyError, Cluster, Executor, Outcome, Patience, Quiet};
use kubepki::bootstrap::{self, Bundle, Field, Passphrase, Stamp, seal};
use kubepki::datastore::{Datastore, DatastoreError};
use kubepki::edge::{Clock, FreshKeys, SystemClock, SystemEntropy};
use kubepki::error_chain;
use kubepki::host::{Attributes, Host, LocalHost};
use kubepki::plan::*;
use kubepki::state::{Locked, StateDir};
use kubepki_datastore::{Access, Endpoint, Store, Tls, open};
use testkit::{DiffOptions, Tree};

/// The token of the fixture, and the datastore key that it names.
pub const OLD: &str = "fixture-token-0123456789abcdef";
pub const OLD_KEY: &str = "/bootstrap/d0bdc7873da2";
pub const NEW: &str = "another-token-fedcba9876543210";
/// What plans call their datastore.
pub const WHERE: &str = "the datastore of this test";

/// A folder in memory where there is such a place: these tests sync a lot.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir()
        && let Ok(folder) = tempfile::tempdir_in(memory)
    {
        return folder;
    }
    tempfile::tempdir().unwrap()
}

pub fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.to_owned())
}

pub fn new_key() -> String {
    passphrase(NEW).key_name()
}

pub async fn connect(endpoint: &str, server: &Path) -> Result<Box<dyn Store>, DatastoreError> {
    let endpoint = Endpoint::parse(endpoint)?;
    open(&endpoint, &Tls::default(), server, Access::Write).await
}

pub fn opened(value: &[u8], token: &str) -> Bundle {
    let json = bootstrap::open(value, &passphrase(token)).unwrap();
    Bundle::parse(&json).unwrap()
}

pub fn sealed(bundle: &Bundle, token: &str) -> Vec<u8> {
    seal(&bundle.to_json(), &passphrase(token), &SystemEntropy).unwrap()
}

pub fn now() -> Stamp {
    Stamp::at(SystemClock.now())
}

/// A data directory with `server/`, and beside it the value that the datastore began with.
pub struct Scene {
    pub data: PathBuf,
}

impl Scene {
    /// The fixture's server below `folder`, its SQLite file included.
    pub async fn make(folder: &Path) -> Self {
        let data = folder.join("data");
        let fixture = testkit::fixture("k3s-1.36-sqlite");
        copy(&fixture.data_dir(), &data);
        let scene = Self { data };
        let store = connect("", &scene.server()).await.unwrap();
        let value = store.get(OLD_KEY).await.unwrap().unwrap().value;
        drop(store);
        let state = scene.state().lock().unwrap();
        state.stage(&id("scene"), "original", &value).unwrap();
        scene.stage_rotation(&state, &value);
        scene
    }

    pub fn server(&self) -> PathBuf {
        self.data.join("server")
    }

    pub fn state(&self) -> StateDir {
        StateDir::of_data_dir(&self.data)
    }

    /// All files but the database's and kubepki's own.
    pub fn tree(&self) -> Tree {
        Tree::snapshot(&self.data)
            .without("kubepki")
            .without("server/db")
    }

    pub fn keep(&self, kept: &Path) {
        copy(&self.data, kept);
    }

    /// Puts files and SQLite rows back from a copy that [`Self::keep`] made.
    pub fn restore(&self, kept: &Path) {
        if self.data.exists() {
            #[expect(clippy::disallowed_methods, reason = "a folder of this test")]
            std::fs::remove_dir_all(&self.data).unwrap();
        }
        copy(kept, &self.data);
    }

    /// What the datastore began with.
    pub fn original_value(&self) -> Vec<u8> {
        let staged = self.state().read_staged(&id("scene"), "original");
        staged.unwrap().unwrap().to_vec()
    }

    /// Puts the rows back as they were, at new revisions; answers the one of the old key.
    pub async fn reset(&self, store: &dyn Datastore) -> i64 {
        for record in store.list(bootstrap::KEY_PREFIX).await.unwrap() {
            store.delete(&record.key, record.revision).await.unwrap();
        }
        store.create(OLD_KEY, &self.original_value()).await.unwrap()
    }

    /// What the rotation of the token puts in place: two values and two files.
    fn stage_rotation(&self, state: &Locked, value: &[u8]) {
        let stage = |name: &str, bytes: &[u8]| {
            state.stage(&rotation_id(), name, bytes).unwrap();
        };
        let mut bundle = opened(value, OLD);
        stage("rekeyed", &sealed(&bundle, NEW));
        let passwd = format!("{NEW},server,server,k3s:server\n{NEW},node,node,k3s:agent\n");
        stage("passwd", passwd.as_bytes());
        let token = std::fs::read_to_string(self.server().join("token")).unwrap();
        stage("token", token.replace(OLD, NEW).as_bytes());
        if let Some(file) = bundle.files.get_mut(&Field::PasswdFile) {
            file.content = passwd.into_bytes().into();
            file.stamp = now();
        }
        stage("renewed", &sealed(&bundle, NEW));
    }

    fn staged(&self, plan: &PlanId, name: &str) -> Content {
        let bytes = self.state().read_staged(plan, name).unwrap().unwrap();
        Content::Staged {
            name: name.to_owned(),
            sha256: pki::sha256(&bytes).to_string(),
        }
    }

    /// Another token: files first, then the rows as K3s writes them, then a file again.
    pub async fn rotation(&self, revision: i64) -> Plan {
        let plan = rotation_id();
        let staged = |name: &str| self.staged(&plan, name);
        let key = |key: &str| Target::DatastoreKey {
            key: key.to_owned(),
        };
        let txn = |operation| Action::Txn { operation };
        let passwd = self.put("cred/passwd", staged("passwd")).await;
        let token = self.put("token", staged("token")).await;
        let trigger = Content::Text(String::new());
        let trigger = self.put("tls/dynamic-cert-regenerate", trigger).await;
        self.plan(
            &plan.0,
            vec![
                passwd,
                token,
                (
                    key(&new_key()),
                    Before::Absent,
                    txn(TxnOperation::Create(staged("rekeyed"))),
                ),
                (
                    key(OLD_KEY),
                    Before::Revision(revision),
                    txn(TxnOperation::Delete),
                ),
                (
                    key(&new_key()),
                    Before::RevisionOfStep(3),
                    txn(TxnOperation::Update(staged("renewed"))),
                ),
                trigger,
            ],
        )
    }

    /// A step that puts a file below `server/` and keeps its mode and owner.
    pub async fn put(&self, name: &str, content: Content) -> (Target, Before, Action) {
        let path = self.server().join(name);
        let (before, attributes) = match LocalHost.read(&path).await.unwrap() {
            Some(entry) => {
                let attributes = Attributes {
                    mtime: None,
                    ..entry.attributes.clone()
                };
                (Before::Present(Fingerprint::of(&entry)), attributes)
            }
            None => (Before::Absent, Attributes::new(0o600)),
        };
        let host = "local".to_owned();
        let action = Action::Put {
            attributes,
            content,
        };
        (Target::File { host, path }, before, action)
    }

    pub fn plan(&self, name: &str, steps: Vec<(Target, Before, Action)>) -> Plan {
        let step = |(number, (target, before, action))| Step {
            number,
            target,
            before,
            action,
            reason: "test".to_owned(),
        };
        Plan {
            format: PLAN_FORMAT,
            id: id(name),
            undoes: None,
            title: name.to_owned(),
            node: "test".to_owned(),
            root: self.data.clone(),
            datastore: Some(WHERE.to_owned()),
            irreversible: None,
            deferrable: std::collections::BTreeSet::new(),
            created: SystemClock.now(),
            hypothetical: false,
            leaves: Default::default(),
            steps: (1..).zip(steps).map(step).collect(),
            notes: Vec::new(),
        }
    }

    /// Asserts that files and rows are as the rotation leaves them.
    pub async fn assert_rotated(&self, finished: &Tree, store: &dyn Datastore) {
        let options = DiffOptions::exact()
            .without_directory_mtimes()
            .mtime_may_differ("server/cred/passwd")
            .mtime_may_differ("server/token")
            .mtime_may_differ("server/tls/dynamic-cert-regenerate");
        Tree::assert_equal(finished, &self.tree(), &options);
        let rows = store.list(bootstrap::KEY_PREFIX).await.unwrap();
        let keys: Vec<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        assert_eq!(keys, [new_key()]);
        let bundle = opened(&rows[0].value, NEW);
        let original = opened(&self.original_value(), OLD);
        for (field, file) in &original.files {
            let expected = match field {
                Field::PasswdFile => std::fs::read(self.server().join("cred/passwd")).unwrap(),
                _ => file.content.to_vec(),
            };
            assert_eq!(bundle.content(*field), Some(expected.as_slice()), "{field}");
        }
        assert_eq!(newer_on_disk(&self.server(), &bundle), []);
    }

    /// Asserts that files and rows are as at first, but for the times in the row, which only K3s
    /// looks at.
    pub async fn assert_original(&self, original: &Tree, store: &dyn Datastore) {
        let options = DiffOptions::exact().without_directory_mtimes();
        Tree::assert_equal(original, &self.tree(), &options);
        let rows = store.list(bootstrap::KEY_PREFIX).await.unwrap();
        let keys: Vec<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        assert_eq!(keys, [OLD_KEY]);
        let value = self.original_value();
        let (bundle, first) = (opened(&rows[0].value, OLD), opened(&value, OLD));
        let written_again = **rows[0].value != *value;
        for (field, file) in &first.files {
            let found = &bundle.files[field];
            assert_eq!(found.content, file.content, "{field}");
            let same_time = found.stamp == file.stamp;
            assert_eq!(same_time, !written_again, "{field}: {}", found.stamp);
            assert!(found.stamp >= file.stamp, "{field}: {}", found.stamp);
        }
        assert_eq!(newer_on_disk(&self.server(), &bundle), []);
    }
}

fn id(name: &str) -> PlanId {
    PlanId(name.to_owned())
}

pub fn rotation_id() -> PlanId {
    id("20261122T150000Z-token-0001")
}

/// K3s's rule at start (reference section 4.6): files that differ from the datastore and are three
/// seconds newer than it says, of which it dies.
pub fn newer_on_disk(server: &Path, bundle: &Bundle) -> Vec<Field> {
    use std::os::unix::fs::MetadataExt;

    let newer = |field: &Field| {
        let path = field.under(server);
        let Ok(content) = std::fs::read(&path) else {
            return false;
        };
        let Some(file) = bundle.files.get(field) else {
            return false;
        };
        let mtime = std::fs::metadata(&path).unwrap().mtime();
        *file.content != content && mtime - file.stamp.seconds >= 3
    };
    Field::ALL.into_iter().filter(newer).collect()
}

pub fn cluster<'a>(store: &'a dyn Datastore, passphrases: &'a [Passphrase]) -> Cluster<'a> {
    Cluster {
        store,
        description: WHERE,
        passphrases,
    }
}

/// An executor that is told no token: it has to find them.
pub fn executor<'a>(state: &'a Locked, store: &'a dyn Datastore) -> Executor<'a> {
    Executor {
        host: &LocalHost,
        state,
        clock: &SystemClock,
        entropy: &SystemEntropy,
        keys: &FreshKeys,
        observer: &Quiet,
        patience: Patience::default(),
        cluster: Some(cluster(store, &[])),
        caller: None,
        machines: None,
        kubernetes: None,
    }
}

#[track_caller]
pub fn finished(outcome: Result<Outcome, ApplyError>) {
    match outcome {
        Ok(Outcome::Finished { untidy: None, .. }) => {}
        Ok(other) => panic!("{other:?}"),
        Err(error) => panic!("{}", error_chain(&error)),
    }
}

#[expect(clippy::disallowed_methods, reason = "cp keeps what a test compares")]
fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
}
