//! A server of the test's own, and curl as its client.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use kubepki::datastore::{Datastore, DatastoreError, Record};
use kubepki::edge::{Clock, FreshKeys, SystemClock, SystemEntropy};
use kubepki::log::{Issued, Log, Options};
use kubepki_datastore::{Access, SqliteStore};
use kubepki_serve::accept::{Limits, Server};
use kubepki_serve::config::{Flags, Settings};
use kubepki_serve::issuance::{Entered, IssuanceLog, LogError, Need, OwnRecords, Position};
use kubepki_serve::listener::{Port, WINDOW, Wanted, prepare};
use kubepki_serve::metrics::Metrics;
use kubepki_serve::node::Strictness;
use kubepki_serve::password::NodePasswords;
use kubepki_serve::service::{Line, Loaded, Service};
use kubepki_serve::tls::{Listened, server_config};
use kubepki_serve::tree::Tree;
use pki::{Certificate, DAY, San};
use testkit::Fixture;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// A runtime of the thread that calls.
pub fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// What the recorded server's tokens say, as the fixtures' do.
pub const PASSWORD: &str = "fixture-token-0123456789abcdef";
/// The node password of the recordings.
pub const NODE_PASSWORD: &str = "0123456789abcdef0123456789abcdef";
/// The recorded server's address.
pub const HOST: &str = "10.77.0.11";

pub struct Running {
    pub fixture: Fixture,
    pub address: SocketAddr,
    pub said: Arc<Mutex<Vec<String>>>,
    pub service: Arc<Service>,
    pub listened: Arc<Listened>,
    pub time: Arc<Moved>,
    /// How often one key was read.
    pub reads: Arc<AtomicUsize>,
    pub meanwhile: Arc<Meanwhile>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The time at which the test began, moved by so many seconds.
#[derive(Debug)]
pub struct Moved {
    began: pki::UnixTime,
    by: AtomicI64,
    steady: AtomicI64,
}

impl Moved {
    /// So many seconds have passed, or fewer than before: then somebody set the clock.
    pub fn to(&self, seconds: i64) {
        self.set(seconds);
        self.steady.fetch_max(seconds, Ordering::SeqCst);
    }

    /// Somebody sets the clock; no time passes.
    pub fn set(&self, seconds: i64) {
        self.by.store(seconds, Ordering::SeqCst);
    }
}

impl Clock for Moved {
    fn now(&self) -> pki::UnixTime {
        self.began.plus(self.by.load(Ordering::SeqCst))
    }

    fn steady(&self) -> Duration {
        let seconds = self.steady.load(Ordering::SeqCst);
        Duration::from_secs(seconds.try_into().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.finish();
    }
}

pub fn settings() -> Settings {
    let sans = [
        HOST,
        "127.0.0.1",
        "::1",
        "localhost",
        "s1",
        "10.43.0.1",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    Settings {
        node_name: "s1".to_owned(),
        advertise_ip: HOST.parse().unwrap(),
        port: 6443,
        sans: sans.map(San::from_text).to_vec(),
        san_security: true,
        cluster_cidrs: vec![("10.42.0.0".parse().unwrap(), 16)],
        service_cidrs: vec![("10.43.0.0".parse().unwrap(), 16)],
        cluster_dns: vec!["10.43.0.10".parse().unwrap()],
        cluster_domain: "cluster.local".to_owned(),
        flannel_backend: "none".to_owned(),
        flags: Flags {
            disable_network_policy: true,
            ..Flags::default()
        },
        data_dir: "/var/lib/rancher/k3s/server".to_owned(),
    }
}

/// Serves a copy of the SQLite cluster.
pub fn serve(strictness: Strictness) -> Running {
    serve_with("k3s-1.36-sqlite", strictness, Limits::default())
}

/// Serves a copy of any cluster.
pub fn serve_with(fixture: &str, strictness: Strictness, limits: Limits) -> Running {
    serve_tree(Fixture::new(fixture), strictness, limits)
}

/// Serves that copy of a cluster.
pub fn serve_tree(fixture: Fixture, strictness: Strictness, limits: Limits) -> Running {
    serve_at("127.0.0.1", fixture, strictness, limits)
}

/// Of a server with one log; what is urgent and not recorded is lost.
#[derive(Debug)]
pub struct Own(pub Log);

impl OwnRecords for Own {
    fn issued(&self, name: &str, leaf: &Certificate, need: Need) -> Result<Entered, LogError> {
        let record = Issued::own(leaf, self.0.server(), name, SystemClock.now());
        match (self.0.append_now(vec![record]), need) {
            (Ok(()), _) => Ok(Entered::Now),
            (Err(_), Need::Urgent) => Ok(Entered::Later),
            (Err(error), Need::CanWait) => Err(LogError {
                reason: error.to_string(),
            }),
        }
    }
}

/// The listener's certificate, in a log of its own: it is not mixed with what is asked for.
fn port(fixture: &Fixture, tree: &Tree, settings: &Settings) -> Port {
    let options = Options::new(fixture.scratch("own-log"), "s1");
    let wanted = Wanted {
        sans: &settings.sans,
        lifetime: 365 * DAY,
        window: WINDOW,
        now: SystemClock.now(),
        entropy: &SystemEntropy,
        keys: &FreshKeys,
        records: &Own(Log::open(&options, None).unwrap().0),
        is_sure: true,
        plans: &[],
    };
    prepare(tree, &wanted).unwrap()
}

/// The same at another address of this machine.
pub fn serve_at(
    at: &'static str,
    fixture: Fixture,
    strictness: Strictness,
    limits: Limits,
) -> Running {
    let server = fixture.data_dir().join("server");
    let tree = Tree::load(&server, strictness).unwrap();
    let settings = settings();
    let port = port(&fixture, &tree, &settings);
    let listened = Arc::new(Listened::new(port.certified));
    let tls = server_config(Arc::clone(&listened)).unwrap();
    let time = Arc::new(Moved {
        began: SystemClock.now(),
        by: AtomicI64::new(0),
        steady: AtomicI64::new(0),
    });
    let clock = Arc::clone(&time);
    let options = Options::new(fixture.scratch("log"), "s1");
    let said = Arc::new(Mutex::new(Vec::new()));
    let (told, known) = std::sync::mpsc::channel();
    let (stop, stopped) = oneshot::channel();
    let said_to = Arc::clone(&said);
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    let meanwhile = Arc::<Meanwhile>::default();
    let watching = Arc::clone(&meanwhile);
    let thread = std::thread::spawn(move || {
        runtime().block_on(async move {
            let store = store(&server).await;
            let (log, _) = Log::open(&options, None).unwrap();
            let store = Watched(store, counted, watching);
            let shared = (Arc::new(store), Arc::new(log.clone()), clock, said_to);
            let service = service(tree, settings, strictness, shared);
            let listener = TcpListener::bind((at, 0)).await.unwrap();
            let service = Arc::new(service);
            let address = listener.local_addr().unwrap();
            told.send((address, Arc::clone(&service))).unwrap();
            let server = Server {
                service,
                tls: Arc::new(tls),
                limits,
            };
            let stop = async { drop(stopped.await) };
            server.run(listener, stop).await.unwrap();
            log.close().await;
        });
    });
    let (address, service) = known.recv().unwrap();
    Running {
        address,
        service,
        listened,
        time,
        fixture,
        said,
        reads,
        meanwhile,
        stop: Some(stop),
        thread: Some(thread),
    }
}

type Shared = (Arc<Watched>, Arc<Log>, Arc<Moved>, Arc<Mutex<Vec<String>>>);

fn service(
    tree: Tree,
    settings: Settings,
    strictness: Strictness,
    (datastore, log, clock, said): Shared,
) -> Service {
    Service {
        leaf_lifetime: 365 * DAY,
        leaf_window: WINDOW,
        tree: RwLock::new(Arc::new(Loaded::new(tree, &settings, &[1; 32]))),
        settings,
        strictness,
        throttle: Mutex::default(),
        passwords: NodePasswords::new(&[2; 32]),
        own: Arc::new(Own((*log).clone())),
        log: Arc::new(Kept(log, Arc::clone(&datastore.2))),
        datastore,
        clock,
        entropy: Arc::new(SystemEntropy),
        journal: Arc::new(move |line: &Line<'_>| {
            said.lock().unwrap().push(format!("{line:?}"));
        }),
        metrics: Metrics::default(),
        cluster: Arc::default(),
        health: Default::default(),
        names: Default::default(),
        proven: Default::default(),
        quiet: Default::default(),
    }
}

type Act = Box<dyn FnOnce() + Send>;

/// What is to happen once, just before a record is kept or a key is made.
#[derive(Default)]
pub struct Meanwhile(Mutex<Option<(String, Act)>>);

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile(..)")
    }
}

/// The moment before a record is kept.
pub const RECORD: &str = "record";

impl Meanwhile {
    /// `moment` is [`RECORD`], or a key that will be made.
    pub fn before(&self, moment: &str, act: impl FnOnce() + Send + 'static) {
        *self.0.lock().unwrap() = Some((moment.to_owned(), Box::new(act)));
    }

    /// Whether all that was to happen has.
    pub fn is_over(&self) -> bool {
        self.0.lock().unwrap().is_none()
    }

    fn comes(&self, moment: &str) {
        let found = self.0.lock().unwrap().take_if(|it| it.0 == moment);
        if let Some((_, act)) = found {
            act();
        }
    }
}

/// A log before whose records something may happen.
struct Kept(Arc<Log>, Arc<Meanwhile>);

#[async_trait::async_trait]
impl IssuanceLog for Kept {
    async fn append(&self, record: Issued) -> Result<Position, LogError> {
        self.1.comes(RECORD);
        IssuanceLog::append(self.0.as_ref(), record).await
    }
}

/// A datastore whose reads of one key are counted.
#[derive(Debug)]
pub struct Watched(SqliteStore, Arc<AtomicUsize>, Arc<Meanwhile>);

#[async_trait::async_trait]
impl Datastore for Watched {
    async fn get(&self, key: &str) -> Result<Option<Record>, DatastoreError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Record>, DatastoreError> {
        self.0.list(prefix).await
    }

    async fn create(&self, key: &str, value: &[u8]) -> Result<i64, DatastoreError> {
        self.2.comes(key);
        self.0.create(key, value).await
    }

    async fn update(&self, key: &str, revision: i64, value: &[u8]) -> Result<i64, DatastoreError> {
        self.0.update(key, revision, value).await
    }

    async fn delete(&self, key: &str, revision: i64) -> Result<Option<i64>, DatastoreError> {
        self.0.delete(key, revision).await
    }
}

/// The tree's own SQLite file; a tree whose datastore is elsewhere gets a new one.
pub async fn store(server: &Path) -> SqliteStore {
    let file = server.join("db/kubepki-test.db");
    let present = server.join("db/state.db");
    let file = if present.exists() {
        present
    } else {
        std::fs::create_dir_all(server.join("db")).unwrap();
        kubepki_datastore::new_sqlite(&file).await.unwrap();
        file
    };
    SqliteStore::open(&file, Access::Write).await.unwrap()
}

/// An answer as curl got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub code: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What curl's `-i` prints.
    pub fn parse(head: &str, body: &[u8]) -> Self {
        let mut lines = head.lines();
        let status = lines.next().unwrap();
        let code = status.split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let body = body.to_vec();
        Self {
            code,
            headers,
            body,
        }
    }
}

impl Running {
    /// Stops it, so that its log is whole.
    pub fn finish(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                std::thread::panicking() || ended.is_ok(),
                "the server panicked"
            );
        }
    }

    pub fn tls_file(&self, name: &str) -> PathBuf {
        self.fixture.data_dir().join("server/tls").join(name)
    }

    pub fn agent_file(&self, name: &str) -> String {
        let path = self.fixture.data_dir().join("agent").join(name);
        path.display().to_string()
    }

    /// Asks with curl, which verifies the server under the cluster's CA and the name that
    /// clients have for it.
    pub fn curl(&self, path: &str, arguments: &[&str]) -> Answer {
        self.curl_with(path, arguments, b"")
    }

    pub fn curl_with(&self, path: &str, arguments: &[&str], stdin: &[u8]) -> Answer {
        let authority = self.tls_file("server-ca.crt").display().to_string();
        let way = format!("{HOST}:6443:{}", self.address);
        let url = format!("https://{HOST}:6443{path}");
        let fixed = [
            "-sS",
            "-i",
            "--path-as-is",
            "--cacert",
            &authority,
            "--connect-to",
            &way,
            "--max-time",
            "30",
            "-H",
            "Expect:",
        ];
        let arguments = [&fixed[..], arguments, &[&url]].concat();
        let run = testkit::run("curl", &arguments, stdin);
        assert!(run.success(), "curl {path}: {}", run.text());
        let split = run
            .stdout
            .windows(4)
            .position(|it| it == b"\r\n\r\n")
            .unwrap();
        let head = String::from_utf8_lossy(&run.stdout[..split]).into_owned();
        Answer::parse(&head, &run.stdout[split + 4..])
    }

    /// POSTs a body as an agent with the agent token, for a node.
    pub fn ask_as(&self, node: &str, path: &str, body: &[u8]) -> Answer {
        let user = format!("node:{PASSWORD}");
        let name = format!("k3s-Node-Name: {node}");
        let password = format!("k3s-Node-Password: {NODE_PASSWORD}");
        let arguments = [
            "-u",
            &user,
            "-H",
            &name,
            "-H",
            &password,
            "-H",
            "Content-Type:",
            "--data-binary",
            "@-",
        ];
        self.curl_with(path, &arguments, body)
    }
}

/// The recorded answers.
pub fn recorded() -> Fixture {
    Fixture::new("k3s-1.36-http")
}

/// The recorded request.
pub fn request() -> Vec<u8> {
    std::fs::read(recorded().extra("req.csr.der")).unwrap()
}
