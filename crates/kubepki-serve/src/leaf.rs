//! What a request for a certificate gets. Pure.

use kubepki::catalogue::{CommonName, SanRule};
use kubepki::plan::{can_be_carried, served_chain};
use pki::{
    Authority, BACKDATE, Certificate, CertificateRequest, KeyAlgorithm, LeafRequest, San, Serial,
    UnixTime, Validity, public_key_algorithm,
};

use crate::node::Strictness;
use crate::route::LeafKind;
use crate::status::Refusal;

/// The largest request that is read: RSA-8192 keys make about 2 KiB.
pub const LARGEST_REQUEST: usize = 64 << 10;
/// RSA moduli that are taken, in bits.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;

/// What a body asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A certificate for this key (SubjectPublicKeyInfo).
    Request(Vec<u8>),
    /// K3s's legacy mode: certificate and key, shared by every agent.
    Legacy,
}

/// Reads method and body.
///
/// K3s takes only the key from a request, so that is all that is looked at: names, attributes
/// and extensions in it say nothing. Strict, its signature must prove that the sender holds the
/// key.
///
/// # Errors
///
/// Strict: 405 for other methods than POST, 400 for what is no request, for a wrong signature
/// and for keys that are refused. K3s takes all that for legacy mode.
pub fn read(
    path: &str,
    is_post: bool,
    body: &[u8],
    strictness: Strictness,
) -> Result<Asked, Refusal> {
    match strictness {
        Strictness::K3sCompatible if !is_post => Ok(Asked::Legacy),
        Strictness::K3sCompatible => Ok(CertificateRequest::unverified_key(body)
            .ok()
            .filter(|spki| public_key_algorithm(spki).is_some())
            .map_or(Asked::Legacy, Asked::Request)),
        Strictness::Strict if !is_post => Err(Refusal::Method(path.to_owned())),
        Strictness::Strict => strict_request(body).map(Asked::Request),
    }
}

fn strict_request(body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let bad = |text: String| Refusal::Bad(text);
    if body.starts_with(b"-----BEGIN") {
        return Err(bad(
            "the certificate request is PEM: send the DER inside it".to_owned(),
        ));
    }
    let key = CertificateRequest::unverified_key(body)
        .map_err(|_| bad("the body is no certificate request (PKCS#10 in DER)".to_owned()))?;
    // Before the signature: checking one by a huge key costs what its sender chooses.
    check_key(&key).map_err(bad)?;
    let request = CertificateRequest::from_der(body).map_err(|error| match error {
        pki::Error::BadSignature => {
            bad("the request's signature is not by the key in it".to_owned())
        }
        error => bad(format!("the certificate request cannot be used: {error}")),
    })?;
    Ok(request.spki_der().to_vec())
}

/// Kinds and sizes that are taken: P-256, P-384, P-521, Ed25519, RSA from 2048 to 8192 bits.
fn check_key(spki: &[u8]) -> Result<(), String> {
    match public_key_algorithm(spki) {
        Some(KeyAlgorithm::Rsa(bits)) if !RSA_BITS.contains(&bits) => Err(format!(
            "the key in the request is RSA with {bits} bits: from {} to {} are taken",
            RSA_BITS.start(),
            RSA_BITS.end()
        )),
        Some(_) => Ok(()),
        None => Err(
            "the key in the request is of no kind that is taken: P-256, P-384, P-521, Ed25519, RSA"
                .to_owned(),
        ),
    }
}

/// A CA as the server holds it.
pub struct Issuer {
    /// Certificate and key that sign.
    pub authority: Authority,
    /// PEM of what follows a leaf.
    pub chain: String,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Issuer({})", self.authority.certificate().subject())
    }
}

impl Issuer {
    /// Joins a CA file's certificates with the key. The first certificate signs.
    ///
    /// Behind a leaf K3s puts the whole file. With a cross-certificate in it, what is self-signed
    /// stays out ([`served_chain`]), unless all is to be as K3s has it.
    ///
    /// # Errors
    ///
    /// When they do not belong together.
    pub fn new(certificates: &[Certificate], authority: Authority, strictness: Strictness) -> Self {
        let chain = match strictness {
            Strictness::Strict => served_chain(certificates),
            Strictness::K3sCompatible => certificates.iter().collect(),
        };
        let chain = chain.into_iter().map(Certificate::to_pem).collect();
        Self { authority, chain }
    }
}

/// A certificate to issue.
#[derive(Debug)]
pub struct Order<'a> {
    /// Which.
    pub kind: LeafKind,
    /// The node; `None` only where K3s asks for none.
    pub node: Option<&'a str>,
    /// Addresses for a kubelet's port.
    pub addresses: &'a [std::net::IpAddr],
    /// The key.
    pub spki: &'a [u8],
    /// The number.
    pub serial: Serial,
    /// When it was known that it may be issued: now, or a little before.
    pub now: UnixTime,
    /// In seconds.
    pub lifetime: i64,
}

/// Issues what `order` says, with the catalogue's profile for it.
///
/// # Errors
///
/// 500 with the reason: a CA that has ended or may not sign this, a name that fits no
/// certificate.
pub fn issue(issuer: &Issuer, order: &Order<'_>) -> Result<Certificate, Refusal> {
    let internal = |text: String| Refusal::Internal(text);
    let profile = order.kind.profile();
    let profile = profile.ok_or_else(|| internal("no such profile".to_owned()))?;
    let node = order.node.unwrap_or_default();
    let common_name = match profile.common_name {
        CommonName::Literal(name) => name.to_owned(),
        CommonName::NodeNamed(prefix) => format!("{prefix}{node}"),
    };
    let sans = names(profile.sans, node, order.addresses);
    if let Some(odd) = sans.iter().find(|san| !can_be_carried(san)) {
        return Err(internal(format!("no certificate can carry {odd}")));
    }
    let authority = &issuer.authority;
    let bounds = authority.certificate().validity();
    if !bounds.contains(order.now) {
        let subject = authority.certificate().subject();
        return Err(internal(format!("the CA {subject} is not valid now")));
    }
    let organizations: Vec<String> = profile
        .organizations
        .iter()
        .map(|&o| o.to_owned())
        .collect();
    authority
        .issue(&LeafRequest {
            organizations: &organizations,
            common_name: &common_name,
            sans: &sans,
            purposes: profile.purposes,
            spki_der: order.spki,
            serial: order.serial.clone(),
            validity: validity(authority, order.now, order.lifetime),
        })
        .map_err(|error| internal(error.to_string()))
}

/// From an hour ago, `lifetime` seconds long, and never beyond the CA.
pub(crate) fn validity(authority: &Authority, now: UnixTime, lifetime: i64) -> Validity {
    let not_before = now.plus(-BACKDATE);
    let validity = Validity {
        not_before,
        not_after: not_before.plus(lifetime),
    };
    validity.clamped_to(authority.certificate().validity())
}

/// Octets of the serial numbers that K3s gives; ours have twice as many.
const SERIAL_OF_K3S: usize = 8;

/// When one of `authorities` issued `leaf`, or earlier where that cannot be told: leaves of a CA's
/// first hour begin with it. K3s's begin when they are issued.
pub(crate) fn issued(leaf: &Certificate, authorities: &[Certificate]) -> UnixTime {
    let begin = leaf.validity().not_before;
    let is_cut = authorities.iter().any(|it| {
        let is_issuer = it.subject() == leaf.issuer();
        is_issuer && it.validity().not_before == begin
    });
    match is_cut || leaf.serial().octets().len() <= SERIAL_OF_K3S {
        true => begin,
        false => begin.plus(BACKDATE),
    }
}

/// Names without duplicates, in the profile's order.
fn names(rules: &[SanRule], node: &str, addresses: &[std::net::IpAddr]) -> Vec<San> {
    let mut found: Vec<San> = Vec::new();
    for rule in rules {
        match rule {
            SanRule::Literal(text) => found.push(San::from_text(text)),
            SanRule::NodeName => found.push(San::Dns(node.to_owned())),
            SanRule::NodeAddresses => found.extend(addresses.iter().copied().map(San::Ip)),
            // Servers' names: no node's certificate has them.
            SanRule::LiteralSince(..) | SanRule::KubernetesService | SanRule::ServerNames => {}
        }
    }
    let mut once = Vec::with_capacity(found.len());
    for san in found {
        if !once.contains(&san) {
            once.push(san);
        }
    }
    once
}

#[cfg(test)]
mod tests {
    use pki::{Name, PrivateKey};
    use proptest::prelude::*;

    use super::*;
    use Strictness::{K3sCompatible, Strict};

    fn request(key: &PrivateKey) -> Vec<u8> {
        let name = Name::from_der(&[0x30, 0]).unwrap();
        CertificateRequest::new(&name, &[], key)
            .unwrap()
            .der()
            .to_vec()
    }

    fn why(body: &[u8]) -> String {
        let refusal = read("/x", true, body, Strict).unwrap_err();
        assert_eq!(refusal.code(), 400);
        refusal.message()
    }

    #[test]
    fn the_senders_key_is_taken() {
        for algorithm in [
            KeyAlgorithm::P256,
            KeyAlgorithm::P384,
            KeyAlgorithm::Ed25519,
        ] {
            let key = PrivateKey::generate(algorithm).unwrap();
            for strictness in [Strict, K3sCompatible] {
                let asked = read("/x", true, &request(&key), strictness);
                assert_eq!(asked, Ok(Asked::Request(key.spki_der().to_vec())));
            }
        }
    }

    #[test]
    fn a_signature_of_another_key_is_refused_by_us_and_taken_by_k3s() {
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let mut body = request(&key);
        let last = body.len() - 1;
        body[last] ^= 1;
        assert!(why(&body).contains("signature"), "{}", why(&body));
        assert!(matches!(
            read("/x", true, &body, K3sCompatible),
            Ok(Asked::Request(_))
        ));
    }

    #[test]
    fn what_is_no_request_is_refused_by_us_and_legacy_mode_for_k3s() {
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let der = request(&key);
        let pem = CertificateRequest::from_der(&der).unwrap().to_pem();
        assert!(why(pem.as_bytes()).contains("PEM"));
        let longer = [&der[..], b"\0"].concat();
        for garbage in [&b""[..], b"0", b"hello", &der[..40], &longer, &[0x30; 4000]] {
            assert!(why(garbage).contains("no certificate request"));
            assert_eq!(read("/x", true, garbage, K3sCompatible), Ok(Asked::Legacy));
        }
        let get = read("/x", false, &der, Strict).unwrap_err();
        assert_eq!(get, Refusal::Method("/x".to_owned()));
        assert_eq!(read("/x", false, &der, K3sCompatible), Ok(Asked::Legacy));
    }

    /// A request for a key of `bits` one bits, with a signature that means nothing.
    fn rsa_request(bits: usize) -> Vec<u8> {
        let tlv = |tag: u8, parts: &[&[u8]]| {
            let content = parts.concat();
            let mut der = vec![tag, 0x83, 0, 0, 0];
            let length = u32::try_from(content.len()).unwrap().to_be_bytes();
            match content.len() {
                0..128 => der = vec![tag, length[3]],
                128..256 => der = vec![tag, 0x81, length[3]],
                256..65536 => der = vec![tag, 0x82, length[2], length[3]],
                _ => der[2..].copy_from_slice(&length[1..]),
            }
            der.extend(content);
            der
        };
        let modulus = tlv(2, &[&[0], &vec![0xff; bits / 8]]);
        let key = tlv(0x30, &[&modulus, &[2, 3, 1, 0, 1]]);
        let algorithm = [
            0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0,
        ];
        let spki = tlv(0x30, &[&algorithm, &tlv(3, &[&[0], &key])]);
        let info = tlv(0x30, &[&[2, 1, 0], &[0x30, 0], &spki, &[0xa0, 0]]);
        let mut signing = algorithm;
        signing[12] = 11;
        tlv(0x30, &[&info, &signing, &tlv(3, &[&[0, 1, 2, 3]])])
    }

    #[test]
    fn short_and_huge_keys_are_refused_before_anything_is_computed_with_them() {
        for bits in [512, 1024, 16384] {
            let body = rsa_request(bits);
            assert!(
                why(&body).contains(&format!("RSA with {bits} bits")),
                "{}",
                why(&body)
            );
            assert!(matches!(
                read("/x", true, &body, K3sCompatible),
                Ok(Asked::Request(_))
            ));
        }
        assert!(why(&rsa_request(2048)).contains("signature"));
    }

    #[test]
    fn leaves_of_a_cas_first_hour_count_from_its_begin() {
        let begin = UnixTime::from_secs(1_800_000_000);
        let subject = Name::new(&[], "ca").unwrap();
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let bounds = Validity {
            not_before: begin,
            not_after: begin.plus(3650 * pki::DAY),
        };
        let number = || Serial::from_hex(&"41".repeat(16)).unwrap();
        let authority = Authority::self_signed(&subject, key, number(), bounds).unwrap();
        let own = [authority.certificate().clone()];
        let issuer = Issuer::new(&own, authority, Strict);
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let at = |seconds: i64, serial: Serial| {
            let order = Order {
                kind: LeafKind::ClientKubelet,
                node: Some("a"),
                addresses: &[],
                spki: key.spki_der(),
                serial,
                now: begin.plus(seconds),
                lifetime: pki::DAY,
            };
            let leaf = issue(&issuer, &order).unwrap();
            issued(&leaf, &own).since(begin)
        };
        for (seconds, counted) in [(5, 0), (3599, 0), (3600, 0), (3601, 3601), (9000, 9000)] {
            assert_eq!(at(seconds, number()), counted);
        }
        let of_k3s = Serial::from_hex(&"41".repeat(8)).unwrap();
        assert_eq!(at(9000, of_k3s), 9000 - BACKDATE);
    }

    proptest! {
        #[test]
        fn any_body_is_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(read("/x", true, &bytes, Strict).is_err());
            prop_assert_eq!(read("/x", true, &bytes, K3sCompatible), Ok(Asked::Legacy));
        }

        #[test]
        fn a_flipped_octet_never_changes_the_key(at in 0usize..189, bit in 0u8..8) {
            let key = PrivateKey::from_pem(KEY).unwrap();
            let mut body = request(&key);
            let at = at % body.len();
            body[at] ^= 1 << bit;
            prop_assert!(read("/x", true, &body, Strict).is_err());
        }
    }

    const KEY: &[u8] = b"-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIGiBXCG/eBy63SpUFKDNPq6NCbZXbPQQOLYkue9g3stboAoGCCqGSM49
AwEHoUQDQgAEYvRG38PBdUgr5ufR9Vfn1x61qlXYxcGt6S/pochTJva8wR48K+Pi
z7y9vJMwU2Jh/9xJgzwHZDlwwsCjunWVUA==
-----END EC PRIVATE KEY-----
";
}
