//! The five verbs over one connection, whatever the dialect.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use kubepki::datastore::{Archive, Board, Datastore, DatastoreError, Former, Record};
use tokio::sync::{Mutex, MutexGuard};

use super::kine::{self, NewRow, Row, Write};
use super::trouble::{self, Place, Refusal};
use crate::open::Access;

/// Longest time for one question or one whole transaction; SQLite waits 30 s for other writers.
const LIMIT: Duration = Duration::from_secs(45);

/// How often a transaction is begun anew after a collision that says nothing about our key: kine
/// itself tries a row id twenty times.
const TRIES: u32 = 20;

/// Keys in one question.
pub(super) const AT_ONCE: usize = 32;

/// The places for [`AT_ONCE`] keys in a statement, which is always the same then: databases keep
/// what they have worked out for it.
macro_rules! marks {
    () => {
        "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?"
    };
}
pub(super) use marks;

/// `keys`, filled up to the number of [`marks`].
pub(super) fn filled(keys: &[String]) -> impl Iterator<Item = String> {
    let more = std::iter::repeat(keys.last()).flatten();
    keys.iter().chain(more).take(AT_ONCE).cloned()
}

/// Which rows are asked for.
#[derive(Clone, Copy)]
pub(super) enum Question<'a> {
    /// The newest row of a key, deleted or not.
    Newest(&'a str),
    /// The newest row of each key, deleted or not; at least one key and at most [`AT_ONCE`].
    NewestOf(&'a [String]),
    /// The newest rows of all keys that begin so and are not deleted.
    Live(&'a str),
    /// Every row of every key that begins so, by id.
    All(&'a str),
}

/// What differs between SQLite, PostgreSQL and MySQL.
#[async_trait]
pub(super) trait Dialect: Send + Sync {
    type Connection: Send;

    /// A new connection, ready for the first question.
    async fn connect(&self) -> Result<Self::Connection, DatastoreError>;

    /// May answer more rows than asked for where the database compares names loosely.
    async fn rows(
        line: &mut Self::Connection,
        question: Question<'_>,
    ) -> Result<Vec<Row>, sqlx::Error>;

    async fn newest_revision(line: &mut Self::Connection) -> Result<i64, sqlx::Error>;

    async fn begin(line: &mut Self::Connection) -> Result<(), sqlx::Error>;

    /// Appends a row and answers its id.
    async fn insert(line: &mut Self::Connection, row: NewRow<'_>) -> Result<i64, sqlx::Error>;

    /// Puts another value into row `id`, if it holds `old`; answers how many rows that were.
    async fn overwrite(
        line: &mut Self::Connection,
        id: i64,
        old: &[u8],
        new: &[u8],
    ) -> Result<u64, sqlx::Error>;

    async fn commit(line: &mut Self::Connection) -> Result<(), sqlx::Error>;

    async fn rollback(line: &mut Self::Connection) -> Result<(), sqlx::Error>;

    /// Closes a connection that is in order; to drop it is enough where the server does the rest.
    fn hang_up(line: Self::Connection) {
        drop(line);
    }

    /// What an error of [`Self::insert`], or around it, means for the transaction.
    fn refusal(error: &sqlx::Error) -> Refusal;
}

/// A store: a dialect, where it is, and its one connection.
///
/// The connection leaves its place while it works and comes back only when it is in order, so
/// whatever goes wrong half-way (an error, a timeout, a caller that stops waiting) closes it, and
/// the database takes an open transaction back.
pub(super) struct Line<D: Dialect> {
    dialect: D,
    place: Place,
    access: Access,
    idle: Mutex<Option<D::Connection>>,
}

impl<D: Dialect> Drop for Line<D> {
    fn drop(&mut self) {
        if let Some(connection) = self.idle.get_mut().take() {
            D::hang_up(connection);
        }
    }
}

impl<D: Dialect> fmt::Debug for Line<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.place, self.access)
    }
}

impl<D: Dialect> Line<D> {
    /// Connects and makes sure that the table is kine's.
    pub(super) async fn open(
        dialect: D,
        place: Place,
        access: Access,
    ) -> Result<Self, DatastoreError> {
        let line = Self {
            dialect,
            place,
            access,
            idle: Mutex::new(None),
        };
        line.ask("look at its table", async |it| {
            D::rows(it, Question::Newest("/")).await
        })
        .await?;
        Ok(line)
    }

    async fn connection(
        &self,
    ) -> Result<(MutexGuard<'_, Option<D::Connection>>, D::Connection), DatastoreError> {
        let mut idle = self.idle.lock().await;
        let connection = match idle.take() {
            Some(connection) => connection,
            None => self.dialect.connect().await?,
        };
        Ok((idle, connection))
    }

    async fn ask<T>(
        &self,
        action: &str,
        question: impl AsyncFnOnce(&mut D::Connection) -> Result<T, sqlx::Error>,
    ) -> Result<T, DatastoreError> {
        let (mut idle, mut connection) = self.connection().await?;
        let answer = tokio::time::timeout(LIMIT, question(&mut connection)).await;
        match answer {
            Ok(Ok(answer)) => {
                *idle = Some(connection);
                Ok(answer)
            }
            Ok(Err(error)) => Err(trouble::of_question(&self.place, action, error)),
            Err(_) => Err(trouble::too_slow(action.to_owned(), LIMIT)),
        }
    }

    async fn rows(&self, action: &str, question: Question<'_>) -> Result<Vec<Row>, DatastoreError> {
        let mut rows = self
            .ask(action, async |it| D::rows(it, question).await)
            .await?;
        rows.retain(|row| match question {
            Question::Newest(key) => row.name == key,
            Question::NewestOf(keys) => keys.contains(&row.name),
            Question::Live(prefix) | Question::All(prefix) => row.name.starts_with(prefix),
        });
        Ok(rows)
    }

    fn refuse_read_only(&self) -> Result<(), DatastoreError> {
        match self.access {
            Access::Write => Ok(()),
            Access::Read => Err(DatastoreError::ReadOnly {
                place: self.place.to_string(),
                way_out: "it was opened for reading".to_owned(),
            }),
        }
    }

    async fn write(&self, key: &str, write: Write<'_>) -> Result<i64, DatastoreError> {
        self.refuse_read_only()?;
        let (mut idle, mut connection) = self.connection().await?;
        let mut written = Err(Failure::Collision(sqlx::Error::RowNotFound));
        for try_number in 0..TRIES {
            tokio::time::sleep(Duration::from_millis(5 * u64::from(try_number))).await;
            let transaction = transact::<D>(&mut connection, key, &write);
            written = match tokio::time::timeout(LIMIT, transaction).await {
                Ok(written) => written,
                Err(_) => {
                    let action = format!("{} {key} (whether it was is not known)", write.verb());
                    return Err(trouble::too_slow(action, LIMIT));
                }
            };
            match &written {
                Err(Failure::Collision(_) | Failure::LostRace) => {
                    // Whoever won is seen by the next look; a commit on the way, after it.
                    if D::rollback(&mut connection).await.is_err() {
                        break;
                    }
                }
                _ => break,
            }
        }
        match written {
            Ok(id) => {
                *idle = Some(connection);
                Ok(id)
            }
            Err(Failure::Changed(found)) => {
                if D::rollback(&mut connection).await.is_ok() {
                    *idle = Some(connection);
                }
                Err(DatastoreError::Conflict {
                    key: key.to_owned(),
                    expected: write.expected(),
                    found,
                })
            }
            Err(failure) => Err(self.failed(key, &write, failure)),
        }
    }

    fn failed(&self, key: &str, write: &Write<'_>, failure: Failure) -> DatastoreError {
        let verb = write.verb();
        match failure {
            Failure::Before(error) => {
                let action = format!("{verb} {key}; nothing was written");
                trouble::of_question(&self.place, &action, error)
            }
            Failure::Collision(error) => DatastoreError::Failed {
                action: format!("{verb} {key} in {TRIES} tries; nothing was written"),
                source: Box::new(error),
            },
            Failure::Commit(error) => DatastoreError::Failed {
                action: format!("{verb} {key}; whether it was is not known, look before going on"),
                source: Box::new(error),
            },
            // A row that blocks ours and cannot be seen: no kine wrote it.
            Failure::LostRace | Failure::Changed(_) => DatastoreError::Conflict {
                key: key.to_owned(),
                expected: write.expected(),
                found: None,
            },
        }
    }
}

/// Why a transaction did not end in a commit.
enum Failure {
    /// Another revision is there; the transaction is still open.
    Changed(Option<i64>),
    /// Another writer was first; to be looked at again.
    LostRace,
    /// The id was taken, or the database chose us to break a deadlock: try again.
    Collision(sqlx::Error),
    /// Something else, before the commit: the database has taken everything back, or will.
    Before(sqlx::Error),
    /// The commit itself did not answer.
    Commit(sqlx::Error),
}

async fn transact<D: Dialect>(
    line: &mut D::Connection,
    key: &str,
    write: &Write<'_>,
) -> Result<i64, Failure> {
    let failure = |error| match D::refusal(&error) {
        Refusal::LostRace => Failure::LostRace,
        Refusal::Collision => Failure::Collision(error),
        Refusal::Other => Failure::Before(error),
    };
    D::begin(line).await.map_err(failure)?;
    let rows = D::rows(line, Question::Newest(key))
        .await
        .map_err(failure)?;
    let newest = rows.iter().find(|row| row.name == key);
    let row = kine::next(key, newest, write).map_err(Failure::Changed)?;
    let id = D::insert(line, row).await.map_err(failure)?;
    match D::commit(line).await {
        Ok(()) => Ok(id),
        Err(error) => match D::refusal(&error) {
            Refusal::Other => Err(Failure::Commit(error)),
            // The database answered, and refused.
            Refusal::LostRace => Err(Failure::LostRace),
            Refusal::Collision => Err(Failure::Collision(error)),
        },
    }
}

#[async_trait]
impl<D: Dialect> Datastore for Line<D> {
    async fn get(&self, key: &str) -> Result<Option<Record>, DatastoreError> {
        let action = format!("read {key}");
        let rows = self.rows(&action, Question::Newest(key)).await?;
        Ok(rows
            .into_iter()
            .next()
            .filter(|row| !row.deleted)
            .map(kine::record))
    }

    async fn get_all(&self, keys: &[String]) -> Result<Vec<Record>, DatastoreError> {
        let mut records = Vec::with_capacity(keys.len());
        for keys in keys.chunks(AT_ONCE) {
            let action = format!("read {} keys", keys.len());
            let rows = self.rows(&action, Question::NewestOf(keys)).await?;
            let live = rows.into_iter().filter(|row| !row.deleted);
            records.extend(live.map(kine::record));
        }
        Ok(records)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Record>, DatastoreError> {
        let action = format!("list {prefix}");
        let rows = self.rows(&action, Question::Live(prefix)).await?;
        let mut records: Vec<Record> = rows.into_iter().map(kine::record).collect();
        records.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(records)
    }

    async fn create(&self, key: &str, value: &[u8]) -> Result<i64, DatastoreError> {
        self.write(key, Write::Create { value }).await
    }

    async fn update(&self, key: &str, revision: i64, value: &[u8]) -> Result<i64, DatastoreError> {
        self.write(key, Write::Update { revision, value }).await
    }

    async fn delete(&self, key: &str, revision: i64) -> Result<Option<i64>, DatastoreError> {
        self.write(key, Write::Delete { revision }).await.map(Some)
    }
}

#[async_trait]
impl<D: Dialect> Board for Line<D> {
    async fn rewrite(&self, present: &Record, value: &[u8]) -> Result<i64, DatastoreError> {
        self.refuse_read_only()?;
        let (mut idle, mut connection) = self.connection().await?;
        let overwriting = overwrite::<D>(&mut connection, present, value);
        let action = || format!("write {} over", present.key);
        match tokio::time::timeout(LIMIT, overwriting).await {
            Ok(Ok(true)) => {
                *idle = Some(connection);
                Ok(present.revision)
            }
            Ok(Ok(false)) => {
                if D::rollback(&mut connection).await.is_ok() {
                    *idle = Some(connection);
                }
                Err(DatastoreError::Conflict {
                    key: present.key.clone(),
                    expected: Some(present.revision),
                    found: None,
                })
            }
            Ok(Err(error)) => Err(trouble::of_question(&self.place, &action(), error)),
            Err(_) => Err(trouble::too_slow(action(), LIMIT)),
        }
    }

    async fn forget(&self, _revision: i64) -> Result<bool, DatastoreError> {
        // kine compacts, and what is written over leaves nothing behind.
        Ok(false)
    }
}

/// Whether `present` was the newest row of its key, and holds `value` now.
async fn overwrite<D: Dialect>(
    line: &mut D::Connection,
    present: &Record,
    value: &[u8],
) -> Result<bool, sqlx::Error> {
    D::begin(line).await?;
    let rows = D::rows(line, Question::Newest(&present.key)).await?;
    let newest = rows.iter().find(|row| row.name == present.key);
    if kine::live_revision(newest) != Some(present.revision)
        || D::overwrite(line, present.revision, &present.value, value).await? != 1
    {
        return Ok(false);
    }
    D::commit(line).await?;
    Ok(true)
}

#[async_trait]
impl<D: Dialect> Archive for Line<D> {
    async fn newest_revision(&self) -> Result<i64, DatastoreError> {
        self.ask("read its newest revision", async |it| {
            D::newest_revision(it).await
        })
        .await
    }

    async fn former(&self, prefix: &str) -> Result<Vec<Former>, DatastoreError> {
        let action = format!("read the former values of {prefix}");
        let rows = self.rows(&action, Question::All(prefix)).await?;
        Ok(kine::former(rows))
    }
}
