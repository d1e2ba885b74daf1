//! CAs that may not do what is asked of them.

use std::fs;

use super::SERVER;
use super::common::Node;
use super::trees::{CLIENT_CA, CLIENT_CA_KEY};

/// What a CA may not sign is known before anything is changed; what stands behind it and has ended
/// is told, for clients differ about it.
#[test]
fn a_cas_limits_are_known_beforehand() {
    let node = Node::new(SERVER);
    let key = node.text_path(CLIENT_CA_KEY);
    let request = [
        "req",
        "-x509",
        "-new",
        "-key",
        &key,
        "-subj",
        "/CN=limited",
        "-days",
        "900",
        "-addext",
        "extendedKeyUsage=serverAuth",
    ];
    let limited = testkit::openssl_ok(&request, b"").stdout;
    let present = fs::read(node.path(CLIENT_CA)).unwrap();
    node.overwrite(CLIENT_CA, &limited);
    let before = node.tree();
    let run = node.ends(&["rotate", "--yes", "--service", "admin"], 1);
    let says = "may not sign this: its extended key usage excludes clientAuth";
    assert!(run.text().contains(says), "{}", run.text());
    node.assert_untouched(&before);

    let ended = pki::Authority::self_signed(
        &pki::Name::new(&[], "ended").unwrap(),
        pki::PrivateKey::generate(pki::KeyAlgorithm::P256).unwrap(),
        pki::Serial::random(pki::random).unwrap(),
        pki::Validity {
            not_before: pki::UnixTime::from_secs(1_500_000_000),
            not_after: pki::UnixTime::from_secs(1_600_000_000),
        },
    );
    let ended = ended.unwrap().certificate().to_pem();
    node.overwrite(CLIENT_CA, &[&present[..], ended.as_bytes()].concat());
    let run = node.ok(&["rotate", "--dry-run", "--service", "admin"]);
    let says = "CN=ended behind client-ca expired 2020-09-13";
    assert!(run.text().contains(says), "{}", run.text());
}
