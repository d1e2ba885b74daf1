//! What we issue, looked at by our own reader; strangers look at it in `foreign`.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use pki::{
    Authority, AuthorityRequest, Certificate, CertificateRequest, DAY, Error, KeyAlgorithm,
    KeyUsage, LeafRequest, Name, PrivateKey, Purpose, San, Serial, UnixTime, Validity,
};

const START: UnixTime = UnixTime::from_secs(1_795_328_351);

fn years(count: i64) -> Validity {
    Validity {
        not_before: START,
        not_after: START.plus(count * 365 * DAY),
    }
}

fn serial() -> Serial {
    Serial::random(pki::random).unwrap()
}

fn root(algorithm: KeyAlgorithm) -> Authority {
    let name = Name::new(&[], "k3s-server-ca@1795328351").unwrap();
    Authority::self_signed(
        &name,
        PrivateKey::generate(algorithm).unwrap(),
        serial(),
        years(10),
    )
    .unwrap()
}

fn leaf(authority: &Authority, key: &PrivateKey, validity: Validity) -> Result<Certificate, Error> {
    authority.issue(&LeafRequest {
        organizations: &["system:masters".to_owned(), "second".to_owned()],
        common_name: "system:admin",
        sans: &[
            San::from_text("127.0.0.1"),
            San::from_text("localhost"),
            San::from_text("::1"),
        ],
        purposes: &[Purpose::ServerAuth, Purpose::ClientAuth],
        spki_der: key.spki_der(),
        serial: serial(),
        validity,
    })
}

#[test]
fn every_algorithm_signs_and_verifies() {
    for algorithm in [
        KeyAlgorithm::P256,
        KeyAlgorithm::P384,
        KeyAlgorithm::P521,
        KeyAlgorithm::Rsa(2048),
        KeyAlgorithm::Ed25519,
    ] {
        let ca = root(algorithm);
        assert!(ca.certificate().is_self_signed());
        assert_eq!(ca.certificate().authority_key_identifier(), None);
        let usage = ca.certificate().key_usage().unwrap();
        assert_eq!(usage.to_string(), "digitalSignature, keyCertSign, cRLSign");

        let key = PrivateKey::generate(algorithm).unwrap();
        let issued = leaf(&ca, &key, years(1)).unwrap();
        issued
            .verify_signature(ca.certificate().spki_der())
            .unwrap();
        assert_eq!(
            issued.verify_signature(key.spki_der()),
            Err(Error::BadSignature)
        );
        assert_eq!(
            issued.subject().organizations(),
            ["system:masters", "second"]
        );
        assert_eq!(
            issued.authority_key_identifier(),
            ca.certificate().subject_key_identifier()
        );
        assert_eq!(issued.issuer().der(), ca.certificate().subject().der());
        // DNS names first, then addresses, as Go writes them.
        let sans: Vec<_> = issued.sans().iter().map(ToString::to_string).collect();
        assert_eq!(sans, ["localhost", "127.0.0.1", "::1"]);
        let rsa = matches!(algorithm, KeyAlgorithm::Rsa(_));
        assert_eq!(
            issued.key_usage().unwrap().has(KeyUsage::KEY_ENCIPHERMENT),
            rsa
        );
        assert!(issued.serial().is_conformant());
        assert!(issued.basic_constraints().is_none());
    }
}

#[test]
fn keys_survive_their_pem() {
    for (algorithm, label) in [
        (KeyAlgorithm::P256, "EC PRIVATE KEY"),
        (KeyAlgorithm::P384, "EC PRIVATE KEY"),
        (KeyAlgorithm::P521, "EC PRIVATE KEY"),
        (KeyAlgorithm::Rsa(2048), "RSA PRIVATE KEY"),
        (KeyAlgorithm::Ed25519, "PRIVATE KEY"),
    ] {
        let key = PrivateKey::generate(algorithm).unwrap();
        let text = key.to_pem().unwrap();
        assert!(text.starts_with(&format!("-----BEGIN {label}-----\n")));
        let again = PrivateKey::from_pem(text.as_bytes()).unwrap();
        assert_eq!(again.spki_sha256(), key.spki_sha256());
        assert_eq!(again.algorithm(), algorithm);
        assert_eq!(*again.to_pem().unwrap(), *text);
    }
}

#[test]
fn a_leaf_never_outlives_its_ca() {
    let ca = root(KeyAlgorithm::P256);
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    for validity in [
        Validity {
            not_before: START.plus(-1),
            not_after: START.plus(DAY),
        },
        Validity {
            not_before: START,
            not_after: START.plus(10 * 365 * DAY + 1),
        },
        Validity {
            not_before: START.plus(2),
            not_after: START.plus(1),
        },
    ] {
        assert!(matches!(
            leaf(&ca, &key, validity),
            Err(Error::Unissuable { .. })
        ));
    }
    leaf(&ca, &key, years(10)).unwrap();
}

#[test]
fn a_path_length_of_zero_is_kept() {
    let ca = root(KeyAlgorithm::P256);
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let name = Name::new(&[], "intermediate").unwrap();
    let spki = key.spki_der().to_vec();
    let request = |path_len| AuthorityRequest {
        subject: &name,
        spki_der: &spki,
        subject_key_identifier: None,
        path_len,
        serial: serial(),
        validity: years(5),
    };
    let certificate = ca.issue_authority(&request(Some(0))).unwrap();
    assert_eq!(certificate.basic_constraints().unwrap().path_len, Some(0));
    let intermediate = Authority::new(certificate, key).unwrap();
    assert!(matches!(
        intermediate.issue_authority(&request(None)),
        Err(Error::Unissuable { .. })
    ));
}

#[test]
fn a_cross_certificate_keeps_name_key_and_identifier() {
    let old = root(KeyAlgorithm::P256);
    let new = root(KeyAlgorithm::P384);
    let cross = old
        .issue_authority(&AuthorityRequest {
            subject: new.certificate().subject(),
            spki_der: new.certificate().spki_der(),
            subject_key_identifier: new.certificate().subject_key_identifier(),
            path_len: None,
            serial: serial(),
            validity: years(10),
        })
        .unwrap();
    assert_eq!(cross.subject().der(), new.certificate().subject().der());
    assert_eq!(cross.spki_der(), new.certificate().spki_der());
    assert_eq!(
        cross.subject_key_identifier(),
        new.certificate().subject_key_identifier()
    );
    assert_eq!(
        cross.authority_key_identifier(),
        old.certificate().subject_key_identifier()
    );
    assert!(!cross.is_self_signed());
}

#[test]
fn strangers_keys_and_leaves_cannot_sign() {
    let ca = root(KeyAlgorithm::P256);
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let text = key.to_pem().unwrap();
    let mismatch = Authority::new(ca.certificate().clone(), key).err().unwrap();
    assert!(matches!(mismatch, Error::KeyMismatch { .. }));
    let key = PrivateKey::from_pem(text.as_bytes()).unwrap();
    let issued = leaf(&ca, &key, years(1)).unwrap();
    let refused = Authority::new(issued, key).err().unwrap();
    assert!(matches!(refused, Error::NotACertificateAuthority { .. }));
}

#[test]
fn requests_carry_their_names_and_are_checked() {
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let name = Name::new(&["system:nodes".to_owned()], "system:node:a").unwrap();
    let made = CertificateRequest::new(
        &name,
        &[San::from_text("a.example"), San::from_text("10.0.0.1")],
        &key,
    )
    .unwrap();
    let read = CertificateRequest::from_pem(made.to_pem().as_bytes()).unwrap();
    assert_eq!(read.subject(), &name);
    assert_eq!(
        read.sans(),
        [San::from_text("a.example"), San::from_text("10.0.0.1")]
    );
    assert_eq!(read.spki_der(), key.spki_der());
    let mut forged = made.der().to_vec();
    let end = forged.len() - 1;
    forged[end] ^= 1;
    assert!(CertificateRequest::from_der(&forged).is_err());
}

#[test]
fn times_past_2049_are_generalized() {
    let name = Name::new(&[], "far").unwrap();
    let validity = Validity {
        not_before: START,
        not_after: UnixTime::from_civil(2060, [1, 2, 3, 4, 5]).unwrap(),
    };
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let ca = Authority::self_signed(&name, key, serial(), validity).unwrap();
    assert_eq!(ca.certificate().validity(), validity);
}

#[test]
fn requests_say_purposes_after_names() {
    let key = PrivateKey::generate(KeyAlgorithm::Rsa(2048)).unwrap();
    let name = Name::new(&["system:masters".to_owned()], "kube-admin").unwrap();
    let sans = [San::from_text("10.0.0.1"), San::from_text("a.example")];
    let purposes = [Purpose::ClientAuth, Purpose::ServerAuth];
    let made = CertificateRequest::with_purposes(&name, &sans, &purposes, &key).unwrap();
    let read = CertificateRequest::from_pem(made.to_pem().as_bytes()).unwrap();
    assert_eq!(read.purposes(), purposes);
    assert_eq!(
        read.sans(),
        [San::from_text("a.example"), San::from_text("10.0.0.1")]
    );
    assert_eq!(read.spki_sha256(), key.spki_sha256());
    // id-ce-subjectAltName goes before id-ce-extKeyUsage, and neither is critical.
    let place = |id: u8| {
        let mark = [0x06, 0x03, 0x55, 0x1d, id];
        let found = read.der().windows(mark.len()).position(|it| it == mark);
        found.unwrap()
    };
    assert!(place(0x11) < place(0x25));
    let bare = CertificateRequest::with_purposes(&name, &[], &[], &key).unwrap();
    assert_eq!(
        bare.der(),
        CertificateRequest::new(&name, &[], &key).unwrap().der()
    );
}
