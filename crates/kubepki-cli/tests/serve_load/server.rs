//! `kubepki serve` as a process: what it says, and how it is ended.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use testkit::{Run, run};

pub const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");

/// How long anything may take; machines that test are busy.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `what` holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A server, killed when dropped.
pub struct Serving {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    pub port: u16,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serving {
    /// Starts one on loopback and waits until it serves. Port 0 is any that is free.
    #[track_caller]
    pub fn start(data_dir: &Path, port: u16, more: &[&str]) -> Self {
        let mut child = Command::new(KUBEPKI)
            .args(["serve", "--bind-address", "127.0.0.1"])
            .args(["--node-ip", "127.0.0.1", "--https-listen-port"])
            .arg(port.to_string())
            .arg("--data-dir")
            .arg(data_dir)
            .args(more)
            .env_remove("K3S_DATASTORE_ENDPOINT")
            .env_remove("K3S_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&lines);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                heard.lock().unwrap().push(line);
            }
        });
        let mut serving = Self {
            child,
            lines,
            port: 0,
        };
        let line = serving.hears(r#""message":"serving""#, 0);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = line["address"].as_str().unwrap();
        serving.port = address.rsplit(':').next().unwrap().parse().unwrap();
        serving
    }

    /// Every line but those about single requests.
    pub fn news(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap();
        let lines = lines.iter().filter(|line| !line.contains(r#""peer":"#));
        lines.cloned().collect()
    }

    /// Waits for a line with `text` in it, from line number `from` on.
    #[track_caller]
    pub fn hears(&mut self, text: &str, from: usize) -> String {
        let begin = Instant::now();
        loop {
            let lines = self.lines.lock().unwrap();
            let found = lines.iter().skip(from).find(|line| line.contains(text));
            if let Some(line) = found {
                return line.clone();
            }
            drop(lines);
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && begin.elapsed() < PATIENCE,
                "no {text:?} ({ended:?}): {:#?}",
                self.news()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(run("kill", &[name, &pid], b"").success());
    }

    /// Has it look at its files at once.
    pub fn hang_up(&self) {
        self.signal("-HUP");
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What curl gets from it, trusting `bundle`: status and body.
    pub fn curl(&self, bundle: &Path, path: &str) -> (String, String) {
        self.curl_as("", bundle, path)
    }

    /// The same with `user:password`.
    pub fn curl_as(&self, user: &str, bundle: &Path, path: &str) -> (String, String) {
        let (bundle, port) = (bundle.display().to_string(), self.port);
        let url = format!("https://127.0.0.1:{port}{path}");
        let words = ["-sS", "--max-time", "30", "--cacert", &bundle];
        let more = ["-w", "\n%{http_code}", &url];
        let named = ["-u", user];
        let named = if user.is_empty() { &[] } else { &named[..] };
        let run = run("curl", &[&words[..], &more, named].concat(), b"");
        assert!(run.success(), "{path}: {}", run.text());
        let text = String::from_utf8(run.stdout).unwrap();
        let (body, code) = text.rsplit_once('\n').unwrap();
        (code.to_owned(), body.to_owned())
    }

    /// Asks it to end, which it must do well.
    pub fn stop(mut self) {
        self.signal("-TERM");
        let ended = self.child.wait().unwrap();
        assert_eq!(ended.code(), Some(0), "{:#?}", self.news());
    }
}

/// `kubepki ARGS --data-dir DIR`, which must end with `code`.
#[track_caller]
pub fn kubepki(data_dir: &Path, args: &[&str], code: i32) -> Run {
    let own = data_dir.display().to_string();
    let mut words = vec!["-u", "K3S_TOKEN", "-u", "K3S_DATASTORE_ENDPOINT"];
    let syslog = format!("KUBEPKI_SYSLOG={own}/syslog");
    words.extend([syslog.as_str(), KUBEPKI]);
    words.extend(args);
    words.extend(["--data-dir", &own]);
    let run = run("env", &words, b"");
    assert_eq!(run.code, Some(code), "kubepki {args:?}: {}", run.text());
    run
}
