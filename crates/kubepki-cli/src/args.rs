//! Arguments: types only, no logic.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// See, renew, rotate and take back the certificates of a Kubernetes node.
///
/// Start with `kubepki check`: it shows every certificate, what is wrong, and the command that
/// mends it. Commands that change something print their plan and ask first; whatever they do can
/// be resumed after a crash (`kubepki resume`) and taken back (`kubepki undo`).
#[derive(Debug, Parser)]
#[command(
    name = "kubepki",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Issue every leaf of the node anew, or those of some services.
    ///
    /// Prints the plan and asks. New keys unless --keep-key. Files are replaced one by one, each
    /// journalled; K3s takes the new certificates up at its next restart.
    Rotate(RotateArgs),
    /// Issue anew only what K3s's next start would: what is due, expired, or lacks a name.
    Renew(RenewArgs),
    /// Make and save a plan without running it; `kubepki apply ID` runs it.
    Plan(PlanArgs),
    /// Run a saved plan, if everything is still as it was when it was made.
    Apply(ApplyArgs),
    /// Show what was done, newest last.
    History(HistoryArgs),
    /// Take back what a plan did, the last one by default.
    Undo(UndoArgs),
    /// Go on after an interruption.
    Resume(ResumeArgs),
}

/// Which node.
#[derive(Clone, Debug, Args)]
pub struct SiteArgs {
    /// K3s's data directory [default: from K3s's configuration, else /var/lib/rancher/k3s].
    #[arg(long, env = "K3S_DATA_DIR", value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// K3s's configuration file; `<FILE>.d/*.yaml` is read too.
    #[arg(long, env = "K3S_CONFIG_FILE", value_name = "FILE", global = true)]
    pub k3s_config: Option<PathBuf>,
    /// The administrator's kubeconfig to keep in step [default: K3s's own, when the data
    /// directory is the configured one].
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Where plans, journal and backups are kept [default: <DATA-DIR>/kubepki].
    #[arg(long, value_name = "DIR", global = true)]
    pub state_dir: Option<PathBuf>,
    /// Which K3s this is (v1.33.1); told from the files otherwise.
    #[arg(long, value_name = "VERSION", global = true)]
    pub k3s_version: Option<String>,
}

/// What the node is called, for certificates that are missing or get other names.
#[derive(Clone, Debug, Args)]
pub struct NameArgs {
    /// A name or address that the servers' certificates must carry; may be given several times.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// A name or address that they must carry no more.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub tls_san_drop: Vec<String>,
    /// The node's name; needed only where no certificate tells it.
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The node's addresses; needed only where no certificate tells them.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// The node's addresses as seen from outside.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub node_external_ip: Vec<IpAddr>,
}

/// How a change is made.
#[derive(Clone, Debug, Args)]
pub struct ChangeArgs {
    /// Go on without asking.
    #[arg(long)]
    pub yes: bool,
    /// Print the plan and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// The plan's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
    /// Restart K3s afterwards, wait until it is healthy, and prove that it serves the new
    /// certificates.
    #[arg(long)]
    pub restart: bool,
    /// Restart with this command instead of `systemctl restart`; split at blanks, no shell.
    #[arg(long, value_name = "COMMAND")]
    pub restart_command: Option<String>,
    /// Seconds to wait after a restart for the proof.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub restart_timeout: u64,
}

/// How a plan is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlanFormat {
    /// For people.
    Text,
    /// The saved form.
    Json,
}

/// How leaves are made.
#[derive(Clone, Debug, Args)]
pub struct LeafArgs {
    /// Keep the present private keys.
    #[arg(long)]
    pub keep_key: bool,
    /// Days before the end from which a leaf is due [default: 120, or 90 for older K3s].
    #[arg(long, value_name = "DAYS")]
    pub window: Option<u32>,
}

/// `rotate`.
#[derive(Clone, Debug, Args)]
pub struct RotateArgs {
    /// Only these services, with commas or several times; all of the node otherwise.
    #[arg(short, long = "service", value_name = "NAME")]
    pub services: Vec<String>,
    #[command(flatten)]
    pub site: SiteArgs,
    #[command(flatten)]
    pub names: NameArgs,
    #[command(flatten)]
    pub leaves: LeafArgs,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `renew`.
#[derive(Clone, Debug, Args)]
pub struct RenewArgs {
    #[command(flatten)]
    pub site: SiteArgs,
    #[command(flatten)]
    pub names: NameArgs,
    #[command(flatten)]
    pub leaves: LeafArgs,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `plan`.
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// Plan a rotation of these services instead of what is due; `all` for every service.
    #[arg(short, long = "service", value_name = "NAME")]
    pub services: Vec<String>,
    /// Plan as if at this moment (RFC 3339); such a plan is not saved and cannot be applied.
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// The plan's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
    #[command(flatten)]
    pub site: SiteArgs,
    #[command(flatten)]
    pub names: NameArgs,
    #[command(flatten)]
    pub leaves: LeafArgs,
}

/// `apply`.
#[derive(Clone, Debug, Args)]
pub struct ApplyArgs {
    /// The plan, as `kubepki plan` named it.
    pub id: String,
    #[command(flatten)]
    pub site: SiteArgs,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `history`.
#[derive(Clone, Debug, Args)]
pub struct HistoryArgs {
    /// Show one plan whole.
    pub id: Option<String>,
    /// Forget a plan, its backups and staged keys for good.
    #[arg(long, value_name = "ID", conflicts_with = "id")]
    pub forget: Option<String>,
    /// Go on without asking.
    #[arg(long)]
    pub yes: bool,
    /// The list's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
    #[command(flatten)]
    pub site: SiteArgs,
}

/// `undo`.
#[derive(Clone, Debug, Args)]
pub struct UndoArgs {
    /// The plan to take back; the last one by default.
    pub id: Option<String>,
    #[command(flatten)]
    pub site: SiteArgs,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `resume`.
#[derive(Clone, Debug, Args)]
pub struct ResumeArgs {
    /// The plan to go on with; the interrupted one by default.
    pub id: Option<String>,
    /// Seconds to wait after a restart for the proof.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub restart_timeout: u64,
    #[command(flatten)]
    pub site: SiteArgs,
}
