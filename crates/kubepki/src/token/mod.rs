//! Join tokens as K3s writes and reads them (K3s `pkg/clientaccess/token.go`).
//!
//! ```text
//! text          -> Token: hash, user, password                            (here)
//! server CA     -> the hash that tokens pin, by every rule                (hash)
//! hash          -> whose it is: this CA's, a staged one's, a former one's (known)
//! server's tree -> passwords, CA, what lies there                         (server)
//! CA's keys     -> pins that a rotation leaves good                       (pins)
//! a made token  -> its record in the datastore: role, end, uses           (made)
//! Kubernetes' own bootstrap tokens -> Secrets in the same datastore       (kubernetes)
//! Token + tree  -> what it is good for                                    (check)
//! new password  -> Plan: datastore, users, token files                    (password, rotate)
//! node's files  -> where tokens stand -> Plan: what they pin, no more     (node)
//! ```

mod check;
pub(crate) mod draft;
mod hash;
mod known;
pub mod kubernetes;
pub mod made;
mod node;
mod password;
mod pins;
mod rotate;
mod server;

use std::fmt;

use pki::{Certificate, Digest};
use zeroize::Zeroizing;

use pins::Pins;

pub use check::{Form, Opinion, PinnedKey, Proves, check};
pub use draft::Head;
pub use hash::{Change, Hashes, How, authority_hash, hash_of, hashes};
pub use known::{Known, Rule, Whose};
pub use node::{
    Fate, FileKind, NodeFile, NodeFiles, NodeProblem, Occurrence, PinnedKeys, Pinning, masked,
    occurrences, password_edits, pin_edits, plan_edits,
};
pub use password::{NewPassword, PasswordError};
pub use pins::{MOST_PINS, PINS_PREFIX, pins_of};
pub(crate) use rotate::replaced_users;
pub use rotate::{Edit, RotateError, Rotation, plan_rotation};
pub use server::{ServerFiles, ServerFilesError, TokenTextError, read_token};

/// A join token: which CA it pins, and what it proves. Its secret shows in [`Token::to_text`]
/// only.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    authority: Authority,
    credential: Credential,
}

/// Which CA a token is for.
#[derive(Clone, PartialEq, Eq)]
enum Authority {
    /// Any that answers.
    Any,
    /// The one with that hash, hex as it was written.
    Hash(String),
    /// One with any of these keys.
    Keys(Pins),
}

#[derive(Clone, PartialEq, Eq)]
enum Credential {
    Password {
        user: String,
        password: Zeroizing<String>,
    },
    Bootstrap {
        id: String,
        secret: Zeroizing<String>,
    },
}

/// A text that is no token. The text itself is secret, so it is not told. Where K3s refuses it too,
/// K3s's words come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing there.
    #[error("token must not be empty")]
    Empty,
    /// `K10`, something that is not 64 characters long, `::`.
    #[error(
        "invalid token CA hash length: between K10 and :: it has {length} characters, not 64: copy \
         the token whole, or give the password alone"
    )]
    HashLength {
        /// Its length in bytes.
        length: usize,
    },
    /// Neither a password nor a bootstrap token follows.
    #[error(
        "invalid token format: it has no password; write K10<CA hash>::<user>:<password>, or the \
         password alone"
    )]
    NoPassword,
    /// `K10P`, and then no pins of a form that is known.
    #[error("the token's pins cannot be read: {problem}; copy the token whole")]
    Pins {
        /// What is wrong.
        problem: &'static str,
    },
    /// A password that would break the files that hold it.
    #[error("the token holds a line end or another control character")]
    ControlCharacter,
    /// A bootstrap token where servers need a password.
    #[error(
        "the token has the shape of a bootstrap token (six characters, a dot, sixteen \
         characters); servers need a password of another shape"
    )]
    Bootstrap,
}

impl Token {
    /// A token of `user` with `password` that pins the CA with the hash `authority`.
    pub fn new(authority: Digest, user: &str, password: Zeroizing<String>) -> Self {
        let user = user.to_owned();
        Self {
            authority: Authority::Hash(authority.to_string()),
            credential: Credential::Password { user, password },
        }
    }

    /// A bootstrap token that pins the CA with the hash `authority`; `None` if `id` and `secret`
    /// have not its shape.
    pub fn bootstrap(authority: Digest, id: &str, secret: &str) -> Option<Self> {
        let text = Zeroizing::new(format!("{id}.{secret}"));
        Some(Self {
            authority: Authority::Hash(authority.to_string()),
            credential: bootstrap(&text)?,
        })
    }

    /// A token that pins keys of CAs by the SHA-256 of their SubjectPublicKeyInfo (DER).
    ///
    /// # Errors
    ///
    /// [`TokenError::Pins`] for none, too many, or one twice, and for an id or a secret of another
    /// shape than [`made::Secret`]'s.
    pub fn pinning(keys: &[Digest], id: &str, secret: &str) -> Result<Self, TokenError> {
        let pins = Pins::new(keys)?;
        let text = Zeroizing::new(format!("{id}.{secret}"));
        Ok(Self {
            authority: Authority::Keys(pins),
            credential: made_token(&text).ok_or(TokenError::NoPassword)?,
        })
    }

    /// Reads any form that K3s takes (reference section 5.1), and a pin set
    /// (`K10P1.<pin>[+<pin>]::<id>.<secret>`); white space around it is left out, as K3s does with
    /// token files.
    ///
    /// K3s itself refuses a pin set (`invalid token CA hash length`) before it sends anything:
    /// that is why it begins with `K10`.
    ///
    /// # Errors
    ///
    /// [`TokenError`], never with a part of the token.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        if text.chars().any(char::is_control) {
            return Err(TokenError::ControlCharacter);
        }
        let Some(long) = text.strip_prefix("K10") else {
            // K3s puts `K10:::` before a short password, which then splits into nothing, nothing
            // and the password.
            let credential = bootstrap(text).unwrap_or_else(|| Credential::Password {
                user: String::new(),
                password: Zeroizing::new(text.to_owned()),
            });
            return Ok(Self {
                authority: Authority::Any,
                credential,
            });
        };
        let (authority, rest) = long.split_once("::").unwrap_or(("", long));
        if let Some(pins) = Pins::parse(authority) {
            return Ok(Self {
                authority: Authority::Keys(pins?),
                credential: made_token(rest).ok_or(TokenError::Pins {
                    problem: "no <id>.<secret> follows them",
                })?,
            });
        }
        let authority = match authority.len() {
            0 => Authority::Any,
            64 => Authority::Hash(authority.to_owned()),
            length => return Err(TokenError::HashLength { length }),
        };
        if let Some(credential) = bootstrap(rest) {
            return Ok(Self {
                authority,
                credential,
            });
        }
        match rest.split_once(':') {
            Some((user, password)) if !password.is_empty() => {
                let password = Zeroizing::new(password.to_owned());
                let user = user.to_owned();
                Ok(Self {
                    authority,
                    credential: Credential::Password { user, password },
                })
            }
            _ => Err(TokenError::NoPassword),
        }
    }

    /// The CA hash that the token pins, hex as it was written; `None` where it pins nothing, or
    /// keys.
    pub fn authority(&self) -> Option<&str> {
        match &self.authority {
            Authority::Hash(hash) => Some(hash),
            Authority::Any | Authority::Keys(_) => None,
        }
    }

    /// The keys that a pin set pins, as it has them; empty for other forms.
    pub fn pins(&self) -> &[Digest] {
        match &self.authority {
            Authority::Keys(pins) => pins.keys(),
            Authority::Any | Authority::Hash(_) => &[],
        }
    }

    /// Whether it tells the right server from another: by a hash, or by keys.
    pub fn is_pinned(&self) -> bool {
        self.authority != Authority::Any
    }

    /// Whether its pins name the key of `certificate`.
    pub fn pins_key_of(&self, certificate: &Certificate) -> bool {
        self.pins().contains(&certificate.spki_sha256())
    }

    /// The password alone, which is what K3s keeps of the token that a server is given.
    ///
    /// # Errors
    ///
    /// [`TokenError::Bootstrap`]: K3s refuses such a token for servers (`failed to normalize
    /// server token`), and a password of that shape too.
    pub fn password(&self) -> Result<&Zeroizing<String>, TokenError> {
        match &self.credential {
            Credential::Password { password, .. } if bootstrap(password).is_none() => Ok(password),
            Credential::Password { .. } | Credential::Bootstrap { .. } => {
                Err(TokenError::Bootstrap)
            }
        }
    }

    /// What logs in as `user` over HTTPS, for the header `Authorization`: user and password, or a
    /// bootstrap token as bearer, which says itself who it is.
    pub fn authorization(&self, user: &str) -> Zeroizing<String> {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;

        Zeroizing::new(match &self.credential {
            Credential::Password { password, .. } => {
                let plain = Zeroizing::new(format!("{user}:{}", password.as_str()));
                format!("Basic {}", STANDARD.encode(plain.as_bytes()))
            }
            Credential::Bootstrap { id, secret } => format!("Bearer {id}.{}", secret.as_str()),
        })
    }

    /// The token whole, secret and all: for `token`, `agent-token` and the commands that print
    /// tokens, and nothing else.
    pub fn to_text(&self) -> Zeroizing<String> {
        let secret = match &self.credential {
            Credential::Password { password, .. } => password,
            Credential::Bootstrap { secret, .. } => secret,
        };
        self.written(secret)
    }

    fn written(&self, secret: &str) -> Zeroizing<String> {
        let authority = match &self.authority {
            Authority::Any => String::new(),
            Authority::Hash(hash) => hash.clone(),
            Authority::Keys(pins) => pins.to_string(),
        };
        Zeroizing::new(match &self.credential {
            Credential::Password { user, .. } => format!("K10{authority}::{user}:{secret}"),
            Credential::Bootstrap { id, .. } => format!("K10{authority}::{id}.{secret}"),
        })
    }
}

impl fmt::Display for Token {
    /// The token without its secret: `K10<hash>::server:***`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written("***"))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({self})")
    }
}

/// `[a-z0-9]{6}.[a-z0-9]{16}` whole, as kubeadm has it.
fn bootstrap(text: &str) -> Option<Credential> {
    made_token(text).filter(|it| match it {
        Credential::Bootstrap { secret, .. } => secret.len() == made::SHORT,
        Credential::Password { .. } => false,
    })
}

/// The same, or with a secret of 32 characters.
fn made_token(text: &str) -> Option<Credential> {
    let (id, secret) = made::split(text)?;
    Some(Credential::Bootstrap {
        id: id.to_owned(),
        secret: Zeroizing::new(secret.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hash, user, password or `!` and the secret of a bootstrap token.
    fn read(text: &str) -> Result<(String, String, String), TokenError> {
        let token = Token::parse(text)?;
        let authority = token.authority().unwrap_or_default().to_owned();
        Ok(match &token.credential {
            Credential::Password { user, password } => {
                (authority, user.clone(), password.to_string())
            }
            Credential::Bootstrap { id, secret } => {
                (authority, format!("!{id}"), secret.to_string())
            }
        })
    }

    #[test]
    fn every_form_of_the_grammar() {
        let hash = "0123456789abcdef".repeat(4);
        let cases = [
            ("pw".to_owned(), "", "", "pw"),
            (" pw\n".to_owned(), "", "", "pw"),
            ("p:w::x".to_owned(), "", "", "p:w::x"),
            (":pw".to_owned(), "", "", ":pw"),
            (
                "abc123.0123456789abcdef".to_owned(),
                "",
                "!abc123",
                "0123456789abcdef",
            ),
            (
                "Abc123.0123456789abcdef".to_owned(),
                "",
                "",
                "Abc123.0123456789abcdef",
            ),
            (
                format!("K10{hash}::server:p:w::x"),
                &hash,
                "server",
                "p:w::x",
            ),
            ("K10::server:pw".to_owned(), "", "server", "pw"),
            (format!("K10{hash}:::pw"), &hash, "", "pw"),
            (
                format!("K10{hash}::abc123.0123456789abcdef"),
                &hash,
                "!abc123",
                "0123456789abcdef",
            ),
            ("K10user:pw".to_owned(), "", "user", "pw"),
        ];
        for (text, authority, user, secret) in cases {
            let expected = (authority.to_owned(), user.to_owned(), secret.to_owned());
            assert_eq!(read(&text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_token() {
        let hash = "0".repeat(64);
        let cases = [
            (String::new(), TokenError::Empty),
            (" \n".to_owned(), TokenError::Empty),
            ("p\nw".to_owned(), TokenError::ControlCharacter),
            (
                "K10abc::server:pw".to_owned(),
                TokenError::HashLength { length: 3 },
            ),
            (format!("K10{hash}::server"), TokenError::NoPassword),
            (format!("K10{hash}::server:"), TokenError::NoPassword),
            ("K10".to_owned(), TokenError::NoPassword),
        ];
        for (text, error) in cases {
            assert_eq!(Token::parse(&text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_server_needs_a_password_of_its_own_shape() {
        for text in ["abc123.0123456789abcdef", "K10::abc123.0123456789abcdef"] {
            assert_eq!(
                Token::parse(text).unwrap().password(),
                Err(TokenError::Bootstrap)
            );
        }
        let shaped = Token::new(
            Digest([7; 32]),
            "server",
            Zeroizing::new("abc123.0123456789abcdef".to_owned()),
        );
        assert_eq!(shaped.password(), Err(TokenError::Bootstrap));
        assert_eq!(
            Token::parse("pw").unwrap().password().map(|it| it.as_str()),
            Ok("pw")
        );
    }

    #[test]
    fn shows_its_secret_only_where_asked() {
        let token = Token::new(
            Digest([0xab; 32]),
            "server",
            Zeroizing::new("hunter2-and-more".to_owned()),
        );
        let whole = token.to_text();
        assert_eq!(
            *whole,
            format!("K10{}::server:hunter2-and-more", "ab".repeat(32))
        );
        assert_eq!(Token::parse(&whole), Ok(token.clone()));
        assert_eq!(
            token.to_string(),
            format!("K10{}::server:***", "ab".repeat(32))
        );
        assert!(!format!("{token:?}").contains("hunter2"));
    }
}
