//! `token rotate` and `sa-key rotate` on PostgreSQL, MariaDB and etcd, killed whenever they send
//! something: resumed and taken back, whichever comes first.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and lay out their own files"
)]

use std::fs;

use kubepki::bootstrap::{Bundle, Field, Passphrase, open};
use kubepki_datastore::{Access, Endpoint, Tls};
use testkit::server::{MariaDb, Postgres};
use testkit::{Etcd, Fixture, Run, Victim};

const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");
const OLD: &str = "fixture-token-0123456789abcdef";
const NEW: &str = "another-token-fedcba9876543210";
const KEY: &str = "server/tls/service.key";

/// A stopped server and its datastore elsewhere.
struct Server {
    fixture: Fixture,
    endpoint: String,
}

impl Server {
    fn new(name: &str, endpoint: impl FnOnce(&Fixture) -> String) -> Self {
        let fixture = Fixture::without_datastore(name);
        let endpoint = endpoint(&fixture);
        let server = Self { fixture, endpoint };
        fs::write(server.fixture.scratch("new-token"), NEW).unwrap();
        // Some of these clusters had their CAs rotated and were not restarted since.
        server.ok(&["bootstrap", "extract", "--keep", "datastore", "--yes"]);
        // That is none of what is taken back here.
        let state = server.fixture.data_dir().join("kubepki");
        testkit::run("rm", &["-rf".as_ref(), state.as_os_str()], b"");
        server
    }

    fn args(&self, args: &[&str]) -> Vec<String> {
        let data = self.fixture.data_dir();
        let mut all: Vec<String> = args.iter().map(|it| (*it).to_owned()).collect();
        let site = ["--still-for", "0", "--data-dir", data.to_str().unwrap()];
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
        fs::read(self.fixture.data_dir().join(path)).unwrap()
    }

    /// The one bundle, and which token opens it.
    fn bundle(&self, at: &str) -> (Bundle, &'static str) {
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
        let token = [OLD, NEW]
            .into_iter()
            .find(|token| Passphrase::new((*token).to_owned()).key_name() == live[0].key)
            .unwrap();
        let json = open(&live[0].value, &Passphrase::new(token.to_owned())).unwrap();
        (Bundle::parse(&json).unwrap(), token)
    }

    /// Which token is in force, everywhere alike; the file of service-account keys must be too.
    fn settled(&self, at: &str) -> &'static str {
        let (bundle, token) = self.bundle(at);
        let users = self.file("server/cred/passwd");
        assert!(
            bundle.content(Field::PasswdFile) == Some(&users[..]),
            "{at}"
        );
        let file = String::from_utf8(self.file("server/token")).unwrap();
        assert!(file.ends_with(&format!(":{token}\n")), "{at}");
        let keys = self.file(KEY);
        assert!(bundle.content(Field::ServiceKey) == Some(&keys[..]), "{at}");
        token
    }

    /// Kills a change whenever it sends something. What was begun is resumed or taken back, by
    /// turns; what is done is taken back then.
    fn survives(&self, change: &[&str], is_changed: impl Fn(&Self, &str) -> bool) {
        let victim = Victim::new(KUBEPKI, self.args(change)).alone().at_network();
        let points = victim.crash_points();
        self.ok(&["undo", "--yes"]);
        assert!(!is_changed(self, "after the first run"));
        assert!(points.len() > 4, "{}", points.len());
        let mut interrupted = 0;
        // A conversation of a hundred messages has few moments that differ.
        for (index, point) in points.iter().step_by(3).enumerate() {
            let at = format!("{} number {} of {change:?}", point.call, point.nth);
            if !victim.crash_if_reached(point) {
                self.ok(&["undo", "--yes"]);
                continue;
            }
            if index % 2 == 0 {
                let resumed = self.ok(&["resume"]);
                interrupted += usize::from(!resumed.text().contains("Nothing is interrupted"));
                is_changed(self, &at);
            }
            let undone = self.run(&["undo", "--yes"]);
            let nothing = undone.text().contains("nothing to take back");
            assert!(undone.success() || nothing, "{at}: {}", undone.text());
            assert!(!is_changed(self, &at), "{at}");
        }
        assert!(interrupted > 0, "no kill left anything to resume");
    }

    fn survives_both(&self) {
        let before = self.file(KEY);
        let token = self.fixture.scratch("new-token");
        let token = token.to_str().unwrap();
        let rotate = ["token", "rotate", "--yes", "--new-token-file", token];
        self.survives(&rotate, |server, at| server.settled(at) == NEW);
        let rotate = ["sa-key", "rotate", "--yes", "--key", "p256"];
        self.survives(&rotate, |server, at| {
            assert_eq!(server.settled(at), OLD, "{at}");
            server.file(KEY) != before
        });
    }
}

#[test]
fn on_postgresql() {
    let server = Server::new("k3s-1.36-postgres", |fixture| {
        let endpoint = Postgres::shared().database("tokens");
        Postgres::shared().load("tokens", &fixture.extra("kubernetes.sql"));
        endpoint
    });
    server.survives_both();
}

#[test]
fn on_mariadb() {
    let server = Server::new("k3s-1.36-mariadb", |fixture| {
        let endpoint = MariaDb::shared().database("tokens");
        MariaDb::shared().load("tokens", &fixture.extra("kubernetes.sql"));
        endpoint
    });
    server.survives_both();
}

#[test]
fn on_etcd() {
    let fixture = Fixture::without_datastore("k3s-1.36-etcd-external");
    let etcd = Etcd::restore(&fixture.extra("etcd-snapshot.db"));
    let server = Server::new("k3s-1.36-etcd-external", |_| etcd.url(0));
    server.survives_both();
}
