//! One thing broken in a good tree, and exactly that found: files, keys, dates.

use std::os::unix::fs::symlink;

use kubepki::check::{FindingKind, Severity};
use pki::{DAY, Purpose};

use crate::issue::{Sample, Short};
use crate::tree::{AT, Question, Tree};

const GOOD: &str = "k3s-1.36-sqlite";

fn good() -> Tree {
    Tree::fixture(GOOD)
}

#[test]
fn a_file_that_is_gone() {
    let tree = good();
    tree.remove("server/tls/client-scheduler.crt");
    tree.finds(AT, &["broken missing server/tls/client-scheduler.crt"]);
    let finding = &tree.check(AT)[0];
    let mends = finding.mends.as_deref().unwrap();
    assert!(mends.starts_with("kubepki renew --data-dir "), "{mends}");
}

#[test]
fn half_a_rotation_by_k3s_itself() {
    let tree = good();
    tree.remove("server/tls/client-admin.crt");
    tree.remove("server/tls/client-admin.key");
    tree.finds(AT, &["broken missing server/tls/client-admin.crt"]);
}

#[test]
fn what_every_start_makes_is_only_due() {
    let tree = good();
    for file in [
        "server/tls/server-ca.nochain.crt",
        "server/tls/service.current.key",
        "server/tls/dynamic-cert.json",
    ] {
        tree.remove(file);
    }
    tree.finds(
        AT,
        &[
            "due missing server/tls/server-ca.nochain.crt",
            "due missing server/tls/service.current.key",
            "due missing server/tls/dynamic-cert.json",
        ],
    );
}

#[test]
fn a_ca_file_that_is_gone() {
    let tree = good();
    tree.remove("server/tls/etcd/peer-ca.crt");
    tree.finds(AT, &["broken missing server/tls/etcd/peer-ca.crt"]);
}

#[test]
fn a_key_that_is_gone() {
    let tree = good();
    tree.remove("server/tls/client-scheduler.key");
    tree.remove("server/tls/client-ca.key");
    tree.finds(
        AT,
        &[
            "broken key-missing server/tls/client-ca.key",
            "broken key-missing server/tls/client-scheduler.key",
        ],
    );
}

#[test]
fn a_key_of_another_certificate() {
    let tree = good();
    tree.copy(
        "server/tls/client-admin.key",
        "server/tls/client-scheduler.key",
    );
    tree.finds(AT, &["broken key-mismatch server/tls/client-scheduler.crt"]);
}

#[test]
fn files_that_are_not_what_they_should_be() {
    let tree = good();
    tree.write("server/tls/client-scheduler.crt", b"");
    tree.write(
        "server/tls/client-controller.key",
        b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n",
    );
    tree.write("server/cred/admin.kubeconfig", b"[");
    tree.write("server/tls/dynamic-cert.json", b"{");
    tree.remove("server/tls/client-supervisor.crt");
    std::fs::create_dir(tree.path("server/tls/client-supervisor.crt")).unwrap();
    tree.finds(
        AT,
        &[
            "broken directory server/tls/client-supervisor.crt",
            "broken malformed server/tls/client-controller.key",
            "broken malformed server/tls/client-scheduler.crt",
            "broken malformed server/tls/dynamic-cert.json",
            "broken malformed server/cred/admin.kubeconfig",
        ],
    );
}

#[test]
fn modes_that_let_others_in() {
    let tree = good();
    tree.chmod("server/tls/client-admin.key", 0o640);
    tree.chmod("server/tls/service.key", 0o604);
    tree.chmod("server/tls/server-ca.crt", 0o664);
    // As K3s extracts it from the datastore.
    tree.chmod("server/tls/client-ca.crt", 0o600);
    tree.finds(
        AT,
        &[
            "warning wrong-mode server/tls/server-ca.crt",
            "warning wrong-mode server/tls/client-admin.key",
            "warning wrong-mode server/tls/service.key",
        ],
    );
}

#[test]
fn a_link_is_named_and_not_followed() {
    let tree = good();
    let outside = tree.path("elsewhere.crt");
    std::fs::rename(tree.path("server/tls/client-scheduler.crt"), &outside).unwrap();
    symlink(
        "/etc/hostname",
        tree.path("server/tls/client-scheduler.crt"),
    )
    .unwrap();
    tree.finds(AT, &["warning link server/tls/client-scheduler.crt"]);
    let FindingKind::Link { outside, .. } = tree.check(AT)[0].kind else {
        panic!("no link");
    };
    assert!(outside);
    tree.remove("server/tls/client-scheduler.crt");
    symlink(
        "../../elsewhere.crt",
        tree.path("server/tls/client-scheduler.crt"),
    )
    .unwrap();
    let FindingKind::Link { outside, .. } = tree.check(AT)[0].kind else {
        panic!("no link");
    };
    assert!(!outside);
}

#[test]
fn the_windows_edge_and_the_last_second() {
    let tree = good();
    let file = tree.inventory();
    let end = file.row("client-admin").unwrap().file.certificates()[0]
        .validity()
        .not_after;
    let inventory = tree.inventory();
    let rules = |now| {
        let mut rules: Vec<_> = Question::of(&inventory)
            .ask(now)
            .iter()
            .filter(|found| {
                found.severity > Severity::Note && found.path.ends_with("client-admin.crt")
            })
            .map(|found| (found.severity, found.kind.rule()))
            .collect();
        rules.dedup();
        rules
    };
    assert_eq!(rules(end.plus(-120 * DAY - 1)), []);
    assert_eq!(rules(end.plus(-120 * DAY)), [(Severity::Due, "due")]);
    assert_eq!(rules(end), [(Severity::Due, "due")]);
    assert_eq!(rules(end.plus(1)), [(Severity::Broken, "expired")]);
}

#[test]
fn everything_that_ends_is_found_with_the_copies_inlined() {
    let tree = good();
    let late = AT.plus(400 * DAY);
    let found = tree.check(late);
    let expired: Vec<_> = found
        .iter()
        .filter(|finding| finding.severity > Severity::Note)
        .collect();
    assert!(
        expired
            .iter()
            .all(|finding| finding.kind.rule() == "expired"),
        "{expired:#?}"
    );
    // 13 leaves of the server, 4 of the agent, the listener, the admin kubeconfig.
    assert_eq!(expired.len(), 19);
    assert!(
        expired
            .iter()
            .any(|finding| finding.path.ends_with("dynamic-cert.json"))
    );
    assert!(
        expired
            .iter()
            .any(|finding| finding.path.ends_with("k3s.yaml"))
    );
}

#[test]
fn a_clock_before_the_first_second() {
    let tree = good();
    let found = tree.check(AT.plus(-10 * DAY));
    assert!(
        found
            .iter()
            .filter(|finding| finding.severity > Severity::Note)
            .all(|finding| finding.kind.rule() == "not-yet-valid")
    );
    assert!(
        found
            .iter()
            .any(|finding| finding.path.ends_with("server-ca.crt"))
    );
}

#[test]
fn cas_are_due_a_year_ahead_or_as_asked() {
    let tree = good();
    let inventory = tree.inventory();
    let mut question = Question::of(&inventory);
    question.authority_window = 11 * 365 * DAY;
    let due: Vec<_> = question
        .ask(AT)
        .into_iter()
        .filter(|finding| finding.severity > Severity::Note)
        .collect();
    assert_eq!(due.len(), 5, "{due:#?}");
    for finding in due {
        assert_eq!(finding.severity, Severity::Due);
        assert!(matches!(
            finding.kind,
            FindingKind::Due {
                window_days: 4015,
                ..
            }
        ));
        assert!(finding.mends.unwrap().contains("rotate-ca"));
    }
}

#[test]
fn an_expired_ca_is_said_once_and_not_for_every_leaf() {
    let tree = good();
    let ca = Short::authority(&tree, "server/tls/etcd/peer-ca", "etcd-peer-ca", 1);
    ca.issue(
        &tree,
        "server/tls/etcd/peer-server-client",
        &Sample {
            common_name: "etcd-peer",
            purposes: &[Purpose::ServerAuth, Purpose::ClientAuth],
            sans_of: Some("server/tls/etcd/server-client.crt"),
            ..Sample::default()
        },
    );
    let two_days_on = AT.plus(2 * DAY);
    let found: Vec<_> = tree.found(two_days_on);
    assert_eq!(
        found,
        [
            "broken expired server/tls/etcd/peer-ca.crt",
            "broken expired server/tls/etcd/peer-server-client.crt",
        ]
    );
    let leaf = tree
        .check(two_days_on)
        .into_iter()
        .find(|finding| finding.row == Some("etcd-peer-server-client"))
        .unwrap();
    assert!(
        leaf.mends.unwrap().contains("rotate-ca"),
        "a renewal cannot help"
    );
}

#[test]
fn a_token_that_pins_another_ca() {
    let tree = good();
    let token = String::from_utf8(tree.read("server/token")).unwrap();
    let (_, rest) = token.split_once("::").unwrap();
    tree.write(
        "server/token",
        format!("K10{}::{rest}", "0".repeat(64)).as_bytes(),
    );
    tree.finds(AT, &["warning token-hash server/token"]);
    let said = tree.check(AT)[0].to_string();
    assert!(!said.contains("fixture-token"), "{said}");
    // A password alone pins nothing.
    tree.write("server/token", b"fixture-token-0123456789abcdef\n");
    tree.finds(AT, &[]);
}
