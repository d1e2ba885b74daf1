//! `kubepki serve` among faults: a log that is lost, a disk that is full, a datastore that is away,
//! kill -9 in the middle of a renewal; and what it does when it is told to look or to end.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, start the program themselves and spoil files"
)]

mod datastore;
mod files;
mod hung;
mod log;

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use testkit::{Run, run};

const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// A cluster of its own, served or not.
struct Site {
    name: &'static str,
    folder: tempfile::TempDir,
    more: Vec<String>,
    environment: Vec<(String, String)>,
}

/// A server that is killed with the test, and its log lines as they come.
struct Serving {
    child: Child,
    lines: Mutex<Receiver<String>>,
    seen: Vec<String>,
    address: String,
    data_dir: PathBuf,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Site {
    fn new(more: &[&str]) -> Self {
        Self::named("one", more)
    }

    fn named(name: &'static str, more: &[&str]) -> Self {
        Self {
            name,
            folder: tempfile::tempdir().unwrap(),
            more: more.iter().map(|it| (*it).to_owned()).collect(),
            environment: Vec::new(),
        }
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }
    fn command(&self) -> Command {
        let mut command = Command::new(KUBEPKI);
        let own = [
            "127.0.0.1",
            "--node-ip",
            "127.0.0.1",
            "--node-name",
            self.name,
        ];
        command
            .args(["serve", "--bind-address"])
            .args(own)
            .args(["--https-listen-port", "0", "--data-dir"])
            .arg(self.data_dir())
            .args(&self.more)
            .envs(self.environment.iter().cloned())
            .env_remove("K3S_DATASTORE_ENDPOINT")
            .env_remove("K3S_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Starts it and waits until it says `text` with its address.
    fn begin(&self, text: &str) -> Serving {
        let mut serving = Serving::spawn(self);
        serving.listens(text);
        serving
    }

    fn start(&self) -> Serving {
        self.begin("serving")
    }
    fn kubepki(&self, arguments: &[&str]) -> Run {
        let data_dir = self.data_dir().display().to_string();
        let whole = [arguments, &["--data-dir", &data_dir]].concat();
        run(KUBEPKI, &whole, b"")
    }

    /// A request for a certificate, DER.
    fn request(&self) -> PathBuf {
        let [key, request] = ["key.pem", "request.der"].map(|it| self.folder.path().join(it));
        let [key_text, request_text] = [&key, &request].map(|it| it.display().to_string());
        let words = "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x";
        let mut words: Vec<&str> = words.split(' ').collect();
        words.extend([
            "-outform",
            "DER",
            "-keyout",
            &key_text,
            "-out",
            &request_text,
        ]);
        testkit::openssl_ok(&words, b"");
        request
    }
}

impl Serving {
    fn spawn(site: &Site) -> Self {
        let mut child = site.command().spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self {
            child,
            lines: Mutex::new(lines),
            seen: Vec::new(),
            address: String::new(),
            data_dir: site.data_dir(),
        }
    }

    /// Waits for a line with each of `texts` in it, in any order.
    #[track_caller]
    fn until_all(&mut self, texts: &[&str]) {
        let mut waits = texts.to_vec();
        while !waits.is_empty() {
            let line = self.until("");
            waits.retain(|text| !line.contains(text));
        }
    }

    /// Waits for a line with `text` in it.
    #[track_caller]
    fn until(&mut self, text: &str) -> String {
        loop {
            let line = self.lines.get_mut().unwrap().recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no {text:?} in {:#?}", self.seen));
            self.seen.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    fn listens(&mut self, text: &str) {
        let line = self.until(&format!(r#""message":"{text}""#));
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        line["address"]
            .as_str()
            .unwrap()
            .clone_into(&mut self.address);
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(run("kill", &[name, &pid], b"").success());
    }

    fn terminate(mut self) {
        self.signal("-TERM");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }

    /// What curl gets, and the answer's code; 0 where there was none.
    fn curl(&self, path: &str, more: &[&str]) -> (u16, String) {
        let authority = self.data_dir.join("server/tls/server-ca.crt");
        let authority = authority.display().to_string();
        let url = format!("https://{}{path}", self.address);
        let passwd = std::fs::read_to_string(self.data_dir.join("server/cred/passwd")).unwrap();
        let user = format!("node:{}", passwd.split(',').next().unwrap());
        let fixed = [
            "-sS",
            "--cacert",
            &authority,
            "--max-time",
            "60",
            "-u",
            &user,
        ];
        let told = ["-w", "\n%{http_code}", &url];
        let answer = run("curl", &[&fixed[..], more, &told].concat(), b"");
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        let (body, code) = text.rsplit_once('\n').unwrap_or(("", "0"));
        (code.parse().unwrap_or(0), body.to_owned())
    }

    /// Asks for a kubelet's certificate.
    fn ask(&self, request: &Path, node: &str) -> (u16, String) {
        let body = format!("@{}", request.display());
        let name = format!("k3s-Node-Name: {node}");
        let password = "k3s-Node-Password: 0123456789abcdef0123456789abcdef";
        let more = [
            "-H",
            &name,
            "-H",
            password,
            "-H",
            "Content-Type:",
            "--data-binary",
            &body,
        ];
        self.curl("/v1-k3s/client-kubelet.crt", &more)
    }

    /// Asks until the answer has that code.
    #[track_caller]
    fn until_asked(&self, request: &Path, wanted: u16) -> String {
        let begin = Instant::now();
        loop {
            let (code, body) = self.ask(request, "a");
            if code == wanted {
                return body;
            }
            assert!(begin.elapsed() < PATIENCE, "{code}, not {wanted}: {body}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn records(site: &Site) -> usize {
    let exported = site.kubepki(&["log", "export"]);
    assert!(exported.success(), "{}", exported.text());
    exported.stdout.iter().filter(|it| **it == b'\n').count()
}

/// How many records are not the server's own.
fn asked_for(site: &Site) -> usize {
    let exported = site.kubepki(&["log", "export"]).text();
    let asked = |it: &&str| it.starts_with('{') && !it.contains("\"credential\":\"local\"");
    exported.lines().filter(asked).count()
}

/// Leaves that are due at every look: what SIGHUP does, who is told, and that a renewal which is
/// killed is finished by the next start.
#[test]
fn hangup_renews_tells_and_a_killed_renewal_is_finished() {
    let tools = tempfile::tempdir().unwrap();
    let told = tools.path().join("told");
    let program = |name: &str| {
        let path = tools.path().join(name);
        // systemd, where it is asked for a unit.
        let asked = "[ \"$1\" = show ] && echo not-found && exit";
        let text = format!(
            "#!/bin/sh\n{asked}\necho {name} \"$@\" >> {}\n",
            told.display()
        );
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    };
    let hook = program("hook");
    program("systemctl");
    let flags = [
        "--reload-hook",
        &hook,
        "--restart-unit",
        "front.service=admin",
        "--window",
        "400",
    ];
    let mut site = Site::new(&flags);
    let path = format!(
        "{}:{}",
        tools.path().display(),
        std::env::var("PATH").unwrap()
    );
    site.environment = vec![("PATH".to_owned(), path)];
    let mut server = site.start();
    // The first leaves are new too; systemd is asked beside that.
    server.until_all(&[
        "told of renewed leaves\",\"what\":\"systemctl",
        "systemd does not know a unit that is to be restarted\",\"unit\":\"front.service",
    ]);
    std::fs::remove_file(&told).unwrap();
    let authority = server.curl("/cacerts", &[]);
    server.signal("-HUP");
    server.until("a leaf of this node was renewed");
    server.until(r#""message":"told of renewed leaves","what":"systemctl"#);
    let lines = std::fs::read_to_string(&told).unwrap();
    let mut lines = lines.lines();
    assert!(
        lines.any(|it| it.starts_with("hook ") && it.contains(" admin")),
        "{lines:?}"
    );
    assert!(lines.any(|it| it == "systemctl restart front.service"));
    let history = || site.kubepki(&["history"]).text();
    // In the middle of the next one: the step that is told of is not the last.
    for attempt in 0.. {
        server.signal("-HUP");
        server.until("done 2: ");
        server.signal("-KILL");
        let _ = server.child.wait();
        if history().contains("interrupted") {
            break;
        }
        assert!(attempt < 20, "never killed in time: {}", history());
        server = site.start();
    }
    let server = site.start();
    assert!(!history().contains("interrupted"), "{}", history());
    let (code, ready) = server.curl("/v1-k3s/readyz", &[]);
    assert_eq!((code, ready.lines().next()), (200, Some("ok")), "{ready}");
    assert_eq!(server.curl("/cacerts", &[]), authority);
    server.terminate();
}

/// A plan that an operator left half done keeps no server from serving.
#[test]
fn what_somebody_else_left_half_done_is_told_of() {
    let site = Site::new(&[]);
    site.start().terminate();
    // A rotation of all leaves, as an operator's, killed on its way.
    while !site.kubepki(&["history"]).text().contains("interrupted") {
        let mut rotation = Command::new(KUBEPKI)
            .args(["rotate", "--yes", "--data-dir"])
            .arg(site.data_dir())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(rotation.stderr.take().unwrap()).lines();
        let done = lines
            .map_while(Result::ok)
            .find(|it| it.starts_with("done 2: "));
        assert!(done.is_some(), "nothing was rotated");
        rotation.kill().unwrap();
        rotation.wait().unwrap();
    }
    let mut server = site.start();
    let (code, ready) = server.curl("/v1-k3s/readyz", &[]);
    assert_eq!(code, 200, "{ready}");
    assert!(
        ready.contains("warning: plan: ") && ready.contains("kubepki resume"),
        "{ready}"
    );
    let resumed = site.kubepki(&["resume"]);
    assert!(resumed.success(), "{}", resumed.text());
    server.signal("-HUP");
    server.until(r#""message":"in order again","part":"plan""#);
    assert_eq!(server.curl("/v1-k3s/readyz", &[]).1, "ok");
}

/// Told to end while many ask: whatever was written down was answered too.
#[test]
fn answers_in_flight_are_finished() {
    let site = Site::new(&[]);
    let mut server = site.start();
    let request = site.request();
    assert_eq!(server.ask(&request, "a").0, 200);
    let answered = AtomicUsize::new(0);
    let codes: Vec<u16> = std::thread::scope(|scope| {
        let (server, request, answered) = (&server, &request, &answered);
        let clients: Vec<_> = (0..4)
            .map(|number| {
                scope.spawn(move || {
                    let node = format!("n{number}");
                    let mut codes = Vec::new();
                    loop {
                        let (code, body) = server.ask(request, &node);
                        codes.push(code);
                        answered.fetch_add(1, Ordering::SeqCst);
                        if code == 0 {
                            return codes;
                        }
                        assert!(code != 200 || body.contains("END CERTIFICATE"), "{body}");
                    }
                })
            })
            .collect();
        // Some have been answered by then, and some are on their way.
        while answered.load(Ordering::SeqCst) < 8 {
            std::thread::sleep(Duration::from_millis(5));
        }
        server.signal("-TERM");
        clients
            .into_iter()
            .flat_map(|it| it.join().unwrap())
            .collect()
    });
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(
        codes.iter().all(|code| [0, 200].contains(code)),
        "{codes:?}"
    );
    let issued = codes.iter().filter(|code| **code == 200).count();
    assert_eq!(asked_for(&site), issued + 1);
}
