//! `kubepki join` and `kubepki node renew` against a server that answers by K3s's contract: what a
//! node ends up with is what K3s's own agent has.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking and spoil files"
)]

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kubepki::edge::{Clock as _, SystemClock};
use kubepki::token::{Token, authority_hash};
use pki::{
    Authority, Certificate, CertificateRequest, DAY, KeyAlgorithm, LeafRequest, PrivateKey,
    Purpose, San, Serial, Validity,
};
use testkit::supervisor::{AgentCall, Agents, Cluster, Supervisor};
use testkit::{Fixture, Run};

const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");
const PASSWORD: &str = "fixture-token-0123456789abcdef";

/// What a server signs with, and what it was asked.
struct Signer {
    client: Authority,
    client_text: Vec<u8>,
    server: Authority,
    server_text: Vec<u8>,
    passwords: Mutex<BTreeMap<String, String>>,
    calls: Mutex<Vec<AgentCall>>,
    /// Serves what an old K3s, or a server that lies, would.
    wrong: Option<Wrong>,
}

#[derive(Clone, Copy)]
enum Wrong {
    SendsKey,
    OtherKey,
    OtherName,
}

fn authority(tls: &Path, name: &str) -> (Authority, Vec<u8>) {
    let text = std::fs::read(tls.join(format!("{name}.crt"))).unwrap();
    let key = std::fs::read(tls.join(format!("{name}.key"))).unwrap();
    let ca = Certificate::all_from_pem(&text).unwrap().remove(0);
    let key = PrivateKey::from_pem(&key).unwrap();
    (Authority::new(ca, key).unwrap(), text)
}

fn leaf(
    authority: &Authority,
    subject: (&[&str], &str),
    sans: &[San],
    purpose: Purpose,
    spki_der: &[u8],
) -> Certificate {
    let organizations: Vec<String> = subject.0.iter().map(|&o| o.to_owned()).collect();
    let request = LeafRequest {
        organizations: &organizations,
        common_name: subject.1,
        sans,
        purposes: &[purpose],
        spki_der,
        serial: Serial::random(pki::random).unwrap(),
        validity: Validity {
            not_before: authority.certificate().validity().not_before,
            not_after: SystemClock.now().plus(365 * DAY),
        },
    };
    authority.issue(&request).unwrap()
}

impl Signer {
    fn answer(&self, call: &AgentCall) -> (u16, Vec<u8>) {
        self.calls.lock().unwrap().push(call.clone());
        let header = |name: &str| call.headers.get(name).cloned().unwrap_or_default();
        let stem = call.path.trim_start_matches("/v1-k3s/");
        match stem {
            "client-ca.crt" => return (200, self.client_text.clone()),
            "server-ca.crt" => return (200, self.server_text.clone()),
            _ => {}
        }
        let csr = CertificateRequest::from_der(&call.body).unwrap();
        assert!(csr.subject().is_empty() && csr.sans().is_empty());
        assert_eq!(call.method, "POST");
        assert_eq!(call.headers.get("content-type"), None);
        let node = header("k3s-node-name");
        let mut passwords = self.passwords.lock().unwrap();
        let known = passwords.entry(node.clone());
        let known = known.or_insert_with(|| header("k3s-node-password"));
        if *known != header("k3s-node-password") || known.len() != 32 {
            let said = b"{\"kind\":\"Status\",\"message\":\"unable to verify password\"}";
            return (403, said.to_vec());
        }
        drop(passwords);
        let own = format!("system:node:{node}");
        let groups = ["system:nodes"];
        let (authority, text, subject): (_, _, (&[&str], &str)) = match stem {
            "serving-kubelet.crt" => (&self.server, &self.server_text, (&[], &node)),
            "client-kubelet.crt" => (&self.client, &self.client_text, (&groups, &own)),
            "client-kube-proxy.crt" => {
                (&self.client, &self.client_text, (&[], "system:kube-proxy"))
            }
            "client-k3s-controller.crt" => (
                &self.client,
                &self.client_text,
                (&[], "system:k3s-controller"),
            ),
            other => panic!("{other}"),
        };
        let subject = match self.wrong {
            Some(Wrong::OtherName) => (subject.0, "somebody"),
            _ => subject,
        };
        let (sans, purpose) = match stem.starts_with("serving") {
            false => (Vec::new(), Purpose::ClientAuth),
            true => {
                let addresses = header("k3s-node-ip");
                let names = [node.as_str(), "localhost", "127.0.0.1", "::1"];
                let names = names.into_iter().chain(addresses.split(','));
                (names.map(San::from_text).collect(), Purpose::ServerAuth)
            }
        };
        let other = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let spki = match self.wrong {
            Some(Wrong::OtherKey | Wrong::SendsKey) => other.spki_der(),
            _ => csr.spki_der(),
        };
        let issued = leaf(authority, subject, &sans, purpose, spki);
        let mut body = [issued.to_pem().as_bytes(), text].concat();
        if let Some(Wrong::SendsKey) = self.wrong {
            body.extend_from_slice(other.to_pem().unwrap().as_bytes());
        }
        (200, body)
    }
}

struct Lab {
    server: Supervisor,
    signer: Arc<Signer>,
    folder: tempfile::TempDir,
    token: String,
}

impl Lab {
    fn new() -> Self {
        Self::with(None)
    }

    fn with(wrong: Option<Wrong>) -> Self {
        let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
        let tls = fixture.data_dir().join("server/tls");
        let ((client, client_text), (server, server_text)) =
            (authority(&tls, "client-ca"), authority(&tls, "server-ca"));
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let sans = [San::from_text("127.0.0.1")];
        let subject: (&[&str], &str) = (&["k3s"], "k3s");
        let listener = leaf(&server, subject, &sans, Purpose::ServerAuth, key.spki_der());
        let cluster = Cluster {
            chain: [listener.to_pem().as_bytes(), &server_text].concat(),
            key: key.to_pem().unwrap().as_bytes().to_vec(),
            cacerts: server_text.clone(),
            password: PASSWORD.to_owned(),
            agent_password: PASSWORD.to_owned(),
            kubernetes: BTreeMap::new(),
        };
        let hash = authority_hash(&server_text, SystemClock.now()).unwrap();
        let token = Token::new(hash, "server", PASSWORD.to_owned().into());
        let signer = Arc::new(Signer {
            client,
            client_text: client_text.clone(),
            server,
            server_text,
            passwords: Mutex::default(),
            calls: Mutex::default(),
            wrong,
        });
        let answering = signer.clone();
        let agents = Agents {
            client_ca: client_text,
            answer: Box::new(move |call| answering.answer(call)),
        };
        Self {
            server: Supervisor::start_with_agents(cluster, agents),
            signer,
            folder: tempfile::tempdir().unwrap(),
            token: token.to_text().to_string(),
        }
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn agent(&self, name: &str) -> PathBuf {
        self.data_dir().join("agent").join(name)
    }

    fn run(&self, words: &[&str], input: &str) -> Run {
        let data_dir = self.data_dir().display().to_string();
        let mut words = words.to_vec();
        words.extend(["--data-dir", &data_dir, "--yes"]);
        let run = testkit::run(KUBEPKI, &words, input.as_bytes());
        for secret in [PASSWORD.to_owned(), self.password()] {
            assert!(secret.is_empty() || !run.text().contains(&secret));
        }
        run
    }

    fn join_as(&self, token: &str, more: &[&str]) -> Run {
        let url = self.server.url();
        let mut words = vec!["join", "--token-file", "-", "--server", &url];
        words.extend(more);
        self.run(&words, token)
    }

    fn join(&self, more: &[&str]) -> Run {
        let named = [
            "--node-name",
            "K3s-Fixture",
            "--node-ip",
            "10.9.8.7,fd00::7",
        ];
        self.join_as(&self.token, &[&named, more].concat())
    }

    fn password(&self) -> String {
        let file = self.agent("etc/rancher/node/password");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.trim().to_owned()
    }

    /// Bytes, inode and mode of everything in agent/.
    fn state(&self) -> BTreeMap<String, (Vec<u8>, u64, u32)> {
        let mut state = BTreeMap::new();
        for entry in std::fs::read_dir(self.data_dir().join("agent"))
            .into_iter()
            .flatten()
        {
            let path = entry.unwrap().path();
            if path.is_file() {
                let metadata = path.metadata().unwrap();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let mode = metadata.permissions().mode() & 0o7777;
                let bytes = std::fs::read(&path).unwrap();
                state.insert(name, (bytes, metadata.ino(), mode));
            }
        }
        state
    }

    fn changed(&self, before: &BTreeMap<String, (Vec<u8>, u64, u32)>) -> Vec<String> {
        let after = self.state();
        let changed = after
            .iter()
            .filter(|(name, it)| before.get(*name) != Some(it));
        changed.map(|(name, _)| name.clone()).collect()
    }

    fn asked(&self) -> Vec<String> {
        let calls = std::mem::take(&mut *self.signer.calls.lock().unwrap());
        calls.into_iter().map(|it| it.path).collect()
    }
}

#[track_caller]
fn assert_ends(run: &Run, code: i32, word: &str) {
    let text = run.text();
    assert_eq!(run.code, Some(code), "{text}");
    assert!(text.contains(word), "{word}: {text}");
}

/// What a tree holds in kind: certificates by subject, names, purposes; texts with paths mapped.
fn kinds(agent: &Path, node_addresses: &[&str]) -> BTreeMap<String, String> {
    let mut kinds = BTreeMap::new();
    for entry in std::fs::read_dir(agent).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_file() {
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mode = path.metadata().unwrap().permissions().mode() & 0o7777;
        let text = std::fs::read_to_string(&path).unwrap();
        let kind = if name.ends_with(".key") {
            text.lines().next().unwrap().to_owned()
        } else if name.ends_with(".crt") {
            let chain = Certificate::all_from_pem(text.as_bytes()).unwrap();
            let each = chain.iter().map(|it| {
                let sans: Vec<String> = it
                    .sans()
                    .iter()
                    .map(ToString::to_string)
                    .filter(|san| !node_addresses.contains(&san.as_str()))
                    .collect();
                format!("{} {sans:?} {:?}", it.subject(), it.purposes())
            });
            each.collect::<Vec<_>>().join("\n")
        } else {
            text.replace(&agent.display().to_string(), "/var/lib/rancher/k3s/agent")
                .replace("https://127.0.0.1:6443", "https://127.0.0.1:6444")
        };
        kinds.insert(name, format!("{mode:o} {kind}"));
    }
    kinds
}

#[test]
fn a_joined_node_has_what_k3s_agent_has_and_joining_again_changes_nothing() {
    let lab = Lab::new();
    assert_ends(&lab.join(&[]), 0, "13 files written");
    let real = Fixture::new("k3s-1.36-agent-only");
    let own = ["10.9.8.7", "fd00::7"];
    let expected = kinds(&real.data_dir().join("agent"), &own);
    assert_eq!(expected.len(), 13);
    // The fixture's node has 127.0.0.1 as its address too, and so twice.
    let expected: BTreeMap<_, _> = expected
        .into_iter()
        .map(|(name, kind)| {
            let once = kind.replace("\"::1\", \"127.0.0.1\"]", "\"::1\"]");
            (name, once)
        })
        .collect();
    assert_eq!(kinds(&lab.data_dir().join("agent"), &own), expected);
    let serving = std::fs::read(lab.agent("serving-kubelet.crt")).unwrap();
    let sans = Certificate::all_from_pem(&serving).unwrap()[0]
        .sans()
        .to_vec();
    for address in own {
        assert!(sans.contains(&San::from_text(address)), "{sans:?}");
    }
    let password = lab.agent("etc/rancher/node/password");
    assert_eq!(password.metadata().unwrap().mode() & 0o7777, 0o600);
    assert_eq!(lab.password().len(), 32);
    assert_eq!(lab.agent("").metadata().unwrap().mode() & 0o7777, 0o700);
    let asked = lab.asked();
    assert_eq!(asked.len(), 6, "{asked:?}");

    let before = lab.state();
    assert_ends(&lab.join(&[]), 0, "Nothing was due");
    assert_eq!(lab.changed(&before), [""; 0]);
    assert_eq!(
        lab.asked(),
        ["/v1-k3s/client-ca.crt", "/v1-k3s/server-ca.crt"]
    );

    // Only what is due: another address concerns one certificate, and its key stays.
    let url = lab.server.url();
    let moved = ["join", "--token-file", "-", "--server", &url];
    let name = ["--node-name", "k3s-fixture", "--node-ip", "10.9.8.8"];
    assert_ends(
        &lab.run(&[&moved[..], &name].concat(), &lab.token),
        0,
        "10.9.8.8",
    );
    assert_eq!(lab.changed(&before), ["serving-kubelet.crt"]);

    // A certificate that was spoilt, and a key that was lost.
    let before = lab.state();
    std::fs::write(lab.agent("client-kube-proxy.crt"), b"rubbish").unwrap();
    std::fs::remove_file(lab.agent("client-kubelet.key")).unwrap();
    assert_ends(
        &lab.run(&[&moved[..], &name].concat(), &lab.token),
        0,
        "3 files",
    );
    let changed = [
        "client-kube-proxy.crt",
        "client-kubelet.crt",
        "client-kubelet.key",
    ];
    assert_eq!(lab.changed(&before), changed);
}

/// `kubepki serve` on a fixture's tree, killed when dropped.
struct Serve {
    child: std::process::Child,
    url: String,
}

impl Serve {
    fn start(data_dir: &Path) -> Self {
        use std::io::BufRead as _;

        let mut child = std::process::Command::new(KUBEPKI)
            .args([
                "serve",
                "--https-listen-port",
                "0",
                "--bind-address",
                "127.0.0.1",
            ])
            .args(["--node-ip", "127.0.0.1", "--data-dir"])
            .arg(data_dir)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let Some(Ok(line)) = lines.next() else {
                panic!("it does not serve: {said}");
            };
            let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if value["message"] == "serving" {
                break value["address"].as_str().unwrap().to_owned();
            }
            said.push_str(&line);
        };
        // What it says later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            url: format!("https://{address}"),
        }
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn nodes_join_and_renew_at_our_own_server_and_its_log_says_so() {
    let fixture = Fixture::new("k3s-1.36-sqlite");
    let data_dir = fixture.data_dir();
    let serve = Serve::start(&data_dir);
    let token = std::fs::read_to_string(data_dir.join("server/token")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let node = |name: &str| folder.path().join(name);
    let run = |words: &[&str], name: &str| {
        let own = node(name).display().to_string();
        let words = [
            words,
            &["--yes", "--data-dir", &own, "--server", &serve.url],
        ]
        .concat();
        testkit::run(KUBEPKI, &words, token.as_bytes())
    };
    for (name, address) in [("worker-1", "10.9.8.1"), ("worker-2", "10.9.8.2")] {
        let words = [
            "join",
            "--token-file",
            "-",
            "--node-name",
            name,
            "--node-ip",
            address,
        ];
        assert_ends(&run(&words, name), 0, "13 files written");
    }
    // Another machine that says it is worker-1.
    let words = ["join", "--token-file", "-", "--node-name", "worker-1"];
    assert_ends(&run(&words, "worker-3"), 5, "another node has this name");
    let renew = ["node", "renew", "--window", "400"];
    assert_ends(&run(&renew, "worker-2"), 0, "4 files written");

    let own = data_dir.display().to_string();
    let log = |words: &[&str]| {
        let words = [&["log"], words, &["--data-dir", &own]].concat();
        testkit::run(KUBEPKI, &words, b"")
    };
    let shown = log(&["show", "-o", "json", "--node", "worker-2"]);
    let records: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let records = records.as_array().unwrap();
    assert_eq!(records.len(), 8, "{}", shown.text());
    for (index, record) in records.iter().enumerate() {
        let credential = if index < 4 { "token" } else { "certificate" };
        assert_eq!(record["credential"], credential, "{record}");
        let file = match record["subject"].as_str().unwrap() {
            "CN=worker-2" => "serving-kubelet.crt",
            "CN=system:node:worker-2,O=system:nodes" => "client-kubelet.crt",
            "CN=system:kube-proxy" => "client-kube-proxy.crt",
            _ => "client-k3s-controller.crt",
        };
        let text = std::fs::read(node("worker-2").join("agent").join(file)).unwrap();
        let leaf = Certificate::all_from_pem(&text).unwrap().remove(0);
        // The certificates that lie there are those that were issued last, with the same keys.
        let last = record["serial"] == leaf.serial().to_string();
        assert_eq!(last, index >= 4, "{record}");
        assert_eq!(record["spki"], leaf.spki_sha256().to_string());
    }
    assert_ends(&log(&["verify"]), 0, "12 records");
}

#[test]
fn nothing_secret_goes_to_a_server_that_the_token_does_not_pin() {
    let lab = Lab::new();
    let other = format!("K10{}::server:{PASSWORD}", "ab".repeat(32));
    let run = lab.join_as(&other, &["--node-name", "a"]);
    assert_ends(&run, 5, "nothing secret was sent");
    assert_ends(&lab.join_as(PASSWORD, &[]), 5, "--trust-on-first-use");
    assert_eq!(lab.asked(), [""; 0]);
    assert!(lab.state().is_empty());
    // Said so, it is believed, and told.
    let run = lab.join_as(PASSWORD, &["--node-name", "a", "--trust-on-first-use"]);
    assert_ends(&run, 0, "trusted on first use");
    let hash = lab
        .token
        .split("::")
        .next()
        .unwrap()
        .trim_start_matches("K10");
    assert!(run.text().contains(hash), "{}", run.text());
}

#[test]
fn servers_are_tried_in_turn() {
    let lab = Lab::new();
    let (dead, good) = ("https://127.0.0.1:1", lab.server.url());
    let both = format!("{dead},{good}");
    let words = ["join", "--token-file", "-", "--node-name", "a", "--server"];
    let run = lab.run(&[&words[..], &[&both]].concat(), &lab.token);
    assert_ends(&run, 0, "13 files written");
    let run = lab.run(&[&words[..], &[dead]].concat(), &lab.token);
    assert_ends(&run, 1, "cannot reach");
}

#[test]
fn a_name_that_is_taken_is_told_and_nothing_is_written() {
    let lab = Lab::new();
    let taken = ("k3s-fixture".to_owned(), "f".repeat(32));
    lab.signer.passwords.lock().unwrap().extend([taken]);
    assert_ends(&lab.join(&[]), 5, "another node has this name");
    assert!(lab.state().is_empty());
    let run = lab.join_as(&lab.token, &["--node-name", "a b"]);
    assert_ends(&run, 2, "cannot be a node's name");
    let wrong = lab.token.replace(PASSWORD, "another-password");
    let run = lab.join_as(&wrong, &["--node-name", "b"]);
    assert_ends(&run, 5, "the password in the token is not this server's");
}

#[test]
fn an_answer_that_is_not_what_was_asked_for_is_not_taken() {
    for (wrong, word) in [
        (Wrong::SendsKey, "sent a private key"),
        (Wrong::OtherKey, "not for the key"),
        (Wrong::OtherName, "somebody"),
    ] {
        let lab = Lab::with(Some(wrong));
        assert_ends(&lab.join(&[]), 5, word);
        assert!(lab.state().is_empty());
    }
}

#[test]
fn a_server_is_left_alone_and_a_dry_run_changes_nothing() {
    let lab = Lab::new();
    assert_ends(&lab.join(&["--dry-run"]), 0, "k3s-fixture");
    assert!(!lab.data_dir().exists());
    std::fs::create_dir_all(lab.data_dir().join("server")).unwrap();
    assert_ends(&lab.join(&[]), 5, "this is a server");
    assert_eq!(lab.asked(), [""; 0]);
}

#[test]
fn a_node_renews_itself_with_its_certificate() {
    let lab = Lab::new();
    let url = lab.server.url();
    let renew = ["node", "renew", "--server", &url];
    assert_ends(&lab.run(&renew, ""), 5, "kubepki join");
    assert_ends(&lab.join(&[]), 0, "13 files written");
    lab.asked();
    assert_ends(&lab.run(&renew, ""), 0, "Nothing was due");
    let before = lab.state();
    let all = [&renew[..], &["--window", "400"]].concat();
    lab.asked();
    let run = testkit::run(
        KUBEPKI,
        &[
            &all[..],
            &["--yes", "--data-dir", &lab.data_dir().display().to_string()],
        ]
        .concat(),
        b"",
    );
    assert_ends(&run, 0, "4 files written");
    let calls = lab.signer.calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 6);
    for call in calls {
        assert!(call.by_certificate && !call.headers.contains_key("authorization"));
    }
    // Certificates alone: keys stay, and so do the addresses.
    let changed = lab.changed(&before);
    assert_eq!(changed.len(), 4, "{changed:?}");
    assert!(changed.iter().all(|it| it.ends_with(".crt")));
    let serving = std::fs::read(lab.agent("serving-kubelet.crt")).unwrap();
    let sans = Certificate::all_from_pem(&serving).unwrap()[0]
        .sans()
        .to_vec();
    assert!(sans.contains(&San::from_text("fd00::7")), "{sans:?}");
}
