//! Servers, and what asks them.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use testkit::{Run, run};

pub const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");

/// For what takes a second or two on an idle machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A `kubepki serve`, killed with the test.
pub struct Serving {
    child: Child,
    lines: Receiver<String>,
    pub seen: Vec<String>,
    pub data_dir: PathBuf,
    pub address: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serving {
    /// Starts one that answers on loopback and says that it has `address`.
    pub fn begin(
        data_dir: &Path,
        (name, address): (&str, &str),
        endpoint: &str,
        more: &[&str],
    ) -> Self {
        Self::begin_with(data_dir, (name, address), endpoint, (more, &[]))
    }

    /// The same with an environment; an empty endpoint is none.
    pub fn begin_with(
        data_dir: &Path,
        (name, address): (&str, &str),
        endpoint: &str,
        (more, environment): (&[&str], &[(&str, &str)]),
    ) -> Self {
        let port = "--https-listen-port";
        let any_port = [port, "0"].into_iter().filter(|_| !more.contains(&port));
        let named = (!endpoint.is_empty()).then_some(("K3S_DATASTORE_ENDPOINT", endpoint));
        let mut command = Command::new(KUBEPKI);
        command
            .env_remove("K3S_DATASTORE_ENDPOINT")
            .envs(named)
            .envs(environment.iter().copied())
            .args(["serve", "--bind-address", "127.0.0.1"])
            .args(any_port)
            .args(["--node-name", name])
            .args(["--node-ip", address, "--data-dir"])
            .arg(data_dir)
            .args(more);
        Self::spawn(command, data_dir)
    }

    /// One alone, at every address of a network that `wire` sets up for it.
    pub fn on(wire: &str, data_dir: &Path, (name, address): (&str, &str)) -> Self {
        let script = format!("{wire} && exec \"$@\"");
        let mut command = Command::new("unshare");
        command
            .args(["-n", "sh", "-c", &script, "sh", KUBEPKI, "serve"])
            .args(["--https-listen-port", "0", "--node-name", name])
            .args(["--node-ip", address, "--data-dir"])
            .arg(data_dir);
        Self::spawn(command, data_dir).up()
    }

    fn spawn(mut command: Command, data_dir: &Path) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { break };
                let _ = sender.send(line);
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
            data_dir: data_dir.to_owned(),
            address: String::new(),
        }
    }

    /// Waits until it listens.
    pub fn up(mut self) -> Self {
        let line = self.until(r#""message":"serving""#);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        self.address = line["address"].as_str().unwrap().to_owned();
        self
    }

    pub fn start(data_dir: &Path, who: (&str, &str), endpoint: &str, more: &[&str]) -> Self {
        Self::begin(data_dir, who, endpoint, more).up()
    }

    /// Waits for a line with `text` in it.
    pub fn until(&mut self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no {text:?} in {:#?}", self.seen));
            self.seen.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Whether it has died by now.
    pub fn is_dead(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Kills it, and waits for its end.
    pub fn kill(&mut self) {
        self.signal("-KILL");
        assert!(!self.child.wait().unwrap().success());
    }

    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }

    pub fn server(&self, below: &str) -> PathBuf {
        self.data_dir.join("server").join(below)
    }

    pub fn read(&self, below: &str) -> String {
        std::fs::read_to_string(self.server(below)).unwrap()
    }

    pub fn password(&self) -> String {
        let token = self.read("token");
        token.trim().rsplit(':').next().unwrap().to_owned()
    }

    /// Code and body of an answer, by one that trusts its present CA.
    pub fn ask(&self, path: &str, more: &[&str]) -> (String, String) {
        self.ask_with(&self.server("tls/server-ca.crt"), path, more)
    }

    /// The same by one that trusts `authority`.
    pub fn ask_with(&self, authority: &Path, path: &str, more: &[&str]) -> (String, String) {
        let answer = self.try_ask(authority, path, more);
        answer.unwrap_or_else(|why| panic!("{path}: {why}"))
    }

    /// The same of one that may be dead.
    pub fn try_ask(
        &self,
        authority: &Path,
        path: &str,
        more: &[&str],
    ) -> Result<(String, String), String> {
        let url = format!("https://{}{path}", self.address);
        let authority = authority.display().to_string();
        let fixed = ["-sS", "--cacert", &authority, "--max-time", "60", &url];
        let code = ["-w", "\n%{http_code}"];
        let answer = run("curl", &[&fixed[..], &code, more].concat(), b"");
        if !answer.success() {
            return Err(answer.text());
        }
        let text = String::from_utf8(answer.stdout).unwrap();
        let (body, code) = text.rsplit_once('\n').unwrap();
        Ok((code.to_owned(), body.to_owned()))
    }

    /// The same as agent or server.
    pub fn ask_as(&self, user: &str, path: &str, more: &[&str]) -> (String, String) {
        let user = format!("{user}:{}", self.password());
        self.ask(path, &[&["-u", &user], more].concat())
    }

    /// Asks until the answer is as wanted.
    pub fn await_answer(&self, path: &str, wanted: impl Fn(&str, &str) -> bool) {
        let mut last = (String::new(), String::new());
        for _ in 0..900 {
            last = self.ask_as("node", path, &[]);
            if wanted(&last.0, &last.1) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{path}: {last:?}");
    }

    /// A node that joins here, or renews.
    pub fn node(&self, words: &[&str], folder: &Path, address: &str) -> Run {
        let (folder, token) = (folder.display().to_string(), self.read("token"));
        let url = format!("https://{}", self.address);
        let fixed = [
            "--yes",
            "--patience",
            "0",
            "--data-dir",
            &folder,
            "--server",
            &url,
        ];
        let name = Path::new(&folder).file_name().unwrap().to_str().unwrap();
        let join = [
            "--token-file",
            "-",
            "--node-name",
            name,
            "--node-ip",
            address,
        ];
        let join = if words == ["join"] { &join[..] } else { &[] };
        run(
            KUBEPKI,
            &[words, &fixed[..], join].concat(),
            token.as_bytes(),
        )
    }

    /// A command of ours on its data directory.
    pub fn kubepki(&self, words: &[&str]) -> Run {
        let data_dir = self.data_dir.display().to_string();
        run(KUBEPKI, &[words, &["--data-dir", &data_dir]].concat(), b"")
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid();
        assert!(run("kill", &[name, &pid], b"").success());
    }

    /// Stages a cross-signed set in `folder`; answers where it lies.
    pub fn stage(&self, folder: &Path) -> String {
        let [set, away] = ["set", "offline"].map(|it| folder.join(it).display().to_string());
        let stage = ["ca", "stage", "--cross-signed", "--out", &set];
        let staged = self.kubepki(&[&stage[..], &["--offline", &away]].concat());
        assert_ends(&staged, 0, "");
        set
    }

    /// Ends it in good order.
    pub fn stop(mut self) {
        let pid = self.pid();
        assert!(run("kill", &["-TERM", &pid], b"").success());
        assert!(self.child.wait().unwrap().success());
    }
}

#[track_caller]
pub fn assert_ends(run: &Run, code: i32, says: &str) {
    assert_eq!(run.code, Some(code), "{}", run.text());
    assert!(run.text().contains(says), "{}", run.text());
}
