//! Reports, their renderings, and what is to come.

use kubepki::check::{AUTHORITY_WINDOW, Severity};
use kubepki::report::metrics::Metrics;
use kubepki::report::timeline::{self, EventKind, timeline};
use kubepki::report::{Part, Report, Status, table, text, yaml};
use pki::{DAY, UnixTime};

use crate::tree::{AT, Question, Tree};

fn report_at(tree: &Tree, now: UnixTime) -> Report {
    let inventory = tree.inventory();
    let question = Question::of(&inventory);
    let findings = question.ask(now);
    Report::new(&question.asked(now), &findings)
}

#[test]
fn every_certificate_of_the_tree_is_in_it() {
    let tree = Tree::fixture("k3s-1.36-sqlite");
    let report = report_at(&tree, AT);
    let count = |part| {
        report
            .certificates
            .iter()
            .filter(|entry| entry.part == part)
            .count()
    };
    // 13 leaves of the server, 4 of the agent, the listener, the kubeconfig's.
    assert_eq!(count(Part::Leaf), 19);
    assert_eq!(count(Part::Authority), 5);
    assert_eq!(count(Part::Chain), 19);
    // Two without chain, two of the agent, one in the kubeconfig.
    assert_eq!(count(Part::Copy), 5);
    let inlined = report
        .certificates
        .iter()
        .find(|entry| entry.inside.is_some())
        .unwrap();
    assert_eq!(inlined.inside.as_deref(), Some("user default"));
    assert_eq!(inlined.subject, "CN=system:admin,O=system:masters");
    assert_eq!(inlined.usages, ["ClientAuth"]);
    let listener = report
        .certificates
        .iter()
        .find(|e| e.row == Some("dynamic-listener"))
        .unwrap();
    assert!(
        listener.sans.contains(&"k3s-fixture".to_owned()),
        "{:?}",
        listener.sans
    );
    assert_eq!(report.node.as_deref(), Some("k3s-fixture"));
    assert_eq!(report.summary.worst(), Some(Severity::Note));
}

#[test]
fn it_agrees_with_k3s_own_check() {
    for name in [
        "k3s-1.36-sqlite",
        "k3s-1.36-custom-ca",
        "k3s-1.36-default-rotated",
        "k3s-1.36-etcd-embedded",
        "k3s-1.36-agent-only",
    ] {
        let tree = Tree::fixture(name);
        let recorded: serde_json::Value =
            serde_json::from_str(&tree.extra_text("check/json.stdout")).unwrap();
        let report = report_at(&tree, AT);
        let mut ours: Vec<(String, String, String)> = report
            .certificates
            .iter()
            .map(|entry| {
                let file = entry.path.rsplit('/').next().unwrap().to_owned();
                (file, entry.not_after.clone(), entry.usages.join(","))
            })
            .collect();
        for theirs in recorded["Certificates"].as_array().unwrap() {
            let usages: Vec<&str> = theirs["Usages"]
                .as_array()
                .unwrap()
                .iter()
                .map(|u| u.as_str().unwrap())
                .collect();
            let key = (
                theirs["Filename"].as_str().unwrap().to_owned(),
                theirs["ExpiryTime"].as_str().unwrap().to_owned(),
                usages.join(","),
            );
            let place = ours.iter().position(|entry| *entry == key);
            let place = place.unwrap_or_else(|| panic!("{name}: {key:?} is not in our report"));
            ours.swap_remove(place);
        }
        // What K3s's own check does not show: CAs, listener, kubeconfig, copies, strays.
        let listed = |file: &str| ours.iter().any(|entry| entry.0 == file);
        assert!(
            name.ends_with("agent-only") || listed("dynamic-cert.json"),
            "{name}"
        );
    }
}

#[test]
fn the_table_stays_within_a_hundred_columns() {
    for name in ["k3s-1.36-sqlite", "k3s-1.36-custom-ca", "k3s-1.21-sqlite"] {
        let tree = Tree::fixture(name);
        let report = report_at(&tree, AT);
        for all in [false, true] {
            let text = table::render(&report, all);
            let rows = text.lines().skip(1).take_while(|line| !line.contains(": "));
            for line in rows {
                assert!(line.chars().count() <= 100, "{line}");
            }
        }
    }
}

#[test]
fn a_tables_text_is_as_reviewed() {
    let tree = Tree::fixture("k3s-1.36-custom-ca");
    let mut report = report_at(&tree, AT.plus(300 * DAY));
    // Lines are broken by length: the copy's place must not count.
    report.data_dir = "/data".to_owned();
    let place = |text: &str| {
        tree.redacted(text)
            .replace("DATA", "/data")
            .replace("EXTRA", "/extra")
    };
    for entry in &mut report.certificates {
        entry.path = place(&entry.path);
    }
    for finding in &mut report.findings {
        finding.path = place(&finding.path);
        finding.mends = finding.mends.as_deref().map(place);
    }
    let text = table::render(&report, false);
    testkit::assert_golden("tests/golden/check/table.txt", &text);
    let text = text::render(&report, false);
    testkit::assert_golden("tests/golden/check/text.txt", &text);
}

#[test]
fn status_follows_dates_and_findings() {
    let tree = Tree::fixture("k3s-1.36-sqlite");
    tree.copy(
        "server/tls/client-admin.key",
        "server/tls/client-scheduler.key",
    );
    let of = |report: &Report, row: &str| {
        report
            .certificates
            .iter()
            .find(|entry| entry.row == Some(row))
            .unwrap()
            .status
    };
    let now = report_at(&tree, AT);
    assert_eq!(of(&now, "client-admin"), Status::Ok);
    assert_eq!(of(&now, "client-scheduler"), Status::Broken);
    let later = report_at(&tree, AT.plus(300 * DAY));
    assert_eq!(of(&later, "client-admin"), Status::Due);
    assert_eq!(of(&later, "client-scheduler"), Status::Broken);
    let late = report_at(&tree, AT.plus(400 * DAY));
    assert_eq!(of(&late, "client-admin"), Status::Expired);
    assert_eq!(of(&late, "client-ca"), Status::Ok);
    let early = report_at(&tree, AT.plus(-DAY));
    assert_eq!(of(&early, "client-admin"), Status::NotYetValid);
}

#[test]
fn json_and_yaml_say_the_same_and_the_schema_comes_first() {
    let tree = Tree::fixture("k3s-1.36-default-rotated");
    let report = report_at(&tree, AT);
    let json = report.to_json().unwrap();
    assert!(json.starts_with(r#"{"schema":1,"#), "{}", &json[..40]);
    let from_json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let from_yaml: serde_json::Value =
        serde_saphyr::from_str(&yaml::to_yaml(&report, 0).unwrap()).unwrap();
    assert_eq!(from_json, from_yaml);
    let first = &from_json["certificates"][0];
    assert_eq!(first["row"], "client-ca");
    assert_eq!(first["part"], "authority");
    let finding = &from_json["findings"][0];
    assert_eq!(finding["severity"], "warning");
    assert!(finding["mends"].is_string());
}

#[test]
fn metrics_stand_together_and_no_series_comes_twice() {
    let mut metrics = Metrics::default();
    let mut text = String::new();
    for name in ["k3s-1.36-sqlite", "k3s-1.36-custom-ca"] {
        let tree = Tree::fixture(name);
        text.push_str(&metrics.tree(&report_at(&tree, AT)));
    }
    metrics.unreadable("/nowhere\"\\");
    text.push_str(&metrics.end());
    let mut families: Vec<&str> = Vec::new();
    let mut series: Vec<&str> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (labels, value) = line.rsplit_once(' ').unwrap();
        value.parse::<i64>().unwrap();
        series.push(labels);
        families.push(labels.split_once('{').unwrap().0);
    }
    let all = series.len();
    series.sort_unstable();
    series.dedup();
    assert_eq!(series.len(), all, "a series came twice");
    families.dedup();
    assert_eq!(
        families,
        [
            "kubepki_certificate_not_after_seconds",
            "kubepki_findings",
            "kubepki_check_timestamp_seconds",
            "kubepki_tree_readable",
        ]
    );
    for family in families {
        assert_eq!(text.matches(&format!("# TYPE {family} gauge\n")).count(), 1);
    }
    assert!(
        text.contains(r#"kubepki_tree_readable{data_dir="/nowhere\"\\"} 0"#),
        "{text}"
    );
}

#[test]
fn the_timeline_of_a_plain_server() {
    let tree = Tree::fixture("k3s-1.36-sqlite");
    let inventory = tree.inventory();
    let question = Question::of(&inventory);
    let line = timeline(&question.asked(AT));
    let kinds: Vec<_> = line.events.iter().map(|event| event.kind).collect();
    // The agent's leaves are one second younger.
    assert_eq!(
        kinds,
        [
            EventKind::LeafWindow,
            EventKind::LeafWindow,
            EventKind::LeafEnd,
            EventKind::LeafEnd,
            EventKind::AuthorityWindow,
            EventKind::AuthorityEnd,
        ]
    );
    // 13 leaves, the listener and the copy in the kubeconfig; then the agent's four.
    let rows: Vec<_> = line.events.iter().map(|event| event.rows.len()).collect();
    assert_eq!(rows, [15, 4, 15, 4, 5, 5]);
    let gap = line.events[2].in_seconds - line.events[0].in_seconds;
    assert_eq!(gap, 120 * DAY);
    let gap = line.events[5].in_seconds - line.events[4].in_seconds;
    assert_eq!(gap, AUTHORITY_WINDOW);
    assert!(
        line.events[5]
            .consequence
            .contains("kubelets can no longer")
    );
}

#[test]
fn timelines_are_as_reviewed() {
    for name in [
        "k3s-1.36-sqlite",
        "k3s-1.36-default-rotated",
        "k3s-1.36-agent-only",
    ] {
        let tree = Tree::fixture(name);
        let inventory = tree.inventory();
        let question = Question::of(&inventory);
        let line = timeline(&question.asked(AT));
        let text = tree.redacted(&timeline::render(&line));
        testkit::assert_golden(format!("tests/golden/check/timeline-{name}.txt"), &text);
    }
}
