//! How the hosts of a cluster.yml are reached.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kubepki::rke::Role;
use kubepki::rke::Secret;
use kubepki::rke::config::{Bastion, Node};
use kubepki_remote::ApiRoute;
use kubepki_remote::machine::{HostSpec, Notice, Notify, RemoteMachines, SshReach};
use kubepki_remote::ssh::{Credentials, Endpoint, HostKeys, PrivateKey, Timeouts};

use super::{Hosts, RkeCluster, SshArgs};
use crate::error::CliError;
use crate::output;

/// What messages call a key that stands in cluster.yml itself.
const INLINE_KEY: &str = "ssh_key in cluster.yml";

/// How many hosts are connected to at once.
const AT_ONCE: usize = 10;

/// The hosts of cluster.yml and its API, connected to when they are first needed.
///
/// # Errors
///
/// When a key, certificate or passphrase cannot be read.
pub fn machines(cluster: &RkeCluster, args: &SshArgs, notify: Notify) -> Result<Hosts, CliError> {
    let config = &cluster.config;
    let host_keys = host_keys(args);
    let images = [&config.images.cert_downloader, &config.images.alpine];
    let images: Vec<String> = images.into_iter().flatten().cloned().collect();
    let mut hosts = Vec::new();
    for node in &config.nodes {
        let reach = SshReach {
            endpoint: endpoint(node, config.bastion.as_ref(), args, &cluster.site.root)?,
            host_keys: host_keys.clone(),
            timeouts: Timeouts::default(),
        };
        hosts.push(HostSpec {
            name: node.address.clone(),
            docker_socket: node.docker_socket().to_owned(),
            // RKE's own choice depends on the host's system, which its Docker tells.
            prefix_path: config.prefix_path.clone(),
            relabel: config.kubernetes_minor().is_some_and(|minor| minor < 22),
            images: images.clone(),
            reach: Arc::new(reach),
        });
    }
    let machines = RemoteMachines::new(hosts, AT_ONCE, Arc::clone(&notify));
    let bastion = match &config.bastion {
        None => None,
        Some(bastion) => Some(SshReach {
            endpoint: bastion_endpoint(bastion, args, &cluster.site.root)?,
            host_keys,
            timeouts: Timeouts::default(),
        }),
    };
    let servers = config.with_role(Role::ControlPlane);
    let servers = servers.filter_map(|node| machines.get(&node.address));
    let route = ApiRoute::new(bastion, servers.collect(), notify);
    Ok(Hosts {
        machines,
        route: Arc::new(route),
    })
}

/// Nobody at all, for what concerns files of this machine only.
pub fn nobody() -> Hosts {
    Hosts {
        machines: RemoteMachines::new([], 1, told()),
        route: Arc::new(ApiRoute::direct()),
    }
}

/// The way to the API alone. Where no bastion is the only road, it may do without a key to log in
/// to hosts with.
///
/// # Errors
///
/// Those of [`machines`] where there is a bastion.
pub fn api(cluster: &RkeCluster, args: &SshArgs) -> Result<Arc<ApiRoute>, CliError> {
    match machines(cluster, args, told()) {
        Ok(hosts) => Ok(hosts.route),
        Err(error) if cluster.config.bastion.is_some() => Err(error),
        Err(_) => Ok(Arc::new(ApiRoute::direct())),
    }
}

/// Says what is worth knowing about a host's way.
pub fn told() -> Notify {
    Arc::new(|host, notice| match notice {
        Notice::Connected { news } => output::talk(&format!("{host}: {news}")),
        Notice::Reconnecting => output::talk(&format!("{host}: the connection broke; once more")),
        Notice::ApiByHost { target, why } => output::talk(&api_by_host(host, target, why)),
        Notice::RestartFailed { container, error } => {
            output::talk(&format!("{host}: cannot restart {container}: {error}"));
        }
        _ => {}
    })
}

/// What is said when the API is asked through a host.
pub fn api_by_host(host: &str, target: &str, why: &str) -> String {
    format!(
        "The Kubernetes API at {target} is asked through the SSH connection of {host}, for it \
         cannot be reached from here ({why})."
    )
}

/// Which hosts' SSH keys are believed.
pub fn host_keys(args: &SshArgs) -> HostKeys {
    let mut files = args.known_hosts.clone();
    if files.is_empty() {
        files.push(expanded("~/.ssh/known_hosts"));
        files.push(PathBuf::from("/etc/ssh/ssh_known_hosts"));
    }
    let first = files.first().cloned();
    let believed = HostKeys::strict(files);
    match first {
        Some(first) if args.ssh_accept_new => believed.accepting_new(first),
        _ => believed,
    }
}

/// Where a node is, and as whom to log in there. Relative key paths count from `root`, the
/// directory of cluster.yml, or from here, as RKE's do.
///
/// # Errors
///
/// When a key, certificate or passphrase cannot be read, or a port is none.
pub fn endpoint(
    node: &Node,
    bastion: Option<&Bastion>,
    args: &SshArgs,
    root: &Path,
) -> Result<Endpoint, CliError> {
    let keys = Keys {
        agent: node.ssh_agent_auth || args.ssh_agent_auth,
        inline: node.ssh_key.as_ref(),
        path: &node.ssh_key_path,
        certificate: node.ssh_cert.as_deref(),
        certificate_path: node.ssh_cert_path.as_deref(),
    };
    let bastion = match bastion {
        None => None,
        Some(bastion) => Some(Box::new(bastion_endpoint(bastion, args, root)?)),
    };
    Ok(Endpoint {
        address: node.address.clone(),
        port: port(&node.port, &node.address)?,
        user: node.user.clone(),
        keys: keys.read(args, root)?,
        bastion,
    })
}

fn bastion_endpoint(bastion: &Bastion, args: &SshArgs, root: &Path) -> Result<Endpoint, CliError> {
    let keys = Keys {
        agent: bastion.ssh_agent_auth || args.ssh_agent_auth,
        inline: bastion.ssh_key.as_ref(),
        path: &bastion.ssh_key_path,
        certificate: bastion.ssh_cert.as_deref(),
        certificate_path: bastion.ssh_cert_path.as_deref(),
    };
    Ok(Endpoint {
        address: bastion.address.clone(),
        port: port(&bastion.port, &bastion.address)?,
        user: bastion.user.clone(),
        keys: keys.read(args, root)?,
        bastion: None,
    })
}

/// What a node or bastion says of its keys.
struct Keys<'a> {
    agent: bool,
    inline: Option<&'a Secret>,
    path: &'a str,
    certificate: Option<&'a str>,
    certificate_path: Option<&'a str>,
}

impl Keys<'_> {
    fn read(&self, args: &SshArgs, root: &Path) -> Result<Credentials, CliError> {
        // As in RKE, an agent that is asked for and there is the only way.
        let agent = std::env::var_os("SSH_AUTH_SOCK").filter(|it| !it.is_empty());
        match (self.agent, agent) {
            (true, Some(agent)) => Ok(Credentials {
                key: None,
                agent: Some(agent.into()),
            }),
            (true, None) => match self.key(args, root) {
                Ok(key) if key.is_ready() => Ok(key.into()),
                Ok(_) => Err(no_agent("the key is encrypted")),
                Err(error) => Err(no_agent(&error.message)),
            },
            (false, _) => Ok(self.key(args, root)?.into()),
        }
    }

    fn key(&self, args: &SshArgs, root: &Path) -> Result<PrivateKey, CliError> {
        let mut key = match self.inline {
            Some(text) => {
                PrivateKey::from_text(text.expose().to_owned().into(), INLINE_KEY.to_owned())
            }
            None => PrivateKey::from_file(&self.found(self.path, root))?,
        };
        if let Some(line) = self.certificate {
            key = key.with_certificate(line);
        } else if let (None, Some(path)) = (self.inline, self.certificate_path) {
            key = key.with_certificate_file(&self.found(path, root))?;
        }
        if let Some(file) = &args.ssh_passphrase_file {
            key = key.with_passphrase_file(file)?;
        }
        Ok(key)
    }

    /// RKE reads relative paths from the working directory; one beside cluster.yml is meant where
    /// there is none here.
    fn found(&self, path: &str, root: &Path) -> PathBuf {
        let here = expanded(path);
        match here.is_relative() && !here.exists() {
            true => root.join(here),
            false => here,
        }
    }
}

/// An agent is asked for, and there is neither one nor a key in its place.
fn no_agent(why: &str) -> CliError {
    CliError::message(format!(
        "ssh-agent is asked for (ssh_agent_auth in cluster.yml or --ssh-agent-auth), but \
         SSH_AUTH_SOCK is not set, and no key takes its place: {why}"
    ))
    .hint(
        "start an agent and add the key, as with: eval \"$(ssh-agent)\" && ssh-add KEY; or name a \
         key that can be read by ssh_key_path, with --ssh-passphrase-file if it is encrypted",
    )
}

fn port(text: &str, address: &str) -> Result<u16, CliError> {
    text.parse().map_err(|_| {
        CliError::message(format!(
            "cluster.yml: the port {text:?} of {address} is none"
        ))
    })
}

/// `~/` is the directory in HOME.
fn expanded(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(path),
    }
}
