//! The end of etcd's log: what a member accepted and had not put into its database yet when it
//! ended. etcd writes its database every tenth of a second, so after a crash there can be some.
//!
//! A log is files of records, each with its length before it (etcd `server/wal`); a zero length
//! is the end, for files are made long beforehand. Checksums are not looked at, and where a record
//! makes no sense reading ends: the answer is for a note, not for decisions.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use prost::Message as _;
use zeroize::Zeroizing;

use super::message::{DeleteRangeRequest, PutRequest, TxnRequest};

/// Changes that are in the log of a stopped member, and not in its database: K3s reads the
/// database alone when it starts, and etcd adds them a moment later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unapplied {
    /// How many: puts, deletions, transactions.
    pub changes: usize,
    /// How many of them name a bootstrap key.
    pub of_bootstrap: usize,
}

/// `walpb.Record`.
#[derive(Clone, PartialEq, prost::Message)]
struct LogRecord {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(bytes = "vec", optional, tag = "3")]
    data: Option<Vec<u8>>,
}

/// `raftpb.Entry`; kind 0 is a change of keys, the others change the cluster.
#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(bytes = "vec", optional, tag = "4")]
    data: Option<Vec<u8>>,
}

/// `etcdserverpb.InternalRaftRequest`, as far as it changes keys. The older kind of request, in
/// which members tell each other their addresses, does not decode as one.
#[derive(Clone, PartialEq, prost::Message)]
struct Change {
    #[prost(message, optional, tag = "4")]
    put: Option<PutRequest>,
    #[prost(message, optional, tag = "5")]
    delete: Option<DeleteRangeRequest>,
    #[prost(message, optional, tag = "6")]
    txn: Option<TxnRequest>,
}

impl Change {
    fn is_in(data: &[u8]) -> bool {
        Self::decode(data)
            .is_ok_and(|it| it.put.is_some() || it.delete.is_some() || it.txn.is_some())
    }
}

/// `walpb` record type of an entry.
const ENTRY: i64 = 2;
/// etcd accepts requests of 1.5 MiB unless told otherwise.
const RECORD_LIMIT: u64 = 64 << 20;

/// Looks through the log in `folder` for what came after entry `applied`.
pub(super) fn after(folder: &Path, applied: u64) -> std::io::Result<Unapplied> {
    let mut later: BTreeMap<u64, bool> = BTreeMap::new();
    for path in files(folder, applied)? {
        let mut log = BufReader::new(File::open(path)?);
        while let Some(record) = next(&mut log) {
            if record.kind != ENTRY {
                continue;
            }
            let Ok(entry) = Entry::decode(record.data.unwrap_or_default().as_slice()) else {
                break;
            };
            // A new leader may have replaced what an old one wrote from here on.
            later.split_off(&entry.index);
            let data = Zeroizing::new(entry.data.unwrap_or_default());
            if entry.index > applied && entry.kind == 0 && Change::is_in(&data) {
                let bootstrap = data.windows(KEYS.len()).any(|it| it == KEYS);
                later.insert(entry.index, bootstrap);
            }
        }
    }
    Ok(Unapplied {
        changes: later.len(),
        of_bootstrap: later.values().filter(|it| **it).count(),
    })
}

const KEYS: &[u8] = b"/bootstrap";

/// The files from the one on that can hold entry `applied` + 1: each is named after its number and
/// its first entry.
fn files(folder: &Path, applied: u64) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|it| it.to_str());
        let parts = name
            .and_then(|it| it.strip_suffix(".wal"))
            .and_then(|it| it.split_once('-'))
            .and_then(|(number, first)| {
                let hex = |text| u64::from_str_radix(text, 16).ok();
                Some((hex(number)?, hex(first)?))
            });
        if let (Some((number, first)), true) = (parts, path.is_file()) {
            files.push((number, first, path));
        }
    }
    files.sort();
    let start = files
        .iter()
        .rposition(|(_, first, _)| *first <= applied.saturating_add(1))
        .unwrap_or_default();
    Ok(files.into_iter().skip(start).map(|it| it.2).collect())
}

/// The next record; `None` at the end, or where nothing more makes sense.
fn next(log: &mut impl Read) -> Option<LogRecord> {
    let mut head = [0; 8];
    log.read_exact(&mut head).ok()?;
    let head = u64::from_le_bytes(head);
    // The top byte, if its highest bit is set, tells how many bytes fill the record up.
    let padding = if head >> 63 == 1 { head >> 56 & 7 } else { 0 };
    let length = head & ((1 << 56) - 1);
    if length == 0 || length > RECORD_LIMIT {
        return None;
    }
    let mut bytes = Zeroizing::new(vec![0; usize::try_from(length + padding).ok()?]);
    log.read_exact(&mut bytes).ok()?;
    LogRecord::decode(bytes.get(..usize::try_from(length).ok()?)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_ends_the_reading() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let mut file = std::fs::File::options()
                .write(true)
                .create_new(true)
                .open(folder.path().join(name))
                .unwrap();
            std::io::Write::write_all(&mut file, bytes).unwrap();
        };
        assert_eq!(after(folder.path(), 7).unwrap(), Unapplied::default());
        put("0000000000000000-0000000000000000.wal", &[0xff; 4096]);
        put("0000000000000001-0000000000000003.wal", &[0; 4096]);
        // A length of 2^55, one of 40 bytes that are not there, and one of garbage that are.
        put(
            "0000000000000002-0000000000000004.wal",
            &(1_u64 << 55).to_le_bytes(),
        );
        put(
            "0000000000000003-0000000000000005.wal",
            &[40, 0, 0, 0, 0, 0, 0, 0, 8, 2],
        );
        put(
            "0000000000000004-0000000000000006.wal",
            &[8, 0, 0, 0, 0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7],
        );
        put("not a log.wal", b"text");
        put("1.tmp", b"text");
        for applied in [0, 4, 7, u64::MAX] {
            assert_eq!(after(folder.path(), applied).unwrap(), Unapplied::default());
        }
        after(&folder.path().join("nowhere"), 0).unwrap_err();
    }

    #[test]
    fn what_a_new_leader_replaces_does_not_count() {
        let entry = |index, key: &[u8]| {
            let change = Change {
                put: Some(PutRequest {
                    key: key.to_vec(),
                    value: b"value".to_vec(),
                }),
                ..Change::default()
            };
            let entry = Entry {
                kind: 0,
                index,
                data: Some(change.encode_to_vec()),
            };
            let record = LogRecord {
                kind: ENTRY,
                data: Some(entry.encode_to_vec()),
            };
            let bytes = record.encode_to_vec();
            // Filled up to a multiple of eight, as etcd does.
            let padding = (8 - bytes.len() % 8) % 8;
            let mut head = bytes.len() as u64;
            if padding > 0 {
                head |= (0x80 | padding as u64) << 56;
            }
            [&head.to_le_bytes(), bytes.as_slice(), &vec![0; padding]].concat()
        };
        let folder = tempfile::tempdir().unwrap();
        let log = [
            entry(4, b"/bootstrap/applied"),
            entry(5, b"/registry/a"),
            entry(6, b"/bootstrap/replaced"),
            entry(7, b"/bootstrap/replaced"),
            entry(6, b"/bootstrap/a"),
        ];
        let path = folder.path().join("0000000000000000-0000000000000000.wal");
        let mut file = std::fs::File::options()
            .write(true)
            .create_new(true)
            .open(path)
            .unwrap();
        std::io::Write::write_all(&mut file, &log.concat()).unwrap();
        let expected = Unapplied {
            changes: 2,
            of_bootstrap: 1,
        };
        assert_eq!(after(folder.path(), 4).unwrap(), expected);
    }
}
