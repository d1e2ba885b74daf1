//! TLS configurations: one that trusts a bundle, one that takes what it is shown.

use std::sync::Arc;

use pki::{Certificate, PrivateKey, UnixTime};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

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

/// Takes any certificate whose key signs the handshake: for the first look at `/cacerts`, before
/// anything secret is sent.
pub(crate) fn unquestioning() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate(provider.clone()));
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
