//! TLS configurations that trust a bundle.

use std::sync::Arc;

use pki::{Certificate, PrivateKey, UnixTime};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// A certificate chain with its key, to log in with.
pub(crate) struct ClientIdentity<'a> {
    pub(crate) chain: &'a [Certificate],
    pub(crate) key: &'a PrivateKey,
}

fn der(certificate: &Certificate) -> CertificateDer<'static> {
    CertificateDer::from(certificate.der().to_vec())
}

fn store<'a>(
    certificates: impl IntoIterator<Item = &'a Certificate>,
    now: UnixTime,
) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let valid = certificates.into_iter();
    roots.add_parsable_certificates(valid.filter(|it| it.validity().contains(now)).map(der));
    roots
}

/// Trusts nothing but the `anchors` in `bundle` that are valid now; the others may only help to
/// lead there, for anybody can put a CA into a bundle that he shows.
pub(crate) fn anchored(
    bundle: &[Certificate],
    anchors: impl Fn(&Certificate) -> bool,
    now: UnixTime,
) -> Result<ClientConfig, rustls::Error> {
    let roots = store(bundle.iter().filter(|it| anchors(it)), now);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let helpers = bundle.iter().map(der).collect();
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Helped { inner, helpers }));
    Ok(builder.with_no_client_auth())
}

/// rustls's own verifier, with certificates that the server need not send.
#[derive(Debug)]
struct Helped {
    inner: Arc<WebPkiServerVerifier>,
    helpers: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Helped {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: rustls::pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut all: Vec<CertificateDer<'_>> = intermediates.to_vec();
        let missing = self.helpers.iter().filter(|it| !intermediates.contains(it));
        all.extend(missing.cloned());
        let inner = &self.inner;
        inner.verify_server_cert(end_entity, &all, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Trusts every certificate of `bundle` that is valid now, as K3s's own clients do; rustls itself
/// would trust a root past its end.
pub(crate) fn trusting(
    bundle: &[Certificate],
    now: UnixTime,
    identity: Option<ClientIdentity<'_>>,
) -> Result<ClientConfig, rustls::Error> {
    let roots = store(bundle, now);
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
