//! K3s's files as the server needs them.

use std::path::{Path, PathBuf};

use kubepki::init::{Passwd, PasswdError};
use kubepki::token::kubernetes::Encryption;
use pki::{Authority, Certificate, PrivateKey, UnixTime};
use zeroize::Zeroizing;

use crate::leaf::Issuer;
use crate::node::Strictness;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not what it should be.
    #[error("{} cannot be used", path.display())]
    Material {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pki::Error,
    },
    /// The passwd file.
    #[error("{} cannot be used", path.display())]
    Passwd {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: PasswdError,
    },
}

/// A CA's file, and the CA.
#[derive(Debug)]
pub struct AuthorityFile {
    /// The file's bytes, as they are served.
    pub bytes: Vec<u8>,
    /// When it was last written, for `Last-Modified`.
    pub modified: UnixTime,
    /// Every certificate in it.
    pub certificates: Vec<Certificate>,
    /// Who signs.
    pub issuer: Issuer,
}

/// What is read at the start: CAs, users, shared keys.
pub struct Tree {
    /// `tls/client-ca`.
    pub client: AuthorityFile,
    /// `tls/server-ca`.
    pub server: AuthorityFile,
    /// `cred/passwd`.
    pub passwd: Passwd,
    /// `cred/ipsec.psk` without its line end.
    pub ipsec_psk: Option<Zeroizing<String>>,
    /// `cred/encryption-config.json`: the keys of Kubernetes' Secrets. None of ours needs them, so
    /// that a file which cannot be used keeps only such tokens out.
    pub encryption: Encryption,
    /// `<data-dir>/server`.
    pub directory: PathBuf,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tree({})", self.directory.display())
    }
}

impl Tree {
    /// Reads `<data-dir>/server`.
    ///
    /// # Errors
    ///
    /// [`TreeError`], naming the file.
    pub fn load(directory: &Path, strictness: Strictness) -> Result<Self, TreeError> {
        let psk = directory.join("cred/ipsec.psk");
        let ipsec_psk = match std::fs::read_to_string(&psk).map(Zeroizing::new) {
            Ok(text) => Some(Zeroizing::new(text.trim_end().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(TreeError::Read { path: psk, source }),
        };
        Ok(Self {
            client: authority(directory, "client-ca", strictness)?,
            server: authority(directory, "server-ca", strictness)?,
            passwd: passwd(directory)?,
            ipsec_psk,
            encryption: encryption(directory),
            directory: directory.to_owned(),
        })
    }

    /// Whether both have the same CAs, users and keys.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.client.bytes == other.client.bytes
            && self.server.bytes == other.server.bytes
            && self.passwd.is_same_as(&other.passwd)
            && self.ipsec_psk == other.ipsec_psk
            && self.encryption == other.encryption
    }

    /// Whether another server CA lies on the disk than this one.
    pub fn is_behind(&self) -> bool {
        let present = std::fs::read(self.directory.join("tls/server-ca.crt"));
        present.is_ok_and(|bytes| bytes != self.server.bytes)
    }

    /// A key that K3s shares with agents which send no request, PEM.
    ///
    /// # Errors
    ///
    /// [`TreeError`], when it is not there.
    pub fn shared_key(&self, name: &str) -> Result<(PrivateKey, Zeroizing<Vec<u8>>), TreeError> {
        let path = self.directory.join("tls").join(name);
        let pem = read(&path)?;
        let key = PrivateKey::from_pem(&pem);
        let key = key.map_err(|source| TreeError::Material { path, source })?;
        Ok((key, pem))
    }
}

fn encryption(directory: &Path) -> Encryption {
    match std::fs::read(directory.join("cred/encryption-config.json")).map(Zeroizing::new) {
        Ok(bytes) => Encryption::of(&bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Encryption::default(),
        Err(error) => Encryption::unreadable(error.to_string()),
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TreeError> {
    let bytes = std::fs::read(path).map_err(|source| TreeError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(Zeroizing::new(bytes))
}

fn authority(
    directory: &Path,
    name: &str,
    strictness: Strictness,
) -> Result<AuthorityFile, TreeError> {
    let path = directory.join(format!("tls/{name}.crt"));
    let key_path = directory.join(format!("tls/{name}.key"));
    let bytes = read(&path)?.to_vec();
    let bad = |path: &Path| {
        let path = path.to_owned();
        move |source| TreeError::Material { path, source }
    };
    let certificates = Certificate::all_from_pem(&bytes).map_err(bad(&path))?;
    let first = certificates.first().cloned().ok_or(pki::Error::NoPemBlock {
        expected: "CERTIFICATE",
    });
    let key = PrivateKey::from_pem(&read(&key_path)?).map_err(bad(&key_path))?;
    let authority = Authority::new(first.map_err(bad(&path))?, key).map_err(bad(&key_path))?;
    let modified = std::fs::metadata(&path).map_err(|source| TreeError::Read {
        path: path.clone(),
        source,
    })?;
    Ok(AuthorityFile {
        issuer: Issuer::new(&certificates, authority, strictness),
        modified: UnixTime::from_secs(std::os::unix::fs::MetadataExt::mtime(&modified)),
        certificates,
        bytes,
    })
}

fn passwd(directory: &Path) -> Result<Passwd, TreeError> {
    let path = directory.join("cred/passwd");
    let bytes = read(&path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| TreeError::Read {
        path: path.clone(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, "it is no UTF-8 text"),
    })?;
    Passwd::parse(text).map_err(|source| TreeError::Passwd { path, source })
}
