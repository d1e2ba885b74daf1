//! Tokens that `kubepki token create` makes and `kubepki serve` takes.
//!
//! Each has an id, which is no secret, and a secret. The cluster's datastore holds a record under
//! `/kubepki/tokens/<id>`: what the token allows, until when, for how many nodes, which nodes it
//! has let in, and the SHA-256 of the secret. Secrets are random and long, so that a slow hash
//! would protect nothing that a quick one does not.
//!
//! ```text
//! <id>.<secret>   id: 6, secret: 16 or 32 characters of a-z and 0-9         (Secret)
//! record          role, end, uses, node; who came; revoked                  (record)
//! datastore       create, list, revoke, spend: compare and swap             (store)
//! ```

mod record;
mod store;

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use pki::Digest;
use zeroize::Zeroizing;

use crate::edge::Entropy;

pub use record::{
    Denied, End, LONGEST_DESCRIPTION, MOST_USES, Made, Malformed, RETRY, Role, Shape, Use, Wanted,
};
pub use store::{Entry, KEPT, MadeError, PREFIX, create, find, forget_ended, list, revoke, spend};

/// Characters of an id.
pub const ID: usize = 6;
/// Characters of a bootstrap token's secret: 82 random bits.
pub const SHORT: usize = 16;
/// Characters of any other made token's secret: 165 random bits.
pub const LONG: usize = 32;

/// Id and secret of a made token. Shows its secret in [`Secret::expose`] only.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    id: String,
    secret: Zeroizing<String>,
}

impl Secret {
    /// Random ones; `length` is [`SHORT`] or [`LONG`].
    ///
    /// # Errors
    ///
    /// When `entropy` fails.
    pub fn random(entropy: &dyn Entropy, length: usize) -> Result<Self, pki::Error> {
        let id = letters(entropy, ID)?.to_string();
        let secret = letters(entropy, length)?;
        Ok(Self { id, secret })
    }

    /// Reads `<id>.<secret>`; `None` for any other shape.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = split(text)?;
        Some(Self {
            id: id.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
        })
    }

    /// The id: no secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The secret itself, for the token's text.
    pub fn expose(&self) -> &str {
        &self.secret
    }

    /// What its record keeps: SHA-256 of `<id>.<secret>`.
    pub fn hash(&self) -> Digest {
        let text = Zeroizing::new(format!("{}.{}", self.id, self.secret.as_str()));
        pki::sha256(text.as_bytes())
    }

    /// Whether it is the one that `hash` was made of; in a time that tells nothing of either.
    pub fn is(&self, hash: Digest) -> bool {
        verify_slices_are_equal(&self.hash().0, &hash.0).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}.***)", self.id)
    }
}

/// Id and secret of `[a-z0-9]{6}.[a-z0-9]{16}` or `[a-z0-9]{6}.[a-z0-9]{32}`, whole.
pub fn split(text: &str) -> Option<(&str, &str)> {
    let (id, secret) = text.split_once('.')?;
    let fits = is_id(id) && matches!(secret.len(), SHORT | LONG) && is_plain(secret);
    fits.then_some((id, secret))
}

/// Whether a text has the shape of an id.
pub fn is_id(text: &str) -> bool {
    text.len() == ID && is_plain(text)
}

fn is_plain(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.bytes().all(fits)
}

/// So many random characters of 36, each as likely as the others.
fn letters(entropy: &dyn Entropy, count: usize) -> Result<Zeroizing<String>, pki::Error> {
    /// The largest multiple of 36 that a byte holds: beyond it some would come more often.
    const EVEN: u8 = 252;
    let mut text = Zeroizing::new(String::with_capacity(count));
    let mut bytes = Zeroizing::new([0; 64]);
    while text.len() < count {
        entropy.fill(bytes.as_mut())?;
        let left = count - text.len();
        for byte in bytes.iter().filter(|it| **it < EVEN).take(left) {
            let digit = u32::from(*byte % 36);
            text.extend(char::from_digit(digit, 36));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::edge::SystemEntropy;

    #[test]
    fn made_ones_have_their_shape_and_hide_their_secret() {
        for length in [SHORT, LONG] {
            let made = Secret::random(&SystemEntropy, length).unwrap();
            assert_eq!((made.id().len(), made.expose().len()), (ID, length));
            let text = format!("{}.{}", made.id(), made.expose());
            assert_eq!(Secret::parse(&text), Some(made.clone()));
            assert!(!format!("{made:?}").contains(made.expose()));
            assert!(made.is(pki::sha256(text.as_bytes())));
            let other = Secret::random(&SystemEntropy, length).unwrap();
            assert!(!other.is(made.hash()) && other != made);
        }
    }

    #[test]
    fn other_shapes_are_none() {
        let long = "0".repeat(LONG);
        for text in [
            "",
            ".",
            "abc123",
            "abc123.",
            "abc12.0123456789abcdef",
            "abc1234.0123456789abcdef",
            "ABC123.0123456789abcdef",
            "abc123.0123456789abcdeF",
            "abc123.0123456789abcde",
            "abc123.0123456789abcdef0",
            "abc123.0123456789abcdef ",
            " abc123.0123456789abcdef",
            &format!("abc123.{long}0"),
            &format!("äbc12.{long}"),
        ] {
            assert_eq!(split(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,60}") {
            if let Some(secret) = Secret::parse(&text) {
                prop_assert_eq!(format!("{}.{}", secret.id(), secret.expose()), text);
            }
        }
    }
}
