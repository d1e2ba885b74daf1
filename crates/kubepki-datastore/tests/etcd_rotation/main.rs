//! Both CAs of a three-member etcd are rotated, cross-signed, while a writer writes.
//!
//! What is served is leaf, new CA, cross-certificate; what is trusted is new CA, cross-certificate,
//! new root, old CA (K3s keeps both in one file and appends it to every leaf; the leaves here carry
//! the shorter chain). Each member is restarted once, with all of its files new at that moment.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod lab;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use kubepki::datastore::{Datastore, DatastoreError};
use pki::Certificate;
use testkit::{Etcd, EtcdMember, TlsFiles};

use crate::lab::{Lab, MEMBERS, authority, block_on, connect};
use crate::writer::{Writer, wait_for_writes};

#[test]
fn a_writer_loses_nothing_while_both_cas_of_three_members_are_rotated() {
    let lab = Lab::new();
    let (old, new) = (lab.old_client(), lab.new_client());
    let mut etcd = lab.start();
    let writers = [
        Writer::start("old", &etcd, &old),
        Writer::start("new", &etcd, &new),
    ];

    assert_everybody_connects(&etcd, &[&old, &new]);
    wait_for_writes(&writers, 20);
    for index in 0..MEMBERS {
        etcd.stop(index);
        // The two others agree without it, and both kinds of clients still write.
        wait_for_writes(&writers, 20);
        etcd.restart_with(index, lab.new_member(index));
        assert_everybody_connects(&etcd, &[&old, &new]);
        wait_for_writes(&writers, 20);
    }
    // Whoever is last to be restarted must not be the only one that could be spared.
    for index in 0..MEMBERS {
        etcd.await_healthy(index);
    }
    assert_nothing_lost(writers, &etcd, &new);
    // openssl, too, gets to the old root and to the new one on what is served.
    for client in [&old, &new] {
        assert_openssl_connects(&etcd, client);
    }
}

#[test]
fn a_new_root_that_the_old_one_did_not_sign_cuts_the_first_member_off() {
    let lab = Lab::new();
    let old = lab.old_client();
    let mut etcd = lab.start();
    let unrelated = authority("another root");
    let files = |name: &str| {
        let bundle = [unrelated.certificate().clone()];
        lab.leaf(name, &unrelated, &bundle, &bundle)
    };
    let settings = EtcdMember {
        client: Some(files("unrelated-server")),
        peer: Some(files("unrelated-peer")),
    };
    let alone = etcd.try_restart_with(0, settings, Duration::from_secs(15));
    let log = alone.expect_err("it must not find the others");
    assert!(log.contains("does not take part"), "{log}");
    assert!(etcd.log(0).contains("certificate"), "{}", etcd.log(0));

    // The two that were not touched go on, and do not let it in.
    block_on(async {
        // Without the others it serves nobody.
        let error = connect(&[etcd.url(0)], &old).await.unwrap_err();
        assert!(
            matches!(error, DatastoreError::Unreachable { .. }),
            "{error}"
        );
        etcd.await_healthy(1);
        let store = connect(&[etcd.url(1), etcd.url(2)], &old).await.unwrap();
        store
            .create("/bootstrap/after", b"two of three")
            .await
            .unwrap();
    });
}

#[test]
fn k3s_own_order_of_what_is_served_fails_for_openssl_with_the_old_root() {
    let lab = Lab::new();
    let (old, new) = (lab.old_client(), lab.new_client());
    let mut etcd = lab.start();
    let ca = &lab.server;
    // New CA, new root, cross-certificate, old CA: the order of K3s's script, appended to the leaf.
    let parts = [
        ca.new.certificate(),
        &ca.root,
        &ca.cross,
        ca.old.certificate(),
    ];
    let order: Vec<Certificate> = parts.into_iter().cloned().collect();
    let settings = EtcdMember {
        client: Some(lab.leaf("k3s-order", &ca.new, &order, &order)),
        ..lab.new_member(0)
    };
    etcd.restart_with(0, settings);
    let run = s_client(&etcd.url(0), &old);
    assert!(!run.success(), "{}", run.text());
    assert!(
        run.text()
            .contains("self-signed certificate in certificate chain"),
        "{}",
        run.text()
    );
    let run = s_client(&etcd.url(0), &new);
    assert!(run.success(), "{}", run.text());
    // Go and rustls find the other way, so etcd itself does not notice.
    assert_everybody_connects(&etcd, &[&old, &new]);
}

/// Every client reaches every member.
fn assert_everybody_connects(etcd: &Etcd, clients: &[&TlsFiles]) {
    // A change of leader is not what this is about, and may come again.
    (0..MEMBERS).for_each(|index| etcd.await_healthy(index));
    block_on(async {
        for url in etcd.urls() {
            for client in clients {
                let store = connect(std::slice::from_ref(&url), client).await.unwrap();
                let mut listed = store.list("/bootstrap").await;
                for _ in 0..60 {
                    if listed.is_ok() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    listed = store.list("/bootstrap").await;
                }
                listed.unwrap();
            }
        }
    });
}

fn assert_openssl_connects(etcd: &Etcd, client: &TlsFiles) {
    for url in etcd.urls() {
        let run = s_client(&url, client);
        assert!(run.success(), "{url}: {}", run.text());
    }
}

fn s_client(url: &str, client: &TlsFiles) -> testkit::Run {
    let trusted = client.trusted.as_ref().unwrap();
    let text = |path: &Path| path.display().to_string();
    let arguments = [
        "s_client".to_owned(),
        "-connect".to_owned(),
        url.trim_start_matches("https://").to_owned(),
        "-CAfile".to_owned(),
        text(trusted),
        "-cert".to_owned(),
        text(&client.cert),
        "-key".to_owned(),
        text(&client.key),
        "-verify_return_error".to_owned(),
    ];
    testkit::run("openssl", &arguments, b"")
}

fn assert_nothing_lost(writers: [Writer; 2], etcd: &Etcd, client: &TlsFiles) {
    let mut acknowledged = BTreeMap::new();
    for writer in writers {
        acknowledged.extend(writer.finish());
    }
    assert_eq!(acknowledged.len(), 50);
    // Each member by itself holds all of it.
    block_on(async {
        for url in etcd.urls() {
            let store = connect(&[url], client).await.unwrap();
            let found: BTreeMap<_, _> = store
                .list("/bootstrap")
                .await
                .unwrap()
                .into_iter()
                .map(|it| (it.key, (it.revision, it.value.to_vec())))
                .collect();
            assert_eq!(found, acknowledged);
        }
    });
}
