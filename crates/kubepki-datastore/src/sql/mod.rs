//! kine's table `kine` in SQLite, PostgreSQL and MySQL: a log of rows, one for each revision
//! (kine `pkg/logstructured`, `pkg/drivers/generic`).
//!
//! The newest row of a name is its state; a write appends a row that names the one it replaces in
//! `prev_revision`, and the unique index on `(name, prev_revision)` lets one of two writers win.
//! Rows are never taken away here: that is kine's compaction, and the row `compact_rev_key` is
//! kine's too. Only a server's sign of life is written over, in its own row
//! ([`kubepki::datastore::Board`]).

use std::time::Duration;

/// The traits of a store, handed on to the line inside.
macro_rules! forward {
    ($store:ty) => {
        #[async_trait::async_trait]
        impl kubepki::datastore::Datastore for $store {
            async fn get(
                &self,
                key: &str,
            ) -> Result<Option<kubepki::datastore::Record>, kubepki::datastore::DatastoreError>
            {
                self.0.get(key).await
            }

            async fn get_all(
                &self,
                keys: &[String],
            ) -> Result<Vec<kubepki::datastore::Record>, kubepki::datastore::DatastoreError> {
                self.0.get_all(keys).await
            }

            async fn list(
                &self,
                prefix: &str,
            ) -> Result<Vec<kubepki::datastore::Record>, kubepki::datastore::DatastoreError> {
                self.0.list(prefix).await
            }

            async fn create(
                &self,
                key: &str,
                value: &[u8],
            ) -> Result<i64, kubepki::datastore::DatastoreError> {
                self.0.create(key, value).await
            }

            async fn update(
                &self,
                key: &str,
                revision: i64,
                value: &[u8],
            ) -> Result<i64, kubepki::datastore::DatastoreError> {
                self.0.update(key, revision, value).await
            }

            async fn delete(
                &self,
                key: &str,
                revision: i64,
            ) -> Result<Option<i64>, kubepki::datastore::DatastoreError> {
                self.0.delete(key, revision).await
            }
        }

        #[async_trait::async_trait]
        impl kubepki::datastore::Board for $store {
            async fn rewrite(
                &self,
                present: &kubepki::datastore::Record,
                value: &[u8],
            ) -> Result<i64, kubepki::datastore::DatastoreError> {
                self.0.rewrite(present, value).await
            }

            async fn forget(
                &self,
                revision: i64,
            ) -> Result<bool, kubepki::datastore::DatastoreError> {
                self.0.forget(revision).await
            }
        }

        #[async_trait::async_trait]
        impl kubepki::datastore::Archive for $store {
            async fn newest_revision(&self) -> Result<i64, kubepki::datastore::DatastoreError> {
                self.0.newest_revision().await
            }

            async fn former(
                &self,
                prefix: &str,
            ) -> Result<Vec<kubepki::datastore::Former>, kubepki::datastore::DatastoreError> {
                self.0.former(prefix).await
            }
        }
    };
}

/// Longest time for one connection to be made.
const CONNECT: Duration = Duration::from_secs(10);

mod kine;
mod line;
mod mysql;
mod new;
mod postgres;
mod sqlite;
mod trouble;

pub use mysql::MysqlStore;
pub use new::{make_table, new_sqlite};
pub use postgres::PostgresStore;
pub use sqlite::SqliteStore;
