//! A server's whole life in one process: its clocks are moved, everything else is real: files,
//! plans, TLS connections, the issuance log.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use clap::Parser as _;
use kubepki_serve::cluster::Undone;
use pki::DAY;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use testkit::Fixture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::args::{Cli, Command};

mod kept;

const HOST: &str = "10.77.0.11";

/// The moment at which a test began, moved.
#[derive(Debug)]
struct Moved {
    began: UnixTime,
    by: AtomicI64,
}

impl Moved {
    fn new(began: UnixTime) -> Arc<Self> {
        let by = AtomicI64::new(0);
        Arc::new(Self { began, by })
    }

    fn go(&self, seconds: i64) {
        self.by.fetch_add(seconds, Ordering::SeqCst);
    }

    fn by(&self) -> i64 {
        self.by.load(Ordering::SeqCst)
    }

    /// What goes on with the clock as long as nobody sets it.
    fn steady(self: &Arc<Self>) -> Steady {
        let own = Arc::clone(self);
        Arc::new(move || Duration::from_secs(u64::try_from(own.by()).unwrap_or(0)))
    }
}

impl Clock for Moved {
    fn now(&self) -> UnixTime {
        self.began.plus(self.by())
    }
}

impl TimeProvider for Moved {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let seconds = u64::try_from(self.now().as_secs()).ok()?;
        Some(rustls::pki_types::UnixTime::since_unix_epoch(
            Duration::from_secs(seconds),
        ))
    }
}

fn arguments(data_dir: &Path, more: &[&str]) -> ServeArgs {
    let data_dir = data_dir.display().to_string();
    let fixed = [
        "kubepki",
        "serve",
        "--data-dir",
        &data_dir,
        "--bind-address",
        "127.0.0.1",
        "--node-ip",
        HOST,
        "--https-listen-port",
        "0",
    ];
    match Cli::parse_from([&fixed[..], more].concat()).command {
        Command::Serve(args) => *args,
        other => panic!("{other:?}"),
    }
}

/// A server in a task of its own, and its loops in the test's hands: one renews, one follows the
/// datastore.
struct Life {
    fixture: Fixture,
    address: SocketAddr,
    keeper: Keeper,
    take_up: TakeUp,
    service: Arc<Service>,
    time: Arc<Moved>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<std::io::Result<()>>,
    log: Log,
}

async fn live(name: &str, time: &Arc<Moved>, steady: Steady) -> Life {
    live_on(name, &[], time, steady).await
}

async fn live_on(name: &str, more: &[&str], time: &Arc<Moved>, steady: Steady) -> Life {
    let fixture = Fixture::new(name);
    let named = ["--node-name", "s1"];
    let args = arguments(&fixture.data_dir(), &[&named[..], more].concat());
    let clock: Arc<dyn Clock> = time.clone();
    let records = Records::new(clock.clone());
    let mut opened = open(clock, steady, &args, records)
        .await
        .unwrap_or_else(|error| {
            panic!("{}: {}", name, error.message);
        });
    let address = opened.listener.local_addr().unwrap();
    // Between two looks of the test minutes may pass.
    opened.server.limits.headers = Duration::from_secs(3600);
    let service = Arc::clone(&opened.server.service);
    let (stop, stopped) = oneshot::channel();
    let serving = opened
        .server
        .run(opened.listener, async { drop(stopped.await) });
    Life {
        fixture,
        address,
        keeper: opened.keeper,
        take_up: opened.take_up,
        service,
        time: Arc::clone(time),
        stop,
        serving: tokio::spawn(serving),
        log: opened.log,
    }
}

/// A client that verifies under the CA on the disk, at the moved time.
struct Client {
    stream: TlsStream<TcpStream>,
    leaf: pki::Certificate,
}

impl Life {
    fn server_dir(&self) -> std::path::PathBuf {
        self.fixture.data_dir().join("server")
    }

    async fn connect(&self, identity: Option<&str>) -> Client {
        let mut roots = RootCertStore::empty();
        let authority = self.server_dir().join("tls/server-ca.crt");
        for root in CertificateDer::pem_file_iter(&authority).unwrap() {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let time: Arc<dyn TimeProvider> = self.time.clone();
        let builder = ClientConfig::builder_with_details(provider, time)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let path = |end: &str| self.fixture.data_dir().join(format!("{name}.{end}"));
                let chain = CertificateDer::pem_file_iter(path("crt")).unwrap();
                let chain = chain.map(Result::unwrap).collect();
                let key = PrivateKeyDer::from_pem_file(path("key")).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from(HOST).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.unwrap();
        let (_, session) = stream.get_ref();
        let leaf = session.peer_certificates().unwrap()[0].as_ref().to_vec();
        let leaf = pki::Certificate::from_der(&leaf).unwrap();
        Client { stream, leaf }
    }

    /// Every leaf of the node that a row knows, by its row.
    async fn leaves(&self) -> BTreeMap<&'static str, pki::Certificate> {
        let args = &self.keeper.args;
        let node = crate::world::Node::open(&self.keeper.world, &args.site, None, None).await;
        let node = node.unwrap_or_else(|error| panic!("{}", error.message));
        let rows = node.inventory.rows.iter();
        let leaf = |row: &kubepki::inventory::ObservedRow| {
            // Agents have copies of CAs, which are rows of their own.
            let first = row.file.first_certificate().filter(|it| !it.is_ca())?;
            Some((row.row.id, first.clone()))
        };
        rows.filter_map(leaf).collect()
    }

    /// Name, bytes and time of every CA file.
    fn authorities(&self) -> Vec<(String, Vec<u8>, std::time::SystemTime)> {
        let mut found = Vec::new();
        for folder in ["tls", "tls/etcd"] {
            let folder = self.server_dir().join(folder);
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.display().to_string();
                if name.contains("-ca.") {
                    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
                    found.push((name, std::fs::read(&path).unwrap(), modified));
                }
            }
        }
        found.sort();
        found
    }

    async fn end(self) {
        let _ = self.stop.send(());
        self.serving.await.unwrap().unwrap();
        self.log.close().await;
    }
}

impl Client {
    async fn ask(&mut self, path: &str, more: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n");
        self.stream.write_all(request.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let got = self.stream.read(&mut chunk).await.unwrap();
            assert!(got > 0, "the connection was closed after {read:?}");
            read.extend_from_slice(&chunk[..got]);
            let text = String::from_utf8_lossy(&read).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let length = head.to_lowercase();
            let length = length.split_once("content-length: ").unwrap().1;
            let length: usize = length.lines().next().unwrap().parse().unwrap();
            if body.len() >= length {
                let code = head.split(' ').nth(1).unwrap().parse().unwrap();
                return (code, body.to_owned());
            }
        }
    }
}

impl Life {
    /// Lets time pass for both loops.
    async fn pass(&mut self, seconds: i64) {
        self.time.go(seconds);
        self.keeper.tick(false).await;
        self.take_up.go_on().await;
    }
}

/// 400 days, so many at a time: no leaf came near its end, no connection was lost, no CA changed, and what
/// was issued stands in the log.
async fn lives_on(mut life: Life, step: i64) {
    let authorities = life.authorities();
    let first = life.leaves().await;
    assert!(first.len() > 12, "{:?}", first.keys());
    let mut stays = life.connect(None).await;
    let mut shown = BTreeSet::from([stays.leaf.serial().to_string()]);
    let mut renewals = 0;
    while life.time.by() < 400 * DAY {
        // The loop looks every six hours; less often, it has less time for everything.
        life.pass(step).await;
        assert_eq!(life.service.health.why_not(), None);
        if life.time.by() % (20 * DAY) != 0 {
            continue;
        }
        let day = life.time.by() / DAY;
        let leaves = life.leaves().await;
        assert_eq!(leaves.len(), first.len());
        for (row, leaf) in &leaves {
            let left = leaf.validity().remaining(life.time.now());
            assert!(
                left > 60 * DAY,
                "{row}: {} days left on day {day}",
                left / DAY
            );
        }
        assert_eq!(stays.ask("/ping", "").await.1, "pong", "on day {day}");
        // A new connection each time, verified at that time, as the node with its own leaf.
        let mut new = life.connect(Some("agent/client-kubelet")).await;
        let (code, body) = new.ask("/v1-k3s/readyz", "").await;
        assert_eq!((code, body.as_str()), (200, "ok"), "on day {day}");
        renewals += usize::from(shown.insert(new.leaf.serial().to_string()));
    }
    assert!(renewals >= 1, "the listener showed {shown:?}");
    let recorded = recorded(&life);
    for (row, leaf) in life.leaves().await {
        assert_ne!(Some(&leaf), first.get(row), "{row} was never renewed");
        assert!(recorded.contains(&leaf.serial().to_string()), "{row}");
    }
    assert!(life.authorities() == authorities, "a CA was touched");
    let (_, metrics) = stays.ask("/metrics", "").await;
    assert!(
        metrics.contains("kubepki_part_state{part=\"leaves\"} 0"),
        "{metrics}"
    );
    life.end().await;
}

/// The serial numbers in the issuance log.
fn recorded(life: &Life) -> BTreeSet<String> {
    use kubepki::log::{Reading, entries};

    let folder = life.fixture.data_dir().join("kubepki/log/s1");
    let serial = |read| match read {
        Ok(Reading::Record(entry)) => entry.issued.serial,
        other => panic!("{other:?}"),
    };
    entries(&folder).unwrap().map(serial).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn four_hundred_days_without_a_restart() {
    let time = Moved::new(SystemClock.now());
    let life = live("k3s-1.36-sqlite", &time, time.steady()).await;
    lives_on(life, DAY).await;
}

/// The same as one of many, whose signs of life leave the datastore as small as it was.
#[tokio::test(flavor = "multi_thread")]
async fn four_hundred_days_over_postgres() {
    let postgres = testkit::server::Postgres::start(false);
    let endpoint = postgres.database("days");
    let fixture = testkit::fixture("k3s-1.36-postgres");
    postgres.load("days", &fixture.extra("kubernetes.sql"));
    let count = |of: &str| -> usize {
        let statement = format!("SELECT count(*) FROM kine {of};");
        postgres.sql("days", &statement).trim().parse().unwrap()
    };
    let (all, ours) = (count(""), "WHERE name LIKE '/kubepki/%'");
    let flag = ["--datastore-endpoint", endpoint.as_str()];
    let time = Moved::new(SystemClock.now());
    let life = live_on("k3s-1.36-postgres", &flag, &time, time.steady()).await;
    let others = count("") - count(ours);
    assert_eq!(others, all);
    lives_on(life, 4 * DAY).await;
    assert_eq!(count("WHERE name LIKE '/kubepki/servers/%'"), 1);
    let heard = "SELECT convert_from(value, 'UTF8') FROM kine WHERE name = '/kubepki/servers/s1';";
    let heard = postgres.sql("days", heard);
    let at = time.now().as_secs().to_string();
    assert!(heard.contains(&at), "{heard} at {at}");
    // The log's head moves with what is issued.
    assert!(count(ours) < 40, "{} rows", count(ours));
    assert_eq!(count("") - count(ours), all);
}

/// CAs that end are told of a year before, end, and break nothing: neither the loop nor what can
/// still be served.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_ends_is_told_of_long_before() {
    let fixture = Fixture::new("k3s-1.36-sqlite");
    let file = std::fs::read(fixture.data_dir().join("server/tls/server-ca.crt")).unwrap();
    let authority = pki::Certificate::all_from_pem(&file).unwrap().remove(0);
    let end = authority.validity().not_after;
    // It was off for years: every leaf has ended, and the start renews them all.
    let time = Moved::new(end.plus(-380 * DAY));
    let mut life = live("k3s-1.36-sqlite", &time, time.steady()).await;
    let authorities = life.authorities();
    for (row, leaf) in life.leaves().await {
        assert!(leaf.validity().contains(time.now()), "{row}");
    }
    let mut stays = life.connect(None).await;
    assert!(life.service.health.troubles().is_empty());
    let folder = life.fixture.data_dir().join("kubepki/plans");
    let plans = || std::fs::read_dir(&folder);
    let mut told = None;
    while time.by() < 400 * DAY {
        life.pass(5 * DAY).await;
        let warned = life.service.health.to_string();
        if told.is_none() && warned.contains("server-ca") {
            told = Some(end.since(time.now()));
        }
        assert_eq!(stays.ask("/cacerts", "").await.0, 200);
    }
    assert!(told.is_some_and(|left| left > 350 * DAY), "{told:?}");
    let (_, metrics) = stays.ask("/metrics", "").await;
    assert!(
        metrics.contains("kubepki_part_state{part=\"authorities\"} 1"),
        "{metrics}"
    );
    let server_ca = |line: &&str| line.contains("server-ca") && line.contains("CertSign");
    let gauge = metrics.lines().find(server_ca).unwrap();
    assert!(
        gauge.rsplit(' ').next().unwrap().starts_with('-'),
        "{gauge}"
    );
    // What cannot be renewed is not tried at every look.
    let made = plans().unwrap().count();
    time.go(DAY);
    life.keeper.tick(true).await;
    assert_eq!(plans().unwrap().count(), made);
    assert!(made < 8, "{made} plans");
    assert!(life.authorities() == authorities, "a CA was touched");
    life.end().await;
}

/// A clock that is set beyond every leaf has them renewed at the next tick; one that is set before
/// the CAs began has nothing issued until it is right again.
#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_are_set() {
    let time = Moved::new(SystemClock.now());
    // The steady clock stands: all that the other does is a jump.
    let steady: Steady = Arc::new(|| Duration::from_secs(60));
    let mut life = live("k3s-1.36-sqlite", &time, steady).await;
    let before = life.leaves().await;
    life.keeper.tick(false).await;
    assert_eq!(life.leaves().await, before);
    time.go(500 * DAY);
    life.keeper.tick(false).await;
    let after = life.leaves().await;
    for (row, leaf) in &after {
        assert!(leaf.validity().contains(time.now()), "{row}");
    }
    let mut stays = life.connect(Some("agent/client-kubelet")).await;
    assert_eq!(stays.ask("/v1-k3s/readyz", "").await.0, 200);
    time.go(-4000 * DAY);
    life.keeper.tick(false).await;
    assert_eq!(life.leaves().await, after);
    assert!(
        life.service
            .health
            .why_not()
            .is_some_and(|why| why.contains("set the clock"))
    );
    assert_eq!(stays.ask("/ping", "").await.1, "pong");
    time.go(3500 * DAY);
    life.keeper.tick(false).await;
    assert_eq!(life.service.health.why_not(), None);
    // What was issued in the future is of no use now.
    for (row, leaf) in life.leaves().await {
        assert!(leaf.validity().contains(time.now()), "{row}");
    }
    let mut new = life.connect(None).await;
    assert_eq!(new.ask("/ping", "").await.1, "pong");
    life.end().await;
}

/// Whoever proved who he is by what was replaced since gives no orders.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_before_is_not_carried_out() {
    let time = Moved::new(SystemClock.now());
    let life = live("k3s-1.36-sqlite", &time, time.steady()).await;
    let (service, server) = (Arc::clone(&life.service), life.server_dir());
    let users = || std::fs::read(server.join("cred/passwd")).unwrap();
    let before = users();
    let tree = Tree::load(&server, Strictness::Strict).unwrap();
    let former = Arc::new(Loaded::new(tree, &service.settings, &[1; 32]));
    let present = service.loaded().unwrap();
    let control = service.cluster.control().unwrap();
    let (stop, stopped) = watch::channel(false);
    let following = life.take_up.run(stopped);
    let put = async |admitted| {
        let new = zeroize::Zeroizing::new("another-password-of-servers".to_owned());
        control.put_token(new, admitted).await
    };
    let ordering = async {
        assert_eq!(put(&former).await, Err(Undone::Overtaken));
        assert!(users() == before);
        assert_eq!(put(&present).await, Ok(()));
        assert!(users() != before);
        // Now it is of before itself.
        assert_eq!(put(&present).await, Err(Undone::Overtaken));
        stop.send(true).unwrap();
    };
    tokio::join!(following, ordering);
    life.stop.send(()).unwrap();
    life.serving.await.unwrap().unwrap();
    life.log.close().await;
}
