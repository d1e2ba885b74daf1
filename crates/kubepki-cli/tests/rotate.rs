//! `kubepki rotate` and `undo` on what real K3s wrote: which files, which certificates, and who
//! else accepts them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod common;

use std::collections::BTreeSet;

use common::leaves::{Before, assert_fresh};
use common::{Node, changed};

/// Reference section 2.2 as of K3s 1.36, where two shared keys have lost their certificates:
/// service, pairs, other files. Paths are below `data/`.
const SERVICES: &[(&str, &[&str], &[&str])] = &[
    ("admin", &["server/tls/client-admin"], &[]),
    (
        "api-server",
        &[
            "server/tls/client-kube-apiserver",
            "server/tls/serving-kube-apiserver",
        ],
        &[],
    ),
    ("auth-proxy", &["server/tls/client-auth-proxy"], &[]),
    (
        "cloud-controller",
        &["server/tls/client-k3s-cloud-controller"],
        &[],
    ),
    (
        "controller-manager",
        &[
            "server/tls/client-controller",
            "server/tls/kube-controller-manager/kube-controller-manager",
        ],
        &[],
    ),
    (
        "etcd",
        &[
            "server/tls/etcd/client",
            "server/tls/etcd/server-client",
            "server/tls/etcd/peer-server-client",
        ],
        &[],
    ),
    (
        "scheduler",
        &[
            "server/tls/client-scheduler",
            "server/tls/kube-scheduler/kube-scheduler",
        ],
        &[],
    ),
    ("supervisor", &["server/tls/client-supervisor"], &[]),
    ("k3s-server", &[], &["server/tls/dynamic-cert.json"]),
    (
        "kube-proxy",
        &["agent/client-kube-proxy", "server/tls/client-kube-proxy"],
        &[],
    ),
    (
        "kubelet",
        &["agent/client-kubelet", "agent/serving-kubelet"],
        &[
            "server/tls/client-kubelet.key",
            "server/tls/serving-kubelet.key",
        ],
    ),
    (
        "k3s-controller",
        &[
            "agent/client-k3s-controller",
            "server/tls/client-k3s-controller",
        ],
        &[],
    ),
];

/// The files of `services` that `node` has, and the kubeconfig that inlines the administrator.
fn files_of(node: &Node, services: &[&str]) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for (service, pairs, others) in SERVICES {
        if !services.contains(service) {
            continue;
        }
        for pair in *pairs {
            files.extend(["crt", "key"].map(|extension| format!("data/{pair}.{extension}")));
        }
        files.extend(others.iter().map(|file| format!("data/{file}")));
        if *service == "admin" {
            files.extend(node.kubeconfig().map(str::to_owned));
        }
    }
    files.retain(|file| node.path(file).exists());
    files
}

fn all_services() -> Vec<&'static str> {
    SERVICES.iter().map(|(service, ..)| *service).collect()
}

/// Rotates, checks everything, and takes it back.
#[track_caller]
fn rotate_and_undo(node: &Node, args: &[&str], services: &[&str]) {
    let (tree, before) = (node.tree(), Before::of(node));
    let mut command = vec!["rotate", "--yes"];
    command.extend(args);
    node.ok(&command);
    let changed = changed(&tree, &node.tree());
    assert_eq!(changed, files_of(node, services), "{args:?}");
    assert_fresh(node, &before, &changed, false);
    node.ok(&["undo", "--yes"]);
    node.assert_is(&tree);
}

#[test]
fn each_service_changes_its_files_and_nothing_else() {
    let node = Node::new("k3s-1.36-sqlite");
    for (service, ..) in SERVICES {
        rotate_and_undo(&node, &["--service", service], &[service]);
    }
    // A list in one word, which K3s's own command refuses.
    rotate_and_undo(
        &node,
        &["--service", "admin,scheduler"],
        &["admin", "scheduler"],
    );
}

#[test]
fn all_services_on_each_kind_of_server() {
    for (fixture, leaves) in [
        ("k3s-1.36-sqlite", 17),
        ("k3s-1.36-custom-ca", 17),
        ("k3s-1.36-default-rotated", 17),
        ("k3s-1.36-encryption-token-rotated", 17),
        ("k3s-1.21-sqlite", 12),
    ] {
        let node = Node::new(fixture);
        let files = files_of(&node, &all_services());
        let certificates = files.iter().filter(|file| file.ends_with(".crt"));
        assert_eq!(certificates.count(), leaves, "{fixture}: {files:#?}");
        rotate_and_undo(&node, &[], &all_services());
    }
}

#[test]
fn keys_are_kept_when_asked() {
    let node = Node::new("k3s-1.36-sqlite");
    let (tree, before) = (node.tree(), Before::of(&node));
    node.ok(&["rotate", "--yes", "--keep-key"]);
    let changed = changed(&tree, &node.tree());
    let expected: BTreeSet<String> = files_of(&node, &all_services())
        .into_iter()
        .filter(|file| !file.ends_with(".key"))
        .collect();
    assert_eq!(changed, expected);
    assert_fresh(&node, &before, &changed, true);
    node.ok(&["undo", "--yes"]);
    node.assert_is(&tree);
}
