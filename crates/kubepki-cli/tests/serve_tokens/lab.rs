//! Servers with tokens, and nodes that join with them.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use testkit::kube::KubeSecret;
use testkit::{Fixture, Run};

pub const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");

/// `kubepki serve` on a fixture's tree, killed when dropped.
pub struct Serve {
    child: Child,
    pub fixture: Fixture,
    endpoint: Option<String>,
    pub url: String,
    pub said: Arc<Mutex<String>>,
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serve {
    pub fn start(fixture: Fixture, name: &str, endpoint: Option<&str>) -> Self {
        let mut command = Command::new(KUBEPKI);
        command
            .args(["serve", "--https-listen-port", "0", "--node-name", name])
            .args(["--bind-address", "127.0.0.1", "--node-ip", "127.0.0.1"])
            .arg("--data-dir")
            .arg(fixture.data_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if let Some(endpoint) = endpoint {
            command.args(["--datastore-endpoint", endpoint]);
        }
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut before = String::new();
        let address = loop {
            let Some(Ok(line)) = lines.next() else {
                panic!("it does not serve: {before}");
            };
            let value: Value = serde_json::from_str(&line).unwrap_or_default();
            if value["message"] == "serving" {
                break value["address"].as_str().unwrap().to_owned();
            }
            before.push_str(&line);
        };
        let said = Arc::new(Mutex::new(before));
        let hears = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                hears.lock().unwrap().push_str(&line);
            }
        });
        Self {
            child,
            fixture,
            endpoint: endpoint.map(str::to_owned),
            url: format!("https://{address}"),
            said,
        }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.fixture.data_dir()
    }

    /// `kubepki token …` on this server.
    pub fn token(&self, words: &[&str]) -> Run {
        self.token_with(words, b"")
    }

    pub fn token_with(&self, words: &[&str], stdin: &[u8]) -> Run {
        let own = self.data_dir().display().to_string();
        let mut all = [&["token"], words, &["--data-dir", &own]].concat();
        if let Some(endpoint) = &self.endpoint {
            all.extend(["--datastore-endpoint", endpoint]);
        }
        testkit::run(KUBEPKI, &all, stdin)
    }

    /// A new token's text and id.
    #[track_caller]
    pub fn create(&self, words: &[&str]) -> (String, String) {
        let run = self.token(&[&["create", "-o", "json"], words].concat());
        assert!(run.success(), "{}", run.text());
        let made: Value = serde_json::from_slice(&run.stdout).unwrap();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        (text("token"), text("id"))
    }

    /// The list's entry of a token.
    pub fn listed(&self, id: &str) -> Value {
        let run = self.token(&["list", "-o", "json"]);
        let all: Value = serde_json::from_slice(&run.stdout).unwrap();
        let all = all.as_array().unwrap();
        all.iter().find(|it| it["id"] == id).unwrap().clone()
    }
}

/// A node joins at that server.
pub fn join(url: &str, folder: &Path, token: &str, node: &str, more: &[&str]) -> Run {
    let own = folder.join(node).display().to_string();
    let words = [
        "join",
        "--token-file",
        "-",
        "--node-name",
        node,
        "--node-ip",
        "10.9.8.1",
        "--yes",
        "--data-dir",
        &own,
        "--server",
        url,
    ];
    testkit::run(KUBEPKI, &[&words[..], more].concat(), token.as_bytes())
}

#[track_caller]
pub fn assert_ends(run: &Run, code: i32, word: &str) {
    let text = run.text();
    assert_eq!(run.code, Some(code), "{text}");
    assert!(text.contains(word), "{word}: {text}");
}

pub fn secret_of(token: &str) -> &str {
    token.rsplit('.').next().unwrap()
}

/// A whole token of that server's CA with that id and secret.
pub fn full(serve: &Serve, credential: &str) -> String {
    let path = serve.data_dir().join("server/token");
    let token = std::fs::read_to_string(path).unwrap();
    let (authority, _) = token.split_once("::").unwrap();
    format!("{authority}::{credential}")
}

/// What kine writes for a new key; `bytes` writes octets as the database's SQL has them.
pub fn kine_insert(secret: &KubeSecret, value: &[u8], bytes: impl Fn(&[u8]) -> String) -> String {
    let (key, value, none) = (secret.key(), bytes(value), bytes(b""));
    format!(
        "insert into kine(name, created, deleted, create_revision, prev_revision, lease, value, \
         old_value) values ('{key}', 1, 0, 0, 0, 0, {value}, {none})"
    )
}

/// What it writes for one that goes.
pub fn kine_delete(secret: &KubeSecret, bytes: impl Fn(&[u8]) -> String) -> String {
    let (key, none) = (secret.key(), bytes(b""));
    format!(
        "insert into kine(name, created, deleted, create_revision, prev_revision, lease, value, \
         old_value) select '{key}', 0, 1, max(id), max(id), 0, {none}, {none} from kine where name \
         = '{key}'"
    )
}

/// A statement by the sqlite3 program, beside the server.
pub fn sqlite(file: &Path, statement: &str) {
    let statement = format!(".timeout 20000\n{statement};\n");
    let run = testkit::run("sqlite3", &[file], statement.as_bytes());
    assert!(run.success() && run.stderr.is_empty(), "{}", run.text());
}
