//! `--tls-san` and `--tls-san-drop`: which certificates carry the servers' names, and what K3s is
//! told of them.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use std::collections::BTreeSet;

use common::leaves::{leaf, listener};
use common::{Node, changed, go_accepts};
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
