//! `rotate`, `rotate-ca` and `plan` of an RKE cluster.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use kubepki::apply::plan_id;
use kubepki::init::Staged;
use kubepki::machine::Machines;
use kubepki::plan::Plan;
use kubepki::rke::rotate::{self, Ask, Options, Request, RotateError, Switch};
use kubepki::rke::survey::{Subject, Survey, ask_etcd, survey};
use kubepki::rke::{Half, Rotation, Service};

use super::{Hosts, RkeCluster, RolloutArgs, Session, SshArgs, flags, reach};
use crate::args::{AskArgs, PlanArgs, RotateArgs};
use crate::command::change::{print_plan, refuse_unfinished};
use crate::command::rotate_ca::RotateCaArgs;
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::World;

/// How long a handshake with a component may take.
const LOOK: Duration = Duration::from_secs(5);

/// `kubepki rotate --cluster cluster.yml`.
///
/// # Errors
///
/// A refusal or failure; RKE's words where RKE has some.
pub async fn rotate(config: &Path, args: &RotateArgs) -> Result<Exit, CliError> {
    flags::refuse_node(&[
        flags::names(&args.names),
        flags::leaves(&args.leaves),
        flags::restart(&args.change.restart),
        flags::site(&args.site),
    ])?;
    let rotation = rotation(&args.services)?;
    let world = World::real();
    let cluster = RkeCluster::open(&world, config, &args.site).await?;
    let wanted = Wanted {
        rotation,
        options: options(&args.rollout, Switch::Cross, false),
        ssh: &args.cluster.ssh,
        patience: args.change.restart.restart_timeout,
        ask: &args.change.ask,
    };
    let done = wanted.carry_out(&world, &cluster).await;
    done.map_err(|error| cluster.named(error))
}

/// `kubepki rotate-ca --cluster cluster.yml`.
///
/// # Errors
///
/// As [`rotate`].
pub async fn rotate_ca(config: &Path, args: &RotateCaArgs) -> Result<Exit, CliError> {
    flags::refuse_node(&[
        flags::first(&[
            (args.path.is_some(), "--path"),
            (args.staged, "--staged"),
            (args.back.is_some(), "--back"),
            (args.force, "--force"),
            (args.tokens_replaced, "--tokens-replaced"),
            (args.through_server.is_some(), "--through-server"),
            (args.direct, "--direct"),
            (args.watch, "--watch"),
            (args.stop_command.is_some(), "--stop-command"),
        ]),
        flags::names(&args.names),
        flags::restart(&args.restart),
        flags::site(&args.site),
    ])?;
    let world = World::real();
    let cluster = RkeCluster::open(&world, config, &args.site).await?;
    let switch = match (args.compromised, args.hard) {
        (true, _) => Switch::Compromised,
        (false, true) => Switch::Hard,
        (false, false) => Switch::Cross,
    };
    let wanted = Wanted {
        rotation: Rotation::Authorities,
        options: options(&args.rollout, switch, args.keep_old),
        ssh: &args.cluster.ssh,
        patience: args.restart.restart_timeout,
        ask: &args.ask,
    };
    let done = wanted.carry_out(&world, &cluster).await;
    done.map_err(|error| cluster.named(error))
}

/// A rotation that is carried out at once.
struct Wanted<'a> {
    rotation: Rotation,
    options: Options,
    ssh: &'a SshArgs,
    patience: u64,
    ask: &'a AskArgs,
}

impl Wanted<'_> {
    async fn carry_out(&self, world: &World, cluster: &RkeCluster) -> Result<Exit, CliError> {
        refuse_unfinished(&cluster.state_dir)?;
        let machines = reach::machines(cluster, self.ssh, reach::told())?;
        let drafted = draft(world, cluster, &machines, &self.rotation, &self.options);
        let (plan, staged) = drafted.await?;
        Session::new(world, cluster, &machines, self.patience)
            .carry_out(plan, &staged, self.ask)
            .await
    }
}

/// `kubepki plan --cluster cluster.yml`.
///
/// # Errors
///
/// As [`rotate`].
pub async fn plan(config: &Path, args: &PlanArgs) -> Result<Exit, CliError> {
    flags::refuse_node(&[
        flags::names(&args.names),
        flags::leaves(&args.leaves),
        flags::site(&args.site),
    ])?;
    if args.at.is_some() {
        return Err(CliError::usage(
            "--at is not for RKE clusters; see `kubepki check --at`",
        ));
    }
    let rotation = match args.services.as_slice() {
        [all] if all == "all" => Rotation::All,
        services => rotation(services)?,
    };
    let world = World::real();
    let cluster = RkeCluster::open(&world, config, &args.site).await?;
    let machines = reach::machines(&cluster, &args.cluster.ssh, reach::told())?;
    let options = options(&args.rollout, Switch::Cross, false);
    let drafted = draft(&world, &cluster, &machines, &rotation, &options).await;
    let (plan, staged) = drafted.map_err(|error| cluster.named(error))?;
    print_plan(&plan, None, args.output)?;
    if !staged.is_empty() {
        // Secrets that belong to it are kept only with a plan that is begun at once.
        let text = "Not saved: it goes with secrets. Carry it out with `kubepki rotate`.";
        output::talk(&cluster.spelled(text));
        return Ok(Exit::Fine);
    }
    let state = crate::command::change::lock(&cluster.state_dir)?;
    state.save_plan(&plan)?;
    output::talk(&format!(
        "Saved. Carry it out with: kubepki apply {}{}",
        plan.id,
        cluster.flags()
    ));
    Ok(Exit::Fine)
}

/// What services, as given on the command line, ask for.
///
/// # Errors
///
/// For one that RKE does not know; RKE itself would take it and do nothing.
pub fn rotation(services: &[String]) -> Result<Rotation, CliError> {
    if services.is_empty() {
        return Ok(Rotation::All);
    }
    let names = services.iter().flat_map(|it| it.split(','));
    let services = names.map(|name| {
        let name = name.trim();
        name.parse::<Service>()
            .map_err(|error| CliError::usage(error.to_string()))
    });
    Ok(Rotation::Services(services.collect::<Result<_, _>>()?))
}

/// What flags say of the rollout.
pub fn options(rollout: &RolloutArgs, switch: Switch, keep_old: bool) -> Options {
    Options {
        switch,
        keep_old,
        skip_unreachable: rollout.skip_unreachable.iter().cloned().collect(),
        allow_etcd_outage: rollout.allow_etcd_outage,
        max_unavailable: rollout.max_unavailable,
        parallel_restarts: rollout.parallel_restarts,
        apply_config: rollout.apply_config,
        api_away: false,
    }
}

/// Looks at the hosts and plans.
///
/// # Errors
///
/// [`rotate::RotateError`], with its exit code and way out.
pub async fn draft(
    world: &World,
    cluster: &RkeCluster,
    machines: &Hosts,
    rotation: &Rotation,
    options: &Options,
) -> Result<(Plan, Vec<Staged>), CliError> {
    let state = cluster.state()?;
    refuse_early(world, cluster, rotation, options)?;
    let survey = look(world, cluster, machines).await;
    let purpose = match rotation {
        Rotation::Authorities => "rotate-ca",
        Rotation::All | Rotation::Services(_) => "rotate",
    };
    let id = plan_id(world.now(), purpose, &world.entropy)?;
    let drops = *rotation == Rotation::Authorities && options.switch == Switch::Cross;
    let options = &Options {
        api_away: drops && !options.keep_old && api_away(world, cluster, machines).await,
        ..options.clone()
    };
    let request = Request {
        id: &id,
        rotation,
        options,
        site: &cluster.site,
        state,
        config: &cluster.config,
        survey: &survey,
        now: world.now(),
        entropy: &world.entropy,
        keys: &world.keys,
    };
    rotate::plan(&request).map_err(|error| CliError::from_rotation(&error))
}

/// Refuses what the files on this machine tell, before a host is connected to.
///
/// # Errors
///
/// [`RotateError`], with its exit code and way out.
pub fn refuse_early(
    world: &World,
    cluster: &RkeCluster,
    rotation: &Rotation,
    options: &Options,
) -> Result<(), CliError> {
    use RotateError::{NobodyThere, Quorum, Unhealthy, Unreachable};

    let id = plan_id(world.now(), "look", &world.entropy)?;
    let nobody = Survey {
        taken: world.now(),
        hosts: BTreeMap::new(),
    };
    let request = Request {
        id: &id,
        rotation,
        options,
        site: &cluster.site,
        state: cluster.state()?,
        config: &cluster.config,
        survey: &nobody,
        now: world.now(),
        entropy: &world.entropy,
        keys: &world.keys,
    };
    match rotate::scene(&request, Ask::of(rotation)) {
        // Nobody was asked.
        Ok(_) | Err(Unreachable { .. } | NobodyThere | Quorum { .. } | Unhealthy { .. }) => Ok(()),
        Err(error) => Err(CliError::from_rotation(&error)),
    }
}

/// Whether the cluster's API cannot be asked, so that pods cannot be deleted either.
pub async fn api_away(world: &World, cluster: &RkeCluster, machines: &Hosts) -> bool {
    let patience = LOOK.as_secs();
    let api = Session::new(world, cluster, machines, patience).api;
    api.version().await.is_err()
}

/// What lies, runs and is served on the hosts of cluster.yml.
pub async fn look(world: &World, cluster: &RkeCluster, machines: &dyn Machines) -> Survey {
    let subjects: Vec<Subject> = cluster
        .config
        .nodes
        .iter()
        .map(|node| Subject {
            host: node.address.clone(),
            ports: rotate::ports(node, &cluster.config)
                .into_iter()
                .map(|(address, _)| address)
                .collect(),
        })
        .collect();
    let mut seen = survey(machines, &subjects, world.now(), LOOK).await;
    if let Ok(state) = cluster.state() {
        let bundle = state.bundle(Half::Current);
        ask_etcd(&mut seen, machines, &cluster.config, &bundle, LOOK).await;
    }
    seen
}
