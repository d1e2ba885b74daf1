//! Which files hosts have, held to hosts that RKE served.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use kubepki::rke::placement::{affected, components_of, files_of, readers, surplus_of};
use kubepki::rke::{Bundle, ClusterConfig, Half, Node, Role, Service, kubeconfig};

use crate::Recording;

/// Mode and bytes of each file in a host's `ssl` directory.
fn recorded(recording: &Recording, host: &str) -> BTreeMap<String, (u32, Vec<u8>)> {
    let folder = recording.path(&format!("hosts/{host}/etc-kubernetes/ssl"));
    let mode = std::fs::metadata(&folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, kubepki::rke::placement::DIRECTORY_MODE);
    crate::files_in(&folder)
        .into_iter()
        .map(|name| {
            let path = folder.join(&name);
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
            let bytes = std::fs::read(path).unwrap();
            (name, (mode, bytes))
        })
        .collect()
}

/// What RKE's last run on the recorded hosts put there.
fn deployed(recording: &Recording) -> (ClusterConfig, Bundle) {
    let state = recording.parsed("after/rotate-ca.rkestate");
    let config = ClusterConfig::from_rke_config(state.rke_config(Half::Current).unwrap());
    (config.unwrap(), state.bundle(Half::Current))
}

#[test]
fn files_are_those_of_rke_but_for_other_nodes_keys() {
    let recording = Recording::live();
    let (config, bundle) = deployed(&recording);
    let mut golden = String::from(
        "# Files that RKE 1.6 puts on a host and we do not: other nodes' certificates and keys.\n\
         # A host's kubelet and etcd member read their own pair only.\n",
    );
    for (host, node) in ["h1", "h2", "h3"].into_iter().zip(&config.nodes) {
        let mut there = recorded(&recording, host);
        for file in files_of(node, &bundle, &config) {
            let (mode, bytes) = there.remove(&file.name).unwrap();
            assert_eq!(mode, file.mode, "{host}: {}", file.name);
            assert_eq!(file.owner, (0, 0));
            assert!(
                *file.content(&bundle).unwrap() == bytes,
                "{host}: {}",
                file.name
            );
        }
        let surplus = surplus_of(node, &bundle, &config);
        assert!(
            there.keys().eq(surplus.iter().map(|file| &file.name)),
            "{there:?}"
        );
        for name in there.keys() {
            golden.push_str(&format!("{host} {name}\n"));
        }
    }
    testkit::assert_golden("tests/golden/rke-host-differences.txt", &golden);
}

#[test]
fn the_administrators_kubeconfig_is_the_recorded_one() {
    let recording = Recording::live();
    for path in recording.states() {
        let state = kubepki::rke::State::parse(&std::fs::read(&path).unwrap()).unwrap();
        for half in [Half::Desired, Half::Current] {
            let bundle = state.bundle(half);
            let admin = &bundle["kube-admin"];
            // RKE leaves the address of the last control-plane host that it tried.
            let made = ["127.0.0.11", "127.0.0.12"].map(|address| {
                kubeconfig::admin(
                    address,
                    "fixture",
                    &bundle["kube-ca"].certificate_pem,
                    &admin.certificate_pem,
                    &admin.key_pem,
                )
            });
            assert!(made.contains(&admin.config), "{}", path.display());
        }
    }
    let (_, bundle) = deployed(&recording);
    let file = recording.text("kube_config_cluster.yml");
    assert!(*bundle["kube-admin"].config == *file);
}

fn cluster(extra: &str) -> ClusterConfig {
    let text = format!(
        "nodes:\n\
         - {{address: 10.0.0.1, user: u, role: [controlplane]}}\n\
         - {{address: 10.0.0.2, user: u, role: [etcd]}}\n\
         - {{address: 10.0.0.3, user: u, role: [worker]}}\n{extra}"
    );
    ClusterConfig::parse(&text).unwrap()
}

/// The recorded bundle under the names of a cluster of three nodes with one role each.
fn bundle() -> Bundle {
    let mut bundle = Recording::state()
        .parsed("cluster.rkestate")
        .bundle(Half::Current);
    bundle.retain(|name, _| !name.starts_with("kube-kubelet"));
    let etcd = bundle["kube-etcd-10-99-0-11"].clone();
    bundle.retain(|name, _| !name.starts_with("kube-etcd"));
    bundle.insert("kube-etcd-10-0-0-2".to_owned(), etcd);
    bundle
}

fn listed(node: &Node, config: &ClusterConfig) -> Vec<String> {
    files_of(node, &bundle(), config)
        .iter()
        .map(|file| {
            format!(
                "{:o} {}:{} {}",
                file.mode, file.owner.0, file.owner.1, file.name
            )
        })
        .collect()
}

#[test]
fn each_role_has_its_files() {
    let config = cluster("");
    let worker = [
        "600 0:0 kube-ca.pem",
        "600 0:0 kube-node-key.pem",
        "600 0:0 kube-node.pem",
        "600 0:0 kube-proxy-key.pem",
        "600 0:0 kube-proxy.pem",
        "600 0:0 kubecfg-kube-node.yaml",
        "600 0:0 kubecfg-kube-proxy.yaml",
    ];
    assert_eq!(listed(&config.nodes[2], &config), worker);
    let etcd = listed(&config.nodes[1], &config);
    assert_eq!(etcd.len(), worker.len() + 2);
    assert!(etcd.contains(&"600 0:0 kube-etcd-10-0-0-2-key.pem".to_owned()));
    let control = listed(&config.nodes[0], &config);
    assert!(control.contains(&"600 0:0 kube-ca-key.pem".to_owned()));
    assert!(!control.iter().any(|file| file.contains("kube-etcd")));
    assert_eq!(control.len(), 2 * 9 + 6);
    assert!(surplus_of(&config.nodes[0], &bundle(), &config).is_empty());
}

#[test]
fn etcd_that_is_not_root_can_read_its_files() {
    let config = cluster("services: {etcd: {uid: 52034, gid: 52034}}\n");
    let etcd = listed(&config.nodes[1], &config);
    for line in [
        "644 0:0 kube-ca.pem",
        "600 52034:52034 kube-etcd-10-0-0-2-key.pem",
        "600 52034:52034 kube-etcd-10-0-0-2.pem",
        "600 0:0 kube-node-key.pem",
    ] {
        assert!(etcd.contains(&line.to_owned()), "{etcd:?}");
    }
    // Both ids are needed, and only etcd's hosts are concerned.
    assert!(listed(&config.nodes[0], &config).contains(&"600 0:0 kube-ca.pem".to_owned()));
    let half = cluster("services: {etcd: {uid: 52034}}\n");
    assert_eq!(
        listed(&half.nodes[1], &half),
        listed(&half.nodes[1], &cluster(""))
    );
}

#[test]
fn files_are_read_by_whom_rkes_flags_say() {
    use Service::{Etcd, KubeApiserver, KubeControllerManager, KubeProxy, KubeScheduler, Kubelet};

    let config = cluster("");
    for (file, expected) in [
        ("kube-ca.pem", Service::ALL.to_vec()),
        ("kube-ca-key.pem", vec![]),
        ("kube-apiserver.pem", vec![KubeApiserver]),
        ("kube-apiserver-key.pem", vec![KubeApiserver]),
        ("kube-apiserver-proxy-client-key.pem", vec![KubeApiserver]),
        ("kubecfg-kube-apiserver-proxy-client.yaml", vec![]),
        ("kube-apiserver-requestheader-ca.pem", vec![KubeApiserver]),
        ("kube-apiserver-requestheader-ca-key.pem", vec![]),
        ("kube-service-account-token.pem", vec![]),
        (
            "kube-service-account-token-key.pem",
            vec![KubeApiserver, KubeControllerManager],
        ),
        ("kube-controller-manager.pem", vec![KubeControllerManager]),
        (
            "kubecfg-kube-controller-manager.yaml",
            vec![KubeControllerManager],
        ),
        ("kube-scheduler-key.pem", vec![KubeScheduler]),
        ("kube-node.pem", vec![KubeApiserver, Kubelet]),
        ("kubecfg-kube-node.yaml", vec![Kubelet]),
        ("kube-proxy.pem", vec![KubeProxy]),
        ("kubecfg-kube-proxy.yaml", vec![KubeProxy]),
        ("kube-etcd-10-0-0-2.pem", vec![Etcd]),
        ("kube-etcd-10-0-0-2-key.pem", vec![Etcd]),
        ("kube-kubelet-10-0-0-2.pem", vec![Kubelet]),
        ("encryption.yaml", vec![]),
        ("kube-admin.pem", vec![]),
        ("", vec![]),
    ] {
        assert_eq!(readers(file, &config), expected, "{file}");
    }
    let text = "services:\n  kube-controller:\n    extra_args:\n      \
         cluster-signing-key-file: /etc/kubernetes/ssl/kube-ca-key.pem\n  kubelet:\n    \
         extra_args_array:\n      x: [/etc/kubernetes/ssl/kube-proxy.pem, /tmp/kube-node.pem]\n";
    let config = cluster(text);
    assert_eq!(readers("kube-ca-key.pem", &config), [KubeControllerManager]);
    assert_eq!(readers("kube-proxy.pem", &config), [Kubelet, KubeProxy]);
}

#[test]
fn only_what_reads_a_changed_file_is_affected() {
    let config = cluster("");
    let bundle = bundle();
    let on = |node: &Node, entry: &str| {
        let mut files = files_of(node, &bundle, &config);
        files.retain(|file| file.entry == entry);
        affected(node, &files, &config)
    };
    let [control, etcd, worker] = [0, 1, 2].map(|index| &config.nodes[index]);
    assert_eq!(on(control, "kube-scheduler"), [Service::KubeScheduler]);
    assert!(on(worker, "kube-scheduler").is_empty());
    assert_eq!(on(worker, "kube-node"), [Service::Kubelet]);
    assert_eq!(
        on(control, "kube-node"),
        [Service::KubeApiserver, Service::Kubelet]
    );
    assert_eq!(on(etcd, "kube-ca"), components_of(etcd));
    assert_eq!(
        components_of(etcd),
        [Service::Etcd, Service::Kubelet, Service::KubeProxy]
    );
    assert_eq!(on(control, "kube-ca").len(), 5);
    assert!(control.has(Role::ControlPlane));
}
