//! A TLS client that asks only whether the server has the key of what it shows.

use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

/// Takes any certificate, and remembers it once its key has signed the handshake.
#[derive(Debug)]
pub struct Witness {
    provider: Arc<CryptoProvider>,
    seen: Mutex<Option<Vec<u8>>>,
}

impl Witness {
    /// A client's configuration that takes any certificate, and who will have seen it.
    ///
    /// Nothing secret may be sent over it: whoever answers has shown a key, not that he is trusted.
    ///
    /// # Errors
    ///
    /// When the cryptographic library offers no TLS version.
    pub fn client() -> Result<(ClientConfig, Arc<Self>), rustls::Error> {
        Self::configured(None)
    }

    /// The same for a client that shows a certificate, leaf first.
    ///
    /// # Errors
    ///
    /// Also when the key cannot be used, or is not the certificate's.
    pub fn client_with(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(ClientConfig, Arc<Self>), rustls::Error> {
        Self::configured(Some((chain, key)))
    }

    fn configured(
        identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Result<(ClientConfig, Arc<Self>), rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let witness = Arc::new(Self {
            provider: provider.clone(),
            seen: Mutex::default(),
        });
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(witness.clone());
        let config = match identity {
            Some((chain, key)) => config.with_client_auth_cert(chain, key)?,
            None => config.with_no_client_auth(),
        };
        Ok((config, witness))
    }

    fn saw(&self, certificate: &CertificateDer<'_>) {
        // A poisoned lock would mean a panic in these two lines.
        if let Ok(mut seen) = self.seen.lock() {
            *seen = Some(certificate.to_vec());
        }
    }

    /// The DER of the certificate whose key signed the handshake, once.
    pub fn proven(&self) -> Option<Vec<u8>> {
        self.seen.lock().ok()?.take()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let valid = verify_tls12_signature(message, cert, dss, algorithms)?;
        self.saw(cert);
        Ok(valid)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let valid = verify_tls13_signature(message, cert, dss, algorithms)?;
        self.saw(cert);
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
