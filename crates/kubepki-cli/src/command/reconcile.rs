//! `reconcile`: what K3s's next start would do with the bootstrap data, done beforehand.

use clap::{Args, ValueEnum};
use kubepki::apply::plan_id;
use kubepki::bootstrap::{Candidates, Disk, KEY_PREFIX, LocateError, Opened, locate};
use kubepki::init::{Spec, Survey, make_data_dir, survey};
use kubepki::plan::{Action, Plan};
use kubepki::reconcile::{Keep, ReconcileError, Request, Reset, plan_reconcile};
use kubepki::token::Token;

use super::change::refuse_unfinished;
use super::init::{self, InitArgs};
use super::prepared::{Prepared, RESTART_TIMEOUT, carry_out};
use crate::args::{AskArgs, NameArgs, PlanFormat, SiteArgs};
use crate::datastore::{
    Access, Connected, DatastoreArgs, Ours, candidates, named, open, reached, refuse_living,
    snapshot, unopened,
};
use crate::error::{CliError, Exit};
use crate::k3s::{Settings, running_in};
use crate::rke::ClusterArgs;
use crate::world::{World, state_dir};

/// `reconcile`.
#[derive(Clone, Debug, Args)]
pub struct ReconcileArgs {
    /// Which side counts where files differ and the disk's are newer: K3s would not start.
    #[arg(
        long,
        value_enum,
        value_name = "SIDE",
        conflicts_with = "cluster_reset"
    )]
    pub keep: Option<KeepSide>,
    /// Write everything out whatever lies there, and keep a copy of tls, as K3s's flag of that
    /// name does with these files.
    #[arg(long)]
    pub cluster_reset: bool,
    /// Make CA files that the data lack, as K3s does.
    #[arg(long)]
    pub complete: bool,
    /// Make the files of the server's own agent too, where it has none.
    #[arg(long)]
    pub with_agent: bool,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub datastore: DatastoreArgs,
    #[command(flatten)]
    pub site: SiteArgs,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// What the server is called, for certificates that are missing or lack a name.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// A name or address that the servers' certificates must carry; may be given several times.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// The node's name [default: K3s's configuration, its certificates, the host's name].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The node's addresses [default: the one that the default route leaves from].
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub node_ip: Vec<String>,
    /// The node's addresses as seen from outside.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub node_external_ip: Vec<String>,
    /// The cluster's DNS domain [default: cluster.local].
    #[arg(long, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    /// Addresses of services; the first one's first address is the API server's
    /// [default: 10.43.0.0/16].
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub service_cidr: Vec<String>,
}

/// A side of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeepSide {
    /// The datastore's files replace the disk's.
    Datastore,
    /// The disk's files go into the datastore.
    Disk,
}

impl KeepSide {
    fn side(self) -> Keep {
        match self {
            Self::Datastore => Keep::Datastore,
            Self::Disk => Keep::Disk,
        }
    }
}

/// `kubepki reconcile`.
///
/// # Errors
///
/// When the data cannot be opened, K3s would not start and nobody says which side counts, or the
/// plan cannot be carried out.
pub async fn run(args: &ReconcileArgs) -> Result<Exit, CliError> {
    if args.datastore.snapshot.is_some() && args.keep == Some(KeepSide::Disk) {
        return Err(CliError::usage(
            "--keep disk writes the datastore, and --snapshot is none: leave one of them out",
        ));
    }
    let world = World::real();
    let settings = Settings::load(&world.host, &args.site).await?;
    let data_dir = std::path::absolute(&settings.data_dir)?;
    let server = data_dir.join("server");
    let state = state_dir(&args.site, &data_dir);
    refuse_unfinished(&state)?;
    if let Some(process) = running_in(&data_dir, &settings.configured) {
        return Err(CliError::refused(format!(
            "K3s is running on this node ({} {}): it did this when it started",
            process.name, process.pid
        ))
        .hint("stop it first, or restart it instead"));
    }
    let (spec, found) = look(&world, &as_init(args), &settings).await?;
    let disk = Disk::look(&world.host, &server).await?;
    let candidates = candidates(&world.host, &args.datastore.endpoint, &settings).await?;
    let (connected, opened) = data(&world, args, &settings, &candidates).await?;
    let reset = match args.cluster_reset {
        true => Some(Reset::keeping(&world.host, &server, world.now()).await?),
        false => None,
    };
    let token = match args.datastore.endpoint.token_files.first() {
        Some(path) if opened.is_none() => Some(token(path)?),
        _ => None,
    };
    let id = plan_id(world.now(), "reconcile", &world.entropy)?;
    let (plan, staged) = plan_reconcile(Request {
        id: &id,
        spec: &spec,
        survey: found,
        disk: &disk,
        opened: opened.as_ref(),
        datastore: &connected.place,
        keep: args.keep.map(KeepSide::side),
        reset,
        token: token.as_ref(),
        now: world.now(),
        entropy: &world.entropy,
        keys: &world.keys,
    })
    .map_err(refused)?;
    let cluster = match writes(&plan) {
        true => {
            connected.refuse_read_only()?;
            refuse_living(
                &connected,
                &args.datastore.endpoint,
                &settings,
                &Ours::Refused,
            )
            .await?;
            Some((connected, candidates))
        }
        false => None,
    };
    let prepared = Prepared {
        plan,
        staged,
        state,
        cluster,
        question: "Bring this server and the datastore together",
        supervisor: None,
        restart_timeout: RESTART_TIMEOUT,
        closing: "Start K3s with the same names, addresses and ports, and it keeps these files."
            .to_owned(),
    };
    let make = make_data_dir(&world.host, &data_dir);
    carry_out(&world, prepared, &args.ask, Some(make)).await
}

/// The datastore or snapshot, and the data in it if it has any.
async fn data(
    world: &World,
    args: &ReconcileArgs,
    settings: &Settings,
    candidates: &Candidates,
) -> Result<(Connected, Option<Opened>), CliError> {
    let endpoint = &args.datastore.endpoint;
    let connected = match &args.datastore.snapshot {
        Some(path) => snapshot(path, Access::Read).await?,
        None => open(&world.host, endpoint, settings, Access::Read).await?,
    };
    let records = connected.store.list(KEY_PREFIX).await.map_err(reached)?;
    match locate(&records, candidates) {
        Ok(mut opened) => {
            opened.notes.extend(connected.remarks.iter().cloned());
            Ok((connected, Some(opened)))
        }
        Err(LocateError::NoData) if args.datastore.snapshot.is_none() => Ok((connected, None)),
        Err(error) => Err(unopened(&connected, &error)),
    }
}

fn writes(plan: &Plan) -> bool {
    let txn = |action: &Action| matches!(action, Action::Txn { .. });
    plan.steps.iter().any(|step| txn(&step.action))
}

fn token(path: &std::path::Path) -> Result<Token, CliError> {
    let text = named(path)?;
    Token::parse(&text)
        .map_err(|error| CliError::usage(format!("--token-file {}: {error}", path.display())))
}

/// The server as flags, configuration and its own certificates describe it.
///
/// # Errors
///
/// When they do not describe one.
pub async fn look(
    world: &World,
    args: &InitArgs,
    settings: &Settings,
) -> Result<(Spec, Survey), CliError> {
    let mut spec = init::spec(args, settings)?;
    let data_dir = std::path::absolute(&settings.data_dir)?;
    let has_agent = std::fs::exists(data_dir.join("agent"))?;
    spec.with_agent = args.with_agent || has_agent;
    let found = survey(&world.host, &data_dir, &spec, world.now()).await;
    let found = found.map_err(init::refused)?;
    let named = args.node_name.is_some() || settings.node.is_some();
    if let (false, Some(name)) = (named, found.inventory.node_name()) {
        spec.node.name = name;
    }
    Ok((spec, found))
}

fn as_init(args: &ReconcileArgs) -> InitArgs {
    let server = args.server.clone();
    InitArgs {
        node_name: server.node_name,
        node_ip: server.node_ip,
        node_external_ip: server.node_external_ip,
        tls_san: server.tls_san,
        cluster_domain: server.cluster_domain,
        service_cidr: server.service_cidr,
        with_agent: args.with_agent,
        complete: args.complete,
        yes: args.ask.yes,
        dry_run: args.ask.dry_run,
        ..undescribed(&args.site)
    }
}

/// A server of which flags tell nothing but its names.
pub fn described(names: &NameArgs, site: &SiteArgs) -> InitArgs {
    let texts = |all: &[std::net::IpAddr]| all.iter().map(ToString::to_string).collect();
    InitArgs {
        node_name: names.node_name.clone(),
        node_ip: texts(&names.node_ip),
        node_external_ip: texts(&names.node_external_ip),
        tls_san: names.tls_san.clone(),
        ..undescribed(site)
    }
}

/// A server of which flags tell nothing.
fn undescribed(site: &SiteArgs) -> InitArgs {
    InitArgs {
        node_name: None,
        node_ip: Vec::new(),
        node_external_ip: Vec::new(),
        tls_san: Vec::new(),
        cluster_domain: None,
        service_cidr: Vec::new(),
        bind_address: None,
        https_listen_port: None,
        token_file: None,
        agent_token_file: None,
        write_kubeconfig: None,
        write_kubeconfig_mode: None,
        with_agent: false,
        disable_agent: false,
        disable_etcd: false,
        complete: false,
        cluster: ClusterArgs::default(),
        site: site.clone(),
        yes: false,
        dry_run: false,
        output: PlanFormat::Text,
    }
}

/// What K3s would not start with is refused; so is what `init` refuses.
fn refused(error: ReconcileError) -> CliError {
    match error {
        ReconcileError::Init(error) => init::refused(error),
        ReconcileError::Seal(_) => CliError::failed(&error),
        ReconcileError::Newer { .. }
        | ReconcileError::NothingToKeep { .. }
        | ReconcileError::Incomplete { .. } => CliError::refused(error.to_string()),
    }
}
