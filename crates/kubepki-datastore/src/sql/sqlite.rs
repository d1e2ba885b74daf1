//! kine's SQLite file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use kubepki::datastore::DatastoreError;
use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::kine::{self, NewRow, Row};
use super::line::{Dialect, Line, Question};
use super::trouble::{self, Place, Refusal};
use crate::open::Access;

/// How long K3s, and so we, wait for another writer.
const BUSY: Duration = Duration::from_secs(30);

/// kine in an SQLite file: K3s's `server/db/state.db`.
///
/// The file must be there; it keeps its journal mode, mode and owner. SQLite's own `-wal` and
/// `-shm` beside it come and go as with any program that opens it.
#[derive(Debug)]
pub struct SqliteStore(Line<Sqlite>);

impl SqliteStore {
    /// Opens the file at `path`.
    ///
    /// # Errors
    ///
    /// [`DatastoreError::Unreachable`] without a readable file, [`DatastoreError::Malformed`]
    /// where it is something else.
    pub async fn open(path: &Path, access: Access) -> Result<Self, DatastoreError> {
        let dialect = Sqlite {
            path: path.to_owned(),
            access,
        };
        let place = dialect.place();
        Line::open(dialect, place, access).await.map(Self)
    }
}

forward!(SqliteStore);

struct Sqlite {
    path: PathBuf,
    access: Access,
}

impl Sqlite {
    fn place(&self) -> Place {
        Place {
            endpoint: self.path.display().to_string(),
        }
    }

    /// SQLite's own words for a missing file do not tell what is missing.
    fn check_file(&self) -> Result<(), DatastoreError> {
        let problem = match std::fs::metadata(&self.path) {
            Ok(file) if file.is_file() => return Ok(()),
            Ok(_) => "it is not a file".to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                "there is no such file: K3s never started with SQLite in this data directory, or \
                 moved to etcd (the file is then called state.db.migrated)"
                    .to_owned()
            }
            Err(error) => format!("it cannot be looked at: {error}"),
        };
        Err(DatastoreError::Unreachable {
            endpoint: self.place().endpoint,
            problem,
            source: None,
        })
    }

    /// Whether everything is in the file itself: then it can be read where nothing can be written.
    fn has_no_log(&self) -> bool {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        std::fs::metadata(log).map_or(true, |log| log.len() == 0)
    }
}

#[async_trait]
impl Dialect for Sqlite {
    type Connection = SqliteConnection;

    async fn connect(&self) -> Result<SqliteConnection, DatastoreError> {
        self.check_file()?;
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(false)
            .read_only(self.access == Access::Read)
            .foreign_keys(false)
            .busy_timeout(BUSY)
            .disable_statement_logging();
        let failed = |error| trouble::of_question(&self.place(), "open the file", error);
        let mut line = options.connect().await.map_err(failed)?;
        // SQLite opens the file with the first question.
        let first = Self::newest_revision(&mut line).await;
        match first {
            Err(error)
                if self.access == Access::Read
                    && trouble::is_sqlite(&error, &[trouble::CANNOT_OPEN, trouble::READ_ONLY])
                    && self.has_no_log() =>
            {
                // In a directory that cannot be written SQLite cannot make its shared memory.
                options.immutable(true).connect().await.map_err(failed)
            }
            Err(error) => Err(failed(error)),
            Ok(_) => Ok(line),
        }
    }

    async fn rows(
        line: &mut SqliteConnection,
        question: Question<'_>,
    ) -> Result<Vec<Row>, sqlx::Error> {
        let rows = match question {
            Question::Newest(key) => {
                sqlx::query(NEWEST)
                    .bind(key.to_owned())
                    .fetch_all(line)
                    .await
            }
            Question::Live(prefix) | Question::All(prefix) => {
                let text = if matches!(question, Question::Live(_)) {
                    LIVE
                } else {
                    ALL
                };
                let query = sqlx::query(text).bind(prefix.to_owned());
                query
                    .bind(format!("{prefix}\u{10ffff}"))
                    .fetch_all(line)
                    .await
            }
        }?;
        rows.iter().map(kine::decode).collect()
    }

    async fn newest_revision(line: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
        let newest = sqlx::query_scalar("SELECT COALESCE(MAX(id), 0) FROM kine");
        newest.fetch_one(line).await
    }

    async fn begin(line: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        // At once the writer: nobody can come between our look and our row.
        sqlx::raw_sql("BEGIN IMMEDIATE")
            .execute(line)
            .await
            .map(drop)
    }

    async fn insert(line: &mut SqliteConnection, row: NewRow<'_>) -> Result<i64, sqlx::Error> {
        let insert = sqlx::query(INSERT)
            .bind(row.name.to_owned())
            .bind(i64::from(row.created))
            .bind(i64::from(row.deleted))
            .bind(row.create_revision)
            .bind(row.prev_revision)
            .bind(row.value.map(<[u8]>::to_vec))
            .bind(row.old_value.map(<[u8]>::to_vec));
        Ok(insert.execute(line).await?.last_insert_rowid())
    }

    async fn commit(line: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("COMMIT").execute(line).await.map(drop)
    }

    async fn rollback(line: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("ROLLBACK").execute(line).await.map(drop)
    }

    fn refusal(error: &sqlx::Error) -> Refusal {
        match trouble::is_unique_violation(error) {
            true => Refusal::LostRace,
            false => Refusal::Other,
        }
    }
}

macro_rules! columns {
    () => {
        "id, name, COALESCE(created, 0) AS created, COALESCE(deleted, 0) AS deleted, \
         COALESCE(create_revision, 0) AS create_revision, \
         COALESCE(prev_revision, 0) AS prev_revision, value, old_value"
    };
}

const NEWEST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM kine WHERE name = ? ORDER BY id DESC LIMIT 1"
);

const LIVE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM kine WHERE deleted = 0 AND id IN \
     (SELECT MAX(id) FROM kine WHERE name >= ? AND name < ? GROUP BY name)"
);

const ALL: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM kine WHERE name >= ? AND name < ? ORDER BY id"
);

const INSERT: &str = "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, \
                      lease, value, old_value) VALUES (?, ?, ?, ?, ?, 0, ?, ?)";
