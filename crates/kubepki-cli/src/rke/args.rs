//! Arguments of the native commands that concern RKE clusters only.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::args::SiteArgs;

/// The heading under which `--help` lists them.
const HEADING: &str = "RKE clusters";

/// Which RKE cluster, and how its hosts are reached.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = HEADING)]
pub struct ClusterArgs {
    /// The cluster.yml of an RKE cluster; its state file lies beside it [default: cluster.yml in
    /// this directory, where no K3s is].
    #[arg(long, value_name = "FILE")]
    pub cluster: Option<PathBuf>,
    #[command(flatten)]
    pub ssh: SshArgs,
}

/// Where plans are, for commands that are about RKE clusters only.
#[derive(Clone, Debug, Default, Args)]
pub struct KeptArgs {
    /// Where plans, journal and backups are kept [default: .kubepki/cluster beside cluster.yml,
    /// named after the state file].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

impl KeptArgs {
    /// As the commands have it that are about K3s nodes, too.
    pub fn site(&self) -> SiteArgs {
        SiteArgs {
            state_dir: self.state_dir.clone(),
            ..SiteArgs::default()
        }
    }
}

/// How hosts are reached.
#[derive(Clone, Debug, Default, Args)]
pub struct SshArgs {
    /// Log in by the agent at SSH_AUTH_SOCK, whatever cluster.yml says.
    #[arg(long, value_name = "BOOL", value_parser = boolean, action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value = "false", hide_default_value = true)]
    pub ssh_agent_auth: bool,
    /// A file with the passphrase of the SSH keys.
    #[arg(long, value_name = "FILE")]
    pub ssh_passphrase_file: Option<PathBuf>,
    /// Where the hosts' SSH keys are recorded; may be given several times
    /// [default: ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts].
    #[arg(long, value_name = "FILE")]
    pub known_hosts: Vec<PathBuf>,
    /// Record the SSH key of a host that was never met in the first of these files, and say its
    /// fingerprint. A key that changed is refused all the same.
    #[arg(long)]
    pub ssh_accept_new: bool,
}

/// How a rotation goes about the hosts.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = HEADING)]
pub struct RolloutArgs {
    /// Go on without this host (its address), if it cannot be reached; `kubepki resume` brings it
    /// up to date once it is back. May be given several times.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub skip_unreachable: Vec<String>,
    /// Restart etcd although fewer than three members run, so that it is away for a moment.
    #[arg(long)]
    pub allow_etcd_outage: bool,
    /// How many hosts restart their kubelet and kube-proxy at once [default: a tenth of them, one
    /// at least].
    #[arg(long, value_name = "NUMBER", value_parser = one_at_least())]
    pub max_unavailable: Option<usize>,
    /// Restart as RKE does: every etcd member at once, then everything else at once.
    #[arg(long)]
    pub parallel_restarts: bool,
    /// Use cluster.yml where it says something else about certificates than the state file.
    #[arg(long)]
    pub apply_config: bool,
}

/// A flag's value as Go's `strconv.ParseBool`, and so RKE, takes it.
///
/// # Errors
///
/// For everything else, in a sentence.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("it is neither true nor false".to_owned()),
    }
}

fn one_at_least() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..)
}

impl RolloutArgs {
    /// The first of these flags that was given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            (!self.skip_unreachable.is_empty(), "--skip-unreachable"),
            (self.allow_etcd_outage, "--allow-etcd-outage"),
            (self.max_unavailable.is_some(), "--max-unavailable"),
            (self.parallel_restarts, "--parallel-restarts"),
            (self.apply_config, "--apply-config"),
        ];
        given
            .into_iter()
            .find_map(|(given, flag)| given.then_some(flag))
    }
}
