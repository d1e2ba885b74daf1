//! `history`: what was planned, done, interrupted and taken back.

use std::fmt::Write as _;

use kubepki::apply::{Past, Standing, history};
use kubepki::plan::{Plan, PlanId};
use kubepki::state::{StateDir, StateError};
use serde_json::json;

use super::change::{lock, print_plan, span};
use crate::args::{HistoryArgs, PlanFormat};
use crate::error::{CliError, Exit};
use crate::output;
use crate::rke::{self, RkeCluster, forget, reach};
use crate::world::{Node, World};

/// `kubepki history`.
///
/// # Errors
///
/// When the state directory cannot be read.
pub async fn run(args: &HistoryArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let cluster = match rke::chosen(&args.cluster, &args.site)? {
        Some(config) => Some(RkeCluster::open(&world, &config, &args.site).await?),
        None => None,
    };
    if let (Some(cluster), Some(id)) = (&cluster, &args.forget) {
        return forget_cluster(&world, cluster, id, args).await;
    }
    let state = match cluster {
        Some(cluster) => cluster.state_dir,
        None => Node::open(&world, &args.site, None, None).await?.state,
    };
    if let Some(id) = &args.forget {
        agree(&state, id, "", args.yes)?;
        let id = PlanId(id.clone());
        lock(&state)?.forget(&id)?;
        output::talk(&format!("{id} is forgotten."));
        return Ok(Exit::Fine);
    }
    if let Some(id) = &args.id {
        let plan = state.load_plan(&PlanId(id.clone()))?;
        print_plan(&plan, None, args.output)?;
        return Ok(Exit::Fine);
    }
    let past = history(&state)?;
    let holder = state.holder()?;
    match args.output {
        PlanFormat::Text if past.is_empty() => output::talk("Nothing was planned here yet."),
        PlanFormat::Text => {
            let lines = past.iter().map(|past| line(past, holder));
            output::data(&lines.collect::<String>())?;
        }
        PlanFormat::Json => {
            let list: Vec<_> = past.iter().map(|past| as_json(past, holder)).collect();
            output::data(&(serde_json::to_string_pretty(&list)? + "\n"))?;
        }
    }
    Ok(Exit::Fine)
}

/// Of a cluster's plan the hosts have old keys, too.
async fn forget_cluster(
    world: &World,
    cluster: &RkeCluster,
    id: &str,
    args: &HistoryArgs,
) -> Result<Exit, CliError> {
    let plan = agree(
        &cluster.state_dir,
        id,
        " and the old files that hosts keep for it",
        args.yes,
    )?;
    let id = PlanId(id.to_owned());
    let hosts = forget::keepers(cluster, &id, plan.as_ref());
    let state = lock(&cluster.state_dir)?;
    if hosts.is_empty() {
        state.forget(&id)?;
        output::talk(&format!("{id} is forgotten."));
        return Ok(Exit::Fine);
    }
    forget::refuse_beside(cluster, &id)?;
    // What can be wrong here is found before the plan is gone, and with it who keeps what.
    let machines = reach::machines(cluster, &args.cluster.ssh, reach::told())?;
    let owner = state.owner(&world.entropy)?;
    state.forget(&id)?;
    let exit = forget::on_hosts(&machines, &owner, &id, hosts).await;
    output::talk(&format!("{id} is forgotten."));
    Ok(exit)
}

/// Asks whether a plan shall be forgotten; the plan, if it can be read.
fn agree(state: &StateDir, id: &str, more: &str, yes: bool) -> Result<Option<Plan>, CliError> {
    let id = PlanId(id.to_owned());
    let plan = match state.load_plan(&id) {
        Ok(plan) => Some(plan),
        Err(error @ (StateError::NoPlan { .. } | StateError::Name { .. })) => {
            return Err(error.into());
        }
        Err(_) => None,
    };
    let title = plan
        .as_ref()
        .map_or("which cannot be read", |it| it.title.as_str());
    let question =
        format!("Forget {id} ({title}) with its backups{more}? It cannot be undone afterwards.");
    output::confirm(&question, yes)?;
    Ok(plan)
}

/// The process that holds the lock, as far as it says who it is.
type Holder = Option<Option<u32>>;

fn line(past: &Past, holder: Holder) -> String {
    let when = past
        .created
        .map_or_else(|| "?".to_owned(), |at| at.to_string());
    let mut text = format!("{when}  {}  {}  {} steps", past.id, past.title, past.steps);
    let _ = writeln!(text, "  {}", standing(past, holder));
    text
}

fn standing(past: &Past, holder: Holder) -> String {
    match (&past.standing, &past.undone_by) {
        (Standing::Interrupted { step, .. }, _) if holder.is_some() => {
            let who = holder
                .flatten()
                .map_or_else(String::new, |pid| format!(" (process {pid})"));
            format!("at work{who}: step {step}")
        }
        (Standing::Finished, Some(by)) => format!("done, taken back by {by}"),
        (Standing::Finished, None) => "done".to_owned(),
        (Standing::Planned, _) => "planned".to_owned(),
        (Standing::Abandoned, _) => "given up".to_owned(),
        (Standing::Superseded { by }, _) => format!("done in part, then {by} came"),
        (Standing::PutOff { open }, _) => {
            let runs = open.chunk_by(|(one, _), (next, _)| one.checked_add(1) == Some(*next));
            let steps: Vec<String> = runs.map(span).collect();
            format!("done but for steps {}: kubepki resume", steps.join(", "))
        }
        (Standing::Unreadable(why), _) => format!("cannot be read: {why}"),
        (
            Standing::Interrupted {
                step,
                waiting: true,
                ..
            },
            _,
        ) => {
            format!("waits at step {step}: kubepki resume")
        }
        (Standing::Interrupted { step, failure, .. }, _) => {
            let why = failure
                .as_ref()
                .map_or_else(String::new, |why| format!(" ({why})"));
            let place = match usize::try_from(*step) {
                Ok(step) if step > past.steps => "after its last step".to_owned(),
                _ => format!("at step {step}"),
            };
            format!("interrupted {place}{why}: kubepki resume, or kubepki undo")
        }
    }
}

fn as_json(past: &Past, holder: Holder) -> serde_json::Value {
    json!({
        "id": past.id.to_string(),
        "title": past.title,
        "created": past.created.map(|at| at.to_string()),
        "last": past.last.map(|at| at.to_string()),
        "steps": past.steps,
        "undoes": past.undoes.as_ref().map(ToString::to_string),
        "undoneBy": past.undone_by.as_ref().map(ToString::to_string),
        "standing": standing(past, holder),
    })
}
