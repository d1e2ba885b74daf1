//! K3s's own flags.

use std::ffi::OsString;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, Subcommand};

/// K3s's own commands, spelt and answered as K3s does.
#[derive(Clone, Debug, Args)]
pub struct K3sArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: K3sCommand,
}

/// `kubepki k3s …`.
#[derive(Clone, Debug, Subcommand)]
pub enum K3sCommand {
    /// Manage K3s certificates.
    #[command(subcommand, arg_required_else_help = true)]
    Certificate(CertificateCommand),
    /// In place of K3s's generate-custom-ca-certs.sh: make the CAs of a new cluster in
    /// DATA_DIR/server/tls, under root-ca.pem and intermediate-ca.pem where they lie there.
    ///
    /// `kubepki ca create` keeps the keys of the root and intermediate elsewhere.
    GenerateCustomCaCerts(ScriptArgs),
    /// In place of K3s's rotate-default-ca-certs.sh: make cross-signed CAs for a cluster with
    /// K3s's own in DATA_DIR/server/rotate-ca, and print the new tokens.
    ///
    /// `kubepki ca stage --cross-signed` keeps the keys of the roots elsewhere, and takes every
    /// kind of CA.
    RotateDefaultCaCerts(ScriptArgs),
}

/// What K3s's scripts take from their environment.
#[derive(Clone, Debug, Args)]
pub struct ScriptArgs {
    /// K3s's data directory [default: /var/lib/rancher/PRODUCT].
    #[arg(long, env = "DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<std::path::PathBuf>,
    /// What the names of the CAs begin with.
    #[arg(long, env = "PRODUCT", value_name = "NAME", default_value = "k3s")]
    pub product: String,
}

/// `kubepki k3s certificate …`.
#[derive(Clone, Debug, Subcommand)]
pub enum CertificateCommand {
    /// Check K3s component certificates on disk.
    ///
    /// Ends with 0 whatever it finds, as K3s does; `kubepki check` has exit codes that tell.
    Check(CheckArgs),
    /// Rotate K3s component certificates on disk: back them up and remove them, so that K3s makes
    /// new ones at its next start.
    ///
    /// Acts at once. `kubepki undo` takes it back; `kubepki rotate` issues the new ones itself.
    Rotate(RotateArgs),
    /// Write updated K3s CA certificates to the datastore, through the running server.
    ///
    /// Acts at once. Checks the set first, says on standard error what it does to whom, and sends
    /// nothing that K3s would refuse. `kubepki rotate-ca` also works while K3s is stopped, and
    /// refuses what K3s overlooks.
    #[command(name = "rotate-ca")]
    RotateCa(RotateCaArgs),
}

/// `kubepki k3s certificate rotate-ca`.
#[derive(Clone, Debug, Args)]
pub struct RotateCaArgs {
    /// Server to connect to.
    #[arg(short, long, env = "K3S_URL", value_name = "URL")]
    #[arg(default_value = "https://127.0.0.1:6443")]
    pub server: String,
    /// Folder that holds state [default: /var/lib/rancher/k3s, or ${HOME}/.rancher/k3s if not root].
    #[arg(short, long, env = "K3S_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<OsString>,
    /// Path to the directory containing the new CA certificates: the one that holds tls/.
    #[arg(long, value_name = "DIR")]
    pub path: OsString,
    /// Force certificate replacement, even if consistency checks fail.
    #[arg(long, value_name = "BOOL", value_parser = FalseyValueParser::new())]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(
        default_value = "false",
        default_missing_value = "true",
        hide_default_value = true
    )]
    pub force: bool,
}

/// What both have.
#[derive(Clone, Debug, Args)]
pub struct CommonArgs {
    /// Turn on debug logs.
    #[arg(long, env = "K3S_DEBUG", value_name = "BOOL", value_parser = FalseyValueParser::new())]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(
        default_value = "false",
        default_missing_value = "true",
        hide_default_value = true
    )]
    pub debug: bool,
    /// Load configuration from FILE: its data-dir counts where none is given here [default:
    /// /etc/rancher/k3s/config.yaml].
    #[arg(short, long, env = "K3S_CONFIG_FILE", value_name = "FILE")]
    pub config: Option<OsString>,
    /// Write everything to FILE.
    #[arg(short, long, value_name = "FILE")]
    pub log: Option<OsString>,
    /// Write to standard error as well as to the file.
    #[arg(long, value_name = "BOOL", value_parser = FalseyValueParser::new())]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(
        default_value = "false",
        default_missing_value = "true",
        hide_default_value = true
    )]
    pub alsologtostderr: bool,
    /// Folder that holds state [default: /var/lib/rancher/k3s, or ${HOME}/.rancher/k3s if not root].
    #[arg(short, long, env = "K3S_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<OsString>,
    /// Services to manage certificates for, with commas or several times: admin, api-server,
    /// auth-proxy, cloud-controller, controller-manager, etcd, k3s-controller, k3s-server,
    /// kube-proxy, kubelet, scheduler, supervisor [default: all of the node].
    #[arg(short, long, value_name = "NAME")]
    pub service: Vec<String>,
}

/// `kubepki k3s certificate check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Format of the output: text, table, json, yaml.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: String,
    /// Answer for another moment (RFC 3339, also with fractions of a second).
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
}

/// `kubepki k3s certificate rotate`.
#[derive(Clone, Debug, Args)]
pub struct RotateArgs {
    #[command(flatten)]
    pub common: CommonArgs,
}
