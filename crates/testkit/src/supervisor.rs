//! An HTTPS server that answers as K3s's supervisor does, as far as CA files are concerned:
//! recorded answers of a real one (`fixtures/k3s-1.36-http`), real TLS, K3s's rules of who may
//! call what.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::Fixture;

/// What a caller wanted to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `PUT`.
    pub method: String,
    /// With its query: `/v1-k3s/cert/cacerts?force=false`.
    pub path: String,
    /// The body, decoded from no form.
    pub body: Vec<u8>,
}

/// What the server knows and who it lets in.
#[derive(Clone)]
pub struct Cluster {
    /// PEM of the certificate chain that it serves.
    pub chain: Vec<u8>,
    /// PEM of the key.
    pub key: Vec<u8>,
    /// What `/cacerts` answers.
    pub cacerts: Vec<u8>,
    /// The password of user `server`.
    pub password: String,
    /// The password of user `node`.
    pub agent_password: String,
    /// What the Kubernetes API behind it answers, by path: K3s passes on what is not its own.
    pub kubernetes: BTreeMap<String, String>,
}

/// What a node asked for.
#[derive(Clone, Debug, Default)]
pub struct AgentCall {
    /// `POST`.
    pub method: String,
    /// `/v1-k3s/client-kubelet.crt`.
    pub path: String,
    /// The body.
    pub body: Vec<u8>,
    /// Headers, their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Whether it logged in with a certificate.
    pub by_certificate: bool,
}

/// Answers nodes that were let in: status and body.
pub type AnswerAgents = dyn Fn(&AgentCall) -> (u16, Vec<u8>) + Send + Sync;

/// How nodes are served.
pub struct Agents {
    /// PEM of the CA whose clients are let in.
    pub client_ca: Vec<u8>,
    /// What they get.
    pub answer: Box<AnswerAgents>,
}

/// Decides on a `PUT` that was let in: `true` is 204, `false` is 500 with an error ID.
pub type Decide = dyn Fn(&Call) -> bool + Send + Sync;

/// A supervisor on a port of its own, stopped when dropped.
pub struct Supervisor {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<Call>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Starts on a free loopback port.
    pub fn start(cluster: Cluster, decide: Box<Decide>) -> Self {
        Self::start_on(0, cluster, decide)
    }

    /// Starts one that serves nodes too.
    pub fn start_with_agents(cluster: Cluster, agents: Agents) -> Self {
        Self::run(0, cluster, Box::new(|_| false), Some(agents))
    }

    /// The same on this loopback port.
    pub fn start_with_agents_on(port: u16, cluster: Cluster, agents: Agents) -> Self {
        Self::run(port, cluster, Box::new(|_| false), Some(agents))
    }

    /// Starts on this loopback port: as one that was dropped comes back.
    pub fn start_on(port: u16, cluster: Cluster, decide: Box<Decide>) -> Self {
        Self::run(port, cluster, decide, None)
    }

    fn run(port: u16, cluster: Cluster, decide: Box<Decide>, agents: Option<Agents>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port))
            .unwrap_or_else(|error| panic!("loopback port {port}: {error}"));
        let address = listener
            .local_addr()
            .unwrap_or_else(|error| panic!("the port has no address: {error}"));
        let config = Arc::new(server_config(&cluster, agents.as_ref()));
        let answers = Fixture::new("k3s-1.36-http");
        let known = Arc::new(Known {
            cluster,
            answers,
            decide,
            agents,
        });
        let (calls, stop) = (
            Arc::<Mutex<Vec<Call>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let thread = std::thread::spawn({
            let (calls, stop) = (calls.clone(), stop.clone());
            move || {
                for stream in listener.incoming().flatten() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let (config, known, calls) = (config.clone(), known.clone(), calls.clone());
                    std::thread::spawn(move || {
                        // A caller that hangs up is its own fault.
                        let _ = serve(stream, &config, &known, &calls);
                    });
                }
            }
        });
        Self {
            address,
            calls,
            stop,
            thread: Some(thread),
        }
    }

    /// `https://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The calls that were let in, in order.
    pub fn calls(&self) -> Vec<Call> {
        let calls = self.calls.lock();
        calls.map(|calls| calls.clone()).unwrap_or_default()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Known {
    cluster: Cluster,
    answers: Fixture,
    decide: Box<Decide>,
    agents: Option<Agents>,
}

fn server_config(cluster: &Cluster, agents: Option<&Agents>) -> ServerConfig {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&cluster.chain).collect();
    let key = PrivateKeyDer::from_pem_slice(&cluster.key);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|error| panic!("TLS: {error}"));
    let config = match agents {
        None => config.with_no_client_auth(),
        Some(agents) => {
            let mut roots = RootCertStore::empty();
            let der = CertificateDer::pem_slice_iter(&agents.client_ca).flatten();
            roots.add_parsable_certificates(der);
            let asked = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .unwrap_or_else(|error| panic!("the client CA: {error}"));
            config.with_client_cert_verifier(asked)
        }
    };
    let chain = chain.unwrap_or_else(|error| panic!("the supervisor's chain: {error}"));
    let key = key.unwrap_or_else(|error| panic!("the supervisor's key: {error}"));
    config
        .with_single_cert(chain, key)
        .unwrap_or_else(|error| panic!("the supervisor's chain and key: {error}"))
}

fn serve(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    known: &Known,
    calls: &Mutex<Vec<Call>>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let connection = ServerConnection::new(config.clone()).map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    while let Some(request) = Request::read(&mut stream)? {
        let by_certificate = stream.get_ref().conn.peer_certificates().is_some();
        let answer = match agent_call(&request, known, by_certificate) {
            Some((status, body)) => Answer { status, body },
            None => answer(&request, known, calls),
        };
        // As the API server's libraries do, which K3s builds upon.
        let more = match answer.status {
            429 => "Retry-After: 1\r\n",
            _ => "",
        };
        let head = format!(
            "HTTP/1.1 {} x\r\nContent-Length: {}\r\n{more}\r\n",
            answer.status,
            answer.body.len()
        );
        let stream = stream.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(&answer.body)?;
        stream.flush()?;
    }
    Ok(())
}

struct Request {
    call: Call,
    headers: BTreeMap<String, String>,
}

/// The answer to a node that is let in, if nodes are served and this is one.
fn agent_call(request: &Request, known: &Known, by_certificate: bool) -> Option<(u16, Vec<u8>)> {
    let agents = known.agents.as_ref()?;
    let right = request
        .credentials()
        .is_some_and(|(user, it)| user == "node" && it == known.cluster.agent_password);
    if !request.call.path.starts_with("/v1-k3s/") || !(right || by_certificate) {
        return None;
    }
    let call = AgentCall {
        method: request.call.method.clone(),
        path: request.call.path.clone(),
        body: request.call.body.clone(),
        headers: request.headers.clone(),
        by_certificate,
    };
    Some((agents.answer)(&call))
}

impl Request {
    fn read(stream: &mut impl BufRead) -> std::io::Result<Option<Self>> {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, path) = (words.next(), words.next());
        let mut request = Self {
            call: Call {
                method: method.unwrap_or_default(),
                path: path.unwrap_or_default(),
                body: Vec::new(),
            },
            headers: BTreeMap::new(),
        };
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            let name = name.to_ascii_lowercase();
            if name == "content-length" {
                length = value.parse().map_err(std::io::Error::other)?;
            }
            request.headers.insert(name, value.to_owned());
        }
        request.call.body = vec![0; length];
        stream.read_exact(&mut request.call.body)?;
        Ok(Some(request))
    }

    /// User and password of HTTP's basic authentication.
    fn credentials(&self) -> Option<(String, String)> {
        let encoded = self.headers.get("authorization")?.strip_prefix("Basic ")?;
        let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some((user.to_owned(), password.to_owned()))
    }
}

struct Answer {
    status: u16,
    body: Vec<u8>,
}

fn answer(request: &Request, known: &Known, calls: &Mutex<Vec<Call>>) -> Answer {
    let Known {
        cluster,
        answers,
        decide,
        ..
    } = known;
    let recorded = |name: &str| {
        let head = answers.extra_text(&format!("{name}.headers"));
        let status = head
            .split_whitespace()
            .nth(1)
            .and_then(|it| it.parse().ok());
        let body = std::fs::read(answers.extra(&format!("{name}.body"))).unwrap_or_default();
        Answer {
            status: status.unwrap_or(500),
            body,
        }
    };
    let path = request.call.path.split('?').next().unwrap_or_default();
    if path == "/cacerts" {
        return Answer {
            status: 200,
            body: cluster.cacerts.clone(),
        };
    }
    if let Some(body) = cluster.kubernetes.get(path) {
        return Answer {
            status: 200,
            body: body.clone().into_bytes(),
        };
    }
    let Some((user, password)) = request.credentials() else {
        return recorded("no-credentials");
    };
    let right = match user.as_str() {
        "server" => cluster.password == password,
        "node" => cluster.agent_password == password,
        _ => false,
    };
    match (right, user.as_str(), path, request.call.method.as_str()) {
        (false, ..) => recorded("wrong-password"),
        (true, "node", ..) => recorded("put-token-as-node"),
        (true, _, "/v1-k3s/cert/cacerts", "PUT") => {
            // K3s reads the query with the body's form, which leaves no JSON.
            let form = request.headers.get("content-type").map(String::as_str)
                == Some("application/x-www-form-urlencoded");
            let json = request.call.body.starts_with(b"{");
            if let Ok(mut calls) = calls.lock() {
                calls.push(request.call.clone());
            }
            match !form && json && decide(&request.call) {
                true => recorded("put-cacerts-empty"),
                false => recorded("put-cacerts-garbage"),
            }
        }
        (true, _, "/v1-k3s/cert/cacerts", _) => recorded("get-cacerts-route"),
        _ => recorded("not-found"),
    }
}
