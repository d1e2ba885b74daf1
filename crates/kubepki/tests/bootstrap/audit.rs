//! Whole data have nothing to be said of; break one thing, and that is found.

use kubepki::bootstrap::{Bundle, Field, Flaw, audit, read_directory};
use kubepki::host::LocalHost;
use pki::UnixTime;
use testkit::Fixture;

/// 2026-11-23, a day after the recordings.
const NOW: UnixTime = UnixTime::from_secs(1_795_420_000);

fn recorded(name: &str) -> Bundle {
    let fixture = Fixture::without_datastore(name);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let server = fixture.data_dir().join("server");
    let read = runtime
        .unwrap()
        .block_on(read_directory(&LocalHost, &server));
    read.unwrap()
}

fn put(bundle: &mut Bundle, field: Field, content: &[u8]) {
    let file = bundle.files.get_mut(&field).unwrap();
    file.content = content.to_vec().into();
}

fn told(bundle: &Bundle, now: UnixTime) -> Vec<(&'static str, Flaw, String)> {
    let found = audit(bundle, now).into_iter();
    found.map(|it| (it.name, it.flaw, it.problem)).collect()
}

#[test]
fn every_recording_is_whole() {
    for name in [
        "k3s-1.36-sqlite",
        "k3s-1.36-custom-ca",
        "k3s-1.36-default-rotated",
        "k3s-1.36-new-root-forced",
        "k3s-1.36-encryption-token-rotated",
        "k3s-1.21-sqlite",
    ] {
        assert_eq!(told(&recorded(name), NOW), [], "{name}");
    }
}

type Spoil = fn(&mut Bundle);

#[test]
fn one_thing_broken_is_found() {
    let cases: [(Field, &str, Spoil); 9] = [
        (Field::ServerCa, "is missing", |it| {
            it.files.remove(&Field::ServerCa);
        }),
        (Field::IpsecKey, "is empty", |it| {
            put(it, Field::IpsecKey, b"")
        }),
        (Field::ClientCa, "cannot be read", |it| {
            put(it, Field::ClientCa, b"nothing");
        }),
        (Field::ClientCaKey, "cannot be read", |it| {
            put(it, Field::ClientCaKey, b"nothing");
        }),
        (Field::EtcdPeerCaKey, "is not the key of", |it| {
            let other = it.content(Field::ServerCaKey).unwrap().to_vec();
            put(it, Field::EtcdPeerCaKey, &other);
        }),
        (Field::ServiceKey, "cannot be read", |it| {
            put(it, Field::ServiceKey, b"nothing");
        }),
        (Field::PasswdFile, "has no user server", |it| {
            put(it, Field::PasswdFile, b"x,node,node,k3s:agent\n");
        }),
        (Field::EncryptionConfig, "is no JSON", |it| {
            put(it, Field::EncryptionConfig, b"{");
        }),
        (Field::EncryptionConfig, "one file is there", |it| {
            it.files.remove(&Field::EncryptionHash);
        }),
    ];
    for (field, problem, spoil) in cases {
        let mut bundle = recorded("k3s-1.36-encryption-token-rotated");
        spoil(&mut bundle);
        let told = told(&bundle, NOW);
        assert_eq!(told.len(), 1, "{field}: {told:?}");
        assert_eq!(told[0].0, field.name());
        assert!(told[0].2.contains(problem), "{told:?}");
    }
}

#[test]
fn a_ca_that_has_ended_or_lost_its_root_is_found() {
    let later = NOW.plus(20 * 365 * pki::DAY);
    let told_later = told(&recorded("k3s-1.36-sqlite"), later);
    assert_eq!(told_later.len(), 5, "{told_later:?}");
    let mut bundle = recorded("k3s-1.36-custom-ca");
    let file = bundle.content(Field::ServerCa).unwrap();
    let all = pki::Certificate::all_from_pem(file).unwrap();
    let first = all[0].to_pem();
    put(&mut bundle, Field::ServerCa, first.as_bytes());
    let told = told(&bundle, NOW);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].2.contains("does not lead to a root"), "{told:?}");
}
