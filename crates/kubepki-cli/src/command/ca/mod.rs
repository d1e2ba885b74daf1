//! `ca`: CAs made, requested, imported, and staged for a rotation.
//!
//! None of them touches a cluster: they write directories that `rotate-ca` and K3s's first start
//! take their files from.

mod create;
mod given;
mod request;
mod show;
mod stage;
pub(crate) mod verify;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use kubepki::ca::{CaError, Make, Places, StagedSet};
use kubepki::error_chain;

use crate::args::SiteArgs;
use crate::error::{CliError, Exit};
use crate::k3s::Settings;
use crate::output;
use crate::world::World;

/// `ca`.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Make the CAs of a new cluster: root, intermediate, and the five below them.
    ///
    /// With --root-cert and --root-key under a root that you have; with --intermediate-cert,
    /// --intermediate-key and --root-cert under an intermediate whose root's key stays where it
    /// is. Nothing is put on a node: --out is a directory to copy from, --offline one to lock away.
    Create(create::CreateArgs),
    /// Make requests (CSRs) for the five CAs, for a company CA that signs nothing else.
    ///
    /// The keys stay in the directory that is made; `ca import` joins them with the answers.
    Request(request::RequestArgs),
    /// Take what a company CA answered: certificates in any order, PEM, DER or PKCS#7.
    ///
    /// They are matched to the keys that `ca request` made, ordered up to the root and checked.
    Import(request::ImportArgs),
    /// Make the CAs that come next, for `rotate-ca`.
    ///
    /// Nothing that is in force changes.
    Stage(Box<stage::StageArgs>),
    /// Check a set of CA files before it is put in force.
    ///
    /// Says what `k3s certificate rotate-ca` would say, word for word, and what it does not look
    /// at: whether each file is complete, the order in which it is served, what becomes of old
    /// leaves and of join tokens. Ends with 0 when nothing is wrong, 3 for warnings, 4 when the
    /// set must not be used.
    Verify(Box<verify::VerifyArgs>),
}

/// Runs one of them.
///
/// # Errors
///
/// What cannot be used, made or written.
pub async fn run(command: &CaCommand) -> Result<Exit, CliError> {
    let world = World::real();
    match command {
        CaCommand::Create(args) => create::run(args, &world).await,
        CaCommand::Request(args) => request::request(args, &world).await,
        CaCommand::Import(args) => request::import(args, &world).await,
        CaCommand::Stage(args) => stage::run(args, &world).await,
        CaCommand::Verify(args) => verify::run(args).await,
    }
}

/// Where roots and intermediates that are made go.
#[derive(Clone, Debug, Args)]
pub struct OfflineArgs {
    /// A new directory for the keys and certificates of roots and intermediates that are made:
    /// back it up, and keep it off every node.
    #[arg(long, value_name = "DIR")]
    pub offline: Option<PathBuf>,
    /// A file with a passphrase, which encrypts those keys; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Allow --offline to lie in K3s's data directory.
    #[arg(long)]
    pub keep_on_node: bool,
}

/// What makes things now.
fn make(world: &World) -> Make<'_> {
    Make {
        now: world.now(),
        entropy: &world.entropy,
        keys: &world.keys,
    }
}

/// The data directories of this machine that must not be written to.
async fn data_dirs(world: &World, site: &SiteArgs) -> Result<Vec<PathBuf>, CliError> {
    let settings = Settings::load(&world.host, site).await?;
    let mut found = vec![settings.configured, settings.data_dir];
    found.dedup();
    Ok(found)
}

/// Writes the set, and says what it is and what to do with it.
fn finish(set: &StagedSet, places: &Places<'_>, next: &str) -> Result<Exit, CliError> {
    let safe = kubepki::ca::write(set, places).map_err(refused)?;
    output::data(&show::text(set, places, &safe, next))?;
    Ok(Exit::Fine)
}

/// What was refused ends otherwise than what failed.
fn refused(error: CaError) -> CliError {
    let was_refused = matches!(
        error,
        CaError::Given { .. }
            | CaError::Faults { .. }
            | CaError::Live { .. }
            | CaError::Incomplete { .. }
            | CaError::File { .. }
            | CaError::LiveDirectory { .. }
            | CaError::NotEmpty { .. }
            | CaError::Place { .. }
    );
    match was_refused {
        true => CliError::refused(error_chain(&error)),
        false => CliError::failed(&error),
    }
}

/// An absolute path for messages that outlive the working directory.
fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    Ok(std::path::absolute(path)?)
}
