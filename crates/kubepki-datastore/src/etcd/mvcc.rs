//! How etcd lays its history out in bbolt (etcd `server/mvcc`): the bucket `key` holds every write
//! since the last compaction, named by its revision.

use prost::Message as _;
use zeroize::Zeroizing;

use super::message::KeyValue;
use crate::bolt::{Bolt, Bucket, Damage};

/// The writes to some keys, oldest first.
pub(super) struct History {
    pub(super) writes: Vec<Write>,
    /// The newest revision of the whole datastore.
    pub(super) newest: i64,
}

/// One write to a key.
pub(super) struct Write {
    pub(super) key: String,
    /// `None` for a deletion.
    pub(super) value: Option<Zeroizing<Vec<u8>>>,
    pub(super) revision: i64,
    pub(super) create_revision: i64,
}

impl History {
    /// Whether `bolt` is etcd's at all.
    pub(super) fn check(bolt: &Bolt<'_>) -> Result<(), Damage> {
        bucket(bolt, b"meta")?;
        bucket(bolt, b"key").map(drop)
    }

    /// Reads every write to a key that begins with `prefix`.
    pub(super) fn read(bolt: &Bolt<'_>, prefix: &[u8]) -> Result<Self, Damage> {
        let mut history = Self {
            writes: Vec::new(),
            // An etcd in which nothing was ever written is at 1.
            newest: compacted(bolt)?.max(1),
        };
        bolt.walk(&bucket(bolt, b"key")?, &mut |name, value| {
            let (revision, tombstone) = revision(name)
                .ok_or_else(|| Damage("a key of etcd's history is not a revision".to_owned()))?;
            history.newest = history.newest.max(revision);
            // The key comes first in what etcd writes: nearly all can be passed over unread.
            let Some(key) = leading_key(value) else {
                return Err(Damage(format!(
                    "what revision {revision} wrote is not a key and value"
                )));
            };
            if !key.starts_with(prefix) {
                return Ok(());
            }
            history.writes.push(write(revision, tombstone, value)?);
            Ok(())
        })?;
        Ok(history)
    }
}

fn bucket(bolt: &Bolt<'_>, name: &[u8]) -> Result<Bucket, Damage> {
    bolt.bucket(name)?.ok_or_else(|| {
        let name = String::from_utf8_lossy(name);
        Damage(format!(
            "it is a bbolt file, but not etcd's: it has no bucket {name:?}"
        ))
    })
}

/// The revision up to which history was removed; 0 if it never was. All that was kept can be older.
fn compacted(bolt: &Bolt<'_>) -> Result<i64, Damage> {
    let mut newest = 0;
    bolt.walk(&bucket(bolt, b"meta")?, &mut |name, value| {
        if name == b"finishedCompactRev" || name == b"scheduledCompactRev" {
            let (found, _) = revision(value)
                .ok_or_else(|| Damage("its revision of compaction is damaged".to_owned()))?;
            newest = newest.max(found);
        }
        Ok(())
    })?;
    Ok(newest)
}

/// The number of the last entry of etcd's log that is in the database.
pub(super) fn applied(bolt: &Bolt<'_>) -> Result<u64, Damage> {
    let mut applied = 0;
    bolt.walk(&bucket(bolt, b"meta")?, &mut |name, value| {
        if name == b"consistent_index" {
            let number = value
                .first_chunk()
                .ok_or_else(|| Damage("its place in etcd's log is damaged".to_owned()))?;
            applied = u64::from_be_bytes(*number);
        }
        Ok(())
    })?;
    Ok(applied)
}

/// Eight bytes of revision, `_`, eight bytes of order within it, and `t` for a deletion.
fn revision(name: &[u8]) -> Option<(i64, bool)> {
    let (main, rest) = name.split_first_chunk::<8>()?;
    let (underscore, rest) = rest.split_first()?;
    let (_, mark) = rest.split_first_chunk::<8>()?;
    let tombstone = match mark {
        [] => false,
        [b't'] => true,
        _ => return None,
    };
    let main = i64::from_be_bytes(*main);
    (*underscore == b'_' && main >= 0).then_some((main, tombstone))
}

/// The key of an encoded `KeyValue` whose first field is its key (number 1, wire type 2).
fn leading_key(value: &[u8]) -> Option<&[u8]> {
    let mut rest = value.strip_prefix(&[0x0a])?;
    let length = prost::encoding::decode_varint(&mut rest).ok()?;
    rest.get(..usize::try_from(length).ok()?)
}

fn write(revision: i64, tombstone: bool, value: &[u8]) -> Result<Write, Damage> {
    let damaged = |what: &str| Damage(format!("what revision {revision} wrote {what}"));
    let found = KeyValue::decode(value).map_err(|_| damaged("is not a key and value"))?;
    if !tombstone && found.mod_revision != revision {
        return Err(damaged("says that another revision wrote it"));
    }
    Ok(Write {
        key: String::from_utf8(found.key).map_err(|_| damaged("has a name that is not text"))?,
        value: (!tombstone).then(|| Zeroizing::new(found.value)),
        revision,
        create_revision: found.create_revision,
    })
}
