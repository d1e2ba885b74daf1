//! `init`: the files of a new server, before K3s's first start.

use std::io::Read as _;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};

use clap::Args;
use kubepki::apply::{Aftermath, Outcome, plan_id};
use kubepki::catalogue::{Release, ReleaseError};
use kubepki::init::{
    InitError, Request, Spec, Staged, Survey, Words, make_data_dir, plan_init, stage, survey,
};
use kubepki::k3s::K3sConfig;
use kubepki::plan::Plan;
use kubepki::state::StateDir;
use kubepki::token::Token;
use pki::DAY;
use zeroize::Zeroizing;

use super::change::{failed, lock, print_plan, refuse_unfinished};
use crate::args::{PlanFormat, SiteArgs};
use crate::error::{CliError, Exit};
use crate::k3s::{Settings, running};
use crate::output;
use crate::rke::ClusterArgs;
use crate::world::{World, lifetime_from_environment, state_dir};

/// `init`.
#[derive(Clone, Debug, Args)]
pub struct InitArgs {
    /// The node's name [default: the host's name].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The node's addresses [default: the one that the default route leaves from].
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub node_ip: Vec<String>,
    /// The node's addresses as seen from outside.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub node_external_ip: Vec<String>,
    /// A name or address that the servers' certificates must carry; may be given several times.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// The cluster's DNS domain [default: cluster.local].
    #[arg(long, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    /// Addresses of services; the first one's first address is the API server's
    /// [default: 10.43.0.0/16].
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub service_cidr: Vec<String>,
    /// The address that the server listens on.
    #[arg(long, value_name = "IP")]
    pub bind_address: Option<String>,
    /// The port of supervisor and API server [default: 6443].
    #[arg(long, value_name = "PORT")]
    pub https_listen_port: Option<u16>,
    /// A file with the token that servers join with; `-` for standard input [default: made].
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A file with a token for agents alone; `-` for standard input [default: the servers'].
    #[arg(long, value_name = "FILE")]
    pub agent_token_file: Option<PathBuf>,
    /// The kubeconfig for people [default: K3s's own, when the data directory is the configured
    /// one].
    #[arg(long, value_name = "FILE")]
    pub write_kubeconfig: Option<PathBuf>,
    /// Its mode, octal [default: 600].
    #[arg(long, value_name = "MODE")]
    pub write_kubeconfig_mode: Option<String>,
    /// Make the files of the server's own agent too; it else asks for them when it starts.
    #[arg(long)]
    pub with_agent: bool,
    /// The server will run without an agent.
    #[arg(long)]
    pub disable_agent: bool,
    /// The server will run without etcd.
    #[arg(long)]
    pub disable_etcd: bool,
    /// Make the CA files that are missing where others are there.
    #[arg(long)]
    pub complete: bool,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub site: SiteArgs,
    /// Go on without asking.
    #[arg(long)]
    pub yes: bool,
    /// Print the plan and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// The plan's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
}

/// `kubepki init`.
///
/// # Errors
///
/// When a value cannot be used, CA files are not whole, or the plan cannot be carried out.
pub async fn run(args: &InitArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let settings = Settings::load(&world.host, &args.site).await?;
    let data_dir = std::path::absolute(&settings.data_dir)?;
    let spec = spec(args, &settings)?;
    let state = state_dir(&args.site, &data_dir);
    refuse_unfinished(&state)?;
    let found = survey(&world.host, &data_dir, &spec, world.now()).await;
    let found = found.map_err(refused)?;
    if let Some(process) = running(&found.inventory.site, &settings.configured) {
        output::talk(&format!(
            "K3s is running on this node ({} {}): what is made here it takes up at its next start.",
            process.name, process.pid
        ));
    }
    let (plan, staged) = plan(args, &world, &settings, &spec, &found)?;
    print_plan(&plan, Some(&found.inventory), args.output)?;
    if plan.steps.is_empty() {
        output::talk("Nothing to do: everything that K3s's first start makes is there.");
        return Ok(Exit::Fine);
    }
    if args.dry_run {
        output::talk("Dry run: nothing was made.");
        return Ok(Exit::Fine);
    }
    let question = format!("Carry out these {} steps?", plan.steps.len());
    output::confirm(&question, args.yes)?;
    make_data_dir(&world.host, &data_dir).await?;
    carry_out(&world, &state, &plan, &staged).await
}

fn plan(
    args: &InitArgs,
    world: &World,
    settings: &Settings,
    spec: &Spec,
    found: &Survey,
) -> Result<(Plan, Vec<Staged>), CliError> {
    let (token, agent_token) = tokens(args, settings.config.as_ref())?;
    let id = plan_id(world.now(), "init", &world.entropy)?;
    let request = Request {
        id: &id,
        spec,
        survey: found,
        token: token.as_ref(),
        agent_token: agent_token.as_ref(),
        now: world.now(),
        entropy: &world.entropy,
        keys: &world.keys,
    };
    plan_init(&request).map_err(refused)
}

async fn carry_out(
    world: &World,
    state: &StateDir,
    plan: &Plan,
    staged: &[Staged],
) -> Result<Exit, CliError> {
    let locked = lock(state)?;
    // Another process may have been interrupted since.
    refuse_unfinished(state)?;
    locked.drop_unbegun()?;
    stage(&locked, &plan.id, staged)?;
    match world.executor(&locked).apply(plan).await {
        Ok(Outcome::Finished { .. }) => {
            output::talk(&format!(
                "Done: {}. Take it back with: kubepki undo {}\n\
                 Start K3s with the same names, addresses and ports, and it keeps these files.",
                plan.title, plan.id
            ));
            Ok(Exit::Fine)
        }
        Ok(Outcome::Partly { open, .. }) => {
            output::talk(&super::change::put_off_text(&open));
            Ok(Exit::Partial)
        }
        Ok(Outcome::Waiting { instruction, .. }) => {
            output::talk(&instruction);
            Ok(Exit::Partial)
        }
        Err(error) => {
            // What was never begun needs no keys.
            if error.aftermath() != Aftermath::Interrupted {
                locked.drop_staging(&plan.id)?;
            }
            Err(failed(error))
        }
    }
}

/// What flags say, else the configuration, else K3s's defaults.
pub(super) fn spec(args: &InitArgs, settings: &Settings) -> Result<Spec, CliError> {
    let config = settings.config.as_ref();
    let usage = |error: &dyn std::error::Error| CliError::usage(error.to_string());
    let mut spec = Spec::new(&words(args, config)?).map_err(|error| usage(&error))?;
    if let Some(version) = &args.site.k3s_version {
        let release: Result<Release, ReleaseError> = version.parse();
        spec.release = Some(release.map_err(|error| usage(&error))?);
    }
    let port = config.map(|config| config.https_listen_port.value);
    if let Some(port) = args.https_listen_port.or(port) {
        spec.https_port = port;
        spec.apiserver_port = port
            .checked_add(1)
            .filter(|_| port != 0)
            .ok_or_else(|| CliError::usage("--https-listen-port is from 1 to 65534"))?;
    }
    if let Some(days) = lifetime_from_environment()? {
        spec.leaf_lifetime = days * DAY;
    }
    spec.disable_agent = args.disable_agent || config.is_some_and(|it| it.disable_agent.value);
    spec.disable_etcd = args.disable_etcd || config.is_some_and(|it| it.disable_etcd.value);
    spec.with_agent = args.with_agent;
    spec.complete = args.complete;
    let kubeconfig = args.write_kubeconfig.clone();
    spec.kubeconfig = match kubeconfig.or_else(|| settings.admin_kubeconfig.clone()) {
        Some(path) => Some(std::path::absolute(path)?),
        None => None,
    };
    match (&args.write_kubeconfig_mode, config) {
        (Some(text), _) => spec.kubeconfig_mode = mode(text)?,
        (None, Some(config)) => spec.kubeconfig_mode = config.write_kubeconfig_mode.value,
        (None, None) => {}
    }
    Ok(spec)
}

fn words(args: &InitArgs, config: Option<&K3sConfig>) -> Result<Words, CliError> {
    let or = |given: &[String], configured: Option<Vec<String>>| match given {
        [] => configured.unwrap_or_default(),
        given => given.to_vec(),
    };
    let addresses = |found: &[kubepki::k3s::Found<IpAddr>]| -> Vec<String> {
        found.iter().map(|it| it.value.to_string()).collect()
    };
    let texts = |found: &[kubepki::k3s::Found<String>]| -> Vec<String> {
        found.iter().map(|it| it.value.clone()).collect()
    };
    let named = config.and_then(|it| it.node_name.as_ref().map(|name| name.value.clone()));
    let mut words = Words {
        node_name: args.node_name.clone().or(named).unwrap_or_else(host_name),
        node_ip: or(&args.node_ip, config.map(|it| addresses(&it.node_ip))),
        node_external_ip: or(
            &args.node_external_ip,
            config.map(|it| addresses(&it.node_external_ip)),
        ),
        tls_san: or(&args.tls_san, config.map(|it| texts(&it.tls_san))),
        cluster_domain: args
            .cluster_domain
            .clone()
            .or_else(|| config.map(|it| it.cluster_domain.value.clone())),
        service_cidr: or(&args.service_cidr, config.map(|it| texts(&it.service_cidr))),
        bind_address: args.bind_address.clone().or_else(|| {
            let configured = config.and_then(|it| it.bind_address.as_ref());
            configured.map(|it| it.value.to_string())
        }),
    };
    if words.node_ip.is_empty() {
        words.node_ip = vec![default_address()?.to_string()];
    }
    Ok(words)
}

fn host_name() -> String {
    let names = rustix::system::uname();
    names.nodename().to_string_lossy().into_owned()
}

/// The address from which this machine would reach others. Connecting a datagram socket chooses
/// it and sends nothing.
fn default_address() -> Result<IpAddr, CliError> {
    // Addresses for documentation (RFC 5737, RFC 3849): no route but the default one leads there.
    let tries = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    let chosen = tries.into_iter().find_map(|(own, other)| {
        let socket = UdpSocket::bind(own).ok()?;
        socket.connect(other).ok()?;
        let address = socket.local_addr().ok()?.ip();
        (!address.is_unspecified() && !address.is_loopback()).then_some(address)
    });
    chosen.ok_or_else(|| {
        CliError::usage("this machine has no default route that tells its address: give --node-ip")
    })
}

fn mode(text: &str) -> Result<u32, CliError> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| {
            CliError::usage(format!(
                "--write-kubeconfig-mode {text:?} is no mode; write it as 600"
            ))
        })
}

/// The tokens that files give. One that K3s is configured with must be given here too: K3s would
/// use its own.
fn tokens(
    args: &InitArgs,
    config: Option<&K3sConfig>,
) -> Result<(Option<Token>, Option<Token>), CliError> {
    let stdin = Path::new("-");
    let (token, agents) = (&args.token_file, &args.agent_token_file);
    if [token, agents].map(Option::as_deref) == [Some(stdin), Some(stdin)] {
        return Err(CliError::usage(
            "standard input can hold one token: name a file for the other",
        ));
    }
    let configured = config.map_or([None, None], |config| {
        [&config.token, &config.agent_token].map(Option::as_ref)
    });
    let flags = [("--token-file", token), ("--agent-token-file", agents)];
    let mut read = Vec::new();
    for ((flag, path), configured) in flags.into_iter().zip(configured) {
        read.push(match (path, configured) {
            (Some(path), _) => Some(token_from(flag, path)?),
            (None, Some(found)) => {
                return Err(CliError::usage(format!(
                    "{} gives K3s a token: name a file with the same one with {flag}",
                    found.from
                )));
            }
            (None, None) => None,
        });
    }
    let mut read = read.into_iter();
    Ok((read.next().flatten(), read.next().flatten()))
}

fn token_from(flag: &str, path: &Path) -> Result<Token, CliError> {
    let mut text = Zeroizing::new(String::new());
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    let place = path.display();
    read.map_err(|error| CliError::usage(format!("{flag}: cannot read {place}: {error}")))?;
    Token::parse(&text).map_err(|error| CliError::usage(format!("{flag} {place}: {error}")))
}

/// CA files and tokens that do not fit are refused; the rest failed.
pub(super) fn refused(error: InitError) -> CliError {
    let exit = match &error {
        InitError::Incomplete { .. }
        | InitError::Authorities { .. }
        | InitError::AgentNode { .. }
        | InitError::Legacy { .. }
        | InitError::OtherAuthority { .. }
        | InitError::OtherPassword { .. }
        | InitError::Datastore { .. } => Exit::Refused,
        InitError::Token { .. } => Exit::Usage,
        _ => Exit::Failed,
    };
    CliError {
        exit,
        ..CliError::failed(&error)
    }
}
