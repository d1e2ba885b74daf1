//! Small PKIs for unit tests, made at run time.

use pki::{
    Authority, Certificate, DAY, KeyAlgorithm, LeafRequest, Name, PrivateKey, Purpose, San, Serial,
    UnixTime, Validity,
};

/// The moment at which every test certificate starts: 2026-11-22T06:19:11Z.
pub(crate) const START: UnixTime = UnixTime::from_secs(1_795_328_351);

pub(crate) fn days(count: i64) -> Validity {
    Validity {
        not_before: START,
        not_after: START.plus(count * DAY),
    }
}

pub(crate) fn authority(name: &str) -> Authority {
    let name = Name::new(&[], name).unwrap();
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    Authority::self_signed(&name, key, Serial::random(pki::random).unwrap(), days(3650)).unwrap()
}

pub(crate) fn client(
    authority: &Authority,
    user: &str,
    validity: Validity,
) -> (Certificate, String) {
    leaf(
        authority,
        user,
        &["system:masters"],
        &[],
        Purpose::ClientAuth,
        validity,
    )
}

pub(crate) fn leaf(
    authority: &Authority,
    common_name: &str,
    organizations: &[&str],
    sans: &[&str],
    purpose: Purpose,
    validity: Validity,
) -> (Certificate, String) {
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let organizations: Vec<String> = organizations.iter().map(|it| (*it).to_owned()).collect();
    let sans: Vec<San> = sans.iter().map(|it| San::from_text(it)).collect();
    let certificate = authority
        .issue(&LeafRequest {
            organizations: &organizations,
            common_name,
            sans: &sans,
            purposes: &[purpose],
            spki_der: key.spki_der(),
            serial: Serial::random(pki::random).unwrap(),
            validity,
        })
        .unwrap();
    (certificate, key.to_pem().unwrap().to_string())
}
