//! The four datastores: the fixture's data in each, kept and put back.

use std::cell::RefCell;

use kubepki::bootstrap::KEY_PREFIX;
use kubepki::datastore::Record;
use kubepki_datastore::{Access, Endpoint, Store, Tls};
use testkit::server::{MariaDb, Postgres};
use testkit::{Etcd, Fixture};
use tokio::runtime::Runtime;

use crate::scene::Scene;

/// Where a scene's rows are: in the data directory itself, or in a server of its own.
pub enum Place {
    Sqlite,
    Postgres(RefCell<Postgres>),
    MariaDb(RefCell<MariaDb>),
    /// And what it held at first.
    Etcd(RefCell<Etcd>, Vec<Record>),
}

impl Place {
    pub fn sqlite(_: &Fixture) -> Self {
        Self::Sqlite
    }

    pub fn postgres(fixture: &Fixture) -> Self {
        let server = Postgres::start(false);
        server.load(DATABASE, &fixture.extra("kubernetes.sql"));
        Self::Postgres(RefCell::new(server))
    }

    pub fn maria_db(fixture: &Fixture) -> Self {
        let server = MariaDb::start(false);
        server.load(DATABASE, &fixture.extra("kubernetes.sql"));
        Self::MariaDb(RefCell::new(server))
    }

    pub fn etcd(fixture: &Fixture) -> Self {
        let etcd = Etcd::restore(&fixture.extra("etcd-snapshot.db"));
        // The revision says whether K3s writes.
        etcd.revoke_leases();
        Self::Etcd(RefCell::new(etcd), Vec::new())
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres(_) => "PostgreSQL",
            Self::MariaDb(_) => "MariaDB",
            Self::Etcd(..) => "etcd",
        }
    }

    /// As K3s's flag has it; `None` for what the data directory holds.
    pub fn endpoint(&self) -> Option<String> {
        match self {
            Self::Sqlite => None,
            Self::Postgres(server) => Some(server.borrow().endpoint(DATABASE)),
            Self::MariaDb(server) => Some(server.borrow().endpoint(DATABASE)),
            Self::Etcd(etcd, _) => Some(etcd.borrow().url(0)),
        }
    }

    /// Whether rows can be copied with their revisions: etcd's cannot.
    pub fn can_copy(&self) -> bool {
        !matches!(self, Self::Etcd(..))
    }

    /// Keeps the rows as they are under a name. SQLite's go with the files.
    pub fn keep(&self, name: &str) {
        let keep = format!(
            "DROP TABLE IF EXISTS kept_{name}; \
             CREATE TABLE kept_{name} AS SELECT * FROM kine WHERE name LIKE '/bootstrap%';"
        );
        match self {
            Self::Postgres(server) => {
                let quiet = format!("SET client_min_messages=error; {keep}");
                server.borrow().sql(DATABASE, &quiet);
            }
            Self::MariaDb(server) => drop(server.borrow().sql(DATABASE, &keep)),
            Self::Sqlite | Self::Etcd(..) => {}
        }
    }

    /// Puts the rows back; etcd's, at new revisions, only as they were at first.
    pub fn put_back(&self, name: &str, scene: &Scene) {
        let put_back = format!(
            "BEGIN; DELETE FROM kine WHERE name LIKE '/bootstrap%'; \
             INSERT INTO kine SELECT * FROM kept_{name}; COMMIT;"
        );
        match self {
            Self::Postgres(server) => drop(server.borrow().sql(DATABASE, &put_back)),
            Self::MariaDb(server) => drop(server.borrow().sql(DATABASE, &put_back)),
            Self::Etcd(_, first) => {
                let (runtime, store) = connect(scene, Access::Write);
                runtime.block_on(async {
                    for record in store.list(KEY_PREFIX).await.unwrap() {
                        store.delete(&record.key, record.revision).await.unwrap();
                    }
                    for record in first {
                        store.create(&record.key, &record.value).await.unwrap();
                    }
                });
            }
            Self::Sqlite => {}
        }
    }
}

impl Place {
    /// `kill -9` of the server.
    pub fn kill(&self) {
        match self {
            Self::Sqlite => {}
            Self::Postgres(server) => server.borrow().kill(),
            Self::MariaDb(server) => server.borrow().kill(),
            Self::Etcd(etcd, _) => etcd.borrow_mut().kill(0),
        }
    }

    /// Starts it again on its data.
    pub fn restart(&self) {
        match self {
            Self::Sqlite => {}
            Self::Postgres(server) => server.borrow_mut().restart(),
            Self::MariaDb(server) => server.borrow_mut().restart(),
            Self::Etcd(etcd, _) => etcd.borrow_mut().resume(0),
        }
    }
}

/// The database that kine makes.
const DATABASE: &str = "kubernetes";

/// The scene's datastore, opened by the library itself.
pub fn connect(scene: &Scene, access: Access) -> (Runtime, Box<dyn Store>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    let endpoint = scene.place.endpoint().unwrap_or_default();
    let endpoint = Endpoint::parse(&endpoint).unwrap();
    let (tls, server) = (Tls::default(), scene.data().join("server"));
    let store = runtime.block_on(kubepki_datastore::open(&endpoint, &tls, &server, access));
    (runtime, store.unwrap())
}
