//! `state`: an RKE cluster's state file, shown, fetched, rebuilt.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use kubepki::host::Entry as FileEntry;
use kubepki::machine::Machines as _;
use kubepki::rke::local::LocalFiles;
use kubepki::rke::rebuild::{RebuildRequest, rebuild};
use kubepki::rke::{Entry, Half, Role, State, names};
use kubepki_remote::RkeApi;
use serde::Serialize;

use super::change::refuse_unfinished;
use crate::args::{AskArgs, PlanFormat, SiteArgs};
use crate::error::{CliError, Exit};
use crate::output;
use crate::rke::{KeptArgs, RkeCluster, SshArgs, files, reach};
use crate::world::World;

/// `state`.
#[derive(Clone, Debug, Subcommand)]
pub enum StateCommand {
    /// Show what the state file holds: names, subjects, ends. Never keys.
    #[command(after_help = "Example:\n  kubepki state show --cluster clusters/prod.yml")]
    Show(ShowArgs),
    /// Make a lost or damaged state file anew, from what control-plane hosts have in
    /// /etc/kubernetes/ssl.
    ///
    /// Prints the plan and asks. Only the administrator's certificate is nowhere but in the state:
    /// it is issued anew, and kube_config_cluster.yml written with it.
    #[command(
        after_help = "Example:\n  kubepki state rebuild --cluster cluster.yml --from-host 10.0.0.1"
    )]
    Rebuild(RebuildArgs),
    /// Fetch the copy that the cluster keeps (Secret full-cluster-state), with the administrator's
    /// kubeconfig beside cluster.yml.
    ///
    /// Prints the plan and asks.
    #[command(after_help = "Example:\n  kubepki state pull --cluster clusters/prod.yml")]
    Pull(PullArgs),
}

/// Which cluster.
#[derive(Clone, Debug, Args)]
pub struct WhichArgs {
    /// The cluster.yml of an RKE cluster; its state file and certificates lie beside it.
    #[arg(
        long,
        env = "RKE_CONFIG",
        value_name = "FILE",
        default_value = "cluster.yml"
    )]
    pub cluster: PathBuf,
}

/// `state show`.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    pub which: WhichArgs,
    /// The list's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
}

/// `state rebuild`.
#[derive(Clone, Debug, Args)]
pub struct RebuildArgs {
    #[command(flatten)]
    pub which: WhichArgs,
    /// The host whose files count (its address), with commas or several times: what the first
    /// lacks is taken from the next [default: every control-plane host that answers].
    #[arg(long = "from-host", value_name = "ADDRESS", value_delimiter = ',')]
    pub hosts: Vec<String>,
    #[command(flatten)]
    pub kept: KeptArgs,
    #[command(flatten)]
    pub ssh: SshArgs,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `state pull`.
#[derive(Clone, Debug, Args)]
pub struct PullArgs {
    #[command(flatten)]
    pub which: WhichArgs,
    #[command(flatten)]
    pub ssh: SshArgs,
    #[command(flatten)]
    pub kept: KeptArgs,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Runs one of them.
///
/// # Errors
///
/// When the files cannot be read, nobody answers, or the plan cannot be carried out.
pub async fn run(command: &StateCommand) -> Result<Exit, CliError> {
    let world = World::real();
    match command {
        StateCommand::Show(args) => show(&world, args).await,
        StateCommand::Rebuild(args) => run_rebuild(&world, args).await,
        StateCommand::Pull(args) => pull(&world, args).await,
    }
}

/// One entry of the state, without its key.
#[derive(Debug, Serialize)]
struct Shown {
    entry: String,
    /// `both`, or the half that has it as this.
    state: &'static str,
    subject: Option<String>,
    issuer: Option<String>,
    not_after: Option<String>,
    /// SHA-256 of the SubjectPublicKeyInfo, hex.
    spki: Option<String>,
    /// Certificates in the entry.
    certificates: usize,
    key: bool,
    problem: Option<String>,
}

async fn show(world: &World, args: &ShowArgs) -> Result<Exit, CliError> {
    let cluster = RkeCluster::open(world, &args.which.cluster, &SiteArgs::default()).await?;
    let shown = entries(cluster.state()?);
    match args.output {
        PlanFormat::Json => output::data(&(serde_json::to_string_pretty(&shown)? + "\n"))?,
        PlanFormat::Text => output::data(&output::harmless(&table(&shown)))?,
    }
    Ok(Exit::Fine)
}

fn entries(state: &State) -> Vec<Shown> {
    let (current, desired) = (state.bundle(Half::Current), state.bundle(Half::Desired));
    let names: BTreeSet<&String> = current.keys().chain(desired.keys()).collect();
    let mut all = Vec::new();
    for name in names {
        match (current.get(name), desired.get(name)) {
            (Some(now), Some(later)) if same(now, later) => all.push(shown(name, "both", now)),
            (now, later) => {
                all.extend(now.map(|it| shown(name, "current", it)));
                all.extend(later.map(|it| shown(name, "desired", it)));
            }
        }
    }
    all
}

fn same(one: &Entry, other: &Entry) -> bool {
    one.certificate_pem == other.certificate_pem && one.key_pem == other.key_pem
}

fn shown(name: &str, state: &'static str, entry: &Entry) -> Shown {
    let (certificates, problem) = match entry.certificates() {
        Ok(certificates) => (certificates, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let first = certificates.first();
    Shown {
        entry: name.to_owned(),
        state,
        subject: first.map(|it| it.subject().to_string()),
        issuer: first.map(|it| it.issuer().to_string()),
        not_after: first.map(|it| it.validity().not_after.to_string()),
        spki: first.map(|it| it.spki_sha256().to_string()),
        certificates: certificates.len(),
        key: !entry.key_pem.is_empty(),
        problem,
    }
}

fn table(all: &[Shown]) -> String {
    let width = all.iter().map(|it| it.entry.len()).max().unwrap_or(0);
    let mut text = format!(
        "{:<width$}  {:<7}  {:<20}  {:<3}  SUBJECT (ISSUER)\n",
        "ENTRY", "STATE", "UNTIL", "KEY"
    );
    for one in all {
        let end = one.not_after.as_deref().unwrap_or("-");
        let key = if one.key { "yes" } else { "no" };
        let _ = write!(
            text,
            "{:<width$}  {:<7}  {end:<20}  {key:<3}  ",
            one.entry, one.state
        );
        let _ = match (&one.subject, &one.issuer, &one.problem) {
            (Some(subject), Some(issuer), _) => writeln!(text, "{subject} ({issuer})"),
            (_, _, Some(problem)) => writeln!(text, "unreadable: {problem}"),
            _ => writeln!(text, "no certificate"),
        };
    }
    text
}

async fn run_rebuild(world: &World, args: &RebuildArgs) -> Result<Exit, CliError> {
    let site = args.kept.site();
    let opened = RkeCluster::open_damaged(world, &args.which.cluster, &site);
    let (cluster, present) = opened.await?;
    refuse_unfinished(&cluster.state_dir).map_err(|error| cluster.named(error))?;
    match present {
        Some(Ok(())) => {
            let refusal = CliError::refused(format!(
                "{} is there and can be read: nothing is to be rebuilt",
                cluster.site.state.display()
            ));
            return Err(cluster.named(refusal.hint(
                "move it away first if it is another cluster's; `kubepki state show` shows it",
            )));
        }
        Some(Err(problem)) => output::talk(&format!(
            "{}\nIt is kept as the plan's backup.",
            problem.message
        )),
        None => {}
    }
    let hosts = host_files(&cluster, args).await?;
    let request = RebuildRequest {
        config: &cluster.config,
        hosts: &hosts,
        site: &cluster.site,
        now: world.now(),
        entropy: &world.entropy,
        keys: &world.keys,
    };
    let rebuilt = rebuild(&request)?;
    let from: Vec<&str> = hosts.iter().map(|(host, _)| host.as_str()).collect();
    let title = format!("rebuild the state from {}", from.join(", "));
    let wanted = LocalFiles {
        title: &title,
        cluster: &cluster.config.cluster_name,
        state: (&rebuilt.state, "what the hosts have"),
        kubeconfig: Some((&rebuilt.kubeconfig, "the administrator's new certificate")),
        notes: &rebuilt.notes,
    };
    files::put(world, &cluster, ("rebuild", wanted), &args.ask).await
}

/// The files of the hosts that are asked, by address.
async fn host_files(
    cluster: &RkeCluster,
    args: &RebuildArgs,
) -> Result<Vec<(String, BTreeMap<String, FileEntry>)>, CliError> {
    let nodes = &cluster.config.nodes;
    for host in &args.hosts {
        if !nodes.iter().any(|node| node.address == *host) {
            let known: Vec<&str> = nodes.iter().map(|node| node.address.as_str()).collect();
            return Err(CliError::usage(format!(
                "--from-host {host}: the cluster has no such host; its hosts are {}",
                known.join(", ")
            )));
        }
    }
    let planes = cluster.config.with_role(Role::ControlPlane);
    let wanted: Vec<String> = match args.hosts.is_empty() {
        false => args.hosts.clone(),
        true => planes.map(|node| node.address.clone()).collect(),
    };
    let machines = reach::machines(cluster, &args.ssh, reach::told())?;
    let mut found = Vec::new();
    for host in wanted {
        let read = async {
            let machine = machines.machine(&host).await?;
            machine
                .read_directory(Path::new(names::SSL_DIRECTORY))
                .await
        };
        match read.await {
            Ok(Some(files)) => found.push((host, files)),
            Ok(None) => output::talk(&format!("{host} has no {}", names::SSL_DIRECTORY)),
            Err(error) if args.hosts.is_empty() => {
                output::talk(&kubepki::error_chain(&error));
            }
            Err(error) => return Err(error.into()),
        }
    }
    match found.is_empty() {
        false => Ok(found),
        true => Err(CliError::message(format!(
            "no host has files in {}",
            names::SSL_DIRECTORY
        ))),
    }
}

async fn pull(world: &World, args: &PullArgs) -> Result<Exit, CliError> {
    let site = args.kept.site();
    let (cluster, _) = RkeCluster::open_damaged(world, &args.which.cluster, &site).await?;
    refuse_unfinished(&cluster.state_dir).map_err(|error| cluster.named(error))?;
    let kubeconfig = cluster.site.kubeconfig.clone();
    let route = reach::api(&cluster, &args.ssh)?;
    let api = RkeApi::new(&world.host, kubeconfig, world.clock.as_ref(), route);
    let rebuild = "`kubepki state rebuild` makes one from a control-plane host";
    let missing = |error: CliError| cluster.named(error.hint(rebuild));
    let saved = api.saved_state().await;
    let saved = saved.map_err(|error| missing(error.into()))?;
    let saved = saved.ok_or_else(|| {
        let text = "the cluster keeps no copy of the state (full-cluster-state)";
        missing(CliError::message(text))
    })?;
    let state = State::parse(&saved)?;
    if let Some(present) = &cluster.state
        && *present.render() == *state.render()
    {
        output::talk("The cluster's copy is what lies here already.");
        return Ok(Exit::Fine);
    }
    let wanted = LocalFiles {
        title: "take the state over that the cluster keeps",
        cluster: &cluster.config.cluster_name,
        state: (&state, "the cluster's own copy"),
        kubeconfig: None,
        notes: &[],
    };
    files::put(world, &cluster, ("pull", wanted), &args.ask).await
}
