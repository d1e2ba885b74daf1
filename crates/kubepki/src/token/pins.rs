//! Pins of CA keys: what a token says of its cluster so that a rotation leaves it good.
//!
//! ```text
//! K10P1.<pin>[+<pin>]...::<id>.<secret>
//! pin = SHA-256 of a CA's SubjectPublicKeyInfo (DER), 64 lower-case hex digits, 1 to 8 of them
//! ```
//!
//! A hash of the CA's file (K3s's form) changes with every rotation. A key stays for as long as its
//! CA is in the bundle, and the key of a CA that is still to come can be pinned beforehand.

use std::fmt;

use pki::verify::{Options, verify};
use pki::{Certificate, Digest, Purpose, UnixTime};

use super::TokenError;
use super::hash::leads_to;

/// What a pin set begins with; the digit is the form's version.
pub const PINS_PREFIX: &str = "K10P1.";
/// The same behind `K10`.
const MARK: &str = "P1.";
/// Pins in one token.
pub const MOST_PINS: usize = 8;

/// One to [`MOST_PINS`] different keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pins(Vec<Digest>);

impl Pins {
    pub(super) fn new(keys: &[Digest]) -> Result<Self, TokenError> {
        let wrong = |problem| Err(TokenError::Pins { problem });
        if keys.is_empty() {
            return wrong("there is none");
        }
        if keys.len() > MOST_PINS {
            return wrong("there are more than eight");
        }
        let different = |(at, key): (usize, &Digest)| !keys.iter().take(at).any(|it| it == key);
        if !keys.iter().enumerate().all(different) {
            return wrong("one stands there twice");
        }
        Ok(Self(keys.to_vec()))
    }

    /// What stands between `K10` and `::`; `None` where that is no pin set of any version.
    pub(super) fn parse(text: &str) -> Option<Result<Self, TokenError>> {
        let rest = text.strip_prefix('P')?;
        let (version, _) = rest.split_once('.')?;
        if version.is_empty() || !version.bytes().all(|it| it.is_ascii_digit()) {
            return None;
        }
        let problem = "they are of a later version of this program";
        let Some(list) = text.strip_prefix(MARK) else {
            return Some(Err(TokenError::Pins { problem }));
        };
        // Before anything is kept of a text that may be long.
        let keys = list.split('+').take(MOST_PINS + 1).map(pin);
        let keys: Option<Vec<Digest>> = keys.collect();
        Some(match keys {
            Some(keys) => Self::new(&keys),
            None => Err(TokenError::Pins {
                problem: "each is 64 lower-case hex digits, with + between two",
            }),
        })
    }

    pub(super) fn keys(&self) -> &[Digest] {
        &self.0
    }
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MARK)?;
        for (at, key) in self.0.iter().enumerate() {
            let between = if at == 0 { "" } else { "+" };
            write!(f, "{between}{key}")?;
        }
        Ok(())
    }
}

fn pin(text: &str) -> Option<Digest> {
    let is_lower = |it: u8| it.is_ascii_digit() || (b'a'..=b'f').contains(&it);
    if !text.bytes().all(is_lower) {
        return None;
    }
    let bytes = pki::unhex(text)?;
    Some(Digest(bytes.try_into().ok()?))
}

/// The keys that tokens of a cluster pin, from the certificates of its server CA's file: those of
/// every root in it, the one that is in force first; without any root, that of the last
/// certificate which the first one leads to.
///
/// An old root that is still in the file is pinned too: what a server with the old CA shows must
/// be believed for as long as nodes believe it. A CA that must no longer be believed is not in the
/// file.
pub fn pins_of(certificates: &[Certificate], now: UnixTime) -> Vec<Digest> {
    let mut keys = Vec::new();
    let root = leads_to(certificates, now).filter(|it| it.is_self_issued());
    let roots = certificates.iter().filter(|it| it.is_self_issued());
    for certificate in root.into_iter().chain(roots) {
        let key = certificate.spki_sha256();
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    if keys.is_empty() {
        let top = leads_to(certificates, now).or(certificates.first());
        keys.extend(top.map(Certificate::spki_sha256));
    }
    keys.truncate(MOST_PINS);
    keys
}

/// The keys of CAs that a client which knows one of them would believe a server by: that of the
/// file's first certificate, which signs what servers show, and those of every certificate of the
/// file that it leads to.
pub(super) fn keys_led_to(certificates: &[Certificate], now: UnixTime) -> Vec<Digest> {
    let Some(first) = certificates.first() else {
        return Vec::new();
    };
    let options = Options::at(now).purposes(&[Purpose::Any]);
    let mut keys = Vec::new();
    for anchor in certificates {
        let key = anchor.spki_sha256();
        if keys.contains(&key) || !anchor.validity().contains(now) {
            continue;
        }
        let anchors = std::slice::from_ref(anchor);
        if key == first.spki_sha256() || verify(first, certificates, anchors, &options).is_ok() {
            keys.push(key);
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_pki::{START, authority};
    use crate::token::{Form, Token};

    fn key(byte: u8) -> Digest {
        Digest([byte; 32])
    }

    #[test]
    fn a_pin_set_reads_as_it_was_written() {
        let secret = "0123456789abcdef0123456789abcdef";
        for keys in [vec![key(1)], (1..=8).map(key).collect()] {
            let token = Token::pinning(&keys, "abc123", secret).unwrap();
            let text = token.to_text();
            assert!(text.starts_with(PINS_PREFIX));
            let read = Token::parse(&text).unwrap();
            assert_eq!((read.pins(), read.user()), (&keys[..], "abc123"));
            assert_eq!((read.form(), read.authority()), (Form::PinSet, None));
            assert!(read == token && read.is_pinned());
            assert!(!format!("{token} {token:?}").contains(secret));
            let bearer = format!("Bearer abc123.{secret}");
            assert_eq!(*read.authorization("node"), bearer);
        }
    }

    #[test]
    fn what_is_no_pin_set() {
        let hex = key(0xab).to_string();
        let credential = "abc123.0123456789abcdef";
        for (pins, word) in [
            (String::new(), "64 lower-case"),
            (hex.to_uppercase(), "64 lower-case"),
            (hex.get(1..).unwrap().to_owned(), "64 lower-case"),
            (format!("{hex}+"), "64 lower-case"),
            (format!("{hex},{hex}"), "64 lower-case"),
            (format!("{hex}+{hex}"), "twice"),
        ] {
            let text = format!("K10P1.{pins}::{credential}");
            let error = Token::parse(&text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        let many: Vec<String> = (0..9).map(|it| key(it).to_string()).collect();
        let many = format!("K10P1.{}::{credential}", many.join("+"));
        for (text, word) in [
            (many, "more than eight"),
            (format!("K10P2.{hex}::{credential}"), "later version"),
            (format!("K10P1.{hex}::node:password"), "<id>.<secret>"),
            (format!("K10P1.{hex}::abc123."), "<id>.<secret>"),
            (format!("K10P1.{hex}::{credential}0"), "<id>.<secret>"),
            (format!("K10P1.{hex}"), "no password"),
        ] {
            let error = Token::parse(&text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
            assert!(!error.contains("0123456789abcdef"), "{error}");
        }
        assert!(Token::pinning(&[], "abc123", "0123456789abcdef").is_err());
        assert!(Token::pinning(&[key(1)], "abc12", "0123456789abcdef").is_err());
    }

    #[test]
    fn every_root_of_the_file_is_pinned_and_the_one_in_force_first() {
        let (new, old) = (authority("new"), authority("old"));
        let (new, old) = (new.certificate().clone(), old.certificate().clone());
        let (first, second) = (new.spki_sha256(), old.spki_sha256());
        let both = [new.clone(), old.clone(), old];
        assert_eq!(pins_of(&both, START), [first, second]);
        assert_eq!(pins_of(&[new], START), [first]);
        assert_eq!(pins_of(&[], START), []);
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "K10P[0-9]?\\.?[0-9a-fA-F+:.]{0,200}") {
            let _ = Token::parse(&text);
        }

        #[test]
        fn any_pins_read_back(bytes in proptest::collection::btree_set(any::<[u8; 32]>(), 1..=8)) {
            let keys: Vec<Digest> = bytes.into_iter().map(Digest).collect();
            let token = Token::pinning(&keys, "a0b1c2", "0123456789abcdef").unwrap();
            prop_assert_eq!(Token::parse(&token.to_text()), Ok(token));
        }
    }
}
