//! Trees against the listings recorded from K3s's own runs.
#![expect(clippy::disallowed_methods, reason = "files are changed on purpose")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use testkit::{DiffOptions, Fixture, Tree};

#[test]
fn listings_are_those_of_the_recordings() {
    let recordings = Fixture::new("k3s-1.36-rotate-recordings");
    for (fixture, listing) in [
        ("k3s-1.36-sqlite", "before.txt"),
        ("k3s-1.36-agent-only", "agent-only-before.txt"),
    ] {
        let fixture = Fixture::without_datastore(fixture);
        let tree = Tree::snapshot(fixture.data_dir());
        let expected = recordings.extra_text(listing);
        assert_eq!(
            testkit::line_diff(&expected, &tree.listing()),
            "",
            "{listing}"
        );
    }
}

#[test]
fn two_copies_of_one_archive_are_equal() {
    let (one, other) = (
        Fixture::new("k3s-1.36-custom-ca"),
        Fixture::new("k3s-1.36-custom-ca"),
    );
    let (one, other) = (
        Tree::snapshot(one.data_dir()),
        Tree::snapshot(other.data_dir()),
    );
    // The folder above server/ and agent/ is not in the archive, so its time is now.
    Tree::assert_equal(&one, &other, &DiffOptions::exact().mtime_may_differ("."));
}

#[test]
fn each_kind_of_change_is_named() {
    let fixture = Fixture::without_datastore("k3s-1.36-agent-only");
    let folder = fixture.data_dir();
    let before = Tree::snapshot(&folder);
    let agent = folder.join("agent");
    fs::write(agent.join("client-ca.crt"), "changed").unwrap();
    fs::set_permissions(
        agent.join("server-ca.crt"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    fs::remove_file(agent.join("serving-kubelet.key")).unwrap();
    symlink("serving-kubelet.crt", agent.join("link")).unwrap();
    fs::remove_file(agent.join("kubelet.kubeconfig")).unwrap();
    fs::create_dir(agent.join("kubelet.kubeconfig")).unwrap();
    fs::set_permissions(
        agent.join("kubelet.kubeconfig"),
        fs::Permissions::from_mode(0o700),
    )
    .unwrap();
    let after = Tree::snapshot(&folder);

    let lines = Tree::diff(&before, &after, &DiffOptions::exact().without_mtimes());
    let content = testkit::sha256(b"changed");
    let short = content.get(..12).unwrap();
    assert_eq!(lines.len(), 5, "{lines:#?}");
    let found = |start: &str, end: &str| {
        lines
            .iter()
            .any(|line| line.starts_with(start) && line.ends_with(end))
    };
    assert!(found(
        "~ agent/client-ca.crt: content 566 bytes ",
        &format!("7 bytes {short}")
    ));
    assert!(
        found("~ agent/server-ca.crt: mode 600 -> 644", ""),
        "{lines:#?}"
    );
    assert!(found(
        "- agent/serving-kubelet.key (file, 600, 227 bytes)",
        ""
    ));
    assert!(found("+ agent/link (link to serving-kubelet.crt)", ""));
    assert!(found(
        "~ agent/kubelet.kubeconfig: file, 600, 461 bytes -> directory, 700",
        ""
    ));

    let lenient = DiffOptions::exact()
        .without_directory_mtimes()
        .content_may_differ("agent/client-ca.crt")
        .ignoring("agent/link")
        .ignoring("agent/kubelet.kubeconfig");
    let lines = Tree::diff(&before, &after, &lenient);
    assert_eq!(
        lines,
        [
            "~ agent/server-ca.crt: mode 600 -> 644",
            "- agent/serving-kubelet.key (file, 600, 227 bytes)"
        ]
    );
}

#[test]
fn times_and_attributes_count() {
    let fixture = Fixture::without_datastore("k3s-1.36-agent-only");
    let path = fixture.data_dir().join("agent/client-ca.crt");
    let before = Tree::snapshot(fixture.data_dir());
    fs::write(&path, fs::read(&path).unwrap()).unwrap();
    let touched = Tree::snapshot(fixture.data_dir());
    let lines = Tree::diff(&before, &touched, &DiffOptions::exact());
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines.concat().starts_with("~ agent/client-ca.crt: mtime 1"),
        "{lines:?}"
    );
    let lenient = DiffOptions::exact().mtime_may_differ("agent/client-ca.crt");
    Tree::assert_equal(&before, &touched, &lenient);

    // Not every temporary folder takes attributes; where one does, they count.
    if xattr::set(&path, "user.kubepki", b"x").is_ok() {
        let labelled = Tree::snapshot(fixture.data_dir());
        let lines = Tree::diff(&touched, &labelled, &DiffOptions::exact());
        assert!(
            lines.concat().contains("attributes [] -> [user.kubepki="),
            "{lines:?}"
        );
    }
}
