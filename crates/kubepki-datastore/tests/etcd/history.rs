//! What a running etcd still remembers.

use kubepki::datastore::{Archive, Datastore};
use testkit::Etcd;

use crate::lab::{connect, told};

#[tokio::test]
async fn every_former_value_since_the_compaction_is_found() {
    let etcd = Etcd::plain();
    let store = connect(&etcd).await;
    assert_eq!(told(&store.former("/bootstrap").await.unwrap()), []);

    // A key that lived and died between two writes to others leaves no trace in what is there.
    let a = store.create("/bootstrap/a", b"a1").await.unwrap();
    let b = store.create("/bootstrap/b", b"b1").await.unwrap();
    store.delete("/bootstrap/b", b).await.unwrap();
    store
        .create("/registry/other", b"never asked for")
        .await
        .unwrap();
    let a2 = store.update("/bootstrap/a", a, b"a2").await.unwrap();
    let b2 = store.create("/bootstrap/b", b"b2").await.unwrap();
    let a3 = store.update("/bootstrap/a", a2, b"a3").await.unwrap();
    store.delete("/bootstrap/b", b2).await.unwrap();
    let all = [
        ("/bootstrap/a", &b"a1"[..], a),
        ("/bootstrap/b", b"b1", b),
        ("/bootstrap/a", b"a2", a2),
        ("/bootstrap/b", b"b2", b2),
    ];
    assert_eq!(told(&store.former("/bootstrap").await.unwrap()), all);

    // At the oldest revision the values of then can still be had.
    etcd.control(&["compact", &a2.to_string()]);
    assert_eq!(told(&store.former("/bootstrap").await.unwrap()), all[2..]);
    etcd.control(&["compact", &a3.to_string()]);
    assert_eq!(told(&store.former("/bootstrap").await.unwrap()), all[3..]);
    let newest = store.newest_revision().await.unwrap();
    etcd.control(&["compact", &newest.to_string()]);
    assert_eq!(told(&store.former("/bootstrap").await.unwrap()), []);
    assert_eq!(store.list("/bootstrap").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_long_history_comes_whole() {
    let etcd = Etcd::plain();
    let store = connect(&etcd).await;
    let mut revision = store.create("/bootstrap/a", b"0").await.unwrap();
    // etcd hands out at most 1000 revisions at once.
    for count in 1..=2_300 {
        let value = count.to_string();
        revision = store
            .update("/bootstrap/a", revision, value.as_bytes())
            .await
            .unwrap();
    }
    let former = store.former("/bootstrap").await.unwrap();
    assert_eq!(former.len(), 2_300);
    for (count, old) in former.iter().enumerate() {
        assert_eq!(old.value.as_slice(), count.to_string().as_bytes());
    }
}
