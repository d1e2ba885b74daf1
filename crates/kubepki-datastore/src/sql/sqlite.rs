//! kine's SQLite file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kubepki::datastore::DatastoreError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use super::kine::{self, NewRow, Row};
use super::line::{Dialect, Line, Question, filled, marks};
use super::trouble::{self, Place, Refusal};
use crate::open::Access;

/// How long K3s, and so we, wait for another writer.
const BUSY: Duration = Duration::from_secs(30);

/// kine in an SQLite file: K3s's `server/db/state.db`.
///
/// The file must be there; it keeps its journal mode, mode and owner. Writing leaves it as K3s's
/// own clean stop does: SQLite takes the log `-wal` in and away when nobody else has the file
/// open. Reading leaves file and log as they are, also the log of a K3s that was killed.
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

    /// Length of the log beside the file, if there is one.
    fn log(&self) -> Option<u64> {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        std::fs::metadata(log).ok().map(|log| log.len())
    }

    fn options(&self) -> SqliteConnectOptions {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(false)
            .foreign_keys(false)
            .busy_timeout(BUSY)
            .disable_statement_logging();
        match (self.access, self.log()) {
            (Access::Write, _) => options,
            // Somebody's log stays as it is: SQLite would take it in at the end.
            (Access::Read, Some(_)) => options.read_only(true),
            // The empty one that SQLite makes goes again, which a reading connection cannot do.
            (Access::Read, None) => options.pragma("query_only", "ON"),
        }
    }
}

#[async_trait]
impl Dialect for Sqlite {
    type Connection = SqliteConnection;

    async fn connect(&self) -> Result<SqliteConnection, DatastoreError> {
        self.check_file()?;
        let options = self.options();
        let failed = |error| trouble::of_question(&self.place(), "open the file", error);
        let mut line = options.connect().await.map_err(failed)?;
        // SQLite opens the file with the first question.
        let first = Self::newest_revision(&mut line).await;
        match first {
            Err(error)
                if self.access == Access::Read
                    && trouble::is_sqlite(&error, &[trouble::CANNOT_OPEN, trouble::READ_ONLY])
                    && self.log().unwrap_or(0) == 0 =>
            {
                Self::hang_up(line);
                // In a directory that cannot be written SQLite cannot make its shared memory; but
                // everything is in the file itself.
                options.immutable(true).connect().await.map_err(failed)
            }
            Err(error) => {
                Self::hang_up(line);
                Err(failed(error))
            }
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
            Question::NewestOf(keys) => {
                let query = filled(keys).fold(sqlx::query(NEWEST_OF), |query, key| query.bind(key));
                query.fetch_all(line).await
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

    async fn overwrite(
        line: &mut SqliteConnection,
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

    async fn commit(line: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("COMMIT").execute(line).await.map(drop)
    }

    async fn rollback(line: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("ROLLBACK").execute(line).await.map(drop)
    }

    fn hang_up(line: SqliteConnection) {
        // A thread of its own closes the file: whoever looks at the directory next, and a program
        // that ends now, should find it done.
        wait_for(line.close());
    }

    fn refusal(error: &sqlx::Error) -> Refusal {
        match trouble::is_unique_violation(error) {
            true => Refusal::LostRace,
            false => Refusal::Other,
        }
    }
}

/// Longest time for a file to be closed.
const CLOSING: Duration = Duration::from_secs(5);

/// Waits for what another thread does, outside any runtime.
fn wait_for(future: impl Future) {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    let start = Instant::now();
    while start.elapsed() < CLOSING
        && future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    {
        std::thread::park_timeout(CLOSING);
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

const NEWEST_OF: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM kine WHERE id IN (SELECT MAX(id) FROM kine WHERE name IN (",
    marks!(),
    ") GROUP BY name)"
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

const OVERWRITE: &str = "UPDATE kine SET value = ? WHERE id = ? AND value = ?";

const INSERT: &str = "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, \
                      lease, value, old_value) VALUES (?, ?, ?, ?, ?, 0, ?, ?)";
