//! What is refused, and that nothing is changed then.

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{KUBEPKI, Node, saved_plan};

const CRT: &str = "data/server/tls/client-admin.crt";

#[test]
fn a_stale_plan_is_refused_with_what_differs() {
    let node = Node::new("k3s-1.36-sqlite");
    let id = saved_plan(&node.ok(&["plan", "--service", "all"]));
    let text = std::fs::read(node.path(CRT)).unwrap();
    node.overwrite(CRT, &[&text[..], b"\n"].concat());
    let tree = node.tree();
    let run = node.ends(&["apply", &id, "--yes"], 5);
    assert!(run.text().contains("is stale"), "{}", run.text());
    assert!(run.text().contains(&node.text_path(CRT)), "{}", run.text());
    assert!(
        !run.text().contains("client-supervisor.crt: "),
        "only what differs: {}",
        run.text()
    );
    node.assert_is(&tree);

    // As it was, but for the mode.
    node.overwrite(CRT, &text);
    std::fs::set_permissions(node.path(CRT), PermissionsExt::from_mode(0o604)).unwrap();
    let run = node.ends(&["apply", &id, "--yes"], 5);
    assert!(
        run.text().contains("expected mode 0644, found 0604"),
        "{}",
        run.text()
    );
    std::fs::remove_file(node.path("data/server/tls/etcd/client.key")).unwrap();
    let run = node.ends(&["apply", &id, "--yes"], 5);
    assert!(run.text().contains("etcd/client.key"), "{}", run.text());
}

#[test]
fn a_plan_is_applied_once() {
    let node = Node::new("k3s-1.36-sqlite");
    let id = saved_plan(&node.ok(&["plan", "--service", "admin"]));
    node.ok(&["apply", &id, "--yes"]);
    let tree = node.tree();
    let run = node.ends(&["apply", &id, "--yes"], 5);
    assert!(run.text().contains("is done"), "{}", run.text());
    node.assert_is(&tree);
    let run = node.ends(&["apply", "20260101T000000Z-rotate-0000", "--yes"], 1);
    assert!(
        run.text()
            .contains("there is no plan 20260101T000000Z-rotate-0000"),
        "{}",
        run.text()
    );
    let run = node.ends(&["apply", "../../etc/passwd", "--yes"], 1);
    assert!(
        run.text().contains("cannot be the name of a plan"),
        "{}",
        run.text()
    );
}

#[test]
fn undo_takes_back_what_was_done_last() {
    let node = Node::new("k3s-1.36-sqlite");
    // Made first and done last, or both in one second: neither name nor date of a plan tells.
    let early = saved_plan(&node.ok(&["plan", "--service", "etcd"]));
    let original = node.tree();
    node.ok(&["rotate", "--yes", "--service", "scheduler"]);
    let rotated = node.tree();
    node.ok(&["apply", &early, "--yes"]);
    node.ok(&["undo", "--yes"]);
    node.assert_is(&rotated);
    node.ok(&["undo", "--yes"]);
    node.assert_is(&original);
    let run = node.ends(&["undo", "--yes"], 1);
    assert!(
        run.text().contains("nothing to take back"),
        "{}",
        run.text()
    );

    node.ok(&["rotate", "--yes", "--service", "scheduler"]);
    let rotated = node.tree();
    node.ok(&["renew", "--yes", "--tls-san", "api.example.org"]);
    node.ok(&["undo", "--yes"]);
    node.assert_is(&rotated);
}

#[test]
fn a_plan_for_another_moment_is_neither_saved_nor_applied() {
    let node = Node::new("k3s-1.36-sqlite");
    let tree = node.tree();
    let run = node.ok(&["plan", "--at", "2027-12-31T00:00:00Z"]);
    assert!(
        run.text().contains("client-admin"),
        "expired by then: {}",
        run.text()
    );
    assert!(!run.text().contains("kubepki apply"), "{}", run.text());
    node.assert_untouched(&tree);
    let run = node.ends(&["plan", "--at", "tomorrow"], 2);
    assert!(
        run.text().contains("2027-01-31T12:00:00Z"),
        "{}",
        run.text()
    );
}

#[test]
fn an_unknown_service_is_named_with_the_list() {
    let node = Node::new("k3s-1.36-sqlite");
    let tree = node.tree();
    for command in ["rotate", "plan"] {
        let run = node.ends(&[command, "--service", "admin,apiserver"], 2);
        let text = run.text();
        assert!(
            text.contains("service apiserver is not recognized"),
            "{text}"
        );
        for service in [
            "admin",
            "api-server",
            "k3s-server",
            "kubelet",
            "k3s-controller",
        ] {
            assert!(text.contains(service), "{service}: {text}");
        }
    }
    node.assert_untouched(&tree);
}

#[test]
fn a_folder_of_something_else_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let missing = folder.path().join("missing");
    for data_dir in [path, missing.to_str().unwrap()] {
        for command in [
            &["rotate", "--yes"][..],
            &["renew", "--yes"],
            &["plan"],
            &["undo", "--yes"],
        ] {
            let run = testkit::run(KUBEPKI, &[command, &["--data-dir", data_dir]].concat(), b"");
            assert_eq!(run.code, Some(1), "{}", run.text());
            assert!(
                run.text().contains("holds neither server/ nor agent/"),
                "{}",
                run.text()
            );
            assert!(run.text().contains(data_dir), "{}", run.text());
        }
    }
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 0);
}

#[test]
fn without_a_terminal_somebody_has_to_say_yes() {
    let node = Node::new("k3s-1.36-sqlite");
    let tree = node.tree();
    let run = node.ends(&["rotate"], 5);
    assert!(run.text().contains("--yes"), "{}", run.text());
    node.assert_untouched(&tree);
}

#[test]
fn a_dry_run_leaves_no_trace() {
    let node = Node::new("k3s-1.36-sqlite");
    let tree = node.tree();
    for args in [
        &["rotate", "--dry-run"][..],
        &["rotate", "--dry-run", "--yes", "-o", "json"],
        &["renew", "--dry-run", "--tls-san", "x.example.org"],
    ] {
        let run = node.ok(args);
        assert!(run.text().contains("nothing was changed"), "{}", run.text());
        assert!(
            run.text().contains("serving-kube-apiserver.crt"),
            "{}",
            run.text()
        );
    }
    node.ok(&["history"]);
    node.assert_untouched(&tree);
}

#[test]
fn wrong_words_are_a_matter_of_usage() {
    let node = Node::new("k3s-1.36-sqlite");
    let tree = node.tree();
    for args in [
        &["rotate", "--frobnicate"][..],
        &["rotate", "--window", "soon"],
        &["applied"],
    ] {
        node.ends(args, 2);
    }
    node.assert_untouched(&tree);
}

#[test]
fn a_ca_without_its_key_changes_nothing() {
    let node = Node::new("k3s-1.36-sqlite");
    std::fs::remove_file(node.path("data/server/tls/server-ca.key")).unwrap();
    let tree = node.tree();
    let run = node.ends(&["rotate", "--yes"], 1);
    assert!(run.text().contains("server-ca.key"), "{}", run.text());
    node.assert_untouched(&tree);
    // What the other CAs sign goes on.
    node.ok(&["rotate", "--yes", "--service", "admin"]);
}

#[test]
fn behind_an_expired_ca_nothing_is_planned() {
    let node = Node::new("k3s-1.36-sqlite");
    let tree = node.tree();
    let run = node.ends(&["plan", "--at", "2036-12-01T00:00:00Z"], 1);
    let text = run.text();
    assert!(text.contains("expired 2036-11-19"), "{text}");
    assert!(text.contains("kubepki ca stage"), "{text}");
    node.assert_untouched(&tree);
}
