//! What cannot be on an RKE cluster: told in words, with an exit code, and nothing is changed.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

mod files;
mod hints;
mod operator;
#[path = "../common/rke_log.rs"]
mod rke_log;

use std::fs;

use pki::{Authority, DAY, KeyAlgorithm, Name, PrivateKey, Serial, UnixTime, Validity};
use serde_json::{Value, json};
use testkit::{DiffOptions, Tree};

use crate::operator::{Operator, entry, run_in, text};

/// What makes the folder wrong.
type Spoil = fn(&Operator);

/// What is wrong, the arguments, the drop-in's last line, and what the native command ends with.
struct Case {
    name: &'static str,
    spoil: Spoil,
    args: &'static [&'static str],
    fatal: &'static str,
    native: Option<i32>,
}

const FINE: Spoil = |_| {};

fn anothers_key(operator: &Operator) {
    operator.state(|state| {
        let other = entry(state, "kube-node")["keyPEM"].clone();
        entry(state, "kube-ca")["keyPEM"] = other;
    });
}

const fn case(
    name: &'static str,
    spoil: Spoil,
    args: &'static [&'static str],
    fatal: &'static str,
    native: Option<i32>,
) -> Case {
    Case {
        name,
        spoil,
        args,
        fatal,
        native,
    }
}

fn expired() -> String {
    let now = UnixTime::from_secs(1_700_000_000);
    let validity = Validity {
        not_before: now,
        not_after: now.plus(DAY),
    };
    let key = PrivateKey::generate(KeyAlgorithm::Rsa(2048)).unwrap();
    let name = Name::new(&[], "kube-ca").unwrap();
    let serial = Serial::random(|bytes| {
        bytes.fill(7);
        Ok(())
    });
    let authority = Authority::self_signed(&name, key, serial.unwrap(), validity).unwrap();
    authority.certificate().to_pem()
}

const CASES: &[Case] = &[
    case(
        "unknown service",
        FINE,
        &["--service", "apiserver"],
        "unknown service \"apiserver\"; allowed values: kube-apiserver,",
        Some(2),
    ),
    case(
        "two services in one value",
        FINE,
        &["--service", "etcd,kubelet"],
        "unknown service \"etcd,kubelet\"; ",
        None,
    ),
    case(
        "CAs and a service",
        FINE,
        &["--rotate-ca", "--service", "etcd"],
        "--rotate-ca rotates the certificates of every service: it cannot be used with --service",
        None,
    ),
    case(
        "no cluster.yml",
        |it| fs::remove_file(it.folder().join("cluster.yml")).unwrap(),
        &[],
        "Failed to resolve cluster file: can not find cluster configuration file: open /",
        Some(1),
    ),
    case(
        "broken YAML",
        |it| it.edit("cluster.yml", |text| format!("{text}\n  - ]: [")),
        &[],
        "Failed to parse cluster file: ",
        Some(1),
    ),
    case(
        "a node without a user",
        |it| it.edit("cluster.yml", |text| text.replacen("user: root", "#", 1)),
        &[],
        "Failed to validate cluster: User for host (1) is not provided",
        Some(1),
    ),
    case(
        "no state file",
        |it| fs::remove_file(it.folder().join("cluster.rkestate")).unwrap(),
        &[],
        "Failed to rotate certificates: can't find old certificates",
        Some(1),
    ),
    case(
        "another name for --config",
        |it| {
            let folder = it.folder();
            fs::copy(folder.join("cluster.yml"), folder.join("prod.yml")).unwrap();
        },
        &["--config", "prod.yml"],
        "Failed to rotate certificates: can't find old certificates",
        None,
    ),
    case(
        "an empty state",
        |it| it.state(|state| *state = json!({"desiredState": {}, "currentState": {}})),
        &[],
        "Failed to rotate certificates: can't find old certificates",
        Some(5),
    ),
    case(
        "broken JSON",
        |it| it.edit("cluster.rkestate", |text| text.replacen('{', "", 1)),
        &[],
        "[state] failed to read state file: ",
        Some(1),
    ),
    case(
        "no CA",
        |it| {
            it.state(|state| {
                let bundle = state
                    .pointer_mut("/currentState/certificatesBundle")
                    .unwrap();
                bundle.as_object_mut().unwrap().remove("kube-ca");
            });
        },
        &[],
        "Failed to rotate certificates: can't find CA certificate",
        Some(5),
    ),
    case(
        "a CA without a certificate",
        |it| it.state(|state| entry(state, "kube-ca")["certificatePEM"] = json!("")),
        &[],
        "Failed to rotate certificates: CA certificate is nil",
        Some(5),
    ),
    case(
        "a CA without its key",
        |it| it.state(|state| entry(state, "kube-ca")["keyPEM"] = json!("")),
        &["--service", "kubelet"],
        "CA Certificate or Key is empty",
        Some(5),
    ),
    case(
        "a CA with another's key",
        anothers_key,
        &["--service", "kubelet"],
        "kube-ca in the state file cannot sign: ",
        Some(5),
    ),
    case(
        "a CA with another's key that is to vouch",
        anothers_key,
        &["--rotate-ca"],
        "kube-ca cannot vouch for a new root: ",
        None,
    ),
    case(
        "a CA that has expired",
        |it| it.state(|state| entry(state, "kube-ca")["certificatePEM"] = json!(expired())),
        &[],
        "Failed to rotate certificates: CA certificate is invalid, please use the --rotate-ca \
         flag to rotate CA certificate, error: ",
        Some(5),
    ),
    case(
        "hosts that do not answer",
        FINE,
        &[],
        "Cluster must have at least one etcd plane host: failed to connect to the following etcd \
         host(s) [127.0.0.11 127.0.0.12]",
        Some(5),
    ),
    case(
        "an SSH key that is none",
        |it| it.edit("id", |_| "no key\n".to_owned()),
        &[],
        "",
        Some(5),
    ),
];

#[test]
fn rotations_are_refused_and_nothing_is_changed() {
    for case in CASES {
        let operator = Operator::new();
        (case.spoil)(&operator);
        let before = Tree::snapshot(operator.folder());
        let mut args = vec!["rke", "cert", "rotate"];
        args.extend(case.args);
        let run = operator.run(&args);
        let name = case.name;
        assert_eq!(run.code, Some(1), "{name}: {}", run.text());
        let lines = rke_log::parsed(&text(&run.stdout));
        let (level, said) = lines.last().unwrap();
        assert_eq!(level, "fatal", "{name}: {}", run.text());
        assert!(said.starts_with(case.fatal), "{name}: {said}");
        if let Some(code) = case.native {
            let mut args = vec!["rotate", "--yes", "--cluster", "cluster.yml"];
            args.extend(case.args);
            let run = operator.run(&args);
            assert_eq!(run.code, Some(code), "{name}: {}", run.text());
            assert!(run.stdout.is_empty(), "{name}: {}", run.text());
            assert!(!run.stderr.is_empty(), "{name}");
        }
        let after = Tree::snapshot(operator.folder());
        Tree::assert_equal(&before, &after, &DiffOptions::exact());
    }
}

#[test]
fn the_log_begins_as_rkes_in_both_forms() {
    let operator = Operator::new();
    let recorded = text(&fs::read(operator.0.extra("logs/rotate.log")).unwrap());
    let recorded = rke_log::parsed(&recorded);
    let run = operator.run(&["rke", "cert", "rotate"]);
    let said = rke_log::parsed(&text(&run.stdout));
    assert_eq!(said[..3], recorded[..3]);
    let away: Vec<_> = said[3..]
        .iter()
        .filter(|(level, _)| level == "warning")
        .map(|(_, text)| text.split_once(": ").map_or(&**text, |it| it.0))
        .collect();
    let hosts = ["127.0.0.11", "127.0.0.12", "127.0.0.13"];
    let pairs = hosts.map(|host| {
        [
            format!("Failed to set up SSH tunneling for host [{host}]"),
            format!("Removing host [{host}] from node lists"),
        ]
    });
    assert_eq!(away, pairs.concat());

    // On a terminal: colours, seconds, padding, and no fields.
    let program = env!("CARGO_BIN_EXE_kubepki");
    let folder = operator.folder();
    let command = format!("cd {} && {program} rke cert rotate", folder.display());
    let run = testkit::run("script", &["-qec", &command, "/dev/null"], b"");
    assert_eq!(run.code, Some(1), "{}", run.text());
    let shown = text(&run.stdout).replace("\r\n", "\n");
    let line = |text: &str| format!("\u{1b}[36mINFO\u{1b}[0m[0000] {text:<44} \n");
    for (_, text) in &recorded[..3] {
        assert!(shown.contains(&line(text)), "{shown}");
    }
    assert!(shown.contains("\u{1b}[31mFATA\u{1b}[0m["), "{shown}");
    assert!(!shown.contains("level="), "{shown}");
}

#[test]
fn plans_need_hosts() {
    let operator = Operator::new();
    let before = Tree::snapshot(operator.folder());
    for command in ["rotate", "rotate-ca", "plan"] {
        let args = [command, "--cluster", "cluster.yml"];
        let run = operator.run(&args);
        assert_eq!(run.code, Some(5), "{command}: {}", run.text());
        assert!(run.text().contains("--skip-unreachable"), "{}", run.text());
    }
    let after = Tree::snapshot(operator.folder());
    Tree::assert_equal(&before, &after, &DiffOptions::exact());
}

#[test]
fn quiet_is_quiet() {
    let operator = Operator::new();
    let run = operator.run(&["rke", "--quiet", "cert", "rotate"]);
    assert_eq!((run.code, text(&run.stdout)), (Some(1), String::new()));
}

#[test]
fn flags_of_the_other_kind_are_a_usage_error() {
    let operator = Operator::new();
    let before = Tree::snapshot(operator.folder());
    for (args, flag) in [
        (vec!["rotate", "--tls-san", "x"], "--tls-san"),
        (vec!["rotate", "--keep-key"], "--keep-key"),
        (vec!["rotate", "--restart"], "--restart"),
        (vec!["rotate", "--data-dir", "/x"], "--data-dir"),
        (vec!["plan", "--window", "9"], "--window"),
        (vec!["rotate-ca", "--staged"], "--staged"),
        (vec!["rotate-ca", "--direct"], "--direct"),
        (vec!["check", "/x"], "a data directory"),
        (vec!["check", "--timeline"], "--timeline"),
        (vec!["init", "--node-name", "x"], "--node-name"),
        (vec!["undo", "--k3s-version", "v1.30.0"], "--k3s-version"),
    ] {
        let mut all = args.clone();
        all.extend(["--cluster", "cluster.yml"]);
        let run = operator.run(&all);
        assert_eq!(run.code, Some(2), "{args:?}: {}", run.text());
        assert!(run.text().contains(flag), "{args:?}: {}", run.text());
    }
    for flag in [
        vec!["rotate", "--skip-unreachable", "10.0.0.1"],
        vec!["rotate-ca", "--staged", "--allow-etcd-outage"],
        vec!["undo", "--ssh-accept-new"],
        vec!["resume", "--known-hosts", "x"],
        vec!["check", "--offline"],
        vec!["init", "--ssh-agent-auth"],
    ] {
        let mut all = flag.clone();
        all.extend(["--data-dir", "/nonexistent"]);
        let run = operator.run(&all);
        assert_eq!(run.code, Some(2), "{flag:?}: {}", run.text());
        let about = "is for RKE clusters: --cluster FILE";
        assert!(run.text().contains(about), "{flag:?}: {}", run.text());
    }
    let after = Tree::snapshot(operator.folder());
    Tree::assert_equal(&before, &after, &DiffOptions::exact());
}

#[test]
fn the_directory_tells_what_it_is_about() {
    let operator = Operator::new();
    let run = operator.run(&["history"]);
    assert_eq!(run.code, Some(0), "{}", run.text());
    assert!(
        run.text().contains("Nothing was planned here yet."),
        "{}",
        run.text()
    );
    // The environment of a K3s node speaks for K3s.
    let folder = operator.folder();
    let folder = folder.to_str().unwrap();
    let program = env!("CARGO_BIN_EXE_kubepki");
    let arguments = |rest: &[&'static str]| {
        let mut all = vec!["-i".to_owned(), "-C".to_owned(), folder.to_owned()];
        all.push("K3S_DATA_DIR=/nonexistent".to_owned());
        all.push(program.to_owned());
        all.extend(rest.iter().map(|it| (*it).to_owned()));
        all
    };
    let run = testkit::run("env", &arguments(&["history"]), b"");
    assert_eq!(run.code, Some(1), "{}", run.text());
    assert!(run.text().contains("/nonexistent"), "{}", run.text());
    let run = testkit::run(
        "env",
        &arguments(&["history", "--cluster", "cluster.yml"]),
        b"",
    );
    assert_eq!(run.code, Some(0), "{}", run.text());
    // Neither here.
    let empty = operator.0.scratch("empty");
    fs::create_dir_all(&empty).unwrap();
    assert_ne!(run_in(&empty, &["history"]).code, Some(0));
}

#[test]
fn check_without_hosts() {
    let operator = Operator::new();
    let before = Tree::snapshot(operator.folder());
    let run = operator.run(&["check", "--offline"]);
    assert!(matches!(run.code, Some(0 | 3)), "{}", run.text());
    let run = operator.run(&["check", "--offline", "--at", "2046-01-01T00:00:00Z"]);
    assert_eq!(run.code, Some(4), "{}", run.text());
    let run = operator.run(&["check", "--offline", "-o", "json"]);
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    let certificates = report.pointer("/trees/0/certificates").unwrap();
    let shown = |path: &str| {
        let all = certificates.as_array().unwrap();
        all.iter().any(|it| it["path"] == json!(path))
    };
    assert!(shown("cluster.rkestate:kube-ca"), "{certificates}");
    assert!(
        shown("cluster.rkestate:kube-etcd-10-99-0-12"),
        "{certificates}"
    );
    // Hosts that do not answer are findings.
    let run = operator.run(&["check"]);
    assert_ne!(run.code, Some(0), "{}", run.text());
    assert!(run.text().contains("127.0.0.13"), "{}", run.text());
    let after = Tree::snapshot(operator.folder());
    Tree::assert_equal(&before, &after, &DiffOptions::exact());
}

#[test]
fn state_is_shown_without_keys() {
    let operator = Operator::new();
    let run = operator.run(&["state", "show"]);
    assert_eq!(run.code, Some(0), "{}", run.text());
    let shown = text(&run.stdout);
    assert!(shown.contains("kube-etcd-10-99-0-11"), "{shown}");
    assert!(shown.contains("CN=system:node"), "{shown}");
    assert!(
        !shown.contains("PRIVATE") && !shown.contains("BEGIN"),
        "{shown}"
    );
    let run = operator.run(&["state", "show", "-o", "json"]);
    let entries: Vec<Value> = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(entries.len(), 15, "{entries:?}");
    assert!(!text(&run.stdout).contains("BEGIN"));
    let run = operator.run(&["state", "rebuild", "--from-host", "127.0.0.11", "--yes"]);
    assert_eq!(run.code, Some(5), "{}", run.text());
}

#[test]
fn a_first_state_is_made_once_and_taken_back() {
    let operator = Operator::new();
    let state = operator.folder().join("cluster.rkestate");
    let run = operator.run(&["init", "--yes"]);
    assert_eq!(run.code, Some(5), "{}", run.text());
    fs::remove_file(&state).unwrap();
    let run = operator.run(&["init", "--dry-run"]);
    assert_eq!(run.code, Some(0), "{}", run.text());
    assert!(!state.exists());
    let run = operator.run(&["init", "--yes"]);
    assert_eq!(run.code, Some(0), "{}", run.text());
    let made: Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    let bundle = made.pointer("/desiredState/certificatesBundle").unwrap();
    assert_eq!(bundle.as_object().unwrap().len(), 15);
    let run = operator.run(&["undo", "--yes"]);
    assert_eq!(run.code, Some(0), "{}", run.text());
    assert!(!state.exists());
}
