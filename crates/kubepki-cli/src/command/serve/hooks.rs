//! What is run after leaves were renewed: hooks and restarts of units, one after the other.
//!
//! What is to be run is written down before the leaves change and struck out when it has been
//! done: a crash in between makes it run once more, never once less.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use kubepki::catalogue::K3S;
use kubepki::edge::file;
use kubepki::error_chain;
use kubepki::host::{Attributes, Host, LocalHost};

use super::tell;
use crate::error::CliError;

/// What follows a renewal.
#[derive(Clone, Debug, Args)]
pub struct ReloadArgs {
    /// Run this after leaves of this node were renewed, with the names of their services
    /// (api-server, etcd, …) behind its own arguments; a directory stands for every executable file
    /// in it, by name, but for hidden ones and those that end with ~. Its environment holds PATH,
    /// HOME and LANG alone, its output goes into the log, and until it ends with 0 it is run again
    /// every five minutes. May be given several times.
    #[arg(long, value_name = "COMMAND", value_parser = command)]
    pub reload_hook: Vec<String>,
    /// Restart this systemd unit after leaves of this node were renewed; with =SERVICE,… only
    /// after those of these services. May be given several times.
    #[arg(long, value_name = "UNIT[=SERVICE,…]", value_parser = unit)]
    pub restart_unit: Vec<RestartUnit>,
    /// Whether the units of --restart-unit are restarted.
    #[arg(long, value_enum, default_value_t = RestartUnits::Changed)]
    pub restart_units: RestartUnits,
    /// Seconds that a hook or restart may take before it is killed.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub reload_timeout: u64,
}

/// When units are restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RestartUnits {
    /// Not at all.
    Never,
    /// When leaves that they read have changed.
    Changed,
}

/// A unit, and the services whose leaves it reads; none for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartUnit {
    name: String,
    services: BTreeSet<String>,
}

fn command(text: &str) -> Result<String, String> {
    match text.split_whitespace().next() {
        Some(program) if program.starts_with('/') => Ok(text.to_owned()),
        _ => Err("write the program with its whole path, as /etc/kubepki/reload".to_owned()),
    }
}

fn unit(text: &str) -> Result<RestartUnit, String> {
    let (name, services) = text.split_once('=').unwrap_or((text, ""));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"@._:-\\".contains(&byte);
    if name.is_empty() || name.starts_with('-') || !name.bytes().all(plain) {
        return Err(format!(
            "{name:?} is no unit's name; write it as nginx.service"
        ));
    }
    let services: BTreeSet<String> = services
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if let Some(unknown) = services.iter().find(|name| K3S.service(name).is_none()) {
        let known: Vec<&str> = K3S.services.iter().map(|it| it.name).collect();
        return Err(format!(
            "{unknown:?} is no service; there are {}",
            known.join(", ")
        ));
    }
    Ok(RestartUnit {
        name: name.to_owned(),
        services,
    })
}

/// What is to be run, and what of it is still open.
#[derive(Debug)]
pub(super) struct Hooks {
    actions: Vec<Action>,
    timeout: Duration,
    /// Where what is open is written down.
    open: PathBuf,
}

#[derive(Debug)]
enum Action {
    Hook(String),
    Restart(RestartUnit),
}

impl Action {
    /// Its name in the list of what is open.
    fn key(&self) -> String {
        match self {
            Self::Hook(command) => format!("hook {command}"),
            Self::Restart(unit) => format!("restart {}", unit.name),
        }
    }

    /// Which of `services` concern it.
    fn concerned(&self, services: &BTreeSet<String>) -> BTreeSet<String> {
        match self {
            Self::Restart(unit) if !unit.services.is_empty() => {
                unit.services.intersection(services).cloned().collect()
            }
            _ => services.clone(),
        }
    }
}

/// What is open: the services to tell of, by action.
type Open = BTreeMap<String, BTreeSet<String>>;

/// How one program ended.
pub(super) struct Ran {
    /// What it was.
    pub what: String,
    /// What it printed, shortened.
    pub output: String,
    /// What went wrong.
    pub failure: Option<String>,
}

impl Hooks {
    pub(super) fn new(args: &ReloadArgs, state: &Path) -> Self {
        let hooks = args.reload_hook.iter().cloned().map(Action::Hook);
        let units: &[RestartUnit] = match args.restart_units {
            RestartUnits::Changed => &args.restart_unit,
            RestartUnits::Never => &[],
        };
        Self {
            actions: hooks
                .chain(units.iter().cloned().map(Action::Restart))
                .collect(),
            timeout: Duration::from_secs(args.reload_timeout),
            open: state.join("reload.json"),
        }
    }

    /// Writes down that leaves of `services` are about to change.
    ///
    /// # Errors
    ///
    /// When it cannot be written: then they must not change.
    pub(super) fn foretold(&self, services: &BTreeSet<String>) -> Result<(), CliError> {
        let mut open = self.read();
        for action in &self.actions {
            let concerned = action.concerned(services);
            if !concerned.is_empty() {
                open.entry(action.key()).or_default().extend(concerned);
            }
        }
        self.write(&open)
    }

    /// Whether something is open.
    pub(super) fn are_open(&self) -> bool {
        let open = self.read();
        self.actions.iter().any(|it| open.contains_key(&it.key()))
    }

    /// Runs what is open, one after the other, and strikes out what ended well.
    pub(super) async fn run(&self, host: &dyn Host) -> Vec<Ran> {
        let mut ran = Vec::new();
        for action in &self.actions {
            let key = action.key();
            let Some(services) = self.read().remove(&key) else {
                continue;
            };
            let before = ran.len();
            match self.programs(action, &services) {
                Ok(programs) => {
                    for program in programs {
                        ran.push(self.one(host, program).await);
                    }
                }
                Err(why) => ran.push(Ran {
                    what: key.clone(),
                    output: String::new(),
                    failure: Some(why),
                }),
            }
            let mut own = ran.iter().skip(before);
            if own.any(|it| it.failure.is_some()) {
                continue;
            }
            let mut open = self.read();
            open.remove(&key);
            if let Err(error) = self.write(&open) {
                ran.push(Ran {
                    what: key,
                    output: String::new(),
                    failure: Some(error.message),
                });
            }
        }
        ran
    }

    async fn one(&self, host: &dyn Host, program: Vec<String>) -> Ran {
        let what = program.join(" ");
        let ended = host.run(&program, self.timeout).await;
        let (output, failure) = match ended {
            Ok(ended) => {
                let both = [ended.stdout, ended.stderr].concat();
                let failure = match ended.code {
                    Some(0) => None,
                    Some(code) => Some(format!("it ended with {code}")),
                    None => Some("a signal ended it".to_owned()),
                };
                (shortened(&both), failure)
            }
            Err(error) => (String::new(), Some(error_chain(&error))),
        };
        Ran {
            what,
            output,
            failure,
        }
    }

    /// What an action comes to, now.
    fn programs(
        &self,
        action: &Action,
        services: &BTreeSet<String>,
    ) -> Result<Vec<Vec<String>>, String> {
        let command = match action {
            Action::Restart(unit) => {
                let words = ["systemctl", "restart", &unit.name];
                return Ok(vec![words.map(str::to_owned).to_vec()]);
            }
            Action::Hook(command) => command,
        };
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        let (program, arguments) = words.split_first().ok_or("it is empty")?;
        let path = Path::new(program);
        let found = match path.is_dir() {
            true => executables(path)?,
            false => vec![path.to_owned()],
        };
        let one = |path: PathBuf| {
            is_safe(&path)?;
            let path = path.to_str().ok_or("its name is no UTF-8")?.to_owned();
            let arguments = arguments.iter().chain(services).cloned();
            Ok(std::iter::once(path).chain(arguments).collect())
        };
        found.into_iter().map(one).collect()
    }

    /// What is open; a list that cannot be read is none that could be kept.
    fn read(&self) -> Open {
        let bytes = std::fs::read(&self.open).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    fn write(&self, open: &Open) -> Result<(), CliError> {
        // What is no longer asked for is forgotten.
        let keys: BTreeSet<String> = self.actions.iter().map(Action::key).collect();
        let open: BTreeMap<_, _> = open.iter().filter(|(key, _)| keys.contains(*key)).collect();
        let result = match open.is_empty() {
            true if !self.open.exists() => Ok(()),
            true => file::remove(&self.open),
            false => {
                let bytes = serde_json::to_vec(&open)?;
                file::replace(&self.open, &bytes, &Attributes::new(0o600))
            }
        };
        result.map_err(|error| {
            CliError::message(format!("cannot write {}: {error}", self.open.display()))
        })
    }
}

/// Refuses hooks that could not be run: a word that was mistyped is found now, not when leaves were
/// renewed.
///
/// # Errors
///
/// The hook and what is wrong with it.
pub(super) fn refuse_unusable(args: &ReloadArgs) -> Result<(), CliError> {
    for hook in &args.reload_hook {
        let path = Path::new(hook.split_whitespace().next().unwrap_or_default());
        is_usable(path).map_err(|why| CliError::usage(format!("--reload-hook {hook}: {why}")))?;
    }
    Ok(())
}

fn is_usable(path: &Path) -> Result<(), String> {
    let (found, shown) = (is_safe(path)?, path.display());
    match found.is_dir() || found.is_file() && found.mode() & 0o111 != 0 {
        true => Ok(()),
        false => Err(format!("{shown} cannot be run: chmod +x {shown}")),
    }
}

/// Says which units systemd does not know. It may not answer yet, nor know them yet: nobody waits
/// for it.
pub(super) fn look_for_units(args: ReloadArgs) {
    if args.restart_units == RestartUnits::Never {
        return;
    }
    tokio::spawn(async move {
        for unit in args.restart_unit {
            let words = [
                "systemctl",
                "show",
                "--property=LoadState",
                "--value",
                &unit.name,
            ];
            let words = words.map(str::to_owned);
            let shown = LocalHost.run(&words, Duration::from_secs(20)).await;
            if shown.is_ok_and(|it| it.stdout.trim_ascii() == b"not-found") {
                let message = "systemd does not know a unit that is to be restarted";
                tell(message, vec![("unit", unit.name)]);
            }
        }
    });
}

/// The executable files in a directory, in the order of names; hidden ones and copies are none.
fn executables(directory: &Path) -> Result<Vec<PathBuf>, String> {
    is_safe(directory)?;
    let failed = |error: std::io::Error| format!("cannot list {}: {error}", directory.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_meant = !name.starts_with('.') && !name.ends_with('~');
        let is_executable =
            std::fs::metadata(&path).is_ok_and(|it| it.is_file() && it.mode() & 0o111 != 0);
        if is_meant && is_executable {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Refuses what others may write to: this process is root as a rule.
fn is_safe(path: &Path) -> Result<Metadata, String> {
    let shown = path.display();
    let found = std::fs::metadata(path).map_err(|error| format!("cannot use {shown}: {error}"))?;
    match found.mode() & 0o022 {
        0 => Ok(found),
        _ => Err(format!(
            "{shown} is not run, because others may write to it: chmod go-w {shown}"
        )),
    }
}

fn shortened(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let text = text.trim();
    match text.char_indices().nth(MOST_OUTPUT) {
        Some((at, _)) => format!("{} …", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Letters of a program's output that go into the log.
const MOST_OUTPUT: usize = 2000;

#[cfg(test)]
mod tests {
    use kubepki::host::LocalHost;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn script(path: &Path, text: &str) {
        let text = format!("#!/bin/sh\n{text}\n");
        file::replace(path, text.as_bytes(), &Attributes::new(0o755)).unwrap();
    }

    fn named(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|it| (*it).to_owned()).collect()
    }

    #[tokio::test]
    async fn what_fails_or_hangs_is_tried_again_and_what_ended_well_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (good, bad, slow) = (at("good"), at("bad"), at("slow"));
        script(&good, &format!("echo \"$@\" >> {}", at("told").display()));
        script(
            &bad,
            &format!("echo no >&2; test -e {}", at("fixed").display()),
        );
        let pid = at("pid");
        script(&slow, &format!("echo $$ > {}; sleep 600", pid.display()));
        let args = ReloadArgs {
            reload_hook: vec![
                format!("{} --all", good.display()),
                bad.display().to_string(),
                slow.display().to_string(),
            ],
            restart_unit: vec![],
            restart_units: RestartUnits::Changed,
            reload_timeout: 4,
        };
        let hooks = Hooks::new(&args, folder.path());
        assert!(!hooks.are_open());
        hooks.foretold(&named(&["etcd"])).unwrap();
        hooks.foretold(&named(&["api-server"])).unwrap();
        // Another process takes it up: nothing is lost with the first.
        let hooks = Hooks::new(&args, folder.path());
        assert!(hooks.are_open());
        let ran = hooks.run(&LocalHost).await;
        let failed: Vec<bool> = ran.iter().map(|it| it.failure.is_some()).collect();
        assert_eq!(failed, [false, true, true]);
        assert_eq!(ran[1].output, "no");
        let told = std::fs::read_to_string(at("told")).unwrap();
        assert_eq!(told, "--all api-server etcd\n");
        let pid = std::fs::read_to_string(pid).unwrap();
        let alive = Path::new("/proc").join(pid.trim()).join("stat");
        let state = std::fs::read_to_string(alive).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z"), "{state}");
        script(&at("fixed"), "");
        script(&slow, "exit 0");
        let ran = hooks.run(&LocalHost).await;
        assert!(ran.len() == 2 && ran.iter().all(|it| it.failure.is_none()));
        assert!(!hooks.are_open() && !folder.path().join("reload.json").exists());
        assert_eq!(std::fs::read_to_string(at("told")).unwrap(), told);
    }

    #[tokio::test]
    async fn a_directory_is_run_in_order_and_not_what_others_may_write() {
        let folder = tempfile::tempdir().unwrap();
        let hooks_dir = folder.path().join("hooks");
        file::make_directory(&hooks_dir, &Attributes::new(0o755)).unwrap();
        let told = folder.path().join("told");
        for name in ["20-b", "10-a", ".hidden", "10-a~"] {
            script(
                &hooks_dir.join(name),
                &format!("echo {name} >> {}", told.display()),
            );
        }
        let args = ReloadArgs {
            reload_hook: vec![hooks_dir.display().to_string()],
            restart_unit: vec![unit("x.service=etcd").unwrap()],
            restart_units: RestartUnits::Changed,
            reload_timeout: 20,
        };
        let hooks = Hooks::new(&args, folder.path());
        // The unit reads nothing of the kubelet.
        hooks.foretold(&named(&["kubelet"])).unwrap();
        assert_eq!(hooks.run(&LocalHost).await.len(), 2);
        assert_eq!(std::fs::read_to_string(&told).unwrap(), "10-a\n20-b\n");
        let open = std::fs::Permissions::from_mode(0o777);
        let opened = std::fs::File::open(hooks_dir.join("10-a")).unwrap();
        opened.set_permissions(open).unwrap();
        hooks.foretold(&named(&["kubelet"])).unwrap();
        let ran = hooks.run(&LocalHost).await;
        assert!(ran[0].failure.as_ref().unwrap().contains("chmod go-w"));
        assert!(hooks.are_open());
        let never = ReloadArgs {
            restart_units: RestartUnits::Never,
            reload_hook: vec![],
            ..args
        };
        let hooks = Hooks::new(&never, folder.path());
        hooks.foretold(&named(&["etcd"])).unwrap();
        assert!(!hooks.are_open());
    }

    #[test]
    fn units_and_services_are_known_or_refused() {
        assert!(unit("nginx.service").unwrap().services.is_empty());
        assert_eq!(unit("a=etcd,kubelet").unwrap().services.len(), 2);
        assert!(unit("a=nothing").unwrap_err().contains("api-server"));
        for odd in ["", "-x", "a b", "=etcd", "a;b"] {
            assert!(unit(odd).is_err(), "{odd}");
        }
        assert!(command("reload").is_err() && command("/bin/true x").is_ok());
    }
}
