use pki::{CertificateRequest, DAY, KeyAlgorithm, Name, PrivateKey, Purpose, San};
use proptest::prelude::*;

use super::*;
use crate::test_pki::{START, authority, client, days, leaf};

fn look(bytes: impl AsRef<[u8]>) -> Inspection {
    inspect(bytes.as_ref(), START.plus(DAY)).unwrap()
}

fn certificate(item: &Item) -> &CertificateReport {
    match item {
        Item::Certificate(report) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn dates_are_put_into_words() {
    let ca = authority("ca");
    let (leaf, _) = client(&ca, "u", days(365));
    let at = |now| {
        let inspection = inspect(leaf.to_pem().as_bytes(), now).unwrap();
        let report = certificate(&inspection.items[0]);
        (report.standing, report.left.clone())
    };
    let end = leaf.validity().not_after;
    assert_eq!(
        at(START.plus(-1)),
        (
            Standing::NotYetValid,
            "not valid yet, starts in 1 second".into()
        )
    );
    assert_eq!(at(START), (Standing::Valid, "365 days left".into()));
    assert_eq!(at(end), (Standing::Valid, "0 seconds left".into()));
    assert_eq!(
        at(end.plus(1)),
        (Standing::Expired, "expired 1 second ago".into())
    );
    assert_eq!(at(end.plus(3 * DAY)).1, "expired 3 days ago");
    for (seconds, words) in [
        (119, "119 seconds"),
        (120, "2 minutes"),
        (86_400, "24 hours"),
        (3650 * DAY, "10 years"),
        (3649 * DAY + 5, "9 years 364 days"),
        (731 * DAY, "2 years 1 day"),
    ] {
        assert_eq!(duration_words(seconds), words);
    }
}

#[test]
fn chain_and_key_are_matched() {
    let ca = authority("k3s-client-ca@1");
    let (leaf, key) = client(&ca, "system:admin", days(365));
    let inspection = look(leaf.to_pem() + &ca.certificate().to_pem() + &key);
    let bundle = inspection.bundle.as_ref().unwrap();
    assert!(bundle.leaf_first && bundle.in_order);
    assert_eq!(bundle.signed_by, [vec![2], vec![2]]);
    assert_eq!(bundle.remarks, ["1 is signed by 2", "2 is self-signed"]);
    let report = certificate(&inspection.items[0]);
    assert_eq!(report.subject, "CN=system:admin,O=system:masters");
    assert_eq!(report.purposes, ["clientAuth"]);
    assert_eq!(
        report.oddities,
        ["the group system:masters passes every authorization check of Kubernetes"]
    );
    let Item::PrivateKey(found) = &inspection.items[2] else {
        panic!("no key")
    };
    assert_eq!(
        (found.algorithm.as_str(), found.belongs_to),
        ("p256", Some(1))
    );
    assert_eq!(found.spki_sha256, leaf.spki_sha256().to_string());
    let secret = key.lines().nth(1).unwrap();
    let json = serde_json::to_string(&inspection).unwrap();
    assert!(!inspection.to_text().contains(secret) && !json.contains(secret));
}

#[test]
fn a_chain_in_the_wrong_order_is_named() {
    let (ca, other) = (authority("a"), authority("b"));
    let (leaf, _) = client(&ca, "u", days(365));
    let pem = |it: &pki::Certificate| it.to_pem();
    let turned =
        look(pem(ca.certificate()) + &pem(other.certificate()) + &pem(&leaf) + &pem(&leaf));
    let bundle = turned.bundle.unwrap();
    assert!(!bundle.leaf_first);
    assert_eq!(
        bundle.remarks,
        [
            "1 is self-signed",
            "2 is self-signed",
            "3 is signed by 1",
            "4 is signed by 1",
            "4 is the same as 3",
            "2 of them are end entities: not a chain",
        ]
    );
    let stranger = look(pem(&leaf) + &pem(other.certificate()));
    assert_eq!(
        stranger.bundle.unwrap().remarks[0],
        "1 is signed by none of these"
    );
}

#[test]
fn every_form_is_recognised() {
    let ca = authority("ca");
    let key = PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap();
    let name = Name::new(&["g".to_owned()], "u").unwrap();
    let request = CertificateRequest::new(&name, &[San::from_text("::1")], &key).unwrap();
    for input in [request.to_pem().into_bytes(), request.der().to_vec()] {
        let Item::Request {
            subject,
            sans,
            key: found,
        } = &look(&input).items[0]
        else {
            panic!()
        };
        assert_eq!(
            (subject.as_str(), sans.as_slice()),
            ("CN=u,O=g", &["::1".to_owned()][..])
        );
        assert_eq!(found.algorithm, "ed25519");
    }
    assert_eq!(
        certificate(&look(ca.certificate().der()).items[0]).role,
        "CA, self-signed"
    );
    for input in [
        key.spki_der().to_vec(),
        pki::pem::encode("PUBLIC KEY", key.spki_der())
            .as_bytes()
            .to_vec(),
    ] {
        assert!(matches!(&look(&input).items[0], Item::PublicKey(it) if it.algorithm == "ed25519"));
    }
    let blocks = pki::pem::blocks(key.to_pem().unwrap().as_bytes());
    assert!(matches!(
        &look(blocks[0].der.as_slice()).items[0],
        Item::PrivateKey(_)
    ));
    let encrypted = pki::pem::encode("ENCRYPTED PRIVATE KEY", b"0");
    assert!(matches!(
        &look(encrypted.as_bytes()).items[0],
        Item::EncryptedKey { .. }
    ));
    let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: \
        AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    insta::assert_snapshot!(look(legacy).to_text(), @r"
    private key, encrypted
      form         the key is encrypted in OpenSSL's legacy form (DEK-Info); convert it with `openssl pkcs8 -topk8 -in OLD -out NEW`
    ");
}

#[test]
fn kubeconfigs_tell_what_is_inlined_and_what_is_not() {
    let text = "current-context: c\nclusters:\n- {name: a, cluster: {server: 'https://a', \
        certificate-authority: /ca.crt}}\n- {name: b, cluster: {insecure-skip-tls-verify: true}}\n\
        - {name: c, cluster: {certificate-authority-data: eA==}}\nusers:\n\
        - {name: t, user: {token: hunter2}}\n- {name: f, user: {client-certificate: f.crt, \
        client-key: f.key}}\n- {name: x, user: {client-certificate-data: eA==, client-key-data: eA==}}\n";
    let inspection = look(text);
    assert!(
        !serde_json::to_string(&inspection)
            .unwrap()
            .contains("hunter2")
    );
    insta::assert_snapshot!(inspection.to_text(), @r#"
    kubeconfig
      context      c
      cluster "a"
        server       https://a
        verified by  the file /ca.crt
      cluster "b"
        verified by  nothing: any server is taken for this one
      cluster "c"
        verified by  an inlined bundle that cannot be read: no CERTIFICATE PEM block found
      user "t"
        also by      token
      user "f"
        certificate  in the file f.crt
        private key  in the file f.key
      user "x"
        problem      the certificate cannot be read: no CERTIFICATE PEM block found
        problem      the private key cannot be read: no PRIVATE KEY PEM block found
    "#);
}

#[test]
fn a_listener_secret_is_held_to_its_annotations() {
    let ca = authority("k3s-server-ca@1");
    let (leaf, key) = leaf(
        &ca,
        "k3s",
        &["k3s"],
        &["localhost", "::1"],
        Purpose::ServerAuth,
        days(365),
    );
    let sans = ["localhost", "::1", "10.43.0.1"].map(str::to_owned);
    let secret = crate::listener::render(&leaf.to_pem(), &key, &sans).unwrap();
    let inspection = look(&secret[..]);
    let Item::ListenerSecret(report) = &inspection.items[0] else {
        panic!("no Secret")
    };
    assert_eq!(
        report.problems,
        ["the annotations ask for 10.43.0.1, which the certificate lacks"]
    );
    assert_eq!(report.key.as_ref().unwrap().belongs_to, Some(1));
    assert!(
        inspection
            .to_text()
            .starts_with("Secret of a TLS listener\n  SANs wanted  10.43.0.1, ::1, localhost\n")
    );
}

#[test]
fn text_from_the_input_cannot_move_the_cursor() {
    let ca = authority("ca");
    let (leaf, _) = leaf(
        &ca,
        "a\u{1b}[2J\u{202e}b",
        &["l\nne"],
        &[],
        Purpose::ClientAuth,
        days(1),
    );
    let inspection = look(leaf.to_pem());
    let report = certificate(&inspection.items[0]);
    assert_eq!(report.subject, r"CN=a\u{1b}[2J\u{202e}b,O=l\u{a}ne");
    let config = "users:\n- name: \"\\e[31m\\n\"\n  user: {client-certificate: \"\\a\"}\n";
    let text = look(config).to_text();
    assert!(
        text.chars()
            .all(|letter| letter == '\n' || !letter.is_control()),
        "{text:?}"
    );
    let long = "x".repeat(1000);
    let text = look(format!("users:\n- name: {long}\n")).to_text();
    assert!(text.contains("… (1000 characters)") && text.len() < 500);
}

#[test]
fn what_is_nothing_known_is_refused() {
    let message = |bytes: &[u8]| {
        let error = inspect(bytes, START).unwrap_err();
        crate::error_chain(&error)
    };
    insta::assert_snapshot!(message(b" \n"), @"the input is empty");
    insta::assert_snapshot!(message(b"hello"), @"neither PEM, nor DER of a certificate, request or key, nor a kubeconfig, nor a Secret");
    insta::assert_snapshot!(message(b"users: x"), @"a damaged kubeconfig: line 1: users is text, not a list");
    insta::assert_snapshot!(message(br#"{"kind":"Secret","data":{}}"#), @"a damaged Secret: the Secret has no tls.crt");
    assert!(message(b"\x30\x03\x02\x01\xff").starts_with("neither PEM, nor DER"));
    assert_eq!(
        message(&vec![b'x'; LIMIT + 1]),
        "the input has 8388609 bytes; at most 8388608 are read"
    );
    let broken = look("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
    assert_eq!(
        broken.notes,
        ["1 damaged PEM block is skipped, as Kubernetes skips it"]
    );
    let wrong = look("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert!(matches!(&wrong.items[0], Item::Other { label, .. } if label == "CERTIFICATE"));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), head in 0_usize..4) {
        let heads: [&[u8]; 4] = [b"", b"-----BEGIN CERTIFICATE-----\n", b"{\"kind\":\"Secret\",", b"\x30\x82"];
        bytes.splice(0..0, heads[head].iter().copied());
        if let Ok(inspection) = inspect(&bytes, START) {
            inspection.to_text();
        }
    }

    #[test]
    fn a_damaged_certificate_does_not_panic(at in 0_usize..400, to in any::<u8>()) {
        let ca = authority("ca");
        let mut der = ca.certificate().der().to_vec();
        let at = at % der.len();
        der[at] = to;
        if let Ok(inspection) = inspect(&der, START) {
            inspection.to_text();
        }
    }
}
