//! Every endpoint, asked in every way that a generator thinks of: each answer is one of the
//! table, what was wrong is said to be the caller's fault, and nobody gets what is not its own.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use kubepki_serve::node::{NodeHeaders, Strictness};
use kubepki_serve::route::Endpoint;
use kubepki_serve::service::{Request, Service};
use kubepki_serve::status::Answer;
use pki::{Certificate, UnixTime};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use crate::common::{NODE_PASSWORD, PASSWORD, Running, request, runtime, serve};
use crate::hostile::connect;

/// Every code that the server knows (reference section 6.3, and HTTP's own for what is too long
/// or too slow).
const TABLE: [u16; 12] = [200, 204, 400, 401, 403, 405, 408, 413, 429, 431, 500, 503];

/// One thing that somebody asks.
#[derive(Debug, Clone)]
struct Asked {
    method: String,
    path: String,
    authorization: Option<Vec<u8>>,
    certificates: Vec<Vec<u8>>,
    name: Option<String>,
    password: Option<String>,
    addresses: Option<String>,
    body: Vec<u8>,
    /// Somebody else each time, so that nobody has guessed too often.
    peer: u32,
}

pub fn basic(user: &str, password: &str) -> Vec<u8> {
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {text}").into_bytes()
}

fn paths() -> impl Strategy<Value = String> {
    let known = || any::<Index>().prop_map(|at| at.get(&Endpoint::ALL).path().to_owned());
    prop_oneof![
        6 => known(),
        1 => known().prop_map(|path| path.to_uppercase()),
        1 => known().prop_map(|path| format!("{path}/")),
        1 => known().prop_map(|path| format!("/.{path}")),
        1 => "/[ -~]{0,40}",
        1 => "\\PC{0,20}",
    ]
}

fn credentials() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        4 => Just(Some(basic("node", PASSWORD))),
        3 => Just(Some(basic("server", PASSWORD))),
        1 => "\\PC{0,20}".prop_map(|text| Some(basic("node", &text))),
        1 => "\\PC{0,20}".prop_map(|text| Some(basic(&text, PASSWORD))),
        1 => "(Basic|Bearer|basic) [ -~]{0,60}".prop_map(|text| Some(text.into_bytes())),
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Some),
        1 => Just(None),
    ]
}

fn names() -> impl Strategy<Value = Option<String>> {
    let known = prop::sample::select(vec!["a", "s1", "A", "localhost", "kubernetes", "a.b"]);
    prop_oneof![
        4 => known.prop_map(|name| Some(name.to_owned())),
        1 => "[a-z0-9.-]{0,70}".prop_map(Some),
        1 => "\\PC{0,300}".prop_map(Some),
        1 => Just(None),
    ]
}

/// None that a person could have chosen: those are hashed slowly.
fn passwords() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        4 => Just(Some(NODE_PASSWORD.to_owned())),
        2 => Just(Some(NODE_PASSWORD.replace('0', "f"))),
        1 => Just(Some("é".repeat(600))),
        1 => Just(Some(String::new())),
        1 => Just(None),
    ]
}

fn addresses() -> impl Strategy<Value = Option<String>> {
    let address = prop_oneof![
        3 => any::<IpAddr>().prop_map(|it| it.to_string()),
        1 => Just("10.43.0.1".to_owned()),
        1 => "[ -~]{0,12}",
    ];
    prop::option::of(prop::collection::vec(address, 0..40).prop_map(|list| list.join(",")))
}

/// A request for a certificate, whole, damaged, cut off or followed by more; and other things.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let good = request();
    let (cut, torn, longer) = (good.clone(), good.clone(), good.clone());
    prop_oneof![
        3 => Just(good),
        2 => (any::<Index>(), 1u8..).prop_map(move |(at, by)| {
            let mut bytes = torn.clone();
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            bytes
        }),
        1 => any::<Index>().prop_map(move |at| cut[..at.index(cut.len())].to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..20)
            .prop_map(move |more| [&longer[..], &more].concat()),
        1 => prop::collection::vec(any::<u8>(), 0..300),
        1 => prop::sample::select(vec!["", "{}", "[]", "{\"a\":", "null", "-----BEGIN X-----"])
            .prop_map(|text| text.as_bytes().to_vec()),
    ]
}

fn asked(certificates: Vec<Vec<u8>>) -> impl Strategy<Value = Asked> {
    let methods = prop_oneof![
        3 => Just("POST"), 2 => Just("GET"), 2 => Just("PUT"), 1 => Just("HEAD"),
        1 => Just("DELETE"), 1 => Just("post"), 1 => Just("")
    ];
    let certificates = prop_oneof![
        4 => Just(Vec::new()),
        1 => Just(certificates),
        1 => prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..3),
    ];
    let who = (credentials(), certificates, any::<u32>());
    let node = (names(), passwords(), addresses());
    (methods, paths(), who, node, bodies()).prop_map(
        |(method, path, (authorization, certificates, peer), (name, password, addresses), body)| {
            Asked {
                method: method.to_owned(),
                path,
                authorization,
                certificates,
                name,
                password,
                addresses,
                body,
                peer,
            }
        },
    )
}

fn answer(service: &Service, runtime: &Runtime, asked: &Asked) -> Answer {
    let request = Request {
        peer: SocketAddr::new(IpAddr::V4(asked.peer.into()), 1),
        method: &asked.method,
        path: asked
            .path
            .split_once('?')
            .map_or(asked.path.as_str(), |(path, _)| path),
        query: asked.path.split_once('?').map(|(_, query)| query),
        is_form: false,
        authorization: asked.authorization.as_deref(),
        certificates: &asked.certificates,
        node: NodeHeaders {
            name: asked.name.clone(),
            password: asked.password.clone().map(Zeroizing::new),
            addresses: asked.addresses.clone(),
        },
        body: Zeroizing::new(asked.body.clone()),
    };
    runtime.block_on(async {
        service
            .answer(&request, service.admit(&request).await)
            .await
    })
}

/// Where K3s, and so we, answer bad input with a code of the server's fault.
fn is_k3s_own(asked: &Asked, answer: &Answer, strictness: Strictness) -> bool {
    let says = |text: &str| String::from_utf8_lossy(&answer.body).contains(text);
    match Endpoint::of(&asked.path) {
        // What is not ours goes on to an API server that is not there.
        None => answer.code == 503 && says("apiserver disabled"),
        Some(Endpoint::PutCaCerts | Endpoint::PutToken) => says("error ID") || answer.code == 503,
        Some(Endpoint::Leaf(_)) => {
            strictness == Strictness::K3sCompatible
                && (says("invalid node IP address") || says("no certificate can carry"))
        }
        Some(_) => false,
    }
}

fn holds(asked: &Asked, answer: &Answer, strictness: Strictness) -> Result<(), TestCaseError> {
    let code = answer.code;
    // What the connection makes of it is the tunnel's own test.
    if code == 101 {
        let is_nodes = asked.path == "/v1-k3s/connect" && !asked.certificates.is_empty();
        prop_assert!(is_nodes && asked.method == "GET", "{:?}", asked);
        return Ok(());
    }
    prop_assert!(TABLE.contains(&code), "{}", code);
    prop_assert!(
        code < 500 || is_k3s_own(asked, answer, strictness),
        "{} {}",
        code,
        String::from_utf8_lossy(&answer.body)
    );
    if code >= 400 && asked.method != "HEAD" {
        let status: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        prop_assert_eq!(&status["kind"], "Status");
        prop_assert_eq!(status["code"].as_u64(), Some(u64::from(code)));
    }
    let is_leaf = matches!(Endpoint::of(&asked.path), Some(Endpoint::Leaf(_)));
    if is_leaf && code == 200 && strictness == Strictness::Strict {
        // For the key in the request, and for no server's name.
        let leaf = &Certificate::all_from_pem(&answer.body).unwrap()[0];
        let wanted = pki::CertificateRequest::from_der(&asked.body).unwrap();
        prop_assert_eq!(leaf.spki_der(), wanted.spki_der());
        // Who shows a node's certificate need not say which node it is.
        let shown = asked.certificates.first();
        let shown = shown.and_then(|der| Certificate::from_der(der).ok());
        let own = shown.and_then(|it| {
            let name = it.subject().common_name()?.strip_prefix("system:node:")?;
            Some(name.to_owned())
        });
        let name = asked.name.clone().filter(|name| !name.is_empty());
        let name = name.or(own).unwrap_or_default().to_lowercase();
        let dns = leaf.sans().iter().filter_map(|san| match san {
            pki::San::Dns(name) => Some(name.clone()),
            _ => None,
        });
        for san in dns {
            prop_assert!(san == name || san == "localhost", "{} for {}", san, name);
        }
        prop_assert!(leaf.validity().not_after > UnixTime::from_secs(0));
    }
    Ok(())
}

#[test]
fn whatever_is_asked_the_answer_is_of_the_table() {
    let runtime = runtime();
    for strictness in [Strictness::Strict, Strictness::K3sCompatible] {
        let server = serve(strictness);
        let kubelet = std::fs::read(server.agent_file("client-kubelet.crt")).unwrap();
        let chain = Certificate::all_from_pem(&kubelet).unwrap();
        let chain = chain.iter().map(|it| it.der().to_vec()).collect();
        TestRunner::new(ProptestConfig::with_cases(400))
            .run(&asked(chain), |asked| {
                let answer = answer(&server.service, &runtime, &asked);
                holds(&asked, &answer, strictness)
            })
            .unwrap();
    }
}

/// The code of whatever comes back on a connection of its own; `None` when it is closed without
/// a word.
fn spoken(server: &Running, text: &[u8]) -> Option<u16> {
    let mut stream = connect(server);
    // The server may close before everything is said.
    let _ = stream.write_all(text);
    let _ = stream.flush();
    let mut start = [0; 12];
    stream.read_exact(&mut start).ok()?;
    let text = String::from_utf8_lossy(&start).into_owned();
    let code = text
        .strip_prefix("HTTP/1.1 ")
        .or(text.strip_prefix("HTTP/1.0 "));
    Some(code.unwrap_or_else(|| panic!("{text:?}")).parse().unwrap())
}

/// Request lines and headers as bytes: `text` ends the head in any case, so that nobody waits.
fn heads() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        4 => (prop::sample::select(vec!["GET", "POST", "PUT"]), paths())
            .prop_map(|(method, path)| format!("{method} {path} HTTP/1.1").into_bytes()),
        1 => "[A-Z]{1,8} [ -~]{0,40} HTTP/[0-9.]{1,3}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..60),
    ];
    let header = prop_oneof![
        2 => Just(b"Host: x".to_vec()),
        2 => Just([&b"Authorization: "[..], &basic("node", PASSWORD)].concat()),
        2 => Just(b"Content-Length: 0".to_vec()),
        1 => "k3s-Node-(Name|IP|Password): [ -~]{0,40}".prop_map(String::into_bytes),
        1 => "Content-Length: [0-9+, -]{1,22}".prop_map(String::into_bytes),
        1 => "Transfer-Encoding: (chunked|gzip|identity)(, chunked)?".prop_map(String::into_bytes),
        1 => "(Expect|Upgrade|Connection|TE): [a-z0-9-]{0,12}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..60),
    ];
    (line, prop::collection::vec(header, 0..8)).prop_map(|(line, headers)| {
        let mut text = line;
        for header in headers {
            text.extend_from_slice(b"\r\n");
            text.extend_from_slice(&header);
        }
        text.extend_from_slice(b"\r\n\r\n");
        text
    })
}

#[test]
fn whatever_stands_in_a_head_is_no_fault_of_the_server() {
    let server = crate::common::serve_with(
        "k3s-1.36-sqlite",
        Strictness::Strict,
        kubepki_serve::accept::Limits {
            // Some of them promise a body that never comes.
            body: std::time::Duration::from_millis(100),
            headers: std::time::Duration::from_millis(100),
            ..Default::default()
        },
    );
    TestRunner::new(ProptestConfig::with_cases(150))
        .run(&heads(), |text| {
            if let Some(code) = spoken(&server, &text) {
                // 503 is what a certificate gets on a path that is not ours; 404 never.
                prop_assert!(
                    TABLE.contains(&code) && ![500, 503].contains(&code),
                    "{}",
                    code
                );
            }
            Ok(())
        })
        .unwrap();
    // A client that sleeps for so short a time is let go as well.
    let answers = || server.curl("/ping", &[]).text() == "pong";
    assert!((0..20).any(|_| answers()));
}
