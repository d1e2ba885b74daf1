//! kine's table in a new file.

use std::path::Path;

use kubepki::datastore::DatastoreError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};

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
