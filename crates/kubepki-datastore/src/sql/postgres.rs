//! kine's table in PostgreSQL.

use async_trait::async_trait;
use kubepki::datastore::DatastoreError;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};

use super::kine::{self, NewRow, Row};
use super::line::{Dialect, Line, Question};
use super::trouble::{self, Place, Refusal};
use crate::endpoint::{Address, Postgres, PostgresTls, Tls};
use crate::open::Access;

/// kine in a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresStore(Line<PostgresServer>);

impl PostgresStore {
    /// Connects to the server; [`Postgres`] says what its TLS options mean.
    ///
    /// # Errors
    ///
    /// [`DatastoreError`], as [`crate::open`] describes.
    pub async fn connect(
        address: &Postgres,
        tls: &Tls,
        access: Access,
    ) -> Result<Self, DatastoreError> {
        let place = Place {
            endpoint: address.to_string(),
        };
        let (options, roots) = options(address, &address.tls(tls)?)?;
        let server = PostgresServer {
            options,
            roots,
            access,
            place: place.clone(),
        };
        Line::open(server, place, access).await.map(Self)
    }
}

forward!(PostgresStore);

struct PostgresServer {
    options: PgConnectOptions,
    /// Whose certificates are believed, for errors.
    roots: String,
    access: Access,
    place: Place,
}

pub(super) fn options(
    address: &Postgres,
    tls: &PostgresTls,
) -> Result<(PgConnectOptions, String), DatastoreError> {
    let endpoint = address.to_string();
    // PGHOST and its like in our environment are not K3s's: everything that matters is set here.
    let mut options = PgConnectOptions::new_without_pgpass()
        .username(&address.user)
        .password(address.password.as_ref().map_or("", |it| it.as_str()))
        .database(&address.database)
        .application_name("kubepki")
        .extra_float_digits(None)
        .options(address.parameters.iter().map(|(name, value)| (name, value)))
        .disable_statement_logging();
    options = match &address.address {
        Address::Tcp(host, port) => options.host(host).port(*port),
        Address::Unix(directory, port) => options.socket(directory).port(*port),
    };
    let (mode, roots, client) = match tls {
        PostgresTls::Off => (PgSslMode::Disable, None, &None),
        PostgresTls::Preferred(client) => (PgSslMode::Prefer, None, client),
        PostgresTls::Unchecked(client) => (PgSslMode::Require, None, client),
        PostgresTls::Checked(roots, client) => (PgSslMode::VerifyFull, Some(roots), client),
    };
    options = options.ssl_mode(mode);
    if let Some(roots) = roots {
        options = options.ssl_root_cert_from_pem(roots.read(&endpoint)?);
    }
    if let Some(client) = client {
        let (certificate, key) = client.read(&endpoint)?;
        options = options
            .ssl_client_cert_from_pem(certificate)
            .ssl_client_key_from_pem(&*key);
    }
    Ok((options, roots.map(ToString::to_string).unwrap_or_default()))
}

#[async_trait]
impl Dialect for PostgresServer {
    type Connection = PgConnection;

    async fn connect(&self) -> Result<PgConnection, DatastoreError> {
        let connecting = async {
            let mut line = self.options.connect().await?;
            sqlx::raw_sql(SESSION).execute(&mut line).await?;
            if self.access == Access::Read {
                let read_only = "SET default_transaction_read_only = on";
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
        line: &mut PgConnection,
        question: Question<'_>,
    ) -> Result<Vec<Row>, sqlx::Error> {
        let rows = match question {
            Question::Newest(key) => sqlx::query(NEWEST).bind(key.to_owned()),
            Question::NewestOf(keys) => sqlx::query(NEWEST_OF).bind(keys.to_vec()),
            Question::Live(prefix) => sqlx::query(LIVE).bind(kine::like(prefix)),
            Question::All(prefix) => sqlx::query(ALL).bind(kine::like(prefix)),
        };
        rows.fetch_all(line)
            .await?
            .iter()
            .map(kine::decode)
            .collect()
    }

    async fn newest_revision(line: &mut PgConnection) -> Result<i64, sqlx::Error> {
        let newest = sqlx::query_scalar("SELECT COALESCE(MAX(id), 0)::bigint FROM kine");
        newest.fetch_one(line).await
    }

    async fn begin(line: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("BEGIN ISOLATION LEVEL READ COMMITTED")
            .execute(line)
            .await
            .map(drop)
    }

    async fn insert(line: &mut PgConnection, row: NewRow<'_>) -> Result<i64, sqlx::Error> {
        let insert = sqlx::query_scalar(INSERT)
            .bind(row.name.to_owned())
            .bind(i32::from(row.created))
            .bind(i32::from(row.deleted))
            .bind(row.create_revision)
            .bind(row.prev_revision)
            .bind(row.value.map(<[u8]>::to_vec))
            .bind(row.old_value.map(<[u8]>::to_vec));
        insert.fetch_one(line).await
    }

    async fn overwrite(
        line: &mut PgConnection,
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

    async fn commit(line: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("COMMIT").execute(line).await.map(drop)
    }

    async fn rollback(line: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("ROLLBACK").execute(line).await.map(drop)
    }

    fn refusal(error: &sqlx::Error) -> Refusal {
        let constraint = error.as_database_error().and_then(|it| it.constraint());
        if trouble::is_unique_violation(error) {
            match constraint {
                // A number that kine used to fill what it took for a gap.
                Some("kine_pkey") => Refusal::Collision,
                _ => Refusal::LostRace,
            }
        } else if trouble::has_code(error, &[SERIALISATION, DEADLOCK]) {
            Refusal::Collision
        } else {
            Refusal::Other
        }
    }
}

const SERIALISATION: &str = "40001";
const DEADLOCK: &str = "40P01";

/// Nothing of ours stays behind on the server when we hang or vanish.
const SESSION: &str = "SET statement_timeout = '30s'; SET lock_timeout = '30s'; \
                       SET idle_in_transaction_session_timeout = '30s'";

macro_rules! columns {
    () => {
        "id::bigint AS id, name::text AS name, COALESCE(created, 0)::bigint AS created, \
         COALESCE(deleted, 0)::bigint AS deleted, \
         COALESCE(create_revision, 0)::bigint AS create_revision, \
         COALESCE(prev_revision, 0)::bigint AS prev_revision, value, old_value"
    };
}

const NEWEST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM kine WHERE name = $1 ORDER BY kine.id DESC LIMIT 1"
);

const NEWEST_OF: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM kine WHERE kine.id IN (SELECT MAX(id) FROM kine WHERE name = ANY($1) GROUP BY name)"
);

const LIVE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM kine WHERE deleted = 0 AND kine.id IN \
     (SELECT MAX(id) FROM kine WHERE name LIKE $1 ESCAPE '^' GROUP BY name)"
);

const ALL: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM kine WHERE name LIKE $1 ESCAPE '^' ORDER BY kine.id"
);

const OVERWRITE: &str = "UPDATE kine SET value = $1 WHERE id = $2 AND value = $3";

const INSERT: &str = "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, \
                      lease, value, old_value) VALUES ($1, $2, $3, $4, $5, 0, $6, $7) \
                      RETURNING id::bigint";
