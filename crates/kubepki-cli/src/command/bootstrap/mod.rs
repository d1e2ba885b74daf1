//! `bootstrap`: what servers share, in the datastore and on disk.

mod compare;
mod show;
mod table;
mod verify;
mod write;

use clap::{Args, Subcommand, ValueEnum};
use kubepki::bootstrap::Disk;
use std::path::PathBuf;

use crate::args::{AskArgs, PlanFormat, SiteArgs};
use crate::datastore::DatastoreArgs;
use crate::error::{CliError, Exit};
use crate::k3s::Settings;
use crate::world::World;

pub use verify::former;

/// `bootstrap`.
#[derive(Debug, Subcommand)]
pub enum BootstrapCommand {
    /// List the files in the datastore: times, sizes, subjects, hashes; never their content.
    Show(ShowArgs),
    /// Compare the datastore with this server's disk: which side is newer, and whether K3s would
    /// refuse to start.
    ///
    /// Ends with 0 when both are the same, 3 when they differ, 4 when K3s would not start.
    Diff(DiffArgs),
    /// Check that the data open, are whole and fit together, and what former tokens still open.
    ///
    /// Ends with 0 when all is well, 3 when something should be looked at, 4 when servers that
    /// start with the data fail.
    Verify(VerifyArgs),
    /// Write the datastore's files to this server's directory, or to any other.
    ///
    /// Modes and times are those of K3s. Prints the plan and asks.
    Extract(Box<ExtractArgs>),
    /// Put this server's files, or a snapshot's, into the datastore as a new value.
    ///
    /// Refuses while a server lives. Prints the plan and asks.
    Restore(Box<RestoreArgs>),
}

/// `bootstrap show`.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    pub datastore: DatastoreArgs,
    #[command(flatten)]
    pub site: SiteArgs,
    /// The list's form.
    #[arg(short, long, value_enum, default_value_t = ListFormat::Table)]
    pub output: ListFormat,
}

/// How a list of files is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// A line for each.
    Table,
    /// Everything that is known of each.
    Text,
    /// For programs.
    Json,
}

/// `bootstrap diff`.
#[derive(Clone, Debug, Args)]
pub struct DiffArgs {
    #[command(flatten)]
    pub datastore: DatastoreArgs,
    #[command(flatten)]
    pub site: SiteArgs,
    /// The answer's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
}

/// `bootstrap verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub datastore: DatastoreArgs,
    #[command(flatten)]
    pub site: SiteArgs,
    /// The answer's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
}

/// `bootstrap extract`.
#[derive(Clone, Debug, Args)]
pub struct ExtractArgs {
    /// Write below this directory instead of the server's: it gets `tls/` and `cred/` with every
    /// CA key.
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Replace files that are newer on disk too.
    #[arg(long, value_enum, value_name = "SIDE")]
    pub keep: Option<KeepDatastore>,
    #[command(flatten)]
    pub datastore: DatastoreArgs,
    #[command(flatten)]
    pub site: SiteArgs,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// The one side that an extraction can keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeepDatastore {
    /// The datastore's files.
    Datastore,
}

/// `bootstrap restore`.
#[derive(Clone, Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    pub datastore: DatastoreArgs,
    #[command(flatten)]
    pub site: SiteArgs,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `kubepki bootstrap …`.
///
/// # Errors
///
/// When the datastore cannot be reached, no token opens the data, or a plan is refused or fails.
pub async fn run(command: &BootstrapCommand) -> Result<Exit, CliError> {
    let world = World::real();
    match command {
        BootstrapCommand::Show(args) => show::run(&world, args).await,
        BootstrapCommand::Diff(args) => compare::run(&world, args).await,
        BootstrapCommand::Verify(args) => verify::run(&world, args).await,
        BootstrapCommand::Extract(args) => write::extract(&world, args).await,
        BootstrapCommand::Restore(args) => write::restore(&world, args).await,
    }
}

/// The server's directory, looked at.
async fn disk(world: &World, settings: &Settings) -> Result<Disk, CliError> {
    Ok(Disk::look(&world.host, &settings.data_dir.join("server")).await?)
}
