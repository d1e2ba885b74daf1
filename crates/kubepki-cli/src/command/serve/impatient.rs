//! A datastore that is not waited for: requests that need it must not use up the places of those
//! that do not.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kubepki::datastore::{Datastore, DatastoreError, Record};
use kubepki_datastore::Store;
use zeroize::Zeroizing;

/// For one question or write. Who stops waiting for a write does not know whether it was done, as
/// after any other failure; what is written here is written the same when it is asked for again.
const PATIENCE: Duration = Duration::from_secs(5);

/// A store whose answers come soon or not at all.
///
/// What was asked is asked to its end, whoever hangs up meanwhile: a question that is dropped
/// half-way costs the connection, and clients that reset their streams would cost one each.
#[derive(Debug)]
pub(super) struct Impatient(Arc<dyn Store>);

impl Impatient {
    pub(super) fn new(store: Box<dyn Store>) -> Self {
        Self(Arc::from(store))
    }

    async fn soon<T, F>(
        &self,
        action: String,
        ask: impl FnOnce(Arc<dyn Store>) -> F,
    ) -> Result<T, DatastoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, DatastoreError>> + Send + 'static,
    {
        let asked = ask(Arc::clone(&self.0));
        let answer = tokio::spawn(tokio::time::timeout(PATIENCE, asked)).await;
        let source = match answer {
            Ok(Ok(answer)) => return answer,
            Ok(Err(_)) => {
                let text = format!("no answer within {} s", PATIENCE.as_secs());
                std::io::Error::new(std::io::ErrorKind::TimedOut, text)
            }
            Err(error) => std::io::Error::other(error),
        };
        Err(DatastoreError::Failed {
            action,
            source: source.into(),
        })
    }
}

#[async_trait]
impl Datastore for Impatient {
    async fn get(&self, key: &str) -> Result<Option<Record>, DatastoreError> {
        let asked = key.to_owned();
        let ask = |store: Arc<dyn Store>| async move { store.get(&asked).await };
        self.soon(format!("read {key}"), ask).await
    }

    async fn get_all(&self, keys: &[String]) -> Result<Vec<Record>, DatastoreError> {
        let asked = keys.to_vec();
        let ask = |store: Arc<dyn Store>| async move { store.get_all(&asked).await };
        self.soon(format!("read {} keys", keys.len()), ask).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Record>, DatastoreError> {
        let asked = prefix.to_owned();
        let ask = |store: Arc<dyn Store>| async move { store.list(&asked).await };
        self.soon(format!("list {prefix}"), ask).await
    }

    async fn create(&self, key: &str, value: &[u8]) -> Result<i64, DatastoreError> {
        let (asked, value) = (key.to_owned(), Zeroizing::new(value.to_vec()));
        let ask = |store: Arc<dyn Store>| async move { store.create(&asked, &value).await };
        self.soon(format!("create {key}"), ask).await
    }

    async fn update(&self, key: &str, revision: i64, value: &[u8]) -> Result<i64, DatastoreError> {
        let (asked, value) = (key.to_owned(), Zeroizing::new(value.to_vec()));
        let ask =
            |store: Arc<dyn Store>| async move { store.update(&asked, revision, &value).await };
        self.soon(format!("update {key}"), ask).await
    }

    async fn delete(&self, key: &str, revision: i64) -> Result<Option<i64>, DatastoreError> {
        let asked = key.to_owned();
        let ask = |store: Arc<dyn Store>| async move { store.delete(&asked, revision).await };
        self.soon(format!("delete {key}"), ask).await
    }
}
