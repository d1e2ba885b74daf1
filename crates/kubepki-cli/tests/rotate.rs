//! `kubepki rotate` and `undo` on what real K3s wrote: which files, which certificates, and who
//! else accepts them.

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use common::leaves::{Before, assert_fresh};
use common::{Node, STATE, changed};
use pki::Certificate;
use testkit::{NodeKind, openssl_ok};

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
        ("k3s-1.36-custom-ca-rotated", 17),
        ("k3s-1.36-new-root-forced", 17),
        ("k3s-1.36-etcd-embedded", 17),
        ("k3s-1.21-sqlite", 12),
        ("k3s-1.21-custom-ca", 12),
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

#[test]
fn an_agent_alone_gives_up_its_leaves_for_new_ones() {
    let node = Node::new("k3s-1.36-agent-only");
    let tree = node.tree();
    for (service, pairs) in [
        ("kubelet", &["client-kubelet", "serving-kubelet"][..]),
        ("kube-proxy", &["client-kube-proxy"]),
        ("k3s-controller", &["client-k3s-controller"]),
        (
            "kubelet,kube-proxy,k3s-controller",
            &[
                "client-kubelet",
                "serving-kubelet",
                "client-kube-proxy",
                "client-k3s-controller",
            ],
        ),
    ] {
        let run = node.ok(&["rotate", "--yes", "--service", service]);
        assert!(
            run.text().contains("systemctl restart k3s-agent"),
            "{}",
            run.text()
        );
        let gone: BTreeSet<String> = pairs
            .iter()
            .flat_map(|pair| {
                [
                    format!("-data/agent/{pair}.crt"),
                    format!("-data/agent/{pair}.key"),
                ]
            })
            .collect();
        assert_eq!(changed(&tree, &node.tree()), gone, "{service}");
        node.ok(&["undo", "--yes"]);
        node.assert_is(&tree);
    }
    node.ok(&["rotate", "--yes"]);
    assert_eq!(changed(&tree, &node.tree()).len(), 8);
    node.ok(&["undo", "--yes"]);
    node.assert_is(&tree);
    // With its keys kept, an agent asks for certificates of those.
    node.ok(&["rotate", "--yes", "--keep-key"]);
    let gone = changed(&tree, &node.tree());
    assert!(
        gone.len() == 4 && gone.iter().all(|path| path.ends_with(".crt")),
        "{gone:?}"
    );
}

#[test]
fn behind_a_cross_signed_ca_old_and_new_roots_are_enough() {
    let node = Node::new("k3s-1.36-default-rotated");
    node.ok(&["rotate", "--yes"]);
    for (file, bundle, purpose) in [
        ("serving-kube-apiserver.crt", "server-ca", "sslserver"),
        ("client-admin.crt", "client-ca", "sslclient"),
        ("etcd/peer-server-client.crt", "etcd/peer-ca", "sslserver"),
        ("etcd/server-client.crt", "etcd/server-ca", "sslclient"),
        ("client-auth-proxy.crt", "request-header-ca", "sslclient"),
    ] {
        let path = node.text_path(&format!("data/server/tls/{file}"));
        let chain = Certificate::all_from_pem(&std::fs::read(&path).unwrap()).unwrap();
        let bundle = node.path(&format!("data/server/tls/{bundle}.crt"));
        let bundle = Certificate::all_from_pem(&std::fs::read(bundle).unwrap()).unwrap();
        // The bundle: CA, new root, cross-certificate, old root. Served: leaf, CA, cross-certificate.
        assert_eq!(chain.len(), 3, "{file}");
        assert_eq!(chain[1].der(), bundle[0].der(), "{file}");
        assert_eq!(chain[2].der(), bundle[2].der(), "{file}");
        assert!(
            chain
                .iter()
                .all(|certificate| !certificate.is_self_issued()),
            "{file}"
        );
        for root in [&bundle[1], &bundle[3]] {
            assert!(root.is_self_issued(), "{file}");
            let anchor = node.path("extra/anchor.pem");
            std::fs::File::create_new(&anchor).unwrap();
            node.overwrite("extra/anchor.pem", root.to_pem().as_bytes());
            let anchor = anchor.to_str().unwrap();
            let args = [
                "verify",
                "-purpose",
                purpose,
                "-CAfile",
                anchor,
                "-untrusted",
                &path,
            ];
            openssl_ok(&[&args[..], &[&path]].concat(), b"");
            std::fs::remove_file(anchor).unwrap();
        }
    }
}

#[test]
fn owner_mode_and_acl_stay() {
    let node = Node::new("k3s-1.36-sqlite");
    let key = node.path("data/server/tls/client-admin.key");
    let crt = node.text_path("data/server/tls/client-admin.crt");
    // Only root can give a file away.
    let is_root = std::os::unix::fs::chown(&key, Some(1234), Some(1234)).is_ok();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
    let acl = testkit::run("setfacl", &["-m", "user:1234:r--,mask::r--", &crt], b"");
    assert!(acl.success(), "{}", acl.text());
    let tree = node.tree();
    let admin = |name: &str| tree.get(&format!("data/server/tls/{name}")).unwrap();
    assert_eq!(
        (
            admin("client-admin.key").uid == 1234,
            admin("client-admin.key").mode
        ),
        (is_root, 0o640)
    );
    assert!(
        admin("client-admin.crt")
            .xattrs
            .contains_key("system.posix_acl_access")
    );

    node.ok(&["rotate", "--yes", "--service", "admin"]);
    // A change of owner, mode or attribute would be marked.
    let expected = [
        "data/server/tls/client-admin.crt",
        "data/server/tls/client-admin.key",
        "extra/k3s.yaml",
    ];
    assert_eq!(
        changed(&tree, &node.tree()),
        expected.map(str::to_owned).into()
    );
    node.ok(&["undo", "--yes"]);
    node.assert_is(&tree);
}

#[test]
fn the_state_directory_is_closed_and_holds_no_staged_key() {
    let node = Node::new("k3s-1.36-sqlite");
    node.ok(&["rotate", "--yes"]);
    node.ok(&["undo", "--yes"]);
    node.ok(&["plan"]);
    node.ok(&["plan", "--service", "all"]);
    let tree = node.tree();
    let mut files = 0;
    for (path, entry) in tree.nodes().filter(|(path, _)| path.starts_with(STATE)) {
        let expected = match entry.kind {
            NodeKind::Directory => 0o700,
            _ => 0o600,
        };
        assert_eq!(entry.mode, expected, "{path}");
        files += usize::from(matches!(entry.kind, NodeKind::File { .. }));
        assert!(
            !path.ends_with(".key") && !path.ends_with("-tmp"),
            "{path} is left"
        );
    }
    assert!(
        files > 40,
        "plans, journals and a backup for each step: {files}"
    );
}
