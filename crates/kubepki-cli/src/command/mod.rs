//! The commands: each looks, makes one library call, and prints.

pub(crate) mod bootstrap;
pub mod ca;
pub mod change;
pub(crate) mod check;
pub(crate) mod custom_certs;
mod history;
pub mod init;
mod inspect;
pub(crate) mod join;
mod kubeconfig;
mod leaves;
pub(crate) mod log;
mod prepared;
pub(crate) mod reconcile;
pub(crate) mod rke_state;
pub(crate) mod rotate_ca;
pub(crate) mod sa_key;
pub(crate) mod serve;
pub(crate) mod token;
mod tour;
pub(crate) mod unit;

use std::path::PathBuf;

use crate::args::{Cli, Command, SiteArgs};
use crate::error::{CliError, Exit};
use crate::rke::flags::refuse_cluster;
use crate::rke::{self, ClusterArgs, RolloutArgs};

/// Runs a command.
///
/// # Errors
///
/// What the operator is told, with the exit code.
pub fn run(cli: Cli) -> Result<Exit, CliError> {
    let mut builder = match &cli.command {
        // Every core signs; the other commands do one thing after another.
        Command::Serve(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build()?;
    let none = RolloutArgs::default();
    runtime.block_on(async {
        match cli.command {
            Command::Init(args) => match flavour(&args.cluster, &none, &args.site)? {
                Some(config) => rke::files::init(&config, &args).await,
                None => init::run(&args).await,
            },
            Command::Check(args) => match about(&args)? {
                Some(config) => rke::check::run(&config, &args).await,
                None => check::run(&args).await,
            },
            Command::Rotate(args) => match flavour(&args.cluster, &args.rollout, &args.site)? {
                Some(config) => rke::rotate::rotate(&config, &args).await,
                None => leaves::rotate(&args).await,
            },
            Command::Renew(args) => leaves::renew(&args).await,
            Command::Plan(args) => match flavour(&args.cluster, &args.rollout, &args.site)? {
                Some(config) => rke::rotate::plan(&config, &args).await,
                None => leaves::plan(&args).await,
            },
            Command::Apply(args) => match flavour(&args.cluster, &none, &args.site)? {
                Some(config) => rke::again::apply(&config, &args).await,
                None => change::apply(&args).await,
            },
            Command::History(args) => history::run(&args).await,
            Command::Undo(args) => match flavour(&args.cluster, &none, &args.site)? {
                Some(config) => rke::again::undo(&config, &args).await,
                None => change::undo(&args).await,
            },
            Command::Resume(args) => match flavour(&args.cluster, &none, &args.site)? {
                Some(config) => rke::again::resume(&config, &args).await,
                None => change::resume(&args).await,
            },
            Command::K3s(args) => Ok(crate::dropin::run(&args).await),
            Command::Rke(args) => Ok(crate::dropin::run_rke(&args).await),
            Command::State(command) => rke_state::run(&command).await,
            Command::GenerateCsr(args) => custom_certs::run_generate(&args).await,
            Command::CustomCerts(command) => custom_certs::run(&command).await,
            Command::Bootstrap(command) => bootstrap::run(&command).await,
            Command::Token(command) => token::run(&command).await,
            Command::Serve(args) => serve::run(&args).await,
            Command::SaKey(command) => sa_key::run(&command).await,
            Command::Reconcile(args) => reconcile::run(&args).await,
            Command::Ca(command) => ca::run(&command).await,
            Command::Kubeconfig(command) => kubeconfig::run(&command).await,
            Command::Inspect(args) => inspect::run(&args),
            Command::Unit(args) => unit::run(&args),
            Command::RotateCa(args) => match flavour(&args.cluster, &args.rollout, &args.site)? {
                Some(config) => rke::rotate::rotate_ca(&config, &args).await,
                None => rotate_ca::run(&args).await,
            },
            Command::Join(args) => join::join(&args).await,
            Command::Node(command) => join::node(&command).await,
            Command::Log(command) => log::run(&command).await,
            Command::Tour(args) => tour::run(&args).await,
        }
    })
}

/// The cluster.yml that a command is about; for a K3s node, flags that only RKE has are refused.
fn flavour(
    cluster: &ClusterArgs,
    rollout: &RolloutArgs,
    site: &SiteArgs,
) -> Result<Option<PathBuf>, CliError> {
    let chosen = rke::chosen(cluster, site)?;
    if chosen.is_none() {
        refuse_cluster(cluster, rollout)?;
    }
    Ok(chosen)
}

/// What `check` is about: data directories that are named are K3s's.
fn about(args: &check::CheckArgs) -> Result<Option<PathBuf>, CliError> {
    if args.cluster.cluster.is_none() && !args.directories.is_empty() {
        return Ok(None);
    }
    let about = flavour(&args.cluster, &RolloutArgs::default(), &args.site)?;
    if about.is_none() && args.offline {
        return Err(CliError::usage(
            "--offline is for RKE clusters: --cluster FILE",
        ));
    }
    Ok(about)
}
