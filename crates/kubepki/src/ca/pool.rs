//! Certificates and keys at hand: an offline directory, files that were named.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pki::verify::{Options, verify};
use pki::{Authority, Certificate, PrivateKey, Purpose, UnixTime, pem};
use zeroize::Zeroizing;

use super::CaError;
use crate::host::{EntryKind, Host};

/// Certificates and private keys at hand, in no order. Which belongs to which is told by their
/// public keys.
#[derive(Default)]
pub struct Pool {
    /// The certificates.
    pub certificates: Vec<Certificate>,
    /// The keys.
    pub keys: Vec<PrivateKey>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("certificates", &self.certificates)
            .field("keys", &self.keys.len())
            .finish()
    }
}

impl Pool {
    /// Takes in what a file holds: every certificate and every private key, encrypted ones with
    /// `passphrase`. A file without either adds nothing.
    ///
    /// # Errors
    ///
    /// [`CaError::File`] when a certificate or key cannot be read, or needs another passphrase.
    pub fn add(
        &mut self,
        path: &Path,
        text: &[u8],
        passphrase: Option<&[u8]>,
    ) -> Result<(), CaError> {
        let unusable = |source| CaError::File {
            path: path.to_owned(),
            source,
        };
        for block in pem::blocks(text) {
            if block.label == "CERTIFICATE" && block.headers.is_empty() {
                self.certificates
                    .push(Certificate::from_der(&block.der).map_err(unusable)?);
            }
        }
        if !pem::blocks(text)
            .iter()
            .any(|block| block.label.ends_with("PRIVATE KEY"))
        {
            return Ok(());
        }
        let keys = keys_of(text, passphrase).map_err(unusable)?;
        self.keys.extend(keys);
        Ok(())
    }

    /// Takes in a file, or every file of a directory; it does not descend.
    ///
    /// # Errors
    ///
    /// As [`Self::add`], or when nothing is there.
    pub async fn read(
        &mut self,
        host: &dyn Host,
        path: &Path,
        passphrase: Option<&[u8]>,
    ) -> Result<(), CaError> {
        if let Some(bytes) = file(host, path).await? {
            return self.add(path, &bytes, passphrase);
        }
        let Some(names) = host.list(path).await? else {
            return Err(CaError::Place {
                path: path.to_owned(),
                problem: "does not exist".to_owned(),
            });
        };
        for name in names {
            let path: PathBuf = path.join(name);
            if let Some(bytes) = file(host, &path).await? {
                self.add(&path, &bytes, passphrase)?;
            }
        }
        Ok(())
    }

    /// The key of a certificate, if it is at hand.
    pub fn key_of(&self, certificate: &Certificate) -> Option<&PrivateKey> {
        self.keys
            .iter()
            .find(|key| key.spki_der() == certificate.spki_der())
    }

    /// A CA with its key; `None` when the key is not at hand.
    ///
    /// # Errors
    ///
    /// When the certificate is no CA's.
    pub fn authority(&self, certificate: &Certificate) -> Option<Result<Authority, pki::Error>> {
        let key = self.key_of(certificate)?;
        let again = key
            .to_pem()
            .and_then(|text| PrivateKey::from_pem(text.as_bytes()));
        Some(again.and_then(|key| Authority::new(certificate.clone(), key)))
    }

    /// The issuers of `certificate` up to a self-signed root, nearest first.
    ///
    /// # Errors
    ///
    /// Why there is no path.
    pub fn above(
        &self,
        certificate: &Certificate,
        now: UnixTime,
    ) -> Result<Vec<Certificate>, CaError> {
        let (roots, intermediates): (Vec<_>, Vec<_>) = self
            .certificates
            .iter()
            .cloned()
            .partition(Certificate::is_self_issued);
        let options = Options::at(now).purposes(&[Purpose::Any]);
        let given = |problem| CaError::Given {
            what: certificate.subject().to_string(),
            problem,
        };
        let paths = verify(certificate, &intermediates, &roots, &options)
            .map_err(|error| given(format!("does not lead to a root that is at hand: {error}")))?;
        let path = paths
            .first()
            .ok_or_else(|| given("leads to no root that is at hand".to_owned()))?;
        let above = path.certificates().iter().skip(1);
        Ok(above.map(|it| (*it).clone()).collect())
    }

    /// Removes what is there twice.
    pub fn deduplicate(&mut self) {
        let mut seen = BTreeSet::new();
        self.certificates
            .retain(|certificate| seen.insert(certificate.fingerprint().0));
        let mut seen = BTreeSet::new();
        self.keys.retain(|key| seen.insert(key.spki_sha256().0));
    }
}

/// Every private key of a text.
fn keys_of(text: &[u8], passphrase: Option<&[u8]>) -> Result<Vec<PrivateKey>, pki::Error> {
    let blocks = pem::blocks(text);
    let keys = blocks
        .iter()
        .filter(|block| block.label.ends_with("PRIVATE KEY"));
    keys.map(|block| {
        if block.headers.iter().any(|it| it.starts_with("DEK-Info")) {
            return Err(pki::Error::LegacyEncryptedKey);
        }
        let one = pem::encode(&block.label, &block.der);
        match passphrase {
            Some(passphrase) if block.label == "ENCRYPTED PRIVATE KEY" => {
                PrivateKey::from_encrypted_pem(one.as_bytes(), passphrase)
            }
            _ => PrivateKey::from_pem(one.as_bytes()),
        }
    })
    .collect()
}

/// A regular file's bytes, a link's target's included; `None` for nothing and for directories.
pub(super) async fn file(
    host: &dyn Host,
    path: &Path,
) -> Result<Option<Zeroizing<Vec<u8>>>, CaError> {
    let mut path = path.to_owned();
    for _ in 0..8 {
        let Some(entry) = host.read(&path).await? else {
            return Ok(None);
        };
        match entry.kind {
            EntryKind::File(bytes) => return Ok(Some(bytes)),
            EntryKind::Directory => return Ok(None),
            EntryKind::Link(to) => {
                path = path.parent().map_or(to.clone(), |parent| parent.join(&to));
            }
        }
    }
    Err(CaError::Place {
        path,
        problem: "is a link that leads in circles".to_owned(),
    })
}
