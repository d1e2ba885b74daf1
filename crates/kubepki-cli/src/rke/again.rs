//! `apply`, `undo` and `resume` of an RKE cluster.

use std::path::Path;

use super::{RkeCluster, Session, flags, reach};
use crate::args::{ApplyArgs, RestartArgs, ResumeArgs, UndoArgs};
use crate::error::{CliError, Exit};
use crate::world::World;

/// `kubepki apply ID --cluster cluster.yml`.
///
/// # Errors
///
/// When the plan does not exist, is stale, or fails.
pub async fn apply(config: &Path, args: &ApplyArgs) -> Result<Exit, CliError> {
    refuse(&args.change.restart)?;
    let world = World::real();
    let cluster = RkeCluster::open(&world, config, &args.site).await?;
    let machines = reach::machines(&cluster, &args.cluster.ssh, reach::told())?;
    let patience = args.change.restart.restart_timeout;
    let session = Session::new(&world, &cluster, &machines, patience);
    let done = session.apply(&args.id, &args.change.ask).await;
    done.map_err(|error| cluster.named(error))
}

/// `kubepki undo [ID] --cluster cluster.yml`.
///
/// # Errors
///
/// When there is nothing to take back, or something has changed since.
pub async fn undo(config: &Path, args: &UndoArgs) -> Result<Exit, CliError> {
    refuse(&args.change.restart)?;
    let world = World::real();
    let cluster = RkeCluster::open(&world, config, &args.site).await?;
    let machines = reach::machines(&cluster, &args.cluster.ssh, reach::told())?;
    let patience = args.change.restart.restart_timeout;
    let session = Session::new(&world, &cluster, &machines, patience);
    let done = session.undo(args.id.as_deref(), &args.change.ask).await;
    done.map_err(|error| cluster.named(error))
}

/// `kubepki resume [ID] --cluster cluster.yml`.
///
/// # Errors
///
/// When a step in flight was changed by somebody else, or fails again.
pub async fn resume(config: &Path, args: &ResumeArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let cluster = RkeCluster::open(&world, config, &args.site).await?;
    let machines = reach::machines(&cluster, &args.cluster.ssh, reach::told())?;
    let session = Session::new(&world, &cluster, &machines, args.restart_timeout);
    let done = session.resume(args.id.as_deref()).await;
    done.map_err(|error| cluster.named(error))
}

fn refuse(restart: &RestartArgs) -> Result<(), CliError> {
    flags::refuse_node(&[flags::restart(restart)])
}
