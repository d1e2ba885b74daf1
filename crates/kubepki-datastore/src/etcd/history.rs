//! What etcd still remembers of keys: every write since the last compaction.

use std::collections::BTreeMap;
use std::time::Duration;

use kubepki::datastore::{DatastoreError, Former};
use tonic::Streaming;
use zeroize::Zeroizing;

use super::client::Link;
use super::error::RpcError;
use super::message::{
    Event, KeyValue, RangeRequest, RangeResponse, WatchCreateRequest, WatchRequest, WatchResponse,
};
use super::{EtcdStore, RANGE, failed, prefix_end, text_key};

const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// etcd hands out history ten times a second and does not say when it is through.
const QUIET: Duration = Duration::from_secs(1);
/// How long to wait for history that must still come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Every value of keys that begin with `prefix` that is no longer their present one.
///
/// The history is watched from revision 1; where that is compacted, etcd says which revision is
/// the oldest, and what the keys held then is asked for, the rest watched. All has arrived when
/// replaying it gives what the keys hold now, and nothing more comes for a second.
pub(super) async fn read(store: &EtcdStore, prefix: &str) -> Result<Vec<Former>, DatastoreError> {
    let action = format!("read the history of {prefix}");
    let end = prefix_end(prefix.as_bytes());
    let (present, link) = store.range(prefix.as_bytes(), &end, &action).await?;
    let walk = Walk {
        link: &link,
        prefix: prefix.as_bytes(),
        end: &end,
        goal: state(&present.kvs),
        newest: present.header.map_or(0, |header| header.revision),
    };
    let gone = walk.gone().await.map_err(|error| {
        if error.is_broken() {
            store.client.forget(&link);
        }
        failed(&action, error)
    })?;
    let mut former = Vec::with_capacity(gone.len());
    for old in gone {
        let key = text_key(old.key)?;
        former.push(Former {
            place: format!("etcd's history of {key}, revision {}", old.mod_revision),
            value: Zeroizing::new(old.value),
            revision: Some(old.mod_revision),
            key,
        });
    }
    former.sort_by_key(|it| it.revision);
    Ok(former)
}

/// Each key and the revision that wrote it.
type State = BTreeMap<Vec<u8>, i64>;

fn state(kvs: &[KeyValue]) -> State {
    kvs.iter()
        .map(|it| (it.key.clone(), it.mod_revision))
        .collect()
}

struct Walk<'a> {
    link: &'a Link,
    prefix: &'a [u8],
    end: &'a [u8],
    /// What the keys hold now.
    goal: State,
    /// etcd's revision when that was asked.
    newest: i64,
}

impl Walk<'_> {
    async fn gone(&self) -> Result<Vec<KeyValue>, RpcError> {
        let mut start = 1;
        // A second compaction may come between the two questions; not many can.
        for _ in 0..5 {
            let base = match start {
                1 => Vec::new(),
                oldest => self.at(oldest).await?.unwrap_or_default(),
            };
            let from = if start == 1 { 1 } else { start + 1 };
            match self.watch(from, base).await? {
                Watched::All(gone) => return Ok(gone),
                Watched::Compacted(oldest) => start = oldest,
            }
        }
        Err(self
            .link
            .nonsense("is a history that keeps being compacted"))
    }

    /// The keys as they were at `revision`; `None` if that is compacted by now.
    async fn at(&self, revision: i64) -> Result<Option<Vec<KeyValue>>, RpcError> {
        let question = RangeRequest {
            key: self.prefix.to_vec(),
            range_end: self.end.to_vec(),
            revision,
            ..RangeRequest::default()
        };
        match self.link.unary::<_, RangeResponse>(RANGE, question).await {
            Ok(answer) => Ok(Some(answer.kvs)),
            Err(error) if error.is_compacted() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn watch(&self, from: i64, base: Vec<KeyValue>) -> Result<Watched, RpcError> {
        let mut replay = Replay::new(base);
        if from > self.newest {
            return Ok(Watched::All(replay.gone(&self.goal)));
        }
        let question = WatchRequest {
            create: Some(WatchCreateRequest {
                key: self.prefix.to_vec(),
                range_end: self.end.to_vec(),
                start_revision: from,
            }),
        };
        let mut stream: Streaming<WatchResponse> = self.link.stream(WATCH, question).await?;
        loop {
            let complete = replay.present == self.goal;
            let limit = if complete { QUIET } else { PATIENCE };
            let message = match tokio::time::timeout(limit, stream.message()).await {
                Ok(message) => {
                    message.map_err(|status| RpcError::from_status(&self.link.member, &status))?
                }
                Err(_) => None,
            };
            let Some(message) = message else {
                if complete {
                    return Ok(Watched::All(replay.gone(&self.goal)));
                }
                return Err(self.link.nonsense("is an incomplete history"));
            };
            if message.canceled && message.compact_revision > 0 {
                return Ok(Watched::Compacted(message.compact_revision));
            }
            if message.canceled {
                return Err(self.link.refused(message.cancel_reason));
            }
            // What is written while we look is not history yet.
            let old = |event: &Event| {
                let revision = event.kv.as_ref().map(|it| it.mod_revision);
                revision.is_some_and(|revision| revision <= self.newest)
            };
            message
                .events
                .into_iter()
                .filter(old)
                .for_each(|event| replay.take(event));
        }
    }
}

enum Watched {
    All(Vec<KeyValue>),
    /// The oldest revision that can be read.
    Compacted(i64),
}

/// Events put one after the other.
struct Replay {
    present: State,
    values: Vec<KeyValue>,
}

impl Replay {
    fn new(base: Vec<KeyValue>) -> Self {
        Self {
            present: state(&base),
            values: base,
        }
    }

    fn take(&mut self, event: Event) {
        let Some(kv) = event.kv else { return };
        match event.kind {
            0 => {
                self.present.insert(kv.key.clone(), kv.mod_revision);
                self.values.push(kv);
            }
            _ => {
                self.present.remove(&kv.key);
            }
        }
    }

    /// Every value that is not in `goal`.
    fn gone(self, goal: &State) -> Vec<KeyValue> {
        let present = |it: &KeyValue| goal.get(&it.key) == Some(&it.mod_revision);
        self.values.into_iter().filter(|it| !present(it)).collect()
    }
}
