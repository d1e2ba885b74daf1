//! `kubepki init` as an operator sees it: streams, exit codes, files, and the way back.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use testkit::{Fixture, Run, Secrets, Tree};

const PASSWORD: &[u8] = b"an-operators-own-password\n";

/// Runs `kubepki init` for a server in `folder`, whatever this machine's own K3s says.
fn init(folder: &Path, arguments: &[&str], stdin: &[u8]) -> Run {
    let data_dir = folder.join("k3s");
    let kubeconfig = folder.join("admin.yaml");
    let program = env!("CARGO_BIN_EXE_kubepki");
    let mut all = vec!["-i", "LC_ALL=C", "HOME=/nonexistent", program, "init"];
    all.extend(["--node-name", "Server-One", "--node-ip", "192.0.2.1"]);
    all.extend(["--data-dir", data_dir.to_str().unwrap()]);
    all.extend(["--write-kubeconfig", kubeconfig.to_str().unwrap()]);
    all.extend(arguments);
    testkit::run("env", &all, stdin)
}

fn kubepki(folder: &Path, arguments: &[&str]) -> Run {
    let data_dir = folder.join("k3s");
    let mut all = vec!["-i", "LC_ALL=C", env!("CARGO_BIN_EXE_kubepki")];
    all.extend(arguments);
    all.extend(["--data-dir", data_dir.to_str().unwrap()]);
    testkit::run("env", &all, b"")
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    // What a link leads to is what the plan will name.
    let path = folder.path().canonicalize().unwrap();
    (folder, path)
}

#[test]
fn makes_a_server_once_and_takes_it_back() {
    let (_keep, folder) = folder();
    let made = init(&folder, &["--yes", "--token-file", "-"], PASSWORD);
    assert_eq!(made.code, Some(0), "{}", made.text());
    assert!(made.text().contains("kubepki undo"), "{}", made.text());
    let token = fs::read_to_string(folder.join("k3s/server/token")).unwrap();
    assert!(token.ends_with("::server:an-operators-own-password\n"));
    let kubeconfig = fs::read_to_string(folder.join("admin.yaml")).unwrap();
    assert!(kubeconfig.contains("server: https://127.0.0.1:6443\n"));

    let again = init(&folder, &["--yes"], b"");
    assert_eq!(again.code, Some(0), "{}", again.text());
    assert!(again.text().contains("Nothing to do"), "{}", again.text());

    let mut secrets = Secrets::below(folder.join("k3s/server"));
    secrets.add_secret(PASSWORD.trim_ascii(), "standard input");
    for run in [&made, &again] {
        secrets.assert_absent("standard output", &run.stdout);
        secrets.assert_absent("standard error", &run.stderr);
    }

    let undone = kubepki(&folder, &["undo", "--yes"]);
    assert_eq!(undone.code, Some(0), "{}", undone.text());
    let left = Tree::snapshot(folder.join("k3s")).without("kubepki");
    assert_eq!(left.nodes().count(), 1);
    assert!(!folder.join("admin.yaml").exists());
}

#[test]
fn a_look_at_the_plan_makes_nothing() {
    let (_keep, folder) = folder();
    let dry = init(&folder, &["--dry-run", "--with-agent"], b"");
    assert_eq!(dry.code, Some(0), "{}", dry.text());
    let shown = String::from_utf8(dry.stdout.clone()).unwrap();
    assert!(shown.contains("put server/tls/server-ca.crt"), "{shown}");
    assert!(shown.contains("put agent/client-kubelet.crt"), "{shown}");
    assert!(shown.contains("::server:***"), "{shown}");
    // Nobody to ask.
    let unasked = init(&folder, &[], b"");
    assert_eq!(unasked.code, Some(5), "{}", unasked.text());
    assert_eq!(Tree::snapshot(&folder).nodes().count(), 1);
}

#[test]
fn says_what_is_wrong_before_anything_is_made() {
    let cases: [(&[&str], &[u8], i32, &str); 7] = [
        (&["--tls-san", "a b"], b"", 2, "--tls-san"),
        (&["--service-cidr", "10.43.0.0"], b"", 2, "--service-cidr"),
        (
            &["--write-kubeconfig-mode", "9"],
            b"",
            2,
            "--write-kubeconfig-mode",
        ),
        (&["--k3s-version", "latest"], b"", 2, "not a K3s version"),
        (&["--token-file", "/nonexistent"], b"", 2, "--token-file"),
        (
            &["--token-file", "-"],
            b"abc123.0123456789abcdef",
            2,
            "bootstrap token",
        ),
        (
            &["--https-listen-port", "65535"],
            b"",
            2,
            "--https-listen-port",
        ),
    ];
    for (arguments, stdin, code, expected) in cases {
        let (_keep, folder) = folder();
        let mut all = vec!["--yes"];
        all.extend(arguments);
        let refused = init(&folder, &all, stdin);
        let said = refused.text();
        assert_eq!(refused.code, Some(code), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(!said.contains("0123456789abcdef"), "{said}");
        assert_eq!(Tree::snapshot(&folder).nodes().count(), 1, "{arguments:?}");
    }
}

#[test]
fn names_the_ca_files_that_are_missing() {
    let (_keep, folder) = folder();
    let fixture = Fixture::without_datastore("k3s-1.36-custom-ca");
    let tls = folder.join("k3s/server/tls");
    testkit::run("mkdir", &["-p", tls.to_str().unwrap()], b"");
    for file in ["server-ca.crt", "server-ca.key"] {
        let from = fixture.data_dir().join("server/tls").join(file);
        testkit::run(
            "cp",
            &["-p", from.to_str().unwrap(), tls.to_str().unwrap()],
            b"",
        );
    }
    let before = Tree::snapshot(&folder);
    let refused = init(&folder, &["--yes"], b"");
    assert_eq!(refused.code, Some(5), "{}", refused.text());
    for missing in ["client-ca.crt", "etcd/peer-ca.key", "service.key"] {
        let path = tls.join(missing).display().to_string();
        assert!(refused.text().contains(&path), "{}", refused.text());
    }
    assert!(Tree::snapshot(&folder) == before);
    let completed = init(&folder, &["--yes", "--complete"], b"");
    assert_eq!(completed.code, Some(0), "{}", completed.text());
    let after = Tree::snapshot(&folder);
    for file in ["server-ca.crt", "server-ca.key"] {
        let path = format!("k3s/server/tls/{file}");
        assert_eq!(after.get(&path), before.get(&path));
    }
}

#[test]
fn follows_k3s_own_configuration() {
    let (_keep, folder) = folder();
    let config = folder.join("config.yaml");
    let text = "node-name: Configured\nnode-ip: 192.0.2.7\ntls-san: [k3s.example.net]\n\
                https-listen-port: 7443\nwrite-kubeconfig-mode: \"0644\"\n";
    put(&config, text);
    let kubeconfig = folder.join("admin.yaml");
    let arguments = [
        "init",
        "--yes",
        "--k3s-config",
        config.to_str().unwrap(),
        "--write-kubeconfig",
        kubeconfig.to_str().unwrap(),
    ];
    let made = kubepki(&folder, &arguments);
    assert_eq!(made.code, Some(0), "{}", made.text());
    let tree = Tree::snapshot(&folder);
    assert_eq!(tree.get("admin.yaml").unwrap().mode, 0o644);
    let text = fs::read_to_string(&kubeconfig).unwrap();
    assert!(text.contains("server: https://127.0.0.1:7443\n"));
    let own = fs::read_to_string(folder.join("k3s/server/cred/admin.kubeconfig")).unwrap();
    assert!(own.contains("server: https://127.0.0.1:7444\n"));
    let serving = folder.join("k3s/server/tls/serving-kube-apiserver.crt");
    let names = testkit::openssl_ok(
        &[
            "x509",
            "-noout",
            "-ext",
            "subjectAltName",
            "-in",
            serving.to_str().unwrap(),
        ],
        b"",
    );
    for name in [
        "DNS:configured",
        "DNS:k3s.example.net",
        "IP Address:192.0.2.7",
    ] {
        assert!(names.text().contains(name), "{}", names.text());
    }

    // K3s would use the token that it is configured with, not one made here.
    put(
        &config,
        "node-name: configured\ntoken: configured-secret-token\n",
    );
    let refused = kubepki(&folder, &arguments);
    assert_eq!(refused.code, Some(2), "{}", refused.text());
    assert!(
        refused.text().contains("--token-file"),
        "{}",
        refused.text()
    );
    assert!(!refused.text().contains("configured-secret-token"));
}

/// Writes a file of settings, which holds no secret of anybody's.
fn put(path: &Path, text: &str) {
    let run = testkit::run("tee", &[path.to_str().unwrap()], text.as_bytes());
    assert_eq!(run.code, Some(0), "{}", run.text());
}
