//! etcd, alone or as a cluster.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{PATIENCE, Process};
use crate::Run;

/// How one member presents itself; plain HTTP where nothing is given.
#[derive(Clone, Debug, Default)]
pub struct EtcdMember {
    /// On the client port; with a trust bundle it demands client certificates.
    pub client: Option<TlsFiles>,
    /// Between the members, as server and as client; needs a trust bundle.
    pub peer: Option<TlsFiles>,
}

/// Files of one side of TLS, PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Its certificate, followed by what is served with it.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whom it trusts.
    pub trusted: Option<PathBuf>,
}

/// A running etcd, killed when the value goes.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Running>,
    directory: TempDir,
    /// What `etcdctl` presents and trusts.
    control: Option<TlsFiles>,
}

#[derive(Debug)]
struct Running {
    name: String,
    settings: EtcdMember,
    ports: Ports,
    process: Option<Process>,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    client: u16,
    peer: u16,
    health: u16,
}

impl Etcd {
    /// One member without TLS.
    pub fn plain() -> Self {
        Self::start(&[EtcdMember::default()], None)
    }

    /// One member without TLS that holds what is in a file of `etcdctl snapshot save`.
    pub fn restore(snapshot: &Path) -> Self {
        Self::attempt(&[EtcdMember::default()], None, Some(snapshot))
    }

    /// A cluster of `members`; `control` is what `etcdctl` uses where clients must speak TLS.
    pub fn start(members: &[EtcdMember], control: Option<&TlsFiles>) -> Self {
        Self::attempt(members, control, None)
    }

    /// `https://127.0.0.1:PORT` of member `index`.
    pub fn url(&self, index: usize) -> String {
        let member = self.member(index);
        format!(
            "{}://127.0.0.1:{}",
            scheme(member.settings.client.as_ref()),
            member.ports.client
        )
    }

    /// Every member's URL.
    pub fn urls(&self) -> Vec<String> {
        (0..self.members.len())
            .map(|index| self.url(index))
            .collect()
    }

    /// The database of member `index`.
    pub fn database(&self, index: usize) -> PathBuf {
        self.folder(index).join("data/member/snap/db")
    }

    /// Runs `etcdctl` against all members, and fails the test unless it exits with 0.
    #[track_caller]
    pub fn control(&self, arguments: &[&str]) -> Run {
        let run = self.try_control(arguments);
        assert!(
            run.success(),
            "etcdctl {}: {}",
            arguments.join(" "),
            run.text()
        );
        run
    }

    /// Ends all leases, with what hangs on them: restored ones would at a moment of their own, and
    /// move the revision.
    pub fn revoke_leases(&self) {
        let leases = self.control(&["lease", "list"]).text();
        let is_id = |it: &&str| it.len() > 8 && it.bytes().all(|byte| byte.is_ascii_hexdigit());
        for lease in leases.split_whitespace().filter(is_id) {
            self.control(&["lease", "revoke", lease]);
        }
    }

    /// Runs `etcdctl` against all members.
    pub fn try_control(&self, arguments: &[&str]) -> Run {
        // Its own limits are short for an election or a disk that is busy.
        let limits = ["--command-timeout=60s", "--dial-timeout=30s"];
        let mut all = limits.map(str::to_owned).to_vec();
        all.extend(["--endpoints".to_owned(), self.urls().join(",")]);
        if let Some(files) = &self.control {
            let shown = |path: &Path| path.display().to_string();
            all.extend(["--cert".to_owned(), shown(&files.cert)]);
            all.extend(["--key".to_owned(), shown(&files.key)]);
            if let Some(trusted) = &files.trusted {
                all.extend(["--cacert".to_owned(), shown(trusted)]);
            }
        }
        all.extend(arguments.iter().map(|it| (*it).to_owned()));
        crate::run("etcdctl", &all, b"")
    }

    /// What `etcdctl` uses from now on.
    pub fn set_control(&mut self, files: &TlsFiles) {
        self.control = Some(files.clone());
    }

    /// Kills member `index` at once (SIGKILL).
    pub fn kill(&mut self, index: usize) {
        if let Some(process) = self.member_mut(index).process.take() {
            process.kill();
            process.end_and_keep();
        }
    }

    /// Ends member `index` in order (SIGTERM), so that all that it wrote is in its files.
    pub fn stop(&mut self, index: usize) {
        let Some(process) = self.member_mut(index).process.take() else {
            return;
        };
        if let Some(id) = process.pid() {
            // It may have ended by itself.
            crate::run("kill", &["-TERM", &id.to_string()], b"");
        }
        while process.runs() {
            std::thread::sleep(Duration::from_millis(10));
        }
        process.end_and_keep();
    }

    /// Starts member `index` again and waits until it takes part.
    pub fn resume(&mut self, index: usize) {
        self.launch(index, &self.cluster(), "existing");
        self.await_healthy(index);
    }

    /// Adds a member without TLS that learns and has no vote yet, and answers its number.
    pub fn add_learner(&mut self) -> usize {
        let index = self.members.len();
        let learner = Running::new(index, &EtcdMember::default());
        let (name, url) = (learner.name.clone(), peer_url(&learner));
        self.control(&["member", "add", &name, "--learner", "--peer-urls", &url]);
        self.members.push(learner);
        make(&self.folder(index));
        self.launch(index, &self.cluster(), "existing");
        let (port, since) = (self.member(index).ports.client, Instant::now());
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(since.elapsed() < PATIENCE, "{}", self.log(index));
            std::thread::sleep(Duration::from_millis(50));
        }
        index
    }

    /// Stops member `index` and starts it with other files.
    pub fn restart_with(&mut self, index: usize, settings: EtcdMember) {
        self.stop(index);
        self.member_mut(index).settings = settings;
        self.resume(index);
    }

    /// Stops member `index`, starts it with other files and tells what became of it within
    /// `patience`: the last lines of its log if it does not take part.
    ///
    /// # Errors
    ///
    /// Those lines.
    pub fn try_restart_with(
        &mut self,
        index: usize,
        settings: EtcdMember,
        patience: Duration,
    ) -> Result<(), String> {
        self.stop(index);
        self.member_mut(index).settings = settings;
        self.launch(index, &self.cluster(), "existing");
        self.wait(index, patience)
    }

    /// Whether member `index` answers a question that needs the agreement of most members.
    pub fn is_healthy(&self, index: usize) -> bool {
        healthy(self.member(index).ports.health)
    }

    /// Waits until member `index` takes part, after an election for instance.
    pub fn await_healthy(&self, index: usize) {
        if let Err(problem) = self.wait(index, PATIENCE) {
            panic!("{problem}");
        }
    }

    /// What member `index` has logged since its last start.
    pub fn log(&self, index: usize) -> String {
        fs::read_to_string(self.folder(index).join("log")).unwrap_or_default()
    }

    fn attempt(
        settings: &[EtcdMember],
        control: Option<&TlsFiles>,
        snapshot: Option<&Path>,
    ) -> Self {
        let mut problem = String::new();
        // Somebody else may take a port between our look and etcd's start.
        for _ in 0..5 {
            let directory =
                TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
            let members = settings
                .iter()
                .enumerate()
                .map(|(index, settings)| Running {
                    name: format!("m{index}"),
                    settings: settings.clone(),
                    ports: Ports {
                        client: super::free_port(),
                        peer: super::free_port(),
                        health: super::free_port(),
                    },
                    process: None,
                });
            let mut etcd = Self {
                members: members.collect(),
                directory,
                control: control.cloned(),
            };
            let cluster = etcd.cluster();
            for index in 0..settings.len() {
                make(&etcd.folder(index));
            }
            if let Some(snapshot) = snapshot {
                etcd.fill(snapshot, &cluster);
            }
            for index in 0..settings.len() {
                etcd.launch(index, &cluster, "new");
            }
            let waited = (0..settings.len()).try_for_each(|index| etcd.wait(index, PATIENCE));
            match waited {
                Ok(()) => return etcd,
                Err(error) if error.contains("address already in use") => problem = error,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("no free ports for etcd: {problem}");
    }

    fn fill(&self, snapshot: &Path, cluster: &str) {
        let member = self.member(0);
        let arguments = [
            "snapshot".to_owned(),
            "restore".to_owned(),
            snapshot.display().to_string(),
            "--data-dir".to_owned(),
            self.folder(0).join("data").display().to_string(),
            "--name".to_owned(),
            member.name.clone(),
            "--initial-cluster".to_owned(),
            cluster.to_owned(),
            "--initial-advertise-peer-urls".to_owned(),
            peer_url(member),
        ];
        let run = crate::run("etcdctl", &arguments, b"");
        assert!(run.success(), "etcdctl snapshot restore: {}", run.text());
    }

    fn cluster(&self) -> String {
        let members: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("{}={}", member.name, peer_url(member)))
            .collect();
        members.join(",")
    }

    fn launch(&mut self, index: usize, cluster: &str, state: &str) {
        let folder = self.folder(index);
        let url = self.url(index);
        // A busy machine must not look like a dead leader; one alone has nobody to miss.
        let (heartbeat, election) = match self.members.len() {
            1 => ("20", "200"),
            _ => ("250", "2500"),
        };
        let member = self.member_mut(index);
        let peer = peer_url(member);
        let health = format!("http://127.0.0.1:{}", member.ports.health);
        let mut arguments = Arguments::default();
        arguments.path("--data-dir", &folder.join("data"));
        let texts = [
            ("--name", member.name.as_str()),
            ("--logger", "zap"),
            ("--heartbeat-interval", heartbeat),
            ("--election-timeout", election),
            ("--listen-client-urls", &url),
            ("--advertise-client-urls", &url),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", cluster),
            ("--initial-cluster-state", state),
            ("--listen-metrics-urls", &health),
        ];
        for (flag, value) in texts {
            arguments.text(flag, value);
        }
        if let Some(files) = &member.settings.client {
            arguments.tls(files, ["--cert-file", "--key-file"]);
            if let Some(trusted) = &files.trusted {
                arguments.path("--trusted-ca-file", trusted);
                arguments.0.push("--client-cert-auth".into());
            }
        }
        if let Some(files) = &member.settings.peer {
            arguments.tls(files, ["--peer-cert-file", "--peer-key-file"]);
            if let Some(trusted) = &files.trusted {
                arguments.path("--peer-trusted-ca-file", trusted);
                arguments.0.push("--peer-client-cert-auth".into());
            }
        }
        member.process = Some(Process::spawn("etcd", &arguments.0, &folder, None));
    }

    fn wait(&self, index: usize, patience: Duration) -> Result<(), String> {
        let since = Instant::now();
        let problem = loop {
            if healthy(self.member(index).ports.health) {
                return Ok(());
            }
            let process = self.member(index).process.as_ref();
            if !process.is_some_and(Process::runs) {
                break "ended";
            }
            if since.elapsed() > patience {
                break "does not take part";
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let log = self.log(index);
        let lines: Vec<&str> = log.lines().collect();
        let last = lines
            .iter()
            .rev()
            .take(20)
            .rev()
            .copied()
            .collect::<Vec<_>>();
        Err(format!(
            "etcd member {index} {problem}:\n{}",
            last.join("\n")
        ))
    }

    fn folder(&self, index: usize) -> PathBuf {
        self.directory.path().join(&self.member(index).name)
    }

    fn member(&self, index: usize) -> &Running {
        self.members
            .get(index)
            .unwrap_or_else(|| panic!("there is no member {index}"))
    }

    fn member_mut(&mut self, index: usize) -> &mut Running {
        self.members
            .get_mut(index)
            .unwrap_or_else(|| panic!("there is no member {index}"))
    }
}

impl Running {
    fn new(index: usize, settings: &EtcdMember) -> Self {
        Self {
            name: format!("m{index}"),
            settings: settings.clone(),
            ports: Ports {
                client: super::free_port(),
                peer: super::free_port(),
                health: super::free_port(),
            },
            process: None,
        }
    }
}

fn make(folder: &Path) {
    fs::create_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
}

fn scheme(files: Option<&TlsFiles>) -> &'static str {
    if files.is_some() { "https" } else { "http" }
}

fn peer_url(member: &Running) -> String {
    let scheme = scheme(member.settings.peer.as_ref());
    format!("{scheme}://127.0.0.1:{}", member.ports.peer)
}

/// Asks `/health`, which etcd answers only after a read that most members agreed to.
fn healthy(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("\"health\":\"true\""))
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn text(&mut self, flag: &str, value: &str) {
        self.0.extend([flag.into(), value.into()]);
    }

    fn path(&mut self, flag: &str, value: &Path) {
        self.0.extend([flag.into(), value.into()]);
    }

    fn tls(&mut self, files: &TlsFiles, [cert, key]: [&str; 2]) {
        self.path(cert, &files.cert);
        self.path(key, &files.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_stops_and_keeps_what_was_written() {
        let mut etcd = Etcd::plain();
        etcd.control(&["put", "/a", "one"]);
        etcd.stop(0);
        assert!(!etcd.is_healthy(0));
        etcd.resume(0);
        assert!(etcd.control(&["get", "/a"]).text().contains("one"));
        let database = etcd.database(0);
        assert!(database.is_file());
        drop(etcd);
        assert!(!database.exists());
    }
}
