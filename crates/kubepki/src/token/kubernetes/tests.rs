//! Rows as kube-apiserver writes them, built field by field, and what becomes of bad ones.

use proptest::prelude::*;
use testkit::kube::{KubeSecret, aes_cbc, encryption_config};

use super::*;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const ID: &str = "abc123";
const SECRET: &str = "0123456789abcdef";

fn made() -> KubeSecret {
    KubeSecret::bootstrap_token(ID, SECRET, Some("2027-01-15T09:00:00Z"))
}

fn encryption(key: &[u8; 32]) -> Encryption {
    Encryption::of(encryption_config("key", key).as_bytes())
}

fn found(value: &[u8], encryption: &Encryption) -> Result<BootstrapToken, Unreadable> {
    let record = Record {
        key: format!("{PREFIX}{ID}"),
        value: value.to_vec().into(),
        revision: 1,
        create_revision: 1,
    };
    let found = Found::of(&record, encryption);
    assert_eq!(found.id, ID);
    found.token
}

fn read(value: &[u8]) -> Result<BootstrapToken, Unreadable> {
    found(value, &Encryption::default())
}

fn shown() -> made::Secret {
    made::Secret::parse(&format!("{ID}.{SECRET}")).unwrap()
}

#[test]
fn every_stored_form_of_one_token_reads_the_same() {
    let key = [9; 32];
    let sealed = aes_cbc(&made().protobuf(), "key", &key);
    for (value, encryption) in [
        (made().protobuf(), Encryption::default()),
        (made().json(), Encryption::default()),
        (sealed.clone(), encryption(&key)),
        // What was written before encryption began.
        (made().protobuf(), encryption(&key)),
    ] {
        let token = found(&value, &encryption).unwrap();
        let groups = token.admits(&shown(), NOW).unwrap();
        let expected = [GROUP, "system:bootstrappers:k3s:default-node-token"];
        assert_eq!(groups, expected);
        assert_eq!(token.usages, ["authentication", "signing"]);
        assert_eq!(token.description.as_deref(), Some("rack 7"));
        let end = UnixTime::from_secs(1_800_003_600);
        assert_eq!(token.expiration, Expiration::At(end));
        assert_eq!(token.admits(&shown(), end), Err(Unfit::Expired(end)));
        assert!(token.admits(&shown(), end.plus(-1)).is_ok());
        assert!(!format!("{token:?}").contains(SECRET));
    }
    let other = found(&sealed, &encryption(&[8; 32]));
    assert!(matches!(
        other,
        Err(Unreadable::WrongKey { .. } | Unreadable::Malformed { .. })
    ));
    assert!(matches!(read(&sealed), Err(Unreadable::NoKey { .. })));
}

#[test]
fn kubernetes_rules_decide() {
    let admits = |secret: &KubeSecret| {
        let [protobuf, json] = [secret.protobuf(), secret.json()].map(|it| read(&it).unwrap());
        assert_eq!(protobuf, json);
        protobuf.admits(&shown(), NOW)
    };
    let why = |key: &str, value: Option<&str>| admits(&made().with(key, value));
    assert!(why("expiration", None).is_ok());
    assert!(why("expiration", Some("")).is_ok());
    assert_eq!(why("auth-extra-groups", None).unwrap(), [GROUP]);
    for (key, value, unfit) in [
        ("token-id", Some("abc124"), Unfit::OtherId),
        ("token-id", None, Unfit::OtherId),
        ("token-secret", Some("0123456789abcdee"), Unfit::WrongSecret),
        ("token-secret", None, Unfit::WrongSecret),
        ("token-secret", Some(""), Unfit::WrongSecret),
        ("expiration", Some("soon"), Unfit::UnreadableExpiration),
        (
            "expiration",
            Some("2027-01-15 09:00:00Z"),
            Unfit::UnreadableExpiration,
        ),
        (
            "expiration",
            Some("2027-02-30T09:00:00Z"),
            Unfit::UnreadableExpiration,
        ),
        (
            "usage-bootstrap-authentication",
            None,
            Unfit::NotForAuthentication,
        ),
        (
            "usage-bootstrap-authentication",
            Some("True"),
            Unfit::NotForAuthentication,
        ),
        (
            "auth-extra-groups",
            Some("system:masters"),
            Unfit::BadGroups,
        ),
        (
            "auth-extra-groups",
            Some("system:bootstrappers:a,k3s:server"),
            Unfit::BadGroups,
        ),
        (
            "auth-extra-groups",
            Some("system:bootstrappers:"),
            Unfit::BadGroups,
        ),
        (
            "auth-extra-groups",
            Some("system:bootstrappers:a,"),
            Unfit::BadGroups,
        ),
    ] {
        assert_eq!(why(key, value), Err(unfit), "{key} {value:?}");
    }
    let (mut opaque, mut deleted) = (made(), made());
    opaque.kind = "Opaque".to_owned();
    deleted.is_deleted = true;
    assert_eq!(admits(&opaque), Err(Unfit::OtherType));
    assert_eq!(admits(&deleted), Err(Unfit::Deleted));
}

#[test]
fn times_are_read_as_go_reads_them() {
    let at = |text: &str| time(text.as_bytes());
    let end = Expiration::At(UnixTime::from_secs(1_800_003_600));
    for text in [
        "2027-01-15T09:00:00Z",
        "2027-01-15T10:30:00.999999999+01:30",
    ] {
        assert_eq!(at(text), end, "{text}");
    }
    for text in [
        "2027-01-15t09:00:00z",
        "2027-01-15T09:00Z",
        "2027-01-15T09:00:60Z",
        "2027-01-15T09:00:00",
        "2027-01-15T09:00:00.Z",
        "2027-01-15T24:00:00Z",
        "2027-01-15T09:00:00Z ",
        "+002027-01-15T09:00:00Z",
        "2027-01-15T09:00:00[UTC]",
    ] {
        assert_eq!(at(text), Expiration::Unreadable, "{text}");
    }
    assert_eq!(time(b"\xff"), Expiration::Unreadable);
}

#[test]
fn bad_rows_are_told_and_quote_nothing() {
    let good = made().protobuf();
    let json = String::from_utf8(made().json()).unwrap();
    let mut renamed = made();
    renamed.name = "bootstrap-token-abc124".to_owned();
    let mut bad: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"k8s\0".to_vec(),
        b"{".to_vec(),
        b"{}".to_vec(),
        b"null".to_vec(),
        SECRET.as_bytes().to_vec(),
        renamed.protobuf(),
        json.replace('=', "!").into_bytes(),
        json.replace("\"Secret\"", "\"ConfigMap\"").into_bytes(),
    ];
    bad.extend((0..good.len()).map(|length| good[..length].to_vec()));
    for value in bad {
        match read(&value) {
            Err(error) => assert!(!error.to_string().contains(SECRET), "{error}"),
            // What is cut off behind the Secret says nothing of it.
            Ok(token) => assert!(token.admits(&shown(), NOW).is_ok()),
        }
    }
}

/// Field numbers and encryption are those of real clusters: a Secret that K3s wrote is read to its
/// last octet.
#[test]
fn real_rows_are_read_whole() {
    let fixture = |name: &str| testkit::Fixture::new(name);
    let plain = fixture("k3s-1.36-sqlite");
    let sealed = fixture("k3s-1.36-encryption-token-rotated");
    let keys = std::fs::read(sealed.data_dir().join("server/cred/encryption-config.json")).unwrap();
    for (fixture, encryption) in [
        (&plain, Encryption::default()),
        (&sealed, Encryption::of(&keys)),
    ] {
        let value = row(fixture, "/registry/secrets/kube-system/k3s-serving");
        let secret = Secret::parse(&encryption.open(&value).unwrap()).unwrap();
        let named = (secret.namespace.as_str(), secret.name.as_str());
        assert_eq!(named, ("kube-system", "k3s-serving"));
        assert_eq!(secret.kind, "kubernetes.io/tls");
        assert!(!secret.is_deleted);
        let keys: Vec<&str> = secret.data.keys().map(String::as_str).collect();
        assert_eq!(keys, ["tls.crt", "tls.key"]);
        let leaf = pki::Certificate::all_from_pem(&secret.data["tls.crt"]).unwrap();
        let key = pki::PrivateKey::from_pem(&secret.data["tls.key"]).unwrap();
        assert_eq!(leaf[0].spki_der(), key.spki_der());
    }
    let closed = row(&sealed, "/registry/secrets/kube-system/k3s-serving");
    let error = Encryption::default().open(&closed).unwrap_err();
    assert!(error.to_string().contains("aescbc:v1:aescbckey"), "{error}");
}

/// A value of a fixture's SQLite datastore, through the sqlite3 program.
fn row(fixture: &testkit::Fixture, key: &str) -> Vec<u8> {
    let file = fixture.data_dir().join("server/db/state.db");
    let question =
        format!("select hex(value) from kine where name = '{key}' order by id desc limit 1");
    let run = testkit::run("sqlite3", &[&file.display().to_string(), &question], b"");
    pki::unhex(String::from_utf8(run.stdout).unwrap().trim()).unwrap()
}

proptest! {
    #[test]
    fn any_row_is_answered(
        begin in prop_oneof![Just("k8s\0"), Just("{"), Just("k8s:enc:aescbc:v1:key:"), Just("")],
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let value = [begin.as_bytes(), &bytes].concat();
        if let Ok(token) = found(&value, &encryption(&[1; 32])) {
            prop_assert!(token.admits(&shown(), NOW).is_err());
        }
    }

    /// One octet changed anywhere makes another token or none, never a panic, and never one of
    /// more groups than bootstrap tokens may have.
    #[test]
    fn a_changed_octet_gives_no_other_group(at in 0usize..400, to in any::<u8>()) {
        let mut value = made().protobuf();
        let at = at % value.len();
        value[at] = to;
        if let Ok(groups) = read(&value).map(|it| it.admits(&shown(), NOW).unwrap_or_default()) {
            prop_assert!(groups.iter().all(|it| it.starts_with(GROUP)));
        }
    }
}
