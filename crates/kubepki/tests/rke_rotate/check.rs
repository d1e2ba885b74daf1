//! The fixture is in order; one thing broken is one finding.

use std::path::PathBuf;

use kubepki::check::{AUTHORITY_WINDOW, Severity};
use kubepki::rke::Half;
use kubepki::rke::check::{Finding, Question, check, report};
use kubepki::rke::survey::FileView;
use pki::{DAY, UnixTime};
use testkit::assert_golden;

use crate::lab::{Lab, NOW, host_entry};

fn found(lab: &Lab) -> Vec<Finding> {
    let root = PathBuf::from("/clusters");
    check(&question(lab, &root))
}

fn question<'a>(lab: &'a Lab, root: &'a PathBuf) -> Question<'a> {
    Question {
        name: "cluster.rkestate",
        root,
        state: &lab.state,
        config: &lab.config,
        survey: Some(&lab.survey),
        now: lab.now,
        window: 90 * DAY,
        authority_window: AUTHORITY_WINDOW,
    }
}

/// Findings that are more than notes.
fn wrong(lab: &Lab) -> Vec<(Severity, &'static str, String)> {
    found(lab)
        .into_iter()
        .filter(|finding| finding.severity > Severity::Note)
        .map(|finding| (finding.severity, finding.rule, finding.path))
        .collect()
}

#[test]
fn what_rke_made_is_in_order() {
    let lab = Lab::new();
    assert_eq!(wrong(&lab), []);
    let notes: std::collections::BTreeSet<&str> = found(&lab).iter().map(|it| it.rule).collect();
    assert!(notes.contains("stray-key"), "{notes:?}");
}

type Break = fn(&mut Lab);
type Case = (Break, Severity, &'static str, String);
const SSL: &str = "/etc/kubernetes/ssl";

fn file(name: &str) -> String {
    format!("127.0.0.12:{SSL}/{name}")
}

fn files() -> [Case; 5] {
    [
        (
            |lab| {
                drop(
                    lab.view("127.0.0.12")
                        .files
                        .as_mut()
                        .unwrap()
                        .remove("kube-node.pem"),
                )
            },
            Severity::Broken,
            "missing",
            file("kube-node.pem"),
        ),
        (
            |lab| {
                let view = lab.view("127.0.0.12");
                let files = view.files.as_mut().unwrap();
                let other = files["kube-proxy.pem"].clone();
                files.insert("kube-scheduler.pem".to_owned(), other);
            },
            Severity::Due,
            "state-differs",
            file("kube-scheduler.pem"),
        ),
        (
            |lab| {
                let view = lab.view("127.0.0.12");
                let files = view.files.as_mut().unwrap();
                let other = files["kube-proxy-key.pem"].clone();
                files.insert("kube-scheduler-key.pem".to_owned(), other);
            },
            Severity::Broken,
            "key-mismatch",
            file("kube-scheduler-key.pem"),
        ),
        (
            |lab| {
                let view = lab.view("127.0.0.12");
                let name = "kube-apiserver-key.pem";
                let file = view.files.as_mut().unwrap().get_mut(name).unwrap();
                file.fingerprint.attributes.mode = 0o644;
            },
            Severity::Broken,
            "wrong-mode",
            file("kube-apiserver-key.pem"),
        ),
        (
            |lab| {
                let view = lab.view("127.0.0.12");
                let name = "kube-node.pem";
                let file = view.files.as_mut().unwrap().get_mut(name).unwrap();
                file.fingerprint.attributes.mtime = Some((NOW - 10, 0));
                let view = lab.view("127.0.0.12");
                view.containers.remove("kubelet");
            },
            Severity::Due,
            "serves-old",
            "127.0.0.12: kube-apiserver".to_owned(),
        ),
    ]
}

fn circumstances() -> [Case; 5] {
    [
        (
            |lab| {
                lab.view("127.0.0.12")
                    .containers
                    .get_mut("etcd")
                    .unwrap()
                    .running = false
            },
            Severity::Broken,
            "container-stopped",
            "127.0.0.12: etcd".to_owned(),
        ),
        (
            |lab| {
                let other = lab.state.entry(Half::Current, "kube-proxy").unwrap();
                let other = other.certificate().unwrap().unwrap();
                let view = lab.view("127.0.0.12");
                view.served.insert("10.99.0.12:2379".to_owned(), Ok(other));
            },
            Severity::Due,
            "serves-other",
            "127.0.0.12: 10.99.0.12:2379".to_owned(),
        ),
        (
            |lab| {
                let key = lab.state.entry(Half::Current, "kube-ca").unwrap().key_pem;
                let entry = host_entry(key.as_bytes());
                let view = FileView::of("kube-ca-key.pem", &entry);
                let files = lab.view("127.0.0.13").files.as_mut().unwrap();
                files.insert("kube-ca-key.pem".to_owned(), view);
            },
            Severity::Warning,
            "authority-key-here",
            format!("127.0.0.13:{SSL}"),
        ),
        (
            |lab| lab.config.sans.push("new.example".to_owned()),
            Severity::Warning,
            "config-differs",
            "cluster.yml".to_owned(),
        ),
        (
            |lab| {
                let mut entry = lab.state.entry(Half::Current, "kube-scheduler").unwrap();
                let other = lab.state.entry(Half::Current, "kube-proxy").unwrap();
                entry.certificate_pem = other.certificate_pem;
                lab.state.set_desired([entry]);
            },
            Severity::Due,
            "unfinished",
            "cluster.rkestate".to_owned(),
        ),
    ]
}

#[test]
fn one_thing_broken_is_found() {
    for (damage, severity, rule, path) in files().into_iter().chain(circumstances()) {
        let mut lab = Lab::new();
        damage(&mut lab);
        let wrong = wrong(&lab);
        assert!(
            wrong.contains(&(severity, rule, path)),
            "{rule}: {wrong:#?}"
        );
    }
}

#[test]
fn a_host_that_is_away_is_a_finding_and_no_failure() {
    let mut lab = Lab::new();
    lab.away("127.0.0.13");
    let expected = (Severity::Warning, "unreachable", "127.0.0.13".to_owned());
    assert_eq!(wrong(&lab), [expected]);
}

#[test]
fn what_is_due_and_what_has_expired() {
    let mut lab = Lab::new();
    let node = lab.state.entry(Half::Current, "kube-node").unwrap();
    let end = node.certificate().unwrap().unwrap().validity().not_after;
    lab.now = end.plus(-30 * DAY);
    let rules = |lab: &Lab| -> Vec<&'static str> {
        let found = wrong(lab).into_iter();
        found.map(|(_, rule, _)| rule).collect()
    };
    assert!(rules(&lab).contains(&"due"));
    lab.now = end.plus(DAY);
    let found = found(&lab);
    let expired = found.iter().filter(|finding| finding.rule == "expired");
    let renewals: Vec<&str> = expired
        .filter_map(|finding| finding.mends.as_deref())
        .collect();
    assert!(renewals.contains(&"kubepki rotate --cluster cluster.yml --service etcd"));
    assert!(renewals.contains(&"kubepki rotate-ca --cluster cluster.yml"));
    assert_eq!(found[0].severity, Severity::Broken);
}

#[test]
fn the_report_has_every_certificate_and_every_output() {
    let mut lab = Lab::new();
    lab.now = UnixTime::from_secs(NOW);
    let root = PathBuf::from("/clusters");
    let question = question(&lab, &root);
    let report = report(&question, &check(&question));
    let state = report
        .certificates
        .iter()
        .filter(|entry| entry.path.starts_with("cluster.rkestate:"));
    assert_eq!(state.count(), lab.state.bundle(Half::Current).len());
    assert_eq!(
        (report.role, report.node.as_deref()),
        ("cluster", Some("fixture"))
    );
    assert!(report.to_json().unwrap().contains("stray-key"));
    let lines: String = found(&lab)
        .iter()
        .map(|it| format!("{} {} {}: {}\n", it.severity, it.rule, it.path, it.message))
        .collect();
    assert_golden("tests/golden/rke/check.txt", &lines);
}
