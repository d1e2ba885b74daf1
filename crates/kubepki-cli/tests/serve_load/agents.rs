//! Agents under `agents.go`, what they were given, and the logs that must know of it.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use pki::Certificate;
use serde_json::{Value, json};

use crate::server::{kubepki, until};

/// Bundles of one CA by name, PEM.
pub type Bundles<'a> = &'a [(&'a str, &'a str)];

/// Agents that ask for certificates until they are stopped.
pub struct Agents {
    child: Child,
    input: Option<ChildStdin>,
    events: Arc<Mutex<Vec<Value>>>,
    reader: Option<JoinHandle<()>>,
}

impl Drop for Agents {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate as an agent got it.
#[derive(Clone, Debug)]
pub struct Got {
    pub agent: u64,
    pub server: usize,
    pub path: String,
    pub by: String,
    pub leaf: Certificate,
    /// Under which bundles its chain is not good.
    pub untrusted: BTreeSet<String>,
}

impl Agents {
    /// `count` agents with the agent token of `data_dir`, which trust servers by `roots` and hold
    /// what they get to the bundles.
    pub fn start(
        data_dir: &Path,
        count: usize,
        ports: &[u16],
        roots: &str,
        (client, server): (Bundles<'_>, Bundles<'_>),
    ) -> Self {
        let passwd = std::fs::read_to_string(data_dir.join("server/cred/passwd")).unwrap();
        let password = passwd.lines().find_map(|line| {
            let mut fields = line.split(',');
            let password = fields.next()?;
            (fields.next()? == "node").then_some(password)
        });
        let named = |bundles: Bundles<'_>| -> serde_json::Map<String, Value> {
            let all = bundles.iter();
            all.map(|(name, text)| ((*name).to_owned(), json!(text)))
                .collect()
        };
        let servers: Vec<String> = ports.iter().map(|it| format!("127.0.0.1:{it}")).collect();
        let config = json!({
            "Servers": servers,
            "Roots": roots,
            "User": "node",
            "Password": password.unwrap(),
            "Agents": count,
            "Client": named(client),
            "Server": named(server),
        });
        let program = testkit::go_program(include_str!("agents.go"));
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        writeln!(input, "{config}").unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let events = Arc::<Mutex<Vec<Value>>>::default();
        let heard = Arc::clone(&events);
        let reader = std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap();
                heard.lock().unwrap().push(event);
            }
        });
        Self {
            child,
            input: Some(input),
            events,
            reader: Some(reader),
        }
    }

    /// How much has happened so far.
    pub fn seen(&self) -> usize {
        self.events.lock().unwrap().len()
    }

    /// Waits until `enough` of what happened from event number `from` on.
    #[track_caller]
    pub fn until(&self, what: &str, from: usize, enough: impl Fn(&[Got]) -> bool) {
        until(what, || {
            let events = self.events.lock().unwrap();
            enough(&got(&events[from..]))
        });
    }

    /// Waits until each of `count` agents has got `more` certificates from now on.
    #[track_caller]
    pub fn rounds(&self, count: u64, more: usize) {
        let from = self.seen();
        self.until("every agent goes on", from, |got| {
            let of = |agent| got.iter().filter(|it| it.agent == agent).count();
            (0..count).all(|agent| of(agent) >= more)
        });
    }

    /// What they got from event number `from` on.
    pub fn got(&self, from: usize) -> Vec<Got> {
        got(&self.events.lock().unwrap()[from..])
    }

    /// Stops them; everything that happened.
    pub fn stop(mut self) -> Happened {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success());
        self.reader.take().unwrap().join().unwrap();
        let events = self.events.lock().unwrap();
        let of = |kind: &str| -> Vec<String> {
            let all = events.iter().filter(|it| it["kind"] == kind);
            all.map(ToString::to_string).collect()
        };
        Happened {
            got: got(&events),
            retried: of("retry"),
            lost: of("lost"),
        }
    }
}

fn got(events: &[Value]) -> Vec<Got> {
    let all = events.iter().filter(|event| event["kind"] == "got");
    let read = |event: &Value| {
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let der = pki::unhex(&text("leaf"));
        let untrusted = event["untrusted"].as_array().into_iter().flatten();
        Got {
            agent: event["agent"].as_u64().unwrap(),
            server: usize::try_from(event["server"].as_u64().unwrap()).unwrap(),
            path: text("path"),
            by: text("by"),
            leaf: Certificate::from_der(&der.unwrap()).unwrap(),
            untrusted: untrusted
                .map(|it| it.as_str().unwrap().to_owned())
                .collect(),
        }
    };
    all.map(read).collect()
}

/// What became of the agents' requests.
#[derive(Debug)]
pub struct Happened {
    pub got: Vec<Got>,
    pub retried: Vec<String>,
    pub lost: Vec<String>,
}

impl Happened {
    /// Every request was answered, in the end, with what holds under both bundles.
    pub fn assert_nothing_lost(&self) {
        assert_eq!(self.lost, [""; 0]);
        assert!(self.got.iter().all(|it| it.untrusted.is_empty()));
    }

    /// The log of each server is whole, and knows every certificate that an agent got.
    #[track_caller]
    pub fn assert_recorded(&self, servers: &[(&Path, &[&str])]) {
        let mut recorded = BTreeSet::new();
        for (data_dir, endpoint) in servers {
            kubepki(data_dir, &[&["log", "verify"], *endpoint].concat(), 0);
            let export = kubepki(data_dir, &["log", "export"], 0);
            for line in String::from_utf8(export.stdout).unwrap().lines() {
                let record: Value = serde_json::from_str(line).unwrap();
                recorded.insert(record["serial"].as_str().unwrap().to_owned());
            }
        }
        let missing: Vec<_> = self
            .got
            .iter()
            .filter(|it| !recorded.contains(&it.leaf.serial().to_string()))
            .collect();
        assert!(
            missing.is_empty(),
            "{} not recorded: {:?}",
            missing.len(),
            missing.first()
        );
    }
}
