//! CSRs for a CA that signs only CSRs: the keys of the five stay here.

use std::collections::BTreeMap;
use std::path::Path;

use pki::{CertificateRequest, KeyAlgorithm, PrivateKey};
use zeroize::Zeroizing;

use super::profile::{Algorithms, cannot_make};
use super::{CaError, CaName, Make};
use crate::edge::file;
use crate::host::{Attributes, Host};

/// Requests for the five CAs, with their keys.
#[derive(Debug)]
pub struct Requests {
    /// By CA.
    pub five: BTreeMap<CaName, Requested>,
}

/// One CA's key and request.
pub struct Requested {
    /// The key.
    pub key: PrivateKey,
    /// The request; it asks for a CA's extensions.
    pub request: CertificateRequest,
}

impl std::fmt::Debug for Requested {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Requested({})", self.request.subject())
    }
}

/// Makes keys and requests for the five CAs.
///
/// # Errors
///
/// When a key cannot be made.
pub fn request(algorithm: KeyAlgorithm, make: &Make<'_>) -> Result<Requests, CaError> {
    let algorithms = Algorithms {
        authorities: algorithm,
        ..Algorithms::default()
    }
    .check()?;
    let keys = make.generate(&[algorithms.authorities; CaName::ALL.len()])?;
    let five = CaName::ALL.into_iter().zip(keys).map(|(ca, key)| {
        let name = make.name(&format!("k3s-{}-ca", ca.flat()), &[])?;
        let request = CertificateRequest::for_authority(&name, &key)
            .map_err(cannot_make(&format!("the request of the {ca} CA")))?;
        Ok((ca, Requested { key, request }))
    });
    let five = five.collect::<Result<_, CaError>>()?;
    Ok(Requests { five })
}

/// The name of a CA's request in a request directory: `etcd-peer-ca.csr`.
pub fn csr_name(ca: CaName) -> String {
    format!("{}-ca.csr", ca.flat())
}

/// The name of its key beside it.
fn key_name(ca: CaName) -> String {
    format!("{}-ca.key", ca.flat())
}

impl Requests {
    /// Writes `X-ca.csr` and `X-ca.key` into a new directory, 0700, every file 0600, all or
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`CaError::NotEmpty`], [`CaError::Place`], or when it cannot be written. Callers refuse
    /// live directories with [`super::refuse_live`].
    pub fn write(&self, directory: &Path) -> Result<(), CaError> {
        super::output::free(directory)?;
        let mut files: Vec<(String, Zeroizing<Vec<u8>>)> = Vec::new();
        for (ca, requested) in &self.five {
            let key = requested.key.to_pem().map_err(cannot_make(ca.label()))?;
            files.push((key_name(*ca), Zeroizing::new(key.as_bytes().to_vec())));
            let request = requested.request.to_pem().into_bytes();
            files.push((csr_name(*ca), Zeroizing::new(request)));
        }
        super::output::publish(directory, |directory| {
            files.iter().try_for_each(|(name, bytes)| {
                file::replace(&directory.join(name), bytes, &Attributes::new(0o600))
            })
        })
    }
}

/// The keys that [`Requests::write`] left in `directory`.
///
/// # Errors
///
/// When one is missing or cannot be read.
pub async fn read_request_keys(
    host: &dyn Host,
    directory: &Path,
) -> Result<BTreeMap<CaName, PrivateKey>, CaError> {
    let mut keys = BTreeMap::new();
    for ca in CaName::ALL {
        let path = directory.join(key_name(ca));
        let bytes = super::pool::file(host, &path).await?;
        let bytes = bytes.ok_or_else(|| CaError::Place {
            path: path.clone(),
            problem: "is missing: name the directory that `ca request` made".to_owned(),
        })?;
        let key = PrivateKey::from_pem(&bytes).map_err(|source| CaError::File { path, source })?;
        keys.insert(ca, key);
    }
    Ok(keys)
}
