//! The files of an etcd that does not run: a stopped member's, and snapshots.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::digest;
use kubepki::datastore::{Archive, Board, Datastore, DatastoreError, Former, Record};
use zeroize::Zeroizing;

use super::mvcc::{self, History, Write};
use super::wal::{self, Unapplied};
use super::{check_key, failed};
use crate::bolt::{Bolt, Damage};

/// What etcd left on disk, read without etcd: `member/snap/db` of a stopped member, or a file of
/// `etcdctl snapshot save` or `k3s etcd-snapshot save` (etcd 3.4 to 3.6).
///
/// Every question reads the file anew, under a shared lock, so a member that is started meanwhile
/// is noticed. What etcd had written to its log only is not seen, but counted by
/// [`EtcdFile::unapplied`]: K3s itself reads this file alone when it starts (k3s `pkg/etcd/store`).
/// Nothing can be written.
#[derive(Clone, Debug)]
pub struct EtcdFile {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    kind: FileKind,
}

/// What a file is, and whether its checksum was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// The database of a member; it has no checksum.
    Member,
    /// A snapshot; its SHA-256 stands at its end and fits.
    Snapshot,
    /// A copy of a database without a checksum: taken from a member's directory, or by an etcd
    /// older than 3.0.
    Unchecked,
}

/// SHA-256 behind a snapshot: as pages are multiples of 512 bytes, the length tells.
const TRAILER: u64 = 32;

impl EtcdFile {
    /// Looks at `path` and checks its head and, for snapshots, its SHA-256.
    ///
    /// # Errors
    ///
    /// [`DatastoreError::Malformed`] for what is not etcd's, is cut off or was changed;
    /// [`DatastoreError::Unreachable`] when it cannot be opened, or a running etcd holds it.
    pub fn open(path: &Path) -> Result<Self, DatastoreError> {
        let mut file = Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                kind: FileKind::Unchecked,
            }),
        };
        let kind = file.inner.with(|handle, length| {
            let bolt = Bolt::open(handle, database_length(length))?;
            let kind = if length % 512 == TRAILER {
                check_trailer(handle, length)?;
                FileKind::Snapshot
            } else if path.ends_with("member/snap/db") {
                FileKind::Member
            } else {
                FileKind::Unchecked
            };
            History::check(&bolt)?;
            Ok(kind)
        })?;
        file.inner = Arc::new(Inner {
            path: path.to_owned(),
            kind,
        });
        Ok(file)
    }

    /// The database of the etcd that K3s ran on this machine: `db/etcd/member/snap/db` under
    /// `server_dir`.
    ///
    /// # Errors
    ///
    /// As [`EtcdFile::open`].
    pub fn stopped_member(server_dir: &Path) -> Result<Self, DatastoreError> {
        Self::open(&server_dir.join("db/etcd/member/snap/db"))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// What it is.
    pub fn kind(&self) -> FileKind {
        self.inner.kind
    }

    /// What etcd's log holds beyond this file, for a stopped member; nothing for snapshots.
    ///
    /// # Errors
    ///
    /// As [`EtcdFile::open`]; [`DatastoreError::Failed`] when the log cannot be read.
    pub async fn unapplied(&self) -> Result<Unapplied, DatastoreError> {
        if self.inner.kind != FileKind::Member {
            return Ok(Unapplied::default());
        }
        let inner = Arc::clone(&self.inner);
        let looking = tokio::task::spawn_blocking(move || {
            let applied = inner.with(|handle, length| {
                mvcc::applied(&Bolt::open(handle, database_length(length))?)
            })?;
            // `snap/db` and `wal` lie side by side.
            let member = inner.path.parent().and_then(Path::parent);
            let log = member.unwrap_or(Path::new("/")).join("wal");
            wal::after(&log, applied)
                .map_err(|error| failed(&format!("read etcd's log in {}", log.display()), error))
        });
        let action = || format!("read etcd's log beside {}", self.inner.path.display());
        looking.await.map_err(|error| failed(&action(), error))?
    }

    async fn history(&self, prefix: &str) -> Result<History, DatastoreError> {
        check_key(prefix)?;
        let (inner, wanted) = (Arc::clone(&self.inner), prefix.as_bytes().to_vec());
        let reading = tokio::task::spawn_blocking(move || {
            inner.with(|handle, length| {
                History::read(&Bolt::open(handle, database_length(length))?, &wanted)
            })
        });
        let action = || format!("read {prefix} in {}", self.inner.path.display());
        reading.await.map_err(|error| failed(&action(), error))?
    }

    async fn present(&self, prefix: &str) -> Result<Vec<Record>, DatastoreError> {
        let history = self.history(prefix).await?;
        let mut present = BTreeMap::new();
        for write in history.writes {
            if let Some(value) = write.value {
                let record = Record {
                    key: write.key.clone(),
                    value,
                    revision: write.revision,
                    create_revision: write.create_revision,
                };
                present.insert(write.key, record);
            } else {
                present.remove(&write.key);
            }
        }
        Ok(present.into_values().collect())
    }

    fn read_only<T>(&self) -> Result<T, DatastoreError> {
        let way_out = match self.inner.kind {
            FileKind::Member => {
                "start K3s and write through its running etcd, or let the running K3s do it \
                 (`PUT /v1-k3s/cert/cacerts`, as `k3s certificate rotate-ca` does)"
            }
            FileKind::Snapshot | FileKind::Unchecked => {
                "restore it first, with `k3s server --cluster-reset \
                 --cluster-reset-restore-path`, and write to the cluster that runs then"
            }
        };
        Err(DatastoreError::ReadOnly {
            place: self.inner.path.display().to_string(),
            way_out: way_out.to_owned(),
        })
    }
}

impl Inner {
    /// Opens the file, takes a shared lock, and hands it with its length to `read`.
    fn with<T>(
        &self,
        read: impl FnOnce(&File, u64) -> Result<T, Damage>,
    ) -> Result<T, DatastoreError> {
        let place = self.path.display().to_string();
        let unreachable =
            |problem: String, source: Option<std::io::Error>| DatastoreError::Unreachable {
                endpoint: place.clone(),
                problem,
                source: source.map(Into::into),
            };
        let cannot = |error| unreachable("the file cannot be opened".to_owned(), Some(error));
        let metadata = std::fs::metadata(&self.path).map_err(cannot)?;
        // Opening a pipe would wait for its other end.
        if !metadata.is_file() {
            return Err(unreachable("it is not a regular file".to_owned(), None));
        }
        let file = File::open(&self.path).map_err(cannot)?;
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(unreachable(
                    "an etcd that runs has locked it: ask that one (https://127.0.0.1:2379 for \
                     K3s's own), or stop K3s first"
                        .to_owned(),
                    None,
                ));
            }
            Err(TryLockError::Error(error)) => {
                return Err(unreachable("it cannot be locked".to_owned(), Some(error)));
            }
        }
        let length = file.metadata().map_err(cannot)?.len();
        recognise(&file)
            .and_then(|()| read(&file, length))
            .map_err(|Damage(problem)| DatastoreError::Malformed { place, problem })
    }
}

/// Refuses what people mistake for a snapshot.
fn recognise(file: &File) -> Result<(), Damage> {
    let mut head = [0; 4];
    // A shorter file fails later, for a better reason.
    if file.read_exact_at(&mut head, 0).is_err() {
        return Ok(());
    }
    let problem = match head {
        [b'P', b'K', 3, 4] => "it is a zip archive (K3s's `--snapshot-compress`): unpack it first",
        [0x1f, 0x8b, ..] => "it is compressed with gzip: unpack it first",
        [b'S', b'Q', b'L', b'i'] => "it is an SQLite database, not etcd's",
        _ => return Ok(()),
    };
    Err(Damage(problem.to_owned()))
}

fn database_length(length: u64) -> u64 {
    if length % 512 == TRAILER {
        length - TRAILER
    } else {
        length
    }
}

fn check_trailer(file: &File, length: u64) -> Result<(), Damage> {
    let failed = |error: std::io::Error| Damage(format!("cannot read it: {error}"));
    let end = length - TRAILER;
    let mut sum = digest::Context::new(&digest::SHA256);
    let mut buffer = Zeroizing::new(vec![0; 1 << 20]);
    let mut offset = 0;
    while offset < end {
        let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let wanted = wanted.min(buffer.len());
        let part = buffer.get_mut(..wanted).unwrap_or_default();
        file.read_exact_at(part, offset).map_err(failed)?;
        sum.update(part);
        offset += wanted as u64;
    }
    let mut told = [0; 32];
    file.read_exact_at(&mut told, end).map_err(failed)?;
    if sum.finish().as_ref() != told.as_slice() {
        return Err(Damage(
            "the SHA-256 at its end does not fit: it was cut off or changed; take an older \
             snapshot"
                .to_owned(),
        ));
    }
    Ok(())
}

#[async_trait]
impl Datastore for EtcdFile {
    async fn get(&self, key: &str) -> Result<Option<Record>, DatastoreError> {
        let found = self.present(key).await?;
        Ok(found.into_iter().find(|record| record.key == key))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Record>, DatastoreError> {
        self.present(prefix).await
    }

    async fn create(&self, _: &str, _: &[u8]) -> Result<i64, DatastoreError> {
        self.read_only()
    }

    async fn update(&self, _: &str, _: i64, _: &[u8]) -> Result<i64, DatastoreError> {
        self.read_only()
    }

    async fn delete(&self, _: &str, _: i64) -> Result<Option<i64>, DatastoreError> {
        self.read_only()
    }
}

#[async_trait]
impl Board for EtcdFile {
    async fn rewrite(&self, _: &Record, _: &[u8]) -> Result<i64, DatastoreError> {
        self.read_only()
    }

    async fn forget(&self, _: i64) -> Result<bool, DatastoreError> {
        self.read_only()
    }
}

#[async_trait]
impl Archive for EtcdFile {
    async fn newest_revision(&self) -> Result<i64, DatastoreError> {
        // Only the revisions are wanted: no key begins with a zero byte.
        Ok(self.history("\0").await?.newest)
    }

    async fn former(&self, prefix: &str) -> Result<Vec<Former>, DatastoreError> {
        let writes = self.history(prefix).await?.writes;
        let mut last = BTreeMap::new();
        for write in &writes {
            last.insert(write.key.clone(), write.revision);
        }
        let path = self.inner.path.display();
        let former = writes.into_iter().filter_map(|write| {
            let Write {
                key,
                value,
                revision,
                ..
            } = write;
            let value = value.filter(|_| last.get(&key) != Some(&revision))?;
            Some(Former {
                place: format!("revision {revision} of {key} in {path}"),
                key,
                value,
                revision: Some(revision),
            })
        });
        Ok(former.collect())
    }
}
