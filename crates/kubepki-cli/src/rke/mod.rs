//! RKE clusters: the native commands on a `cluster.yml` and its state file.

mod aftermath;
pub mod again;
mod args;
pub mod check;
pub mod files;
pub mod flags;
pub mod forget;
mod hosts;
pub mod install;
mod open;
pub mod reach;
pub mod rotate;
mod session;

use std::path::{Path, PathBuf};

pub use args::{ClusterArgs, KeptArgs, RolloutArgs, SshArgs, boolean};
pub use hosts::Hosts;
pub use open::RkeCluster;
pub use session::Session;

use crate::args::SiteArgs;
use crate::error::CliError;
use crate::world::resolved;

/// The cluster.yml that a command is about; `None` if it is about a K3s node.
///
/// A flag decides; without one, what is found: cluster.yml or its state file in this directory,
/// or K3s's data directory.
///
/// # Errors
///
/// When both are found.
pub fn chosen(cluster: &ClusterArgs, site: &SiteArgs) -> Result<Option<PathBuf>, CliError> {
    if let Some(named) = &cluster.cluster {
        flags::refuse_node(&[flags::site(site)])?;
        return Ok(Some(named.clone()));
    }
    if site.data_dir.is_some() || site.k3s_config.is_some() {
        return Ok(None);
    }
    let found = Path::new(DEFAULT_CONFIG);
    if !found.is_file() && !Path::new(DEFAULT_STATE).is_file() {
        return Ok(None);
    }
    let k3s = Path::new(kubepki::inventory::DEFAULT_DATA_DIR);
    match k3s.join("server").is_dir() || k3s.join("agent").is_dir() {
        false => Ok(Some(found.to_owned())),
        true => Err(CliError::usage(format!(
            "there are an RKE cluster ({}) and a K3s node ({})",
            resolved(found).display(),
            k3s.display()
        ))
        .hint("say which one: --cluster cluster.yml or --data-dir DIR")),
    }
}

/// RKE's own defaults for `--config`.
const DEFAULT_CONFIG: &str = "cluster.yml";
const DEFAULT_STATE: &str = "cluster.rkestate";

#[cfg(test)]
mod tests {
    use super::*;

    fn site(data_dir: Option<&str>) -> SiteArgs {
        SiteArgs {
            data_dir: data_dir.map(PathBuf::from),
            k3s_config: None,
            kubeconfig: None,
            state_dir: None,
            k3s_version: None,
        }
    }

    #[test]
    fn a_flag_decides() {
        let named = ClusterArgs {
            cluster: Some("/x/cluster.yml".into()),
            ..ClusterArgs::default()
        };
        assert_eq!(
            chosen(&named, &site(None)).unwrap(),
            Some("/x/cluster.yml".into())
        );
        let nothing = ClusterArgs::default();
        assert_eq!(chosen(&nothing, &site(Some("/var/lib/x"))).unwrap(), None);
    }
}
