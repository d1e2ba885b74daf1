//! The load: a process of its own that asks as agents do, with requests made before the clock
//! starts and answers looked at no further than must be, so that it costs little.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use pki::{CertificateRequest, KeyAlgorithm, Name, PrivateKey};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::{config, host};
use crate::measure::{Failure, program};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    ClientKubelet,
    ServingKubelet,
    ClientKubeProxy,
    Ping,
}

impl Kind {
    /// What a node asks for when it joins.
    pub const JOIN: [Self; 3] = [
        Self::ClientKubelet,
        Self::ServingKubelet,
        Self::ClientKubeProxy,
    ];

    fn path(self) -> &'static str {
        match self {
            Self::ClientKubelet => "/v1-k3s/client-kubelet.crt",
            Self::ServingKubelet => "/v1-k3s/serving-kubelet.crt",
            Self::ClientKubeProxy => "/v1-k3s/client-kube-proxy.crt",
            Self::Ping => "/ping",
        }
    }

    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |it| it.get_name().to_owned())
    }
}

/// A load, as the arguments of the process that makes it.
#[derive(Args, Clone, Debug)]
pub struct Load {
    /// The servers; each connection keeps to one.
    #[arg(long, value_delimiter = ',')]
    pub addresses: Vec<SocketAddr>,
    /// Its join token.
    #[arg(long)]
    pub token_file: PathBuf,
    /// What each node asks for, one after the other.
    #[arg(long, value_delimiter = ',')]
    pub kinds: Vec<Kind>,
    /// How many nodes there are; each has its name, password and keys.
    #[arg(long)]
    pub nodes: usize,
    /// The first node's number.
    #[arg(long, default_value_t = 0)]
    pub first: usize,
    /// Connections at a time.
    #[arg(long)]
    pub connections: usize,
    /// Requests on a connection before it is closed; 0: it stays.
    #[arg(long, default_value_t = 0)]
    pub each: usize,
    /// Requests in all; 0: as many as there is time for.
    #[arg(long, default_value_t = 0)]
    pub requests: usize,
    /// For how long.
    #[arg(long, default_value_t = f64::INFINITY)]
    pub seconds: f64,
    /// Requests a second; 0: the next one after each answer.
    #[arg(long, default_value_t = 0.0)]
    pub rate: f64,
    /// Take up former TLS sessions.
    #[arg(long)]
    pub resume: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Answers by code.
    pub codes: BTreeMap<u16, usize>,
    /// Requests and connections without an answer.
    pub broken: usize,
    /// Seconds from the first request to the last answer.
    pub wall: f64,
    /// The load's own CPU time in that, in seconds.
    pub cpu: f64,
    /// Milliseconds from when a request was due: median, 99th percentile, most.
    pub median: f64,
    pub p99: f64,
    pub most: f64,
}

impl Outcome {
    /// Good answers.
    pub fn good(&self) -> usize {
        self.codes.get(&200).copied().unwrap_or_default()
    }

    /// Good answers a second.
    pub fn rate(&self) -> f64 {
        self.good() as f64 / self.wall
    }

    /// Nothing but good answers.
    ///
    /// # Errors
    ///
    /// What else there was.
    pub fn clean(self) -> Result<Self, Failure> {
        match self.broken == 0 && self.codes.keys().all(|code| *code == 200) {
            true => Ok(self),
            false => Err(format!("not every answer was good: {self:?}").into()),
        }
    }
}

impl Load {
    /// Makes the load in a process of its own; what `meanwhile` does goes on beside it, every
    /// half second.
    pub fn run(&self, mut meanwhile: impl FnMut()) -> Result<Outcome, Failure> {
        let kinds: Vec<String> = self.kinds.iter().map(|kind| kind.name()).collect();
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        let mut command = program(std::env::current_exe()?);
        command
            .args(["serve-load", "--kinds", &kinds.join(",")])
            .arg("--token-file")
            .arg(&self.token_file)
            .args(self.resume.then_some("--resume"))
            .stderr(Stdio::inherit())
            .stdout(Stdio::piped());
        for (name, value) in [
            ("--addresses", addresses.join(",")),
            ("--nodes", self.nodes.to_string()),
            ("--first", self.first.to_string()),
            ("--connections", self.connections.to_string()),
            ("--each", self.each.to_string()),
            ("--requests", self.requests.to_string()),
            ("--seconds", self.seconds.to_string()),
            ("--rate", self.rate.to_string()),
        ] {
            command.args([name, &value]);
        }
        let mut child = command.spawn()?;
        while child.try_wait()?.is_none() {
            meanwhile();
            std::thread::sleep(Duration::from_millis(500).min(self.pause()));
        }
        let ended = child.wait_with_output()?;
        match ended.status.success() {
            true => Ok(serde_json::from_slice(&ended.stdout)?),
            false => Err(format!("the load ended with {}", ended.status).into()),
        }
    }

    fn pause(&self) -> Duration {
        Duration::try_from_secs_f64(self.seconds / 20.0).unwrap_or(Duration::MAX)
    }
}

/// The process: makes the load and prints its outcome.
pub fn child(load: &Load) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let requests = prepared(load)?;
    let tasks = tokio::task::LocalSet::new();
    let outcome = tasks.block_on(&runtime, all(load, requests))?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// Every request of every node, as the bytes that go over the line.
fn prepared(load: &Load) -> Result<Vec<Vec<u8>>, Failure> {
    let token = std::fs::read_to_string(&load.token_file)?;
    let password = token.trim().rsplit(':').next().unwrap_or_default();
    let engine = base64::engine::general_purpose::STANDARD;
    let credential = base64::Engine::encode(&engine, format!("node:{password}"));
    let nobody = Name::from_der(&[0x30, 0])?;
    let mut requests = Vec::with_capacity(load.nodes * load.kinds.len());
    for node in load.first..load.first + load.nodes {
        // As random as a password can be that is the same in the next run.
        let secret = pki::sha256(format!("password {node}").as_bytes()).to_string();
        let secret = secret.get(..32).unwrap_or_default();
        for kind in &load.kinds {
            let path = kind.path();
            if *kind == Kind::Ping {
                requests.push(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").into_bytes());
                continue;
            }
            let key = PrivateKey::generate(KeyAlgorithm::P256)?;
            let asked = CertificateRequest::new(&nobody, &[], &key)?;
            let mut request = format!(
                "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Basic {credential}\r\n\
                 k3s-Node-Name: node-{node}\r\nk3s-Node-Password: {secret}\r\n\
                 k3s-Node-IP: 10.77.{}.{}\r\nContent-Length: {}\r\n\r\n",
                node / 250 % 250,
                node % 250 + 1,
                asked.der().len()
            )
            .into_bytes();
            request.extend_from_slice(asked.der());
            requests.push(request);
        }
    }
    Ok(requests)
}

const HOST: &str = "127.0.0.1";

/// What the connections share; all run in one thread.
struct Shared {
    load: Load,
    requests: Vec<Vec<u8>>,
    connector: TlsConnector,
    begin: Instant,
    next: Cell<usize>,
    outcome: RefCell<Outcome>,
    millis: RefCell<Vec<f64>>,
}

async fn all(load: &Load, requests: Vec<Vec<u8>>) -> Result<Outcome, Failure> {
    let connector = TlsConnector::from(Arc::new(config(load.resume)?));
    let streams = standing(load, &connector).await?;
    let shared = Rc::new(Shared {
        load: load.clone(),
        requests,
        connector,
        begin: Instant::now(),
        next: Cell::new(0),
        outcome: RefCell::default(),
        millis: RefCell::default(),
    });
    let before = own_cpu();
    let tasks: Vec<_> = streams
        .into_iter()
        .zip(load.addresses.iter().cycle())
        .map(|(stream, address)| {
            tokio::task::spawn_local(worker(Rc::clone(&shared), *address, stream))
        })
        .collect();
    for task in tasks {
        task.await?;
    }
    let mut outcome = shared.outcome.take();
    outcome.wall = shared.begin.elapsed().as_secs_f64();
    outcome.cpu = own_cpu() - before;
    let mut millis = shared.millis.take();
    millis.sort_unstable_by(f64::total_cmp);
    let part = |part: f64| {
        let index = (millis.len().saturating_sub(1) as f64 * part).round() as usize;
        millis.get(index).copied().unwrap_or_default()
    };
    [outcome.median, outcome.p99, outcome.most] = [0.5, 0.99, 1.0].map(part);
    Ok(outcome)
}

type Stream = TlsStream<TcpStream>;

/// What each worker begins with: a connection that is there before the clock starts, where
/// connections stay (their handshakes are measured as such), else none.
async fn standing(load: &Load, connector: &TlsConnector) -> Result<Vec<Option<Stream>>, Failure> {
    let addresses = load.addresses.iter().cycle().take(load.connections);
    let mut streams = Vec::new();
    for address in addresses {
        streams.push(match load.each {
            0 => Some(connected(connector, *address).await?),
            _ => None,
        });
    }
    Ok(streams)
}

async fn connected(connector: &TlsConnector, address: SocketAddr) -> Result<Stream, Failure> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(connector.connect(host(), socket).await?)
}

/// One connection after the other, until there is nothing left to ask.
async fn worker(shared: Rc<Shared>, address: SocketAddr, mut stream: Option<Stream>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        // A node's requests stay together, on one connection where it is told so.
        let count = shared.load.each.max(1);
        let first = shared.next.get();
        shared.next.set(first + count);
        for number in first..first + count {
            let Some(due) = shared.due(number).await else {
                return;
            };
            match shared.ask(address, &mut stream, number, &mut buffer).await {
                Ok(code) => {
                    let late = due.elapsed().as_secs_f64() * 1e3;
                    shared.millis.borrow_mut().push(late);
                    *shared.outcome.borrow_mut().codes.entry(code).or_default() += 1;
                }
                Err(_) => {
                    stream = None;
                    shared.outcome.borrow_mut().broken += 1;
                }
            }
        }
        if shared.load.each > 0
            && let Some(mut ended) = stream.take()
        {
            let _ = ended.shutdown().await;
        }
    }
}

impl Shared {
    /// Waits until request `number` is due; `None` when there is no such request any more.
    async fn due(&self, number: usize) -> Option<Instant> {
        let load = &self.load;
        if load.requests > 0 && number >= load.requests {
            return None;
        }
        let due = match load.rate > 0.0 {
            true => self.begin + Duration::from_secs_f64(number as f64 / load.rate),
            false => Instant::now(),
        };
        if (due - self.begin).as_secs_f64() > load.seconds {
            return None;
        }
        tokio::time::sleep_until(due.into()).await;
        Some(due)
    }

    async fn ask(
        &self,
        address: SocketAddr,
        held: &mut Option<Stream>,
        number: usize,
        buffer: &mut [u8],
    ) -> Result<u16, Failure> {
        let stream = match held {
            Some(stream) => stream,
            None => held.insert(connected(&self.connector, address).await?),
        };
        let request = self.requests.get(number % self.requests.len().max(1));
        stream.write_all(request.ok_or("no requests")?).await?;
        let mut filled = 0;
        loop {
            let free = buffer.get_mut(filled..).unwrap_or_default();
            let read = stream.read(free).await?;
            if read == 0 {
                return Err("the server closed the connection".into());
            }
            filled += read;
            let so_far = buffer.get(..filled).unwrap_or_default();
            if let Some(code) = complete(so_far)? {
                if code >= 400 {
                    // The server closes after those.
                    *held = None;
                }
                return Ok(code);
            }
        }
    }
}

/// The code of an answer that is all there.
fn complete(answer: &[u8]) -> Result<Option<u16>, Failure> {
    let Some(head) = answer.windows(4).position(|it| it == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = str::from_utf8(answer.get(..head).unwrap_or_default())?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let code = status.ok_or("no status")?.parse()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_it = name.eq_ignore_ascii_case("content-length");
        is_it.then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.ok_or("an answer without a length")?;
    Ok((answer.len() >= head + 4 + length).then_some(code))
}

/// CPU time of this process, in seconds.
fn own_cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
