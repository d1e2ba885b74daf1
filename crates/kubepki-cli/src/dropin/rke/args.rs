//! RKE's own flags.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// RKE's own commands, spelt and answered as RKE does.
#[derive(Clone, Debug, Args)]
pub struct RkeArgs {
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: RkeCommand,
}

/// How much is said.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct GlobalArgs {
    /// Debug logging.
    #[arg(short, long, global = true)]
    pub debug: bool,
    /// Quiet mode, disables logging and only critical output will be printed.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Trace logging.
    #[arg(long, global = true)]
    pub trace: bool,
}

/// `kubepki rke …`.
#[derive(Clone, Debug, Subcommand)]
pub enum RkeCommand {
    /// Certificates management for RKE cluster.
    #[command(subcommand, arg_required_else_help = true)]
    Cert(CertCommand),
}

/// `kubepki rke cert …`.
#[derive(Clone, Debug, Subcommand)]
pub enum CertCommand {
    /// Generate certificate sign requests for k8s components.
    ///
    /// Acts at once. Keys that are there are never replaced; the directory is made 0700, files
    /// 0600. `kubepki custom-certs` says what came back, and judges it.
    #[command(name = "generate-csr")]
    GenerateCsr(GenerateCsrArgs),
}

/// `kubepki rke cert generate-csr`.
#[derive(Clone, Debug, Args)]
pub struct GenerateCsrArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Specify a certificate dir path [default: the config file's name and _certs, beside it].
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
}

/// Which cluster.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// Specify an alternate cluster YAML file.
    #[arg(
        long,
        env = "RKE_CONFIG",
        value_name = "FILE",
        default_value = "cluster.yml"
    )]
    pub config: PathBuf,
}
