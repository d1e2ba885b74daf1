//! `renew`'s arithmetic: what is due when, on real trees under a clock that the test sets.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod lab;
mod properties;

use std::collections::BTreeSet;

use kubepki::plan::PlanError;
use pki::{DAY, UnixTime};

use lab::{Lab, files};

/// Services that are re-issued days apart, and the files that carry their dates.
const AGES: &[(&str, i64, &[&str])] = &[
    (
        "admin",
        30,
        &["client-admin.crt", "client-admin.key", "k3s.yaml"],
    ),
    (
        "etcd",
        60,
        &[
            "client.crt",
            "client.key",
            "server-client.crt",
            "server-client.key",
            "peer-server-client.crt",
            "peer-server-client.key",
        ],
    ),
    ("k3s-server", 90, &["dynamic-cert.json"]),
];
/// The leaves of the fixture: 13 of the server, 4 of the agent, the listener's.
const LEAVES: usize = 18;
/// One leaf of each of these services.
const ROWS: [&str; 3] = ["client-admin", "etcd-client", "dynamic-listener"];

fn names(files: &[&str]) -> BTreeSet<String> {
    files.iter().map(|&name| name.to_owned()).collect()
}

/// A server whose leaves are of three ages and older: all others, the fixture's own.
async fn of_many_ages() -> Lab {
    let lab = Lab::new("k3s-1.36-sqlite");
    let written = lab.end("client-admin").await.plus(-365 * DAY);
    for (service, days, expected) in AGES {
        let now = written.plus(days * DAY);
        let plan = lab.rotation(now, service).await;
        assert_eq!(lab.apply(&plan, now).await, names(expected), "{service}");
    }
    lab
}

#[tokio::test]
async fn exactly_what_is_inside_the_window_is_renewed() {
    for days in [90, 120] {
        let lab = of_many_ages().await;
        // The others first, so that they are out of the way.
        let others = lab.end("client-supervisor").await.plus(-days * DAY);
        assert!(lab.due(others.plus(-3_600), days).await.selected.is_empty());
        let now = others.plus(3_600);
        let plan = lab.plan(now, days).await.unwrap();
        let named: BTreeSet<String> = AGES.iter().flat_map(|(.., files)| names(files)).collect();
        assert_eq!(files(&plan).intersection(&named).count(), 0);
        let pairs = LEAVES - 1 - 3 - 1;
        assert_eq!(lab.apply(&plan, now).await.len(), 2 * pairs);

        for ((service, _, expected), row) in AGES.iter().zip(ROWS) {
            let expected = names(expected);
            let edge = lab.end(row).await.plus(-days * DAY);
            let before = lab.plan(edge.plus(-1), days).await.unwrap();
            assert_eq!(
                files(&before),
                BTreeSet::new(),
                "{service}, one second before"
            );
            for moment in [edge, edge.plus(1)] {
                let plan = lab.plan(moment, days).await.unwrap();
                assert_eq!(files(&plan), expected, "{service}, {days} days");
            }
            let plan = lab.plan(edge, days).await.unwrap();
            assert_eq!(lab.apply(&plan, edge).await, expected, "{service}");
            assert_eq!(
                lab.end(row).await,
                edge.plus(365 * DAY - 3_600),
                "{service}"
            );
            // At once again, and a second later: nothing to do.
            for moment in [edge, edge.plus(1)] {
                let again = lab.plan(moment, days).await.unwrap();
                assert!(again.steps.is_empty(), "{service}: {:?}", files(&again));
            }
        }
    }
}

#[tokio::test]
async fn after_the_end_everything_is_renewed_and_says_why() {
    let lab = Lab::new("k3s-1.36-sqlite");
    let mut end = UnixTime::from_secs(0);
    for row in ["client-admin", "agent/client-kubelet", "dynamic-listener"] {
        end = end.max(lab.end(row).await);
    }
    let now = end.plus(1);
    let due = lab.due(now, 90).await;
    assert!(due.notes.is_empty(), "{:?}", due.notes);
    assert_eq!(due.selected.len(), LEAVES, "{:#?}", due.selected);
    for selection in &due.selected {
        assert!(
            selection.reason.contains("expired 2027-11-22"),
            "{selection:?}"
        );
    }
    let plan = lab.plan(now, 90).await.unwrap();
    let changed = lab.apply(&plan, now).await;
    assert_eq!(changed, files(&plan));
    assert!(changed.contains("k3s.yaml") && changed.contains("dynamic-cert.json"));
    let again = lab.due(now, 90).await;
    assert!(again.selected.is_empty(), "{again:?}");
}

#[tokio::test]
async fn an_expired_ca_changes_nothing_and_names_the_command() {
    let lab = Lab::new("k3s-1.36-sqlite");
    let now = lab.end("client-ca").await.plus(1);
    let tree = lab.tree();
    let error = lab.plan(now, 120).await.unwrap_err();
    assert!(
        matches!(error, PlanError::AuthorityExpired { .. }),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.contains("-ca.crt") && text.contains("kubepki ca stage"),
        "{text}"
    );
    assert_eq!(tree, lab.tree());
}

#[tokio::test]
async fn a_leaf_that_ends_with_its_ca_is_said_once_and_not_renewed_for_ever() {
    let lab = Lab::new("k3s-1.36-sqlite");
    let mut end = lab.end("client-ca").await;
    for authority in [
        "server-ca",
        "request-header-ca",
        "etcd-server-ca",
        "etcd-peer-ca",
    ] {
        end = end.min(lab.end(authority).await);
    }
    let now = end.plus(-30 * DAY);
    let plan = lab.plan(now, 120).await.unwrap();
    let changed = lab.apply(&plan, now).await;
    assert!(changed.contains("dynamic-cert.json") && changed.contains("k3s.yaml"));
    assert_eq!(lab.end("client-admin").await, lab.end("client-ca").await);
    assert_eq!(
        lab.end("dynamic-listener").await,
        lab.end("server-ca").await
    );

    for moment in [now, now.plus(DAY), end] {
        let due = lab.due(moment, 120).await;
        assert_eq!(due.selected, [], "{moment}");
        assert_eq!(due.notes.len(), LEAVES, "{:#?}", due.notes);
        for note in &due.notes {
            assert!(note.contains("rotate the CA (`kubepki ca stage`"), "{note}");
        }
    }
}

#[tokio::test]
async fn the_window_is_that_of_the_release() {
    for (fixture, days) in [("k3s-1.36-sqlite", 120), ("k3s-1.21-sqlite", 90)] {
        let inventory = Lab::new(fixture).inventory(UnixTime::from_secs(0)).await;
        assert_eq!(inventory.release.renewal_window_days(), days, "{fixture}");
    }
}

#[tokio::test]
async fn what_ends_with_its_ca_is_still_mended() {
    let lab = Lab::new("k3s-1.36-sqlite");
    let now = lab.end("client-ca").await.plus(-30 * DAY);
    let plan = lab.plan(now, 120).await.unwrap();
    lab.apply(&plan, now).await;
    let inventory = lab.inventory(now).await;
    let key = inventory.row("client-scheduler").unwrap().key.as_ref();
    std::fs::remove_file(&key.unwrap().path).unwrap();
    let inventory = lab.inventory(now).await;
    let wishes = kubepki::cluster::Wishes {
        add_sans: vec![pki::San::from_text("api.example.org")],
        ..lab::wishes(&inventory)
    };
    let policy = lab::policy(&inventory, 120);
    let due = kubepki::plan::due(&inventory, &wishes, &policy, now).unwrap();
    let rows: Vec<&str> = due.selected.iter().map(|it| it.row).collect();
    let expected = [
        "client-scheduler",
        "serving-kube-apiserver",
        "etcd-server-client",
        "etcd-peer-server-client",
        "dynamic-listener",
    ];
    assert_eq!(rows, expected);
    assert_eq!(due.notes.len(), LEAVES - expected.len());
}
