//! A running etcd: the five verbs.

use std::error::Error;

use kubepki::datastore::{Archive, Datastore, DatastoreError};
use kubepki_datastore::Tls;
use kubepki_datastore::etcd::EtcdStore;
use testkit::{Etcd, EtcdMember};

use crate::lab::{KEY, connect};

#[tokio::test]
async fn many_keys_at_once_are_what_each_is() {
    let etcd = Etcd::plain();
    let store = connect(&etcd).await;
    assert!(store.get_all(&[]).await.unwrap().is_empty());
    let mut keys: Vec<String> = (0..70).map(|it| format!("/kubepki/many/{it}")).collect();
    for key in keys.iter().step_by(2) {
        store.create(key, key.as_bytes()).await.unwrap();
    }
    let gone = store.get(&keys[4]).await.unwrap().unwrap();
    store.delete(&keys[4], gone.revision).await.unwrap();
    let mut expected = Vec::new();
    for key in &keys {
        expected.extend(store.get(key).await.unwrap());
    }
    assert_eq!(expected.len(), 34);
    assert_eq!(store.get_all(&keys).await.unwrap(), expected);
    keys.push(String::new());
    assert!(matches!(
        store.get_all(&keys).await.unwrap_err(),
        DatastoreError::Malformed { .. }
    ));
}

#[tokio::test]
async fn create_update_and_delete_at_a_revision() {
    let etcd = Etcd::plain();
    let store = connect(&etcd).await;
    let start = store.newest_revision().await.unwrap();
    assert_eq!(store.get(KEY).await.unwrap(), None);
    assert!(store.list("/bootstrap").await.unwrap().is_empty());

    // K3s's lock: the key with an empty value.
    let lock = store.create(KEY, b"").await.unwrap();
    assert_eq!(lock, start + 1);
    let record = store.get(KEY).await.unwrap().unwrap();
    assert!(record.value.is_empty());
    assert_eq!((record.create_revision, record.revision), (lock, lock));

    let saved = store.update(KEY, lock, b"sealed").await.unwrap();
    let record = store.get(KEY).await.unwrap().unwrap();
    assert_eq!(record.value.as_slice(), b"sealed");
    assert_eq!((record.create_revision, record.revision), (lock, saved));
    assert_eq!(store.newest_revision().await.unwrap(), saved);

    assert_eq!(conflict(store.create(KEY, b"x").await), (None, Some(saved)));
    assert_eq!(
        conflict(store.update(KEY, lock, b"x").await),
        (Some(lock), Some(saved))
    );
    assert_eq!(
        conflict(store.delete(KEY, lock).await),
        (Some(lock), Some(saved))
    );
    assert_eq!(store.get(KEY).await.unwrap().unwrap(), record);

    let gone = store.delete(KEY, saved).await.unwrap();
    assert_eq!(gone, Some(saved + 1));
    assert_eq!(store.get(KEY).await.unwrap(), None);
    assert_eq!(
        conflict(store.update(KEY, saved, b"x").await),
        (Some(saved), None)
    );
    assert_eq!(
        conflict(store.delete(KEY, saved).await),
        (Some(saved), None)
    );
    // Revision 0 is etcd's "no such key"; it must not turn an update into a creation.
    for nonsense in [0, -1] {
        let refused = store.update(KEY, nonsense, b"x").await.unwrap_err();
        assert!(
            matches!(refused, DatastoreError::Malformed { .. }),
            "{refused}"
        );
        store.delete(KEY, nonsense).await.unwrap_err();
    }
    store.get("").await.unwrap_err();
    assert_eq!(store.get(KEY).await.unwrap(), None);
}

fn conflict<T: std::fmt::Debug>(result: Result<T, DatastoreError>) -> (Option<i64>, Option<i64>) {
    match result.unwrap_err() {
        DatastoreError::Conflict {
            key,
            expected,
            found,
        } => {
            assert_eq!(key, KEY);
            (expected, found)
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_list_is_sorted_and_ends_where_the_prefix_does() {
    let etcd = Etcd::plain();
    let store = connect(&etcd).await;
    let keys = [
        "/bootstrap",
        "/bootstrap/b",
        "/bootstrap/a",
        "/bootstrap0",
        "/bootstraq",
        "/boot",
    ];
    for key in keys {
        store.create(key, key.as_bytes()).await.unwrap();
    }
    let listed = store.list("/bootstrap").await.unwrap();
    let names: Vec<&str> = listed.iter().map(|record| record.key.as_str()).collect();
    assert_eq!(
        names,
        ["/bootstrap", "/bootstrap/a", "/bootstrap/b", "/bootstrap0"]
    );
    assert!(
        listed
            .iter()
            .all(|it| it.value.as_slice() == it.key.as_bytes())
    );
}

#[tokio::test]
async fn of_two_writers_one_wins_and_the_other_is_told() {
    let etcd = Etcd::plain();
    let (one, two) = (connect(&etcd).await, connect(&etcd).await);
    let mut revision = one.create(KEY, b"").await.unwrap();
    for _ in 0..50 {
        let (first, second) = tokio::join!(
            one.update(KEY, revision, b"one"),
            two.update(KEY, revision, b"two")
        );
        let (won, lost, value) = match (first, second) {
            (Ok(won), Err(lost)) => (won, lost, &b"one"[..]),
            (Err(lost), Ok(won)) => (won, lost, &b"two"[..]),
            both => panic!("{both:?}"),
        };
        assert_eq!(conflict::<()>(Err(lost)), (Some(revision), Some(won)));
        assert_eq!(one.get(KEY).await.unwrap().unwrap().value.as_slice(), value);
        revision = won;
    }
    let (first, second) = tokio::join!(one.delete(KEY, revision), two.delete(KEY, revision));
    assert_eq!(
        [&first, &second]
            .into_iter()
            .filter(|it| it.is_ok())
            .count(),
        1
    );
    let (first, second) = tokio::join!(one.create(KEY, b"one"), two.create(KEY, b"two"));
    assert_eq!(
        [&first, &second]
            .into_iter()
            .filter(|it| it.is_ok())
            .count(),
        1
    );
}

#[tokio::test]
async fn a_dead_member_first_in_the_list_does_not_matter() {
    let etcd = Etcd::plain();
    // Nobody listens there.
    let mut urls = vec!["http://127.0.0.1:1".to_owned()];
    urls.extend(etcd.urls());
    let store = EtcdStore::connect(&urls, &Tls::default()).await.unwrap();
    assert_eq!(store.get(KEY).await.unwrap(), None);

    let dead = EtcdStore::connect(&urls[..1], &Tls::default()).await;
    let text = dead.unwrap_err().to_string();
    assert!(
        text.contains("http://127.0.0.1:1") && text.contains("refused"),
        "{text}"
    );
}

#[tokio::test]
async fn members_that_cannot_answer_say_why() {
    let mut etcd = Etcd::plain();
    let learner = etcd.add_learner();
    let url = [etcd.url(learner)];
    let refused = EtcdStore::connect(&url, &Tls::default()).await.unwrap_err();
    assert!(refused.to_string().contains("it is a learner"), "{refused}");
    // Behind a voting member it does no harm.
    let mut urls = url.to_vec();
    urls.push(etcd.url(0));
    let store = EtcdStore::connect(&urls, &Tls::default()).await.unwrap();
    store.create(KEY, b"value").await.unwrap();

    let members = vec![EtcdMember::default(); 3];
    let mut etcd = Etcd::start(&members, None);
    let store = EtcdStore::connect(&etcd.urls(), &Tls::default())
        .await
        .unwrap();
    etcd.kill(1);
    // It may have been the leader.
    etcd.await_healthy(0);
    store.create(KEY, b"two of three").await.unwrap();
    etcd.kill(0);
    // The last one takes a while to see that it is alone.
    let url = [etcd.url(2)];
    let refused = loop {
        match EtcdStore::connect(&url, &Tls::default()).await {
            Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            Err(error) => break error.to_string(),
        }
    };
    assert!(refused.contains("has no leader"), "{refused}");
}

#[tokio::test]
async fn after_a_broken_write_it_is_said_that_it_may_have_been_done() {
    let mut etcd = Etcd::plain();
    let store = connect(&etcd).await;
    let mut written = store.create(KEY, b"0").await.unwrap();
    let mut attempt = 0;
    // The server dies while a writer writes as fast as it can.
    let (broken, etcd_back) = {
        let killer = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(300));
            etcd.kill(0);
            etcd
        });
        let broken = loop {
            attempt += 1;
            match store
                .update(KEY, written, format!("{attempt}").as_bytes())
                .await
            {
                Ok(revision) => written = revision,
                Err(error) => break error,
            }
        };
        (broken, killer.join().unwrap())
    };
    etcd = etcd_back;
    let source = broken.source().map(ToString::to_string).unwrap_or_default();
    match &broken {
        DatastoreError::Failed { action, .. } => {
            assert_eq!(action, &format!("update {KEY}"));
            assert!(
                source.contains("not known whether it was written"),
                "{source}"
            );
        }
        // It was down before this attempt began: nothing was sent.
        DatastoreError::Unreachable { .. } => {}
        other => panic!("{other}"),
    }
    let down = store.get(KEY).await.unwrap_err();
    assert!(matches!(down, DatastoreError::Unreachable { .. }), "{down}");

    // The same store finds the server again, and reading tells which of the two it was.
    etcd.resume(0);
    let record = store.get(KEY).await.unwrap().unwrap();
    let value = String::from_utf8(record.value.to_vec()).unwrap();
    let last = (attempt - 1).to_string();
    if record.revision == written {
        assert_eq!(value, last);
    } else {
        assert_eq!(value, attempt.to_string());
    }
    store.update(KEY, record.revision, b"on").await.unwrap();
}

#[tokio::test]
async fn nonsense_is_refused_without_its_password() {
    let cases: [(&[&str], &str); 5] = [
        (&[], "no address"),
        (&["etcd.example:2379"], "must begin with http"),
        (
            &["http://127.0.0.1:2379", "http://u:s3cret@:2379"],
            "number 2",
        ),
        (&["https://root:s3cret@127.0.0.1:1"], "refused"),
        (&["http://root:s3cret@127.0.0.1:1"], "refused"),
    ];
    for (urls, wanted) in cases {
        let urls: Vec<String> = urls.iter().map(|it| (*it).to_owned()).collect();
        let error = EtcdStore::connect(&urls, &Tls::default())
            .await
            .unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(wanted), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[tokio::test]
async fn somebody_who_speaks_no_etcd_is_told_apart() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 64]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    });
    let url = format!("http://127.0.0.1:{port}");
    let error = EtcdStore::connect(&[url], &Tls::default())
        .await
        .unwrap_err();
    assert!(
        matches!(error, DatastoreError::Unreachable { .. }),
        "{error}"
    );
    server.join().unwrap();
}
