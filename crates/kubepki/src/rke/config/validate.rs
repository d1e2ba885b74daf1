//! RKE's checks of a `cluster.yml`, in its order and words (`cluster/validation.go`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::error::{ConfigError, Stage};
use super::source::Value;
use super::{ClusterConfig, Node, Role};

const PLUGINS: [&str; 6] = ["none", "flannel", "calico", "canal", "weave", "aci"];
const WINDOWS_LABELS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];
const ONLY_LINUX: &str = "kubepki manages the Linux nodes of RKE clusters; \
     use RKE itself for clusters with Windows nodes";

/// A Windows machine, by what it told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("host {address} is a Windows node ({evidence}); {ONLY_LINUX}")]
pub struct WindowsHost {
    /// Its address.
    pub address: String,
    /// What says so.
    pub evidence: String,
}

/// Refuses a host whose Docker says that it runs on Windows (`OSType` of `docker info`). This is
/// how RKE tells; `cluster.yml` alone says so only by a label or a pipe for a socket, which
/// [`ClusterConfig::parse`] refuses.
///
/// # Errors
///
/// [`WindowsHost`].
pub fn refuse_windows(address: &str, docker_os_type: &str) -> Result<(), WindowsHost> {
    match docker_os_type.eq_ignore_ascii_case("windows") {
        false => Ok(()),
        true => Err(WindowsHost {
            address: address.to_owned(),
            evidence: format!("Docker's OSType is {docker_os_type:?}"),
        }),
    }
}

/// A cluster without etcd, or with two.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostCountError {
    /// No node has the role, and there is no external etcd.
    #[error(
        "Cluster must have at least one etcd plane host: please specify one or more etcd in \
         cluster config"
    )]
    NoEtcd,
    /// Both kinds.
    #[error("Cluster can't have both internal and external etcd")]
    BothEtcds,
}

impl ClusterConfig {
    /// What RKE looks at only once it has reached the hosts; RKE's `generate-csr` never does.
    ///
    /// # Errors
    ///
    /// [`HostCountError`] in RKE's words.
    pub fn check_host_count(&self) -> Result<(), HostCountError> {
        let internal = self.with_role(Role::Etcd).next().is_some();
        match (internal, self.has_external_etcd()) {
            (false, false) => Err(HostCountError::NoEtcd),
            (true, true) => Err(HostCountError::BothEtcds),
            _ => Ok(()),
        }
    }
}

pub(super) fn validate(
    root: &Value<'_>,
    nodes: &[Value<'_>],
    config: &ClusterConfig,
    roles: &[Vec<String>],
) -> Result<(), ConfigError> {
    version(root, config)?;
    duplicates(nodes, config)?;
    for (index, (value, (node, roles))) in
        nodes.iter().zip(config.nodes.iter().zip(roles)).enumerate()
    {
        host(value, index + 1, node, roles)?;
        windows(value, node)?;
    }
    if let (Some(bastion), Some(value)) = (&config.bastion, root.get("bastion_host")?) {
        port(&value, &bastion.port, "the bastion host")?;
    }
    strategies(root, config)?;
    if !PLUGINS.contains(&config.network_plugin.as_str()) {
        let message = format!(
            "Network plugin [{}] is not supported",
            config.network_plugin
        );
        return Err(refusal(root, &["network", "plugin"], message));
    }
    external_etcd(root, config)
}

/// An error at the end of `path`, or at the deepest place on it that exists.
fn refusal(value: &Value<'_>, path: &[&str], message: String) -> ConfigError {
    let mut deepest = value.clone();
    for key in path {
        match deepest.get(key) {
            Ok(Some(next)) => deepest = next,
            _ => break,
        }
    }
    ConfigError {
        stage: Stage::Validate,
        line: deepest.line(),
        place: deepest.place().to_owned(),
        message,
        advice: None,
    }
}

fn version(root: &Value<'_>, config: &ClusterConfig) -> Result<(), ConfigError> {
    match config.kubernetes_version.as_deref() {
        Some(version) if semver(version).is_none() => {
            let message = format!("{version} is not valid semver");
            Err(refusal(root, &["kubernetes_version"], message))
        }
        _ => Ok(()),
    }
}

/// The three numbers of a version: `v1.30.5-rancher1-1`.
pub(super) fn semver(version: &str) -> Option<(u32, u32, u32)> {
    let version = version.strip_prefix('v').unwrap_or(version);
    let numbers = version.split(['-', '+']).next()?;
    let mut numbers = numbers.split('.').map(|number| {
        let plain = number.bytes().all(|byte| byte.is_ascii_digit());
        number.parse().ok().filter(|_| plain)
    });
    let parsed = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(parsed)
}

fn duplicates(nodes: &[Value<'_>], config: &ClusterConfig) -> Result<(), ConfigError> {
    let mut addresses = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (value, node) in nodes.iter().zip(&config.nodes) {
        // A node without address is told as such.
        if node.address.is_empty() {
            continue;
        }
        let twice = |what: &str| format!("Cluster can't have duplicate node: {what}");
        if !addresses.insert(&node.address) {
            return Err(refusal(value, &["address"], twice(&node.address)));
        }
        if !names.insert(&node.hostname) {
            return Err(refusal(
                value,
                &["hostname_override"],
                twice(&node.hostname),
            ));
        }
    }
    Ok(())
}

fn host(
    value: &Value<'_>,
    number: usize,
    node: &Node,
    roles: &[String],
) -> Result<(), ConfigError> {
    let missing = |what: &str| format!("{what} for host ({number}) is not provided");
    if node.address.is_empty() {
        return Err(refusal(value, &["address"], missing("Address")));
    }
    for (key, what, address) in [
        ("address", "Address", &node.address),
        (
            "internal_address",
            "Internal_address",
            &node.internal_address,
        ),
    ] {
        // It becomes a part of file names.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_name = address.bytes().all(plain) && !address.starts_with(['.', '-']);
        if !is_name && address.parse::<IpAddr>().is_err() {
            let message = format!(
                "{what} [{address}] for host ({number}) is neither an IP address nor a host name"
            );
            return Err(refusal(value, &[key], message));
        }
    }
    if node.user.is_empty() {
        return Err(refusal(value, &["user"], missing("User")));
    }
    port(value, &node.port, &format!("host ({number})"))?;
    if roles.is_empty() {
        return Err(refusal(value, &["role"], missing("Role")));
    }
    let wrong = subdomain_faults(&node.hostname);
    if !wrong.is_empty() {
        let message = format!(
            "Hostname_override [{}] for host ({number}) is not valid: [{}]",
            node.hostname,
            wrong.join(" ")
        );
        return Err(refusal(value, &["hostname_override"], message));
    }
    match roles.iter().find(|role| Role::named(role).is_none()) {
        None => Ok(()),
        Some(role) => {
            let message = format!("Role [{role}] for host ({number}) is not recognized");
            let mut error = refusal(value, &["role"], message);
            error.advice = Some("the roles are controlplane, etcd and worker");
            Err(error)
        }
    }
}

/// RKE finds a wrong port when it connects.
fn port(value: &Value<'_>, port: &str, of: &str) -> Result<(), ConfigError> {
    if port.parse::<u16>().is_ok_and(|port| port != 0) {
        return Ok(());
    }
    let message = format!("Port [{port}] for {of} is not a number from 1 to 65535");
    Err(refusal(value, &["port"], message))
}

/// What Kubernetes says of a name that is no DNS-1123 subdomain.
fn subdomain_faults(name: &str) -> Vec<&'static str> {
    let mut faults = Vec::new();
    if name.len() > 253 {
        faults.push("must be no more than 253 characters");
    }
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.iter().all(|byte| inner(*byte) || *byte == b'-')
            && bytes.first().is_some_and(|byte| inner(*byte))
            && bytes.last().is_some_and(|byte| inner(*byte))
    };
    if !name.split('.').all(label) {
        faults.push(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
             '-' or '.', and must start and end with an alphanumeric character (e.g. \
             'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        );
    }
    faults
}

fn windows(value: &Value<'_>, node: &Node) -> Result<(), ConfigError> {
    let refuse = |path: &[&str], evidence: String| {
        let host = WindowsHost {
            address: node.address.clone(),
            evidence,
        };
        Err(refusal(value, path, host.to_string()))
    };
    let socket = node.docker_socket();
    if socket.starts_with("npipe:")
        || socket.starts_with(r"\\.\pipe\")
        || socket.starts_with("//./pipe/")
    {
        return refuse(
            &["docker_socket"],
            "docker_socket is a named pipe".to_owned(),
        );
    }
    for label in WINDOWS_LABELS {
        let system = value.at(&["labels", label])?;
        if system.is_some_and(|value| value.is_text("windows")) {
            return refuse(&["labels"], format!("label {label}: windows"));
        }
    }
    Ok(())
}

fn strategies(root: &Value<'_>, config: &ClusterConfig) -> Result<(), ConfigError> {
    let path = ["authentication", "strategy"];
    let mut has_x509 = false;
    for strategy in config.authentication_strategy.split('|') {
        match strategy.trim().to_lowercase().as_str() {
            "x509" => has_x509 = true,
            "webhook" => {}
            other => {
                let message = format!("Authentication strategy [{other}] is not supported");
                return Err(refusal(root, &path, message));
            }
        }
    }
    match has_x509 {
        true => Ok(()),
        false => {
            let message = "Authentication strategy must contain [x509]".to_owned();
            Err(refusal(root, &path, message))
        }
    }
}

fn external_etcd(root: &Value<'_>, config: &ClusterConfig) -> Result<(), ConfigError> {
    if !config.has_external_etcd() {
        return Ok(());
    }
    let etcd = &config.etcd;
    let needed: [(&str, &str, &str); 4] = [
        ("ca_cert", &etcd.ca_cert, "External CA Certificate for etcd"),
        ("cert", &etcd.cert, "External Client Certificate for etcd"),
        ("key", &etcd.key, "External Client Key for etcd"),
        ("path", &etcd.path, "External etcd path"),
    ];
    match needed.into_iter().find(|(_, value, _)| value.is_empty()) {
        None => Ok(()),
        Some((key, _, what)) => Err(refusal(
            root,
            &["services", "etcd", key],
            format!("{what} can't be empty"),
        )),
    }
}
