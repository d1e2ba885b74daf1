//! Flags that concern one kind of cluster only are refused where the other is meant.

use std::path::Path;

use super::{ClusterArgs, RolloutArgs};
use crate::args::{LeafArgs, NameArgs, RestartArgs, SiteArgs};
use crate::error::CliError;

/// A flag, if it was given.
pub type Given = Option<&'static str>;

/// Refuses what only a K3s node has a use for.
///
/// # Errors
///
/// A usage error with the first flag that was given.
pub fn refuse_node(flags: &[Given]) -> Result<(), CliError> {
    match flags.iter().flatten().next() {
        None => Ok(()),
        Some(flag) => Err(CliError::usage(format!(
            "{flag} is for K3s nodes, and this is about an RKE cluster"
        ))),
    }
}

/// Refuses what only an RKE cluster has a use for.
///
/// # Errors
///
/// A usage error with the first flag that was given.
pub fn refuse_cluster(cluster: &ClusterArgs, rollout: &RolloutArgs) -> Result<(), CliError> {
    let ssh = &cluster.ssh;
    let flags = [
        (ssh.ssh_agent_auth, "--ssh-agent-auth"),
        (ssh.ssh_passphrase_file.is_some(), "--ssh-passphrase-file"),
        (!ssh.known_hosts.is_empty(), "--known-hosts"),
        (ssh.ssh_accept_new, "--ssh-accept-new"),
    ];
    match rollout.given().or_else(|| first(&flags)) {
        None => Ok(()),
        Some(flag) => Err(CliError::usage(format!(
            "{flag} is for RKE clusters: --cluster FILE"
        ))),
    }
}

/// Which K3s node. What only the environment says is no flag.
pub fn site(site: &SiteArgs) -> Given {
    let by_hand = |path: Option<&Path>, variable: &str| {
        path.is_some_and(|path| std::env::var_os(variable).as_deref() != Some(path.as_os_str()))
    };
    first(&[
        (
            by_hand(site.data_dir.as_deref(), "K3S_DATA_DIR"),
            "--data-dir",
        ),
        (
            by_hand(site.k3s_config.as_deref(), "K3S_CONFIG_FILE"),
            "--k3s-config",
        ),
        (site.kubeconfig.is_some(), "--kubeconfig"),
        (site.k3s_version.is_some(), "--k3s-version"),
    ])
}

/// What the node is called.
pub fn names(names: &NameArgs) -> Given {
    first(&[
        (!names.tls_san.is_empty(), "--tls-san"),
        (!names.tls_san_drop.is_empty(), "--tls-san-drop"),
        (names.node_name.is_some(), "--node-name"),
        (!names.node_ip.is_empty(), "--node-ip"),
        (!names.node_external_ip.is_empty(), "--node-external-ip"),
    ])
}

/// How its leaves are made.
pub fn leaves(leaves: &LeafArgs) -> Given {
    first(&[
        (leaves.keep_key, "--keep-key"),
        (leaves.window.is_some(), "--window"),
    ])
}

/// What happens to K3s; an RKE cluster's components are always restarted.
pub fn restart(restart: &RestartArgs) -> Given {
    first(&[
        (restart.restart, "--restart"),
        (restart.restart_command.is_some(), "--restart-command"),
    ])
}

/// The first that was given.
pub fn first(flags: &[(bool, &'static str)]) -> Given {
    let mut flags = flags.iter();
    flags.find_map(|(given, flag)| given.then_some(*flag))
}
