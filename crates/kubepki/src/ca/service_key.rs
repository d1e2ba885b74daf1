//! `service.key`: the first key signs service-account tokens, the others check them.

use pki::{KeyAlgorithm, PrivateKey, pem};
use zeroize::Zeroizing;

use super::CaError;
use super::profile::cannot_make;

/// The kind of key that K3s makes for itself.
pub const SERVICE_KEY: KeyAlgorithm = KeyAlgorithm::Rsa(2048);

/// `service.key` with `new` as its first key and every key of `previous` after it, and notes on
/// what was written otherwise than it stood.
///
/// Public keys stay. A PKCS#8 EC key, which K3s reads as no key at all, is written as SEC1; a key
/// that stands twice is written once.
///
/// # Errors
///
/// When `previous` holds text and no key, or a key that is damaged or encrypted.
pub fn service_key_file(
    new: &PrivateKey,
    previous: Option<&[u8]>,
) -> Result<(Zeroizing<Vec<u8>>, Vec<String>), CaError> {
    let mut notes = Vec::new();
    let first = new.to_pem().map_err(cannot_make("service.key"))?;
    let mut parts: Vec<Zeroizing<String>> = vec![first];
    let previous = previous.filter(|text| !text.trim_ascii().is_empty());
    if let Some(previous) = previous {
        let unusable = |problem: String| CaError::Given {
            what: "service.key".to_owned(),
            problem,
        };
        // Parameters belong to a key beside them, which is written with its curve.
        let blocks = pem::blocks(previous);
        let blocks: Vec<_> = blocks
            .iter()
            .filter(|block| block.label != "EC PARAMETERS")
            .collect();
        if blocks.is_empty() {
            return Err(unusable(
                "holds no key; take it from the datastore or a backup".to_owned(),
            ));
        }
        for (index, block) in blocks.into_iter().enumerate() {
            let number = index + 1;
            let part = kept(block, number, &mut notes)
                .map_err(|error| unusable(format!("has a block that cannot be kept, {error}")))?;
            if parts.contains(&part) {
                notes.push(format!(
                    "service.key: key {number} stood there twice and is written once."
                ));
                continue;
            }
            parts.push(part);
        }
    }
    let size = parts.iter().map(|part| part.len()).sum();
    let mut file = Zeroizing::new(Vec::with_capacity(size));
    for part in &parts {
        file.extend_from_slice(part.as_bytes());
    }
    Ok((file, notes))
}

/// A block as it is written again.
fn kept(
    block: &pem::Block,
    number: usize,
    notes: &mut Vec<String>,
) -> Result<Zeroizing<String>, String> {
    let part = pem::encode(&block.label, &block.der);
    if !block.label.ends_with("PRIVATE KEY") {
        return Ok(part);
    }
    let encrypted = |header: &String| header.starts_with("DEK-Info");
    let key = match block.headers.iter().any(encrypted) {
        true => Err(pki::Error::LegacyEncryptedKey),
        false => PrivateKey::from_pem(part.as_bytes()),
    };
    let key = key.map_err(|error| format!("number {number}: {error}"))?;
    if block.label == "PRIVATE KEY" && key.algorithm() != KeyAlgorithm::Ed25519 {
        notes.push(format!(
            "service.key: key {number} was PKCS#8 ({}); it is written in the form in which K3s \
             reads every kind of key.",
            key.algorithm()
        ));
    }
    key.to_pem()
        .map_err(|error| format!("number {number}: {error}"))
}
