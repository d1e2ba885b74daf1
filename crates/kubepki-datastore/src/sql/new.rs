//! kine's table in a new file, or in a database that has none.

use std::path::Path;
use std::time::Duration;

use kubepki::datastore::DatastoreError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};

use super::{mysql, postgres};
use crate::endpoint::{Endpoint, Tls};

/// The columns and indexes that kine makes at K3s's first start (reference section 4.9).
const TABLE: [&str; 6] = [
    "CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER, \
     deleted INTEGER, create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, \
     old_value BLOB)",
    "CREATE INDEX kine_name_index ON kine (name)",
    "CREATE INDEX kine_name_id_index ON kine (name, id)",
    "CREATE INDEX kine_id_deleted_index ON kine (id, deleted)",
    "CREATE INDEX kine_prev_revision_index ON kine (prev_revision)",
    "CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision)",
];

/// Makes a new SQLite file with kine's empty table, for servers that have never started. As kine's
/// it keeps a write-ahead log: a commit is one flush instead of four.
///
/// # Errors
///
/// [`DatastoreError::Unreachable`] when the file cannot be made, or is there already and holds
/// such a table.
pub async fn new_sqlite(path: &Path) -> Result<(), DatastoreError> {
    let failed = |error: sqlx::Error| DatastoreError::Unreachable {
        endpoint: format!("sqlite://{}", path.display()),
        problem: "kine's table cannot be made".to_owned(),
        source: Some(Box::new(error)),
    };
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let mut connection = options.connect().await.map_err(failed)?;
    for statement in TABLE {
        connection.execute(statement).await.map_err(failed)?;
    }
    connection.close().await.map_err(failed)
}

/// PostgreSQL's, with the types of the reference's section 4.9.
const POSTGRES: [&str; 7] = [
    "CREATE TABLE IF NOT EXISTS kine (id BIGSERIAL PRIMARY KEY, name text COLLATE \"C\", \
     created INTEGER, deleted INTEGER, create_revision BIGINT, prev_revision BIGINT, \
     lease INTEGER, value bytea, old_value bytea)",
    "CREATE INDEX IF NOT EXISTS kine_name_index ON kine (name)",
    "CREATE INDEX IF NOT EXISTS kine_name_id_index ON kine (name, id)",
    "CREATE INDEX IF NOT EXISTS kine_id_deleted_index ON kine (id, deleted)",
    "CREATE INDEX IF NOT EXISTS kine_prev_revision_index ON kine (prev_revision)",
    "CREATE UNIQUE INDEX IF NOT EXISTS kine_name_prev_revision_uindex \
     ON kine (name, prev_revision)",
    "CREATE INDEX IF NOT EXISTS kine_list_query_index ON kine (name, id DESC, deleted)",
];

/// MySQL's: it knows no `CREATE INDEX IF NOT EXISTS`, so they stand with the table.
const MYSQL: [&str; 1] = [
    "CREATE TABLE IF NOT EXISTS kine (id BIGINT UNSIGNED AUTO_INCREMENT, \
     name VARCHAR(630) CHARACTER SET ascii, created INTEGER, deleted INTEGER, \
     create_revision BIGINT UNSIGNED, prev_revision BIGINT UNSIGNED, lease INTEGER, \
     value MEDIUMBLOB, old_value MEDIUMBLOB, PRIMARY KEY (id), KEY kine_name_index (name), \
     KEY kine_name_id_index (name, id), KEY kine_id_deleted_index (id, deleted), \
     KEY kine_prev_revision_index (prev_revision), \
     UNIQUE KEY kine_name_prev_revision_uindex (name, prev_revision))",
];

/// Two servers that make the table at once get in each other's way inside the database, whatever
/// `IF NOT EXISTS` says.
const TRIES: u32 = 5;

/// Makes kine's table in an empty database, as K3s's first start does; one that is there stays as
/// it is. The database itself must be there. etcd needs none, and SQLite's is [`new_sqlite`]'s.
///
/// # Errors
///
/// [`DatastoreError::Endpoint`] and [`DatastoreError::Unreachable`], also where the account may
/// not make tables.
pub async fn make_table(endpoint: &Endpoint, tls: &Tls) -> Result<(), DatastoreError> {
    match endpoint {
        Endpoint::Postgres(address) => {
            let (options, _) = postgres::options(address, &address.tls(tls)?)?;
            run(&options, &POSTGRES, &address.to_string()).await
        }
        Endpoint::Mysql(address) => {
            let (options, _) = mysql::options(address, tls)?;
            run(&options, &MYSQL, &address.to_string()).await
        }
        Endpoint::Sqlite(_) | Endpoint::Etcd { .. } => Ok(()),
    }
}

async fn run<O>(options: &O, table: &[&'static str], endpoint: &str) -> Result<(), DatastoreError>
where
    O: sqlx::ConnectOptions,
    O::Connection: Sized,
    for<'c> &'c mut O::Connection: sqlx::Executor<'c>,
{
    let mut left = TRIES;
    loop {
        let made = async {
            let mut line = options.connect().await?;
            for statement in table {
                (&mut line).execute(*statement).await?;
            }
            line.close().await
        };
        match made.await {
            Ok(()) => return Ok(()),
            Err(error) => {
                left -= 1;
                if left == 0 || error.as_database_error().is_none() {
                    return Err(DatastoreError::Unreachable {
                        endpoint: endpoint.to_owned(),
                        problem: "kine's table cannot be made".to_owned(),
                        source: Some(Box::new(error)),
                    });
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
