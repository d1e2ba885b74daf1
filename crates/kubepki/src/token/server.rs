//! What lies in a server's directory of tokens and passwords.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{Token, TokenError};
use crate::host::{Entry, EntryKind, Host, HostError};
use crate::init::{NODE, Passwd, PasswdError, SERVER};

/// Token files longer than this many bytes are none.
const LIMIT: usize = 64 * 1024;

/// `<data-dir>/server` as far as tokens go. Links are seen and never followed: in a copied tree
/// they lead to the live one (`node-token`, `agent-token`).
pub struct ServerFiles {
    directory: PathBuf,
    entries: BTreeMap<&'static str, Entry>,
    passwd: Passwd,
    token: Option<Token>,
    agent_token: Option<Token>,
}

impl fmt::Debug for ServerFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerFiles({})", self.directory.display())
    }
}

/// A file that ought to hold a token and cannot be taken for one. Tells nothing of it.
#[derive(Debug, thiserror::Error)]
pub enum TokenTextError {
    /// Far too long.
    #[error("{bytes} bytes are no token; at most {LIMIT} are read")]
    TooLong {
        /// Its size.
        bytes: usize,
    },
    /// Not UTF-8.
    #[error("it is not text: not UTF-8")]
    NotText,
    /// U+FEFF at its beginning.
    #[error(
        "it begins with a byte order mark, which K3s would take for a part of the token: save it \
         as plain text (UTF-8 without BOM)"
    )]
    ByteOrderMark,
    /// No token.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// Reads the content of a token file as K3s does; line ends and blanks around the token are left
/// out, those of Windows too.
///
/// # Errors
///
/// [`TokenTextError`].
pub fn read_token(bytes: &[u8]) -> Result<Token, TokenTextError> {
    if bytes.len() > LIMIT {
        let bytes = bytes.len();
        return Err(TokenTextError::TooLong { bytes });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| TokenTextError::NotText)?;
    if text.starts_with('\u{feff}') {
        return Err(TokenTextError::ByteOrderMark);
    }
    Ok(Token::parse(text)?)
}

/// A server's directory that tells no tokens.
#[derive(Debug, thiserror::Error)]
pub enum ServerFilesError {
    /// Nothing there.
    #[error("{} is missing: is this a server's data directory?", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A link or directory where K3s writes a file.
    #[error("{} is {what}, where K3s writes a file; it is not followed", path.display())]
    NotAFile {
        /// Where.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// A token file that is none.
    #[error("{} holds no token", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: TokenTextError,
    },
    /// A list of users that cannot be read.
    #[error("{} cannot be read as K3s's list of users", path.display())]
    Passwd {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: PasswdError,
    },
    /// A list of users that is not text.
    #[error("{} is not UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// Neither the list of users nor a token file has a password.
    #[error("neither {} nor {} tells this server's password", passwd.display(), token.display())]
    NoPassword {
        /// The list of users.
        passwd: PathBuf,
        /// The token file.
        token: PathBuf,
    },
    /// The machine failed.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// The server CA's file.
pub(crate) const AUTHORITY: &str = "tls/server-ca.crt";
/// The list of users.
pub(crate) const PASSWD: &str = "cred/passwd";
/// The token that servers join with.
pub(crate) const TOKEN: &str = "token";
/// The token that agents join with: a file of its own, or a link to [`TOKEN`].
pub(crate) const AGENT_TOKEN: &str = "agent-token";

impl ServerFiles {
    /// Reads the server directory `directory` (`<data-dir>/server`).
    ///
    /// # Errors
    ///
    /// [`ServerFilesError`]; what is missing is an error only for the server CA.
    pub async fn read(host: &dyn Host, directory: &Path) -> Result<Self, ServerFilesError> {
        let mut entries = BTreeMap::new();
        for name in [AUTHORITY, PASSWD, TOKEN, AGENT_TOKEN] {
            if let Some(entry) = host.read(&directory.join(name)).await? {
                entries.insert(name, entry);
            }
        }
        let mut files = Self {
            directory: directory.to_owned(),
            entries,
            passwd: Passwd::default(),
            token: None,
            agent_token: None,
        };
        files.authority()?;
        files.passwd = files.read_passwd()?;
        files.token = files.read_token(TOKEN)?;
        if !files.is_link(AGENT_TOKEN) {
            files.agent_token = files.read_token(AGENT_TOKEN)?;
        }
        Ok(files)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The server CA's file.
    ///
    /// # Errors
    ///
    /// When it is missing or no file.
    pub fn authority(&self) -> Result<&[u8], ServerFilesError> {
        self.bytes(AUTHORITY)?
            .ok_or_else(|| ServerFilesError::Missing {
                path: self.path(AUTHORITY),
            })
    }

    /// The list of users; empty where there is none.
    pub fn passwd(&self) -> &Passwd {
        &self.passwd
    }

    /// The password that servers join with.
    ///
    /// # Errors
    ///
    /// [`ServerFilesError::NoPassword`].
    pub fn server_password(&self) -> Result<Zeroizing<String>, ServerFilesError> {
        let lying = || Some(self.token.as_ref()?.password().ok()?.clone());
        // K3s of old knew `node` alone; its password was the servers' too.
        let old = || self.passwd.password(NODE.0).cloned();
        let known = self.passwd.password(SERVER.0).cloned();
        known
            .or_else(lying)
            .or_else(old)
            .ok_or_else(|| ServerFilesError::NoPassword {
                passwd: self.path(PASSWD),
                token: self.path(TOKEN),
            })
    }

    /// The password that agents join with: the servers' unless they have one of their own.
    ///
    /// # Errors
    ///
    /// [`ServerFilesError::NoPassword`].
    pub fn agent_password(&self) -> Result<Zeroizing<String>, ServerFilesError> {
        let lying = || Some(self.agent_token.as_ref()?.password().ok()?.clone());
        let known = self.passwd.password(NODE.0).cloned();
        known
            .or_else(lying)
            .map_or_else(|| self.server_password(), Ok)
    }

    /// Whether agents have a token of their own (`--agent-token`): K3s then writes a file where
    /// there is a link to `token` otherwise.
    pub fn has_agent_token(&self) -> bool {
        self.agent_token.is_some()
    }

    /// What lies in `token`; a link is not followed.
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    fn is_link(&self, name: &str) -> bool {
        let kind = self.entry(name).map(|entry| &entry.kind);
        matches!(kind, Some(EntryKind::Link(_)))
    }

    fn bytes(&self, name: &str) -> Result<Option<&[u8]>, ServerFilesError> {
        let not_a_file = |what| ServerFilesError::NotAFile {
            path: self.path(name),
            what,
        };
        match self.entry(name).map(|entry| &entry.kind) {
            None => Ok(None),
            Some(EntryKind::File(bytes)) => Ok(Some(bytes)),
            Some(EntryKind::Directory) => Err(not_a_file("a directory".to_owned())),
            Some(EntryKind::Link(to)) => Err(not_a_file(format!("a link to {}", to.display()))),
        }
    }

    fn read_token(&self, name: &str) -> Result<Option<Token>, ServerFilesError> {
        let Some(bytes) = self.bytes(name)? else {
            return Ok(None);
        };
        match read_token(bytes) {
            Ok(token) => Ok(Some(token)),
            // K3s writes the file anew at its next start.
            Err(TokenTextError::Token(TokenError::Empty)) => Ok(None),
            Err(source) => Err(ServerFilesError::Token {
                path: self.path(name),
                source,
            }),
        }
    }

    fn read_passwd(&self) -> Result<Passwd, ServerFilesError> {
        let Some(bytes) = self.bytes(PASSWD)? else {
            return Ok(Passwd::default());
        };
        let path = self.path(PASSWD);
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Err(ServerFilesError::NotText { path });
        };
        Passwd::parse(text).map_err(|source| ServerFilesError::Passwd { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_files_of_every_editor() {
        let password = |bytes: &[u8]| read_token(bytes).map(|it| it.to_text().to_string());
        assert_eq!(password(b"pw\n").unwrap(), "K10:::pw");
        assert_eq!(password(b"pw\r\n\r\n").unwrap(), "K10:::pw");
        let message = |bytes: &[u8]| password(bytes).unwrap_err().to_string();
        assert!(message(b"\xef\xbb\xbfhunter2\n").contains("byte order mark"));
        assert!(message(b"\xff\xfeh\0").contains("not UTF-8"));
        assert!(message(b"").contains("empty"));
        assert!(message(b" \r\n").contains("empty"));
        assert!(message(b"one\ntwo\n").contains("control character"));
        assert!(message(&vec![b'x'; 70_000]).contains("70000 bytes"));
        for bytes in [&b"\xef\xbb\xbfhunter2\n"[..], b"hunter2\nhunter2"] {
            assert!(!message(bytes).contains("hunter"));
        }
    }
}
