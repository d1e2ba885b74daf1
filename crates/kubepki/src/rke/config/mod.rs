//! `cluster.yml`, as RKE reads it: its defaults, its checks and their words.
//!
//! Only what certificates and the way to the hosts depend on is read; other keys are ignored, as
//! RKE ignores those it does not know. The same values are read from the `rkeConfig` of a state
//! file, which RKE's rotation starts from.

mod differences;
mod error;
mod read;
mod source;
mod validate;
mod write;

use super::{Json, Secret, Service};

pub use differences::{Difference, differences};
pub use error::{ConfigError, Stage};
pub use validate::{HostCountError, WindowsHost, refuse_windows};

/// What RKE assumes for `services.kube-api.service_cluster_ip_range`.
pub const DEFAULT_SERVICE_RANGE: &str = "10.43.0.0/16";
/// What RKE assumes for `services.kubelet.cluster_domain`.
pub const DEFAULT_DOMAIN: &str = "cluster.local";
/// What RKE assumes for `docker_socket`.
pub const DEFAULT_DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// What RKE assumes for `ssh_key_path`; `~/` means the directory in `HOME`.
pub const DEFAULT_SSH_KEY_PATH: &str = "~/.ssh/id_rsa";

/// The parts of a `cluster.yml` that matter here, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// `cluster_name`, else `local`.
    pub cluster_name: String,
    /// `kubernetes_version`: `v1.30.5-rancher1-1`. RKE's default is in its metadata, which we do
    /// not have.
    pub kubernetes_version: Option<String>,
    /// `prefix_path`, else `/`; what it means depends on the host's system
    /// ([`Self::host_prefix`]).
    pub prefix_path: String,
    /// `nodes`, in order.
    pub nodes: Vec<Node>,
    /// `bastion_host`, if it has an address.
    pub bastion: Option<Bastion>,
    /// `ssh_key_path`, else [`DEFAULT_SSH_KEY_PATH`].
    pub ssh_key_path: String,
    /// `ssh_cert_path`; nodes do not inherit it.
    pub ssh_cert_path: Option<String>,
    /// `ssh_agent_auth`; it overrides what nodes say.
    pub ssh_agent_auth: bool,
    /// `ignore_docker_version`; RKE's commands overwrite it with their flag.
    pub ignore_docker_version: bool,
    /// `authentication.strategy`, else `x509`: names separated by `|`.
    pub authentication_strategy: String,
    /// `authentication.sans`: further names of the API server, in order.
    pub sans: Vec<String>,
    /// `services.etcd`.
    pub etcd: Etcd,
    /// `services.kube-api.service_cluster_ip_range`; two ranges are separated by a comma.
    pub service_range: String,
    /// `services.kubelet.cluster_domain`.
    pub cluster_domain: String,
    /// `services.kubelet.generate_serving_certificate`.
    pub serving_certificates: bool,
    /// `network.plugin`, else `canal`.
    pub network_plugin: String,
    /// `system_images`.
    pub images: Images,
    /// `rotate_certificates`: where it is given, every `rke up` rotates.
    pub rotate: Option<RotateCertificates>,
    /// Files under `/etc/kubernetes/ssl` that `extra_args` of a service name, by file name.
    pub extra_files: Vec<(Service, String)>,
}

/// A machine of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `address`: where SSH connects to.
    pub address: String,
    /// `port`, else 22.
    pub port: String,
    /// `internal_address`, else the address.
    pub internal_address: String,
    /// `role`, in order.
    pub roles: Vec<Role>,
    /// `hostname_override`, else the address; lower case. The node's name in Kubernetes.
    pub hostname: String,
    /// `user`.
    pub user: String,
    /// `docker_socket`; see [`Self::docker_socket`].
    pub docker_socket: Option<String>,
    /// `ssh_agent_auth` of the whole file.
    pub ssh_agent_auth: bool,
    /// `ssh_key`: PEM; it counts more than the path.
    pub ssh_key: Option<Secret>,
    /// `ssh_key_path`, else the file's.
    pub ssh_key_path: String,
    /// `ssh_cert`: one line as in `authorized_keys`.
    pub ssh_cert: Option<String>,
    /// `ssh_cert_path`; read only when the key comes from a path, too.
    pub ssh_cert_path: Option<String>,
}

/// A machine that SSH goes through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bastion {
    /// `address`.
    pub address: String,
    /// `port`, else 22.
    pub port: String,
    /// `user`; RKE does not ask for one.
    pub user: String,
    /// `ssh_agent_auth` of the whole file.
    pub ssh_agent_auth: bool,
    /// `ssh_key`: PEM.
    pub ssh_key: Option<Secret>,
    /// `ssh_key_path`, else the file's.
    pub ssh_key_path: String,
    /// `ssh_cert`.
    pub ssh_cert: Option<String>,
    /// `ssh_cert_path`.
    pub ssh_cert_path: Option<String>,
    /// `ignore_proxy_env_vars`.
    pub ignore_proxy: bool,
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `controlplane`.
    ControlPlane,
    /// `etcd`.
    Etcd,
    /// `worker`.
    Worker,
}

/// `services.etcd`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Etcd {
    /// `external_urls`: an etcd that RKE does not run.
    pub external_urls: Vec<String>,
    /// `ca_cert`: PEM of the external etcd's CA.
    pub ca_cert: String,
    /// `cert`: PEM of the client certificate for it.
    pub cert: String,
    /// `key`: PEM of its key.
    pub key: Secret,
    /// `path`: prefix of keys in it.
    pub path: String,
    /// `uid`; without effect unless `gid` is given, too.
    pub uid: u32,
    /// `gid`.
    pub gid: u32,
}

/// Container images that are on the hosts already, from `system_images`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// `cert_downloader`: RKE's tools.
    pub cert_downloader: Option<String>,
    /// `alpine`: RKE's tools, too.
    pub alpine: Option<String>,
    /// `kubernetes`.
    pub kubernetes: Option<String>,
    /// `etcd`.
    pub etcd: Option<String>,
    /// `kubernetes_services_sidecar`.
    pub sidecar: Option<String>,
    /// `nginx_proxy`.
    pub nginx_proxy: Option<String>,
}

/// `rotate_certificates`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RotateCertificates {
    /// `cacertificates`; in a state file `caCertificates`.
    pub authorities: bool,
    /// `services`.
    pub services: Vec<String>,
}

impl ClusterConfig {
    /// Reads a `cluster.yml`.
    ///
    /// # Errors
    ///
    /// What RKE refuses, in its words, with the line; and Windows nodes.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        read::yaml(text)
    }

    /// Reads the `rkeConfig` of a state file.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`], with the place instead of the line.
    pub fn from_rke_config(config: &Json) -> Result<Self, ConfigError> {
        read::json(config)
    }

    /// The nodes that do `role`, in order.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.has(role))
    }

    /// The node at `address`.
    pub fn node(&self, address: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.address == address)
    }

    /// Whether etcd is one that RKE does not run.
    pub fn has_external_etcd(&self) -> bool {
        !self.etcd.external_urls.is_empty()
    }

    /// Owner of etcd's files, where RKE gives them to someone: both ids must be given.
    pub fn etcd_owner(&self) -> Option<(u32, u32)> {
        (self.etcd.uid != 0 && self.etcd.gid != 0).then_some((self.etcd.uid, self.etcd.gid))
    }

    /// The second number of `kubernetes_version`: 30 of `v1.30.5-rancher1-1`.
    pub fn kubernetes_minor(&self) -> Option<u32> {
        let version = self.kubernetes_version.as_deref()?;
        let (_, minor, _) = validate::semver(version)?;
        Some(minor)
    }

    /// What goes before `/etc/kubernetes` on a host whose Docker calls its system
    /// `operating_system` (`docker info`): empty for most, `/opt/rke` for Container Linux and its
    /// kin (`hosts/hosts.go`).
    pub fn host_prefix(&self, operating_system: &str) -> String {
        host_prefix(&self.prefix_path, operating_system)
    }
}

/// [`ClusterConfig::host_prefix`] of a `prefix_path`.
pub fn host_prefix(prefix_path: &str, operating_system: &str) -> String {
    let is = |name: &str| operating_system.contains(name);
    let prefix = if prefix_path != "/" {
        prefix_path.trim_end_matches('/')
    } else if is("Boot2Docker") {
        "/mnt/sda1/rke"
    } else if is("RancherOS") || is("CoreOS") || is("Flatcar") {
        "/opt/rke"
    } else {
        ""
    };
    prefix.to_owned()
}

impl Node {
    /// Whether it does `role`.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Docker's socket, [`DEFAULT_DOCKER_SOCKET`] if none is given.
    pub fn docker_socket(&self) -> &str {
        let given = self.docker_socket.as_deref();
        given.unwrap_or(DEFAULT_DOCKER_SOCKET)
    }
}

impl Role {
    /// As in `cluster.yml`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ControlPlane => "controlplane",
            Self::Etcd => "etcd",
            Self::Worker => "worker",
        }
    }

    /// The role called so.
    pub fn named(name: &str) -> Option<Self> {
        [Self::ControlPlane, Self::Etcd, Self::Worker]
            .into_iter()
            .find(|role| role.name() == name)
    }
}
