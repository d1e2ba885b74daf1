//! The websocket that agents keep open.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use kubepki_serve::node::Strictness;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client};

use crate::common::{HOST, PASSWORD, Running, serve};

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A connection of the node whose kubelet has that certificate.
fn connect(server: &Running) -> Stream {
    let file = |name: &str| server.agent_file(name);
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(server.tls_file("server-ca.crt")).unwrap() {
        roots.add(root.unwrap()).unwrap();
    }
    let chain = CertificateDer::pem_file_iter(file("client-kubelet.crt")).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(file("client-kubelet.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let name = ServerName::try_from(HOST).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(connection, TcpStream::connect(server.address).unwrap())
}

fn call(server: &Running) -> WebSocket<Stream> {
    let url = format!("wss://{HOST}:6443/v1-k3s/connect");
    client(url, connect(server)).unwrap().0
}

#[test]
fn an_agent_keeps_it_open_until_the_server_stops() {
    let mut server = serve(Strictness::Strict);
    // Two at a time: an agent that comes back does so before the server has seen it go.
    let mut sockets = [call(&server), call(&server)];
    for _ in 0..3 {
        for socket in &mut sockets {
            socket.send(Message::Ping("here".into())).unwrap();
            assert_eq!(socket.read().unwrap(), Message::Pong("here".into()));
            // What K3s's agents send beside pings is taken, and nothing comes back.
            socket.send(Message::binary(vec![7; 4096])).unwrap();
        }
    }
    let [mut stays, mut goes] = sockets;
    goes.close(None).unwrap();
    assert!(matches!(goes.read(), Ok(Message::Close(_))));
    server.finish();
    match stays.read() {
        Ok(Message::Close(Some(frame))) => assert_eq!(frame.code, CloseCode::Away),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_that_does_not_end_is_not_kept() {
    let server = serve(Strictness::Strict);
    let mut socket = call(&server);
    // The server may close before everything is sent.
    let _ = socket.send(Message::binary(vec![0; 1 << 20]));
    let closed = loop {
        match socket.read() {
            Ok(Message::Close(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(
            closed,
            Error::ConnectionClosed | Error::Io(_) | Error::Protocol(_)
        ),
        "{closed}"
    );
}

#[test]
fn it_is_for_nodes_and_for_websockets_only() {
    let server = serve(Strictness::Strict);
    let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let arguments: Vec<&str> = headers
        .trim()
        .split("\r\n")
        .flat_map(|it| ["-H", it])
        .collect();
    let code = |more: &[&str]| {
        let arguments = [&["--http1.1"], &arguments[..], more].concat();
        server.curl("/v1-k3s/connect", &arguments).code
    };
    assert_eq!(code(&[]), 403);
    assert_eq!(code(&["-u", &format!("node:{PASSWORD}")]), 403);
    assert_eq!(code(&["-u", &format!("server:{PASSWORD}")]), 403);

    let ask = |text: &str| {
        let mut stream = connect(&server);
        stream.write_all(text.as_bytes()).unwrap();
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).unwrap();
        String::from_utf8_lossy(&begin).into_owned()
    };
    let request = |method: &str, headers: &str| {
        format!("{method} /v1-k3s/connect HTTP/1.1\r\nHost: {HOST}\r\n{headers}\r\n")
    };
    assert_eq!(ask(&request("GET", headers)), "HTTP/1.1 101");
    assert_eq!(ask(&request("GET", "")), "HTTP/1.1 400");
    let old = headers.replace("Version: 13", "Version: 8");
    assert_eq!(ask(&request("GET", &old)), "HTTP/1.1 400");
    assert_eq!(ask(&request("POST", headers)), "HTTP/1.1 405");
}
