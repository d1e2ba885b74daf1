//! The encryption of a datastore value, and the name of its key (K3s `pkg/cluster/encrypt.go`).

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::pbkdf2::{self, PBKDF2_HMAC_SHA1};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::edge::Entropy;

/// What the names of all bootstrap keys begin with.
pub const KEY_PREFIX: &str = "/bootstrap";

const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();
const SALT_BYTES: usize = 8;
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

/// The password part of the server token, which encrypts the bootstrap data. Old clusters have
/// an empty one.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// A passphrase as it is; see [`crate::token::Token::password`].
    pub fn new(password: impl Into<Zeroizing<String>>) -> Self {
        Self(password.into())
    }

    /// The datastore key that it names: `/bootstrap/` and the first twelve digits of the SHA-256
    /// of it.
    pub fn key_name(&self) -> String {
        let digest = pki::sha256(self.0.as_bytes()).to_string();
        format!("{KEY_PREFIX}/{}", digest.get(..12).unwrap_or_default())
    }

    /// Itself, for what must write it down.
    pub fn expose(&self) -> &Zeroizing<String> {
        &self.0
    }

    fn derive(&self, salt: &[u8]) -> Result<LessSafeKey, SealError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        let secret = self.0.as_bytes();
        pbkdf2::derive(PBKDF2_HMAC_SHA1, ITERATIONS, salt, secret, key.as_mut());
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).map_err(|_| SealError::Crypto)?;
        Ok(LessSafeKey::new(key))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passphrase({})", self.key_name())
    }
}

/// A datastore value that cannot be opened or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// K3s's lock.
    #[error(
        "the value is empty: a K3s server is making the cluster's CAs right now, or died while \
         doing so; K3s itself takes the lock over after 25 s"
    )]
    Lock,
    /// Not what K3s writes.
    #[error("the value is not K3s's: {problem}")]
    Malformed {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The token does not fit, or a byte was changed.
    #[error("the token does not open it: it was encrypted with another one, or is damaged")]
    OtherPassphrase,
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Crypto,
}

/// Whether a value is K3s's lock: the key exists, and nobody has written the data yet.
pub fn is_lock(value: &[u8]) -> bool {
    value.is_empty()
}

/// Encrypts `plaintext`: `<salt>:<base64 of nonce, ciphertext and tag>`.
///
/// PBKDF2-HMAC-SHA1 with 4096 rounds over the sixteen hex digits of an eight-byte salt, then
/// AES-256-GCM without additional data.
///
/// # Errors
///
/// [`SealError::Crypto`] when random bytes or the cipher fail.
pub fn seal(
    plaintext: &[u8],
    passphrase: &Passphrase,
    entropy: &dyn Entropy,
) -> Result<Vec<u8>, SealError> {
    let (mut salt, mut nonce) = ([0; SALT_BYTES], [0; NONCE_LEN]);
    entropy.fill(&mut salt).map_err(|_| SealError::Crypto)?;
    entropy.fill(&mut nonce).map_err(|_| SealError::Crypto)?;
    seal_with(plaintext, passphrase, &pki::hex(&salt), nonce)
}

fn seal_with(
    plaintext: &[u8],
    passphrase: &Passphrase,
    salt: &str,
    nonce: [u8; NONCE_LEN],
) -> Result<Vec<u8>, SealError> {
    let key = passphrase.derive(salt.as_bytes())?;
    let mut sealed = Zeroizing::new(Vec::with_capacity(plaintext.len() + TAG_BYTES));
    sealed.extend_from_slice(plaintext);
    let unique = Nonce::assume_unique_for_key(nonce);
    let tag = key
        .seal_in_place_separate_tag(unique, Aad::empty(), &mut sealed)
        .map_err(|_| SealError::Crypto)?;
    let bytes = [&nonce[..], &sealed, tag.as_ref()].concat();
    Ok(format!("{salt}:{}", STANDARD.encode(bytes)).into_bytes())
}

/// Decrypts a datastore value.
///
/// # Errors
///
/// [`SealError`]: a lock, something that K3s never wrote, or another token.
pub fn open(value: &[u8], passphrase: &Passphrase) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let malformed = |problem| SealError::Malformed { problem };
    if is_lock(value) {
        return Err(SealError::Lock);
    }
    let colon = value.iter().position(|byte| *byte == b':');
    let (salt, encoded) = colon
        .and_then(|colon| Some((value.get(..colon)?, value.get(colon + 1..)?)))
        .ok_or_else(|| malformed("it has no colon between salt and ciphertext"))?;
    let bytes = STANDARD
        .decode(encoded)
        .map_err(|_| malformed("what follows the salt is not base64"))?;
    let (nonce, sealed) = bytes
        .split_first_chunk::<NONCE_LEN>()
        .filter(|(_, sealed)| sealed.len() >= TAG_BYTES)
        .ok_or_else(|| malformed("it is too short to be encrypted"))?;
    let key = passphrase.derive(salt)?;
    let mut opened = Zeroizing::new(sealed.to_vec());
    let unique = Nonce::assume_unique_for_key(*nonce);
    let length = key
        .open_in_place(unique, Aad::empty(), &mut opened)
        .map_err(|_| SealError::OtherPassphrase)?
        .len();
    opened.truncate(length);
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::SystemEntropy;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.to_owned())
    }

    #[test]
    fn names_its_key() {
        let cases = [
            ("", "/bootstrap/e3b0c44298fc"),
            ("token", "/bootstrap/3c469e9d6c58"),
            ("test", "/bootstrap/9f86d081884c"),
            ("test-passphrase", "/bootstrap/7574f01b9ebd"),
            ("fixture-token-0123456789abcdef", "/bootstrap/d0bdc7873da2"),
        ];
        for (text, name) in cases {
            assert_eq!(passphrase(text).key_name(), name);
        }
    }

    #[test]
    fn known_answer_of_k3s() {
        let nonce = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
        let sealed = seal_with(
            b"{\"a\":1}\n",
            &passphrase("token"),
            "0123456789abcdef",
            nonce,
        );
        let expected = "0123456789abcdef:AAECAwQFBgcICQoLw/IgtZIbR9qA5B20mEg0mf5ECuo7yOJP";
        assert_eq!(sealed, Ok(expected.as_bytes().to_vec()));
        let opened = open(expected.as_bytes(), &passphrase("token")).unwrap();
        assert_eq!(opened.as_slice(), b"{\"a\":1}\n");
    }

    #[test]
    fn what_was_sealed_opens_with_its_passphrase_only() {
        for plaintext in [&b""[..], b"x", &[7; 70_000]] {
            let sealed = seal(plaintext, &passphrase("one"), &SystemEntropy).unwrap();
            let opened = open(&sealed, &passphrase("one")).unwrap();
            assert_eq!(opened.as_slice(), plaintext);
            assert_eq!(
                open(&sealed, &passphrase("two")),
                Err(SealError::OtherPassphrase)
            );
            let again = seal(plaintext, &passphrase("one"), &SystemEntropy).unwrap();
            assert_ne!(sealed, again, "salt and nonce must be new each time");
        }
    }

    #[test]
    fn nonsense_has_an_error() {
        let with = |value: &[u8]| open(value, &passphrase("token"));
        assert_eq!(with(b""), Err(SealError::Lock));
        for value in [
            &b"no colon"[..],
            b"salt:%%%",
            b"salt:",
            b"salt:AAECAw==",
            &[0xff; 40],
        ] {
            assert!(
                matches!(with(value), Err(SealError::Malformed { .. })),
                "{value:?}"
            );
        }
        let mut value = seal(b"data", &passphrase("token"), &SystemEntropy).unwrap();
        // The salt is text of any length to K3s; another one is another key.
        value.insert(0, b'0');
        assert_eq!(with(&value), Err(SealError::OtherPassphrase));
    }
}
