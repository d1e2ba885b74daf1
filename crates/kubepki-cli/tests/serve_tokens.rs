//! Tokens that `kubepki token create` makes while `kubepki serve` serves: joined with, counted
//! across servers, ended, and good after a rotation.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, and start the program themselves"
)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use kubepki::token::Token;
use pki::Certificate;
use serde_json::Value;
use testkit::server::Postgres;
use testkit::{Fixture, Run};

const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");

/// `kubepki serve` on a fixture's tree, killed when dropped.
struct Serve {
    child: Child,
    fixture: Fixture,
    endpoint: Option<String>,
    url: String,
    said: Arc<Mutex<String>>,
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serve {
    fn start(fixture: Fixture, name: &str, endpoint: Option<&str>) -> Self {
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

    fn data_dir(&self) -> PathBuf {
        self.fixture.data_dir()
    }

    /// `kubepki token …` on this server.
    fn token(&self, words: &[&str]) -> Run {
        self.token_with(words, b"")
    }

    fn token_with(&self, words: &[&str], stdin: &[u8]) -> Run {
        let own = self.data_dir().display().to_string();
        let mut all = [&["token"], words, &["--data-dir", &own]].concat();
        if let Some(endpoint) = &self.endpoint {
            all.extend(["--datastore-endpoint", endpoint]);
        }
        testkit::run(KUBEPKI, &all, stdin)
    }

    /// A new token's text and id.
    #[track_caller]
    fn create(&self, words: &[&str]) -> (String, String) {
        let run = self.token(&[&["create", "-o", "json"], words].concat());
        assert!(run.success(), "{}", run.text());
        let made: Value = serde_json::from_slice(&run.stdout).unwrap();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        (text("token"), text("id"))
    }

    /// The list's entry of a token.
    fn listed(&self, id: &str) -> Value {
        let run = self.token(&["list", "-o", "json"]);
        let all: Value = serde_json::from_slice(&run.stdout).unwrap();
        let all = all.as_array().unwrap();
        all.iter().find(|it| it["id"] == id).unwrap().clone()
    }
}

/// A node joins at that server.
fn join(url: &str, folder: &Path, token: &str, node: &str, more: &[&str]) -> Run {
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
fn assert_ends(run: &Run, code: i32, word: &str) {
    let text = run.text();
    assert_eq!(run.code, Some(code), "{text}");
    assert!(text.contains(word), "{word}: {text}");
}

fn secret_of(token: &str) -> &str {
    token.rsplit('.').next().unwrap()
}

#[test]
fn nodes_join_with_made_tokens_until_these_end() {
    let serve = Serve::start(Fixture::new("k3s-1.36-sqlite"), "one", None);
    let folder = tempfile::tempdir().unwrap();
    let go =
        |token: &str, node: &str, more: &[&str]| join(&serve.url, folder.path(), token, node, more);
    // Every form, made while the server serves, is in force at once.
    let mut secrets = Vec::new();
    for (form, begins) in [("pins", "K10P1."), ("k10", "K10"), ("bootstrap", "K10")] {
        let (token, id) = serve.create(&["--role", "agent", "--form", form, "--ttl", "1h"]);
        assert!(token.starts_with(begins), "{form}");
        assert_ends(&go(&token, &format!("by-{form}"), &[]), 0, "files written");
        assert_eq!(serve.listed(&id)["state"], "good");
        secrets.push(token);
    }

    let (token, id) = serve.create(&["--role", "agent", "--uses", "2", "--description", "rack 7"]);
    assert_ends(&go(&token, "worker-1", &[]), 0, "files written");
    // The same node again, with every certificate anew, is no other use.
    assert_ends(&go(&token, "worker-1", &["--window", "400"]), 0, "");
    assert_eq!(serve.listed(&id)["used"], 1);
    assert_ends(&go(&token, "worker-2", &[]), 0, "files written");
    assert_ends(&go(&token, "worker-3", &[]), 5, "the token has ended");
    let entry = serve.listed(&id);
    assert_eq!(
        (&entry["state"], &entry["used"]),
        (&"used up".into(), &2.into())
    );
    assert_eq!(entry["nodes"][1]["node"], "worker-2");
    secrets.push(token);

    let (token, id) = serve.create(&["--role", "agent", "--node", "Worker-9", "--ttl", "0"]);
    assert_ends(&go(&token, "worker-8", &[]), 5, "another node");
    assert_ends(&go(&token, "worker-9", &[]), 0, "files written");
    assert_eq!(serve.listed(&id)["expires"], Value::Null);
    assert_ends(&serve.token(&["revoke", &id]), 0, "was revoked");
    assert_ends(&go(&token, "worker-9", &["--window", "400"]), 5, "401");
    assert_eq!(serve.listed(&id)["state"], "revoked");
    secrets.push(token);

    let (token, _) = serve.create(&["--role", "server"]);
    assert_ends(&go(&token, "worker-1", &["--window", "400"]), 5, "403");
    secrets.push(token);

    let table = serve.token(&["list"]);
    assert_ends(&table, 0, "rack 7");
    let said = serve.said.lock().unwrap().clone();
    let mut kept = std::fs::read(serve.data_dir().join("server/db/state.db")).unwrap();
    let journal = std::fs::read(serve.data_dir().join("server/db/state.db-wal"));
    kept.extend(journal.unwrap_or_default());
    for token in &secrets {
        let secret = secret_of(token);
        assert!(secret.len() >= 16);
        assert!(
            !table.text().contains(secret) && !said.contains(secret),
            "{said}"
        );
        assert!(!kept.windows(secret.len()).any(|it| it == secret.as_bytes()));
    }
    assert!(said.contains("a token was refused"), "{said}");
}

#[test]
fn what_cannot_be_made_is_said() {
    let serve = Serve::start(Fixture::new("k3s-1.36-sqlite"), "one", None);
    for (words, code, says) in [
        (&["create", "--ttl", "1h"][..], 2, "--role"),
        (
            &["create", "--role", "agent", "--uses", "0"],
            2,
            "1 to 1000",
        ),
        (&["create", "--role", "agent", "--ttl", "soon"], 2, "period"),
        (
            &["create", "--role", "agent", "--ttl", "9999d"],
            2,
            "ten years",
        ),
        (&["create", "--role", "agent", "--node", "a b"], 2, "--node"),
        (
            &["create", "--role", "agent", "--pin", "abc"],
            2,
            "64 hex digits",
        ),
        (
            &["create", "--role", "server", "--uses", "1"],
            2,
            "lets none in",
        ),
        (
            &["create", "--role", "server", "--form", "bootstrap"],
            2,
            "no bootstrap token",
        ),
        (&["revoke", "abc123.0123456789abcdef"], 2, "six characters"),
        (&["revoke", "abc123"], 5, "no token has the id abc123"),
    ] {
        let run = serve.token(words);
        assert_ends(&run, code, says);
        assert!(!run.text().contains("0123456789abcdef"), "{}", run.text());
    }
    // Without a role nothing is written, as before.
    assert_ends(&serve.token(&["create"]), 0, "");
    assert_eq!(serve.token(&["list", "-o", "json"]).stdout, b"[]\n");
}

#[test]
fn check_knows_what_a_pin_set_is_good_for() {
    let serve = Serve::start(Fixture::new("k3s-1.36-sqlite"), "one", None);
    let (token, id) = serve.create(&["--role", "agent", "--uses", "3"]);
    let check = |token: &str, more: &[&str]| {
        serve.token_with(&[&["check"], more].concat(), token.as_bytes())
    };
    let run = check(&token, &["--datastore"]);
    assert_ends(&run, 0, "a token that pins CA keys");
    for word in ["of this cluster's CA", "0/3 uses", "accepted"] {
        assert!(run.text().contains(word), "{}", run.text());
    }
    assert!(!run.text().contains(secret_of(&token)));
    // A rotation that the old root has cross-signed leaves it good, another CA does not.
    let rotated = Fixture::without_datastore("k3s-1.36-default-rotated");
    let path = rotated.data_dir().join("server").display().to_string();
    let run = check(&token, &["--path", &path]);
    assert_ends(&run, 0, "after the staged set: accepted");
    let other = Fixture::without_datastore("k3s-1.36-custom-ca");
    let path = other.data_dir().join("server").display().to_string();
    let run = check(&token, &["--path", &path]);
    assert_ends(&run, 3, "after the staged set: refused");
    let (both, _) = serve.create(&["--role", "agent", "--path", &path]);
    assert_ends(
        &check(&both, &["--path", &path]),
        0,
        "after the staged set: accepted",
    );

    let strange = format!(
        "K10P1.{}::{}",
        "ab".repeat(32),
        token.split("::").nth(1).unwrap()
    );
    assert_ends(&check(&strange, &[]), 4, "not this cluster's now");
    assert_ends(&serve.token(&["revoke", &id]), 0, "");
    assert_ends(&check(&token, &["--datastore"]), 4, "it was revoked");
}

#[test]
fn a_pin_of_the_old_root_outlives_a_rotation() {
    // Its server CA stands under a new root that the old one has cross-signed.
    let fixture = Fixture::new("k3s-1.36-default-rotated");
    let bundle = std::fs::read(fixture.data_dir().join("server/tls/server-ca.crt")).unwrap();
    let certificates = Certificate::all_from_pem(&bundle).unwrap();
    let serve = Serve::start(fixture, "one", None);
    let folder = tempfile::tempdir().unwrap();
    let (whole, _) = serve.create(&["--role", "agent"]);
    let (id, secret) = whole.split("::").nth(1).unwrap().split_once('.').unwrap();
    let with = |keys: &[pki::Digest]| {
        let token = Token::pinning(keys, id, secret).unwrap();
        token.to_text().to_string()
    };
    let roots: Vec<pki::Digest> = certificates
        .iter()
        .filter(|it| it.is_self_issued())
        .map(Certificate::spki_sha256)
        .collect();
    assert_eq!(roots.len(), 2, "the new root and the old one");
    assert_eq!(Token::parse(&whole).unwrap().pins(), roots);
    for (name, keys) in [("new", &roots[..1]), ("old", &roots[1..]), ("both", &roots)] {
        let run = join(&serve.url, folder.path(), &with(keys), name, &[]);
        assert_ends(&run, 0, "files written");
    }
    let stranger = pki::Digest([7; 32]);
    let before = serve.said.lock().unwrap().len();
    let run = join(&serve.url, folder.path(), &with(&[stranger]), "none", &[]);
    assert_ends(&run, 5, "nothing secret was sent");
    assert_eq!(
        serve.said.lock().unwrap().len(),
        before,
        "it was asked for more"
    );
}

#[test]
fn two_servers_let_in_exactly_as_many_nodes_as_a_token_has_uses() {
    const USES: usize = 3;
    const NODES: usize = 10;
    let postgres = Postgres::start(false);
    let trees = [(); 2].map(|()| Fixture::new("k3s-1.36-postgres"));
    postgres.load("kubernetes", &trees[0].extra("kubernetes.sql"));
    let endpoint = postgres.endpoint("kubernetes");
    let [first, second] = trees;
    let serves = [
        Serve::start(first, "one", Some(&endpoint)),
        Serve::start(second, "two", Some(&endpoint)),
    ];
    let folder = tempfile::tempdir().unwrap();
    let uses = USES.to_string();
    // Made at one, known to both.
    let (token, id) = serves[0].create(&["--role", "agent", "--uses", &uses]);
    let codes: Vec<(String, Run)> = std::thread::scope(|scope| {
        let joins: Vec<_> = (0..NODES)
            .map(|number| {
                let (url, token) = (&serves[number % 2].url, &token);
                let name = format!("racer-{number}");
                let folder = folder.path();
                scope.spawn(move || {
                    let run = join(url, folder, token, &name, &[]);
                    (name, run)
                })
            })
            .collect();
        joins.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let won: Vec<&String> = codes
        .iter()
        .filter(|(_, run)| run.code == Some(0))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(won.len(), USES, "{codes:?}");
    for (_, run) in codes.iter().filter(|(_, run)| run.code != Some(0)) {
        assert_ends(run, 5, "the token has ended");
    }
    let entry = serves[1].listed(&id);
    let mut listed: Vec<String> = entry["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["node"].as_str().unwrap().to_owned())
        .collect();
    listed.sort();
    let mut won: Vec<String> = won.into_iter().cloned().collect();
    won.sort();
    assert_eq!(listed, won, "who is counted is who came in");

    // Taken back at one, it is refused by the other with its next request.
    let (token, id) = serves[0].create(&["--role", "agent"]);
    assert_ends(&serves[1].token(&["revoke", &id]), 0, "was revoked");
    for serve in &serves {
        let run = join(&serve.url, folder.path(), &token, "late", &[]);
        assert_ends(&run, 5, "401");
    }
}
