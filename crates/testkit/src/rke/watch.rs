//! What the engines show to whoever may ask them, all through a run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use super::cluster::Cluster;
use super::docker::{self, Docker};
use super::host::Host;

/// Something that an engine showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The node.
    pub node: String,
    /// `inspect cert-deployer`, `logs etcd`, `event`.
    pub what: String,
    /// The text as it came.
    pub text: Vec<u8>,
}

/// Looks at every container of every node from its creation on, until [`finish`](Self::finish).
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    seen: Arc<Mutex<Seen>>,
}

/// All that was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// In order of time, for each node.
    pub shown: Vec<Shown>,
    /// Containers that were gone before they, or their words, could be looked at: node and name.
    pub missed: Vec<(String, String)>,
    /// Containers that were made, in order of time for each node: node and name.
    pub made: Vec<(String, String)>,
}

impl Cluster {
    /// Begins to watch.
    pub fn watch(&self) -> Watch {
        let stop = Arc::<AtomicBool>::default();
        let seen = Arc::<Mutex<Seen>>::default();
        let (tell, listening) = std::sync::mpsc::channel();
        let threads = self.hosts().iter().map(|host| {
            let mut eye = Eye {
                node: host.name().to_owned(),
                socket: Box::new(host.socket()),
                stop: stop.clone(),
                seen: seen.clone(),
                logs: BTreeMap::new(),
            };
            let tell = tell.clone();
            std::thread::spawn(move || eye.look(&tell))
        });
        let threads: Vec<_> = threads.collect();
        // What happens after our return is seen.
        for _ in &threads {
            let _ = listening.recv_timeout(Duration::from_secs(30));
        }
        Watch {
            stop,
            threads,
            seen,
        }
    }

    /// `docker inspect` and the logs of every container that is there now.
    pub fn inspect_everything(&self) -> Vec<Shown> {
        let all = self.hosts().iter();
        all.flat_map(|host| everything(host.name(), &host.docker()))
            .collect()
    }
}

impl Watch {
    /// Looks once more at everything, and tells all.
    pub fn finish(mut self, cluster: &Cluster) -> Seen {
        self.end();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = seen.clone();
        seen.shown.extend(cluster.inspect_everything());
        seen
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

/// Looks at one engine.
struct Eye {
    node: String,
    socket: Box<dyn Fn() -> PathBuf + Send>,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    /// Open files of containers' words, by id, with the name: a removed one still holds them.
    logs: BTreeMap<String, (String, File)>,
}

impl Eye {
    fn look(&mut self, tell: &std::sync::mpsc::Sender<()>) {
        let mut since = String::new();
        while !self.stop.load(Ordering::SeqCst) {
            let socket = (self.socket)();
            let path = format!("/v1.41/events?since={since}");
            let path = path.trim_end_matches("?since=");
            match docker::send(&socket, "GET", path, "text/plain", b"") {
                Ok(stream) => {
                    let _ = tell.send(());
                    let docker = Docker::at(socket);
                    self.read(&docker, BufReader::new(stream), &mut since);
                }
                // The engine is away, as it may be.
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        for (name, mut file) in std::mem::take(&mut self.logs).into_values() {
            let mut text = Vec::new();
            let _ = file.read_to_end(&mut text);
            self.add(format!("logs {name}"), text);
        }
    }

    fn read(
        &mut self,
        docker: &Docker,
        mut stream: BufReader<std::os::unix::net::UnixStream>,
        since: &mut String,
    ) {
        let timeout = Some(Duration::from_millis(100));
        let mut line = Vec::new();
        let _ = stream.get_ref().set_read_timeout(timeout);
        loop {
            match stream.read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) => {
                    self.event(docker, &line, since);
                    line.clear();
                }
                // Half a line may be there already; the rest comes after it.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    if self.stop.load(Ordering::SeqCst) {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    fn event(&mut self, docker: &Docker, line: &[u8], since: &mut String) {
        // The lines of the answer's head are none.
        let Ok(event) = serde_json::from_slice::<Value>(line) else {
            return;
        };
        self.add("event".to_owned(), line.to_vec());
        if let Some(nanos) = event.get("timeNano").and_then(Value::as_u64) {
            // The next one, should the connection break.
            let next = nanos + 1;
            *since = format!("{}.{:09}", next / 1_000_000_000, next % 1_000_000_000);
        }
        let word = |path: &str| event.pointer(path).and_then(Value::as_str);
        if word("/Type") != Some("container") {
            return;
        }
        let (Some(name), Some(id)) = (word("/Actor/Attributes/name"), word("/Actor/ID")) else {
            return;
        };
        let action = word("/Action").unwrap_or_default();
        if !["create", "start"].contains(&action) {
            return;
        }
        let place = (self.node.clone(), name.to_owned());
        let inspected = docker.inspect(id);
        let log = inspected.as_ref().and_then(|it| open_log(docker, it));
        // An engine may be told to keep no words.
        let keeps = |it: &Value| it.get("LogPath").is_none_or(|path| path != "");
        let lost = action == "start" && log.is_none() && inspected.as_ref().is_some_and(keeps);
        if let (Some(file), "start") = (log, action) {
            let open = self.logs.entry(id.to_owned());
            open.or_insert_with(|| (name.to_owned(), file));
        }
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if action == "create" {
                seen.made.push(place.clone());
            }
            // One that is only made, read from and removed may be gone by now.
            if action == "start" && (inspected.is_none() || lost) {
                seen.missed.push(place);
            }
        }
        if let Some(it) = inspected {
            self.add(format!("inspect {name}"), it.to_string().into_bytes());
        }
    }

    fn add(&self, what: String, text: Vec<u8>) {
        let node = self.node.clone();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.shown.push(Shown { node, what, text });
    }
}

/// Where the engine writes what a container says, opened.
fn open_log(docker: &Docker, inspected: &Value) -> Option<File> {
    let path = inspected.get("LogPath")?.as_str()?;
    let root = docker.socket.to_str()?.strip_suffix("/run/docker.sock")?;
    File::open(format!("{root}{path}")).ok()
}

fn everything(node: &str, docker: &Docker) -> Vec<Shown> {
    let mut all = Vec::new();
    for name in docker.names().unwrap_or_default() {
        let mut add = |what: &str, text: Vec<u8>| {
            all.push(Shown {
                node: node.to_owned(),
                what: format!("{what} {name}"),
                text,
            });
        };
        if let Some(it) = docker.inspect(&name) {
            add("inspect", it.to_string().into_bytes());
        }
        add("logs", docker.logs(&name));
    }
    all
}

impl Host {
    /// Finds the engine's socket, wherever it is by then.
    fn socket(&self) -> impl Fn() -> PathBuf + Send + 'static {
        let power = self.power.clone();
        move || super::host::socket(&power)
    }
}
