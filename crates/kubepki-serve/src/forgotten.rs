//! Nodes that somebody had removed: what they hold from before logs in no more, as with K3s once
//! a Node is deleted (reference section 6.3), until they join anew.

use std::collections::HashMap;
use std::sync::Mutex;

use kubepki::datastore::{Datastore, DatastoreError};
use kubepki::edge::Clock;
use pki::{Certificate, UnixTime};
use serde::{Deserialize, Serialize};

use crate::leaf::issued;
use crate::password::{FRESH, PREFIX as NODES};
use crate::status::Refusal;

/// Where it stands which nodes were forgotten.
pub const PREFIX: &str = "/kubepki/forgotten/";
/// Nodes of which it is remembered what was found.
const MOST: usize = 20_000;
/// Seconds by which a server's clock may be ahead of the one that says when a node was forgotten.
pub const SKEW: i64 = 2;

/// One node's record, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The form's version: 1.
    version: u32,
    /// When it was forgotten, in seconds since 1970.
    at: i64,
}

/// What [`forget`] found and wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgot {
    /// Whether any server knew the node.
    pub known: bool,
    /// What was issued to it up to this second renews nothing: [`SKEW`] after the record was
    /// written.
    pub until: UnixTime,
}

/// Has every server forget `node`: its name is free, and certificates from before renew nothing.
/// Where that ends half way, none of its certificates renews anything until it is done again.
///
/// # Errors
///
/// When the datastore cannot be asked or written, or somebody else changes the same record.
pub async fn forget(
    datastore: &dyn Datastore,
    node: &str,
    clock: &dyn Clock,
) -> Result<Forgot, DatastoreError> {
    let record = |at: i64| serde_json::to_vec(&Record { version: 1, at }).unwrap_or_default();
    let key = key(node);
    // First what locks it out, whatever it shows: in between it could renew what it has and come
    // again, and what servers issue while this is being written has no time yet to be told by.
    let whatever = record(i64::MAX);
    let revision = match datastore.get(&key).await? {
        Some(present) => {
            let revision = present.revision;
            datastore.update(&key, revision, &whatever).await?
        }
        None => datastore.create(&key, &whatever).await?,
    };
    // Who looked before that did so no later than now.
    let until = clock.now().plus(SKEW);
    datastore
        .update(&key, revision, &record(until.as_secs()))
        .await?;
    let key = format!("{NODES}{node}");
    let known = datastore.get(&key).await?;
    if let Some(known) = &known {
        datastore.delete(&key, known.revision).await?;
    }
    let known = known.is_some();
    Ok(Forgot { known, until })
}

/// The key of a node's record.
pub(crate) fn key(node: &str) -> String {
    format!("{PREFIX}{node}")
}

/// When the node was forgotten, by its record.
pub(crate) fn at(record: &[u8]) -> i64 {
    let read = serde_json::from_slice::<Record>(record).ok();
    // What cannot be read was written by somebody who wanted the node out.
    read.map_or(i64::MAX, |read| read.at)
}

/// Whether a certificate that one of `authorities` issued is from later than `at`.
///
/// # Errors
///
/// 401 for one from before.
pub(crate) fn is_from_since(
    shown: &[u8],
    authorities: &[Certificate],
    at: i64,
) -> Result<(), Refusal> {
    let shown = Certificate::from_der(shown).map_err(|_| Refusal::NotAuthorized)?;
    let is_since = issued(&shown, authorities).as_secs() > at;
    is_since.then_some(()).ok_or(Refusal::NotAuthorized)
}

/// What was found of nodes a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Forgotten(Mutex<HashMap<String, (UnixTime, Option<i64>)>>);

impl Forgotten {
    /// Whether `node` may still use the certificate that it shows, which one of `authorities`
    /// issued. Answers when the node's record was looked at: what is issued upon that was issued
    /// then, or it would pass for newer than a record that was written since.
    ///
    /// # Errors
    ///
    /// 401 for one from before it was forgotten, upon which K3s's agents try their token; 503
    /// while the datastore cannot be asked.
    pub(crate) async fn check(
        &self,
        datastore: &dyn Datastore,
        (node, shown): (&str, &[u8]),
        authorities: &[Certificate],
        now: UnixTime,
    ) -> Result<UnixTime, Refusal> {
        let (looked, at) = match self.fresh(node, now) {
            Some(seen) => seen,
            None => (now, self.look(datastore, node, now).await?),
        };
        let Some(at) = at else {
            return Ok(looked);
        };
        is_from_since(shown, authorities, at)?;
        Ok(looked)
    }

    fn fresh(&self, node: &str, now: UnixTime) -> Option<(UnixTime, Option<i64>)> {
        let seen = self.0.lock().ok()?;
        let seen = seen.get(node)?;
        (0..FRESH).contains(&now.since(seen.0)).then_some(*seen)
    }

    async fn look(
        &self,
        datastore: &dyn Datastore,
        node: &str,
        now: UnixTime,
    ) -> Result<Option<i64>, Refusal> {
        let away = |_| {
            let why = "the datastore cannot be asked whether the node was forgotten";
            Refusal::Unavailable(why.to_owned())
        };
        let found = datastore.get(&key(node)).await.map_err(away)?;
        let at = found.map(|found| at(&found.value));
        if let Ok(mut seen) = self.0.lock() {
            if seen.len() >= MOST {
                seen.clear();
            }
            seen.insert(node.to_owned(), (now, at));
        }
        Ok(at)
    }
}
