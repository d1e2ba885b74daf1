//! Commands that change files on this machine only: `init`, `state rebuild`, `state pull`.

use std::path::Path;

use kubepki::apply::plan_id;
use kubepki::init::Staged;
use kubepki::plan::Plan;
use kubepki::rke::init::{InitError, InitRequest, plan_init};
use kubepki::rke::local::{LocalFiles, plan_files};

use super::{RkeCluster, Session, flags, reach};
use crate::args::AskArgs;
use crate::command::change::refuse_unfinished;
use crate::command::init::InitArgs;
use crate::error::{CliError, Exit};
use crate::world::World;

/// `kubepki init --cluster cluster.yml`.
///
/// # Errors
///
/// When there is a state already, or cluster.yml does not say what is to be made.
pub async fn init(config: &Path, args: &InitArgs) -> Result<Exit, CliError> {
    flags::refuse_node(&[node_flag(args), flags::site(&args.site)])?;
    let world = World::real();
    let cluster = RkeCluster::open(&world, config, &args.site).await?;
    refuse_unfinished(&cluster.state_dir).map_err(|error| cluster.named(error))?;
    let id = plan_id(world.now(), "init", &world.entropy)?;
    let request = InitRequest {
        id: &id,
        config: &cluster.config,
        site: &cluster.site,
        now: world.now(),
        entropy: &world.entropy,
        keys: &world.keys,
    };
    let (plan, staged) = plan_init(&request).map_err(|error| match error {
        error @ InitError::Exists { .. } => CliError::refused(error.to_string()),
        error => error.into(),
    })?;
    let ask = AskArgs {
        yes: args.yes,
        dry_run: args.dry_run,
        output: args.output,
    };
    carry_out(&world, &cluster, (plan, staged), &ask).await
}

/// Flags of `init` that say what a K3s server is to be.
fn node_flag(args: &InitArgs) -> flags::Given {
    flags::first(&[
        (args.node_name.is_some(), "--node-name"),
        (!args.node_ip.is_empty(), "--node-ip"),
        (!args.node_external_ip.is_empty(), "--node-external-ip"),
        (!args.tls_san.is_empty(), "--tls-san"),
        (args.cluster_domain.is_some(), "--cluster-domain"),
        (!args.service_cidr.is_empty(), "--service-cidr"),
        (args.bind_address.is_some(), "--bind-address"),
        (args.https_listen_port.is_some(), "--https-listen-port"),
        (args.token_file.is_some(), "--token-file"),
        (args.agent_token_file.is_some(), "--agent-token-file"),
        (args.write_kubeconfig.is_some(), "--write-kubeconfig"),
        (
            args.write_kubeconfig_mode.is_some(),
            "--write-kubeconfig-mode",
        ),
        (args.with_agent, "--with-agent"),
        (args.disable_agent, "--disable-agent"),
        (args.disable_etcd, "--disable-etcd"),
        (args.complete, "--complete"),
    ])
}

/// Puts files beside cluster.yml: prints the plan, asks, carries it out.
///
/// # Errors
///
/// As [`Session::carry_out`].
pub async fn put(
    world: &World,
    cluster: &RkeCluster,
    (purpose, files): (&str, LocalFiles<'_>),
    ask: &AskArgs,
) -> Result<Exit, CliError> {
    let id = plan_id(world.now(), purpose, &world.entropy)?;
    let made = plan_files(&id, &cluster.site, &files, world.now());
    carry_out(world, cluster, made, ask).await
}

async fn carry_out(
    world: &World,
    cluster: &RkeCluster,
    (plan, staged): (Plan, Vec<Staged>),
    ask: &AskArgs,
) -> Result<Exit, CliError> {
    // No host has a part in it.
    let nobody = reach::nobody();
    Session::new(world, cluster, &nobody, 0)
        .carry_out(plan, &staged, ask)
        .await
}
