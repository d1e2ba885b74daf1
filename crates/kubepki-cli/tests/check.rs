//! `kubepki check` as a program: exit codes, forms, many trees.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking and run the program"
)]

use std::io::Read;
use std::process::{Command, Stdio};

use testkit::{Fixture, Run, Secrets};

const AT: &str = "--at=2026-11-22T07:32:00Z";

fn check(arguments: &[&str]) -> Run {
    let mut all = vec!["check"];
    all.extend(arguments);
    testkit::run(env!("CARGO_BIN_EXE_kubepki"), &all, b"")
}

fn stdout(run: &Run) -> String {
    String::from_utf8(run.stdout.clone()).unwrap()
}

fn data_dir(fixture: &Fixture) -> String {
    fixture.data_dir().display().to_string()
}

#[test]
fn the_exit_code_is_the_worst_finding() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let dir = data_dir(&fixture);
    let code = |arguments: &[&str]| check(&[&[dir.as_str()], arguments].concat()).code;
    assert_eq!(code(&[AT]), Some(0));
    assert_eq!(code(&["--at=2027-08-01T00:00:00Z"]), Some(3));
    assert_eq!(code(&["--at=2028-01-01T00:00:00Z"]), Some(4));
    assert_eq!(code(&[AT, "--warn-within=400d"]), Some(3));
    assert_eq!(code(&[AT, "--window=365"]), Some(3));
    assert_eq!(
        code(&["--at=2027-10-01T00:00:00Z", "--warn-within=30d"]),
        Some(0)
    );
    assert_eq!(code(&["--at=tomorrow"]), Some(2));
    assert_eq!(code(&[AT, "--warn-within=soon"]), Some(2));
    assert_eq!(code(&[AT, "--timeline", "--output=prometheus"]), Some(2));
}

#[test]
fn a_directory_without_k3s_is_named() {
    for directory in ["/usr", "/nonexistent/data"] {
        let run = check(&[directory, AT]);
        assert_eq!(run.code, Some(1));
        assert!(run.text().contains(directory), "{}", run.text());
        assert!(run.stdout.is_empty());
    }
}

#[test]
fn the_kubeconfig_that_is_named_is_looked_at() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let other = Fixture::without_datastore("k3s-1.36-custom-ca");
    let dir = data_dir(&fixture);
    let good = format!("--kubeconfig={}", fixture.admin_kubeconfig().display());
    assert_eq!(check(&[&dir, AT, &good]).code, Some(0));
    let wrong = format!("--kubeconfig={}", other.admin_kubeconfig().display());
    let run = check(&[&dir, AT, &wrong, "--output=text"]);
    assert_eq!(run.code, Some(4));
    assert!(stdout(&run).contains("k3s.yaml"), "{}", stdout(&run));
}

#[test]
fn many_trees_are_one_document_in_the_order_asked_for() {
    let fixtures: Vec<Fixture> = [
        "k3s-1.36-sqlite",
        "k3s-1.36-custom-ca",
        "k3s-1.21-sqlite",
        "k3s-1.36-agent-only",
    ]
    .into_iter()
    .map(Fixture::without_datastore)
    .collect();
    let mut directories: Vec<String> = fixtures.iter().map(data_dir).collect();
    directories.insert(2, "/nonexistent/data".to_owned());
    let mut arguments: Vec<&str> = directories.iter().map(String::as_str).collect();
    arguments.push(AT);
    let json = check(&[&arguments[..], &["--output=json"]].concat());
    assert_eq!(
        json.code,
        Some(1),
        "a tree that cannot be read is worse than a warning"
    );
    assert!(json.text().contains("/nonexistent/data"));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let trees = json["trees"].as_array().unwrap().iter();
    let named: Vec<&str> = trees
        .map(|tree| tree["data_dir"].as_str().unwrap())
        .collect();
    assert_eq!(named, directories);
    assert_eq!(json["schema"], 1);
    assert_eq!(json["summary"]["trees"], 5);
    assert_eq!(json["summary"]["unreadable"], 1);
    assert!(json["trees"][2]["error"].is_string());
    let yaml = check(&[&arguments[..], &["--output=yaml"]].concat());
    assert!(stdout(&yaml).starts_with("schema: 1\ntrees:\n- schema: 1\n"));
    let metrics = stdout(&check(&[&arguments[..], &["--output=prometheus"]].concat()));
    assert_eq!(metrics.matches("# TYPE ").count(), 4);
    assert!(metrics.contains("kubepki_tree_readable{data_dir=\"/nonexistent/data\"} 0\n"));
    let table = stdout(&check(&arguments));
    assert!(table.contains("5 trees, 1 unreadable"), "{table}");
}

#[test]
fn the_timeline_is_for_people_and_programs() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let dir = data_dir(&fixture);
    let text = stdout(&check(&[&dir, AT, "--timeline"]));
    assert!(text.contains("5 CAs end"), "{text}");
    let json = check(&[&dir, AT, "--timeline", "--output=json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let events = json["trees"][0]["events"].as_array().unwrap();
    assert_eq!(events.first().unwrap()["kind"], "leaf-window");
    assert_eq!(events.last().unwrap()["kind"], "authority-end");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let dir = data_dir(&fixture);
    // More than a pipe holds, so that the program meets the closed end.
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubepki"));
    command.args(["check", AT, "--output=json"]);
    command.args(std::iter::repeat_n(&dir, 12));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 16];
    let mut pipe = child.stdout.take().unwrap();
    pipe.read_exact(&mut first).unwrap();
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.is_empty(), "{stderr}");
}

#[test]
fn nothing_secret_is_said() {
    let fixture = Fixture::without_datastore("k3s-1.36-encryption-token-rotated");
    let dir = data_dir(&fixture);
    let mut secrets = Secrets::below(fixture.data_dir());
    for token in [
        "rotated-token-abcdef0123456789",
        "agent-fixture-token-98765",
    ] {
        secrets.add_secret(token.as_bytes(), "the token");
    }
    let kubeconfig = format!("--kubeconfig={}", fixture.admin_kubeconfig().display());
    for form in ["table", "text", "json", "yaml", "prometheus"] {
        let run = check(&[&dir, AT, "--all", &kubeconfig, "--output", form]);
        secrets.assert_absent(form, run.text());
    }
}
