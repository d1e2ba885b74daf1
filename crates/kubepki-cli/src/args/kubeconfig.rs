//! Arguments of `kubeconfig`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{AskArgs, PlanFormat, SiteArgs};

/// `kubeconfig`.
#[derive(Debug, Subcommand)]
pub enum KubeconfigCommand {
    /// Show which copies are old, and which are of this cluster at all.
    List(KubeconfigListArgs),
    /// Put new certificates into the copies that are due, expired, or of a former CA.
    Renew(KubeconfigRenewArgs),
    /// Make a short-lived kubeconfig for a person or program.
    Create(KubeconfigCreateArgs),
}

/// `kubeconfig list`.
#[derive(Clone, Debug, Args)]
pub struct KubeconfigListArgs {
    /// Files to look at [default: $KUBECONFIG and the .kube/config of every home directory].
    pub files: Vec<PathBuf>,
    /// The list's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
    #[command(flatten)]
    pub site: SiteArgs,
}

/// `kubeconfig renew`.
#[derive(Clone, Debug, Args)]
pub struct KubeconfigRenewArgs {
    /// Files to renew [default: as `kubeconfig list`].
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub site: SiteArgs,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `kubeconfig create`.
#[derive(Clone, Debug, Args)]
pub struct KubeconfigCreateArgs {
    /// The user (CN).
    #[arg(long)]
    pub user: String,
    /// A group (O); may be given several times.
    #[arg(long = "group", value_name = "GROUP")]
    pub groups: Vec<String>,
    /// How long it is valid: 8h, 30d.
    #[arg(long, default_value = "8h", value_name = "PERIOD", value_parser = crate::period::period)]
    pub ttl: i64,
    /// The new file, mode 0600; `-` for stdout. An existing file is not replaced.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// URL of the API server [default: the admin kubeconfig's].
    #[arg(long, value_name = "URL", value_parser = crate::world::server_url)]
    pub server: Option<String>,
    /// Allow users and groups that begin with `system:`; asked a second time for
    /// `system:masters`, which bypasses RBAC.
    #[arg(long)]
    pub allow_system: bool,
    /// Go on without asking.
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub site: SiteArgs,
}
