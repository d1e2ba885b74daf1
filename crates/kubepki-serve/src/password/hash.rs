//! Hashes of node passwords, as text.

use aws_lc_rs::hmac;

use crate::access::is_random;

/// scrypt's cost in K3s's hashes (reference section 5.8): N = 2^15, r = 8, p = 1.
const COST: (u8, u32, u32) = (15, 8, 1);

/// What a hash text is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verifier {
    /// K3s's form, `$1:<salt>:15:8:1:<base64>`: scrypt, for passwords that a person may have
    /// chosen.
    Slow { salt: Vec<u8>, hash: Vec<u8> },
    /// `$sha256:<salt>:<hex>`: for passwords of 128 random bits and more, as K3s's agents make
    /// them; no slowness makes those harder to guess.
    Fast { salt: Vec<u8>, hash: Vec<u8> },
}

impl Verifier {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.split(':').collect();
        match fields.as_slice() {
            ["$1", salt, "15", "8", "1", hash] => {
                let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
                Some(Self::Slow {
                    salt: pki::unhex(salt)?,
                    hash: base64::Engine::decode(&engine, hash).ok()?,
                })
            }
            ["$sha256", salt, hash] => Some(Self::Fast {
                salt: pki::unhex(salt)?,
                hash: pki::unhex(hash)?,
            }),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Slow { salt, hash } => {
                let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
                let hash = base64::Engine::encode(&engine, hash);
                let (n, r, p) = COST;
                format!("$1:{}:{n}:{r}:{p}:{hash}", pki::hex(salt))
            }
            Self::Fast { salt, hash } => {
                format!("$sha256:{}:{}", pki::hex(salt), pki::hex(hash))
            }
        }
    }

    /// Hashes a new password.
    pub(super) fn make(password: &str, salt: Vec<u8>) -> Option<Self> {
        if is_random(password) {
            let hash = fast(password, &salt);
            Some(Self::Fast { salt, hash })
        } else {
            let hash = slow(password, &salt)?;
            Some(Self::Slow { salt, hash })
        }
    }

    pub(super) fn matches(&self, password: &str) -> bool {
        let (found, expected) = match self {
            Self::Slow { salt, hash } => (slow(password, salt), hash),
            Self::Fast { salt, hash } => (Some(fast(password, salt)), hash),
        };
        found.is_some_and(|found| {
            aws_lc_rs::constant_time::verify_slices_are_equal(&found, expected).is_ok()
        })
    }
}

fn fast(password: &str, salt: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, salt);
    hmac::sign(&key, password.as_bytes()).as_ref().to_vec()
}

fn slow(password: &str, salt: &[u8]) -> Option<Vec<u8>> {
    let (n, r, p) = COST;
    let parameters = scrypt::Params::new(n, r, p).ok()?;
    let mut hash = vec![0; 64];
    scrypt::scrypt(password.as_bytes(), salt, &parameters, &mut hash).ok()?;
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_k3s_does() {
        // Reference section 5.8, from K3s's own code.
        let expected = "$1:0011223344556677:15:8:1:Vjp30ZvY2GxNnMhwo9BZ+xFojekXCeIv+B5D4OMP/\
                        FmdF8c7+26wGpiLpCdyHX27kkGwS/H1fFGkAqvwmukklg";
        let salt = pki::unhex("0011223344556677").unwrap();
        let made = Verifier::make("nodepass", salt).unwrap();
        assert_eq!(made.text(), expected);
        let read = Verifier::parse(expected).unwrap();
        assert!(read.matches("nodepass") && !read.matches("nodepas"));
    }

    #[test]
    fn only_what_looks_random_is_hashed_fast() {
        let random = "8f0d6c1b7e2a4953c4d1e0f2a3b5968d";
        let made = Verifier::make(random, vec![1; 16]).unwrap();
        assert!(made.text().starts_with("$sha256:") && !made.text().contains(random));
        let read = Verifier::parse(&made.text()).unwrap();
        assert!(read == made && read.matches(random) && !read.matches("x"));
        for weak in [
            "hunter2",
            "00000000000000000000000000000000",
            "8F0D6C1B7E2A4953C4D1E0F2A3B5968D",
        ] {
            assert!(!is_random(weak), "{weak}");
        }
        for odd in [
            "",
            "$1",
            "$1:zz:15:8:1:AA",
            "$1:00:16:8:1:AA",
            "$2:00:00",
            "$sha256:0:1",
        ] {
            assert_eq!(Verifier::parse(odd), None, "{odd}");
        }
    }
}
