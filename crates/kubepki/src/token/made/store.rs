//! Records of made tokens in the cluster's datastore, which all its servers ask.
//!
//! Every change names the revision that it replaces. So a use is spent once, whichever servers are
//! asked at the same time, and what one server or `kubepki token` writes the others see with their
//! next question: nothing is kept in memory between two.

use pki::{DAY, UnixTime};

use super::record::{Denied, Made, Malformed};
use super::{Secret, is_id};
use crate::datastore::{Datastore, DatastoreError, Record};

/// Where records lie.
pub const PREFIX: &str = "/kubepki/tokens/";
/// Seconds for which a token that has ended is still listed.
pub const KEPT: i64 = 30 * DAY;
/// Changes by others that a change of ours gives way to before it gives up.
const TRIES: usize = 2048;

/// A record at its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The token's id.
    pub id: String,
    /// What it allows.
    pub made: Made,
    revision: i64,
}

/// A record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MadeError {
    /// The datastore failed.
    #[error(transparent)]
    Datastore(#[from] DatastoreError),
    /// What lies there is no record.
    #[error("{PREFIX}{id} in the datastore cannot be used")]
    Malformed {
        /// The token's id.
        id: String,
        /// Why.
        #[source]
        source: Malformed,
    },
    /// There is no such token.
    #[error("no token has the id {id}: `kubepki token list` shows those that were made")]
    Unknown {
        /// The id.
        id: String,
    },
    /// Others change it all the time.
    #[error("the record of the token {id} is changed by others all the time; try again")]
    Busy {
        /// The id.
        id: String,
    },
}

/// Writes a new token's record.
///
/// # Errors
///
/// [`DatastoreError::Conflict`] where the id is taken.
pub async fn create(
    store: &dyn Datastore,
    secret: &Secret,
    made: &Made,
) -> Result<Entry, MadeError> {
    let id = secret.id().to_owned();
    let bytes = bytes(&id, made)?;
    let revision = store.create(&key(&id), &bytes).await?;
    let made = made.clone();
    Ok(Entry { id, made, revision })
}

/// The record of the token `id`.
///
/// # Errors
///
/// When it cannot be read.
pub async fn find(store: &dyn Datastore, id: &str) -> Result<Option<Entry>, MadeError> {
    // Whatever a stranger sends, no other key is asked for.
    if !is_id(id) {
        return Ok(None);
    }
    let record = store.get(&key(id)).await?;
    record.map(|record| entry(id, &record)).transpose()
}

/// Every record, by id; those that cannot be read are named beside them.
///
/// # Errors
///
/// When the datastore cannot be asked.
pub async fn list(store: &dyn Datastore) -> Result<(Vec<Entry>, Vec<MadeError>), DatastoreError> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for record in store.list(PREFIX).await? {
        let id = record.key.strip_prefix(PREFIX).unwrap_or_default();
        match entry(id, &record) {
            Ok(entry) => good.push(entry),
            Err(error) => bad.push(error),
        }
    }
    Ok((good, bad))
}

/// Takes a token back; the second time does nothing.
///
/// # Errors
///
/// [`MadeError::Unknown`], and when it cannot be written.
pub async fn revoke(store: &dyn Datastore, id: &str, now: UnixTime) -> Result<Entry, MadeError> {
    for _ in 0..TRIES {
        let unknown = || MadeError::Unknown { id: id.to_owned() };
        let present = find(store, id).await?.ok_or_else(unknown)?;
        let revoked = present.made.with_revocation(now);
        if revoked == present.made {
            return Ok(present);
        }
        if let Some(done) = replace(store, &present, revoked).await? {
            return Ok(done);
        }
    }
    Err(MadeError::Busy { id: id.to_owned() })
}

/// Spends a use for `node`, where the token has so many and has not let that node in before.
/// Durable when it answers; `Ok(None)` where nothing had to be written.
///
/// # Errors
///
/// [`MadeError`]: of a write it is then not known whether it was done, and asking again costs no
/// second use. The inner one is the token's own refusal.
pub async fn spend(
    store: &dyn Datastore,
    entry: &Entry,
    node: &str,
    now: UnixTime,
) -> Result<Result<Option<Entry>, Denied>, MadeError> {
    let mut present = entry.clone();
    for _ in 0..TRIES {
        match present.made.permits(node, now) {
            Ok(false) => return Ok(Ok(None)),
            Err(denied) => return Ok(Err(denied)),
            Ok(true) => {}
        }
        let spent = present.made.with_use(node, now);
        if let Some(done) = replace(store, &present, spent).await? {
            return Ok(Ok(Some(done)));
        }
        let unknown = || MadeError::Unknown {
            id: entry.id.clone(),
        };
        present = find(store, &entry.id).await?.ok_or_else(unknown)?;
    }
    let id = entry.id.clone();
    Err(MadeError::Busy { id })
}

/// Removes the records of tokens that ended more than [`KEPT`] ago. Answers how many.
///
/// # Errors
///
/// When the datastore cannot be asked. A record that somebody changes meanwhile stays.
pub async fn forget_ended(store: &dyn Datastore, now: UnixTime) -> Result<usize, DatastoreError> {
    let (entries, _) = list(store).await?;
    let mut count = 0;
    for entry in entries {
        let ended = entry.made.end(now);
        if ended.is_none_or(|end| now.since(end.since()) < KEPT) {
            continue;
        }
        match store.delete(&key(&entry.id), entry.revision).await {
            Ok(_) => count += 1,
            Err(DatastoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// `None` where somebody else was faster.
async fn replace(
    store: &dyn Datastore,
    present: &Entry,
    made: Made,
) -> Result<Option<Entry>, MadeError> {
    let id = present.id.clone();
    let bytes = bytes(&id, &made)?;
    match store.update(&key(&id), present.revision, &bytes).await {
        Ok(revision) => Ok(Some(Entry { id, made, revision })),
        Err(DatastoreError::Conflict { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn entry(id: &str, record: &Record) -> Result<Entry, MadeError> {
    let malformed = |source| MadeError::Malformed {
        id: id.to_owned(),
        source,
    };
    Ok(Entry {
        id: id.to_owned(),
        made: Made::parse(&record.value).map_err(malformed)?,
        revision: record.revision,
    })
}

fn bytes(id: &str, made: &Made) -> Result<Vec<u8>, MadeError> {
    let id = id.to_owned();
    made.to_bytes()
        .map_err(|source| MadeError::Malformed { id, source })
}

fn key(id: &str) -> String {
    format!("{PREFIX}{id}")
}
