//! Nodes that somebody had removed: what they hold from before logs in no more, as with K3s once
//! a Node is deleted (reference section 6.3), until they join anew.

use std::collections::HashMap;
use std::sync::Mutex;

use kubepki::datastore::{Datastore, DatastoreError};
use pki::{Certificate, UnixTime};
use serde::{Deserialize, Serialize};

use crate::leaf::BACKDATE;
use crate::password::{FRESH, PREFIX as NODES};
use crate::status::Refusal;

/// Where it stands which nodes were forgotten.
pub const PREFIX: &str = "/kubepki/forgotten/";
/// Nodes of which it is remembered what was found.
const MOST: usize = 20_000;

/// One node's record, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The form's version: 1.
    version: u32,
    /// When it was forgotten, in seconds since 1970.
    at: i64,
}

/// Has every server forget `node` at `now`: its name is free, and certificates from before renew
/// nothing. Answers whether any server knew it.
///
/// # Errors
///
/// When the datastore cannot be asked or written, or somebody else changes the same record.
pub async fn forget(
    datastore: &dyn Datastore,
    node: &str,
    now: UnixTime,
) -> Result<bool, DatastoreError> {
    let record = Record {
        version: 1,
        at: now.as_secs(),
    };
    let value = serde_json::to_vec(&record).unwrap_or_default();
    let key = format!("{PREFIX}{node}");
    // First what locks it out: in between it could renew what it has and come again.
    match datastore.get(&key).await? {
        Some(present) => datastore.update(&key, present.revision, &value).await?,
        None => datastore.create(&key, &value).await?,
    };
    let key = format!("{NODES}{node}");
    let known = datastore.get(&key).await?;
    if let Some(known) = &known {
        datastore.delete(&key, known.revision).await?;
    }
    Ok(known.is_some())
}

/// What was found of nodes a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Forgotten(Mutex<HashMap<String, (UnixTime, Option<i64>)>>);

impl Forgotten {
    /// Whether `node` may still use the certificate that it shows.
    ///
    /// # Errors
    ///
    /// 401 for one from before it was forgotten, upon which K3s's agents try their token; 503
    /// while the datastore cannot be asked.
    pub(crate) async fn check(
        &self,
        datastore: &dyn Datastore,
        (node, shown): (&str, &[u8]),
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let at = match self.fresh(node, now) {
            Some(at) => at,
            None => self.look(datastore, node, now).await?,
        };
        let Some(at) = at else {
            return Ok(());
        };
        let shown = Certificate::from_der(shown).map_err(|_| Refusal::NotAuthorized)?;
        let issued = shown.validity().not_before.plus(BACKDATE);
        (issued.as_secs() > at)
            .then_some(())
            .ok_or(Refusal::NotAuthorized)
    }

    fn fresh(&self, node: &str, now: UnixTime) -> Option<Option<i64>> {
        let seen = self.0.lock().ok()?;
        let (looked, at) = seen.get(node)?;
        (0..FRESH).contains(&now.since(*looked)).then_some(*at)
    }

    async fn look(
        &self,
        datastore: &dyn Datastore,
        node: &str,
        now: UnixTime,
    ) -> Result<Option<i64>, Refusal> {
        let key = format!("{PREFIX}{node}");
        let away = |_| {
            let why = "the datastore cannot be asked whether the node was forgotten";
            Refusal::Unavailable(why.to_owned())
        };
        let found = datastore.get(&key).await.map_err(away)?;
        let at = found.map(|found| {
            let read = serde_json::from_slice::<Record>(&found.value).ok();
            // What cannot be read was written by somebody who wanted the node out.
            read.map_or(i64::MAX, |read| read.at)
        });
        if let Ok(mut seen) = self.0.lock() {
            if seen.len() >= MOST {
                seen.clear();
            }
            seen.insert(node.to_owned(), (now, at));
        }
        Ok(at)
    }
}
