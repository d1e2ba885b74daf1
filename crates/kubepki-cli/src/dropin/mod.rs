//! `kubepki k3s …`: K3s's flags in, K3s's messages and exit codes out.

mod args;
mod log;
mod rke;
mod rotate_ca;
mod script;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kubepki::apply::{Executor, Outcome, Patience, Quiet, plan_id};
use kubepki::catalogue::K3S;
use kubepki::dropin::{
    Format, Layout, Level, Line, Moment, RotationRequest, WINDOW_DAYS, check, render, rotate_plan,
    select,
};
use kubepki::inventory::DEFAULT_DATA_DIR;
use kubepki::k3s::{Places, discover};
use kubepki::plan::Plan;
use kubepki::state::StateDir;
use pki::UnixTime;

pub use args::K3sArgs;
use args::{CertificateCommand, CheckArgs, CommonArgs, K3sCommand, RotateArgs};
use log::Log;
pub use rke::{RkeArgs, cluster as rke_cluster, run as run_rke};
use script::Script;

use crate::error::{CliError, Exit};
use crate::world::{World, resolved};

/// Runs one of K3s's commands. What goes wrong is its last log line, and ends with 1.
pub async fn run(args: &K3sArgs) -> Exit {
    let command = match &args.command {
        K3sCommand::Certificate(command) => command,
        K3sCommand::GenerateCustomCaCerts(args) => return script::run(Script::Custom, args).await,
        K3sCommand::RotateDefaultCaCerts(args) => return script::run(Script::Default, args).await,
    };
    let common = match command {
        CertificateCommand::Check(check) => check.common.clone(),
        CertificateCommand::Rotate(rotate) => rotate.common.clone(),
        CertificateCommand::RotateCa(args) => rotate_ca::common(args),
    };
    let world = World::real();
    let (mut log, opened) = match Log::open(&common) {
        Ok(log) => (log, Ok(())),
        Err(error) => (Log::fallback(), Err(error)),
    };
    let done = match (opened, command) {
        (Err(error), _) => Err(error),
        (Ok(()), CertificateCommand::Check(args)) => run_check(args, &world, &mut log).await,
        (Ok(()), CertificateCommand::Rotate(args)) => run_rotate(args, &world, &mut log).await,
        (Ok(()), CertificateCommand::RotateCa(args)) => {
            rotate_ca::run(args, &world, &mut log).await
        }
    };
    match done {
        Ok(()) => Exit::Fine,
        Err(error) => {
            // K3s's words, without the hints of our own commands.
            let text = format!("Error: {}", error.message);
            log.line(&Line::new(Level::Fatal, text), world.now());
            Exit::Failed
        }
    }
}

/// Tells what is wrong with a command line. K3s and RKE end with 1 where our own commands end
/// with 2.
pub fn usage_error(error: &clap::Error) -> ExitCode {
    // Nobody listening is no error.
    let _ = error.print();
    let is_dropin = std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "k3s" || word == "rke");
    match (error.use_stderr(), is_dropin) {
        (false, _) => ExitCode::SUCCESS,
        (true, true) => ExitCode::from(1),
        (true, false) => ExitCode::from(2),
    }
}

async fn run_check(args: &CheckArgs, world: &World, log: &mut Log) -> Result<(), CliError> {
    let now = match &args.at {
        Some(text) => moment(text)?,
        None => now(world)?,
    };
    // Made up or not, the lines carry the moment that they are about.
    let time = now.second();
    let layout = layout(&args.common, world).await?;
    let services = &args.common.service;
    let selection = select(&world.host, &K3S, &layout, services, "checking").await?;
    write(log, &selection.lines, time);
    let services = &selection.services;
    let report = check(&world.host, &K3S, &layout, services, now, WINDOW_DAYS).await;
    write(log, &report.skipped, time);
    // Only now, as with K3s: the lines above stand before the complaint.
    let rendered = render(&report, args.output.parse::<Format>()?);
    write(log, &rendered.lines, time);
    log.data(&rendered.stdout)
}

async fn run_rotate(args: &RotateArgs, world: &World, log: &mut Log) -> Result<(), CliError> {
    let now = now(world)?.second();
    let layout = layout(&args.common, world).await?;
    let services = &args.common.service;
    let selection = select(&world.host, &K3S, &layout, services, "rotating").await?;
    write(log, &selection.lines, now);
    let request = RotationRequest {
        id: plan_id(now, "rotate", &world.entropy)?,
        node: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        now,
    };
    let rotation = rotate_plan(&world.host, &K3S, &layout, &selection, request).await?;
    carry_out(world, &rotation.plan).await?;
    write(log, &rotation.lines, now);
    Ok(())
}

/// At once and without a word of its own.
async fn carry_out(world: &World, plan: &Plan) -> Result<(), CliError> {
    if plan.steps.is_empty() {
        return Ok(());
    }
    let state = StateDir::of_data_dir(&plan.root).lock()?;
    let executor = Executor {
        host: &world.host,
        state: &state,
        clock: world.clock.as_ref(),
        entropy: &world.entropy,
        keys: &world.keys,
        observer: &Quiet,
        patience: Patience::default(),
        cluster: None,
        caller: None,
        machines: None,
        kubernetes: None,
    };
    match executor.apply(plan).await? {
        Outcome::Finished { .. } => {
            // Old plans that could not be pruned are pruned another time.
            let _ = state.prune(world.now());
            Ok(())
        }
        Outcome::Waiting { instruction, .. } => Err(CliError::message(instruction)),
        Outcome::Partly { open, .. } => Err(CliError::message(
            crate::command::change::put_off_text(&open),
        )),
    }
}

fn write(log: &mut Log, lines: &[Line], time: UnixTime) {
    for line in lines {
        log.line(line, time);
    }
}

fn now(world: &World) -> Result<Moment, CliError> {
    let (seconds, nanoseconds) = world.clock.precise();
    Ok(Moment::new(seconds, nanoseconds).plausible()?)
}

/// `--at`, with the fraction that the shared one has no use for.
fn moment(text: &str) -> Result<Moment, CliError> {
    let wrong = || {
        CliError::message(format!(
            "{text:?} is not a moment; write it as 2027-01-31T12:00:00Z"
        ))
    };
    let at: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    // Before 1970 the library counts the fraction downwards.
    let second = at.as_nanosecond().div_euclid(1_000_000_000);
    let rest = at.as_nanosecond().rem_euclid(1_000_000_000);
    let second = i64::try_from(second).map_err(|_| wrong())?;
    let rest = u32::try_from(rest).map_err(|_| wrong())?;
    Ok(Moment::new(UnixTime::from_secs(second), rest).plausible()?)
}

/// Flag or environment, else K3s's configuration (which K3s itself does not look at here), else
/// the default.
async fn layout(args: &CommonArgs, world: &World) -> Result<Layout, CliError> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let given = args.data_dir.as_deref().filter(|path| !path.is_empty());
    let shown = match given {
        Some(given) => expand_home(given, home.as_deref())?,
        None => match configured(args, world).await? {
            Some(path) => expand_home(path.as_os_str(), home.as_deref())?,
            None if rustix::process::getuid().is_root() => PathBuf::from(DEFAULT_DATA_DIR),
            None => expand_home(OsStr::new("${HOME}/.rancher/k3s"), home.as_deref())?,
        },
    };
    // As K3s does, which shows and uses the absolute path.
    let shown = std::path::absolute(&shown)?;
    Ok(Layout::new(&shown, resolved(&shown)))
}

/// `data-dir` of K3s's configuration, if it has one.
async fn configured(args: &CommonArgs, world: &World) -> Result<Option<PathBuf>, CliError> {
    let config = args
        .config
        .as_ref()
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let places = Places {
        config,
        ..Places::default()
    };
    let found = discover(&world.host, &places).await?.data_dir;
    Ok((found.from != "default").then_some(found.value))
}

/// K3s takes `~`, `$HOME` and `${HOME}` anywhere in the path for the home directory.
fn expand_home(path: &OsStr, home: Option<&OsStr>) -> Result<PathBuf, CliError> {
    const HOMES: [&str; 3] = ["$HOME", "${HOME}", "~"];
    let Some(text) = path.to_str() else {
        return Ok(PathBuf::from(path));
    };
    if !HOMES.iter().any(|name| text.contains(name)) {
        return Ok(PathBuf::from(text));
    }
    let home = home.and_then(OsStr::to_str).ok_or_else(|| {
        CliError::message(format!(
            "cannot tell the home directory in {text}; set HOME or give --data-dir"
        ))
    })?;
    let expanded = HOMES
        .iter()
        .fold(text.to_owned(), |text, name| text.replace(name, home));
    Ok(Path::new(&expanded).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_expanded_as_k3s_does() {
        let home = Some(OsStr::new("/users/op"));
        for (given, path) in [
            ("/data", "/data"),
            ("~/k3s", "/users/op/k3s"),
            ("$HOME/k3s", "/users/op/k3s"),
            ("${HOME}/.rancher/k3s", "/users/op/.rancher/k3s"),
        ] {
            let expanded = expand_home(OsStr::new(given), home).unwrap();
            assert_eq!(expanded, Path::new(path));
        }
        assert!(expand_home(OsStr::new("/data"), None).is_ok());
        assert!(expand_home(OsStr::new("~/k3s"), None).is_err());
    }

    #[test]
    fn moments_have_fractions() {
        let at = moment("2026-11-22T08:29:55.5+01:00").unwrap();
        assert_eq!(
            at,
            Moment::new(UnixTime::from_secs(1_795_332_595), 500_000_000)
        );
        assert!(moment("yesterday").is_err());
        assert!(moment("1979-12-31T23:59:59Z").is_err());
    }
}
