//! `member/snap/db` and snapshots, read without etcd.

use kubepki::datastore::{Archive, Datastore, DatastoreError};
use kubepki_datastore::etcd::{EtcdFile, FileKind, Unapplied};
use testkit::{Etcd, fixture};

use crate::lab::{KEY, assert_opens, connect, recorded, told};

#[tokio::test]
async fn a_snapshot_of_etcd_3_4_holds_what_etcdctl_recorded() {
    let fixture = fixture("k3s-1.36-etcd-external");
    let file = EtcdFile::open(&fixture.extra("etcd-snapshot.db")).unwrap();
    assert_eq!(file.kind(), FileKind::Snapshot);
    let recorded = recorded(&fixture);
    assert_eq!(recorded.len(), 1);
    assert_eq!(file.list("/bootstrap").await.unwrap(), recorded);
    assert_eq!(file.get(KEY).await.unwrap().as_ref(), recorded.first());
    assert_opens(&recorded[0].value, &fixture);

    // The restored server, its copy on disk, and the file agree on everything.
    let mut etcd = Etcd::restore(&fixture.extra("etcd-snapshot.db"));
    let store = connect(&etcd).await;
    assert_eq!(store.list("/bootstrap").await.unwrap(), recorded);
    assert_eq!(store.get(KEY).await.unwrap().as_ref(), recorded.first());
    assert_eq!(store.get("/bootstrap/none").await.unwrap(), None);
    // K3s's lock came first; it is empty.
    let former = file.former("/bootstrap").await.unwrap();
    assert_eq!(
        told(&former),
        [(KEY, &b""[..], recorded[0].create_revision)]
    );
    let running = store.former("/bootstrap").await.unwrap();
    assert_eq!(told(&running), told(&former));
    assert_eq!(
        store.newest_revision().await.unwrap(),
        file.newest_revision().await.unwrap()
    );

    etcd.stop(0);
    let stopped = EtcdFile::open(&etcd.database(0)).unwrap();
    assert_eq!(stopped.kind(), FileKind::Member);
    assert_eq!(stopped.list("/bootstrap").await.unwrap(), recorded);
}

#[tokio::test]
async fn the_embedded_etcd_of_a_stopped_k3s_is_read_from_its_files() {
    let fixture = fixture("k3s-1.36-etcd-embedded");
    let server = fixture.data_dir().join("server");
    let file = EtcdFile::stopped_member(&server).unwrap();
    assert_eq!(file.kind(), FileKind::Member);
    let recorded = recorded(&fixture);
    assert_eq!(file.list("/bootstrap").await.unwrap(), recorded);
    assert_opens(&recorded[0].value, &fixture);
    assert!(file.former("/bootstrap").await.unwrap().is_empty());
    assert_eq!(file.unapplied().await.unwrap(), Unapplied::default());
    assert!(file.newest_revision().await.unwrap() > recorded[0].revision);
    // Kubernetes' own keys are there too, many of them: the tree has branches.
    assert!(file.list("/registry/").await.unwrap().len() > 200);
}

#[tokio::test]
async fn what_only_the_log_holds_is_counted() {
    let mut etcd = Etcd::plain();
    let store = connect(&etcd).await;
    let mut revision = store.create(KEY, b"0").await.unwrap();
    // Each round ends in a crash; in most, the last writes are in the log alone.
    let mut seen = 0;
    for round in 0..60 {
        if round >= 4 && seen > 0 {
            break;
        }
        for count in 0..60 {
            let value = format!("{round} {count}");
            revision = store.update(KEY, revision, value.as_bytes()).await.unwrap();
        }
        etcd.kill(0);
        let file = EtcdFile::open(&etcd.database(0)).unwrap();
        let behind = file.unapplied().await.unwrap();
        let known = file.newest_revision().await.unwrap();
        assert_eq!(known + i64::try_from(behind.changes).unwrap(), revision);
        assert_eq!(behind.changes, behind.of_bootstrap);
        seen += behind.changes;
        etcd.resume(0);
        store.get(KEY).await.unwrap();
    }
    assert!(seen > 0, "no crash came before the database was written");

    etcd.stop(0);
    let file = EtcdFile::open(&etcd.database(0)).unwrap();
    assert_eq!(file.unapplied().await.unwrap(), Unapplied::default());
    assert_eq!(file.newest_revision().await.unwrap(), revision);
}

#[tokio::test]
async fn writing_is_refused_with_the_way_out() {
    let fixture = fixture("k3s-1.36-etcd-external");
    let path = fixture.extra("etcd-snapshot.db");
    let before = testkit::sha256(&std::fs::read(&path).unwrap());
    let file = EtcdFile::open(&path).unwrap();
    let refusals = [
        file.create("/bootstrap/x", b"x").await.unwrap_err(),
        file.update(KEY, 3, b"x").await.unwrap_err(),
        file.delete(KEY, 3).await.unwrap_err(),
    ];
    for refusal in refusals {
        assert!(
            matches!(refusal, DatastoreError::ReadOnly { .. }),
            "{refusal}"
        );
        assert!(refusal.to_string().contains("--cluster-reset-restore-path"));
    }
    assert_eq!(before, testkit::sha256(&std::fs::read(&path).unwrap()));
}

#[tokio::test]
async fn a_running_etcd_keeps_others_off_its_file() {
    let mut etcd = Etcd::plain();
    etcd.control(&["put", KEY, "value"]);
    let refused = EtcdFile::open(&etcd.database(0)).unwrap_err().to_string();
    assert!(
        refused.contains("an etcd that runs has locked it"),
        "{refused}"
    );

    etcd.stop(0);
    let file = EtcdFile::open(&etcd.database(0)).unwrap();
    assert_eq!(
        file.get(KEY).await.unwrap().unwrap().value.as_slice(),
        b"value"
    );
    // Our lock does not outlive the question, and a start in between is noticed.
    etcd.resume(0);
    let refused = file.get(KEY).await.unwrap_err().to_string();
    assert!(
        refused.contains("an etcd that runs has locked it"),
        "{refused}"
    );
}

#[tokio::test]
async fn history_in_a_file_knows_deletions_and_compaction() {
    let mut etcd = Etcd::plain();
    for (key, value) in [
        ("/bootstrap/a", "1"),
        ("/bootstrap/a", "2"),
        ("/bootstrap/b", "3"),
    ] {
        etcd.control(&["put", key, value]);
    }
    etcd.control(&["del", "/bootstrap/b"]);
    etcd.control(&["put", "/registry/x", "4"]);
    etcd.control(&["put", "/bootstrap/a", "5"]);
    let store = connect(&etcd).await;
    let newest = store.newest_revision().await.unwrap();
    etcd.stop(0);
    let file = EtcdFile::open(&etcd.database(0)).unwrap();
    let present = file.list("/bootstrap").await.unwrap();
    assert_eq!(present.len(), 1);
    assert_eq!((present[0].create_revision, present[0].revision), (2, 7));
    let former = file.former("/bootstrap").await.unwrap();
    let all = [
        ("/bootstrap/a", &b"1"[..], 2),
        ("/bootstrap/a", b"2", 3),
        ("/bootstrap/b", b"3", 4),
    ];
    assert_eq!(told(&former), all);
    assert!(
        former[0].place.contains("revision 2 of /bootstrap/a"),
        "{}",
        former[0].place
    );
    assert_eq!(file.newest_revision().await.unwrap(), newest);

    etcd.resume(0);
    etcd.control(&["compact", "--physical", "7"]);
    etcd.stop(0);
    assert_eq!(told(&file.former("/bootstrap").await.unwrap()), []);
    assert_eq!(file.list("/bootstrap").await.unwrap(), present);
    assert_eq!(file.newest_revision().await.unwrap(), newest);
}
