//! A datastore that is not waited for: requests that need it must not use up the places of those
//! that do not.

use std::time::Duration;

use async_trait::async_trait;
use kubepki::datastore::{Datastore, DatastoreError, Record};
use kubepki_datastore::Store;

/// For one question or write. Who stops waiting for a write does not know whether it was done, as
/// after any other failure; what is written here is written the same when it is asked for again.
const PATIENCE: Duration = Duration::from_secs(5);

/// A store whose answers come soon or not at all.
#[derive(Debug)]
pub(super) struct Impatient(pub Box<dyn Store>);

async fn soon<T>(
    action: &str,
    key: &str,
    asked: impl Future<Output = Result<T, DatastoreError>>,
) -> Result<T, DatastoreError> {
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    answer.unwrap_or_else(|_| {
        let text = format!("no answer within {} s", PATIENCE.as_secs());
        Err(DatastoreError::Failed {
            action: format!("{action} {key}"),
            source: std::io::Error::new(std::io::ErrorKind::TimedOut, text).into(),
        })
    })
}

#[async_trait]
impl Datastore for Impatient {
    async fn get(&self, key: &str) -> Result<Option<Record>, DatastoreError> {
        soon("read", key, self.0.get(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Record>, DatastoreError> {
        soon("list", prefix, self.0.list(prefix)).await
    }

    async fn create(&self, key: &str, value: &[u8]) -> Result<i64, DatastoreError> {
        soon("create", key, self.0.create(key, value)).await
    }

    async fn update(&self, key: &str, revision: i64, value: &[u8]) -> Result<i64, DatastoreError> {
        soon("update", key, self.0.update(key, revision, value)).await
    }

    async fn delete(&self, key: &str, revision: i64) -> Result<Option<i64>, DatastoreError> {
        soon("delete", key, self.0.delete(key, revision)).await
    }
}
