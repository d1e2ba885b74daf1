//! `log`: what this node's server issued, and whether the record of it is whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use kubepki::host::Host;
use kubepki::log::{
    Anew, CSV_HEADER, Entry, Filter, Finding, Head, LogError, Reading, Verified, begin_anew,
    chains, csv_line, entries, publish, stored_head, table, verify,
};
use pki::Serial;
use serde_json::{Value, json};

use crate::args::{PlanFormat, SiteArgs};
use crate::datastore::{Access, EndpointArgs, open};
use crate::error::{CliError, Exit};
use crate::k3s::Settings;
use crate::output;
use crate::world::{World, moment, state_dir};

/// `log`.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Read the log from its first byte to its last and say what is not as it was written.
    ///
    /// Ends with 0 when it is whole and with 4 when a record was changed, removed, moved, put in or
    /// cut off; each finding says which record, file, line and byte. The head in the datastore
    /// tells of an end that was cut off.
    #[command(after_help = "Examples:\n  kubepki log verify\n  kubepki log verify --offline")]
    Verify(Box<VerifyArgs>),
    /// Show what was issued: to which node, when, by whose leave.
    #[command(after_help = "Examples:\n  kubepki log show --node worker-7\n  \
                      kubepki log show --since 2026-11-22T00:00:00Z -o json")]
    Show(ShowArgs),
    /// Print every record for another program. JSON lines are those of the log, octet for octet.
    Export(ExportArgs),
    /// Go on with a log whose end is lost: `kubepki serve` does not add to it before.
    ///
    /// The next record says what is missing (the datastore knows how far the log went), who began it
    /// anew, when and why; what is on the disk stays. `kubepki log verify` tells of it from then on,
    /// and not as a fault. Nothing is done to a log that lacks nothing.
    #[command(
        after_help = "Example:\n  kubepki log begin-anew --why 'the disk of s1 was replaced'"
    )]
    BeginAnew(Box<AnewArgs>),
}

/// Which log.
#[derive(Clone, Debug, Args)]
pub struct ChainArgs {
    /// The server whose log it is; needed only where several lie there.
    #[arg(long, value_name = "NAME")]
    pub server: Option<String>,
    /// The folder with a folder for each server [default: log in the state directory].
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    #[command(flatten)]
    pub site: SiteArgs,
}

/// `log verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub chain: ChainArgs,
    /// Do not ask the datastore: an end that was cut off cannot be seen then.
    #[arg(long)]
    pub offline: bool,
    /// The answer's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}

/// `log begin-anew`.
#[derive(Clone, Debug, Args)]
pub struct AnewArgs {
    #[command(flatten)]
    pub chain: ChainArgs,
    /// Why: it stands in the log for good.
    #[arg(long, value_name = "TEXT", value_parser = sentence)]
    pub why: String,
    /// Who does it [default: who called sudo, else the user].
    #[arg(long, value_name = "NAME", value_parser = sentence)]
    pub by: Option<String>,
    /// Go on without asking.
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}

fn sentence(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("it is empty".to_owned()),
        long if long.len() > 1000 => Err("write at most 1000 letters".to_owned()),
        fine => Ok(fine.to_owned()),
    }
}

/// Which records.
#[derive(Clone, Debug, Args)]
pub struct FilterArgs {
    /// Only those for this node.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Only those issued at this moment or later (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only the one with this serial number (hex).
    #[arg(long, value_name = "SERIAL")]
    pub serial: Option<String>,
}

/// `log show`.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    pub chain: ChainArgs,
    #[command(flatten)]
    pub filter: FilterArgs,
    /// The list's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
}

/// `log export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    pub chain: ChainArgs,
    #[command(flatten)]
    pub filter: FilterArgs,
    /// The form.
    #[arg(long, value_enum, default_value_t = ExportFormat::Jsonl)]
    pub format: ExportFormat,
}

/// Forms of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// A JSON object a line, as they stand in the log.
    Jsonl,
    /// CSV with a line of names (RFC 4180).
    Csv,
}

/// `kubepki log …`.
///
/// # Errors
///
/// When there is no log, or it cannot be read.
pub async fn run(command: &LogCommand) -> Result<Exit, CliError> {
    let world = World::real();
    match command {
        LogCommand::Verify(args) => run_verify(&world.host, args).await,
        LogCommand::Show(args) => show(&world.host, args).await,
        LogCommand::Export(args) => export(&world.host, args).await,
        LogCommand::BeginAnew(args) => anew(&world, args).await,
    }
}

async fn anew(world: &World, args: &AnewArgs) -> Result<Exit, CliError> {
    let settings = Settings::load(&world.host, &args.chain.site).await?;
    // Without the datastore nobody knows what is missing.
    let store = open(&world.host, &args.endpoint, &settings, Access::Write).await?;
    store.refuse_read_only()?;
    let (directory, servers) = match find(&world.host, &args.chain).await {
        Ok(found) => found,
        // Nothing is left of it: the datastore may know whose it was.
        Err(_) if args.chain.server.is_none() => {
            let state = state_dir(&args.chain.site, &settings.data_dir);
            let directory = args.chain.log_dir.clone();
            let directory = directory.unwrap_or_else(|| folder(state.path()));
            (directory, Vec::new())
        }
        Err(error) => return Err(error),
    };
    let [server] = servers.as_slice() else {
        return Err(CliError::usage(format!(
            "{} logs lie in {}: say which is meant with --server NAME",
            servers.len(),
            directory.display()
        )));
    };
    let known = stored_head(store.store.as_ref(), server).await?;
    let known = known.map(|(head, _)| head);
    let own = directory.join(server);
    let found = verify(&own, server, known.as_ref())?;
    output::talk(&in_words(&found, known.as_ref(), false));
    let question = format!("Begin the log of {server} anew, for good?");
    output::confirm(&question, args.yes)?;
    let user = || {
        let name = |variable: &str| std::env::var(variable).ok().filter(|it| !it.is_empty());
        name("SUDO_USER").or_else(|| name("USER"))
    };
    let by = args.by.clone().or_else(user).unwrap_or_else(|| {
        let uid = rustix::process::getuid().as_raw();
        format!("user {uid}")
    });
    let told = Anew {
        by: &by,
        why: &args.why,
        now: world.now(),
    };
    let (receipt, _) = match begin_anew(&own, server, known.as_ref(), &told) {
        Ok(begun) => begun,
        Err(error @ (LogError::Whole { .. } | LogError::Locked { .. })) => {
            return Err(CliError::refused(error.to_string()));
        }
        Err(error) => return Err(error.into()),
    };
    let head = Head {
        server: server.clone(),
        records: receipt.seq,
        hash: receipt.hash,
    };
    if let Err(error) = publish(store.store.as_ref(), &head).await {
        output::talk(&format!(
            "Note: the datastore does not know of it yet, the server's next start tells it: {}",
            kubepki::error_chain(&error)
        ));
    }
    output::talk(&format!(
        "Done: the log of {server} goes on with record {}. Start `kubepki serve`.",
        receipt.seq
    ));
    Ok(Exit::Fine)
}

/// The folder with the logs, and the servers that are meant.
async fn find(host: &dyn Host, args: &ChainArgs) -> Result<(PathBuf, Vec<String>), CliError> {
    let directory = match (&args.log_dir, &args.site.state_dir) {
        (Some(directory), _) => directory.clone(),
        (None, Some(state)) => folder(state),
        (None, None) => {
            let settings = Settings::load(host, &args.site).await?;
            folder(state_dir(&args.site, &settings.data_dir).path())
        }
    };
    if let Some(name) = &args.server {
        kubepki::log::head_key(name).map_err(|error| CliError::usage(error.to_string()))?;
        return Ok((directory, vec![name.clone()]));
    }
    let found = chains(&directory)?;
    if found.is_empty() {
        return Err(CliError::message(format!(
            "{} holds no issuance log: `kubepki serve` writes one, --log-dir names another folder",
            directory.display()
        )));
    }
    Ok((directory, found))
}

/// The folder with the logs of a state directory.
pub(super) fn folder(state: &Path) -> PathBuf {
    state.join("log")
}

async fn run_verify(host: &dyn Host, args: &VerifyArgs) -> Result<Exit, CliError> {
    let (directory, servers) = find(host, &args.chain).await?;
    let store = match args.offline {
        true => None,
        false => {
            let settings = Settings::load(host, &args.chain.site).await?;
            let opened = open(host, &args.endpoint, &settings, Access::Read).await;
            Some(opened.map_err(|error| error.hint("--offline looks at the files alone"))?)
        }
    };
    let mut whole = true;
    let mut answers = Vec::new();
    for server in &servers {
        // The head first: while a server runs, its files are ahead of it.
        let known = match &store {
            Some(connected) => stored_head(connected.store.as_ref(), server).await?,
            None => None,
        };
        let known = known.map(|(head, _)| head);
        let verified = settled(&directory.join(server), server, known.as_ref()).await?;
        whole &= verified.findings.is_empty();
        match args.output {
            PlanFormat::Text => output::data(&in_words(&verified, known.as_ref(), args.offline))?,
            PlanFormat::Json => answers.push(in_json(&verified, known.as_ref())),
        }
    }
    if args.output == PlanFormat::Json {
        let answer = json!({"chains": answers});
        output::data(&(serde_json::to_string_pretty(&answer)? + "\n"))?;
    }
    Ok(if whole { Exit::Fine } else { Exit::Broken })
}

/// Verifies; once more where a server that is just writing may have been overheard.
async fn settled(
    directory: &Path,
    server: &str,
    known: Option<&Head>,
) -> Result<Verified, LogError> {
    let mut verified = verify(directory, server, known)?;
    for _ in 0..3 {
        let [Finding::Unfinished { .. }] = verified.findings.as_slice() else {
            break;
        };
        tokio::time::sleep(Duration::from_millis(200)).await;
        verified = verify(directory, server, known)?;
    }
    Ok(verified)
}

fn in_words(verified: &Verified, known: Option<&Head>, offline: bool) -> String {
    let Verified {
        records,
        segments,
        head,
        findings,
        breaks,
    } = verified;
    let mut text = format!(
        "{}: {records} records in {segments} files, {}\n",
        head.server,
        match findings.is_empty() {
            true => "whole".to_owned(),
            false => format!("NOT as it was written ({} findings)", findings.len()),
        }
    );
    for finding in findings {
        text.push_str(&format!("  {finding}\n"));
    }
    for known in breaks {
        text.push_str(&format!("  {known}\n"));
    }
    text.push_str(&match known {
        Some(known) => format!(
            "  the datastore knows of {} records, the last with hash {}\n",
            known.records, known.hash
        ),
        None if offline => {
            "  the datastore was not asked: an end that was cut off cannot be seen\n".to_owned()
        }
        None => "  the datastore holds no head of it: an end that was cut off cannot be seen\n"
            .to_owned(),
    });
    text
}

fn in_json(verified: &Verified, known: Option<&Head>) -> Value {
    let head = |head: &Head| json!({"records": head.records, "hash": head.hash.to_string()});
    let findings: Vec<Value> = verified
        .findings
        .iter()
        .map(|finding| json!({"text": finding.to_string(), "detail": finding}))
        .collect();
    json!({
        "server": verified.head.server,
        "records": verified.records,
        "files": verified.segments,
        "head": head(&verified.head),
        "datastore": known.map(head),
        "findings": findings,
        "breaks": verified.breaks,
    })
}

fn filter(args: &FilterArgs) -> Result<Filter, CliError> {
    let serial = args.serial.as_deref().map(|text| {
        let plain: String = text.chars().filter(|it| *it != ':').collect();
        let even = plain.len() % 2;
        Serial::from_hex(&format!("{}{plain}", "0".repeat(even)))
            .map_err(|error| CliError::usage(format!("--serial: {error}")))
    });
    Ok(Filter {
        node: args.node.clone(),
        since: args.since.as_deref().map(moment).transpose()?,
        serial: serial.transpose()?,
    })
}

/// Calls `each` with every record that is wanted; answers whether all could be read.
async fn walk(
    host: &dyn Host,
    chain: &ChainArgs,
    wanted: &FilterArgs,
    mut each: impl FnMut(Entry) -> Result<(), CliError>,
) -> Result<Exit, CliError> {
    let wanted = filter(wanted)?;
    let (directory, servers) = find(host, chain).await?;
    let mut exit = Exit::Fine;
    for server in &servers {
        let own = directory.join(server);
        if !own.is_dir() {
            let missing = format!(
                "there is no issuance log of {server} in {}",
                directory.display()
            );
            return Err(CliError::message(missing));
        }
        for read in entries(&own)? {
            match read? {
                Reading::Record(entry) if wanted.takes(&entry) => each(*entry)?,
                Reading::Record(_) => {}
                Reading::Damaged(place) => {
                    exit = Exit::Broken;
                    output::talk(&format!(
                        "Warning: {server}: {place} cannot be believed and is left out; \
                         `kubepki log verify` says why"
                    ));
                }
            }
        }
    }
    Ok(exit)
}

async fn show(host: &dyn Host, args: &ShowArgs) -> Result<Exit, CliError> {
    let mut found = Vec::new();
    let exit = walk(host, &args.chain, &args.filter, |entry| {
        found.push(entry);
        Ok(())
    })
    .await?;
    match args.output {
        PlanFormat::Text => output::data(&output::harmless(&table(&found)))?,
        PlanFormat::Json => {
            let records: Vec<Value> = found
                .iter()
                .map(|it| serde_json::from_str(&it.text))
                .collect::<Result<_, _>>()?;
            output::data(&(serde_json::to_string_pretty(&records)? + "\n"))?;
        }
    }
    Ok(exit)
}

async fn export(host: &dyn Host, args: &ExportArgs) -> Result<Exit, CliError> {
    if args.format == ExportFormat::Csv {
        output::data(CSV_HEADER)?;
    }
    walk(host, &args.chain, &args.filter, |entry| match args.format {
        ExportFormat::Jsonl => output::data(&format!("{}\n", entry.text)),
        ExportFormat::Csv => output::data(&csv_line(&entry)),
    })
    .await
}
