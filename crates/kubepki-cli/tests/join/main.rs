//! `kubepki join` and `kubepki node renew` against a server that answers by K3s's contract: what a
//! node ends up with is what K3s's own agent has.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking and spoil files"
)]

mod crash;
mod lab;
mod own;
mod renewal;
mod signer;
mod turns;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use pki::{Certificate, PrivateKey, San};
use testkit::{Fixture, Run};

use lab::Lab;
use signer::Wrong;

const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");
const PASSWORD: &str = "fixture-token-0123456789abcdef";

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
        };
        kinds.insert(name, format!("{mode:o} {kind}"));
    }
    kinds
}

/// The same of a fixture's agent, as it would be on another machine.
fn recorded(fixture: &Fixture) -> BTreeMap<String, String> {
    let recorded = kinds(&fixture.data_dir().join("agent"), &[]);
    assert_eq!(recorded.len(), 13);
    let away = |(name, kind): (String, String)| {
        // It has 127.0.0.1 as its address too, and so twice.
        let once = kind.replace("\"::1\", \"127.0.0.1\"]", "\"::1\"]");
        // It is inside a server, whose kubeconfigs lead to itself and not to a load balancer.
        let kind = once.replace(": https://127.0.0.1:6443\n", ": https://127.0.0.1:6444\n");
        (name, kind)
    };
    recorded.into_iter().map(away).collect()
}

#[test]
fn a_joined_node_has_what_k3s_agent_has_and_joining_again_changes_nothing() {
    let lab = Lab::new();
    assert_ends(&lab.join(&[]), 0, "13 files written");
    let real = Fixture::new("k3s-1.36-agent-only");
    let own = ["10.9.8.7", "fd00::7"];
    let expected = recorded(&real);
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
    // That the whole system trusts the server, as a public CA's customer, is no reason (K3s then
    // asks nothing of the token's hash).
    let trusted = format!("SSL_CERT_FILE={}", lab.agent("server-ca.crt").display());
    let (elsewhere, url) = (lab.data_dir().join("other"), lab.server.url());
    let elsewhere = elsewhere.display().to_string();
    drop(lab.asked());
    let words = [
        &trusted,
        KUBEPKI,
        "join",
        "--yes",
        "--token-file",
        "-",
        "--server",
        &url,
        "--node-name",
        "b",
        "--data-dir",
        &elsewhere,
    ];
    let run = testkit::run("env", &words, other.as_bytes());
    assert_ends(&run, 5, "nothing secret was sent");
    assert_eq!(lab.asked(), [""; 0]);
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
        (Wrong::NoName, "lacks k3s-fixture"),
    ] {
        let lab = Lab::with(Some(wrong));
        assert_ends(&lab.join(&[]), 5, word);
        assert!(lab.state().is_empty());
    }
}

/// K3s before v1.32 makes one key for all nodes, and its agents take it.
#[test]
fn a_key_that_a_server_sends_is_taken_where_that_is_said() {
    let lab = Lab::with(Some(Wrong::SendsKey));
    assert_ends(&lab.join(&[]), 5, "--take-shared-keys");
    let run = lab.join(&["--take-shared-keys"]);
    assert_ends(&run, 0, "the server's key, which all nodes share");
    let (chain, key) = ["crt", "key"]
        .map(|end| std::fs::read(lab.agent(&format!("client-kubelet.{end}"))).unwrap())
        .into();
    let leaf = Certificate::all_from_pem(&chain).unwrap().remove(0);
    let key = PrivateKey::from_pem(&key).unwrap();
    assert_eq!(leaf.spki_der(), key.spki_der());
    assert_ends(&lab.join(&["--take-shared-keys"]), 0, "Nothing was due");
    // A server that takes requests is asked as ever, with the flag too.
    let lab = Lab::new();
    assert_ends(&lab.join(&["--take-shared-keys"]), 0, "the node's own key");
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

/// Of K3s 1.21, whose tokens pin the CA's file whole: the tokens are as it wrote them.
#[test]
fn tokens_of_old_releases_are_held_to_the_old_rule() {
    for fixture in ["k3s-1.21-custom-ca", "k3s-1.21-sqlite"] {
        let lab = Lab::of(fixture, Some(Wrong::OldNames));
        assert_ends(&lab.join(&[]), 0, "13 files written");
        // What it does not sign is not missed later either.
        assert_ends(&lab.join(&[]), 0, "Nothing was due");
        let serving = std::fs::read(lab.agent("serving-kubelet.crt")).unwrap();
        let leaf = Certificate::all_from_pem(&serving).unwrap().remove(0);
        assert!(!leaf.sans().contains(&San::from_text("::1")));
        let (start, end) = lab.token.split_once("::").unwrap();
        let last = if start.ends_with('0') { '1' } else { '0' };
        let other = format!("{}{last}::{end}", &start[..start.len() - 1]);
        drop(lab.asked());
        let run = lab.join_as(&other, &["--node-name", "a"]);
        assert_ends(&run, 5, "nothing secret was sent");
        assert_eq!(lab.asked(), [""; 0]);
    }
}
