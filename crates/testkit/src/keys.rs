//! Private keys that protect nothing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Every key made so far in this process, by number.
static MADE: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

/// Hands out P-256 keys as SEC1 PEM (`EC PRIVATE KEY`), the form K3s writes.
///
/// Two pools of one process hand out the same keys in the same order, so a rotation that is run
/// twice, once to the end and once with a crash and a resume, ends with equal trees. Turn one into
/// a source of keys in two lines:
///
/// ```text
/// impl KeySource for PoolKeys {
///     fn generate(&self, _: KeyAlgorithm) -> Result<PrivateKey, pki::Error> {
///         PrivateKey::from_pem(self.0.next_pem().as_bytes())
///     }
/// }
/// ```
#[derive(Debug, Default)]
pub struct KeyPool {
    next: AtomicUsize,
}

impl KeyPool {
    /// A pool that starts with the first key.
    pub fn new() -> Self {
        Self::default()
    }

    /// A pool that starts with key number `first`, for keys that must differ from another pool's.
    pub fn starting_at(first: usize) -> Self {
        Self {
            next: AtomicUsize::new(first),
        }
    }

    /// The next key that this pool has not handed out yet.
    pub fn next_pem(&self) -> &'static str {
        Self::pem(self.next.fetch_add(1, Ordering::SeqCst))
    }

    /// How many keys have been handed out, counted from key 0.
    pub fn position(&self) -> usize {
        self.next.load(Ordering::SeqCst)
    }

    /// Key number `index` of this process; made when it is asked for first.
    pub fn pem(index: usize) -> &'static str {
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match made.get(index) {
                Some(pem) => return pem,
                None => made.push(Box::leak(new_key().into_boxed_str())),
            }
        }
    }
}

fn new_key() -> String {
    let der = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
        .and_then(|pair| AsDer::<EcPrivateKeyRfc5915Der<'_>>::as_der(&pair.private_key()))
        .unwrap_or_else(|_| panic!("the system's generator failed"));
    let mut pem = String::from("-----BEGIN EC PRIVATE KEY-----\n");
    let text = STANDARD.encode(der.as_ref());
    for (at, letter) in text.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            pem.push('\n');
        }
        pem.push(letter);
    }
    pem.push_str("\n-----END EC PRIVATE KEY-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_agree_and_keys_differ() {
        let (one, other) = (KeyPool::new(), KeyPool::new());
        let first = one.next_pem();
        assert_eq!(first, other.next_pem());
        assert_ne!(first, one.next_pem());
        assert_eq!(KeyPool::starting_at(1).next_pem(), other.next_pem());
        assert_eq!(one.position(), 2);
    }

    #[test]
    fn openssl_reads_them() {
        let run = crate::openssl_ok(&["ec", "-check", "-noout"], KeyPool::pem(0).as_bytes());
        assert!(run.text().contains("EC Key valid"), "{run:?}");
    }
}
