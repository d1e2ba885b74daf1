//! The head in the datastore: what tells that the end of a log was cut off.

use std::sync::Arc;
use std::time::Duration;

use pki::Digest;
use serde::{Deserialize, Serialize};

use super::{Head, Log, LogError, line};
use crate::datastore::{Datastore, DatastoreError};

/// Where the heads are: `/kubepki/log/<server>`.
pub const HEAD_PREFIX: &str = "/kubepki/log/";

/// The key of a server's head.
///
/// # Errors
///
/// [`LogError::Name`].
pub fn head_key(server: &str) -> Result<String, LogError> {
    super::checked(server)?;
    Ok(format!("{HEAD_PREFIX}{server}"))
}

/// The head was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The datastore did not do it.
    #[error("the head of the issuance log is not in the datastore")]
    Datastore(#[from] DatastoreError),
    /// The name is none.
    #[error("the head of the issuance log has no place in the datastore")]
    Log(#[from] LogError),
    /// Something else lies there.
    #[error("what the datastore holds in {key} is no head of an issuance log")]
    Malformed {
        /// The key.
        key: String,
    },
    /// The datastore knows of a longer log, or of another one.
    #[error(
        "{key} says that the log has {stored} records, and it has {own}{}: another process writes \
         a log with this server's name, or its end was cut off; `kubepki log verify` tells",
        if own >= stored { ", and others" } else { "" }
    )]
    Other {
        /// The key.
        key: String,
        /// What the datastore says.
        stored: u64,
        /// What is there.
        own: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct Wire {
    records: u64,
    hash: String,
}

/// The head that the datastore holds of a server's log, with its revision; `None` if it has none.
///
/// # Errors
///
/// [`HeadError`].
pub async fn stored_head(
    store: &dyn Datastore,
    server: &str,
) -> Result<Option<(Head, i64)>, HeadError> {
    let key = head_key(server)?;
    let Some(record) = store.get(&key).await? else {
        return Ok(None);
    };
    let read = |bytes: &[u8]| {
        let wire: Wire = serde_json::from_slice(bytes).ok()?;
        let hash: Digest = line::digest(wire.hash.as_bytes())?;
        Some(Head {
            server: server.to_owned(),
            records: wire.records,
            hash,
        })
    };
    match read(&record.value) {
        Some(head) => Ok(Some((head, record.revision))),
        None => Err(HeadError::Malformed { key }),
    }
}

/// Puts `head` into the datastore, by compare-and-swap, unless it is there. A head is never
/// replaced by one with fewer records.
///
/// # Errors
///
/// [`HeadError::Other`] when the datastore knows more than `head`.
pub async fn publish(store: &dyn Datastore, head: &Head) -> Result<(), HeadError> {
    let key = head_key(&head.server)?;
    let wire = Wire {
        records: head.records,
        hash: head.hash.to_string(),
    };
    let value = serde_json::to_vec(&wire).map_err(|_| HeadError::Malformed { key: key.clone() })?;
    match stored_head(store, &head.server).await? {
        None => store.create(&key, &value).await?,
        Some((stored, _)) if stored == *head => return Ok(()),
        Some((stored, revision)) if stored.records < head.records => {
            store.update(&key, revision, &value).await?
        }
        Some((stored, _)) => {
            return Err(HeadError::Other {
                key,
                stored: stored.records,
                own: head.records,
            });
        }
    };
    Ok(())
}

/// Publishes the head whenever it has moved, at most once in `every`, until the log is closed,
/// and then once more. `told` hears how each attempt went; after a failure the next round tries again.
pub async fn keep_published(
    log: &Log,
    store: Arc<dyn Datastore>,
    every: Duration,
    told: impl Fn(Result<(), &HeadError>) + Send,
) {
    let mut heads = log.heads();
    loop {
        let head = heads.borrow_and_update().clone();
        let done = match head.records {
            0 => Ok(()),
            _ => publish(store.as_ref(), &head).await,
        };
        told(done.as_ref().copied());
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = closed(heads.clone()) => {}
        }
        // A failure is tried again without a new record.
        if done.is_ok() && heads.changed().await.is_err() {
            return;
        }
        if done.is_err() && heads.has_changed().is_err() {
            return;
        }
    }
}

/// Returns when the log is closed.
async fn closed(mut heads: tokio::sync::watch::Receiver<Head>) {
    while heads.changed().await.is_ok() {}
}
