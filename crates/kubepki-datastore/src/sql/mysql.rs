//! kine's table in MySQL and MariaDB.

use async_trait::async_trait;
use kubepki::datastore::DatastoreError;
use sqlx::ConnectOptions as _;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlSslMode};

use super::kine::{self, NewRow, Row};
use super::line::{Dialect, Line, Question, filled, marks};
use super::trouble::{self, Place, Refusal};
use crate::endpoint::{Address, Mysql, MysqlTls, Tls};
use crate::open::Access;

/// kine in a MySQL or MariaDB database.
#[derive(Debug)]
pub struct MysqlStore(Line<MysqlServer>);

impl MysqlStore {
    /// Connects to the server; [`Mysql`] says what its TLS options mean.
    ///
    /// # Errors
    ///
    /// [`DatastoreError`], as [`crate::open`] describes.
    pub async fn connect(
        address: &Mysql,
        tls: &Tls,
        access: Access,
    ) -> Result<Self, DatastoreError> {
        let place = Place {
            endpoint: address.to_string(),
        };
        let (options, roots) = options(address, tls)?;
        let server = MysqlServer {
            encrypted: !matches!(options.get_ssl_mode(), MySqlSslMode::Disabled),
            options,
            roots,
            access,
            place: place.clone(),
        };
        Line::open(server, place, access).await.map(Self)
    }
}

forward!(MysqlStore);

struct MysqlServer {
    options: MySqlConnectOptions,
    /// Whether TLS options are given.
    encrypted: bool,
    /// Whose certificates are believed, for errors.
    roots: String,
    access: Access,
    place: Place,
}

impl MysqlServer {
    /// A connection that is let in.
    ///
    /// MySQL 8 (`caching_sha2_password`) takes a password that it does not remember over TLS, or
    /// encrypted with its RSA key, which Go's driver does and our client library here does not.
    /// So without TLS options TLS is tried then, unchecked like that key.
    async fn greet(&self) -> Result<MySqlConnection, sqlx::Error> {
        let first = self.options.connect().await;
        match first {
            Err(error) if !self.encrypted && trouble::wants_rsa(&error) => {
                let encrypted = self.options.clone().ssl_mode(MySqlSslMode::Required);
                encrypted.connect().await.map_err(|second| match second {
                    sqlx::Error::Tls(_) => error,
                    other => other,
                })
            }
            other => other,
        }
    }
}

pub(super) fn options(
    address: &Mysql,
    files: &Tls,
) -> Result<(MySqlConnectOptions, String), DatastoreError> {
    let endpoint = address.to_string();
    let mut options = MySqlConnectOptions::new()
        .username(&address.user)
        .database(&address.database)
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None)
        .enable_cleartext_plugin(address.cleartext)
        .disable_statement_logging();
    if let Some(password) = &address.password {
        options = options.password(password);
    }
    options = match address.address(files) {
        Address::Tcp(host, port) => options.host(&host).port(port),
        Address::Unix(path, _) => options.socket(path),
    };
    Ok(match address.tls(files)? {
        MysqlTls::Off => (options.ssl_mode(MySqlSslMode::Disabled), String::new()),
        MysqlTls::Preferred => (options.ssl_mode(MySqlSslMode::Preferred), String::new()),
        MysqlTls::Unchecked => (options.ssl_mode(MySqlSslMode::Required), String::new()),
        MysqlTls::Checked(roots, client) => {
            options = options
                .ssl_mode(MySqlSslMode::VerifyIdentity)
                .ssl_ca_from_pem(roots.read(&endpoint)?);
            if let Some(client) = client {
                let (certificate, key) = client.read(&endpoint)?;
                options = options
                    .ssl_client_cert_from_pem(certificate)
                    .ssl_client_key_from_pem(&*key);
            }
            (options, roots.to_string())
        }
    })
}

#[async_trait]
impl Dialect for MysqlServer {
    type Connection = MySqlConnection;

    async fn connect(&self) -> Result<MySqlConnection, DatastoreError> {
        let connecting = async {
            let mut line = self.greet().await?;
            sqlx::raw_sql(SESSION).execute(&mut line).await?;
            if self.access == Access::Read {
                let read_only = "SET SESSION TRANSACTION READ ONLY";
                sqlx::raw_sql(read_only).execute(&mut line).await?;
            }
            Ok(line)
        };
        match tokio::time::timeout(super::CONNECT, connecting).await {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(error)) => Err(trouble::of_connecting(&self.place, &self.roots, error)),
            Err(_) => Err(trouble::no_answer(&self.place, super::CONNECT)),
        }
    }

    async fn rows(
        line: &mut MySqlConnection,
        question: Question<'_>,
    ) -> Result<Vec<Row>, sqlx::Error> {
        let rows = match question {
            Question::Newest(key) => sqlx::query(NEWEST)
                .bind(key.to_owned())
                .bind(key.to_owned()),
            Question::NewestOf(keys) => {
                filled(keys).fold(sqlx::query(NEWEST_OF), |query, key| query.bind(key))
            }
            Question::Live(prefix) => sqlx::query(LIVE).bind(kine::like(prefix)),
            Question::All(prefix) => sqlx::query(ALL).bind(kine::like(prefix)),
        };
        rows.fetch_all(line)
            .await?
            .iter()
            .map(kine::decode)
            .collect()
    }

    async fn newest_revision(line: &mut MySqlConnection) -> Result<i64, sqlx::Error> {
        let newest = sqlx::query_scalar("SELECT CAST(COALESCE(MAX(id), 0) AS SIGNED) FROM kine");
        newest.fetch_one(line).await
    }

    async fn begin(line: &mut MySqlConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("START TRANSACTION")
            .execute(line)
            .await
            .map(drop)
    }

    async fn insert(line: &mut MySqlConnection, row: NewRow<'_>) -> Result<i64, sqlx::Error> {
        let insert = sqlx::query(INSERT)
            .bind(row.name.to_owned())
            .bind(i64::from(row.created))
            .bind(i64::from(row.deleted))
            .bind(row.create_revision)
            .bind(row.prev_revision)
            .bind(row.value.map(<[u8]>::to_vec))
            .bind(row.old_value.map(<[u8]>::to_vec));
        let id = insert.execute(line).await?.last_insert_id();
        i64::try_from(id).map_err(|error| sqlx::Error::Decode(Box::new(error)))
    }

    async fn overwrite(
        line: &mut MySqlConnection,
        id: i64,
        old: &[u8],
        new: &[u8],
    ) -> Result<u64, sqlx::Error> {
        let update = sqlx::query(OVERWRITE)
            .bind(new.to_vec())
            .bind(id)
            .bind(old.to_vec());
        Ok(update.execute(line).await?.rows_affected())
    }

    async fn commit(line: &mut MySqlConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("COMMIT").execute(line).await.map(drop)
    }

    async fn rollback(line: &mut MySqlConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("ROLLBACK").execute(line).await.map(drop)
    }

    fn refusal(error: &sqlx::Error) -> Refusal {
        let Some(database) = error
            .as_database_error()
            .and_then(|it| it.try_downcast_ref::<MySqlDatabaseError>())
        else {
            return Refusal::Other;
        };
        match database.number() {
            // "Duplicate entry '…' for key 'PRIMARY'", in MySQL 8 'kine.PRIMARY'.
            DUPLICATE if database.message().ends_with("PRIMARY'") => Refusal::Collision,
            DUPLICATE => Refusal::LostRace,
            LOCK_TIMEOUT | DEADLOCK => Refusal::Collision,
            _ => Refusal::Other,
        }
    }
}

const DUPLICATE: u16 = 1062;
const LOCK_TIMEOUT: u16 = 1205;
const DEADLOCK: u16 = 1213;

/// The wait for a row of another writer; the whole transaction has a limit of its own.
const SESSION: &str = "SET SESSION innodb_lock_wait_timeout = 20";

macro_rules! columns {
    () => {
        "CAST(id AS SIGNED) AS id, CONVERT(name USING utf8mb4) AS name, \
         CAST(COALESCE(created, 0) AS SIGNED) AS created, \
         CAST(COALESCE(deleted, 0) AS SIGNED) AS deleted, \
         CAST(COALESCE(create_revision, 0) AS SIGNED) AS create_revision, \
         CAST(COALESCE(prev_revision, 0) AS SIGNED) AS prev_revision, value, old_value"
    };
}

/// Names are compared without regard to case and trailing blanks: the second condition is exact,
/// the first has the index.
const NEWEST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM kine WHERE name = ? AND CAST(name AS BINARY) = CAST(? AS BINARY) \
     ORDER BY kine.id DESC LIMIT 1"
);

/// Names that differ in case are found as well, each by itself, and left out by who asked.
const NEWEST_OF: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM kine JOIN (SELECT MAX(k.id) AS newest FROM kine AS k WHERE k.name IN (",
    marks!(),
    ") GROUP BY CAST(k.name AS BINARY)) AS n ON kine.id = n.newest"
);

const LIVE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM kine WHERE deleted = 0 AND kine.id IN \
     (SELECT MAX(k.id) FROM kine AS k WHERE k.name LIKE ? ESCAPE '^' GROUP BY k.name)"
);

const ALL: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM kine WHERE name LIKE ? ESCAPE '^' ORDER BY kine.id"
);

const OVERWRITE: &str = "UPDATE kine SET value = ? WHERE id = ? AND value = ?";

const INSERT: &str = "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, \
                      lease, value, old_value) VALUES (?, ?, ?, ?, ?, 0, ?, ?)";
