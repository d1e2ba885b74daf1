//! `rotate-ca`: a staged set of CA files, checked and put in force.

use std::path::{Path, PathBuf};

use clap::Args;
use kubepki::apply::plan_id;
use kubepki::bootstrap::{Bundle, Disk, Field};
use kubepki::ca::refuse_live;
use kubepki::ca::rotate::{Request, RotateError, Tokens, Way, closing, plan_rotate_ca, way_back};
use kubepki::ca::verify::{Intent, Places, Question, Stamps, Verdict, verify};
use kubepki::check::Severity;
use kubepki::fleet::Fleet;
use kubepki::host::Host as _;
use kubepki::inventory::Role;
use kubepki::state::StateDir;
use kubepki::token::Rule;
use kubepki_remote::Supervisor;

use super::ca::verify::{nothing_staged, set};
use super::change::refuse_unfinished;
use super::init;
use super::prepared::{NoFuture, Prepared, carry_out};
use super::reconcile::{described, look};
use super::token::{ConfigArgs, token_refused};
use crate::args::{AskArgs, NameArgs, RestartArgs, SiteArgs};
use crate::datastore::{Access, EndpointArgs, candidates, open, read, refuse_living, supervisor};
use crate::error::{CliError, Exit};
use crate::k3s::{Settings, running_in};
use crate::rke::{ClusterArgs, RolloutArgs};
use crate::serving::serving;
use crate::world::{Node, World};
use crate::{output, syslog};

mod back;
mod compromise;
mod follow;

pub use back::instead_of_undo;
use compromise::Leak;

/// `rotate-ca`.
#[derive(Clone, Debug, Args)]
pub struct RotateCaArgs {
    /// The directory that holds the set's tls/.
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// The set that `kubepki ca stage` made last.
    #[arg(long, conflicts_with = "path")]
    pub staged: bool,
    /// The set that was in force before this plan: the way back once servers were restarted and
    /// `kubepki undo` finds their files changed.
    #[arg(long, value_name = "PLAN", conflicts_with_all = ["path", "staged", "compromised"])]
    pub back: Option<String>,
    /// Put the set in force although checks fail; each is named in the plan.
    #[arg(long)]
    pub force: bool,
    /// The old keys are in wrong hands: nothing of them stays trusted, and there is no way back.
    #[arg(long)]
    pub compromised: bool,
    /// After a compromise, where only a running server can write the datastore: the join tokens
    /// were replaced before, with `k3s token rotate` on that server. --token-file names the old
    /// one, which must no longer open the data.
    #[arg(long, requires = "compromised", conflicts_with = "direct")]
    pub tokens_replaced: bool,
    /// Hand the set to a running server [default: when K3s or `kubepki serve` runs on this node].
    #[arg(long, value_name = "URL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "https://127.0.0.1", conflicts_with = "direct")]
    pub through_server: Option<String>,
    /// Write the datastore, while K3s is stopped on every server [default: when K3s does not run
    /// on this node].
    #[arg(long)]
    pub direct: bool,
    /// Make the restarts steps: each stays open until it can be seen from here that it was done,
    /// and `kubepki resume` goes on.
    #[arg(long)]
    pub watch: bool,
    /// With --restart-command, through a running server: stop K3s with this command, so that its
    /// files are made ready before it is started; split at blanks, no shell.
    #[arg(
        long,
        value_name = "COMMAND",
        requires = "restart_command",
        conflicts_with = "direct"
    )]
    pub stop_command: Option<String>,
    #[command(flatten)]
    pub configs: ConfigArgs,
    #[command(flatten)]
    pub restart: RestartArgs,
    #[command(flatten)]
    pub names: NameArgs,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub rollout: RolloutArgs,
    /// On an RKE cluster: go on trusting the old CAs beside the new ones; a later run without
    /// this ends that.
    #[arg(long, help_heading = "RKE clusters", conflicts_with_all = ["hard", "compromised"])]
    pub keep_old: bool,
    /// On an RKE cluster: switch at once, as RKE does, without cross-certificates. Components that
    /// were restarted and those that were not do not believe each other meanwhile.
    #[arg(long, help_heading = "RKE clusters", conflicts_with = "compromised")]
    pub hard: bool,
    #[command(flatten)]
    pub site: SiteArgs,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `kubepki rotate-ca`.
///
/// # Errors
///
/// When the set is refused, a server lives where none should or none where one should, or the
/// plan cannot be carried out; the system log is told too.
pub async fn run(args: &RotateCaArgs) -> Result<Exit, CliError> {
    let result = rotate(args).await;
    if let Err(error) = &result
        && matches!(error.exit, Exit::Refused | Exit::Failed)
    {
        let line = |line| format!("rotate-ca refused, nothing was changed: {line}\n");
        syslog::error(
            &error
                .message
                .lines()
                .map(str::trim)
                .map(line)
                .collect::<String>(),
        );
    }
    result
}

async fn rotate(args: &RotateCaArgs) -> Result<Exit, CliError> {
    let configs = args.configs;
    if (configs.rewrite_configs || configs.keep_configs) && !args.compromised {
        return Err(CliError::usage(
            "--rewrite-configs and --keep-configs are about new tokens, which only --compromised \
             makes",
        ));
    }
    if args.path.is_none() && !args.staged && args.back.is_none() {
        return Err(CliError::usage(
            "rotate-ca needs to know which CAs: --path DIR or --staged, or --back PLAN; for an RKE \
             cluster, --cluster cluster.yml",
        ));
    }
    let world = World::real();
    let node = Node::open(&world, &args.site, None, None).await?;
    refuse_unfinished(&node.state)?;
    let settings = Settings::load(&world.host, &args.site).await?;
    let data_dir = node.inventory.site.data_dir.clone();
    if node.inventory.site.role == Role::AgentOnly {
        return Err(CliError::message(format!(
            "{} is an agent's: CAs are rotated on a server",
            data_dir.display()
        )));
    }
    let path = match (&args.path, &args.back) {
        (Some(path), _) => path.clone(),
        (None, Some(_)) => node.state.path().join("backups"),
        (None, None) => node.state.path().join("staged"),
    };
    let target = Target::of(args, &settings, &node.state);
    let disk = Disk::look(&world.host, &data_dir.join("server")).await?;
    refuse_incomplete(&disk)?;
    let (staged, notes) = match &args.back {
        Some(id) => {
            let former = back::former(&node.state, id, &disk)?;
            let rule = Rule::of_tree(&node.inventory);
            let back = way_back(&former, &disk.bundle, rule, world.now());
            (back.set, back.notes)
        }
        None => (staged(&world, &path, &data_dir).await?, Vec::new()),
    };
    let rotation = Rotation {
        world: &world,
        args,
        node: &node,
        settings: &settings,
        staged,
        notes,
        disk,
        path,
    };
    let verdict = rotation.verdict();
    announce(&verdict);
    match target {
        Target::Direct => rotation.direct(verdict).await,
        Target::Through(url) => rotation.through(verdict, url).await,
    }
}

/// Nothing can be compared with CAs that are not there, and --force would override that.
fn refuse_incomplete(disk: &Disk) -> Result<(), CliError> {
    let fields = [
        Field::ServerCa,
        Field::ClientCa,
        Field::RequestHeaderCa,
        Field::ServiceKey,
    ];
    let missing: Vec<String> = fields
        .into_iter()
        .filter(|field| disk.bundle.content(*field).is_none_or(<[u8]>::is_empty))
        .map(|field| field.path().display().to_string())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(CliError::refused(format!(
        "the CAs in force are not all in {}: {} missing",
        disk.server.display(),
        missing.join(", ")
    ))
    .hint("`kubepki bootstrap extract` puts them back from the datastore"))
}

/// The staged set, which is not the one in force.
///
/// # Errors
///
/// When it is, or holds nothing.
pub async fn staged(world: &World, path: &Path, data_dir: &Path) -> Result<Bundle, CliError> {
    refuse_live(path, data_dir).map_err(|error| CliError::refused(kubepki::error_chain(&error)))?;
    let staged = set(world, path).await?;
    match kubepki::ca::rotate::taken(&staged).is_empty() {
        true => Err(nothing_staged(path)),
        false => Ok(staged),
    }
}

/// Removes a staged set that is in force: another copy of the CA keys has no use, and stands in the
/// way of the next set.
async fn forget_staged(world: &World, directory: &Path) -> Result<(), CliError> {
    let files = Field::ALL.map(|field| field.under(directory));
    let note = directory.join(kubepki::ca::NOTE);
    let directories = ["tls/etcd", "tls", ""].map(|below| directory.join(below));
    for path in files.iter().chain([&note]).chain(&directories) {
        world.host.remove(path).await?;
    }
    Ok(())
}

/// Who writes the datastore.
enum Target {
    Direct,
    Through(String),
}

impl Target {
    fn of(args: &RotateCaArgs, settings: &Settings, state: &StateDir) -> Self {
        let runs = running_in(&settings.data_dir, &settings.configured)
            .is_some_and(|process| process.name.ends_with("server"));
        let port = settings.https_port();
        match &args.through_server {
            Some(url) => {
                let bare = url.trim_start_matches("https://");
                let has_port = bare
                    .rsplit_once(':')
                    .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
                Self::Through(match has_port {
                    true => url.clone(),
                    false => format!("{}:{port}", url.trim_end_matches('/')),
                })
            }
            None if args.direct => Self::Direct,
            None => match serving(state.path()) {
                Some(url) => Self::Through(url),
                None if runs => Self::Through(format!("https://127.0.0.1:{port}")),
                None => Self::Direct,
            },
        }
    }
}

/// What was found, before it is decided how it is written.
struct Rotation<'a> {
    world: &'a World,
    args: &'a RotateCaArgs,
    node: &'a Node,
    settings: &'a Settings,
    disk: Disk,
    staged: Bundle,
    /// What is to be known of a way back.
    notes: Vec<String>,
    path: PathBuf,
}

impl Rotation<'_> {
    fn intent(&self) -> Intent {
        match self.args.compromised {
            true => Intent::Compromised,
            false => Intent::Ordinary,
        }
    }

    fn verdict(&self) -> Verdict {
        let now = self.world.now();
        verify(&Question {
            old: Some(&self.disk.bundle),
            new: &self.staged,
            now,
            on_date: now,
            release: self.node.inventory.release,
            intent: self.intent(),
            stamps: Stamps::Now,
            places: Places {
                old: self.disk.server.clone(),
                new: self.path.clone(),
            },
        })
    }

    async fn direct(self, verdict: Verdict) -> Result<Exit, CliError> {
        let host = &self.world.host;
        let endpoint = &self.args.endpoint;
        self.refuse(&verdict)?;
        let candidates = candidates(host, endpoint, self.settings).await?;
        let connected = open(host, endpoint, self.settings, Access::Read).await?;
        connected.refuse_read_only()?;
        let opened = read(&connected, &candidates).await?;
        refuse_living(&connected, endpoint, self.settings).await?;
        let leak = match self.args.compromised {
            true => Some(Leak::look(&self, &connected, &candidates, &opened).await?),
            false => None,
        };
        let place = connected.place.clone();
        let way = Way::Direct {
            opened: &opened,
            datastore: &place,
        };
        let prepared = self.prepare(&verdict, way, None, leak.as_ref()).await?;
        let prepared = Prepared {
            cluster: Some((connected, candidates)),
            ..prepared
        };
        let (world, args, path) = (self.world, self.args, self.path);
        let exit = carry_out(world, prepared, &args.ask, None::<NoFuture>).await?;
        if args.staged && !args.ask.dry_run && exit == Exit::Fine {
            forget_staged(world, &path).await?;
        }
        Ok(exit)
    }

    async fn through(self, verdict: Verdict, url: String) -> Result<Exit, CliError> {
        self.refuse(&verdict)?;
        compromise::refuse_through(&self).await?;
        let now = self.world.now();
        let server: Supervisor = supervisor(&self.world.host, &self.disk.server, &url, now).await?;
        let fleet = self.fleet().await;
        let way = Way::Through { url: &url };
        let prepared = self.prepare(&verdict, way, fleet.as_ref(), None).await?;
        let prepared = Prepared {
            supervisor: Some(server),
            ..prepared
        };
        carry_out(self.world, prepared, &self.args.ask, None::<NoFuture>).await
    }

    /// Says why the set is refused, before anything is opened.
    fn refuse(&self, verdict: &Verdict) -> Result<(), CliError> {
        let force = self.args.force;
        let standing = verdict
            .refusals()
            .filter(|it| !force || !kubepki::ca::rotate::can_be_forced(it))
            .filter(|it| !self.is_way_back(it.rule));
        let findings: Vec<_> = standing.cloned().collect();
        if findings.is_empty() {
            return Ok(());
        }
        let any = findings.iter().any(kubepki::ca::rotate::can_be_forced);
        let error = RotateError::Refused {
            findings,
            forced: force,
        };
        let refused = refused(error);
        Err(match any {
            true => refused.hint("say --force to put it in force all the same"),
            false => refused,
        })
    }

    /// K3s's own CAs stand alone in their files, and were in force like that.
    fn is_way_back(&self, rule: &str) -> bool {
        self.args.back.is_some() && rule == "single-certificate"
    }

    async fn prepare(
        &self,
        verdict: &Verdict,
        way: Way<'_>,
        fleet: Option<&Fleet>,
        leak: Option<&Leak>,
    ) -> Result<Prepared, CliError> {
        let args = self.args;
        let described = described(&args.names, &args.site);
        let (spec, survey) = look(self.world, &described, self.settings).await?;
        let restarts = self.restarts(way)?;
        let id = plan_id(self.world.now(), "rotate-ca", &self.world.entropy)?;
        let (mut plan, staged) = plan_rotate_ca(Request {
            id: &id,
            verdict,
            staged: &self.staged,
            way,
            disk: &self.disk,
            spec: &spec,
            survey,
            intent: self.intent(),
            // What stands was refused already.
            force: args.force || args.back.is_some(),
            fleet,
            tokens: match leak {
                Some(leak) => Tokens::New(leak.tokens()),
                None if args.tokens_replaced => Tokens::Replaced,
                None => Tokens::Stay,
            },
            exposures: leak.map_or(&[], |leak| &leak.exposures),
            copies: leak.map_or(&[], |leak| &leak.copies),
            restarts: restarts.clone(),
            now: self.world.now(),
            entropy: &self.world.entropy,
            keys: &self.world.keys,
        })
        .map_err(refused)?;
        if let Some(id) = &args.back {
            plan.title = format!("put back the CAs of before {id}");
            plan.notes.extend(self.notes.iter().cloned());
        }
        Ok(Prepared {
            plan,
            staged,
            state: self.node.state.clone(),
            cluster: None,
            question: "Put these CAs in force",
            supervisor: None,
            restart_timeout: args.restart.restart_timeout,
            closing: closing(verdict, way, &restarts) + leak.map_or("", |_| compromise::CLOSING),
        })
    }
}

/// Says what is not staged, as K3s does, and K3s's verdict where it is no.
fn announce(verdict: &Verdict) {
    for finding in &verdict.findings {
        if matches!(finding.rule, "missing" | "empty") && finding.severity == Severity::Warning {
            output::talk(&format!("Warning: {} {}", finding.field, finding.message));
        }
    }
    if !verdict.k3s_accepts() {
        output::talk(&text_of_k3s(verdict));
    }
}

fn text_of_k3s(verdict: &Verdict) -> String {
    let lines: Vec<String> = verdict.k3s.iter().map(|line| format!("  {line}")).collect();
    format!("K3s would refuse this set:\n{}", lines.join("\n"))
}

fn refused(error: RotateError) -> CliError {
    match error {
        RotateError::Init(error) => init::refused(error),
        RotateError::Seal(_) => CliError::failed(&error),
        RotateError::Tokens(error) => token_refused(error),
        other => CliError::refused(other.to_string()),
    }
}
