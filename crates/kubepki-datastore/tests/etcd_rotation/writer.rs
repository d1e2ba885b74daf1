//! Somebody who writes all the time and remembers what was acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kubepki::datastore::Datastore;
use kubepki_datastore::etcd::EtcdStore;
use testkit::{Etcd, TlsFiles};

use crate::lab::{block_on, connect};

/// Writes new keys and replaces values as fast as it can, and keeps what was acknowledged.
pub struct Writer {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: JoinHandle<BTreeMap<String, (i64, Vec<u8>)>>,
}

impl Writer {
    pub fn start(name: &'static str, etcd: &Etcd, client: &TlsFiles) -> Self {
        let (stop, count) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (urls, client) = (etcd.urls(), client.clone());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let thread = std::thread::spawn(move || {
            block_on(write_on(name, &urls, &client, &stopped, &counted))
        });
        Self {
            stop,
            count,
            thread,
        }
    }

    pub fn finish(self) -> BTreeMap<String, (i64, Vec<u8>)> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

async fn write_on(
    name: &str,
    urls: &[String],
    client: &TlsFiles,
    stop: &AtomicBool,
    count: &AtomicU64,
) -> BTreeMap<String, (i64, Vec<u8>)> {
    let store = connect(urls, client).await.unwrap();
    let mut acknowledged: BTreeMap<String, (i64, Vec<u8>)> = BTreeMap::new();
    let mut attempted: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    let mut number = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        let key = format!("/bootstrap/{name}-{}", number % 25);
        let value = format!("{name} {number}").into_bytes();
        number += 1;
        let written = match acknowledged.get(&key) {
            Some((revision, _)) => store.update(&key, *revision, &value).await,
            None => store.create(&key, &value).await,
        };
        attempted
            .entry(key.clone())
            .or_default()
            .push(value.clone());
        let now = match written {
            Ok(revision) => Some((revision, value)),
            // An answer was lost, or the attempt before, whose answer was lost, was done after
            // all. Nobody else writes this key: what is there is one of our own attempts.
            Err(_) => settle(&store, &key).await,
        };
        let Some(now) = now else {
            assert_eq!(acknowledged.get(&key), None, "{key} is gone");
            continue;
        };
        if acknowledged.get(&key) == Some(&now) {
            continue;
        }
        let ours = attempted.remove(&key).unwrap_or_default();
        assert!(
            ours.contains(&now.1),
            "{key}: an acknowledged write was lost"
        );
        acknowledged.insert(key, now);
        count.fetch_add(1, Ordering::SeqCst);
    }
    acknowledged
}

/// What `key` holds, asked until somebody answers.
async fn settle(store: &EtcdStore, key: &str) -> Option<(i64, Vec<u8>)> {
    for _ in 0..600 {
        if let Ok(found) = store.get(key).await {
            return found.map(|it| (it.revision, it.value.to_vec()));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("etcd has had no quorum for a minute");
}

/// Waits until each writer has written that often again.
pub fn wait_for_writes(writers: &[Writer], count: u64) {
    for writer in writers {
        let goal = writer.count.load(Ordering::SeqCst) + count;
        for _ in 0..1200 {
            if writer.count.load(Ordering::SeqCst) >= goal {
                break;
            }
            assert!(!writer.thread.is_finished(), "a writer gave up");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(
            writer.count.load(Ordering::SeqCst) >= goal,
            "a writer is stuck"
        );
    }
}
