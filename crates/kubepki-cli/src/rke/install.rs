//! `custom-certs install`: what a company's CA signed, put in force.

use kubepki::apply::plan_id;
use kubepki::host::{Entry, Host as _};
use kubepki::rke::custom::CustomSet;
use kubepki::rke::rotate::{Options, Request, RotateError, Switch, install};
use kubepki::rke::{Rotation, names};
use zeroize::Zeroizing;

use super::rotate::{api_away, look, options};
use super::{RkeCluster, Session, reach};
use crate::command::change::refuse_unfinished;
use crate::command::custom_certs::{InstallArgs, judge, verdict_text};
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::World;

/// Runs it.
///
/// # Errors
///
/// When the certificates cannot be installed, a host does not answer, or the plan cannot be
/// carried out.
pub async fn run(args: &InstallArgs, world: &World) -> Result<Exit, CliError> {
    let cluster = RkeCluster::open(world, &args.place.which.cluster, &args.kept.site()).await?;
    let done = install_on(&cluster, args, world).await;
    done.map_err(|error| cluster.named(error))
}

async fn install_on(
    cluster: &RkeCluster,
    args: &InstallArgs,
    world: &World,
) -> Result<Exit, CliError> {
    refuse_unfinished(&cluster.state_dir)?;
    let state = cluster.state()?;
    let verdict = judge(world, cluster, &args.place, world.now()).await?;
    let text = verdict_text(&verdict);
    let Some(set) = verdict.set else {
        output::talk(&text);
        return Err(CliError::refused(
            "the certificates are refused, and nothing was changed",
        ));
    };
    if !verdict.findings.is_empty() {
        output::talk(&text);
    }
    let admin_key = admin_key(world, &set).await?;
    let machines = reach::machines(cluster, &args.ssh, reach::told())?;
    let survey = look(world, cluster, &machines).await;
    let id = plan_id(world.now(), "install", &world.entropy)?;
    // Another CA needs the API: pods have to read it before anything is shown that it signed.
    let request = Request {
        id: &id,
        rotation: &Rotation::All,
        options: &Options {
            api_away: set.entries.contains_key(names::KUBE_CA)
                && api_away(world, cluster, &machines).await,
            ..options(&args.rollout, Switch::Cross, args.keep_old)
        },
        site: &cluster.site,
        state,
        config: &cluster.config,
        survey: &survey,
        now: world.now(),
        entropy: &world.entropy,
        keys: &world.keys,
    };
    let admin_key = admin_key.as_deref().map(String::as_str);
    let (plan, staged) = match install(&request, &set, admin_key) {
        Err(RotateError::Same) => {
            output::talk("These certificates are in force already: nothing to do.");
            return Ok(Exit::Fine);
        }
        planned => planned.map_err(|error| CliError::from_rotation(&error))?,
    };
    Session::new(world, cluster, &machines, args.restart_timeout)
        .carry_out(plan, &staged, &args.ask)
        .await
}

/// The administrator's key, which the kubeconfig inlines.
async fn admin_key(world: &World, set: &CustomSet) -> Result<Option<Zeroizing<String>>, CliError> {
    let admin = set.entries.get(names::KUBE_ADMIN);
    let Some(file) = admin.and_then(|entry| entry.key.as_ref()) else {
        return Ok(None);
    };
    let entry = world.host.read(&file.path).await?;
    let bytes = entry.as_ref().and_then(Entry::bytes).unwrap_or_default();
    if pki::sha256(bytes).to_string() != file.sha256 {
        return Err(CliError::refused(format!(
            "{} has changed while it was looked at",
            file.path.display()
        )));
    }
    let text = String::from_utf8(bytes.to_vec())
        .map_err(|_| CliError::message(format!("{} is not PEM", file.path.display())))?;
    Ok(Some(Zeroizing::new(text)))
}
