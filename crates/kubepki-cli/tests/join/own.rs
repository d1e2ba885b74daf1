//! The same at `kubepki serve`, with its issuance log.

use std::path::Path;

use pki::Certificate;
use testkit::Fixture;

use crate::{KUBEPKI, assert_ends, kinds, recorded};

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
        let words = ["join", "--token-file", "-", "--node-name"];
        let words = [&words[..], &[name, "--node-ip", address]].concat();
        assert_ends(&run(&words, name), 0, "13 files written");
    }
    // Another machine that says it is worker-1.
    let words = ["join", "--token-file", "-", "--node-name", "worker-1"];
    assert_ends(&run(&words, "worker-3"), 5, "another node has this name");
    let own = data_dir.display().to_string();
    let forget =
        |name: &str| testkit::run(KUBEPKI, &["node", "forget", name, "--data-dir", &own], b"");
    assert_ends(&forget("worker-9"), 0, "No node worker-9");
    for odd in ["", "worker-1/", "../worker-1"] {
        assert_ends(&forget(odd), 2, "nothing was forgotten");
    }
    // The machine was set up anew: it is let in once somebody says so.
    assert_ends(&forget("Worker-1"), 0, "worker-1 is forgotten");
    assert_ends(&run(&words, "worker-3"), 0, "13 files written");
    assert_ends(&run(&words, "worker-4"), 5, "kubepki node forget");
    // The old one is out, the new one renews.
    let renew = ["node", "renew", "--window", "400"];
    assert_ends(&run(&renew, "worker-1"), 5, "not authorized");
    assert_ends(&run(&renew, "worker-3"), 0, "4 files written");
    assert_ends(&run(&renew, "worker-2"), 0, "4 files written");

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
    assert_ends(&log(&["verify"]), 0, "whole");
    assert_eq!(asked_for(&log(&["export"]).text()), 20);
}

/// By the recorded token, on what K3s left there: an agent's tree of the same kind.
#[test]
fn what_our_own_server_gives_is_what_k3s_gave() {
    for fixture in [
        "k3s-1.36-sqlite",
        "k3s-1.36-custom-ca",
        "k3s-1.36-default-rotated",
    ] {
        let is_cross_signed = fixture == "k3s-1.36-default-rotated";
        let fixture = Fixture::new(fixture);
        let expected = recorded(&fixture);
        let serve = Serve::start(&fixture.data_dir());
        let token = std::fs::read(fixture.data_dir().join("server/token")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().display().to_string();
        let words = [
            "join",
            "--yes",
            "--token-file",
            "-",
            "--node-name",
            "worker-1",
        ];
        let site = [
            "--node-ip",
            "10.9.8.1",
            "--server",
            &serve.url,
            "--data-dir",
            &own,
        ];
        let run = testkit::run(KUBEPKI, &[&words[..], &site].concat(), &token);
        assert_ends(&run, 0, "13 files written");
        let joined = kinds(&folder.path().join("agent"), &["10.9.8.1"]);
        for (name, kind) in joined {
            let (kind, expected) = (kind.replace("worker-1", "k3s-fixture"), &expected[&name]);
            if is_cross_signed && name.ends_with(".crt") && !name.ends_with("-ca.crt") {
                // K3s puts its whole CA file behind a leaf. Ours is without what leads no client
                // anywhere: the self-signed root, and the CA that was replaced.
                let mut theirs = expected.lines();
                assert!(
                    kind.lines().all(|own| theirs.any(|it| it == own)),
                    "{name}: {kind}"
                );
                assert!(kind.lines().count() >= 3, "{name}: {kind}");
            } else {
                assert_eq!(kind, *expected, "{name}");
            }
        }
    }
}

/// How many records are not the server's own.
fn asked_for(exported: &str) -> usize {
    let asked = |it: &&str| !it.contains("\"credential\":\"local\"");
    exported.lines().filter(asked).count()
}
