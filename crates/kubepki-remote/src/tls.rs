//! TLS configurations that trust a bundle.

use std::sync::Arc;

use pki::{Certificate, PrivateKey, UnixTime};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// A certificate chain with its key, to log in with.
pub(crate) struct ClientIdentity<'a> {
    pub(crate) chain: &'a [Certificate],
    pub(crate) key: &'a PrivateKey,
}

/// Trusts every certificate of `bundle` that is valid now, as K3s's own clients do; rustls itself
/// would trust a root past its end.
pub(crate) fn trusting(
    bundle: &[Certificate],
    now: UnixTime,
    identity: Option<ClientIdentity<'_>>,
) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    let der = |it: &Certificate| CertificateDer::from(it.der().to_vec());
    let valid = bundle.iter().filter(|it| it.validity().contains(now));
    roots.add_parsable_certificates(valid.map(der));
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(identity) => {
            let chain = identity.chain.iter().map(der).collect();
            let unusable = |error: &dyn std::fmt::Display| {
                rustls::Error::General(format!("the client key cannot be used: {error}"))
            };
            let pem = identity.key.to_pem().map_err(|error| unusable(&error))?;
            let key = PrivateKeyDer::from_pem_slice(pem.as_bytes());
            let key = key.map_err(|error| unusable(&error))?;
            builder.with_client_auth_cert(chain, key)
        }
    }
}
