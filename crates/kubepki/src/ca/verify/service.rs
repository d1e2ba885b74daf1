//! Service-account keys as Kubernetes reads them (client-go `util/keyutil`): labels mean nothing,
//! and an EC key wrapped in PKCS#8 is not seen at all.

use pki::pem::{self, Block};
use pki::{Certificate, Digest, KeyAlgorithm, PrivateKey, public_key_algorithm};

use super::context::Context;
use super::pair::{Public, public_half};
use crate::bootstrap::Field;

/// The keys that sign and verify tokens of service accounts, before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceKeys {
    /// Those in force; the first one signs.
    pub before: Vec<SigningKey>,
    /// Those that will be.
    pub after: Vec<SigningKey>,
    /// Whether the staged set has them.
    pub staged: bool,
}

/// A key for tokens, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKey {
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki: Digest,
    /// Kind and size, `None` for an RSA key too short to be read.
    pub algorithm: Option<KeyAlgorithm>,
    /// Whether its private half is there; others only verify.
    pub signs: bool,
    /// Whether Kubernetes sees it among the keys that verify.
    pub seen: bool,
}

impl ServiceKeys {
    /// Whether another key signs afterwards.
    pub fn signer_changes(&self) -> bool {
        self.signer(&self.before) != self.signer(&self.after)
    }

    /// Keys whose tokens are refused afterwards.
    pub fn dropped(&self) -> impl Iterator<Item = &SigningKey> {
        let kept = |key: &SigningKey| {
            self.after
                .iter()
                .any(|after| after.seen && after.spki == key.spki)
        };
        self.before.iter().filter(move |key| key.seen && !kept(key))
    }

    fn signer<'k>(&self, keys: &'k [SigningKey]) -> Option<&'k Digest> {
        keys.iter().find(|key| key.signs).map(|key| &key.spki)
    }
}

pub(super) fn compare(context: &Context<'_>) -> ServiceKeys {
    let field = Field::ServiceKey;
    let old = context.question.old.and_then(|old| old.content(field));
    ServiceKeys {
        before: old.map(keys).unwrap_or_default(),
        after: context.effective(field).map(keys).unwrap_or_default(),
        staged: context.staged(field).is_some(),
    }
}

/// The public halves that Kubernetes verifies tokens with, in file order.
pub(super) fn seen_by_k3s(file: &[u8]) -> Vec<Public> {
    pem::blocks(file).iter().filter_map(seen).collect()
}

/// Every key of the file, in order.
pub(super) fn keys(file: &[u8]) -> Vec<SigningKey> {
    let key = |block: &Block| {
        let seen = seen(block);
        let private = public_half(&block.der);
        let public = seen.clone().or_else(|| private.clone())?;
        let (spki, algorithm) = match public {
            Public::Spki(spki) => (pki::sha256(&spki), public_key_algorithm(&spki)),
            Public::ShortRsa(numbers) => (pki::sha256(&numbers), None),
        };
        Some(SigningKey {
            spki,
            algorithm,
            signs: private.is_some(),
            seen: seen.is_some(),
        })
    };
    pem::blocks(file).iter().filter_map(key).collect()
}

/// RSA private (PKCS#1 or PKCS#8) or public (PKIX, certificate), EC private (SEC1 only) or public.
fn seen(block: &Block) -> Option<Public> {
    let der = &block.der;
    if let Some(public) = public_half(der)
        && (is_rsa(&public) || is_sec1(der))
    {
        return Some(public);
    }
    let signs_tokens = |spki: &[u8]| {
        !matches!(
            public_key_algorithm(spki),
            None | Some(KeyAlgorithm::Ed25519)
        )
    };
    if signs_tokens(der) {
        return Some(Public::Spki(der.to_vec()));
    }
    let certificate = Certificate::from_der(der).ok()?;
    let spki = certificate.spki_der();
    signs_tokens(spki).then(|| Public::Spki(spki.to_vec()))
}

fn is_rsa(public: &Public) -> bool {
    match public {
        Public::ShortRsa(_) => true,
        Public::Spki(spki) => matches!(public_key_algorithm(spki), Some(KeyAlgorithm::Rsa(_))),
    }
}

/// SEC1 begins with version 1 and the key as an OCTET STRING; PKCS#8 with version 0.
fn is_sec1(der: &[u8]) -> bool {
    let text = pem::encode("EC PRIVATE KEY", der);
    let version = der
        .windows(3)
        .take(6)
        .find(|window| window.starts_with(&[2, 1]));
    version == Some(&[2, 1, 1]) && PrivateKey::from_pem(text.as_bytes()).is_ok()
}
