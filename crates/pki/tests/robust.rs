//! Bad input: an error, never a panic; and what was written is what is read.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use pki::verify::{Options, verify};
use pki::{
    Authority, Certificate, CertificateRequest, DAY, Error, KeyAlgorithm, LeafRequest, Name,
    PrivateKey, Purpose, San, Serial, UnixTime, Validity, pem,
};
use proptest::prelude::*;
use proptest::sample::Index;

const START: UnixTime = UnixTime::from_secs(1_795_328_351);

const VALIDITY: Validity = Validity {
    not_before: START,
    not_after: START.plus(3650 * DAY),
};

fn authority() -> Authority {
    let name = Name::new(&["k3s".to_owned()], "ca").unwrap();
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    Authority::self_signed(&name, key, Serial::random(pki::random).unwrap(), VALIDITY).unwrap()
}

fn issue(groups: &[String], user: &str, sans: &[San]) -> Result<Certificate, Error> {
    let key = PrivateKey::generate(KeyAlgorithm::P256)?;
    authority().issue(&LeafRequest {
        organizations: groups,
        common_name: user,
        sans,
        purposes: &[Purpose::ServerAuth, Purpose::Other("1.2.3.4".to_owned())],
        spki_der: key.spki_der(),
        serial: Serial::random(pki::random)?,
        validity: VALIDITY,
    })
}

/// `der` with every `from` replaced by `to`, which must be as long.
fn patched(der: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = der.windows(from.len()).position(|w| w == from).unwrap();
    [&der[..at], to, &der[at + from.len()..]].concat()
}

#[test]
fn forms_that_der_forbids_are_refused_and_odd_ones_read() {
    let issued = issue(&["one".to_owned()], "user", &[San::from_text("a.example")]).unwrap();
    let der = issued.der();
    let read = |from: &[u8], to: &[u8]| Certificate::from_der(&patched(der, from, to));
    // KeyUsage digitalSignature, 7 unused bits; a stray one among them.
    assert!(read(&[3, 2, 7, 0x80], &[3, 2, 7, 0x81]).is_err());
    // Six unused bits: the spelling is longer than needed, the meaning the same.
    let longer = read(&[3, 2, 7, 0x80], &[3, 2, 6, 0x80]).unwrap();
    assert_eq!(longer.key_usage(), issued.key_usage());
    // critical TRUE spelled FALSE, and spelled 1.
    let plain = read(&[1, 1, 0xff, 4], &[1, 1, 0, 4]).unwrap();
    assert_eq!(plain.key_usage(), issued.key_usage());
    assert!(read(&[1, 1, 0xff, 4], &[1, 1, 1, 4]).is_err());
    // The name in the string types of old.
    for (tag, text, user) in [
        (20, *b"us\xe9r", Some("us\u{e9}r")),
        (30, *b"\0u\0r", Some("ur")),
        (30, *b"\xd8\0\xdc\0", None),
        (12, *b"us\xe9r", None),
        (22, *b"us@r", Some("us@r")),
        (19, *b"us@r", None),
        (18, *b"1 23", Some("1 23")),
        (2, *b"1234", None),
    ] {
        let to = [&[tag, 4], text.as_slice()].concat();
        let found = read(&[&[19, 4], b"user".as_slice()].concat(), &to);
        let found = found.ok();
        let name = found.as_ref().and_then(|f| f.subject().common_name());
        assert_eq!(name, user, "{tag} {text:?}");
    }
    // A time with a sign, without seconds, in another zone.
    let start = b"\x17\x0d261122061911Z";
    assert!(der.windows(start.len()).any(|w| w == start));
    for text in [
        b"+61122061911Z",
        b"261122061911+",
        b"2611220619Z00",
        b"26112206191 Z",
    ] {
        let to = [&[23, 13], text.as_slice()].concat();
        assert!(read(start, &to).is_err(), "{text:?}");
    }
    let mut longer = der.to_vec();
    longer.push(0);
    assert!(Certificate::from_der(&longer).is_err());
    assert!(Certificate::from_der(&[]).is_err());
    // Negative, and padded.
    let number = issued.serial().octets();
    let with_first = |first: &[u8]| [first, &number[first.len()..]].concat();
    for first in [&[0xff_u8][..], &[0, 1]] {
        assert!(read(number, &with_first(first)).is_err());
    }
    let zero = read(number, &with_first(&[0, 0x80])).unwrap();
    assert!(zero.serial().is_conformant());
}

#[test]
fn serials_are_positive_distinct_and_of_one_length() {
    let mut seen = std::collections::HashSet::new();
    for _ in 0..1_000 {
        let serial = Serial::random(pki::random).unwrap();
        assert!(serial.is_conformant());
        assert_eq!(serial.octets().len(), 16);
        assert!(seen.insert(serial));
    }
    for fill in [0, 0xff] {
        let serial = Serial::random(|octets: &mut [u8]| {
            octets.fill(fill);
            Ok(())
        });
        assert!(serial.unwrap().is_conformant());
    }
    let failed = Serial::random(|_: &mut [u8]| Err(Error::NoRandomness));
    assert_eq!(failed.err(), Some(Error::NoRandomness));
    assert_eq!(
        Serial::from_hex("00000001").unwrap(),
        Serial::from_hex("01").unwrap()
    );
    assert_eq!(Serial::from_hex("00ff").unwrap().octets(), [0, 0xff]);
    for bad in ["", "00", "0000", "ff", "0g", "123"] {
        assert!(Serial::from_hex(bad).is_err(), "{bad}");
    }
}

#[test]
fn years_that_x509_cannot_write_are_refused() {
    let name = Name::new(&[], "far").unwrap();
    for seconds in [i64::MIN, i64::MAX, 253_402_300_800, -62_167_219_201] {
        let not_after = UnixTime::from_secs(seconds);
        let validity = Validity {
            not_before: not_after.plus(-1),
            not_after,
        };
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let serial = Serial::random(pki::random).unwrap();
        let refused = Authority::self_signed(&name, key, serial, validity);
        assert!(
            matches!(refused.err(), Some(Error::Unissuable { .. })),
            "{seconds}"
        );
    }
}

#[test]
fn a_passphrase_protects_every_kind_of_key() {
    for algorithm in [
        KeyAlgorithm::P256,
        KeyAlgorithm::Ed25519,
        KeyAlgorithm::Rsa(2048),
    ] {
        let key = PrivateKey::generate(algorithm).unwrap();
        let text = key.to_encrypted_pem(b"pass").unwrap();
        let again = PrivateKey::from_encrypted_pem(text.as_bytes(), b"pass").unwrap();
        assert_eq!(again.spki_sha256(), key.spki_sha256());
        let wrong = PrivateKey::from_encrypted_pem(text.as_bytes(), b"Pass");
        assert_eq!(wrong.err(), Some(Error::WrongPassphrase));
        assert_eq!(
            key.to_encrypted_pem(b"").err(),
            Some(Error::PassphraseNeeded)
        );
    }
}

fn damage() -> impl Strategy<Value = Vec<(Index, u8)>> {
    proptest::collection::vec((any::<Index>(), any::<u8>()), 1..6)
}

fn damaged(der: &[u8], damage: &[(Index, u8)]) -> Vec<u8> {
    let mut der = der.to_vec();
    for (index, byte) in damage {
        let at = index.index(der.len());
        der[at] = *byte;
    }
    der
}

fn sans() -> impl Strategy<Value = Vec<San>> {
    let san = prop_oneof![
        "[a-z*]{1,8}(\\.[a-z]{1,8}){0,3}".prop_map(San::Dns),
        any::<std::net::IpAddr>().prop_map(San::Ip),
        "[a-z]{1,5}@[a-z]{1,5}".prop_map(San::Email),
        "spiffe://[a-z]{1,5}/[a-z]{0,5}".prop_map(San::Uri),
    ];
    proptest::collection::vec(san, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Certificate::from_der(&bytes);
        let _ = CertificateRequest::from_der(&bytes);
        let _ = Certificate::all_from_pem(&bytes);
        for label in ["EC PRIVATE KEY", "RSA PRIVATE KEY", "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"] {
            let text = pem::encode(label, &bytes);
            let _ = PrivateKey::from_pem(text.as_bytes());
            let _ = PrivateKey::all_from_pem(text.as_bytes());
        }
        let _ = pki::public_key_algorithm(&bytes);
    }

    #[test]
    fn damaged_certificates_are_survived(damage in damage(), host in "\\PC{0,12}") {
        let ca = authority();
        let san = [San::from_text("a.example"), San::from_text("10.0.0.1")];
        let issued = issue(&[], "user", &san).unwrap();
        let roots = [ca.certificate().clone()];
        if let Ok(read) = Certificate::from_der(&damaged(issued.der(), &damage)) {
            prop_assert_eq!(Certificate::from_der(read.der()).unwrap(), read.clone());
            let options = Options::at(START).host(&host);
            // Another CA of the same name: nothing it did not sign may pass.
            let error = verify(&read, &roots, &roots, &options).err();
            prop_assert!(error.is_some_and(|error| !error.to_string().is_empty()));
        }
    }

    #[test]
    fn damaged_keys_are_survived(damage in damage()) {
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let text = key.to_pem().unwrap();
        let der = &pem::blocks(text.as_bytes())[0].der;
        let text = pem::encode("EC PRIVATE KEY", &damaged(der, &damage));
        let _ = PrivateKey::from_pem(text.as_bytes());
    }

    #[test]
    fn what_is_issued_is_what_was_asked(
        groups in proptest::collection::vec("\\PC{1,20}", 0..4),
        user in "\\PC{1,30}",
        sans in sans(),
    ) {
        let issued = issue(&groups, &user, &sans).unwrap();
        prop_assert_eq!(issued.subject().common_name(), Some(user.as_str()));
        prop_assert_eq!(issued.subject().organizations(), groups);
        prop_assert_eq!(issued.validity(), VALIDITY);
        let mut wanted = sans;
        wanted.sort_by_key(|san| matches!(san, San::Ip(_)));
        prop_assert_eq!(issued.sans(), wanted);
        let text = format!("noise\n{}{}", issued.to_pem(), issued.to_pem());
        let read = Certificate::all_from_pem(text.as_bytes()).unwrap();
        prop_assert_eq!(&read, &[issued.clone(), issued.clone()]);
        // Reading finds the same as issuing put there.
        prop_assert_eq!(read[0].serial(), issued.serial());
        prop_assert_eq!(read[0].tbs_der(), issued.tbs_der());
        prop_assert_eq!(read[0].sans(), issued.sans());
        prop_assert_eq!(read[0].sans_der(), issued.sans_der());
        prop_assert_eq!(read[0].purposes(), issued.purposes());
        prop_assert_eq!(read[0].key_usage(), issued.key_usage());
        prop_assert_eq!(read[0].basic_constraints(), issued.basic_constraints());
        prop_assert_eq!(read[0].authority_key_identifier(), issued.authority_key_identifier());
        prop_assert_eq!(read[0].subject(), issued.subject());
        prop_assert_eq!(read[0].issuer(), issued.issuer());
        prop_assert_eq!(read[0].version(), issued.version());
        prop_assert_eq!(read[0].spki_der(), issued.spki_der());
    }
}
