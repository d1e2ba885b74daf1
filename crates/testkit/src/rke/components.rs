//! The containers of an RKE node, as RKE 1.6 makes them for Kubernetes 1.30 (its `plan.go`): names,
//! images, arguments, binds. The images are not the real ones, except for etcd.

use std::collections::BTreeMap;

use super::docker::Container;
use super::images::{ETCD_IMAGE, KUBERNETES_IMAGE, TOOLS_IMAGE};
use super::layout::{Layout, Node, Role};

const SSL: &str = "/etc/kubernetes/ssl";

/// What RKE's own containers are told by.
const LABEL: &str = "io.rancher.rke.container.name";

/// The containers that RKE runs on a node, in the order in which it starts them.
pub(super) fn containers(layout: &Layout, node: &Node) -> Vec<Container> {
    let mut all = Vec::new();
    if node.has(Role::Etcd) {
        all.push(etcd(layout, node));
    }
    if node.has(Role::ControlPlane) {
        all.push(kubernetes(
            layout,
            "kube-apiserver",
            apiserver(layout, node),
        ));
        all.push(kubernetes(
            layout,
            "kube-controller-manager",
            controller_manager(layout),
        ));
        all.push(kubernetes(layout, "kube-scheduler", scheduler()));
    } else {
        all.push(nginx_proxy(layout));
    }
    all.push(kubernetes(layout, "kubelet", kubelet(layout, node)));
    all.push(kubernetes(layout, "kube-proxy", proxy(node)));
    all
}

/// Created and never started: RKE takes a volume from it.
pub(super) fn sidekick() -> Container {
    Container {
        command: vec!["true".to_owned()],
        ..named("service-sidekick", TOOLS_IMAGE)
    }
}

fn named(name: &str, image: &str) -> Container {
    Container {
        name: name.to_owned(),
        image: image.to_owned(),
        labels: BTreeMap::from([(LABEL.to_owned(), name.to_owned())]),
        ..Container::default()
    }
}

fn kubernetes(layout: &Layout, name: &str, flags: Vec<String>) -> Container {
    Container {
        entrypoint: vec!["/opt/rke-tools/entrypoint.sh".to_owned(), name.to_owned()],
        command: flags,
        environment: layout
            .calm
            .then(|| "CALM=1".to_owned())
            .into_iter()
            .collect(),
        binds: vec![
            layout.bind("/etc/kubernetes", "/etc/kubernetes"),
            "/var/log/components:/var/log/components".to_owned(),
            "/var/lib/components:/var/lib/components".to_owned(),
        ],
        ..named(name, KUBERNETES_IMAGE)
    }
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

/// `--name=/etc/kubernetes/ssl/STEM.pem`.
fn file(name: &str, stem: &str) -> String {
    flag(name, format_args!("{SSL}/{stem}.pem"))
}

fn etcd(layout: &Layout, node: &Node) -> Container {
    let address = node.address;
    let own = format!("kube-etcd-{}", node.id());
    let key = format!("{own}-key");
    let members = layout.nodes.iter().filter(|it| it.has(Role::Etcd));
    let members: Vec<_> = members
        .map(|it| format!("etcd-{}=https://{}:2380", it.name, it.address))
        .collect();
    let environment = [
        ("ETCDCTL_API", "3".to_owned()),
        ("ETCDCTL_CACERT", format!("{SSL}/kube-ca.pem")),
        ("ETCDCTL_CERT", format!("{SSL}/{own}.pem")),
        ("ETCDCTL_KEY", format!("{SSL}/{key}.pem")),
        ("ETCDCTL_ENDPOINTS", format!("https://{address}:2379")),
    ];
    Container {
        entrypoint: vec!["/usr/local/bin/etcd".to_owned()],
        command: vec![
            flag("name", format_args!("etcd-{}", node.name)),
            flag("data-dir", "/var/lib/rancher/etcd/"),
            flag("listen-client-urls", "https://0.0.0.0:2379"),
            flag(
                "advertise-client-urls",
                format_args!("https://{address}:2379"),
            ),
            flag("listen-peer-urls", "https://0.0.0.0:2380"),
            flag(
                "initial-advertise-peer-urls",
                format_args!("https://{address}:2380"),
            ),
            flag("initial-cluster-token", "etcd-cluster-1"),
            flag("initial-cluster", members.join(",")),
            flag("initial-cluster-state", "new"),
            file("trusted-ca-file", "kube-ca"),
            file("peer-trusted-ca-file", "kube-ca"),
            file("cert-file", &own),
            file("key-file", &key),
            file("peer-cert-file", &own),
            file("peer-key-file", &key),
            flag("client-cert-auth", true),
            flag("peer-client-cert-auth", true),
            flag("heartbeat-interval", 500),
            flag("election-timeout", 5000),
        ],
        environment: environment
            .map(|(name, value)| format!("{name}={value}"))
            .to_vec(),
        binds: vec![
            layout.bind("/var/lib/etcd", "/var/lib/rancher/etcd/"),
            layout.bind("/etc/kubernetes", "/etc/kubernetes"),
        ],
        ..named("etcd", ETCD_IMAGE)
    }
}

fn apiserver(layout: &Layout, node: &Node) -> Vec<String> {
    // Its own member first.
    let mut members: Vec<_> = layout
        .nodes
        .iter()
        .filter(|it| it.has(Role::Etcd))
        .collect();
    members.sort_by_key(|it| it.name != node.name);
    let members: Vec<_> = members
        .iter()
        .map(|it| format!("https://{}:2379", it.address))
        .collect();
    let mut flags = vec![
        flag("advertise-address", node.address),
        flag("bind-address", "0.0.0.0"),
        flag("secure-port", 6443),
        flag("anonymous-auth", false),
        flag("authorization-mode", "Node,RBAC"),
        flag("service-cluster-ip-range", "10.43.0.0/16"),
        flag("storage-backend", "etcd3"),
        flag("etcd-prefix", "/registry"),
        flag("etcd-servers", members.join(",")),
        file("etcd-cafile", "kube-ca"),
        file("etcd-certfile", "kube-node"),
        file("etcd-keyfile", "kube-node-key"),
        file("client-ca-file", "kube-ca"),
        file("tls-cert-file", "kube-apiserver"),
        file("tls-private-key-file", "kube-apiserver-key"),
        file("kubelet-client-certificate", "kube-apiserver"),
        file("kubelet-client-key", "kube-apiserver-key"),
        file("proxy-client-cert-file", "kube-apiserver-proxy-client"),
        file("proxy-client-key-file", "kube-apiserver-proxy-client-key"),
        file(
            "requestheader-client-ca-file",
            "kube-apiserver-requestheader-ca",
        ),
        flag("requestheader-allowed-names", "kube-apiserver-proxy-client"),
        file("service-account-key-file", "kube-service-account-token-key"),
        file(
            "service-account-signing-key-file",
            "kube-service-account-token-key",
        ),
        flag("service-account-issuer", "rke"),
    ];
    if layout.serving_certificates {
        flags.push(file("kubelet-certificate-authority", "kube-ca"));
    }
    flags
}

/// `--kubeconfig` and, since Kubernetes 1.22, the same for who calls.
fn kubeconfig(name: &str, names: &[&str]) -> Vec<String> {
    let path = format!("{SSL}/kubecfg-{name}.yaml");
    names.iter().map(|it| flag(it, &path)).collect()
}

fn controller_manager(layout: &Layout) -> Vec<String> {
    let names = [
        "kubeconfig",
        "authentication-kubeconfig",
        "authorization-kubeconfig",
    ];
    let mut flags = kubeconfig("kube-controller-manager", &names);
    flags.extend([
        file("root-ca-file", "kube-ca"),
        file(
            "service-account-private-key-file",
            "kube-service-account-token-key",
        ),
        flag("use-service-account-credentials", true),
        flag("leader-elect", layout.nodes.len() > 1),
    ]);
    flags
}

fn scheduler() -> Vec<String> {
    let names = [
        "kubeconfig",
        "authentication-kubeconfig",
        "authorization-kubeconfig",
    ];
    kubeconfig("kube-scheduler", &names)
}

fn kubelet(layout: &Layout, node: &Node) -> Vec<String> {
    let mut flags = kubeconfig("kube-node", &["kubeconfig"]);
    flags.extend([
        file("client-ca-file", "kube-ca"),
        flag("anonymous-auth", false),
        flag("hostname-override", &node.name),
        flag("node-ip", node.address),
        flag("read-only-port", 0),
    ]);
    if layout.serving_certificates {
        let own = format!("kube-kubelet-{}", node.id());
        flags.push(file("tls-cert-file", &own));
        flags.push(file("tls-private-key-file", &format!("{own}-key")));
    }
    flags
}

fn proxy(node: &Node) -> Vec<String> {
    let mut flags = kubeconfig("kube-proxy", &["kubeconfig"]);
    flags.push(flag("hostname-override", &node.name));
    flags
}

fn nginx_proxy(layout: &Layout) -> Container {
    let hosts = layout.nodes.iter().filter(|it| it.has(Role::ControlPlane));
    let hosts: Vec<_> = hosts.map(|it| it.address.to_string()).collect();
    Container {
        environment: vec![format!("CP_HOSTS={}", hosts.join(","))],
        ..kubernetes(layout, "nginx-proxy", Vec::new())
    }
}
