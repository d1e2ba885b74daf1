//! Whether a certificate and a key belong together, as Go's `tls.LoadX509KeyPair` decides.

use pki::pem::{self, Block};
use pki::{Certificate, Error, PrivateKey};

/// `None` when they do, else Go's words.
pub(super) fn load_words(certificates: &[u8], keys: &[u8]) -> Option<String> {
    let (found, skipped): (Vec<Block>, Vec<Block>) = pem::blocks(certificates)
        .into_iter()
        .partition(|block| block.label == "CERTIFICATE");
    let Some(first) = found.first() else {
        return Some(no_certificate(&skipped));
    };
    let key = match first_key(keys) {
        Ok(key) => key,
        Err(words) => return Some(words),
    };
    let certificate = match Certificate::from_der(&first.der) {
        Ok(certificate) => certificate,
        Err(error) => return Some(malformed(&error)),
    };
    let Some(public) = public_half(&key.der) else {
        return Some("tls: failed to parse private key".to_owned());
    };
    disagreement(certificate.spki_der(), &public).map(str::to_owned)
}

/// Go's words for a certificate that does not parse. It has dozens; this is the one for damage.
pub(super) fn malformed(error: &Error) -> String {
    match error {
        Error::Malformed { what, detail } if *what == "serial number" && detail == "negative" => {
            "x509: negative serial number".to_owned()
        }
        Error::Malformed { .. } => "x509: malformed certificate".to_owned(),
        other => other.to_string(),
    }
}

fn no_certificate(skipped: &[Block]) -> String {
    match skipped {
        [] => "tls: failed to find any PEM data in certificate input".to_owned(),
        [one] if one.label.ends_with("PRIVATE KEY") => {
            "tls: failed to find certificate PEM data in certificate input, but did find a \
             private key; PEM inputs may have been switched"
                .to_owned()
        }
        several => format!(
            "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping \
             PEM blocks of the following types: {}",
            listed(several)
        ),
    }
}

/// The first block whose label ends in `PRIVATE KEY`.
fn first_key(keys: &[u8]) -> Result<Block, String> {
    let mut skipped = Vec::new();
    for block in pem::blocks(keys) {
        if block.label == "PRIVATE KEY" || block.label.ends_with(" PRIVATE KEY") {
            return Ok(block);
        }
        skipped.push(block);
    }
    Err(match skipped.as_slice() {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        [one] if one.label == "CERTIFICATE" => {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        several => format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input \
             after skipping PEM blocks of the following types: {}",
            listed(several)
        ),
    })
}

/// A slice of strings as Go prints it.
fn listed(blocks: &[Block]) -> String {
    let labels: Vec<&str> = blocks.iter().map(|block| block.label.as_str()).collect();
    format!("[{}]", labels.join(" "))
}

/// A private key's public half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Public {
    /// SubjectPublicKeyInfo.
    Spki(Vec<u8>),
    /// Modulus and exponent as they end an RSA SubjectPublicKeyInfo: of a key too short for
    /// the cryptographic library, which Go still reads.
    ShortRsa(Vec<u8>),
}

/// What Go's three parsers of private keys find in `der`, whatever its label says.
pub(super) fn public_half(der: &[u8]) -> Option<Public> {
    for label in ["RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY"] {
        match PrivateKey::from_pem(pem::encode(label, der).as_bytes()) {
            Ok(key) => return Some(Public::Spki(key.spki_der().to_vec())),
            Err(Error::KeyTooSmall { bits }) if bits >= 1024 => {
                return short_rsa(der).map(Public::ShortRsa);
            }
            Err(_) => {}
        }
    }
    None
}

/// Modulus and exponent of a PKCS#1 key, bare or in PKCS#8 (RFC 8017 appendix A.1.2).
fn short_rsa(der: &[u8]) -> Option<Vec<u8>> {
    let (body, _) = element(der, 0x30)?;
    let (_version, rest) = element(body, 0x02)?;
    if let Some((_algorithm, wrapped)) = element(rest, 0x30) {
        return short_rsa(element(wrapped, 0x04)?.0);
    }
    let after_modulus = element(rest, 0x02)?.1;
    let after_exponent = element(after_modulus, 0x02)?.1;
    rest.get(..rest.len() - after_exponent.len())
        .map(<[u8]>::to_vec)
}

/// Content of the DER element at the start of `der`, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [first, length, rest @ ..] = der else {
        return None;
    };
    if *first != tag {
        return None;
    }
    let (length, rest) = match *length {
        short @ 0..=0x7f => (usize::from(short), rest),
        long @ 0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(long - 0x80))?;
            let length = digits
                .iter()
                .fold(0_usize, |sum, digit| (sum << 8) | usize::from(*digit));
            (length, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// Go's words when the halves are not one key's.
fn disagreement(certificate: &[u8], key: &Public) -> Option<&'static str> {
    let of_rsa = |spki: &[u8]| {
        matches!(
            pki::public_key_algorithm(spki),
            Some(pki::KeyAlgorithm::Rsa(_))
        )
    };
    let (same, same_kind) = match key {
        Public::Spki(spki) => (
            spki.as_slice() == certificate,
            kind(spki) == kind(certificate),
        ),
        Public::ShortRsa(numbers) => (
            of_rsa(certificate) && certificate.ends_with(numbers),
            of_rsa(certificate),
        ),
    };
    match (same, same_kind) {
        (true, _) => None,
        (false, true) => Some("tls: private key does not match public key"),
        (false, false) => Some("tls: private key type does not match public key type"),
    }
}

fn kind(spki: &[u8]) -> u8 {
    match pki::public_key_algorithm(spki) {
        Some(pki::KeyAlgorithm::Rsa(_)) => 1,
        Some(pki::KeyAlgorithm::Ed25519) => 2,
        Some(_) => 3,
        None => 0,
    }
}
