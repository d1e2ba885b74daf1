//! Docker's HTTP API over a machine's socket, as far as tests need it (API 1.41, which Debian's
//! engine and RKE speak).

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

/// A Docker engine.
#[derive(Clone, Debug)]
pub struct Docker {
    pub(super) socket: PathBuf,
}

/// A container as RKE makes it: in the host's network, restarted always.
#[derive(Clone, Debug, Default)]
pub struct Container {
    /// `kube-apiserver`.
    pub name: String,
    /// `rancher/hyperkube:v1.30.5-rancher1`.
    pub image: String,
    /// Replaces the image's.
    pub entrypoint: Vec<String>,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// `/on/host:/in/container`.
    pub binds: Vec<String>,
    /// Names and values.
    pub labels: std::collections::BTreeMap<String, String>,
}

/// When a container was started, and how often Docker did so by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Start {
    /// Docker's `State.StartedAt`.
    pub at: String,
    /// Docker's `RestartCount`.
    pub restarts: u64,
    /// Whether it runs now.
    pub running: bool,
}

impl Docker {
    /// The engine behind a socket.
    pub fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// One call: status and body; an error is one of the socket.
    pub fn call(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: &[u8],
    ) -> io::Result<(u16, Vec<u8>)> {
        call(&self.socket, method, &format!("/v1.41{path}"), kind, body)
    }

    /// Whether the engine answers.
    pub fn answers(&self) -> bool {
        let answer = self.call("GET", "/_ping", "text/plain", b"");
        matches!(answer, Ok((200, _)))
    }

    /// A call that must succeed, and its JSON (null where it is none).
    #[track_caller]
    fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let body = body.map(Value::to_string).unwrap_or_default();
        let answer = self.call(method, path, "application/json", body.as_bytes());
        let (status, body) =
            answer.unwrap_or_else(|error| panic!("{}: {method} {path}: {error}", self.shown()));
        assert!(
            (200..400).contains(&status),
            "{}: {method} {path}: {status} {}",
            self.shown(),
            String::from_utf8_lossy(&body)
        );
        serde_json::from_slice(&body).unwrap_or_default()
    }

    fn shown(&self) -> String {
        self.socket.display().to_string()
    }

    /// `docker import`: an image of one layer, the files of a tar.
    #[track_caller]
    pub fn import(&self, image: &str, tar: &[u8]) {
        let (repository, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
        let path = format!("/images/create?fromSrc=-&repo={repository}&tag={tag}");
        let answer = self.call("POST", &path, "application/x-tar", tar);
        let (status, body) = answer.unwrap_or_else(|error| panic!("docker import: {error}"));
        let said = String::from_utf8_lossy(&body);
        // Errors after the head come in the stream.
        assert!(
            status == 200 && !said.contains("\"error\""),
            "docker import {image}: {said}"
        );
    }

    /// Creates and starts a container.
    #[track_caller]
    pub fn run(&self, container: &Container) {
        self.create(container);
        self.start(&container.name);
    }

    /// Creates a container.
    #[track_caller]
    pub fn create(&self, container: &Container) {
        let mut settings = json!({
            "Image": container.image,
            "Cmd": container.command,
            "Env": container.environment,
            "Labels": container.labels,
            "HostConfig": {
                "Binds": container.binds,
                "NetworkMode": "host",
                "RestartPolicy": {"Name": "always"},
            },
        });
        if let (false, Some(it)) = (container.entrypoint.is_empty(), settings.as_object_mut()) {
            it.insert("Entrypoint".to_owned(), json!(container.entrypoint));
        }
        let path = format!("/containers/create?name={}", container.name);
        self.must("POST", &path, Some(&settings));
    }

    /// Starts a container that is there.
    #[track_caller]
    pub fn start(&self, name: &str) {
        self.must("POST", &format!("/containers/{name}/start"), None);
    }

    /// Stops and starts it, as RKE does with 5 seconds of patience.
    #[track_caller]
    pub fn restart(&self, name: &str) {
        self.must("POST", &format!("/containers/{name}/restart?t=5"), None);
    }

    /// Stops it for good (until it is started).
    #[track_caller]
    pub fn stop(&self, name: &str) {
        self.must("POST", &format!("/containers/{name}/stop?t=5"), None);
    }

    /// Removes it, running or not.
    #[track_caller]
    pub fn remove(&self, name: &str) {
        self.must("DELETE", &format!("/containers/{name}?force=1&v=1"), None);
    }

    /// The names of all containers, stopped ones too, sorted; `None` while the engine is away.
    pub fn names(&self) -> Option<Vec<String>> {
        let path = "/containers/json?all=1";
        let (_, body) = self.call("GET", path, "text/plain", b"").ok()?;
        let all: Value = serde_json::from_slice(&body).ok()?;
        let name = |it: &Value| {
            let name = it.pointer("/Names/0")?.as_str()?;
            Some(name.trim_start_matches('/').to_owned())
        };
        let mut names: Vec<_> = all.as_array()?.iter().filter_map(name).collect();
        names.sort();
        Some(names)
    }

    /// `docker inspect`; `None` while the engine is away or has no such container.
    pub fn inspect(&self, name: &str) -> Option<Value> {
        let path = format!("/containers/{name}/json");
        let (status, body) = self.call("GET", &path, "text/plain", b"").ok()?;
        (status == 200).then(|| serde_json::from_slice(&body).ok())?
    }

    /// All that a container ever said, with Docker's frame heads between; empty while the engine
    /// is away.
    pub fn logs(&self, name: &str) -> Vec<u8> {
        let path = format!("/containers/{name}/logs?stdout=1&stderr=1");
        let answer = self.call("GET", &path, "text/plain", b"");
        answer.map(|(_, body)| body).unwrap_or_default()
    }

    /// When it was started.
    pub fn started(&self, name: &str) -> Option<Start> {
        let it = self.inspect(name)?;
        Some(Start {
            at: it.pointer("/State/StartedAt")?.as_str()?.to_owned(),
            restarts: it.pointer("/RestartCount")?.as_u64()?,
            running: it.pointer("/State/Running")?.as_bool()?,
        })
    }

    /// The process id of the container's first process, as the machine counts; `None` when it
    /// does not run.
    pub fn pid(&self, name: &str) -> Option<u32> {
        let pid = self.inspect(name)?.pointer("/State/Pid")?.as_u64()?;
        u32::try_from(pid).ok().filter(|pid| *pid != 0)
    }

    /// Sends a signal to the container's first process.
    #[track_caller]
    pub fn kill(&self, name: &str, signal: &str) {
        let path = format!("/containers/{name}/kill?signal={signal}");
        self.must("POST", &path, None);
    }
}

/// One HTTP call over a socket: status and body; an error is one of the socket.
pub(super) fn call(
    socket: &Path,
    method: &str,
    path: &str,
    kind: &str,
    body: &[u8],
) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = send(socket, method, path, kind, body)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer
        .windows(4)
        .position(|it| it == b"\r\n\r\n")
        .ok_or_else(|| io::Error::other("an answer without a head"))?;
    let body = answer.split_off(end + 4);
    let head = String::from_utf8_lossy(&answer);
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    Ok((status.unwrap_or_default(), body))
}

/// Sends a request of HTTP 1.0: the end of the answer is the end of the connection.
pub(super) fn send(
    socket: &Path,
    method: &str,
    path: &str,
    kind: &str,
    body: &[u8],
) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    Ok(stream)
}
