//! One certificate, in words.

use pki::{Certificate, KeyAlgorithm, KeyUsage, Purpose, UnixTime, public_key_algorithm};
use serde::Serialize;

use super::KeyReport;
use super::plain::{duration_words, plain};

/// How many SANs of a certificate are listed.
const MOST_SANS: usize = 200;

/// What a certificate says and what is odd about it. Texts from it are escaped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateReport {
    /// Subject, as Go prints names.
    pub subject: String,
    /// Issuer, as Go prints names.
    pub issuer: String,
    /// `end entity (leaf)`, `CA, self-signed`, …
    pub role: String,
    /// basicConstraints say CA.
    pub ca: bool,
    /// pathLenConstraint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_len: Option<u32>,
    /// Subject and issuer are the same name.
    pub self_issued: bool,
    /// Signed with its own key.
    pub self_signed: bool,
    /// First valid second, RFC 3339.
    pub not_before: String,
    /// Last valid second, RFC 3339.
    pub not_after: String,
    /// Valid now, not yet, or no more.
    pub standing: Standing,
    /// Seconds until the end; negative when it is over.
    pub seconds_left: i64,
    /// The same in words: `364 days left`.
    pub left: String,
    /// Bits of key usage by name.
    pub key_usage: Vec<String>,
    /// Extended key usage.
    pub purposes: Vec<String>,
    /// Subject alternative names, at most 200.
    pub sans: Vec<String>,
    /// Its key.
    pub key: KeyReport,
    /// How it was signed.
    pub signature_algorithm: String,
    /// Serial number, hex.
    pub serial: String,
    /// Subject key identifier, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_key_identifier: Option<String>,
    /// Authority key identifier, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority_key_identifier: Option<String>,
    /// SHA-256 of the DER, hex.
    pub fingerprint: String,
    /// What is out of the ordinary, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub oddities: Vec<String>,
}

/// A certificate's period against a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Its notBefore lies ahead.
    NotYetValid,
    /// Inside its period.
    Valid,
    /// Its notAfter has passed.
    Expired,
}

pub(super) fn report(certificate: &Certificate, now: UnixTime) -> CertificateReport {
    let validity = certificate.validity();
    let (standing, left) = standing(certificate, now);
    let constraints = certificate.basic_constraints();
    let hex = |octets: Option<&[u8]>| octets.map(pki::hex);
    let usage = certificate
        .key_usage()
        .map(|usage| usage.to_string())
        .unwrap_or_default();
    let mut sans: Vec<String> = certificate
        .sans()
        .iter()
        .take(MOST_SANS)
        .map(|san| plain(&san.to_string()))
        .collect();
    if certificate.sans().len() > MOST_SANS {
        sans.push(format!(
            "… and {} more",
            certificate.sans().len() - MOST_SANS
        ));
    }
    CertificateReport {
        subject: name(certificate.subject()),
        issuer: name(certificate.issuer()),
        role: role(certificate),
        ca: certificate.is_ca(),
        path_len: constraints.and_then(|it| it.path_len),
        self_issued: certificate.is_self_issued(),
        self_signed: certificate.is_self_signed(),
        not_before: validity.not_before.to_string(),
        not_after: validity.not_after.to_string(),
        standing,
        seconds_left: validity.remaining(now),
        left,
        key_usage: usage
            .split(", ")
            .filter(|it| !it.is_empty())
            .map(str::to_owned)
            .collect(),
        purposes: certificate
            .purposes()
            .iter()
            .map(|it| plain(&it.to_string()))
            .collect(),
        sans,
        key: key(certificate.spki_der()),
        signature_algorithm: certificate.signature_algorithm(),
        serial: certificate.serial().to_string(),
        subject_key_identifier: hex(certificate.subject_key_identifier()),
        authority_key_identifier: hex(certificate.authority_key_identifier()),
        fingerprint: certificate.fingerprint().to_string(),
        oddities: oddities(certificate),
    }
}

/// A key by its SubjectPublicKeyInfo.
pub(super) fn key(spki: &[u8]) -> KeyReport {
    let algorithm = public_key_algorithm(spki);
    KeyReport {
        algorithm: algorithm.map_or_else(|| "unknown".to_owned(), |it| it.to_string()),
        spki_sha256: pki::sha256(spki).to_string(),
        belongs_to: None,
    }
}

/// A name, `-` for the empty one.
pub(super) fn name(name: &pki::Name) -> String {
    if name.is_empty() {
        "-".to_owned()
    } else {
        plain(&name.to_string())
    }
}

fn standing(certificate: &Certificate, now: UnixTime) -> (Standing, String) {
    let validity = certificate.validity();
    if now < validity.not_before {
        let words = duration_words(validity.not_before.since(now));
        return (
            Standing::NotYetValid,
            format!("not valid yet, starts in {words}"),
        );
    }
    let words = duration_words(validity.remaining(now));
    if validity.remaining(now) < 0 {
        (Standing::Expired, format!("expired {words} ago"))
    } else {
        (Standing::Valid, format!("{words} left"))
    }
}

fn role(certificate: &Certificate) -> String {
    if !certificate.is_ca() {
        return match certificate.is_self_signed() {
            true => "end entity (leaf), self-signed".to_owned(),
            false => "end entity (leaf)".to_owned(),
        };
    }
    let mut role = match (certificate.is_self_signed(), certificate.is_self_issued()) {
        (true, _) => "CA, self-signed",
        (false, true) => "CA, self-issued but signed with another key",
        (false, false) => "CA, signed by another",
    }
    .to_owned();
    if let Some(length) = certificate.basic_constraints().and_then(|it| it.path_len) {
        role.push_str(&format!(", at most {length} CAs below it"));
    }
    role
}

fn oddities(certificate: &Certificate) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |condition: bool, sentence: String| {
        if condition {
            found.push(sentence);
        }
    };
    let zero = certificate
        .serial()
        .octets()
        .iter()
        .all(|octet| *octet == 0);
    say(
        zero,
        "the serial number is 0, as K3s gives it to its CAs; RFC 5280 wants a positive one".into(),
    );
    say(
        !zero && !certificate.serial().is_conformant(),
        "the serial number is negative or longer than 20 octets".into(),
    );
    let signature = certificate.signature_algorithm();
    say(
        signature.to_ascii_lowercase().contains("sha1"),
        format!("it is signed with {signature}, which Go and with it Kubernetes refuses"),
    );
    match public_key_algorithm(certificate.spki_der()) {
        Some(KeyAlgorithm::Rsa(bits)) => {
            say(bits < 2048, format!("an RSA key of {bits} bits is weak"));
        }
        Some(_) => {}
        None => say(
            true,
            "its key is of a kind that Kubernetes does not use".into(),
        ),
    }
    let validity = certificate.validity();
    say(
        validity.not_after < validity.not_before,
        "it ends before it starts".into(),
    );
    for oid in certificate.unknown_critical() {
        say(
            true,
            format!(
                "it has the critical extension {}, which Go does not know",
                plain(oid)
            ),
        );
    }
    let usage = certificate.key_usage();
    if certificate.is_ca() {
        say(
            certificate.subject_key_identifier().is_none(),
            "a CA without a subject key identifier".into(),
        );
        say(
            usage.is_some_and(|usage| !usage.has(KeyUsage::KEY_CERT_SIGN)),
            "a CA whose key usage forbids signing certificates".into(),
        );
    } else {
        leaf_oddities(certificate, &mut say);
    }
    found
}

fn leaf_oddities(certificate: &Certificate, say: &mut impl FnMut(bool, String)) {
    let purposes = certificate.purposes();
    say(
        certificate.authority_key_identifier().is_none() && !certificate.is_self_issued(),
        "no authority key identifier, so K3s would issue it anew at its next start".into(),
    );
    say(purposes.is_empty(), "no extended key usage".into());
    say(
        purposes.contains(&Purpose::ServerAuth) && !certificate.has_sans(),
        "a server certificate without SANs: Go clients refuse it, whatever its CN".into(),
    );
    say(
        purposes.contains(&Purpose::ClientAuth)
            && certificate
                .subject()
                .organizations()
                .contains(&"system:masters"),
        "the group system:masters passes every authorization check of Kubernetes".into(),
    );
}
