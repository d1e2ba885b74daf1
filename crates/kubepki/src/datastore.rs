//! A cluster's datastore as this program sees it: keys with values and revisions.
//!
//! Only K3s's bootstrap keys (`/bootstrap/…`) and our server's own (`/kubepki/…`) are ever touched.
//! What lies behind the trait (kine's table in SQLite, PostgreSQL or MySQL, or etcd) is in a crate of
//! its own.

use std::fmt;

use async_trait::async_trait;
use zeroize::Zeroizing;

/// A datastore: five verbs, all required, and one that a datastore may do better.
///
/// A write names the revision that it replaces; where another revision is there by then, nothing
/// is written and the answer is [`DatastoreError::Conflict`].
#[async_trait]
pub trait Datastore: Send + Sync + fmt::Debug {
    /// What `key` holds; `None` if there is no such key. An empty value is K3s's lock.
    async fn get(&self, key: &str) -> Result<Option<Record>, DatastoreError>;

    /// What is there of `keys`, in no order: in one question, where a datastore can.
    async fn get_all(&self, keys: &[String]) -> Result<Vec<Record>, DatastoreError> {
        let mut records = Vec::new();
        for key in keys {
            records.extend(self.get(key).await?);
        }
        Ok(records)
    }

    /// Every key that begins with `prefix`, sorted bytewise.
    async fn list(&self, prefix: &str) -> Result<Vec<Record>, DatastoreError>;

    /// Writes `value` only if `key` does not exist; answers its revision.
    async fn create(&self, key: &str, value: &[u8]) -> Result<i64, DatastoreError>;

    /// Replaces the value at `revision`; answers the new revision.
    async fn update(&self, key: &str, revision: i64, value: &[u8]) -> Result<i64, DatastoreError>;

    /// Deletes the key at `revision`; answers the revision of the deletion, where there is one.
    async fn delete(&self, key: &str, revision: i64) -> Result<Option<i64>, DatastoreError>;
}

/// What a datastore does for values that are said again and again, and whose past nobody needs: a
/// server's sign of life would else fill it.
#[async_trait]
pub trait Board: Datastore {
    /// Replaces the value of `present`, if that is what is there; answers the revision. In kine's
    /// table the row itself is changed: the table does not grow, and gets no holes, which kine
    /// would fill one by one. etcd writes as ever.
    ///
    /// The revision may stay: who looks for a change compares the value.
    async fn rewrite(&self, present: &Record, value: &[u8]) -> Result<i64, DatastoreError>;

    /// Gives up what a datastore remembers of the time before `revision`, where it remembers all
    /// until somebody says so (etcd), and holds nobody else's keys: their past is not ours to give
    /// up. Answers whether it was given up.
    async fn forget(&self, revision: i64) -> Result<bool, DatastoreError>;
}

/// What a datastore keeps beyond the present values.
#[async_trait]
pub trait Archive: Send + Sync + fmt::Debug {
    /// The newest revision of the whole datastore: while it moves, a server lives.
    async fn newest_revision(&self) -> Result<i64, DatastoreError>;

    /// Former values of keys that begin with `prefix`, as far as they can still be read, oldest
    /// first: kine's former rows and `old_value` columns, etcd's history until compaction.
    async fn former(&self, prefix: &str) -> Result<Vec<Former>, DatastoreError>;
}

/// A key's present value.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub key: String,
    /// Its value; empty while a K3s server holds its lock.
    pub value: Zeroizing<Vec<u8>>,
    /// The revision of its last write (`mod_revision`; kine's row id).
    pub revision: i64,
    /// The revision that made it.
    pub create_revision: i64,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, revision, .. } = self;
        write!(f, "Record({key} at {revision}, {} bytes)", self.value.len())
    }
}

/// A value that a key no longer has, and that can still be read.
#[derive(Clone, PartialEq, Eq)]
pub struct Former {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Zeroizing<Vec<u8>>,
    /// The revision that wrote it, if that is known.
    pub revision: Option<i64>,
    /// Where it still lies, for people: `row 207 of table kine, column old_value`.
    pub place: String,
}

impl fmt::Debug for Former {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.value.len();
        write!(f, "Former({} in {}, {bytes} bytes)", self.key, self.place)
    }
}

/// Why a datastore did not do what it was asked. Messages never hold credentials.
#[derive(Debug, thiserror::Error)]
pub enum DatastoreError {
    /// Another revision is there than the one to be replaced: somebody else wrote.
    #[error(
        "{key} was changed by somebody else: expected {}, found {}; nothing was written, look \
         again and plan anew",
        revision(*expected),
        revision(*found)
    )]
    Conflict {
        /// The key.
        key: String,
        /// The revision that was to be there; `None` for "no such key".
        expected: Option<i64>,
        /// What is there; `None` for "no such key", or where that is not known.
        found: Option<i64>,
    },
    /// The endpoint cannot be understood.
    #[error("the datastore endpoint {endpoint} cannot be used: {problem}")]
    Endpoint {
        /// It, without its password.
        endpoint: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// It does not answer, refuses the credentials, or its certificate is not trusted.
    #[error("cannot reach the datastore {endpoint}: {problem}")]
    Unreachable {
        /// The endpoint without its password.
        endpoint: String,
        /// What is wrong and what to do.
        problem: String,
        /// The client library's own error.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A question or write failed on the way. Of a write it is not known whether it was done:
    /// [`Datastore::get`] tells.
    #[error("the datastore failed to {action}")]
    Failed {
        /// "read /bootstrap/…", "update /bootstrap/…".
        action: String,
        /// The client library's own error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What lies there is not what K3s keeps.
    #[error("{place} is damaged or not K3s's: {problem}")]
    Malformed {
        /// A file, table or key.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It can be read only: a stopped etcd's files, or a snapshot.
    #[error("{place} can only be read: {way_out}")]
    ReadOnly {
        /// What it is.
        place: String,
        /// How the change can be made instead.
        way_out: String,
    },
}

fn revision(revision: Option<i64>) -> String {
    revision.map_or_else(|| "none".to_owned(), |it| format!("revision {it}"))
}
