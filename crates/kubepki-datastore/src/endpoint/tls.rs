//! The TLS files of `--datastore-cafile`, `--datastore-certfile` and `--datastore-keyfile`.

use std::path::{Path, PathBuf};

use kubepki::datastore::DatastoreError;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// K3s's three options, `K3S_DATASTORE_CAFILE`, `_CERTFILE` and `_KEYFILE`. Any one of them means
/// that TLS is wanted and the server's certificate is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// CAs that the server's certificate must come from; without it, the system's.
    pub ca_file: Option<PathBuf>,
    /// Our certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key: SEC1, PKCS#1 or PKCS#8, not encrypted.
    pub key_file: Option<PathBuf>,
}

impl Tls {
    /// Whether none of them is given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Roots {
    /// Those of one file.
    File(PathBuf),
    /// The system's.
    System,
}

/// Where Go looks for the system's CAs on Linux; the first that exists counts.
const SYSTEM_ROOTS: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

impl std::fmt::Display for Roots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::System => f.write_str("the system's trust store"),
        }
    }
}

impl Roots {
    /// Their certificates in PEM; `endpoint` is named in errors.
    pub(crate) fn read(&self, endpoint: &str) -> Result<Vec<u8>, DatastoreError> {
        match self {
            Self::File(path) => {
                let pem = read(path, endpoint, "CA file")?;
                let whole: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
                match whole {
                    Ok(certificates) if !certificates.is_empty() => Ok(pem.to_vec()),
                    _ => Err(refused(
                        endpoint,
                        format!("the CA file {} holds no certificate in PEM", path.display()),
                    )),
                }
            }
            Self::System => {
                let found = SYSTEM_ROOTS
                    .iter()
                    .find_map(|path| std::fs::read(path).ok());
                // Without any, the public CAs that come with the client library remain.
                Ok(found.map(|pem| usable(&pem)).unwrap_or_default())
            }
        }
    }
}

/// The certificates that can serve as trust anchors: systems keep a few that cannot.
fn usable(pem: &[u8]) -> Vec<u8> {
    let mut kept = String::new();
    for certificate in CertificateDer::pem_slice_iter(pem).flatten() {
        let mut probe = rustls::RootCertStore::empty();
        if probe.add(certificate.clone()).is_ok() {
            kept.push_str(&pki::pem::encode("CERTIFICATE", &certificate));
        }
    }
    kept.into_bytes()
}

/// Our certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl ClientFiles {
    /// Both or neither.
    pub(crate) fn both(
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
        endpoint: &str,
    ) -> Result<Option<Self>, DatastoreError> {
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Some(Self { certificate, key })),
            (None, None) => Ok(None),
            (certificate, _) => {
                let (there, missing) = match certificate {
                    Some(_) => ("certificate", "key"),
                    None => ("key", "certificate"),
                };
                let problem = format!("a client {there} is given without its {missing}: give both");
                Err(refused(endpoint, problem))
            }
        }
    }

    /// Both in PEM, checked to be what they should.
    pub(crate) fn read(
        &self,
        endpoint: &str,
    ) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), DatastoreError> {
        let certificate = read(&self.certificate, endpoint, "client certificate")?;
        if CertificateDer::from_pem_slice(&certificate).is_err() {
            let path = self.certificate.display();
            return Err(refused(
                endpoint,
                format!("{path} holds no certificate in PEM"),
            ));
        }
        let key = read(&self.key, endpoint, "client key")?;
        if PrivateKeyDer::from_pem_slice(&key).is_err() {
            let path = self.key.display();
            return Err(refused(
                endpoint,
                format!("{path} holds no private key in PEM; encrypted keys are not supported"),
            ));
        }
        Ok((certificate.to_vec(), key))
    }
}

fn read(path: &Path, endpoint: &str, what: &str) -> Result<Zeroizing<Vec<u8>>, DatastoreError> {
    std::fs::read(path).map(Zeroizing::new).map_err(|error| {
        refused(
            endpoint,
            format!("the {what} {} cannot be read: {error}", path.display()),
        )
    })
}

pub(crate) fn refused(endpoint: &str, problem: String) -> DatastoreError {
    DatastoreError::Endpoint {
        endpoint: endpoint.to_owned(),
        problem,
    }
}
