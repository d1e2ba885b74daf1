//! rustls, in this process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

use super::line::{self, Ask};
use super::{ANSWER, Identity, REQUEST, answered};

const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn connect(
    port: u16,
    name: &str,
    trust: &str,
    identity: Option<Identity<'_>>,
) -> Result<(), String> {
    exchange(port, name, trust, identity).map_err(|error| error.to_string())
}

type Failure = Box<dyn std::error::Error>;

/// A connection that is kept.
pub(super) struct Holding(BufReader<Connected>);

impl Ask for Holding {
    fn ask(&mut self, path: &str) -> Result<Vec<u8>, String> {
        let stream = self.0.get_mut();
        let sent = stream.write_all(line::request(path).as_bytes());
        sent.and_then(|()| stream.flush())
            .map_err(|error| error.to_string())?;
        line::answer(&mut self.0)
    }
}

pub(super) fn hold(port: u16, name: &str, trust: &str) -> Result<Holding, String> {
    let connected = connected(port, name, trust, None).and_then(|mut stream| {
        // rustls shakes hands with the first byte.
        stream.conn.complete_io(&mut stream.sock)?;
        Ok(stream)
    });
    let stream = connected.map_err(|error| error.to_string())?;
    Ok(Holding(BufReader::new(stream)))
}

type Connected = StreamOwned<ClientConnection, TcpStream>;

fn connected(
    port: u16,
    name: &str,
    trust: &str,
    identity: Option<Identity<'_>>,
) -> Result<Connected, Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(trust)?);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = read(identity)?;
            config.with_client_auth_cert(chain, key)?
        }
    };
    let name = ServerName::try_from(name.to_owned())?;
    let connection = ClientConnection::new(Arc::new(config), name)?;
    let stream = StreamOwned::new(connection, TcpStream::connect(("127.0.0.1", port))?);
    stream.sock.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn exchange(
    port: u16,
    name: &str,
    trust: &str,
    identity: Option<Identity<'_>>,
) -> Result<(), Failure> {
    let mut stream = connected(port, name, trust, identity)?;
    stream.write_all(REQUEST)?;
    stream.flush()?;
    let mut said = Vec::new();
    let ended = stream.read_to_end(&mut said);
    match answered(&said) {
        // Some servers leave without a word.
        true => Ok(()),
        false => Err(ended.err().map_or("no answer".into(), Into::into)),
    }
}

/// A thread that accepts connections.
#[derive(Debug)]
pub(super) struct Serving {
    port: u16,
    over: Arc<AtomicBool>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes it.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

pub(super) fn serve(identity: Identity<'_>, clients: Option<&str>) -> (u16, Serving) {
    start(identity, clients).unwrap_or_else(|error| panic!("rustls cannot serve: {error}"))
}

fn start(identity: Identity<'_>, clients: Option<&str>) -> Result<(u16, Serving), Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let roots = Arc::new(roots(clients)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    let (chain, key) = read(identity)?;
    let config = Arc::new(builder.with_single_cert(chain, key)?);
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if told.load(Ordering::SeqCst) {
                return;
            }
            // A client that is refused has its alert by then; it says why.
            let _ = welcome(&config, stream);
        }
    });
    Ok((port, Serving { port, over }))
}

fn welcome(config: &Arc<ServerConfig>, stream: TcpStream) -> Result<(), Failure> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let connection = ServerConnection::new(Arc::clone(config))?;
    let mut stream = StreamOwned::new(connection, stream);
    let mut input = BufReader::new(&mut stream);
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 && !line.trim().is_empty() {
        line.clear();
    }
    stream.write_all(ANSWER)?;
    stream.conn.send_close_notify();
    stream.flush()?;
    Ok(())
}

fn read(
    identity: Identity<'_>,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Failure> {
    let chain = CertificateDer::pem_slice_iter(identity.chain.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>()?;
    Ok((
        chain,
        PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?,
    ))
}

fn roots(pem: &str) -> Result<RootCertStore, Failure> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        store.add(certificate?)?;
    }
    Ok(store)
}
