//! What servers learnt, shared by them through the datastore.

use std::collections::BTreeSet;

use kubepki::datastore::{Datastore, DatastoreError};
use kubepki::listener::is_listener_name;
use kubepki::plan::can_be_carried;
use pki::San;
use serde::{Deserialize, Serialize};

use super::{MOST, Names};

/// Where servers share what they learnt.
pub const SHARED: &str = "/kubepki/listener";

/// Somebody else may write at the same time, so often.
const ATTEMPTS: usize = 8;

/// The record that servers share, as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Shared {
    /// The form's version: 1.
    version: u32,
    /// Names and addresses as text.
    names: BTreeSet<String>,
}

impl Names {
    /// Puts what was learnt here beside what other servers learnt, and takes that up. Answers
    /// whether there is anything that the certificate lacks.
    ///
    /// # Errors
    ///
    /// When the datastore cannot be asked, or holds a record that is not ours to overwrite.
    pub async fn share(&self, datastore: &dyn Datastore) -> Result<bool, DatastoreError> {
        for _ in 0..ATTEMPTS {
            let record = datastore.get(SHARED).await?;
            let mut shared = match &record {
                Some(record) => shared(&record.value)?,
                None => BTreeSet::new(),
            };
            let is_new = self.take(&shared);
            let own = self.learnt().into_iter().map(|it| it.to_string());
            let missing: Vec<String> = own.filter(|it| !shared.contains(it)).collect();
            let room = MOST.saturating_sub(shared.len());
            if missing.is_empty() || room == 0 {
                return Ok(is_new);
            }
            shared.extend(missing.into_iter().take(room));
            let value = serde_json::to_vec(&Shared {
                version: 1,
                names: shared,
            })
            .map_err(|error| malformed(&error.to_string()))?;
            let written = match record {
                Some(record) => datastore.update(SHARED, record.revision, &value).await,
                None => datastore.create(SHARED, &value).await,
            };
            match written {
                Ok(_) => return Ok(is_new),
                Err(DatastoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        // So many others write that the next time will do.
        Ok(false)
    }

    /// Answers whether the certificate lacks any of them.
    fn take(&self, shared: &BTreeSet<String>) -> bool {
        let (Ok(shown), Ok(mut learning)) = (self.shown.read(), self.learning.lock()) else {
            return false;
        };
        let names = shared.iter().filter(|it| is_listener_name(it)).take(MOST);
        let names: Vec<San> = names
            .map(|it| San::from_text(it))
            .filter(can_be_carried)
            .collect();
        let is_new = names.iter().any(|it| !shown.has(it));
        for name in names {
            learning.learnt.entry(name).or_default();
        }
        is_new
    }
}

fn shared(value: &[u8]) -> Result<BTreeSet<String>, DatastoreError> {
    let shared: Shared =
        serde_json::from_slice(value).map_err(|error| malformed(&error.to_string()))?;
    match shared.version {
        1 => Ok(shared.names),
        other => Err(malformed(&format!("its version is {other}, not 1"))),
    }
}

fn malformed(problem: &str) -> DatastoreError {
    DatastoreError::Malformed {
        place: SHARED.to_owned(),
        problem: problem.to_owned(),
    }
}
