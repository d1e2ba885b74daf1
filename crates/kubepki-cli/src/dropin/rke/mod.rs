//! `kubepki rke …`: RKE's flags in, RKE's messages and exit codes out.

mod args;
mod log;
mod narrator;
mod rotate;
mod script;

use std::path::Path;
use std::sync::Arc;

use kubepki::host::{EntryKind, Host as _};
use kubepki::rke::log::{Level, Line, fatal, version_line};
use kubepki::rke::{ClusterConfig, Files, csr};

pub use args::RkeArgs;
use args::{CertCommand, GenerateCsrArgs, RkeCommand};
use log::Log;

use crate::command::custom_certs::generate_requests;
use crate::error::Exit;
use crate::output;
use crate::world::{World, resolved};

/// Runs one of RKE's commands. What goes wrong is its last log line, and ends with 1.
pub async fn run(args: &RkeArgs) -> Exit {
    let world = World::real();
    let log = Arc::new(Log::open(args.global));
    let say = |line: &Line| log.line(line, world.now());
    if args.global.debug {
        say(&Line::new(Level::Debug, "Loglevel set to [debug]"));
    }
    let RkeCommand::Cert(command) = &args.command;
    let done = match command {
        CertCommand::Rotate(args) => rotate::rotate(args, &world, &log).await,
        CertCommand::GenerateCsr(args) => generate_csr(args, &world, &say)
            .await
            .map_err(rotate::Failure::from),
    };
    match done {
        Ok(exit) => exit,
        Err(failure) => {
            say(&fatal(failure.text));
            if let Some(hint) = failure.hint {
                output::talk(&format!("kubepki: {hint}"));
            }
            Exit::Failed
        }
    }
}

/// RKE's `generate-csr`; what it would not say goes to standard error.
async fn generate_csr(
    args: &GenerateCsrArgs,
    world: &World,
    say: &dyn Fn(&Line),
) -> Result<Exit, String> {
    say(&version_line());
    let (files, config) = cluster(world, &args.config.config).await?;
    let shown = args.cert_dir.as_ref().unwrap_or(&files.cert_dir);
    let set = generate_requests(world, &config, shown)
        .await
        .map_err(|error| error.message)?;
    let csr::CsrSet { lines, notes, .. } = &set;
    lines.iter().for_each(say);
    for note in notes {
        output::talk(&format!("kubepki: {note}"));
    }
    Ok(Exit::Fine)
}

/// Reads cluster.yml, and says with RKE's words why it cannot.
///
/// # Errors
///
/// The text that RKE ends with.
pub async fn cluster(world: &World, config: &Path) -> Result<(Files, ClusterConfig), String> {
    let absolute = std::path::absolute(config).map_err(|error| error.to_string())?;
    let unreadable =
        |problem: String| format!("Failed to resolve cluster file: failed to read file: {problem}");
    let entry = world.host.read(&resolved(&absolute)).await;
    let bytes = match entry.map(|entry| entry.map(|entry| entry.kind)) {
        Ok(Some(EntryKind::File(bytes))) => bytes,
        Ok(None) => {
            return Err(format!(
                "Failed to resolve cluster file: can not find cluster configuration file: open \
                 {}: no such file or directory",
                absolute.display()
            ));
        }
        Ok(Some(_)) => return Err(unreadable(format!("{} is no file", absolute.display()))),
        Err(error) => return Err(unreadable(kubepki::error_chain(&error))),
    };
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| format!("Failed to parse cluster file: {error}"))?;
    let parsed = ClusterConfig::parse(text).map_err(|error| error.rke_text())?;
    Ok((Files::of(config), parsed))
}
