//! `generate-csr` and `custom-certs`: requests for a company's CA, and what came back.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use kubepki::rke::cert_dir::{self, CertDir};
use kubepki::rke::csr::{CsrSet, Done, generate};
use kubepki::rke::custom::{
    Against, KeyStatus, RequestStatus, RkeSays, Severity, Signed, Status, Verdict, status, verify,
};
use kubepki::rke::{ClusterConfig, Half};
use pki::UnixTime;

use super::rke_state::WhichArgs;
use crate::args::{AskArgs, PlanFormat, SiteArgs};
use crate::dropin::rke_cluster;
use crate::error::{CliError, Exit};
use crate::output;
use crate::rke::{self, KeptArgs, RkeCluster, RolloutArgs, SshArgs};
use crate::world::{World, resolved};

/// `generate-csr`.
#[derive(Clone, Debug, Args)]
pub struct GenerateCsrArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// `custom-certs`.
#[derive(Clone, Debug, Subcommand)]
pub enum CustomCertsCommand {
    /// Show which requests are signed, by whom, and what is missing.
    ///
    /// Ends with 3 while something is missing.
    Status(StatusArgs),
    /// Judge the certificates: RKE's rules, and signatures, dates, names, purposes, keys.
    ///
    /// Changes nothing. Ends with 4 when they cannot be installed.
    Verify(VerifyArgs),
    /// Put the certificates in force, like any rotation: planned, proven on every host, resumed,
    /// taken back.
    ///
    /// Judges them first, as `verify` does. Prints the plan and asks. Where the CA is another one,
    /// every host trusts both before any certificate changes, and the new one alone at the end.
    #[command(after_help = "\
Example:
  kubepki generate-csr --cluster cluster.yml
  (have cluster_certs/*-csr.pem signed, put the certificates and kube-ca.pem beside them)
  kubepki custom-certs install --cluster cluster.yml --cert-dir cluster_certs")]
    Install(Box<InstallArgs>),
}

/// `custom-certs status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    /// The answer's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
}

/// `custom-certs verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    /// The answer's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
    /// Answer for another moment (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
}

/// `custom-certs install`.
#[derive(Clone, Debug, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Go on trusting the old CA beside the new one.
    #[arg(long)]
    pub keep_old: bool,
    #[command(flatten)]
    pub kept: KeptArgs,
    #[command(flatten)]
    pub ssh: SshArgs,
    #[command(flatten)]
    pub rollout: RolloutArgs,
    /// Seconds to wait after a restart for the proof.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub restart_timeout: u64,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Which cluster, and where its certificates are exchanged.
#[derive(Clone, Debug, Args)]
pub struct PlaceArgs {
    #[command(flatten)]
    pub which: WhichArgs,
    /// Where requests, keys and certificates lie [default: cluster_certs beside cluster.yml; of
    /// another name, that and _certs].
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
}

/// Makes what is missing.
///
/// # Errors
///
/// When cluster.yml or something in the directory cannot be used: nothing is written then.
pub async fn run_generate(args: &GenerateCsrArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let (files, config) = rke_cluster(&world, &args.place.which.cluster)
        .await
        .map_err(CliError::message)?;
    let shown = args.place.cert_dir.as_ref().unwrap_or(&files.cert_dir);
    let set = generate_requests(&world, &config, shown).await?;
    let mut text = format!("Requests in {}:\n", shown.display());
    for request in &set.requests {
        let done = match (request.done, request.key_kept) {
            (Done::Kept, _) => "kept",
            (Done::Made, false) => "made, with a new key",
            (Done::Made, true) => "made, for the key that is there",
            (Done::Replaced, false) => "made anew, with a new key",
            (Done::Replaced, true) => "made anew, for the key that is there",
        };
        let _ = writeln!(text, "  {:<34} {done}: {}", request.entry, request.subject);
    }
    output::data(&output::harmless(&text))?;
    for note in &set.notes {
        output::talk(&format!("note: {note}"));
    }
    output::talk(
        "The keys stay here. Have the requests signed with their names and extended key usage, and \
         put each certificate beside its request (kube-admin.pem), the CA's as kube-ca.pem. \
         Next: kubepki custom-certs status",
    );
    Ok(Exit::Fine)
}

/// Reads the directory `shown`, makes what is missing, writes it.
///
/// # Errors
///
/// As [`run_generate`].
pub async fn generate_requests(
    world: &World,
    config: &ClusterConfig,
    shown: &Path,
) -> Result<CsrSet, CliError> {
    let path = resolved(&std::path::absolute(shown)?);
    let directory = CertDir::read(&world.host, &path, shown).await?;
    let set = generate(config, &directory, &world.keys)?;
    cert_dir::write(&world.host, &path, &set.files).await?;
    Ok(set)
}

/// Runs one of them.
///
/// # Errors
///
/// When cluster.yml, the state file or the directory cannot be read.
pub async fn run(command: &CustomCertsCommand) -> Result<Exit, CliError> {
    let world = World::real();
    match command {
        CustomCertsCommand::Status(args) => run_status(args, &world).await,
        CustomCertsCommand::Verify(args) => run_verify(args, &world).await,
        CustomCertsCommand::Install(args) => rke::install::run(args, &world).await,
    }
}

async fn run_status(args: &StatusArgs, world: &World) -> Result<Exit, CliError> {
    let (files, config) = rke_cluster(world, &args.place.which.cluster)
        .await
        .map_err(CliError::message)?;
    let shown = args.place.cert_dir.as_ref().unwrap_or(&files.cert_dir);
    let directory = read(world, shown).await?;
    let all = status(&directory, &config)?;
    let exit = match all.iter().all(Status::is_complete) {
        true => Exit::Fine,
        false => Exit::Due,
    };
    match args.output {
        PlanFormat::Json => output::data(&json(&all)?)?,
        PlanFormat::Text => output::data(&output::harmless(&status_text(shown, &all)))?,
    }
    Ok(exit)
}

async fn run_verify(args: &VerifyArgs, world: &World) -> Result<Exit, CliError> {
    let now = match &args.at {
        Some(text) => crate::world::moment(text)?,
        None => world.now(),
    };
    let cluster = RkeCluster::open(world, &args.place.which.cluster, &SiteArgs::default()).await?;
    let verdict = judge(world, &cluster, &args.place, now).await?;
    match args.output {
        PlanFormat::Json => {
            let answer = serde_json::json!({
                "directory": verdict.directory,
                "installable": verdict.set.is_some(),
                "rke": verdict.rke_text(),
                "findings": verdict.findings,
            });
            output::data(&json(&answer)?)?;
        }
        PlanFormat::Text => output::data(&output::harmless(&verdict_text(&verdict)))?,
    }
    Ok(match verdict.set {
        Some(_) => Exit::Fine,
        None => Exit::Broken,
    })
}

/// Judges the directory of `place` for `cluster`, as at `now`.
///
/// # Errors
///
/// When the directory cannot be read.
pub async fn judge(
    world: &World,
    cluster: &RkeCluster,
    place: &PlaceArgs,
    now: UnixTime,
) -> Result<Verdict, CliError> {
    let shown = place.cert_dir.as_ref().unwrap_or(&cluster.files.cert_dir);
    let directory = read(world, shown).await?;
    let current = cluster.state.as_ref().map(|it| it.bundle(Half::Current));
    let against = Against {
        config: &cluster.config,
        now,
        current: current.as_ref(),
    };
    Ok(verify(&directory, &against)?)
}

/// The directory, which must be there.
async fn read(world: &World, shown: &Path) -> Result<CertDir, CliError> {
    let path = resolved(&std::path::absolute(shown)?);
    let directory = CertDir::read(&world.host, &path, shown).await?;
    match directory.exists {
        true => Ok(directory),
        false => Err(
            CliError::message(format!("there is no directory {}", shown.display()))
                .hint("kubepki generate-csr makes it; --cert-dir names another one"),
        ),
    }
}

fn json(value: &impl serde::Serialize) -> Result<String, CliError> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}

fn status_text(shown: &Path, all: &[Status]) -> String {
    let mut text = format!("{:<34} {:<12} {:<9} CERTIFICATE\n", "", "REQUEST", "KEY");
    for one in all {
        let request = match (&one.request, one.has_request) {
            (RequestStatus::There, _) => "there",
            (RequestStatus::Missing, true) => "missing",
            (RequestStatus::Missing, false) => "-",
            (RequestStatus::OfOtherKey, _) => "other key",
            (RequestStatus::Unreadable(_), _) => "unreadable",
        };
        let key = match &one.key {
            KeyStatus::There => "there",
            KeyStatus::Missing => "missing",
            KeyStatus::Unreadable(_) => "unreadable",
        };
        let certificate = match &one.certificate {
            Signed::Missing => "missing".to_owned(),
            Signed::Unreadable(why) => format!("unreadable: {why}"),
            Signed::By {
                issuer,
                not_after,
                matches_key,
            } => {
                let other = match matches_key {
                    Some(false) => "for another key, ",
                    _ => "",
                };
                format!("{other}by {issuer}, until {not_after}")
            }
        };
        let _ = writeln!(
            text,
            "{:<34} {request:<12} {key:<9} {certificate}",
            one.entry
        );
    }
    let left = all.iter().filter(|one| !one.is_complete()).count();
    let _ = match left {
        0 => writeln!(
            text,
            "\nNothing is missing. Next: kubepki custom-certs verify"
        ),
        left => writeln!(
            text,
            "\n{left} of {} are not complete in {}.",
            all.len(),
            shown.display()
        ),
    };
    text
}

/// A verdict for people.
pub fn verdict_text(verdict: &Verdict) -> String {
    let mut text = String::new();
    for finding in &verdict.findings {
        let severity = match finding.severity {
            Severity::Refused => "refused",
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        let _ = writeln!(text, "{severity:<8} {finding}");
        match &finding.rke {
            Some(RkeSays::Refuses(words) | RkeSays::Warns(words)) => {
                let _ = writeln!(text, "{:<8}   RKE: {words}", "");
            }
            None => {}
        }
    }
    let count = |severity| {
        let same = verdict.findings.iter().filter(|it| it.severity == severity);
        same.count()
    };
    let problems = count(Severity::Refused) + count(Severity::Error);
    let directory = verdict.directory.display();
    let _ = match &verdict.set {
        Some(set) => writeln!(
            text,
            "{directory}: {} certificates can be installed",
            set.entries.len()
        ),
        None => writeln!(
            text,
            "{directory} cannot be installed: {problems} problems, {} of them RKE sees",
            count(Severity::Refused)
        ),
    };
    text
}
