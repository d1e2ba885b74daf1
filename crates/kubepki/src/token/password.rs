//! A new password for servers, fit for every place that will hold it.

use std::fmt;

use pki::Digest;
use zeroize::Zeroizing;

use super::{Form, Token, TokenError};
use crate::edge::Entropy;

/// Random bytes of a made password, as K3s has it; it is their hex.
const RANDOM_BYTES: usize = 16;
/// Below this many characters a password is weak: it also encrypts the CA keys, with a derivation
/// that is cheap to try (reference section 10.2).
const STRONG: usize = 16;
/// Longer ones meet limits elsewhere: HTTP headers, command lines.
const LONGEST: usize = 1024;

/// A password for servers, checked, or made.
#[derive(Clone, PartialEq, Eq)]
pub struct NewPassword(Zeroizing<String>);

impl fmt::Debug for NewPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewPassword(***)")
    }
}

/// Why a text cannot be the servers' password. Never tells it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// No token.
    #[error("the new token cannot be used")]
    Token(#[source] TokenError),
    /// The hash of another CA.
    #[error(
        "the new token pins the CA hash {pinned}, this cluster's is {present}: give the password \
         alone"
    )]
    OtherAuthority {
        /// The hash in it.
        pinned: String,
        /// The hash of the CA in force.
        present: String,
    },
    /// A user other than the servers'.
    #[error("the new token is for the user {user:?}: give the password alone, or ::server:")]
    OtherUser {
        /// The user.
        user: String,
    },
    /// `K10…` without a hash, or a password that begins so.
    #[error(
        "the new password begins with K10, or stands behind K10 without a CA hash: K3s would \
         split it into hash, user and password; choose another"
    )]
    LooksFull,
    /// Blanks at an end.
    #[error("the new password begins or ends with a blank, which K3s cuts off in token files")]
    Blank,
    /// Too long.
    #[error("the new password has {bytes} bytes; at most {LONGEST} pass through HTTP headers")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The random number generator failed.
    #[error("cannot make a password")]
    Random(#[source] pki::Error),
}

impl NewPassword {
    /// A random one, as K3s makes it: 32 hex digits.
    ///
    /// # Errors
    ///
    /// When `entropy` fails.
    pub fn random(entropy: &dyn Entropy) -> Result<Self, PasswordError> {
        let mut bytes = Zeroizing::new([0; RANDOM_BYTES]);
        let filled = entropy.fill(bytes.as_mut_slice());
        filled.map_err(PasswordError::Random)?;
        Ok(Self(Zeroizing::new(pki::hex(bytes.as_slice()))))
    }

    /// A given one: a password, or a full token of the servers whose hash is `present`.
    ///
    /// # Errors
    ///
    /// What K3s would refuse, misread or cut.
    pub fn of(token: &Token, present: Digest) -> Result<Self, PasswordError> {
        let password = token.password().map_err(PasswordError::Token)?;
        if let Some(pinned) = token.authority()
            && pinned != present.to_string()
        {
            let (pinned, present) = (pinned.to_owned(), present.to_string());
            return Err(PasswordError::OtherAuthority { pinned, present });
        }
        if token.form() == Form::WithoutHash || password.starts_with("K10") {
            return Err(PasswordError::LooksFull);
        }
        let user = token.user();
        if !matches!(user, "" | "server") {
            let user = user.to_owned();
            return Err(PasswordError::OtherUser { user });
        }
        if password.trim() != password.as_str() {
            return Err(PasswordError::Blank);
        }
        if password.len() > LONGEST {
            let bytes = password.len();
            return Err(PasswordError::TooLong { bytes });
        }
        Ok(Self(password.clone()))
    }

    /// Itself, for what must write it down.
    pub fn expose(&self) -> &Zeroizing<String> {
        &self.0
    }

    /// Whether it can be guessed in a time that matters.
    pub fn is_weak(&self) -> bool {
        self.0.chars().count() < STRONG
    }

    /// Whether it reads the same in shell and systemd files without quotes, and in YAML with them.
    pub fn is_plain(&self) -> bool {
        let mut bytes = self.0.bytes();
        bytes.next().is_some_and(|it| it.is_ascii_alphanumeric())
            && bytes.all(|it| it.is_ascii_alphanumeric() || b"._+/=@-".contains(&it))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::edge::SystemEntropy;

    const OWN: Digest = Digest([0xab; 32]);

    fn of(text: &str) -> Result<NewPassword, PasswordError> {
        NewPassword::of(&Token::parse(text).unwrap(), OWN)
    }

    #[test]
    fn takes_what_k3s_takes() {
        for text in [
            "hunter2-and-more",
            "p:w::x",
            &format!("K10{OWN}::server:hunter2-and-more"),
            &format!("K10{OWN}:::hunter2-and-more"),
        ] {
            assert!(of(text).is_ok(), "{text}");
        }
        let made = NewPassword::random(&SystemEntropy).unwrap();
        assert_eq!(made.expose().len(), 32);
        assert!(!made.is_weak() && Token::parse(made.expose()).unwrap().password().is_ok());
    }

    #[test]
    fn refuses_what_k3s_would_misread() {
        let other = "0".repeat(64);
        let cases = [
            (
                "abc123.0123456789abcdef".to_owned(),
                PasswordError::Token(TokenError::Bootstrap),
            ),
            ("K10user:pw".to_owned(), PasswordError::LooksFull),
            ("K10::server:pw".to_owned(), PasswordError::LooksFull),
            (format!("K10{OWN}::server:K10x:y"), PasswordError::LooksFull),
            (
                format!("K10{OWN}::node:pw"),
                PasswordError::OtherUser {
                    user: "node".to_owned(),
                },
            ),
            (format!("K10{OWN}::server: pw"), PasswordError::Blank),
            (
                format!("K10{other}::server:pw"),
                PasswordError::OtherAuthority {
                    pinned: other,
                    present: OWN.to_string(),
                },
            ),
            ("x".repeat(1025), PasswordError::TooLong { bytes: 1025 }),
        ];
        for (text, error) in cases {
            assert_eq!(of(&text), Err(error.clone()), "{text}");
            assert!(!error.to_string().contains("pw"), "{error}");
        }
    }

    #[test]
    fn knows_which_ones_need_quotes() {
        let plain = |text: &str| of(text).unwrap().is_plain();
        assert!(plain("rotated-token-abcdef0123456789"));
        for text in [
            "a b c d e f",
            "abc#defgh",
            "it's-long-enough",
            "-leading",
            "a:bcdefgh",
        ] {
            assert!(!plain(text), "{text}");
        }
        assert!(of("short").unwrap().is_weak());
    }

    proptest! {
        #[test]
        fn what_is_taken_reads_back_in_every_form(text in "\\PC{1,40}") {
            if let Ok(token) = Token::parse(&text) && let Ok(password) = NewPassword::of(&token, OWN) {
                let full = Token::new(OWN, "server", password.expose().clone()).to_text();
                let short = Token::parse(password.expose()).unwrap();
                for token in [Token::parse(&full).unwrap(), short] {
                    prop_assert_eq!(token.password(), Ok(password.expose()));
                }
            }
        }
    }
}
