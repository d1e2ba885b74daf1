//! What a user proves himself with.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::keys::{Certificate, Error as KeyError};
use zeroize::Zeroizing;

use super::{SshError, short_scalar};

/// A key, or an agent that has some.
///
/// As in RKE the agent, once asked for, is the only way: no key is tried beside it.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The private key, if one was configured.
    pub key: Option<PrivateKey>,
    /// The socket of ssh-agent (`SSH_AUTH_SOCK`), where `ssh_agent_auth` is set.
    pub agent: Option<PathBuf>,
}

impl From<PrivateKey> for Credentials {
    fn from(key: PrivateKey) -> Self {
        Self {
            key: Some(key),
            agent: None,
        }
    }
}

/// A private key as text, and what belongs to it.
#[derive(Clone)]
pub struct PrivateKey {
    text: Zeroizing<String>,
    origin: String,
    passphrase: Option<Zeroizing<String>>,
    certificate: Option<String>,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey")
            .field("origin", &self.origin)
            .field("passphrase", &self.passphrase.is_some())
            .field("certificate", &self.certificate.is_some())
            .finish_non_exhaustive()
    }
}

/// A key that can sign, and its certificate.
#[derive(Debug)]
pub(super) struct Usable {
    pub(super) key: Arc<russh::keys::PrivateKey>,
    pub(super) certificate: Option<Certificate>,
}

impl PrivateKey {
    /// A key from its text (`ssh_key`): OpenSSH's format, PKCS#1, PKCS#8, SEC 1. `origin` is how
    /// messages name it: a path, or the place in cluster.yml.
    pub fn from_text(text: Zeroizing<String>, origin: impl Into<String>) -> Self {
        Self {
            text,
            origin: origin.into(),
            passphrase: None,
            certificate: None,
        }
    }

    /// The same, from a file (`ssh_key_path`).
    ///
    /// # Errors
    ///
    /// [`SshError::KeyFile`].
    pub fn from_file(path: &Path) -> Result<Self, SshError> {
        let text = read(path).map_err(|error| SshError::KeyFile {
            path: path.to_owned(),
            reason: said(&error),
        })?;
        Ok(Self::from_text(text, path.display().to_string()))
    }

    /// The passphrase of an encrypted key.
    #[must_use]
    pub fn with_passphrase(mut self, passphrase: Zeroizing<String>) -> Self {
        self.passphrase = Some(passphrase);
        self
    }

    /// The passphrase from a file, without the line end at its end.
    ///
    /// # Errors
    ///
    /// [`SshError::PassphraseFile`].
    pub fn with_passphrase_file(self, path: &Path) -> Result<Self, SshError> {
        let failed = |reason: String| SshError::PassphraseFile {
            path: path.to_owned(),
            reason,
        };
        let text = read(path).map_err(|error| failed(said(&error)))?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            return Err(failed("the file is empty".to_owned()));
        }
        Ok(self.with_passphrase(Zeroizing::new(line.to_owned())))
    }

    /// OpenSSH's certificate for the key (`ssh_cert`): a line as in `id_ed25519-cert.pub`.
    #[must_use]
    pub fn with_certificate(mut self, line: impl Into<String>) -> Self {
        self.certificate = Some(line.into());
        self
    }

    /// The same, from a file (`ssh_cert_path`).
    ///
    /// # Errors
    ///
    /// [`SshError::CertificateFile`].
    pub fn with_certificate_file(self, path: &Path) -> Result<Self, SshError> {
        let line = read(path).map_err(|error| SshError::CertificateFile {
            path: path.to_owned(),
            reason: said(&error),
        })?;
        Ok(self.with_certificate(line.as_str()))
    }

    /// Whether nobody need say a passphrase first.
    pub fn is_ready(&self) -> bool {
        self.passphrase.is_some() || !encrypted(&self.text)
    }

    /// Decodes the key; `host` is for messages.
    pub(super) fn open(&self, host: &str) -> Result<Usable, SshError> {
        let passphrase = self.passphrase.as_ref().map(|it| it.as_str());
        let key = short_scalar::decode(&self.text, passphrase)
            .map_err(|error| self.failed(host, &error))?;
        let certificate = match &self.certificate {
            Some(line) => Some(certificate(line, &key)?),
            None => None,
        };
        Ok(Usable {
            key: Arc::new(key),
            certificate,
        })
    }

    fn failed(&self, host: &str, error: &KeyError) -> SshError {
        let (host, origin) = (host.to_owned(), self.origin.clone());
        if encrypted(&self.text) {
            return match self.passphrase {
                Some(_) => SshError::WrongPassphrase { host, origin },
                None => SshError::KeyEncrypted { host, origin },
            };
        }
        // The decoders' words are about structure, never about content.
        let detail = match error {
            KeyError::CouldNotReadKey => String::new(),
            other => format!(": {other}"),
        };
        SshError::NoKey {
            host,
            origin,
            detail,
        }
    }
}

/// Whether a key's text says that it is encrypted, in each of the formats.
fn encrypted(text: &str) -> bool {
    if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENC") {
        return true;
    }
    russh::keys::PrivateKey::from_openssh(text).is_ok_and(|key| key.is_encrypted())
}

fn certificate(line: &str, key: &russh::keys::PrivateKey) -> Result<Certificate, SshError> {
    let failed = |reason: String| SshError::Certificate { reason };
    let certificate =
        Certificate::from_openssh(line.trim()).map_err(|error| failed(error.to_string()))?;
    if !certificate.cert_type().is_user() {
        return Err(failed(
            "it is a host's certificate, not a user's".to_owned(),
        ));
    }
    if certificate.public_key() != key.public_key().key_data() {
        return Err(failed(format!(
            "it was issued for the key {}, not for the configured one, {}",
            certificate.public_key().fingerprint(Default::default()),
            key.fingerprint(Default::default())
        )));
    }
    Ok(certificate)
}

fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    let bytes = Zeroizing::new(std::fs::read(path)?);
    let text = std::str::from_utf8(&bytes).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "it is not text, so not what was asked for",
        )
    })?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// An error of the system in Go's words, as RKE prints them: no number at the end.
pub(super) fn said(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => text.to_owned(),
    }
}
