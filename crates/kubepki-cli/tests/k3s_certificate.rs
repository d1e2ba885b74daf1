//! `kubepki k3s certificate` as a script sees it: streams, files, exit codes, and the way back.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use testkit::{DiffOptions, Fixture, Run, Secrets, Tree};

const DATA: &str = "/var/lib/rancher/k3s";

/// Runs `kubepki` with `arguments` in a world without K3s's own variables.
fn kubepki(variables: &[&str], arguments: &[&str]) -> Run {
    let mut all = vec!["-i", "LC_ALL=C", "TZ=UTC", "HOME=/nonexistent"];
    all.extend(variables);
    all.push(env!("CARGO_BIN_EXE_kubepki"));
    all.extend(arguments);
    testkit::run("env", &all, b"")
}

fn certificate(root: &Path, command: &str, arguments: &[&str]) -> Run {
    let root = root.to_str().unwrap();
    let mut all = vec!["k3s", "certificate", command, "--data-dir", root];
    all.extend(arguments);
    kubepki(&[], &all)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The parts of an output that come in K3s's random order, sorted.
fn sorted(output: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = output
        .split_inclusive('\n')
        .flat_map(|line| line.split("},{"))
        .collect();
    // The first and the last object carry the array's brackets.
    for part in &mut parts {
        *part = part
            .trim_start_matches("{\"Certificates\":[{")
            .trim_end_matches("}]}\n");
    }
    parts.sort_unstable();
    parts
}

#[test]
fn check_prints_what_k3s_printed() {
    for name in [
        "k3s-1.36-agent-only",
        "k3s-1.36-custom-ca",
        "k3s-1.36-custom-ca-rotated",
        "k3s-1.36-default-rotated",
        "k3s-1.36-encryption-token-rotated",
        "k3s-1.36-etcd-embedded",
        "k3s-1.36-sqlite",
    ] {
        let fixture = Fixture::without_datastore(name);
        for format in ["text", "table", "json", "yaml"] {
            let recorded = |stream| fixture.extra_text(&format!("check/{format}.{stream}"));
            let (stdout, stderr) = (recorded("stdout"), recorded("stderr"));
            let logged = stderr.split('"').nth(1).unwrap().to_owned();
            // json and yaml carry their moment to the nanosecond; the seconds are those of the log
            // or one before.
            let at = fraction(format, &stdout).map_or(logged.clone(), |at| at);
            let run = certificate(&fixture.data_dir(), "check", &["-o", format, "--at", &at]);
            assert_eq!(run.code, Some(0));
            let ours = text(&run.stdout);
            assert_eq!(sorted(&ours), sorted(&stdout), "{name} {format}");
            let ours = text(&run.stderr);
            let second = |time: &str| time.get(..19).unwrap().to_owned();
            let ours = ours.replace(&second(&at), &second(&logged));
            assert_eq!(sorted(&ours), sorted(&stderr), "{name} {format}");
        }
    }
}

/// The moment of a json or yaml recording, worked out by the library that also reads `--at`.
fn fraction(format: &str, stdout: &str) -> Option<String> {
    let (end, residual) = match format {
        "json" => {
            let value: serde_json::Value = serde_json::from_str(stdout).unwrap();
            let first = value.pointer("/Certificates/0").unwrap().clone();
            let end = first
                .get("ExpiryTime")
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned();
            let residual = first.get("ResidualTime").unwrap().as_i64().unwrap();
            (end, jiff::SignedDuration::from_nanos(residual))
        }
        "yaml" => {
            let field = |name| {
                stdout
                    .lines()
                    .find_map(|line| line.trim().strip_prefix(name))
                    .unwrap()
            };
            (
                field("expirytime: ").to_owned(),
                field("residualtime: ").parse().unwrap(),
            )
        }
        _ => return None,
    };
    let end: jiff::Timestamp = end.parse().unwrap();
    Some(end.checked_sub(residual).unwrap().to_string())
}

#[test]
fn rotate_does_what_k3s_did_and_can_be_taken_back() {
    let recordings = Fixture::new("k3s-1.36-rotate-recordings");
    // They wait for the disk most of the time.
    std::thread::scope(|scope| {
        for case in [
            "all",
            "admin",
            "api-server",
            "auth-proxy",
            "cloud-controller",
            "controller-manager",
            "etcd",
            "k3s-controller",
            "k3s-server",
            "kube-proxy",
            "kubelet",
            "scheduler",
            "supervisor",
            "agent-only-admin",
            "agent-only-all",
            "agent-only-kubelet",
        ] {
            let recordings = &recordings;
            scope.spawn(move || there_and_back(recordings, case));
        }
    });
}

/// Rotates, holds the tree to the recording, takes it back, holds the tree to what it was.
fn there_and_back(recordings: &Fixture, case: &str) {
    let agent_only = case.starts_with("agent-only-");
    let tree = if agent_only {
        "k3s-1.36-agent-only"
    } else {
        "k3s-1.36-sqlite"
    };
    let fixture = Fixture::without_datastore(tree);
    let root = fixture.data_dir();
    let secrets = Secrets::below(&root);
    let before = Tree::snapshot(&root);
    let service: &[&str] = match case.trim_start_matches("agent-only-") {
        "all" => &[],
        name => &["--service", name],
    };
    let run = certificate(&root, "rotate", service);
    let ended = (run.code, text(&run.stdout));
    assert_eq!(ended, (Some(0), String::new()), "{case}: {}", run.text());

    let after = Tree::snapshot(&root).without("kubepki").listing();
    let recorded = undated(&recordings.extra_text(&format!("{case}.after.txt")));
    assert_eq!(undated(&after), named_differences(&recorded), "{case}");
    let stderr = undated(&text(&run.stderr).replace(root.to_str().unwrap(), DATA));
    let recorded = undated(&recordings.extra_text(&format!("{case}.stderr")));
    assert_eq!(sorted(&stderr), sorted(&recorded), "{case}");

    let state = root.join("kubepki");
    if case == "agent-only-admin" {
        // There was nothing to remove, so there is nothing to take back.
        assert!(!state.exists());
        return;
    }
    let undo = kubepki(
        &[],
        &["undo", "--yes", "--data-dir", root.to_str().unwrap()],
    );
    assert_eq!(undo.code, Some(0), "{case}: {}", undo.text());
    let options = DiffOptions::exact().without_directory_mtimes();
    Tree::assert_equal(&before, &Tree::snapshot(&root).without("kubepki"), &options);
    secrets.assert_absent(case, run.text() + &undo.text());
    secrets.assert_absent_below(&state, |path| path.starts_with(state.join("backups")));
}

/// Without the moment: `time="…"` and the backup's seconds.
fn undated(text: &str) -> String {
    let line = |line: &str| {
        let line = line.split_once("Z\" ").map_or(line, |(_, rest)| rest);
        let mut parts = line.split("/tls-");
        let mut undated = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            undated.push_str("/tls-NOW");
            undated.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
        }
        undated + "\n"
    };
    text.lines().map(line).collect()
}

/// Files of a backup are 0600; K3s keeps each mode, and gives an agent's keys 0644.
fn named_differences(listing: &str) -> String {
    let line = |line: &str| match line.contains("/tls-NOW") {
        true => line.replacen("f 644 ", "f 600 ", 1) + "\n",
        false => line.to_owned() + "\n",
    };
    listing.lines().map(line).collect()
}

#[test]
fn failures_end_with_1_and_change_nothing() {
    let server = Fixture::without_datastore("k3s-1.36-sqlite");
    let agent = Fixture::without_datastore("k3s-1.36-agent-only");
    let empty = tempfile::tempdir().unwrap();
    let file = tempfile::tempdir().unwrap();
    write(&file.path().join("server"), "not a directory");
    for (root, command, arguments, complaint) in [
        (
            server.data_dir(),
            "check",
            &["-s", "nope"][..],
            "service nope is not recognized; known",
        ),
        (
            server.data_dir(),
            "check",
            &["-o", "xml"],
            "Error: invalid output format xml\"",
        ),
        (
            server.data_dir(),
            "check",
            &["--at", "soon"],
            "is not a moment",
        ),
        (
            server.data_dir(),
            "check",
            &["--unknown"],
            "unexpected argument '--unknown'",
        ),
        (
            server.data_dir(),
            "rotate",
            &["--service", "admin,nope"],
            "service nope is not recognized",
        ),
        (
            agent.data_dir(),
            "rotate",
            &["--service", "k3s-server"],
            "server/tls/dynamic-cert-regenerate: no such file or directory\"",
        ),
        (
            empty.path().to_owned(),
            "rotate",
            &[],
            "exists; name the data directory",
        ),
        (
            file.path().to_owned(),
            "check",
            &[],
            "server/token: not a directory\"",
        ),
    ] {
        let before = Tree::snapshot(&root);
        let run = certificate(&root, command, arguments);
        assert_eq!(
            (run.code, text(&run.stdout)),
            (Some(1), String::new()),
            "{complaint}"
        );
        assert!(text(&run.stderr).contains(complaint), "{}", run.text());
        Tree::assert_equal(&before, &Tree::snapshot(&root), &DiffOptions::exact());
    }
}

#[test]
fn the_log_goes_where_it_is_sent() {
    let fixture = Fixture::without_datastore("k3s-1.36-agent-only");
    let root = fixture.data_dir();
    let file = fixture.scratch("k3s.log");
    let name = file.to_str().unwrap();
    let at = ["--at", "2026-11-22T08:00:00Z"];
    let plain = certificate(&root, "check", &[&at[..], &["-o", "table"]].concat());
    let logged = certificate(
        &root,
        "check",
        &[&at[..], &["-o", "table", "--log", name]].concat(),
    );
    assert_eq!((logged.code, logged.text()), (Some(0), String::new()));
    // As K3s, which leads both of its streams there.
    let both = text(&plain.stderr) + &text(&plain.stdout);
    assert_eq!(fs::read_to_string(&file).unwrap(), both);
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );

    let arguments = [&at[..], &["-o", "table", "-l", name, "--alsologtostderr"]].concat();
    let doubled = certificate(&root, "check", &arguments);
    assert_eq!(
        (text(&doubled.stdout), text(&doubled.stderr)),
        (String::new(), both.clone())
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), both.repeat(2));

    let nowhere = certificate(&root, "check", &["--log", "/nonexistent/k3s.log"]);
    assert_eq!(nowhere.code, Some(1));
    assert!(
        nowhere.text().contains("cannot write /nonexistent/k3s.log"),
        "{}",
        nowhere.text()
    );
}

#[test]
fn flags_environment_and_configuration_name_the_data_directory() {
    let fixture = Fixture::without_datastore("k3s-1.36-agent-only");
    let root = fixture.data_dir().to_str().unwrap().to_owned();
    let config = fixture.scratch("config.yaml");
    write(&config, &format!("data-dir: {root}\n"));
    let config = config.to_str().unwrap();
    let check = [
        "k3s",
        "certificate",
        "check",
        "-o",
        "json",
        "--service",
        "kubelet",
    ];
    let subjects = |run: Run| text(&run.stdout).matches("system:node:k3s-fixture").count();
    let by_flag = kubepki(
        &["K3S_DATA_DIR=/nonexistent"],
        &[&check[..], &["-d", &root]].concat(),
    );
    assert_eq!(subjects(by_flag), 1);
    assert_eq!(
        subjects(kubepki(&[&format!("K3S_DATA_DIR={root}")], &check)),
        1
    );
    assert_eq!(
        subjects(kubepki(&[], &[&check[..], &["-c", config]].concat())),
        1
    );
    assert_eq!(
        subjects(kubepki(&[&format!("K3S_CONFIG_FILE={config}")], &check)),
        1
    );
    // Who names a directory does not mean another one.
    let both = kubepki(
        &["K3S_DATA_DIR=/nonexistent"],
        &[&check[..], &["-c", config]].concat(),
    );
    assert_eq!(subjects(both), 0);
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test writes into its own scratch"
)]
fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

#[test]
fn debug_tells_of_every_file() {
    let fixture = Fixture::without_datastore("k3s-1.36-agent-only");
    let root = fixture.data_dir();
    let key = format!(
        "level=debug msg=\"error reading {}/agent/client-kubelet.key: data does not contain any \
         valid RSA or ECDSA certificates\"\n",
        root.display()
    );
    let talk = |arguments: &[&str]| text(&certificate(&root, "check", arguments).stderr);
    assert!(talk(&["-s", "kubelet", "--debug"]).contains(&key));
    assert!(!talk(&["-s", "kubelet"]).contains("level=debug"));
    assert!(!talk(&["-s", "kubelet", "--debug=false"]).contains("level=debug"));
    let run = certificate(&root, "rotate", &["-s", "kubelet", "--debug"]);
    let gone = format!(
        "level=debug msg=\"file {}/agent/client-kubelet.key is deleted\"",
        root.display()
    );
    assert!(text(&run.stderr).contains(&gone), "{}", run.text());
    assert!(!root.join("agent/client-kubelet.key").exists());
}

#[test]
fn log_lines_carry_local_time() {
    let fixture = Fixture::without_datastore("k3s-1.36-agent-only");
    let root = fixture.data_dir();
    let at = "2026-11-22T08:00:00Z";
    let arguments = [
        "k3s",
        "certificate",
        "check",
        "-d",
        root.to_str().unwrap(),
        "--at",
        at,
    ];
    let run = kubepki(&["TZ=<+0530>-5:30"], &arguments);
    assert!(
        text(&run.stderr).starts_with("time=\"2026-11-22T13:30:00+05:30\" level=info "),
        "{}",
        run.text()
    );
    // Certificates say UTC wherever they are read.
    assert!(text(&run.stderr).contains("expires at 2027-11-22T05:19:12Z"));
}

#[test]
fn links_on_the_way_are_followed_and_shown_as_given() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let real = fixture.data_dir();
    let elsewhere = fixture.scratch("elsewhere");
    move_to(&real.join("server/tls"), &elsewhere);
    symlink(&elsewhere, real.join("server/tls")).unwrap();
    let linked = fixture.scratch("linked");
    symlink(&real, &linked).unwrap();
    let before = (Tree::snapshot(&real), Tree::snapshot(&elsewhere));

    let run = certificate(&linked, "rotate", &["-s", "k3s-server,admin,kubelet"]);
    assert_eq!(run.code, Some(0), "{}", run.text());
    let backup = format!("backed up certificates to {}/server/tls-", linked.display());
    assert!(text(&run.stderr).contains(&backup), "{}", run.text());
    assert!(elsewhere.join("dynamic-cert-regenerate").is_file());
    assert!(!elsewhere.join("client-admin.key").exists());

    let undo = kubepki(
        &[],
        &["undo", "--yes", "--data-dir", linked.to_str().unwrap()],
    );
    assert_eq!(undo.code, Some(0), "{}", undo.text());
    let options = DiffOptions::exact().without_directory_mtimes();
    Tree::assert_equal(
        &before.0,
        &Tree::snapshot(&real).without("kubepki"),
        &options,
    );
    Tree::assert_equal(&before.1, &Tree::snapshot(&elsewhere), &options);
}

#[expect(clippy::disallowed_methods, reason = "a test rearranges its own copy")]
fn move_to(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap();
}
