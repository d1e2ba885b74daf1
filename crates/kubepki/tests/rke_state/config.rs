//! `cluster.yml` as RKE reads it.

use kubepki::rke::config::{
    ConfigError, HostCountError, RotateCertificates, Stage, refuse_windows,
};
use kubepki::rke::{ClusterConfig, Role, Service};
use proptest::prelude::*;

pub(crate) const ONE: &str =
    "nodes:\n- address: 10.0.0.1\n  user: rancher\n  role: [controlplane, etcd, worker]\n";

pub(crate) fn parse(text: &str) -> ClusterConfig {
    ClusterConfig::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn refused(text: &str) -> ConfigError {
    match ClusterConfig::parse(text) {
        Ok(_) => panic!("was read:\n{text}"),
        Err(error) => error,
    }
}

#[test]
fn defaults_are_those_of_rke() {
    let config = parse(ONE);
    assert_eq!(config.cluster_name, "local");
    assert_eq!(config.kubernetes_version, None);
    assert_eq!(config.prefix_path, "/");
    assert_eq!(config.ssh_key_path, "~/.ssh/id_rsa");
    assert_eq!(config.authentication_strategy, "x509");
    assert_eq!(config.service_range, "10.43.0.0/16");
    assert_eq!(config.cluster_domain, "cluster.local");
    assert_eq!(config.network_plugin, "canal");
    assert!(!config.serving_certificates);
    assert_eq!((config.bastion, config.rotate), (None, None));
    let node = &config.nodes[0];
    assert_eq!(node.port, "22");
    assert_eq!(node.internal_address, "10.0.0.1");
    assert_eq!(node.hostname, "10.0.0.1");
    assert_eq!(node.docker_socket(), "/var/run/docker.sock");
    assert_eq!(node.ssh_key_path, "~/.ssh/id_rsa");
    assert_eq!(node.roles, [Role::ControlPlane, Role::Etcd, Role::Worker]);
}

pub(crate) const FULL: &str = "unknown: [1, {a: b}]\n\
         cluster_name: prod\n\
         kubernetes_version: v1.22.3-rancher1-1\n\
         prefix_path: /opt/x/\n\
         ssh_key_path: /k\n\
         ssh_cert_path: /c\n\
         ssh_agent_auth: yes\n\
         ignore_docker_version: True\n\
         nodes:\n\
         - address: Host.Example\n\
         \x20 port: 2222\n\
         \x20 internal_address: 10.0.0.9\n\
         \x20 hostname_override: Node-A\n\
         \x20 user: u\n\
         \x20 role: [etcd]\n\
         \x20 docker_socket: /run/d.sock\n\
         \x20 ssh_agent_auth: false\n\
         \x20 ssh_key: |\n\
         \x20   line one\n\
         \x20   line two\n\
         \x20 ssh_key_path: /own\n\
         \x20 ssh_cert: ssh-rsa-cert\n\
         \x20 ssh_cert_path: /own-cert\n\
         \x20 labels: {kubernetes.io/os: linux}\n\
         bastion_host:\n\
         \x20 address: 192.0.2.1\n\
         \x20 user: jump\n\
         \x20 port: \"2200\"\n\
         \x20 ignore_proxy_env_vars: on\n\
         authentication: {strategy: \"X509 | webhook\", sans: [a, 1.2.3.4, 5]}\n\
         network: {plugin: calico}\n\
         services:\n\
         \x20 kube-api: {service_cluster_ip_range: 10.1.0.0/16}\n\
         \x20 kubelet: {cluster_domain: my.local, generate_serving_certificate: true}\n\
         \x20 etcd: {uid: 52034, gid: 0x10}\n\
         system_images: {cert_downloader: img/tools:1, alpine: img/alpine:2, kubernetes: k, etcd: e}\n\
         rotate_certificates: {cacertificates: true, services: [etcd]}\n";

#[test]
fn every_field_is_read() {
    let config = parse(FULL);
    assert_eq!(config.cluster_name, "prod");
    assert_eq!(config.kubernetes_minor(), Some(22));
    assert_eq!(config.host_prefix("Ubuntu"), "/opt/x");
    assert!(config.ssh_agent_auth && config.ignore_docker_version);
    assert_eq!(config.ssh_cert_path.as_deref(), Some("/c"));
    let node = config.node("Host.Example").unwrap();
    assert_eq!(
        (node.port.as_str(), node.hostname.as_str()),
        ("2222", "node-a")
    );
    assert_eq!(node.docker_socket(), "/run/d.sock");
    assert!(node.ssh_agent_auth, "the file's value counts");
    assert_eq!(
        node.ssh_key.as_ref().unwrap().expose(),
        "line one\nline two\n"
    );
    assert_eq!(node.ssh_key_path, "/own");
    assert_eq!(node.ssh_cert.as_deref(), Some("ssh-rsa-cert"));
    assert_eq!(node.ssh_cert_path.as_deref(), Some("/own-cert"));
    let bastion = config.bastion.as_ref().unwrap();
    assert_eq!(
        (bastion.port.as_str(), bastion.ssh_key_path.as_str()),
        ("2200", "/k")
    );
    assert!(bastion.ignore_proxy && bastion.ssh_agent_auth);
    assert_eq!(config.sans, ["a", "1.2.3.4", "5"]);
    assert_eq!(config.etcd_owner(), Some((52034, 16)));
    assert!(config.serving_certificates);
    assert_eq!(
        config.images.cert_downloader.as_deref(),
        Some("img/tools:1")
    );
    let rotate = RotateCertificates {
        authorities: true,
        services: vec!["etcd".to_owned()],
    };
    assert_eq!(config.rotate, Some(rotate));
    assert!(!format!("{config:?}").contains("line one"));
}

#[test]
fn the_last_of_equal_keys_counts_and_merge_keys_are_followed() {
    let config = parse(
        "common: &common {user: u, role: [etcd]}\n\
         cluster_name: first\n\
         nodes:\n- <<: *common\n  address: 10.0.0.1\n- {<<: *common, address: 10.0.0.2, user: other}\n\
         cluster_name: second\n",
    );
    assert_eq!(config.cluster_name, "second");
    assert_eq!(config.nodes[0].user, "u");
    assert_eq!(config.nodes[1].user, "other");
}

#[test]
fn the_host_prefix_depends_on_the_system() {
    let config = parse(ONE);
    for (system, prefix) in [
        ("Debian GNU/Linux 12", ""),
        ("Flatcar Container Linux by Kinvolk", "/opt/rke"),
        ("RancherOS v1.5", "/opt/rke"),
        ("Boot2Docker 19", "/mnt/sda1/rke"),
    ] {
        assert_eq!(config.host_prefix(system), prefix, "{system}");
    }
}

/// A text, its line, and what RKE says of it.
const WRONG: [(&str, usize, &str); 24] = [
    (
        "nodes:\n- address: ../../x\n  user: u\n  role: [etcd]\n",
        2,
        "Address [../../x] for host (1) is neither an IP address nor a host name",
    ),
    (
        "nodes:\n- address: x\n  internal_address: 10.0.0.1:22\n  user: u\n  role: [etcd]\n",
        3,
        "Internal_address [10.0.0.1:22] for host (1) is neither an IP address nor a host name",
    ),
    (
        "nodes:\n- user: u\n",
        2,
        "Address for host (1) is not provided",
    ),
    (
        "nodes:\n- address: a\n  role: [etcd]\n",
        2,
        "User for host (1) is not provided",
    ),
    (
        "nodes:\n- address: a\n  user: u\n",
        2,
        "Role for host (1) is not provided",
    ),
    (
        "nodes:\n- address: a\n  user: u\n  role: [etcd, master]\n",
        4,
        "Role [master] for host (1) is not recognized",
    ),
    (
        "nodes:\n- {address: a, user: u, role: [etcd]}\n- {address: a, user: u, role: [etcd]}\n",
        3,
        "Cluster can't have duplicate node: a",
    ),
    (
        "nodes:\n- {address: a, user: u, role: [etcd]}\n- address: b\n  hostname_override: A\n  user: u\n  role: [etcd]\n",
        4,
        "Cluster can't have duplicate node: a",
    ),
    (
        "cluster_name: x\nkubernetes_version: latest\n",
        2,
        "latest is not valid semver",
    ),
    (
        "kubernetes_version: v1.30\n",
        1,
        "v1.30 is not valid semver",
    ),
    (
        "authentication:\n  strategy: x509|ldap\n",
        2,
        "Authentication strategy [ldap] is not supported",
    ),
    (
        "authentication:\n  strategy: webhook\n",
        2,
        "Authentication strategy must contain [x509]",
    ),
    (
        "network:\n  plugin: cilium\n",
        2,
        "Network plugin [cilium] is not supported",
    ),
    (
        "services:\n  etcd:\n    external_urls: [https://e:2379]\n",
        3,
        "External CA Certificate for etcd can't be empty",
    ),
    (
        "services:\n  etcd:\n    external_urls: [e]\n    ca_cert: x\n    cert: x\n",
        3,
        "External Client Key for etcd can't be empty",
    ),
    (
        "services:\n  etcd:\n    external_urls: [e]\n    ca_cert: x\n    cert: x\n    key: x\n    path: ''\n",
        7,
        "External etcd path can't be empty",
    ),
    ("nodes: 3\n", 1, "nodes is text, not a list"),
    ("nodes:\n- x\n", 2, "nodes[0] is text, not a mapping"),
    (
        "nodes:\n- address: [a]\n",
        2,
        "nodes[0].address is a list, not text",
    ),
    (
        "nodes:\n- address: a\n  role: etcd\n",
        3,
        "nodes[0].role is text, not a list",
    ),
    (
        "services:\n  etcd:\n    uid: many\n",
        3,
        "services.etcd.uid is text, not a number of 32 bits",
    ),
    (
        "a: b\nssh_agent_auth: 'true'\n",
        2,
        "ssh_agent_auth is text, not true or false",
    ),
    ("- a\n", 1, "the file is a list, not a mapping"),
    ("a: b\n]: c\n", 2, ""),
];

#[test]
fn what_is_wrong_is_told_in_rkes_words_with_its_line() {
    for (text, line, message) in WRONG {
        let error = refused(text);
        assert_eq!(error.line, Some(line), "{text}{error}");
        if !message.is_empty() {
            assert_eq!(error.message, message, "{text}");
        }
        assert!(
            error.to_string().starts_with(&format!("line {line}: ")),
            "{error}"
        );
    }
    let error = refused(WRONG[5].0);
    assert_eq!(error.stage, Stage::Validate);
    assert_eq!(
        error.rke_text(),
        "Failed to validate cluster: Role [master] for host (1) is not recognized"
    );
    assert_eq!(
        error.to_string(),
        "line 4: Role [master] for host (1) is not recognized; \
         the roles are controlplane, etcd and worker"
    );
    let error = refused(WRONG[19].0);
    assert_eq!(
        error.rke_text(),
        "Failed to parse cluster file: line 3: nodes[0].role is text, not a list"
    );
    assert_eq!(
        refused("").to_string(),
        "the file is empty; it is to list the nodes"
    );
}

#[test]
fn a_host_name_must_be_one() {
    for name in ["under_score", "-a", "a..b", "a.-b", &"a.".repeat(150)] {
        let text = format!(
            "nodes:\n- address: 10.0.0.1\n  hostname_override: {name}\n  user: u\n  role: [etcd]\n"
        );
        let error = refused(&text);
        assert_eq!(error.line, Some(3), "{name}");
        let start = format!("Hostname_override [{name}] for host (1) is not valid: [");
        assert!(error.message.starts_with(&start), "{error}");
    }
    // An IPv6 address is no host name, so it needs one.
    refused("nodes:\n- {address: \"fd00::1\", user: u, role: [etcd]}\n");
}

#[test]
fn a_wrong_port_is_told_with_its_line() {
    let text = "nodes:\n- address: 10.0.0.1\n  user: u\n  role: [worker]\n  port: x22\n";
    assert_eq!(
        refused(text).to_string(),
        "line 5: Port [x22] for host (1) is not a number from 1 to 65535"
    );
    let text = "nodes:\n- {address: 10.0.0.1, user: u, role: [worker]}\nbastion_host:\n  \
                address: 10.0.0.9\n  user: u\n  port: 65536\n";
    assert_eq!(
        refused(text).to_string(),
        "line 6: Port [65536] for the bastion host is not a number from 1 to 65535"
    );
}

#[test]
fn windows_nodes_are_refused() {
    let node = |more: &str| {
        format!("nodes:\n- address: 10.0.0.1\n  user: u\n  role: [worker]\n  {more}\n")
    };
    for (more, evidence) in [
        (
            "docker_socket: npipe:////./pipe/docker_engine",
            "docker_socket is a named pipe",
        ),
        (
            "labels: {kubernetes.io/os: windows}",
            "label kubernetes.io/os: windows",
        ),
        (
            "labels: {beta.kubernetes.io/os: windows}",
            "label beta.kubernetes.io/os: windows",
        ),
    ] {
        let error = refused(&node(more));
        assert_eq!(
            error.to_string(),
            format!(
                "line 5: host 10.0.0.1 is a Windows node ({evidence}); kubepki manages the Linux \
                 nodes of RKE clusters; use RKE itself for clusters with Windows nodes"
            )
        );
    }
    let config = parse(ONE);
    assert!(refuse_windows(&config.nodes[0].address, "linux").is_ok());
    let error = refuse_windows(&config.nodes[0].address, "windows").unwrap_err();
    assert_eq!(error.evidence, "Docker's OSType is \"windows\"");
}

#[test]
fn etcd_is_inside_or_outside() {
    let external =
        "services: {etcd: {external_urls: [e], ca_cert: x, cert: x, key: x, path: /p}}\n";
    let worker = ONE.replace("controlplane, etcd, ", "");
    assert_eq!(parse(ONE).check_host_count(), Ok(()));
    assert_eq!(
        parse(&format!("{worker}{external}")).check_host_count(),
        Ok(())
    );
    assert_eq!(
        parse(&worker).check_host_count(),
        Err(HostCountError::NoEtcd)
    );
    let both = format!("{ONE}{external}");
    assert_eq!(
        parse(&both).check_host_count(),
        Err(HostCountError::BothEtcds)
    );
}

#[test]
fn arguments_that_name_files_are_noted() {
    let text = format!(
        "{ONE}services:\n  kube-api:\n    extra_args:\n      oidc-ca-file: /etc/kubernetes/ssl/kube-ca.pem\n      v: 4\n"
    );
    let found = [(Service::KubeApiserver, "kube-ca.pem".to_owned())];
    assert_eq!(parse(&text).extra_files, found);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        let _ = ClusterConfig::parse(&text);
    }

    #[test]
    fn a_damaged_file_is_read_or_refused_with_a_line(
        damage in proptest::collection::vec((0..FULL.len(), "[ -~\n]"), 1..6),
    ) {
        let mut text = FULL.to_owned();
        for (place, new) in damage {
            text.replace_range(place..=place, &new);
        }
        if let Err(error) = ClusterConfig::parse(&text) {
            let lines = text.lines().count() + 1;
            prop_assert!(error.line.is_some_and(|line| (1..=lines).contains(&line)), "{error}");
            prop_assert!(!error.to_string().contains("line two"), "{error}");
        }
    }

    #[test]
    fn lines_in_any_order_are_read_or_refused(
        lines in proptest::collection::vec("( {0,4})(- )?(nodes|address|role|user|services|etcd|uid|<<|&a|\\*a)?(: )?(\\[|\\]|\\{|x|1|null|\\*a|&a)?", 0..12),
    ) {
        let _ = ClusterConfig::parse(&lines.join("\n"));
    }
}

/// As `rke config` writes it: everything there, most of it empty.
const EMPTY_VALUES: &str = r#"
nodes:
- address: 10.0.0.1
  port: "22"
  internal_address: ""
  role:
  - controlplane
  - etcd
  hostname_override: ""
  user: ubuntu
  docker_socket: /var/run/docker.sock
  ssh_key: ""
  ssh_key_path: ~/.ssh/id_rsa
  ssh_cert: ""
  ssh_cert_path: ""
  labels: {}
  taints: []
services:
  etcd:
    image: ""
    extra_args: {}
    external_urls: []
    ca_cert: ""
    cert: ""
    key: ""
    path: ""
    uid: 0
    gid: 0
    snapshot: null
    backup_config: null
  kube-api:
    extra_args: null
    service_cluster_ip_range: ""
  kubelet:
    cluster_domain: ""
    generate_serving_certificate: false
authentication:
  strategy: x509
  sans: []
  webhook: null
system_images:
  alpine: ""
ssh_key_path: ~/.ssh/id_rsa
ssh_cert_path: ""
ssh_agent_auth: false
ignore_docker_version: null
kubernetes_version: ""
cluster_name: ""
prefix_path: ""
bastion_host:
  address: ""
  port: ""
  user: ""
  ignore_proxy_env_vars: false
rotate_encryption_key: false
"#;

#[test]
fn empty_values_are_none() {
    let mut config = parse(EMPTY_VALUES);
    let socket = config.nodes[0].docker_socket.take();
    assert_eq!(socket.as_deref(), Some("/var/run/docker.sock"));
    let short = "nodes:\n- {address: 10.0.0.1, user: ubuntu, role: [controlplane, etcd]}\n";
    assert_eq!(config, parse(short));
}
