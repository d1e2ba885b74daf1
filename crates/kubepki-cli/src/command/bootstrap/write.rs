//! `bootstrap extract` and `bootstrap restore`.

use std::path::{Path, PathBuf};

use kubepki::apply::plan_id;
use kubepki::bootstrap::{
    Bundle, Candidates, Disk, Extraction, KEY_PREFIX, LocateError, Opened, Passphrase, Restoration,
    RestoreError, Source, compare, damaged, locate, plan_extract, plan_restore,
};
use kubepki::init::make_data_dir;
use kubepki::reconcile::{Keep, ReconcileError, decide};
use kubepki::state::StateDir;

use super::{ExtractArgs, RestoreArgs, disk};
use crate::command::prepared::{Prepared, RESTART_TIMEOUT, carry_out};
use crate::datastore::{
    Access, Ours, candidates, find, open, reached, refuse_living, snapshot, unopened,
};
use crate::error::{CliError, Exit};
use crate::k3s::{Settings, running_in};
use crate::output;
use crate::world::{World, resolved, state_dir};

/// `kubepki bootstrap extract`.
pub(super) async fn extract(world: &World, args: &ExtractArgs) -> Result<Exit, CliError> {
    let settings = Settings::load(&world.host, &args.site).await?;
    let (disk, root, state) = match &args.to {
        Some(to) => elsewhere(world, args, &settings, to).await?,
        None => {
            let data_dir = std::path::absolute(&settings.data_dir)?;
            let state = state_dir(&args.site, &data_dir);
            (disk(world, &settings).await?, data_dir, state)
        }
    };
    super::super::change::refuse_unfinished(&state)?;
    let found = find(&world.host, &args.datastore, &settings, Access::Read).await?;
    let keep = args.keep.map(|_| Keep::Datastore);
    let comparison = compare(&found.opened.bundle, &disk);
    decide(&comparison, keep, false, &disk.server).map_err(newer)?;
    if args.to.is_none()
        && let Some(process) = running_in(&settings.data_dir, &settings.configured)
    {
        output::talk(&format!(
            "K3s is running on this node ({} {}): it takes the files up when it is restarted.",
            process.name, process.pid
        ));
    }
    let id = plan_id(world.now(), "extract", &world.entropy)?;
    let (mut plan, staged) = plan_extract(&Extraction {
        id: &id,
        bundle: &found.opened.bundle,
        disk: &disk,
        root: &root,
        node: "this server",
        now: world.now(),
    });
    plan.notes.extend(found.opened.notes.iter().cloned());
    let prepared = Prepared {
        plan,
        staged,
        state,
        cluster: None,
        question: "Write the CA keys",
        supervisor: None,
        restart_timeout: RESTART_TIMEOUT,
        closing: "K3s takes the files up at its next start.".to_owned(),
    };
    // The plan's own steps make the target, with K3s's mode.
    let above = match &args.to {
        Some(_) => root.parent().unwrap_or(&root).to_owned(),
        None => root,
    };
    let make = make_data_dir(&world.host, &above);
    carry_out(world, prepared, &args.ask, Some(make)).await
}

/// A directory that is no server's: looked at, with the place of its journal.
async fn elsewhere(
    world: &World,
    args: &ExtractArgs,
    settings: &Settings,
    to: &Path,
) -> Result<(Disk, PathBuf, StateDir), CliError> {
    let to = std::path::absolute(resolved(to))?;
    let live = settings.data_dir.join("server");
    if to.starts_with(&live) || live.starts_with(&to) {
        return Err(CliError::refused(format!(
            "{} is the server's own directory, or holds it: leave --to out to write there",
            to.display()
        )));
    }
    let disk = Disk::look(&world.host, &to).await?;
    if let Some((link, target)) = disk.links.iter().find(|(link, _)| *link != to) {
        return Err(CliError::refused(format!(
            "{} is a link to {}: CA keys are not written through it",
            link.display(),
            target.display()
        )));
    }
    let state = match &args.site.state_dir {
        Some(path) => StateDir::new(path.clone()),
        None => {
            let mut name = to.clone().into_os_string();
            name.push(".kubepki");
            StateDir::new(PathBuf::from(name))
        }
    };
    Ok((disk, to, state))
}

fn newer(error: ReconcileError) -> CliError {
    CliError::refused(error.to_string())
}

/// `kubepki bootstrap restore`.
pub(super) async fn restore(world: &World, args: &RestoreArgs) -> Result<Exit, CliError> {
    let settings = Settings::load(&world.host, &args.site).await?;
    let data_dir = std::path::absolute(&settings.data_dir)?;
    let state = state_dir(&args.site, &data_dir);
    super::super::change::refuse_unfinished(&state)?;
    let host = &world.host;
    let candidates = candidates(host, &args.datastore.endpoint, &settings).await?;
    let connected = open(host, &args.datastore.endpoint, &settings, Access::Read).await?;
    connected.refuse_read_only()?;
    let records = connected.store.list(KEY_PREFIX).await.map_err(reached)?;
    let opened = match locate(&records, &candidates) {
        Ok(opened) => Some(opened),
        Err(LocateError::NoData) => None,
        Err(error) => match damaged(&records, &candidates, &error) {
            Some(opened) => Some(opened),
            None => return Err(unopened(&connected, &error)),
        },
    };
    let (bundle, from_snapshot): (Bundle, Option<Opened>) = match &args.datastore.snapshot {
        Some(path) => {
            let kept = snapshot(path, Access::Read).await?;
            let kept = crate::datastore::read(&kept, &candidates).await?;
            (kept.bundle.clone(), Some(kept))
        }
        None => (disk(world, &settings).await?.bundle, None),
    };
    let owner = owner(opened.as_ref().or(from_snapshot.as_ref()), &candidates)?;
    let server = data_dir.join("server");
    let id = plan_id(world.now(), "restore", &world.entropy)?;
    let (plan, staged) = plan_restore(&Restoration {
        id: &id,
        opened: opened.as_ref(),
        source: match &args.datastore.snapshot {
            Some(path) => Source::Snapshot(path),
            None => Source::Disk(&server),
        },
        bundle: &bundle,
        owner: &owner,
        datastore: &connected.place,
        root: &data_dir,
        node: "this server",
        now: world.now(),
        entropy: &world.entropy,
    })
    .map_err(refused)?;
    if !plan.steps.is_empty() {
        refuse_living(
            &connected,
            &args.datastore.endpoint,
            &settings,
            &Ours::Refused,
        )
        .await?;
    }
    let prepared = Prepared {
        plan,
        staged,
        state,
        cluster: Some((connected, candidates)),
        question: "Write the datastore",
        supervisor: None,
        restart_timeout: RESTART_TIMEOUT,
        closing: "Servers take the data up at their next start.".to_owned(),
    };
    carry_out(world, prepared, &args.ask, None::<NoFuture>).await
}

/// The token that the data are encrypted with: that of present ones, else the first at hand.
fn owner(present: Option<&Opened>, candidates: &Candidates) -> Result<Passphrase, CliError> {
    let at_hand = || candidates.first().map(|it| it.owner.clone());
    let owner = present.map(|it| it.owner.clone()).or_else(at_hand);
    owner.ok_or_else(|| {
        CliError::usage("no token is known to encrypt the data with: name a file with --token-file")
    })
}

type NoFuture = std::future::Ready<Result<(), kubepki::host::HostError>>;

fn refused(error: RestoreError) -> CliError {
    match &error {
        RestoreError::NotWhole { .. } | RestoreError::OtherPassword { .. } => {
            CliError::refused(error.to_string())
        }
        RestoreError::Seal(_) => CliError::failed(&error),
    }
}
