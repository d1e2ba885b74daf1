//! `kubepki k3s certificate rotate-ca`: the set goes to the running server, as K3s sends it.

use std::path::{Path, PathBuf};

use kubepki::apply::{Aftermath, ApplyError, Executor, Outcome, Patience, Quiet, plan_id};
use kubepki::bootstrap::{Bundle, Disk, Field};
use kubepki::ca::rotate::{Request, Restarts, Tokens, Way, plan_rotate_ca};
use kubepki::ca::verify::{Intent, Places, Question, Stamps, Verdict, verify};
use kubepki::check::Severity;
use kubepki::dropin::{Level, Line};
use kubepki::init::{Staged, stage};
use kubepki::plan::{Plan, show};
use pki::UnixTime;

use super::args::{CommonArgs, RotateCaArgs};
use super::log::Log;
use crate::args::{NameArgs, SiteArgs};
use crate::command::change::refuse_unfinished;
use crate::command::{reconcile, rotate_ca};
use crate::datastore::supervisor;
use crate::error::CliError;
use crate::k3s::Settings;
use crate::output;
use crate::syslog;
use crate::world::{Node, World};

/// Checks the set, says what it does to whom, and hands it over at once. The last word of K3s's
/// check is the server's own.
///
/// # Errors
///
/// In K3s's words where K3s has some.
pub async fn run(args: &RotateCaArgs, world: &World, log: &mut Log) -> Result<(), CliError> {
    let now = super::now(world)?.second();
    let layout = super::layout(&common(args), world).await?;
    let site = site_of(layout.root());
    let path = PathBuf::from(&args.path);
    let node = Node::open(world, &site, None, None).await?;
    refuse_unfinished(&node.state)?;
    let server = node.inventory.site.server();
    // K3s talks to the server before it reads the set.
    let supervisor = supervisor(&world.host, &server, &args.server, now).await?;
    let staged = rotate_ca::staged(world, &path, &node.inventory.site.data_dir).await?;
    let disk = Disk::look(&world.host, &server).await?;
    not_there(&path, log, now);
    let verdict = verify(&Question {
        old: Some(&disk.bundle),
        new: &staged,
        now,
        on_date: now,
        release: node.inventory.release,
        intent: Intent::Ordinary,
        stamps: Stamps::Now,
        places: Places {
            old: server,
            new: path,
        },
    });
    refuse(&verdict, args.force)?;
    warn(&verdict, log, now);
    let set = Set {
        staged: &staged,
        disk: &disk,
        verdict,
        url: &args.server,
        force: args.force,
        now,
    };
    let (plan, secrets) = set.plan(world, &site).await?;
    output::talk(&show(&plan, None));
    let state = node.state.lock()?;
    state.drop_unbegun()?;
    stage(&state, &plan.id, &secrets)?;
    let executor = Executor {
        observer: &Quiet,
        patience: Patience::default(),
        caller: Some(&supervisor),
        machines: None,
        kubernetes: None,
        ..world.executor(&state)
    };
    match executor.apply(&plan).await {
        Ok(Outcome::Finished { .. }) => {
            let _ = state.prune(now);
            log.data("certificates saved to datastore\n")
        }
        Ok(Outcome::Waiting { instruction, .. }) => Err(CliError::message(instruction)),
        Ok(Outcome::Partly { open, .. }) => Err(CliError::message(
            crate::command::change::put_off_text(&open),
        )),
        Err(error) => {
            if error.aftermath() != Aftermath::Interrupted {
                state.drop_staging(&plan.id)?;
            }
            Err(not_done(&error))
        }
    }
}

/// The node of a data directory, of which nothing else was said.
fn site_of(data_dir: &Path) -> SiteArgs {
    SiteArgs {
        data_dir: Some(data_dir.to_owned()),
        k3s_config: None,
        kubeconfig: None,
        state_dir: None,
        k3s_version: None,
    }
}

fn not_done(error: &ApplyError) -> CliError {
    let error = kubepki::error_chain(error);
    CliError::message(format!("see server log for details: {error}"))
}

/// A set that K3s takes, or is told to take.
struct Set<'a> {
    staged: &'a Bundle,
    disk: &'a Disk,
    verdict: Verdict,
    url: &'a str,
    force: bool,
    now: UnixTime,
}

impl Set<'_> {
    async fn plan(self, world: &World, site: &SiteArgs) -> Result<(Plan, Vec<Staged>), CliError> {
        let settings = Settings::load(&world.host, site).await?;
        let names = NameArgs {
            tls_san: Vec::new(),
            tls_san_drop: Vec::new(),
            node_name: None,
            node_ip: Vec::new(),
            node_external_ip: Vec::new(),
        };
        let described = reconcile::described(&names, site);
        let (spec, survey) = reconcile::look(world, &described, &settings).await?;
        let id = plan_id(self.now, "rotate-ca", &world.entropy)?;
        let mut verdict = self.verdict;
        // K3s's verdict decides here; ours was said.
        for finding in &mut verdict.findings {
            finding.severity = finding.severity.min(Severity::Warning);
        }
        Ok(plan_rotate_ca(Request {
            id: &id,
            verdict: &verdict,
            staged: self.staged,
            way: Way::Through { url: self.url },
            disk: self.disk,
            spec: &spec,
            survey,
            intent: Intent::Ordinary,
            force: self.force,
            fleet: None,
            tokens: Tokens::Stay,
            exposures: &[],
            copies: &[],
            restarts: Restarts::default(),
            now: self.now,
            entropy: &world.entropy,
            keys: &world.keys,
        })?)
    }
}

/// K3s would refuse: its words, here and in the system log, and nothing is sent. One that is too
/// old to be asked at all is not.
fn refuse(verdict: &Verdict, force: bool) -> Result<(), CliError> {
    if let Some(message) = too_old(verdict) {
        syslog::error(&format!(
            "rotate-ca refused, nothing was changed: {message}"
        ));
        return Err(CliError::message(message));
    }
    if force || verdict.k3s_accepts() {
        return Ok(());
    }
    let message = verdict.k3s_message();
    syslog::error(&format!(
        "rotate-ca refused, nothing was changed: {message}"
    ));
    Err(CliError::message(format!(
        "failed to validate new CA certificates and keys: {message}"
    )))
}

/// What is the matter with a K3s that has no rotate-ca.
fn too_old(verdict: &Verdict) -> Option<String> {
    let old = verdict.findings.iter().find(|it| it.rule == "release")?;
    Some(format!("{} {}: upgrade K3s first", old.field, old.message))
}

/// What K3s does not look at.
fn warn(verdict: &Verdict, log: &mut Log, now: UnixTime) {
    if !verdict.k3s_accepts() {
        let message = verdict.k3s_message();
        let text = format!(
            "Save of CA certificates and keys forced, ignoring validation errors: {message}"
        );
        log.line(&Line::new(Level::Warning, text), now);
    }
    for finding in verdict.refusals() {
        let text = format!("{} {}", finding.field, finding.message);
        log.line(&Line::new(Level::Warning, text), now);
    }
}

/// K3s's warning for each file that is not staged.
fn not_there(path: &Path, log: &mut Log, now: UnixTime) {
    for field in Field::ALL.into_iter().filter(|field| field.is_rotatable()) {
        let file = field.under(path);
        if !file.exists() {
            let text = format!(
                "failed to stat {field}: stat {}: no such file or directory",
                file.display()
            );
            log.line(&Line::new(Level::Warning, text), now);
        }
    }
}

/// The flags that this command shares with the others; it has no more of them.
pub fn common(args: &RotateCaArgs) -> CommonArgs {
    CommonArgs {
        debug: false,
        config: None,
        log: None,
        alsologtostderr: false,
        data_dir: args.data_dir.clone(),
        service: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use kubepki::inventory::DetectedRelease;

    use super::*;

    #[test]
    fn a_k3s_without_rotate_ca_is_not_asked() {
        let told = |release: &str| {
            let set = Bundle::default();
            let now = UnixTime::from_secs(1_795_332_720);
            let release = release.parse().map(DetectedRelease::Known);
            too_old(&verify(&Question {
                old: Some(&set),
                new: &set,
                now,
                on_date: now,
                release: release.unwrap_or(DetectedRelease::Unknown),
                intent: Intent::Ordinary,
                stamps: Stamps::Now,
                places: Places {
                    old: PathBuf::from("/live"),
                    new: PathBuf::from("/staged"),
                },
            }))
        };
        let message = told("v1.26.1+k3s1").unwrap_or_default();
        assert!(
            message.contains("K3s v1.26.1 has no rotate-ca; v1.26.2, v1.25.7"),
            "{message}"
        );
        assert_eq!(told("v1.26.2"), None);
        assert_eq!(told(""), None);
    }
}
