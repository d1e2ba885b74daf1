//! `--tls-san` and `--tls-san-drop`: which certificates carry the servers' names, and what K3s is
//! told of them.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking and write what they look at"
)]

mod common;

use std::collections::BTreeSet;

use common::leaves::{leaf, listener};
use common::{KUBEPKI, Node, changed, go_accepts};
use pki::San;

/// The certificates that carry the servers' names, the listener's excepted.
const NAMED: &[&str] = &[
    "data/server/tls/serving-kube-apiserver",
    "data/server/tls/etcd/server-client",
    "data/server/tls/etcd/peer-server-client",
];

/// A node of fresh leaves, so that whatever the date is nothing else is due.
fn fresh(fixture: &str) -> Node {
    let node = Node::new(fixture);
    node.ok(&["rotate", "--yes"]);
    node
}

fn carriers() -> BTreeSet<String> {
    NAMED
        .iter()
        .flat_map(|pair| ["crt", "key"].map(|extension| format!("{pair}.{extension}")))
        .chain(["data/server/tls/dynamic-cert.json".to_owned()])
        .collect()
}

/// Each carrier's names.
fn names(node: &Node) -> Vec<Vec<String>> {
    let text = |sans: &[San]| sans.iter().map(San::to_string).collect::<Vec<_>>();
    let mut names: Vec<_> = NAMED
        .iter()
        .map(|pair| text(leaf(node, &format!("{pair}.crt")).sans()))
        .collect();
    let secret = listener(node);
    let mut carried = text(secret.certificates().unwrap().first().unwrap().sans());
    carried.sort();
    assert_eq!(
        carried, secret.sans,
        "the annotations follow the certificate"
    );
    names.push(carried);
    names
}

#[test]
fn a_name_is_added_to_each_carrier_and_dropped_from_each() {
    let node = fresh("k3s-1.36-sqlite");
    let (tree, before) = (node.tree(), names(&node));
    let added = ["api.example.org", "192.0.2.7", "2001:db8::7"];
    node.ok(&[
        "renew",
        "--yes",
        "--tls-san",
        "api.example.org,192.0.2.7",
        "--tls-san",
        "2001:db8::7",
    ]);
    assert_eq!(changed(&tree, &node.tree()), carriers());
    for (old, new) in before.iter().zip(names(&node)) {
        let mut expected: Vec<String> = old.clone();
        expected.extend(added.map(str::to_owned));
        assert_eq!(sorted(expected), sorted(new));
    }
    let authority = node.text_path("data/server/tls/server-ca.crt");
    let secret = node.text_path("data/server/tls/dynamic-cert.json");
    go_accepts(&[format!("listener {secret} {authority}")]);

    // The same once more changes nothing: the names are there.
    let tree = node.tree();
    node.ok(&["renew", "--yes", "--tls-san", "api.example.org"]);
    assert_eq!(changed(&tree, &node.tree()), BTreeSet::new());

    node.ok(&[
        "renew",
        "--yes",
        "--tls-san-drop",
        "api.example.org,192.0.2.7,2001:db8::7",
    ]);
    assert_eq!(changed(&tree, &node.tree()), carriers());
    let sort = |names: Vec<Vec<String>>| names.into_iter().map(sorted).collect::<Vec<_>>();
    assert_eq!(sort(before), sort(names(&node)));
    go_accepts(&[format!("listener {secret} {authority}")]);
}

#[test]
fn names_given_to_k3s_earlier_stay_through_a_rotation() {
    let node = Node::new("k3s-1.36-encryption-token-rotated");
    let before = names(&node);
    node.ok(&["rotate", "--yes"]);
    let after = names(&node);
    for (old, new) in before.iter().zip(&after) {
        let unique: BTreeSet<&String> = old.iter().collect();
        assert_eq!(unique, new.iter().collect());
        assert_eq!(new.len(), unique.len(), "no name stands twice");
    }
}

#[test]
fn the_last_name_cannot_be_dropped() {
    let node = fresh("k3s-1.36-sqlite");
    let all: BTreeSet<String> = names(&node).into_iter().flatten().collect();
    let all = all.into_iter().collect::<Vec<_>>().join(",");
    let tree = node.tree();
    for command in ["renew", "rotate"] {
        let run = node.ends(&[command, "--yes", "--tls-san-drop", &all], 1);
        assert!(
            run.text().contains("would have no name left"),
            "{}",
            run.text()
        );
        assert_eq!(changed(&tree, &node.tree()), BTreeSet::new());
    }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[test]
fn names_that_come_back_are_said() {
    let node = Node::new("k3s-1.36-sqlite");
    for (name, says) in [
        ("localhost", "K3s itself wants localhost"),
        ("::1", "K3s itself wants ::1"),
        ("k3s-fixture", "K3s itself wants k3s-fixture"),
        (
            "nosuch.example.org",
            "no certificate here carries nosuch.example.org",
        ),
    ] {
        let run = node.ok(&["rotate", "--dry-run", "--tls-san-drop", name]);
        assert!(run.text().contains(says), "{}", run.text());
    }
    std::fs::write(node.path("config.yaml"), "tls-san: [10.43.0.1]\n").unwrap();
    let config = node.text_path("config.yaml");
    let run = node.ok(&[
        "renew",
        "--dry-run",
        "--tls-san-drop",
        "10.43.0.1",
        "--k3s-config",
        &config,
    ]);
    let says = "K3s's configuration still asks for 10.43.0.1";
    assert!(run.text().contains(says), "{}", run.text());
}

/// K3s writes `--tls-san` before the node's own name; both can have several parts.
#[test]
fn the_first_tls_san_is_not_taken_for_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let kubeconfig = folder.path().join("k3s.yaml");
    let init = [
        "init",
        "--data-dir",
        data,
        "--node-name",
        "node-1.example.org",
        "--node-ip",
        "10.0.0.1",
        "--tls-san",
        "api.example.org,fd00::7",
        "--write-kubeconfig",
        kubeconfig.to_str().unwrap(),
        "--yes",
    ];
    let run = testkit::run(KUBEPKI, &init, b"");
    assert!(run.success(), "{}", run.text());
    let plan = |more: &[&str]| {
        let args = [&["plan", "--service", "admin", "--data-dir", data], more].concat();
        testkit::run(KUBEPKI, &args, b"").text()
    };
    assert!(
        plan(&[]).contains("Node node-1.example.org,"),
        "{}",
        plan(&[])
    );
}
