//! A TLS connection inside this process, at the tour's moment.

use std::sync::Arc;
use std::time::Duration;

use pki::UnixTime;
use rustls::client::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, SupportedProtocolVersion, version};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::error::CliError;

const VERSIONS: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

/// A certificate chain with its key, PEM.
pub struct Pair<'a> {
    /// Leaf first.
    pub chain: &'a [u8],
    /// Its key.
    pub key: &'a [u8],
}

/// Server and client shake hands, each verifying the other at `at`. The answer is why one of
/// them refused the other, or `None` when both accepted.
///
/// # Errors
///
/// When the material cannot be used at all.
pub async fn handshake(
    server: Pair<'_>,
    client: Pair<'_>,
    (server_roots, client_roots): (&[u8], &[u8]),
    at: UnixTime,
) -> Result<Option<String>, CliError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let time: Arc<dyn TimeProvider> = Arc::new(Moment(at));

    let verifier = WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots(client_roots)?),
        Arc::clone(&provider),
    )
    .build()?;
    let (chain, key) = read(server)?;
    let accept = ServerConfig::builder_with_details(Arc::clone(&provider), Arc::clone(&time))
        .with_protocol_versions(VERSIONS)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    let (chain, key) = read(client)?;
    let connect = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(VERSIONS)?
        .with_root_certificates(roots(server_roots)?)
        .with_client_auth_cert(chain, key)?;

    let (near, far) = tokio::io::duplex(1 << 16);
    let name = ServerName::try_from("localhost")?;
    let accept = TlsAcceptor::from(Arc::new(accept)).accept(far);
    let connect = TlsConnector::from(Arc::new(connect)).connect(name, near);
    let (accepted, connected) = tokio::join!(accept, connect);
    // The one that refuses knows why; the other only hears of it.
    let refused = accepted.err().or(connected.err());
    Ok(refused.map(|error| error.to_string()))
}

fn read(
    pair: Pair<'_>,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CliError> {
    let chain = CertificateDer::pem_slice_iter(pair.chain).collect::<Result<Vec<_>, _>>()?;
    Ok((chain, PrivateKeyDer::from_pem_slice(pair.key)?))
}

fn roots(pem: &[u8]) -> Result<RootCertStore, CliError> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        store.add(certificate?)?;
    }
    Ok(store)
}

/// The tour's clock, for verifiers.
#[derive(Debug)]
struct Moment(UnixTime);

impl TimeProvider for Moment {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let seconds = u64::try_from(self.0.as_secs()).ok()?;
        Some(rustls::pki_types::UnixTime::since_unix_epoch(
            Duration::from_secs(seconds),
        ))
    }
}
