//! RKE's own flags.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};

use crate::rke::{SshArgs, boolean};

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
    #[arg(value_name = "BOOL", value_parser = boolean, action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value = "false", hide_default_value = true)]
    pub debug: bool,
    /// Quiet mode, disables logging and only critical output will be printed.
    #[arg(short, long, global = true)]
    #[arg(value_name = "BOOL", value_parser = boolean, action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value = "false", hide_default_value = true)]
    pub quiet: bool,
    /// Trace logging.
    #[arg(long, global = true)]
    #[arg(value_name = "BOOL", value_parser = boolean, action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value = "false", hide_default_value = true)]
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
    /// Rotate RKE cluster certificates.
    ///
    /// Acts at once, like RKE; unlike RKE it changes nothing before every host has answered or is
    /// left out, restarts only what reads a changed file, etcd one member at a time, proves each
    /// step, and can be taken back: `kubepki resume`, `kubepki undo`. Hosts that cannot be reached
    /// are left out as RKE does it, but the exit code is 7 then and `kubepki resume` brings them up
    /// to date; where etcd would lose its quorum without them, nothing is done. `kubepki rotate
    /// --cluster cluster.yml` shows the plan and asks first.
    #[command(after_help = ROTATE_EXAMPLES)]
    Rotate(RotateArgs),
    /// Generate certificate sign requests for k8s components.
    ///
    /// Acts at once. Keys that are there are never replaced; the directory is made 0700, files
    /// 0600. `kubepki custom-certs` says what came back, and judges it.
    #[command(name = "generate-csr", after_help = CSR_EXAMPLES)]
    GenerateCsr(GenerateCsrArgs),
}

/// Under the flags of `rotate`.
const ROTATE_EXAMPLES: &str = "\
Examples:
  kubepki rke cert rotate
  kubepki rke cert rotate --service kubelet --service kube-proxy
  kubepki rke cert rotate --rotate-ca --config clusters/prod.yml";

/// Under those of `generate-csr`.
const CSR_EXAMPLES: &str = "\
Examples:
  kubepki rke cert generate-csr
  kubepki rke cert generate-csr --config clusters/prod.yml --cert-dir requests";

/// `kubepki rke cert rotate`.
#[derive(Clone, Debug, Args)]
pub struct RotateArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Specify a k8s service to rotate certs, (allowed values: kube-apiserver,
    /// kube-controller-manager, kube-scheduler, kubelet, kube-proxy, etcd); may be given several
    /// times.
    #[arg(long, value_name = "NAME")]
    pub service: Vec<String>,
    /// Rotate all certificates including CA certs.
    #[arg(long)]
    #[arg(value_name = "BOOL", value_parser = boolean, action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value = "false", hide_default_value = true)]
    pub rotate_ca: bool,
    /// Disable Docker version check. Changes nothing: which Docker versions RKE takes stands in
    /// metadata that only RKE has, and kubepki works with every Docker from API 1.24 on.
    #[arg(long)]
    #[arg(value_name = "BOOL", value_parser = boolean, action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value = "false", hide_default_value = true)]
    pub ignore_docker_version: bool,
    /// Not RKE's: of three or more etcd members some are away, and etcd may stand still at each
    /// restart of another.
    #[arg(long)]
    pub allow_etcd_outage: bool,
    #[command(flatten)]
    pub ssh: SshArgs,
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
