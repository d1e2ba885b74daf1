//! Which of the known forms an input has.

use std::collections::BTreeMap;

use pki::pem::{self, Block};
use pki::{Certificate, CertificateRequest, Error, PrivateKey, UnixTime, public_key_algorithm};
use serde::de::IgnoredAny;

use super::bundle::bundle;
use super::certificate::{key, name, report};
use super::container;
use super::plain::plain;
use super::{InspectError, Inspection, Item, KeyReport, LIMIT, MOST_ITEMS};
use crate::kubeconfig::Kubeconfig;
use crate::listener::Listener;

pub(super) fn inspect(bytes: &[u8], now: UnixTime) -> Result<Inspection, InspectError> {
    if bytes.len() > LIMIT {
        return Err(InspectError::TooLarge { size: bytes.len() });
    }
    if bytes.trim_ascii().is_empty() {
        return Err(InspectError::Empty);
    }
    if has_pem(bytes) {
        return Ok(pem_file(bytes, now));
    }
    let item = if bytes.first() == Some(&0x30) && !bytes.is_ascii() {
        der(bytes, now)?
    } else if looks_like_secret(bytes) {
        let listener = Listener::parse(bytes).map_err(InspectError::Secret)?;
        Item::ListenerSecret(container::listener(&listener, now))
    } else {
        kubeconfig(bytes, now)?
    };
    Ok(Inspection {
        at: now.to_string(),
        items: vec![item],
        bundle: None,
        notes: Vec::new(),
    })
}

/// Whether a line starts a PEM block. Kubeconfigs hold PEM only inside base64.
fn has_pem(bytes: &[u8]) -> bool {
    bytes
        .split(|byte| *byte == b'\n')
        .any(|line| line.starts_with(b"-----BEGIN "))
}

fn looks_like_secret(bytes: &[u8]) -> bool {
    /// Only what tells a Secret from other JSON; its data is not copied.
    #[derive(serde::Deserialize)]
    struct Probe {
        kind: Option<String>,
        #[serde(default)]
        data: BTreeMap<String, IgnoredAny>,
    }
    serde_json::from_slice::<Probe>(bytes).is_ok_and(|probe| {
        probe.kind.as_deref() == Some("Secret") || probe.data.contains_key("tls.crt")
    })
}

fn kubeconfig(bytes: &[u8], now: UnixTime) -> Result<Item, InspectError> {
    match Kubeconfig::parse(bytes) {
        Ok(config) if !(config.users.is_empty() && config.clusters.is_empty()) => {
            Ok(Item::Kubeconfig(container::kubeconfig(&config, now)))
        }
        Ok(_) => Err(InspectError::Unknown {
            detail: String::new(),
        }),
        Err(error) => {
            let text = String::from_utf8_lossy(bytes);
            let marks = ["clusters", "users", "client-certificate-data"];
            if marks.iter().any(|mark| text.contains(mark)) {
                return Err(InspectError::Kubeconfig(error));
            }
            Err(InspectError::Unknown {
                detail: String::new(),
            })
        }
    }
}

fn pem_file(bytes: &[u8], now: UnixTime) -> Inspection {
    let blocks = pem::blocks(bytes);
    let mut notes = Vec::new();
    let begun = bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| line.starts_with(b"-----BEGIN "))
        .count();
    if begun > blocks.len() {
        notes.push(match begun - blocks.len() {
            1 => "1 damaged PEM block is skipped, as Kubernetes skips it".to_owned(),
            broken => format!("{broken} damaged PEM blocks are skipped, as Kubernetes skips them"),
        });
    }
    if blocks.len() > MOST_ITEMS {
        notes.push(format!(
            "only the first {MOST_ITEMS} of {} blocks are shown",
            blocks.len()
        ));
    }
    let mut items = Vec::new();
    let mut certificates = Vec::new();
    let mut keys: Vec<(usize, Vec<u8>)> = Vec::new();
    for block in blocks.iter().take(MOST_ITEMS) {
        if block.label == "CERTIFICATE"
            && let Ok(certificate) = Certificate::from_der(&block.der)
        {
            if !block.headers.is_empty() {
                let number = items.len() + 1;
                notes.push(format!(
                    "{number} has PEM headers, for which K3s passes it over"
                ));
            }
            items.push(Item::Certificate(Box::new(report(&certificate, now))));
            certificates.push(certificate);
        } else if block.label == "EC PARAMETERS" {
            // Only says again what the key behind it says.
        } else {
            let (item, spki) = other_block(block);
            keys.extend(spki.map(|spki| (items.len(), spki)));
            items.push(item);
        }
    }
    for (at, spki) in keys {
        let owner = certificates.iter().position(|it| it.spki_der() == spki);
        if let Some(Item::PrivateKey(key) | Item::PublicKey(key)) = items.get_mut(at) {
            key.belongs_to = owner.map(|owner| owner + 1);
        }
    }
    let bundle = bundle(&certificates.iter().collect::<Vec<_>>());
    Inspection {
        at: now.to_string(),
        items,
        bundle,
        notes,
    }
}

/// Everything but certificates: the item, and the SPKI if it is a key.
fn other_block(block: &Block) -> (Item, Option<Vec<u8>>) {
    let label = block.label.as_str();
    let failed = |error: &Error| Item::Other {
        label: plain(label),
        detail: plain(&error.to_string()),
    };
    match label {
        "CERTIFICATE" => match Certificate::from_der(&block.der) {
            Ok(_) => (
                failed(&Error::NoPemBlock {
                    expected: "CERTIFICATE",
                }),
                None,
            ),
            Err(error) => (failed(&error), None),
        },
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => {
            match CertificateRequest::from_der(&block.der) {
                Ok(found) => (request(&found), None),
                Err(error) => (failed(&error), None),
            }
        }
        "PUBLIC KEY" if public_key_algorithm(&block.der).is_some() => {
            (Item::PublicKey(key(&block.der)), Some(block.der.to_vec()))
        }
        _ if label.ends_with("PRIVATE KEY") => private_key(block),
        _ => {
            let detail = "of a kind that is not looked into".to_owned();
            (
                Item::Other {
                    label: plain(label),
                    detail,
                },
                None,
            )
        }
    }
}

fn private_key(block: &Block) -> (Item, Option<Vec<u8>>) {
    if block
        .headers
        .iter()
        .any(|header| header.starts_with("DEK-Info"))
    {
        return (
            Item::EncryptedKey {
                form: Error::LegacyEncryptedKey.to_string(),
            },
            None,
        );
    }
    let text = pem::encode(&block.label, &block.der);
    match PrivateKey::from_pem(text.as_bytes()) {
        Ok(private) => (
            Item::PrivateKey(key_of(&private)),
            Some(private.spki_der().to_vec()),
        ),
        Err(Error::PassphraseNeeded) => (encrypted(), None),
        Err(error) => {
            let (label, detail) = (plain(&block.label), plain(&error.to_string()));
            (Item::Other { label, detail }, None)
        }
    }
}

fn encrypted() -> Item {
    Item::EncryptedKey {
        form: "PKCS#8, encrypted; it is opened with its passphrase only".to_owned(),
    }
}

fn key_of(private: &PrivateKey) -> KeyReport {
    KeyReport {
        algorithm: private.algorithm().to_string(),
        ..key(private.spki_der())
    }
}

fn request(request: &CertificateRequest) -> Item {
    Item::Request {
        subject: name(request.subject()),
        sans: request
            .sans()
            .iter()
            .take(MOST_ITEMS)
            .map(|san| plain(&san.to_string()))
            .collect(),
        key: key(request.spki_der()),
    }
}

fn der(bytes: &[u8], now: UnixTime) -> Result<Item, InspectError> {
    /// `id-PBES2` (RFC 8018), which stands at the head of every encrypted PKCS#8 key.
    const PBES2: [u8; 11] = [
        0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d,
    ];
    let as_certificate = match Certificate::from_der(bytes) {
        Ok(certificate) => return Ok(Item::Certificate(Box::new(report(&certificate, now)))),
        Err(error) => error,
    };
    if let Ok(found) = CertificateRequest::from_der(bytes) {
        return Ok(request(&found));
    }
    if public_key_algorithm(bytes).is_some() {
        return Ok(Item::PublicKey(key(bytes)));
    }
    for label in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"] {
        if let Ok(private) = PrivateKey::from_pem(pem::encode(label, bytes).as_bytes()) {
            return Ok(Item::PrivateKey(key_of(&private)));
        }
    }
    let head = bytes.get(..32.min(bytes.len())).unwrap_or_default();
    if head.windows(PBES2.len()).any(|window| window == PBES2) {
        return Ok(encrypted());
    }
    Err(InspectError::Unknown {
        detail: format!(
            "; read as a certificate: {}",
            plain(&as_certificate.to_string())
        ),
    })
}
