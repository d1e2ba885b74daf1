//! etcd: the one that K3s runs inside itself, one beside it, and the files of one that is stopped.

mod client;
mod error;
mod file;
mod history;
mod message;
mod mvcc;
mod tls;
mod url;
mod wal;

use std::path::Path;

use async_trait::async_trait;
use kubepki::datastore::{Archive, Board, Datastore, DatastoreError, Former, Record};
use zeroize::Zeroizing;

use self::client::{Client, Link};
use self::error::WriteError;
pub use self::file::{EtcdFile, FileKind};
use self::message::{
    CompactionRequest, CompactionResponse, Compare, DeleteRangeRequest, KeyValue, Operation,
    PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader, TxnRequest, TxnResponse,
};
pub use self::wal::Unapplied;
use crate::endpoint::Tls;

const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const COMPACT: &str = "/etcdserverpb.KV/Compact";

/// A running etcd cluster, spoken to over gRPC (etcd 3.4 to 3.6).
///
/// Writes have the three shapes that K3s's own client uses: create if `mod_revision` is 0, replace
/// or delete if it is the one that was read. Questions go to the next member when one fails;
/// writes never do, because the first one may have done them.
#[derive(Debug)]
pub struct EtcdStore {
    client: Client,
}

impl EtcdStore {
    /// Connects to the first of `urls` that can be used: `http://` or `https://`,
    /// `[user:password@]host:port`. Each one gets 10 s. Without a CA file the system's CAs are
    /// trusted, as K3s does.
    ///
    /// # Errors
    ///
    /// [`DatastoreError::Endpoint`] for URLs and files that cannot be right; [`DatastoreError::Unreachable`] when no member can be used, with the
    /// reason for each one: no answer, a certificate that is not trusted, wrong password, a
    /// learner, no leader.
    pub async fn connect(urls: &[String], tls: &Tls) -> Result<Self, DatastoreError> {
        let client = Client::new(urls, tls)?;
        client.link().await?;
        Ok(Self { client })
    }

    /// Connects to the member that K3s runs on this machine: `https://127.0.0.1:2379` with
    /// `tls/etcd/server-ca.crt` and `tls/etcd/client.{crt,key}` under `server_dir` (K3s
    /// `pkg/etcd/etcd.go`).
    ///
    /// # Errors
    ///
    /// As [`EtcdStore::connect`].
    pub async fn embedded(server_dir: &Path) -> Result<Self, DatastoreError> {
        Self::connect(&[EMBEDDED.to_owned()], &Tls::embedded(server_dir)).await
    }

    /// The members' addresses, without passwords.
    pub fn endpoint(&self) -> String {
        self.client.shown()
    }

    async fn range(
        &self,
        key: &[u8],
        range_end: &[u8],
        action: &str,
    ) -> Result<(RangeResponse, Link), DatastoreError> {
        let question = RangeRequest {
            key: key.to_vec(),
            range_end: range_end.to_vec(),
            ..RangeRequest::default()
        };
        self.ask(RANGE, question, action).await
    }

    /// Asks what changes nothing, and once more where the connection was to blame.
    async fn ask<Q, A>(
        &self,
        method: &'static str,
        question: Q,
        action: &str,
    ) -> Result<(A, Link), DatastoreError>
    where
        Q: prost::Message + Clone + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut second_try = true;
        loop {
            let link = self.client.link().await?;
            match link.unary(method, question.clone()).await {
                Ok(answer) => return Ok((answer, link)),
                Err(error) => {
                    if error.is_broken() || error.is_stale_login() {
                        self.client.forget(&link);
                        if std::mem::take(&mut second_try) {
                            continue;
                        }
                    }
                    return Err(failed(action, error));
                }
            }
        }
    }

    /// Whether no key lies outside [`OURS`].
    async fn is_ours_alone(&self) -> Result<bool, DatastoreError> {
        // etcd takes an empty key for another question, and a zero byte for the first or no end.
        let mut from = vec![0];
        for prefix in OURS {
            if self.has_between(&from, prefix.as_bytes()).await? {
                return Ok(false);
            }
            from = prefix_end(prefix.as_bytes());
        }
        Ok(!self.has_between(&from, &[0]).await?)
    }

    async fn has_between(&self, from: &[u8], end: &[u8]) -> Result<bool, DatastoreError> {
        let question = RangeRequest {
            key: from.to_vec(),
            range_end: end.to_vec(),
            limit: 1,
            keys_only: true,
            ..RangeRequest::default()
        };
        let action = "look for others' keys";
        let (answer, _): (RangeResponse, _) = self.ask(RANGE, question, action).await?;
        Ok(!answer.kvs.is_empty())
    }

    /// Runs a transaction once; a login that has ended is renewed, for then nothing was done.
    async fn write(&self, txn: TxnRequest, action: &str) -> Result<TxnResponse, DatastoreError> {
        let mut second_try = true;
        loop {
            let link = self.client.link().await?;
            match link.unary(TXN, txn.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    let stale = error.is_stale_login();
                    if error.is_broken() || stale {
                        self.client.forget(&link);
                    }
                    if stale && std::mem::take(&mut second_try) {
                        continue;
                    }
                    return Err(failed(action, WriteError(error)));
                }
            }
        }
    }

    /// The answer to a write whose condition did not hold.
    async fn conflict(
        &self,
        key: &str,
        expected: Option<i64>,
        answer: &TxnResponse,
    ) -> DatastoreError {
        let told = answer.responses.first().and_then(|it| it.range.as_ref());
        let found = match told {
            Some(range) => range.kvs.first().map(|it| it.mod_revision),
            // K3s's kine takes no question in the "else" of a create: ask separately.
            None => self.get(key).await.ok().flatten().map(|it| it.revision),
        };
        DatastoreError::Conflict {
            key: key.to_owned(),
            expected,
            found,
        }
    }
}

/// What clusters without Kubernetes keep in etcd, in order. Whoever else keeps something there (API
/// servers, other programs) may need its history, and has its own rule for how long.
const OURS: [&str; 2] = ["/bootstrap/", "/kubepki/"];

/// Keys in one question: etcd's own limit for a transaction is 128 operations.
const AT_ONCE: usize = 32;

/// Where K3s's own etcd listens.
const EMBEDDED: &str = "https://127.0.0.1:2379";

#[async_trait]
impl Datastore for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<Record>, DatastoreError> {
        check_key(key)?;
        let action = format!("read {key}");
        let (answer, _) = self.range(key.as_bytes(), &[], &action).await?;
        answer.kvs.into_iter().next().map(record).transpose()
    }

    async fn get_all(&self, keys: &[String]) -> Result<Vec<Record>, DatastoreError> {
        keys.iter().try_for_each(|key| check_key(key))?;
        let mut records = Vec::with_capacity(keys.len());
        for keys in keys.chunks(AT_ONCE) {
            let txn = TxnRequest {
                compare: Vec::new(),
                success: keys.iter().map(|key| read(key)).collect(),
                failure: Vec::new(),
            };
            let action = format!("read {} keys", keys.len());
            let (answer, _): (TxnResponse, _) = self.ask(TXN, txn, &action).await?;
            let ranges = answer.responses.into_iter().filter_map(|it| it.range);
            for found in ranges.flat_map(|range| range.kvs) {
                records.push(record(found)?);
            }
        }
        Ok(records)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Record>, DatastoreError> {
        check_key(prefix)?;
        let action = format!("list {prefix}");
        let end = prefix_end(prefix.as_bytes());
        let (answer, _) = self.range(prefix.as_bytes(), &end, &action).await?;
        let mut records: Vec<Record> = answer
            .kvs
            .into_iter()
            .map(record)
            .collect::<Result<_, _>>()?;
        records.sort_by(|a, b| a.key.as_bytes().cmp(b.key.as_bytes()));
        Ok(records)
    }

    async fn create(&self, key: &str, value: &[u8]) -> Result<i64, DatastoreError> {
        check_key(key)?;
        let txn = TxnRequest {
            compare: vec![Compare::mod_revision(key, 0)],
            success: vec![put(key, value)],
            failure: Vec::new(),
        };
        let answer = self.write(txn, &format!("create {key}")).await?;
        if answer.succeeded {
            revision_of(answer.header.as_ref(), key)
        } else {
            Err(self.conflict(key, None, &answer).await)
        }
    }

    async fn update(&self, key: &str, revision: i64, value: &[u8]) -> Result<i64, DatastoreError> {
        check_key(key)?;
        check_revision(key, revision)?;
        let txn = TxnRequest {
            compare: vec![Compare::mod_revision(key, revision)],
            success: vec![put(key, value)],
            failure: vec![read(key)],
        };
        let answer = self.write(txn, &format!("update {key}")).await?;
        if answer.succeeded {
            revision_of(answer.header.as_ref(), key)
        } else {
            Err(self.conflict(key, Some(revision), &answer).await)
        }
    }

    async fn delete(&self, key: &str, revision: i64) -> Result<Option<i64>, DatastoreError> {
        check_key(key)?;
        check_revision(key, revision)?;
        let delete = DeleteRangeRequest {
            key: key.as_bytes().to_vec(),
        };
        let txn = TxnRequest {
            compare: vec![Compare::mod_revision(key, revision)],
            success: vec![operation(Operation::DeleteRange(delete))],
            failure: vec![read(key)],
        };
        let answer = self.write(txn, &format!("delete {key}")).await?;
        if answer.succeeded {
            revision_of(answer.header.as_ref(), key).map(Some)
        } else {
            Err(self.conflict(key, Some(revision), &answer).await)
        }
    }
}

#[async_trait]
impl Board for EtcdStore {
    async fn rewrite(&self, present: &Record, value: &[u8]) -> Result<i64, DatastoreError> {
        self.update(&present.key, present.revision, value).await
    }

    async fn forget(&self, revision: i64) -> Result<bool, DatastoreError> {
        check_revision("etcd's history", revision)?;
        if !self.is_ours_alone().await? {
            return Ok(false);
        }
        let link = self.client.link().await?;
        let request = CompactionRequest { revision };
        match link.unary::<_, CompactionResponse>(COMPACT, request).await {
            Ok(_) => Ok(true),
            // Somebody else has done so, further.
            Err(error) if error.is_compacted() => Ok(false),
            Err(error) => {
                if error.is_broken() || error.is_stale_login() {
                    self.client.forget(&link);
                }
                Err(failed("compact its history", error))
            }
        }
    }
}

#[async_trait]
impl Archive for EtcdStore {
    async fn newest_revision(&self) -> Result<i64, DatastoreError> {
        let action = "read its revision";
        // Any key will do: every answer names the revision of the whole datastore.
        let (answer, _) = self.range(b"/bootstrap", &[], action).await?;
        revision_of(answer.header.as_ref(), "its revision")
    }

    async fn former(&self, prefix: &str) -> Result<Vec<Former>, DatastoreError> {
        check_key(prefix)?;
        history::read(self, prefix).await
    }
}

fn failed(action: &str, source: impl std::error::Error + Send + Sync + 'static) -> DatastoreError {
    DatastoreError::Failed {
        action: action.to_owned(),
        source: Box::new(source),
    }
}

fn operation(operation: Operation) -> RequestOp {
    RequestOp {
        operation: Some(operation),
    }
}

fn put(key: &str, value: &[u8]) -> RequestOp {
    operation(Operation::Put(PutRequest {
        key: key.as_bytes().to_vec(),
        value: value.to_vec(),
    }))
}

fn read(key: &str) -> RequestOp {
    operation(Operation::Range(RangeRequest {
        key: key.as_bytes().to_vec(),
        ..RangeRequest::default()
    }))
}

fn revision_of(header: Option<&ResponseHeader>, what: &str) -> Result<i64, DatastoreError> {
    match header {
        Some(header) if header.revision > 0 => Ok(header.revision),
        _ => Err(DatastoreError::Malformed {
            place: format!("etcd's answer about {what}"),
            problem: "it names no revision".to_owned(),
        }),
    }
}

fn record(found: KeyValue) -> Result<Record, DatastoreError> {
    Ok(Record {
        key: text_key(found.key)?,
        value: Zeroizing::new(found.value),
        revision: found.mod_revision,
        create_revision: found.create_revision,
    })
}

fn text_key(key: Vec<u8>) -> Result<String, DatastoreError> {
    String::from_utf8(key).map_err(|error| DatastoreError::Malformed {
        place: format!("etcd's key {:?}", String::from_utf8_lossy(error.as_bytes())),
        problem: "its name is not text".to_owned(),
    })
}

/// The first key after all that begin with `prefix`; etcd reads a zero byte as "no end".
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// etcd takes an empty key for another question.
fn check_key(key: &str) -> Result<(), DatastoreError> {
    if key.is_empty() {
        return Err(DatastoreError::Malformed {
            place: "the name of a key".to_owned(),
            problem: "it is empty".to_owned(),
        });
    }
    Ok(())
}

/// 0 would mean "if the key does not exist".
fn check_revision(key: &str, revision: i64) -> Result<(), DatastoreError> {
    if revision <= 0 {
        return Err(DatastoreError::Malformed {
            place: format!("the revision {revision} of {key}"),
            problem: "revisions begin with 1".to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_one() {
        assert_eq!(prefix_end(b"/bootstrap"), b"/bootstraq");
        assert_eq!(prefix_end(b"/b\xff\xff"), b"/c");
        assert_eq!(prefix_end(b"\xff"), [0]);
    }
}
