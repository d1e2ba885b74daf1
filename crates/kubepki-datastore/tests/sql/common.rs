//! What the tests of this folder share.

use std::path::{Path, PathBuf};

use kubepki::bootstrap::{self, Bundle, Passphrase};
use kubepki::datastore::DatastoreError;
use kubepki_datastore::{Access, Endpoint, Store, Tls, open};
use testkit::server::{MariaDb, Postgres};
use testkit::{Fixture, fixture};

/// The token of the fixtures.
pub(crate) const TOKEN: &str = "fixture-token-0123456789abcdef";
/// The datastore key that it names.
pub(crate) const KEY: &str = "/bootstrap/d0bdc7873da2";

pub(crate) fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.to_owned())
}

/// Decrypts and reads a value of the fixtures.
pub(crate) fn opened(value: &[u8]) -> Bundle {
    let json = bootstrap::open(value, &passphrase(TOKEN)).unwrap();
    Bundle::parse(&json).unwrap()
}

/// A store behind the text of an endpoint, without TLS files.
pub(crate) async fn store(
    endpoint: &str,
    server_dir: &Path,
    access: Access,
) -> Result<Box<dyn Store>, DatastoreError> {
    let endpoint = Endpoint::parse(endpoint)?;
    open(&endpoint, &Tls::default(), server_dir, access).await
}

/// What a real K3s left behind, in a database of the test's own.
#[derive(Debug)]
pub(crate) enum Database {
    Sqlite { fixture: Fixture },
    Postgres { fixture: Fixture, name: String },
    MariaDb { fixture: Fixture, name: String },
}

impl Database {
    /// One of each kind; `test` names the databases.
    pub(crate) fn all(test: &str) -> [Self; 3] {
        // So that no name is a word of SQL.
        let name = format!("t_{test}");
        let postgres = fixture("k3s-1.36-postgres");
        Postgres::shared().database(&name);
        Postgres::shared().load(&name, &postgres.extra("kubernetes.sql"));
        let mariadb = fixture("k3s-1.36-mariadb");
        MariaDb::shared().database(&name);
        MariaDb::shared().load(&name, &mariadb.extra("kubernetes.sql"));
        [
            Self::Sqlite {
                fixture: fixture("k3s-1.36-sqlite"),
            },
            Self::Postgres {
                fixture: postgres,
                name: name.clone(),
            },
            Self::MariaDb {
                fixture: mariadb,
                name,
            },
        ]
    }

    pub(crate) fn endpoint(&self) -> String {
        match self {
            Self::Sqlite { .. } => "sqlite".to_owned(),
            Self::Postgres { name, .. } => Postgres::shared().endpoint(name),
            Self::MariaDb { name, .. } => MariaDb::shared().endpoint(name),
        }
    }

    pub(crate) fn server_dir(&self) -> PathBuf {
        let (Self::Sqlite { fixture }
        | Self::Postgres { fixture, .. }
        | Self::MariaDb { fixture, .. }) = self;
        fixture.data_dir().join("server")
    }

    pub(crate) async fn open(&self, access: Access) -> Box<dyn Store> {
        let opened = store(&self.endpoint(), &self.server_dir(), access).await;
        opened.unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    /// Lines with `|` between columns, NULL spelled so, by the database's own client.
    pub(crate) fn sql(&self, statements: &str) -> Vec<String> {
        let text = match self {
            Self::Sqlite { .. } => {
                let file = self.server_dir().join("db/state.db");
                let options = [
                    "-batch",
                    "-cmd",
                    ".timeout 30000",
                    "-list",
                    "-nullvalue",
                    "NULL",
                ];
                let arguments = options.into_iter().chain([file.to_str().unwrap()]);
                let arguments: Vec<&str> = arguments.collect();
                let run = testkit::run("sqlite3", &arguments, statements.as_bytes());
                assert!(run.success(), "{}", run.text());
                String::from_utf8(run.stdout).unwrap()
            }
            Self::Postgres { name, .. } => Postgres::shared().sql(name, statements),
            Self::MariaDb { name, .. } => {
                MariaDb::shared().sql(name, statements).replace('\t', "|")
            }
        };
        text.lines().map(str::to_owned).collect()
    }

    /// All rows of a key but their values: `id|created|deleted|create_revision|prev_revision|
    /// lease|length of value|length of old_value`.
    pub(crate) fn rows(&self, key: &str) -> Vec<String> {
        self.sql(&format!(
            "SELECT id, created, deleted, create_revision, prev_revision, lease, length(value), \
             length(old_value) FROM kine WHERE name = '{key}' ORDER BY id;"
        ))
    }

    /// Everything in the table, as one text to be compared.
    pub(crate) fn everything(&self) -> Vec<String> {
        let blob = |column| match self {
            Self::Postgres { .. } => format!("encode({column}, 'hex')"),
            _ => format!("hex({column})"),
        };
        let (value, old_value) = (blob("value"), blob("old_value"));
        self.sql(&format!(
            "SELECT id, name, created, deleted, create_revision, prev_revision, lease, {value}, \
             {old_value}, value IS NULL, old_value IS NULL FROM kine ORDER BY id;"
        ))
    }
}
