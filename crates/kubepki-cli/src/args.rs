//! Arguments: types only, no logic.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::command::init::InitArgs;
use crate::datastore::EndpointArgs;
use crate::rke::{ClusterArgs, RolloutArgs};

mod kubeconfig;

pub use kubeconfig::{
    KubeconfigCommand, KubeconfigCreateArgs, KubeconfigListArgs, KubeconfigRenewArgs,
};

/// See, renew, rotate and take back the certificates of a K3s node or an RKE cluster.
///
/// Start with `kubepki check`: it shows every certificate, what is wrong, and the command that
/// mends it. Commands that change something print their plan and ask first; whatever they do can
/// be resumed after a crash (`kubepki resume`) and taken back (`kubepki undo`).
///
/// Exit codes: 0 fine or done; 1 failed, and nothing was changed; 2 wrong usage; 3 something is
/// due; 4 something has expired or is broken; 5 refused, or the plan is stale; 6 interrupted, run
/// `kubepki resume` or `kubepki undo`; 7 done in part. `kubepki k3s …` and `kubepki rke …` have the
/// originals': 0 and 1, and 7 where RKE would leave out a host and end with 0.
#[derive(Debug, Parser)]
#[command(
    name = "kubepki",
    version,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = EXIT_CODES
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the native commands end with; `k3s certificate …` ends as K3s does.
const EXIT_CODES: &str = "\
Exit codes:
  0  fine, or done
  1  failed, nothing was changed
  2  the command was not said right
  3  something is due
  4  something has expired or is broken
  5  refused, or the plan is stale; nothing was changed
  6  interrupted: run `kubepki resume` or `kubepki undo`
  7  done in part";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the files of a new K3s server, before its first start.
    ///
    /// Five CAs of ten years, every certificate, key, kubeconfig, password and token: what K3s's
    /// first start would make, so that it keeps them. CA files that lie in place are checked, used
    /// and never touched. Prints the plan and asks.
    ///
    /// With --cluster: the first state file of an RKE cluster, as `rke up` makes it, and the
    /// administrator's kubeconfig.
    #[command(after_help = "Examples:\n  kubepki init --node-name server-1\n  \
                            kubepki init --cluster cluster.yml --dry-run")]
    Init(Box<InitArgs>),
    /// Show every certificate, what is wrong, and the command that mends it.
    ///
    /// Ends with 0 when nothing is to be done, 3 when something is due, 4 when something has
    /// expired or is broken. On an RKE cluster: state file, files of every host, what runs on it
    /// and what is served, side by side.
    #[command(
        after_help = "Examples:\n  kubepki check\n  kubepki check --cluster cluster.yml\n  \
                            kubepki check --cluster cluster.yml --offline --at 2030-01-01T00:00:00Z"
    )]
    Check(crate::command::check::CheckArgs),
    /// Issue every leaf of the node anew, or those of some services.
    ///
    /// Prints the plan and asks. New keys unless --keep-key. Files are replaced one by one, each
    /// journalled; K3s takes the new certificates up at its next restart.
    ///
    /// On an RKE cluster: new certificates on every host, and a restart of what reads them, etcd
    /// one member at a time, each proven before the next. --service takes kube-apiserver,
    /// kube-controller-manager, kube-scheduler, kubelet, kube-proxy, etcd. The state file's
    /// currentState follows what is proven.
    #[command(
        after_help = "Examples:\n  kubepki rotate --service admin,scheduler --restart\n  \
                            kubepki rotate --cluster cluster.yml --service kubelet\n  \
                            kubepki rotate --cluster cluster.yml --skip-unreachable 10.0.0.7"
    )]
    Rotate(RotateArgs),
    /// Issue anew only what K3s's next start would: what is due, expired, or lacks a name.
    Renew(RenewArgs),
    /// Make and save a plan without running it; `kubepki apply ID` runs it.
    ///
    /// On an RKE cluster: of a rotation, of every service unless --service names some.
    #[command(after_help = "Examples:\n  kubepki plan\n  \
                            kubepki plan --cluster cluster.yml --service etcd")]
    Plan(PlanArgs),
    /// Run a saved plan, if everything is still as it was when it was made.
    #[command(
        after_help = "Examples:\n  kubepki apply 20300101T120000Z-rotate-1a2b --restart\n  \
                      kubepki apply 20300101T120000Z-rotate-1a2b --cluster cluster.yml"
    )]
    Apply(ApplyArgs),
    /// Show what was done, newest last.
    #[command(after_help = "Examples:\n  kubepki history\n  \
                            kubepki history --cluster cluster.yml\n  \
                            kubepki history 20300101T120000Z-rotate-1a2b --cluster cluster.yml\n  \
                            kubepki history --forget 20300101T120000Z-rotate-1a2b")]
    History(HistoryArgs),
    /// Take back what a plan did, the last one by default.
    ///
    /// On an RKE cluster: the hosts get back what they kept, the state file comes from its backup,
    /// and what reads them is restarted with the same care as before.
    #[command(after_help = "Examples:\n  kubepki undo --restart\n  \
                            kubepki undo --cluster cluster.yml\n  \
                            kubepki undo 20300101T120000Z-rotate-1a2b --cluster cluster.yml")]
    Undo(UndoArgs),
    /// Go on after an interruption.
    ///
    /// On an RKE cluster also with what was put off: hosts that were away, an API that did not
    /// answer.
    #[command(after_help = "Examples:\n  kubepki resume\n  \
                            kubepki resume --cluster cluster.yml")]
    Resume(ResumeArgs),
    /// K3s's own commands, with its flags, messages and exit codes.
    #[command(name = "k3s")]
    K3s(crate::dropin::K3sArgs),
    /// RKE's own commands, with its flags, messages and exit codes.
    Rke(crate::dropin::RkeArgs),
    /// Show, fetch or rebuild the state file of an RKE cluster.
    #[command(subcommand)]
    State(crate::command::rke_state::StateCommand),
    /// Make certificate requests for a company's CA, with their keys, from an RKE cluster.yml.
    ///
    /// Requests that fit stay, and keys that are there always do. Reaches no host.
    GenerateCsr(crate::command::custom_certs::GenerateCsrArgs),
    /// See and judge what a company's CA made of the requests of `generate-csr`.
    #[command(subcommand)]
    CustomCerts(crate::command::custom_certs::CustomCertsCommand),
    /// See, compare, extract and restore what the cluster's servers share: the bootstrap data.
    #[command(subcommand)]
    Bootstrap(crate::command::bootstrap::BootstrapCommand),
    /// Show, check, make, rotate and rewrite the tokens that nodes join with.
    #[command(subcommand)]
    Token(crate::command::token::TokenCommand),
    /// Serve a K3s cluster's certificates: agents join and renew here.
    ///
    /// Answers K3s's agents on its port: CA files, settings, certificates for nodes. Makes what
    /// is missing in the data directory, renews what is due, then listens. Every certificate is
    /// in the issuance log before it leaves. Refuses a data directory in which K3s runs.
    #[command(after_help = "Examples:\n  kubepki serve --node-name server-1\n  \
                            kubepki serve --data-dir /srv/k3s --https-listen-port 7443")]
    Serve(Box<crate::command::serve::ServeArgs>),
    /// List, rotate and drop the keys of service-account tokens.
    #[command(subcommand)]
    SaKey(crate::command::sa_key::SaKeyCommand),
    /// Do beforehand what K3s's next start would do with the datastore's CAs and this disk.
    ///
    /// Makes a data directory ready for a new, wiped or lost server: files from the datastore,
    /// certificates under its CAs, kubeconfigs, tokens. Prints the plan and asks.
    Reconcile(Box<crate::command::reconcile::ReconcileArgs>),
    /// Make, request, import, stage and verify the cluster's CAs.
    #[command(subcommand)]
    Ca(crate::command::ca::CaCommand),
    /// Find, refresh and make kubeconfigs with certificates of this cluster.
    #[command(subcommand)]
    Kubeconfig(KubeconfigCommand),
    /// Say in words what a file is: certificate, key, request, bundle, kubeconfig.
    ///
    /// Never prints a private key.
    Inspect(InspectArgs),
    /// Print systemd units that renew and check from a timer or before K3s starts, or that serve.
    ///
    /// Each file's place stands above it; nothing is installed.
    Unit(crate::command::unit::UnitArgs),
    /// Check a staged set of CA files and put it in force.
    ///
    /// Prints the plan with everything that it touches and asks. While K3s or `kubepki serve` runs
    /// on this node the set goes to the running server, else straight into the datastore with this
    /// server's files and certificates made ready. A failed check changes nothing, is told to the system log too,
    /// and ends with 5; --force overrides what can be overridden.
    ///
    /// On an RKE cluster: new CAs and certificates on every host. The old root vouches for the new
    /// one until everything has been restarted and proven; then the new one alone is trusted, and
    /// system pods are deleted so that they learn of it.
    #[command(after_help = "Examples:\n  kubepki rotate-ca --staged --restart\n  \
                            kubepki rotate-ca --cluster cluster.yml\n  \
                            kubepki rotate-ca --cluster cluster.yml --keep-old")]
    RotateCa(Box<crate::command::rotate_ca::RotateCaArgs>),
    /// Get this node's certificates from a server, with keys that are made here.
    ///
    /// The CA is held to the hash in the token before anything secret is sent. Writes the files
    /// of a K3s agent; run again, it renews only what is due, and keys stay.
    #[command(
        after_help = "Examples:\n  kubepki join --server https://10.0.0.1:6443 --token-file \
                            /etc/rancher/k3s/token\n  kubepki join --server \
                            https://10.0.0.1:6443,https://10.0.0.2:6443 --token-file - --yes"
    )]
    Join(Box<crate::command::join::JoinArgs>),
    /// What concerns this node alone.
    #[command(subcommand)]
    Node(crate::command::join::NodeCommand),
    /// See and verify the record of every certificate that this server issued.
    #[command(subcommand)]
    Log(crate::command::log::LogCommand),
    /// Show the main job on a made-up server in a temporary directory.
    Tour(TourArgs),
}

/// `inspect`.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// The file; `-` for standard input.
    pub file: PathBuf,
    /// The answer's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
    /// Answer for another moment (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
}

/// `tour`.
#[derive(Clone, Debug, Args)]
pub struct TourArgs {
    /// Keep the directory.
    #[arg(long)]
    pub keep: bool,
    /// Act as the process that dies: renew in this directory and be killed on the way.
    #[arg(long, hide = true, value_name = "DIR")]
    pub die_in: Option<PathBuf>,
}

/// Which node.
#[derive(Clone, Debug, Default, Args)]
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
    /// Where plans, journal and backups are kept [default: <DATA-DIR>/kubepki; for an RKE cluster
    /// .kubepki/cluster beside cluster.yml, named after the state file].
    #[arg(long, value_name = "DIR", global = true)]
    pub state_dir: Option<PathBuf>,
    /// Which K3s this is (v1.33.1); told from the files otherwise.
    #[arg(long, value_name = "VERSION", global = true)]
    pub k3s_version: Option<String>,
}

/// What the node is called, for certificates that are missing or get other names.
#[derive(Clone, Debug, Default, Args)]
pub struct NameArgs {
    /// A name or address that the servers' certificates must carry; may be given several times.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = crate::world::san)]
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
    #[command(flatten)]
    pub ask: AskArgs,
    #[command(flatten)]
    pub restart: RestartArgs,
}

/// Whether a plan is carried out, and how it is shown.
#[derive(Clone, Debug, Args)]
pub struct AskArgs {
    /// Go on without asking.
    #[arg(long)]
    pub yes: bool,
    /// Print the plan and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// The plan's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
}

/// What happens to K3s afterwards.
#[derive(Clone, Debug, Default, Args)]
pub struct RestartArgs {
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

/// How a plan, list or answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlanFormat {
    /// For people.
    Text,
    /// For programs; of a plan, the form in which it is saved.
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
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub rollout: RolloutArgs,
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
    /// Plan a rotation of these services instead of what is due; `all` for every service, which is
    /// the rule for RKE clusters.
    #[arg(short, long = "service", value_name = "NAME")]
    pub services: Vec<String>,
    /// Plan as if at this moment (RFC 3339); such a plan is not saved and cannot be applied.
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// The plan's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub rollout: RolloutArgs,
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
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub site: SiteArgs,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `history`.
#[derive(Clone, Debug, Args)]
pub struct HistoryArgs {
    /// Show one plan whole.
    pub id: Option<String>,
    /// Forget a plan, its backups and staged keys for good, and the old files that hosts of an
    /// RKE cluster keep for it.
    #[arg(long, value_name = "ID", conflicts_with = "id")]
    pub forget: Option<String>,
    /// Go on without asking.
    #[arg(long)]
    pub yes: bool,
    /// The list's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub site: SiteArgs,
}

/// `undo`.
#[derive(Clone, Debug, Args)]
pub struct UndoArgs {
    /// The plan to take back; the last one by default.
    pub id: Option<String>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub site: SiteArgs,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `resume`.
#[derive(Clone, Debug, Args)]
pub struct ResumeArgs {
    /// The plan to go on with; the interrupted one by default.
    pub id: Option<String>,
    /// Accepted for scripts: what was begun was agreed to, so nothing is asked.
    #[arg(long)]
    pub yes: bool,
    /// Seconds to wait after a restart for the proof.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub restart_timeout: u64,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub site: SiteArgs,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}
