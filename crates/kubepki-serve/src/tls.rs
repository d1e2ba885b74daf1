//! TLS: client certificates are asked for and not required; the listener's own is swapped while
//! it serves.

use std::fmt;
use std::sync::{Arc, RwLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};

/// The certificate that new connections get.
#[derive(Debug)]
pub struct Listened(RwLock<Arc<CertifiedKey>>);

impl Listened {
    /// With the first one.
    pub fn new(certificate: CertifiedKey) -> Self {
        Self(RwLock::new(Arc::new(certificate)))
    }

    /// New connections get this one; old ones go on.
    pub fn swap(&self, certificate: CertifiedKey) {
        if let Ok(mut present) = self.0.write() {
            *present = Arc::new(certificate);
        }
    }
}

impl Listened {
    /// Whether that leaf (DER) is what new connections get.
    pub fn serves(&self, leaf: &[u8]) -> bool {
        let present = self.0.read();
        present.is_ok_and(|it| it.cert.first().is_some_and(|own| own.as_ref() == leaf))
    }
}

impl Listened {
    /// Seconds until what new connections get ends; `None` where it cannot be read.
    pub fn remaining(&self, now: pki::UnixTime) -> Option<i64> {
        let present = self.0.read().ok().map(|present| Arc::clone(&present))?;
        let leaf = pki::Certificate::from_der(present.cert.first()?).ok()?;
        Some(leaf.validity().remaining(now))
    }
}

impl ResolvesServerCert for Listened {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().ok().map(|present| Arc::clone(&present))
    }
}

/// A chain (PEM, leaf first) and its key (PEM) for rustls.
///
/// # Errors
///
/// When they do not parse or do not belong together.
pub fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, pki::Error> {
    let unfit = |error: &dyn fmt::Display| pki::Error::UnsupportedKey {
        detail: format!("the listener's key: {error}"),
    };
    let chain = pki::Certificate::all_from_pem(chain)?
        .iter()
        .map(|certificate| CertificateDer::from(certificate.der().to_vec()))
        .collect();
    let block = pki::pem::blocks(key)
        .into_iter()
        .find(|block| block.label.ends_with("PRIVATE KEY"))
        .ok_or(pki::Error::NoPemBlock {
            expected: "PRIVATE KEY",
        })?;
    let der = match block.label.as_str() {
        "EC PRIVATE KEY" => PrivateKeyDer::Sec1(block.der.to_vec().into()),
        "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(block.der.to_vec().into()),
        _ => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(block.der.to_vec())),
    };
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, der, &provider).map_err(|error| unfit(&error))
}

/// TLS 1.2 and 1.3 with K3s's suites, HTTP/2 and HTTP/1.1.
///
/// # Errors
///
/// When rustls was built without a version.
pub fn server_config(listened: Arc<Listened>) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let asked = Arc::new(AnyClient(provider.signature_verification_algorithms));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(asked)
        .with_cert_resolver(listened);
    // Go's agents never take up a session, and whoever does would not see a new certificate, nor
    // prove its own again: tickets would only be work.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Takes any client certificate whose key the client proves to hold. Whether it is one of ours
/// is asked with each request, under the CAs and at the time of then, so that an untrusted one
/// gets 401 from HTTP as with K3s, and a new CA holds for connections that are open.
#[derive(Debug)]
struct AnyClient(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
