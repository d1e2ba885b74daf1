//! Clients that mean no good.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use kubepki_serve::accept::Limits;
use kubepki_serve::node::Strictness;
use proptest::prelude::*;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::common::{HOST, PASSWORD, Running, serve, serve_with};

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A connection on which anything can be said.
pub fn connect(server: &Running) -> Stream {
    connect_as(server, &[])
}

/// The same by these protocols.
fn connect_as(server: &Running, protocols: &[&[u8]]) -> Stream {
    let pem = std::fs::read(server.tls_file("server-ca.crt")).unwrap();
    let mut roots = RootCertStore::empty();
    for certificate in pki::Certificate::all_from_pem(&pem).unwrap() {
        roots
            .add(CertificateDer::from(certificate.der().to_vec()))
            .unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
    let name = ServerName::try_from(HOST).unwrap();
    let socket = TcpStream::connect(server.address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    StreamOwned::new(
        ClientConnection::new(Arc::new(config), name).unwrap(),
        socket,
    )
}

/// Everything that comes until the server closes.
pub fn rest(stream: &mut Stream) -> String {
    let mut all = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(read) => all.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the server keeps the connection open")
            }
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn say(server: &Running, text: &[u8]) -> String {
    let mut stream = connect(server);
    // The server may close before everything is said.
    let _ = stream.write_all(text);
    let _ = stream.flush();
    rest(&mut stream)
}

const AGENT: &str = "Authorization: Basic bm9kZTpmaXh0dXJlLXRva2VuLTAxMjM0NTY3ODlhYmNkZWY=\r\n";

#[test]
fn bodies_have_an_end() {
    let server = serve(Strictness::Strict);
    let body = vec![0x30; 2 << 20];
    let answer = server.ask_as("a", "/v1-k3s/client-kubelet.crt", &body);
    assert_eq!(answer.code, 413, "{}", answer.text());
    let user = format!("server:{PASSWORD}");
    let put = ["-u", &user, "-X", "PUT", "--data-binary", "@-"];
    let answer = server.curl_with("/v1-k3s/cert/cacerts", &put, &body);
    assert_eq!(answer.code, 413);
    // One that says no length has one too.
    let chunked = [
        "-u",
        &user,
        "-X",
        "PUT",
        "--http1.1",
        "-H",
        "Transfer-Encoding: chunked",
        "--data-binary",
        "@-",
    ];
    assert_eq!(
        server
            .curl_with("/v1-k3s/cert/cacerts", &chunked, &body)
            .code,
        413
    );
    // Strangers' bodies are not read at all.
    let anonymous = server.curl_with(
        "/v1-k3s/cert/cacerts",
        &["-X", "PUT", "--data-binary", "@-"],
        b"{}",
    );
    assert_eq!(anonymous.code, 403);
    assert_eq!(server.curl("/ping", &[]).text(), "pong");
}

#[test]
fn slow_clients_are_let_go() {
    let limits = Limits {
        handshake: Duration::from_secs(3),
        headers: Duration::from_secs(2),
        body: Duration::from_secs(2),
        ..Limits::default()
    };
    let server = serve_with("k3s-1.36-sqlite", Strictness::Strict, limits);
    // Says nothing at all.
    let mut silent = TcpStream::connect(server.address).unwrap();
    silent
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    assert_eq!(silent.read(&mut [0; 16]).unwrap(), 0);
    // Never ends its headers.
    let headers = say(&server, b"GET /ping HTTP/1.1\r\nHost: x\r\nX-Slow: ");
    assert!(
        headers.is_empty() || headers.starts_with("HTTP/1.1 408"),
        "{headers}"
    );
    // Never ends its body.
    let body = format!(
        "POST /v1-k3s/client-kubelet.crt HTTP/1.1\r\nHost: x\r\n{AGENT}Content-Length: 100\r\n\r\nabc"
    );
    let body = say(&server, body.as_bytes());
    assert!(body.starts_with("HTTP/1.1 408"), "{body}");
    // Asks once and stays.
    let idle = say(&server, b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(idle.ends_with("pong"), "{idle}");
    assert_eq!(server.curl("/ping", &[]).text(), "pong");
}

/// A frame of HTTP/2 without a stream.
fn frame(kind: u8, flags: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 0], content].concat()
}

/// Who asks for nothing and answers each ping is sent off, and is told so.
#[test]
fn pings_keep_no_connection() {
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GO_AWAY: u8 = 7;
    let limits = Limits {
        headers: Duration::from_secs(2),
        idle: Duration::from_secs(7),
        ..Limits::default()
    };
    let server = serve_with("k3s-1.36-sqlite", Strictness::Strict, limits);
    let mut stream = connect_as(&server, &[b"h2"]);
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .unwrap();
    stream.write_all(&frame(SETTINGS, 0, &[])).unwrap();
    let (mut pings, mut sent_off, mut head) = (0, false, [0; 9]);
    // Until the server closes it.
    while stream.read_exact(&mut head).is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut content = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut content).unwrap();
        let is_answer = head[4] & 1 == 1;
        match head[3] {
            SETTINGS | PING if is_answer => {}
            SETTINGS => stream.write_all(&frame(SETTINGS, 1, &[])).unwrap(),
            PING => {
                pings += 1;
                // The last one may find it closed.
                let _ = stream.write_all(&frame(PING, 1, &content));
            }
            GO_AWAY => sent_off = true,
            _ => {}
        }
        assert!(pings < 1000, "the server keeps the connection open");
    }
    assert!(sent_off && pings > 1, "{sent_off}, {pings} pings");
}

#[test]
fn one_address_has_so_many_connections() {
    let limits = Limits {
        connections_of_one: 4,
        ..Limits::default()
    };
    let server = serve_with("k3s-1.36-sqlite", Strictness::Strict, limits);
    let mut held: Vec<Stream> = (0..4).map(|_| connect(&server)).collect();
    for stream in &mut held {
        stream
            .write_all(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
    }
    let mut more = connect(&server);
    assert!(
        more.write_all(b"GET /ping HTTP/1.1\r\n\r\n")
            .and_then(|()| more.flush())
            .is_err()
            || rest(&mut more).is_empty()
    );
    drop(held);
    // The places come free once the server has seen the ends.
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let answer = say_until_answered(&server);
        if answer.contains("pong") {
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "the places stay taken"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn say_until_answered(server: &Running) -> String {
    say(
        server,
        b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
}

#[test]
fn smuggled_requests_and_odd_headers_are_refused() {
    let server = serve(Strictness::Strict);
    let kubelet = "POST /v1-k3s/client-kubelet.crt HTTP/1.1\r\nHost: x\r\n";
    let two_names = format!(
        "{kubelet}{AGENT}k3s-Node-Name: a\r\nk3s-Node-Name: b\r\nk3s-Node-Password: x\r\nContent-Length: 0\r\n\r\n"
    );
    let cases = [
        (two_names, "HTTP/1.1 400", "node name not set"),
        (
            format!("{kubelet}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
            "HTTP/1.1 400",
            "",
        ),
        (
            format!("{kubelet}Content-Length: -1\r\n\r\n"),
            "HTTP/1.1 400",
            "",
        ),
        ("GET /ping HTTP/9.9\r\n\r\n".to_owned(), "HTTP/1.1 4", ""),
        (
            "GET /v1-k3s/../ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_owned(),
            "HTTP/1.1 401",
            "Unauthorized",
        ),
        (
            "GET /%63acerts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_owned(),
            "HTTP/1.1 401",
            "Unauthorized",
        ),
    ];
    for (text, status, says) in cases {
        let answer = say(&server, text.as_bytes());
        assert!(
            answer.starts_with(status) && answer.contains(says),
            "{text:.80}: {answer}"
        );
    }
    // Headers without end are not even answered where the client is still sending.
    let headers = format!("GET /ping HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
    let answer = say(&server, headers.as_bytes());
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    // Length and chunks at once: one request, or none, never two.
    let both = format!(
        "{kubelet}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
    );
    let answer = say(&server, both.as_bytes());
    assert!(!answer.contains("pong"), "{answer}");
}

#[test]
fn whatever_comes_the_server_lives() {
    let server = serve(Strictness::Strict);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(24));
    let line = prop::collection::vec(any::<u8>(), 0..200);
    let words = prop_oneof![
        Just("GET"),
        Just("POST"),
        Just("PUT"),
        Just("CONNECT"),
        Just("PRI * HTTP/2.0")
    ];
    runner
        .run(&(words, "/\\PC{0,40}", line), |(method, path, noise)| {
            let mut text = format!("{method} {path} HTTP/1.1\r\n{AGENT}").into_bytes();
            text.extend_from_slice(&noise);
            text.extend_from_slice(b"\r\n\r\n");
            let mut stream = connect(&server);
            let _ = stream.write_all(&text);
            let _ = stream.flush();
            drop(stream);
            Ok(())
        })
        .unwrap();
    assert_eq!(server.curl("/ping", &[]).text(), "pong");
}

#[test]
fn guessing_is_slow_for_who_guesses() {
    let server = serve(Strictness::Strict);
    let wrong = "GET /v1-k3s/readyz HTTP/1.1\r\nHost: x\r\nAuthorization: Basic bm9kZTp4\r\n\r\n";
    let guesses = usize::try_from(kubepki_serve::throttle::BURST).unwrap() + 30;
    let codes: Vec<String> = (0..guesses)
        .map(|_| {
            say(&server, wrong.as_bytes())
                .get(..12)
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    let (answered, refused) = codes.split_at(guesses - 30);
    assert!(
        answered.iter().all(|code| code == "HTTP/1.1 401"),
        "{codes:?}"
    );
    assert!(
        refused.iter().all(|code| code == "HTTP/1.1 429"),
        "{codes:?}"
    );
    // Even the right one waits, or the answer would tell; who shows nothing is served.
    assert_eq!(server.curl("/ping", &[]).text(), "pong");
    assert_eq!(server.curl("/cacerts", &[]).code, 200);
    server.time.to(3600);
    let user = format!("node:{PASSWORD}");
    assert_eq!(server.curl("/v1-k3s/readyz", &["-u", &user]).code, 200);
}
