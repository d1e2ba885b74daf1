//! `ca verify`: whether a set of CA files can be put in force.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use kubepki::bootstrap::{Bundle, Field, read_directory};
use kubepki::ca::refuse_live;
use kubepki::ca::verify::{Finding, Intent, Places, Question, Stamps, Verdict, verify};
use kubepki::check::Severity;
use kubepki::inventory::Inventory;
use serde::Serialize;

use crate::args::{PlanFormat, SiteArgs};
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::{Node, World, moment};

/// `ca verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// The directory that holds the set's tls/.
    #[arg(long, value_name = "DIR")]
    pub path: PathBuf,
    /// The set is for a server that has not started yet, and may lie in its place already.
    #[arg(long)]
    pub first_start: bool,
    /// The old keys are in wrong hands: nothing of them may stay trusted.
    #[arg(long, conflicts_with = "first_start")]
    pub compromised: bool,
    /// CAs and roots must still be valid at this moment (RFC 3339) [default: now].
    #[arg(long, value_name = "TIME")]
    pub on_date: Option<String>,
    /// Print nothing but K3s's own verdict, in its words.
    #[arg(long, conflicts_with = "first_start")]
    pub k3s_words: bool,
    /// The answer's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
    #[command(flatten)]
    pub site: SiteArgs,
}

/// `kubepki ca verify`.
///
/// # Errors
///
/// When a set cannot be read, or the staged one is the one in force.
pub async fn run(args: &VerifyArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let node = match Node::open(&world, &args.site, None, None).await {
        Ok(node) => Some(node),
        // Before the first start there need not be a server yet.
        Err(_) if args.first_start => None,
        Err(error) => return Err(error),
    };
    let inventory = node.as_ref().map(|node| &node.inventory);
    let old = match (args.first_start, inventory) {
        (false, Some(inventory)) => {
            refuse_live(&args.path, &inventory.site.data_dir)
                .map_err(|error| CliError::refused(kubepki::error_chain(&error)))?;
            Some(set(&world, &inventory.site.server()).await?)
        }
        _ => None,
    };
    let new = set(&world, &args.path).await?;
    if !new.files.keys().any(|field| field.is_rotatable()) {
        return Err(nothing_staged(&args.path));
    }
    let question = Question {
        old: old.as_ref(),
        new: &new,
        now: world.now(),
        on_date: args.on_date.as_deref().map_or(Ok(world.now()), moment)?,
        release: release(args, inventory)?,
        intent: match args.compromised {
            true => Intent::Compromised,
            false => Intent::Ordinary,
        },
        stamps: Stamps::AsStaged,
        places: Places {
            old: inventory.map_or_else(PathBuf::new, |it| it.site.server()),
            new: args.path.clone(),
        },
    };
    let verdict = verify(&question);
    if args.k3s_words {
        let message = verdict.k3s_message();
        if !message.is_empty() {
            output::data(&format!("{}\n", output::harmless(&message)))?;
        }
        return Ok(match verdict.k3s_accepts() {
            true => Exit::Fine,
            false => Exit::Broken,
        });
    }
    match args.output {
        PlanFormat::Text => output::data(&output::harmless(&text(&verdict, args.first_start)))?,
        PlanFormat::Json => {
            let json = serde_json::to_string_pretty(&Answer::of(&verdict, args.first_start))?;
            output::data(&(json + "\n"))?;
        }
    }
    for note in open_modes(&args.path) {
        output::talk(&note);
    }
    Ok(match verdict.worst().map(Severity::exit_code) {
        Some(4) => Exit::Broken,
        Some(3) => Exit::Due,
        _ => Exit::Fine,
    })
}

fn release(
    args: &VerifyArgs,
    inventory: Option<&Inventory>,
) -> Result<kubepki::inventory::DetectedRelease, CliError> {
    use kubepki::inventory::DetectedRelease;
    if let Some(inventory) = inventory {
        return Ok(inventory.release);
    }
    Ok(match &args.site.k3s_version {
        Some(text) => DetectedRelease::Known(text.parse().map_err(
            |error: kubepki::catalogue::ReleaseError| CliError::usage(error.to_string()),
        )?),
        None => DetectedRelease::Unknown,
    })
}

/// More than this is no set of CA files.
const MOST_BYTES: u64 = 8 * 1024 * 1024;

/// The set of CA files in a directory that holds `tls/`.
///
/// # Errors
///
/// When a file of it cannot be read, or is no file, or is huge.
pub async fn set(world: &World, directory: &Path) -> Result<Bundle, CliError> {
    for field in Field::ALL {
        let path = field.under(directory);
        match std::fs::metadata(&path) {
            Ok(found) if found.len() > MOST_BYTES => {
                return Err(CliError::message(format!(
                    "{} has {} bytes: that is no certificate or key",
                    path.display(),
                    found.len()
                )));
            }
            Err(error) if !is_absent(&error) => {
                let message = format!("cannot look at {}: {error}", path.display());
                return Err(CliError::message(message));
            }
            _ => {}
        }
    }
    Ok(read_directory(&world.host, directory).await?)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// What to say when a directory holds no set.
pub fn nothing_staged(path: &Path) -> CliError {
    let error = CliError::message(format!(
        "{} holds no set of CA files: tls/server-ca.crt and the like are missing",
        path.display()
    ));
    if path.join("server-ca.crt").exists() || path.file_name().is_some_and(|name| name == "tls") {
        return error.hint("name the directory that holds tls/, not tls/ itself");
    }
    error.hint("kubepki ca stage makes one")
}

/// Staged keys that others can read.
fn open_modes(directory: &Path) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt;
    let secret = Field::ALL.into_iter().filter(|field| field.is_secret());
    secret
        .filter_map(|field| {
            let path = field.under(directory);
            let mode = std::fs::metadata(&path).ok()?.permissions().mode() & 0o7777;
            (mode & 0o077 != 0).then(|| {
                format!(
                    "Warning: {} can be read by others (mode {mode:04o}); chmod 600 {}",
                    path.display(),
                    path.display()
                )
            })
        })
        .collect()
}

/// The verdict in words.
pub fn text(verdict: &Verdict, first_start: bool) -> String {
    let mut text = String::new();
    if !first_start {
        let broken = verdict.worst().map(Severity::exit_code) == Some(4);
        match verdict.k3s_accepts() {
            true if broken => text.push_str(
                "K3s's own checks pass this set, but it must not be put in force as it is:\n",
            ),
            true => text.push_str("K3s accepts this set.\n"),
            false => {
                text.push_str("K3s refuses this set without --force:\n");
                for line in &verdict.k3s {
                    let _ = writeln!(text, "  {line}");
                }
            }
        }
    }
    for change in &verdict.changes {
        let _ = write!(
            text,
            "{:<16} {:<12}",
            change.field.name(),
            change.continuity
        );
        if let Some(subject) = &change.subject {
            let _ = write!(text, " {subject}");
        }
        if let Some(root) = &change.root
            && Some(root) != change.subject.as_ref()
        {
            let _ = write!(text, ", root {root}");
        }
        text.push('\n');
    }
    match (verdict.hash_before, verdict.hash_after) {
        (_, None) => {}
        (Some(before), Some(after)) if before != after => {
            let _ = writeln!(text, "Join tokens change: {before} -> {after}");
        }
        (Some(_), Some(after)) => {
            let _ = writeln!(text, "Join tokens stay: {after}");
        }
        (None, Some(after)) => {
            let _ = writeln!(text, "Join tokens will pin: {after}");
        }
    }
    findings(&mut text, &verdict.findings);
    text
}

/// Findings, each with what mends it.
pub fn findings(text: &mut String, findings: &[Finding]) {
    for finding in findings {
        let _ = writeln!(text, "{finding}");
        if let Some(mend) = &finding.mend {
            let _ = writeln!(text, "    {mend}");
        }
    }
}

/// The verdict as data.
#[derive(Serialize)]
struct Answer<'a> {
    schema: u32,
    k3s: Option<K3s>,
    authorities: Vec<Authority<'a>>,
    token_hash: TokenHash,
    findings: &'a [Finding],
}

#[derive(Serialize)]
struct K3s {
    accepts: bool,
    messages: Vec<String>,
}

#[derive(Serialize)]
struct Authority<'a> {
    field: &'static str,
    change: kubepki::ca::verify::Continuity,
    subject: Option<&'a str>,
    root: Option<&'a str>,
}

#[derive(Serialize)]
struct TokenHash {
    before: Option<String>,
    after: Option<String>,
}

impl<'a> Answer<'a> {
    fn of(verdict: &'a Verdict, first_start: bool) -> Self {
        let k3s = K3s {
            accepts: verdict.k3s_accepts(),
            messages: verdict.k3s.iter().map(ToString::to_string).collect(),
        };
        let authority = |change: &'a kubepki::ca::verify::Change| Authority {
            field: change.field.name(),
            change: change.continuity,
            subject: change.subject.as_deref(),
            root: change.root.as_deref(),
        };
        Self {
            schema: 1,
            k3s: (!first_start).then_some(k3s),
            authorities: verdict.changes.iter().map(authority).collect(),
            token_hash: TokenHash {
                before: verdict.hash_before.map(|it| it.to_string()),
                after: verdict.hash_after.map(|it| it.to_string()),
            },
            findings: &verdict.findings,
        }
    }
}
