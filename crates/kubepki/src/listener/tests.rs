use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::test_pki::{authority, days, leaf};

fn names() -> Vec<String> {
    ["10.43.0.1", "::1", "localhost", "*.example.com"]
        .map(str::to_owned)
        .to_vec()
}

fn pair() -> (Certificate, String, String) {
    let ca = authority("k3s-server-ca@1");
    let (leaf, key) = leaf(
        &ca,
        "k3s",
        &["k3s"],
        &["localhost"],
        pki::Purpose::ServerAuth,
        days(365),
    );
    let chain = leaf.to_pem() + &ca.certificate().to_pem();
    (leaf, chain, key)
}

#[test]
fn keys_of_annotations_are_k3s_own() {
    assert_eq!(annotation_key("::1"), "listener.cattle.io/cn-__1-f16284");
    assert_eq!(
        annotation_key("*.example.com"),
        "listener.cattle.io/cn-_.example.com-36b9f3"
    );
    assert_eq!(
        annotation_key("127.0.0.1"),
        "listener.cattle.io/cn-127.0.0.1"
    );
    let verbatim = "a".repeat(63 - 22);
    assert_eq!(
        annotation_key(&verbatim),
        format!("listener.cattle.io/cn-{verbatim}")
    );
    let cut = annotation_key(&"a".repeat(64 - 22));
    assert_eq!(cut.len(), 63);
    assert!(cut.starts_with(&format!("listener.cattle.io/cn-{}-", "a".repeat(34))));
}

#[test]
fn names_are_taken_or_passed_over() {
    for name in ["a", "::1", "*.example.com", "a_b-c.d", "10.0.0.1"] {
        assert!(is_listener_name(name), "{name}");
    }
    for name in ["", "*", "*.", "a b", "-a", "a.", "a*.b", "https://a", "é"] {
        assert!(!is_listener_name(name), "{name}");
    }
}

#[test]
fn a_new_file_is_read_back() {
    let (leaf, chain, key) = pair();
    let bytes = render(&chain, &key, &names()).unwrap();
    assert!(
        bytes.starts_with(br#"{"metadata":{"annotations":{"listener.cattle.io/cn-10.43.0.1":"#)
    );
    assert!(bytes.ends_with(b"\"type\":\"kubernetes.io/tls\"}\n"));
    let listener = Listener::parse(&bytes).unwrap();
    assert_eq!(
        listener.sans,
        ["*.example.com", "10.43.0.1", "::1", "localhost"]
    );
    assert_eq!(listener.fingerprint, Some(fingerprint(&leaf)));
    assert_eq!(listener.certificate, chain.as_bytes());
    assert_eq!(listener.key.as_slice(), key.as_bytes());
    assert_eq!(listener.certificates().unwrap()[0], leaf);
    assert!(!format!("{listener:?}").contains("PRIVATE"));
}

#[test]
fn only_certificate_key_and_fingerprint_change() {
    let (_, chain, key) = pair();
    let first = String::from_utf8(render(&chain, &key, &names()).unwrap().to_vec()).unwrap();
    let first = first.replace(
        r#"{"metadata":{"#,
        r#"{"kind":"Secret","metadata":{"uid":"z","name":"a\u0026b","managedFields":[{"z":1,"a":null}],"#,
    );
    let (leaf, chain, key) = pair();
    let second = replace(first.as_bytes(), &chain, &key).unwrap();
    let back = String::from_utf8(second.to_vec()).unwrap();
    let mut parsed: Value = serde_json::from_str(&back).unwrap();
    assert_eq!(
        parsed["metadata"]["annotations"][FINGERPRINT],
        fingerprint(&leaf).as_str()
    );
    // Put the three old values back: the bytes are the old ones.
    let old: Value = serde_json::from_str(&first).unwrap();
    parsed["metadata"]["annotations"][FINGERPRINT] =
        old["metadata"]["annotations"][FINGERPRINT].clone();
    parsed["data"] = old["data"].clone();
    assert_eq!(parsed.to_string().replace('&', "\\u0026") + "\n", first);
    assert_eq!(
        Listener::parse(back.as_bytes()).unwrap().key.as_slice(),
        key.as_bytes()
    );
}

#[test]
fn sans_come_and_go_in_order() {
    let (_, chain, key) = pair();
    let bytes = render(&chain, &key, &names()).unwrap();
    let add = [
        "api.example.com".to_owned(),
        "fd00::1".to_owned(),
        "localhost".to_owned(),
    ];
    let more = edit_sans(&bytes, &add, &["10.43.0.1".to_owned(), "absent".to_owned()]).unwrap();
    assert_eq!(
        Listener::parse(&more).unwrap().sans,
        [
            "*.example.com",
            "::1",
            "api.example.com",
            "fd00::1",
            "localhost"
        ]
    );
    let same = edit_sans(&more, &["10.43.0.1".to_owned()], &add[..2]).unwrap();
    assert_eq!(same, bytes);
    let error = edit_sans(&bytes, &["a b".to_owned()], &[]).unwrap_err();
    insta::assert_snapshot!(error, @r#""a b" cannot be a SAN of the listener: letters, digits and -_.: are allowed, with a letter, digit or : at both ends and *. in front of it at most"#);
}

#[test]
fn what_is_no_listener_secret_is_refused() {
    let (_, chain, key) = pair();
    let message = |text: &str| {
        replace(text.as_bytes(), &chain, &key)
            .unwrap_err()
            .to_string()
    };
    insta::assert_snapshot!(message(" \n"), @"the file is empty; K3s makes a new certificate at its next start");
    insta::assert_snapshot!(message("{\"a\":"), @"not JSON from line 1, column 5 on; remove the file and K3s makes a new one at its next start");
    insta::assert_snapshot!(message("[]"), @"not a Kubernetes Secret: the JSON is not an object");
    insta::assert_snapshot!(message(r#"{"kind":"Pod"}"#), @r#"not a Kubernetes Secret: its kind is "Pod""#);
    insta::assert_snapshot!(message("{}"), @"the Secret has no tls.crt");
    insta::assert_snapshot!(message(r#"{"data":{"tls.crt":"?"}}"#), @"tls.crt is not base64");
    insta::assert_snapshot!(
        message(r#"{"metadata":{"annotations":{"listener.cattle.io/static":"true"}}}"#),
        @"the certificate is marked static; remove the annotation listener.cattle.io/static to have it replaced"
    );
    let (_, _, other) = pair();
    let good = render(&chain, &key, &names()).unwrap();
    let error = replace(&good, &chain, &other).unwrap_err();
    assert!(
        matches!(
            error,
            ListenerError::Material {
                what: "private key",
                ..
            }
        ),
        "{error:?}"
    );
}

proptest! {
    #[test]
    fn keys_are_valid_and_differ(name in "[a-z0-9.:*_-]{1,120}", other in "[a-z0-9.:*_-]{1,120}") {
        let key = annotation_key(&name);
        prop_assert!(key.len() < 64 && !key.contains([':', '*']));
        prop_assert_eq!(key == annotation_key(&other), name == other);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Listener::parse(&bytes);
    }
}
