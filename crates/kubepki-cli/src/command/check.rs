//! `check`: every certificate of one node or of many trees, what is wrong, what mends it.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use kubepki::catalogue::{K3S, Release};
use kubepki::check::{AUTHORITY_WINDOW, Question, Severity, check, worst};
use kubepki::cluster::{Policy, Wishes};
use kubepki::host::LocalHost;
use kubepki::inventory::{DetectedRelease, Inventory, Site, collect};
use kubepki::report::metrics::Metrics;
use kubepki::report::timeline::{self, Timeline, timeline};
use kubepki::report::{Report, SCHEMA, Summary, parallel, table, text, yaml};
use pki::{DAY, San, UnixTime};
use serde::Serialize;

use crate::args::SiteArgs;
use crate::error::{CliError, Exit};
use crate::k3s::{Settings, starts_in};
use crate::output;
use crate::period::period;
use crate::rke::ClusterArgs;
use crate::world::{World, moment, resolved};

/// `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Data directories to look at; the configured one when none is named.
    #[arg(value_name = "DIR")]
    pub directories: Vec<PathBuf>,
    /// The report's form.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    pub output: Form,
    /// How long before its end a certificate counts as due: 30d, 720h [default: K3s's own window
    /// for leaves, 90d on an RKE cluster, 365d for CAs].
    #[arg(long, value_name = "DURATION", value_parser = period)]
    pub warn_within: Option<i64>,
    /// Days before the end from which K3s renews a leaf [default: 120, or 90 for older K3s].
    #[arg(long, value_name = "DAYS")]
    pub window: Option<u32>,
    /// Answer for another moment (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// Say what ends first, when, and what prevents it.
    #[arg(long)]
    pub timeline: bool,
    /// Show every certificate, those that follow a leaf and copies too.
    #[arg(long)]
    pub all: bool,
    /// On an RKE cluster: look at the state file only, and ask no host.
    #[arg(long, help_heading = "RKE clusters")]
    pub offline: bool,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub site: SiteArgs,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people.
    Table,
    /// One line for each certificate and finding.
    Text,
    /// For programs.
    Json,
    /// For programs.
    Yaml,
    /// For the textfile collector of Prometheus' node exporter.
    Prometheus,
}

/// `kubepki check`.
///
/// # Errors
///
/// When the only tree that is asked about cannot be read, or the output cannot be written.
pub async fn run(args: &CheckArgs) -> Result<Exit, CliError> {
    if args.timeline && args.output == Form::Prometheus {
        return Err(CliError::usage(
            "--timeline has no Prometheus form: the metrics carry each end already",
        ));
    }
    let world = match &args.at {
        Some(at) => World::at(moment(at)?),
        None => World::real(),
    };
    let release = match &args.site.k3s_version {
        Some(text) => {
            let parsed = text.parse::<Release>();
            Some(parsed.map_err(|error| CliError::usage(error.to_string()))?)
        }
        None => None,
    };
    let asked = Asked {
        args,
        now: world.now(),
        release,
    };
    let trees = trees(&world, args).await?;
    match trees.as_slice() {
        [tree] => {
            let answer = asked.look(tree).await?;
            let mut printer = Printer::new(args, 1);
            printer.tree(tree, Ok(answer))?;
            printer.end()
        }
        trees => many(&asked, trees),
    }
}

/// Prints the report on something that is no K3s node.
///
/// # Errors
///
/// When the output cannot be written.
pub fn print_one(
    args: &CheckArgs,
    root: PathBuf,
    report: Report,
    worst: Option<Severity>,
) -> Result<Exit, CliError> {
    let tree = Tree {
        data_dir: root,
        has_k3s: false,
        admin_kubeconfig: None,
        add_sans: Vec::new(),
    };
    let answer = Answer {
        report,
        timeline: None,
        worst,
    };
    let mut printer = Printer::new(args, 1);
    printer.tree(&tree, Ok(answer))?;
    printer.end()
}

/// A tree to look at, and what the configuration wants of it.
struct Tree {
    data_dir: PathBuf,
    /// Whether a K3s of this machine works on it.
    has_k3s: bool,
    admin_kubeconfig: Option<PathBuf>,
    add_sans: Vec<San>,
}

/// The trees that the arguments name. The machine's configuration counts only for the data
/// directory that it names.
async fn trees(world: &World, args: &CheckArgs) -> Result<Vec<Tree>, CliError> {
    let of_settings = |settings: Settings| Tree {
        has_k3s: starts_in(&settings.data_dir, &settings.configured),
        data_dir: settings.data_dir,
        admin_kubeconfig: settings.admin_kubeconfig,
        add_sans: settings.tls_sans,
    };
    if args.directories.is_empty() {
        let settings = Settings::load(&world.host, &args.site).await?;
        return Ok(vec![of_settings(settings)]);
    }
    if args.site.data_dir.is_some() {
        return Err(CliError::usage(
            "name data directories as arguments or with --data-dir, not both",
        ));
    }
    if let [one] = args.directories.as_slice() {
        let site = SiteArgs {
            data_dir: Some(one.clone()),
            ..args.site.clone()
        };
        let settings = Settings::load(&world.host, &site).await?;
        return Ok(vec![of_settings(settings)]);
    }
    if args.site.kubeconfig.is_some() {
        return Err(CliError::usage(
            "--kubeconfig belongs to one data directory; name only that one",
        ));
    }
    let configured = Settings::load(&world.host, &args.site).await?;
    let trees = args.directories.iter().map(|directory| {
        let data_dir = resolved(directory);
        let ours = data_dir == configured.data_dir;
        Tree {
            admin_kubeconfig: configured.admin_kubeconfig.clone().filter(|_| ours),
            add_sans: match ours {
                true => configured.tls_sans.clone(),
                false => Vec::new(),
            },
            has_k3s: starts_in(&data_dir, &configured.configured),
            data_dir,
        }
    });
    Ok(trees.collect())
}

/// What is asked of every tree.
struct Asked<'a> {
    args: &'a CheckArgs,
    now: UnixTime,
    release: Option<Release>,
}

/// What is said of a tree.
struct Answer {
    report: Report,
    timeline: Option<Timeline>,
    worst: Option<Severity>,
}

impl Asked<'_> {
    async fn look(&self, tree: &Tree) -> Result<Answer, CliError> {
        let admin = tree.admin_kubeconfig.clone();
        let mut site = Site::open(&LocalHost, &tree.data_dir, admin).await?;
        site.has_k3s |= tree.has_k3s;
        let mut inventory = collect(&LocalHost, &site, &K3S, self.now).await;
        if let Some(release) = self.release {
            inventory.release = DetectedRelease::Known(release);
        }
        Ok(self.judge(&inventory, tree))
    }

    fn judge(&self, inventory: &Inventory, tree: &Tree) -> Answer {
        let wishes = Wishes {
            node: None,
            add_sans: tree.add_sans.clone(),
            drop_sans: Vec::new(),
            release: inventory.release,
        };
        let mut policy = Policy::k3s(inventory.release);
        if let Some(days) = self.args.window {
            policy.window = i64::from(days).saturating_mul(DAY);
        }
        if let Some(seconds) = self.args.warn_within {
            policy.window = seconds;
        }
        let question = Question {
            inventory,
            wishes: &wishes,
            policy: &policy,
            now: self.now,
            authority_window: self.args.warn_within.unwrap_or(AUTHORITY_WINDOW),
        };
        let findings = check(&question);
        Answer {
            worst: worst(&findings),
            timeline: self.args.timeline.then(|| timeline(&question)),
            report: Report::new(&question, &findings),
        }
    }
}

/// Many trees: side by side, printed in the order in which they were named.
fn many(asked: &Asked<'_>, trees: &[Tree]) -> Result<Exit, CliError> {
    let workers = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let mut printer = Printer::new(asked.args, trees.len());
    let mut failed = None;
    let look = |tree: &Tree| {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let answer = match runtime {
            Ok(runtime) => runtime.block_on(asked.look(tree)),
            Err(error) => Err(error.into()),
        };
        (tree.data_dir.clone(), answer)
    };
    parallel::in_order(trees, workers, look, |(data_dir, answer)| {
        let tree = Tree {
            data_dir,
            has_k3s: false,
            admin_kubeconfig: None,
            add_sans: Vec::new(),
        };
        match printer.tree(&tree, answer) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    match failed {
        Some(error) => Err(error),
        None => printer.end(),
    }
}

/// A tree that could not be looked at, for programs.
#[derive(Serialize)]
struct Unread<'a> {
    schema: u32,
    data_dir: String,
    error: &'a str,
}

/// The end of a machine-readable report.
#[derive(Serialize)]
struct Total<'a> {
    trees: usize,
    unreadable: usize,
    #[serde(flatten)]
    counts: &'a Summary,
}

/// Prints one tree after the other and remembers how bad it is.
struct Printer<'a> {
    args: &'a CheckArgs,
    expected: usize,
    printed: usize,
    unreadable: usize,
    total: Summary,
    worst: Option<Severity>,
    metrics: Metrics,
}

impl<'a> Printer<'a> {
    fn new(args: &'a CheckArgs, expected: usize) -> Self {
        Self {
            args,
            expected,
            printed: 0,
            unreadable: 0,
            total: Summary::default(),
            worst: None,
            metrics: Metrics::default(),
        }
    }

    fn tree(&mut self, tree: &Tree, answer: Result<Answer, CliError>) -> Result<(), CliError> {
        let text = match &answer {
            Ok(answer) => {
                self.total.add(&answer.report.summary);
                self.worst = self.worst.max(answer.worst);
                self.rendered(answer)?
            }
            Err(error) => {
                self.unreadable += 1;
                output::talk(&format!("kubepki: {}", error.message));
                self.unread(&tree.data_dir, error)?
            }
        };
        self.printed += 1;
        output::data(&text)
    }

    fn rendered(&mut self, answer: &Answer) -> Result<String, CliError> {
        let all = self.args.all;
        let for_people = |text: String| self.separator() + &output::harmless(&text);
        Ok(match (self.args.output, &answer.timeline) {
            (Form::Table | Form::Text, Some(timeline)) => for_people(timeline::render(timeline)),
            (Form::Table, None) => for_people(table::render(&answer.report, all)),
            (Form::Text, None) => for_people(text::render(&answer.report, all)),
            (Form::Json, Some(timeline)) => self.json_item(timeline)?,
            (Form::Json, None) => self.json_item(&answer.report)?,
            (Form::Yaml, Some(timeline)) => self.yaml_item(timeline)?,
            (Form::Yaml, None) => self.yaml_item(&answer.report)?,
            (Form::Prometheus, _) => self.metrics.tree(&answer.report),
        })
    }

    fn unread(&mut self, data_dir: &Path, error: &CliError) -> Result<String, CliError> {
        let data_dir = data_dir.display().to_string();
        let unread = Unread {
            schema: SCHEMA,
            data_dir,
            error: &error.message,
        };
        Ok(match self.args.output {
            Form::Table | Form::Text => String::new(),
            Form::Json => self.json_item(&unread)?,
            Form::Yaml => self.yaml_item(&unread)?,
            Form::Prometheus => {
                self.metrics.unreadable(&unread.data_dir);
                String::new()
            }
        })
    }

    /// An empty line between trees.
    fn separator(&self) -> String {
        match self.printed {
            0 => String::new(),
            _ => "\n".to_owned(),
        }
    }

    fn json_item<T: Serialize>(&self, item: &T) -> Result<String, CliError> {
        let before = match self.printed {
            0 => format!("{{\"schema\":{SCHEMA},\"trees\":[\n"),
            _ => ",\n".to_owned(),
        };
        Ok(before + &serde_json::to_string(item)?)
    }

    fn yaml_item<T: Serialize>(&self, item: &T) -> Result<String, CliError> {
        let before = match self.printed {
            0 => format!("schema: {SCHEMA}\ntrees:\n"),
            _ => String::new(),
        };
        Ok(before + &yaml::to_yaml_item(item)?)
    }

    fn end(self) -> Result<Exit, CliError> {
        let total = Total {
            trees: self.printed,
            unreadable: self.unreadable,
            counts: &self.total,
        };
        let last = match self.args.output {
            Form::Table | Form::Text if self.expected > 1 => format!(
                "\n{} trees, {} unreadable: {} certificates, {} broken, {} due, {} warnings\n",
                self.printed,
                self.unreadable,
                self.total.certificates,
                self.total.broken,
                self.total.due,
                self.total.warnings
            ),
            Form::Table | Form::Text => String::new(),
            Form::Json => format!("\n],\"summary\":{}}}\n", serde_json::to_string(&total)?),
            Form::Yaml => format!("summary:\n{}", yaml::to_yaml(&total, 2)?),
            Form::Prometheus => self.metrics.end(),
        };
        output::data(&last)?;
        Ok(match self.worst.map(Severity::exit_code) {
            Some(4) => Exit::Broken,
            _ if self.unreadable > 0 => Exit::Failed,
            Some(3) => Exit::Due,
            _ => Exit::Fine,
        })
    }
}
