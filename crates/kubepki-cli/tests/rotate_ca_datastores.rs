//! `rotate-ca` on SQLite, PostgreSQL, MariaDB and etcd, killed on the way: resumed and taken back,
//! whichever comes first.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::fs;

use kubepki::bootstrap::{Bundle, Field, Passphrase, open};
use kubepki_datastore::{Access, Endpoint, Tls};
use testkit::server::{MariaDb, Postgres};
use testkit::{CrashPoint, Etcd, Fixture, Run, Victim};

const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");
const TOKEN: &str = "fixture-token-0123456789abcdef";

/// A stopped server, its datastore, and a cross-signed set for it.
struct Server {
    fixture: Fixture,
    endpoint: String,
    /// The server CA before and after.
    old: Vec<u8>,
    new: Vec<u8>,
}

impl Server {
    fn new(fixture: Fixture, endpoint: String) -> Self {
        let mut server = Self {
            fixture,
            endpoint,
            old: Vec::new(),
            new: Vec::new(),
        };
        // Some of these clusters had their CAs rotated and were not restarted since.
        server.ok(&["bootstrap", "extract", "--keep", "datastore", "--yes"]);
        server.ok(&["reconcile", "--yes"]);
        let state = server.fixture.data_dir().join("kubepki");
        testkit::run("rm", &["-rf".as_ref(), state.as_os_str()], b"");
        let (set, offline) = (server.path("set"), server.path("offline"));
        let data = server.path("data");
        let stage = [
            "ca",
            "stage",
            "--cross-signed",
            "--out",
            &set,
            "--offline",
            &offline,
        ];
        let stage: Vec<&str> = stage.into_iter().chain(["--data-dir", &data]).collect();
        let run = testkit::run(KUBEPKI, &stage, b"");
        assert!(run.success(), "{}", run.text());
        server.old = server.file("tls/server-ca.crt");
        server.new = fs::read(Field::ServerCa.under(set.as_ref())).unwrap();
        assert!(server.old != server.new);
        server
    }

    fn path(&self, below: &str) -> String {
        self.fixture.scratch(below).to_str().unwrap().to_owned()
    }

    fn args(&self, args: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = args.iter().map(|it| (*it).to_owned()).collect();
        let data = self.path("data");
        let site = ["--still-for", "0", "--data-dir", &data];
        all.extend(site.map(str::to_owned));
        all.extend(["--datastore-endpoint".to_owned(), self.endpoint.clone()]);
        all
    }

    fn run(&self, args: &[&str]) -> Run {
        testkit::run(KUBEPKI, &self.args(args), b"")
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> Run {
        let run = self.run(args);
        assert!(run.success(), "{args:?}: {}", run.text());
        run
    }

    fn file(&self, path: &str) -> Vec<u8> {
        fs::read(self.fixture.data_dir().join("server").join(path)).unwrap()
    }

    fn bundle(&self, at: &str) -> Bundle {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let live = runtime.block_on(async {
            let endpoint = Endpoint::parse(&self.endpoint).unwrap();
            let server = self.fixture.data_dir().join("server");
            let tls = Tls::default();
            let store = kubepki_datastore::open(&endpoint, &tls, &server, Access::Read);
            store.await.unwrap().list("/bootstrap").await.unwrap()
        });
        assert_eq!(live.len(), 1, "{at}: {live:?}");
        let json = open(&live[0].value, &Passphrase::new(TOKEN.to_owned())).unwrap();
        Bundle::parse(&json).unwrap()
    }

    /// Whether the new CAs are in force, in the datastore and on the disk alike.
    #[track_caller]
    fn settled(&self, at: &str) -> bool {
        let bundle = self.bundle(at);
        for (field, file) in &bundle.files {
            let there = fs::read(field.under(&self.fixture.data_dir().join("server"))).unwrap();
            assert!(*file.content == there, "{at}: {field}");
        }
        let there = self.file("tls/server-ca.crt");
        assert!(there == self.old || there == self.new, "{at}");
        there == self.new
    }

    fn rotate(&self) -> Vec<String> {
        let set = self.path("set");
        self.args(&["rotate-ca", "--path", &set, "--yes"])
    }

    /// Kills the rotation at each of the points that `choose` leaves. What was begun is resumed or
    /// taken back, by turns; what is done is taken back then.
    fn survives(&self, victim: &Victim, choose: impl Fn(usize) -> bool) {
        let points: Vec<CrashPoint> = victim.crash_points();
        assert!(self.settled("the first run"));
        self.nothing_left();
        self.ok(&["undo", "--yes"]);
        assert!(!self.settled("the first undo"));
        let mut interrupted = 0;
        let chosen = points
            .iter()
            .enumerate()
            .filter(|(index, _)| choose(*index));
        for (turn, (_, point)) in chosen.enumerate() {
            let at = format!("{} number {}", point.call, point.nth);
            if !victim.crash_if_reached(point) {
                self.ok(&["undo", "--yes"]);
                continue;
            }
            if turn % 2 == 0 {
                let resumed = self.ok(&["resume"]);
                let was = !resumed.text().contains("Nothing is interrupted");
                interrupted += usize::from(was);
                assert_eq!(self.settled(&at), was || self.settled(&at), "{at}");
            }
            let undone = self.run(&["undo", "--yes"]);
            let nothing = undone.text().contains("nothing to take back");
            assert!(undone.success() || nothing, "{at}: {}", undone.text());
            assert!(!self.settled(&at), "{at}");
        }
        assert!(interrupted > 0, "no kill left anything to resume");
        self.nothing_left();
    }

    /// K3s's next start would change nothing.
    #[track_caller]
    fn nothing_left(&self) {
        let run = self.ok(&["reconcile", "--dry-run"]);
        assert!(run.text().contains("Nothing to do."), "{}", run.text());
    }

    fn survives_at_network(&self) {
        let victim = Victim::new(KUBEPKI, self.rotate()).alone().at_network();
        // Half of them: each costs three commands and a look.
        self.survives(&victim, |index| index % 2 == 0);
    }
}

#[test]
fn on_sqlite() {
    let fixture = Fixture::new("k3s-1.36-sqlite");
    let database = fixture.data_dir().join("server/db/state.db");
    let server = Server::new(fixture, format!("sqlite://{}", database.display()));
    // Every change of every file would take an hour.
    let victim = Victim::new(KUBEPKI, server.rotate()).alone();
    server.survives(&victim, |index| index % 47 == 5);
}

#[test]
fn on_postgresql() {
    let fixture = Fixture::without_datastore("k3s-1.36-postgres");
    let endpoint = Postgres::shared().database("authorities");
    Postgres::shared().load("authorities", &fixture.extra("kubernetes.sql"));
    Server::new(fixture, endpoint).survives_at_network();
}

#[test]
fn on_mariadb() {
    let fixture = Fixture::without_datastore("k3s-1.36-mariadb");
    let endpoint = MariaDb::shared().database("authorities");
    MariaDb::shared().load("authorities", &fixture.extra("kubernetes.sql"));
    Server::new(fixture, endpoint).survives_at_network();
}

#[test]
fn on_etcd() {
    let fixture = Fixture::without_datastore("k3s-1.36-etcd-external");
    let etcd = Etcd::restore(&fixture.extra("etcd-snapshot.db"));
    let endpoint = etcd.url(0);
    Server::new(fixture, endpoint).survives_at_network();
}
