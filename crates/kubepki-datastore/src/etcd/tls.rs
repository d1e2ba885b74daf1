//! Trust and client certificate of a connection to etcd.

use std::path::Path;

use kubepki::datastore::DatastoreError;
use pki::{Certificate, PrivateKey};
use tonic::transport::ClientTlsConfig;
use zeroize::Zeroizing;

use crate::endpoint::{Roots, Tls};

impl Tls {
    /// The files that K3s's own etcd client uses, under `server_dir` (`<data-dir>/server`).
    pub fn embedded(server_dir: &Path) -> Self {
        let etcd = server_dir.join("tls/etcd");
        Self {
            ca_file: Some(etcd.join("server-ca.crt")),
            cert_file: Some(etcd.join("client.crt")),
            key_file: Some(etcd.join("client.key")),
        }
    }

    /// Reads and checks the files. Go and rustls differ in what they take for PEM, so what is
    /// handed on is written anew from what was read.
    pub(super) fn load(&self, endpoint: &str) -> Result<ClientTlsConfig, DatastoreError> {
        let wrong = |problem: String| DatastoreError::Endpoint {
            endpoint: endpoint.to_owned(),
            problem,
        };
        let anchors = match &self.ca_file {
            Some(file) => certificates(file).map_err(wrong)?.1,
            // K3s's client, too, then goes by the system's.
            None => String::from_utf8_lossy(&Roots::System.read(endpoint)?).into_owned(),
        };
        if anchors.is_empty() {
            return Err(wrong(
                "there is no CA to check the server's certificate by: name the file of its CA \
                 with --datastore-cafile"
                    .to_owned(),
            ));
        }
        let anchors = tonic::transport::Certificate::from_pem(anchors);
        let mut config = ClientTlsConfig::new().ca_certificate(anchors);
        match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => {
                config = config.identity(identity(cert, key).map_err(wrong)?);
            }
            (None, None) => {}
            (Some(_), None) => {
                return Err(wrong(
                    "a client certificate is given without its key: name the key's file with \
                     --datastore-keyfile"
                        .to_owned(),
                ));
            }
            (None, Some(_)) => {
                return Err(wrong(
                    "a client key is given without its certificate: name the certificate's file \
                     with --datastore-certfile"
                        .to_owned(),
                ));
            }
        }
        Ok(config)
    }
}

fn identity(cert: &Path, key: &Path) -> Result<tonic::transport::Identity, String> {
    let (chain, chain_pem) = certificates(cert)?;
    let text = read(key)?;
    let secret =
        PrivateKey::from_pem(&text).map_err(|error| format!("{}: {error}", key.display()))?;
    let fits = chain
        .first()
        .is_some_and(|leaf| leaf.spki_der() == secret.spki_der());
    if !fits {
        return Err(format!(
            "the key in {} does not belong to the first certificate in {}",
            key.display(),
            cert.display()
        ));
    }
    let key_pem = secret
        .to_pem()
        .map_err(|error| format!("{}: {error}", key.display()))?;
    Ok(tonic::transport::Identity::from_pem(
        chain_pem,
        key_pem.as_bytes(),
    ))
}

fn certificates(path: &Path) -> Result<(Vec<Certificate>, String), String> {
    let found = Certificate::all_from_pem(&read(path)?)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let pem = found.iter().map(Certificate::to_pem).collect();
    Ok((found, pem))
}

/// More than any certificate or key file holds.
const LIMIT: u64 = 4 << 20;

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() || metadata.len() > LIMIT {
        return Err(format!(
            "{} is not a file of certificates or a key",
            path.display()
        ));
    }
    Ok(Zeroizing::new(std::fs::read(path).map_err(failed)?))
}
