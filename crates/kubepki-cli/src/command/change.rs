//! Printing a plan, asking, carrying it out; `apply`, `undo`, `resume`.

use std::fmt::Write as _;

use kubepki::apply::{
    Aftermath, ApplyError, Executor, Outcome, Standing, put_off, refuse_unreadable, stopped,
    unfinished,
};
use kubepki::inventory::{Inventory, Role};
use kubepki::plan::{self, Plan, PlanId};
use kubepki::state::{Locked, StateDir, StateError};

use super::rotate_ca::instead_of_undo;
use super::serve::is_own;
use crate::args::{ApplyArgs, ChangeArgs, PlanFormat, ResumeArgs, SiteArgs, UndoArgs};
use crate::datastore::{EndpointArgs, Reach};
use crate::error::{CliError, Exit};
use crate::k3s::running;
use crate::output;
use crate::restart;
use crate::world::{Node, World};

/// `kubepki apply ID`.
///
/// # Errors
///
/// When the plan does not exist, is stale, or fails.
pub async fn apply(args: &ApplyArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let node = Node::open(&world, &args.site, None, None).await?;
    refuse_unfinished(&node.state)?;
    announce_running(&node);
    let plan = node.state.load_plan(&PlanId(args.id.clone()))?;
    let reach = reach(&world, &args.endpoint, &args.site, &plan, 1).await?;
    carry_out_with(&world, &node, plan, &args.change, reach).await
}

/// `kubepki undo [ID]`.
///
/// # Errors
///
/// When there is nothing to take back, or something has changed since.
pub async fn undo(args: &UndoArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let node = Node::open(&world, &args.site, None, None).await?;
    announce_running(&node);
    refuse_unreadable(&node.state).map_err(failed)?;
    let id = match &args.id {
        Some(id) => PlanId(id.clone()),
        None => last_done(&node.state)?,
    };
    let undone = node.state.load_plan(&id)?;
    let reach = reach(&world, &args.endpoint, &args.site, &undone, 1).await?;
    let undo = {
        let state = lock(&node.state)?;
        let executor = Executor {
            cluster: reach.cluster(),
            caller: reach.caller(),
            machines: None,
            kubernetes: None,
            ..world.executor(&state)
        };
        executor.undo(&id).await
    };
    let undo = match undo {
        Ok(undo) => undo,
        Err(error) => {
            let advice = match error {
                ApplyError::Stale { .. } => instead_of_undo(&world, &node, &id).await,
                _ => None,
            };
            let refused = failed(error);
            return Err(match advice {
                Some(advice) => refused.hint(advice),
                None => refused,
            });
        }
    };
    carry_out_with(&world, &node, undo, &args.change, reach).await
}

/// `kubepki resume [ID]`.
///
/// # Errors
///
/// When nothing is interrupted, or the step in flight was changed by somebody else.
pub async fn resume(args: &ResumeArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let node = Node::open(&world, &args.site, None, None).await?;
    let open = unfinished(&node.state)?;
    let open = open.map_or_else(|| put_off(&node.state), |past| Ok(Some(past)))?;
    let id = match (&args.id, open) {
        (Some(id), _) => PlanId(id.clone()),
        (None, Some(past)) => past.id,
        (None, None) => {
            tidy(&node.state);
            output::talk("Nothing is interrupted.");
            return Ok(Exit::Fine);
        }
    };
    let plan = node.state.load_plan(&id)?;
    // Once a server is started again, what is left to do needs no datastore.
    let past = kubepki::apply::history(&node.state)?
        .into_iter()
        .find(|past| past.id == id);
    // No datastore is asked for what is over.
    if let Some(by) = past.as_ref().and_then(|past| past.undone_by.clone()) {
        return Err(failed(ApplyError::Undone { plan: id, by }));
    }
    let from = match past.map(|past| past.standing) {
        Some(Standing::Interrupted { step, .. }) => step,
        _ => 1,
    };
    let reach = reach(&world, &args.endpoint, &args.site, &plan, from).await?;
    let reach = reach.for_writing().await?;
    let state = lock(&node.state)?;
    output::talk(&format!("Going on with {id}: {}", plan.title));
    let executor = Executor {
        cluster: reach.cluster(),
        caller: reach.caller(),
        machines: None,
        kubernetes: None,
        ..world.patient_executor(&state, args.restart_timeout)
    };
    let outcome = executor.resume(&id).await;
    if outcome.is_err() {
        announce_stopped(&state, &plan);
    }
    finish(&world, &state, &node, &plan, outcome.map_err(failed)?)
}

/// Removes what a plan had staged whose process was killed after its last line and before its end,
/// or before its first line: new tokens and keys lie there. Whoever holds the lock does so too.
fn tidy(state: &StateDir) {
    if !state.path().is_dir() {
        return;
    }
    if let Ok(locked) = state.lock()
        && let Err(error) = locked
            .drop_finished_staging()
            .and_then(|()| locked.drop_unbegun())
    {
        output::talk(&format!("Note: {}", kubepki::error_chain(&error)));
    }
}

/// Prints the plan, asks, and carries it out.
///
/// # Errors
///
/// A refusal by the operator or by a stale plan; a failure on the way.
pub async fn carry_out(
    world: &World,
    node: &Node,
    plan: Plan,
    change: &ChangeArgs,
) -> Result<Exit, CliError> {
    carry_out_with(world, node, plan, change, Reach::default()).await
}

async fn reach(
    world: &World,
    endpoint: &EndpointArgs,
    site: &SiteArgs,
    plan: &Plan,
    from: u32,
) -> Result<Reach, CliError> {
    Reach::of_plan(&world.host, endpoint, site, plan, from, world.now()).await
}

/// The same for a plan that writes the datastore, with `reach` to it.
async fn carry_out_with(
    world: &World,
    node: &Node,
    mut plan: Plan,
    change: &ChangeArgs,
    reach: Reach,
) -> Result<Exit, CliError> {
    if change.restart.restart || change.restart.restart_command.is_some() {
        restart::add(
            &mut plan,
            &node.inventory,
            change.restart.restart_command.as_deref(),
        )?;
    }
    print_plan(&plan, Some(&node.inventory), change.ask.output)?;
    // An undo without steps still gives up the plan that was interrupted before its first change.
    if plan.steps.is_empty() && plan.undoes.is_none() {
        output::talk("Nothing to do.");
        return Ok(Exit::Fine);
    }
    if change.ask.dry_run {
        output::talk("Dry run: nothing was changed.");
        return Ok(Exit::Fine);
    }
    let question = match plan.steps.len() {
        0 => "Nothing was changed yet. Give the interrupted plan up?".to_owned(),
        steps => format!("Carry out these {steps} steps?"),
    };
    output::confirm(&question, change.ask.yes)?;
    let state = lock(&node.state)?;
    let reach = reach.for_writing().await?;
    let executor = Executor {
        cluster: reach.cluster(),
        caller: reach.caller(),
        machines: None,
        kubernetes: None,
        ..world.patient_executor(&state, change.restart.restart_timeout)
    };
    let outcome = executor.apply(&plan).await.map_err(failed)?;
    finish(world, &state, node, &plan, outcome)
}

/// Takes the state directory's lock.
///
/// # Errors
///
/// A refusal while another process holds it; a failure when it cannot be used.
pub fn lock(state: &StateDir) -> Result<Locked, CliError> {
    state.lock().map_err(|error| match error {
        StateError::Locked { .. } => CliError::refused(error.to_string()),
        other => other.into(),
    })
}

/// Prints a plan as data.
///
/// # Errors
///
/// When stdout cannot be written.
pub fn print_plan(
    plan: &Plan,
    inventory: Option<&Inventory>,
    format: PlanFormat,
) -> Result<(), CliError> {
    let text = match format {
        PlanFormat::Text => output::harmless(&plan::show(plan, inventory)).into_owned(),
        PlanFormat::Json => serde_json::to_string_pretty(plan)? + "\n",
    };
    output::data(&text)
}

/// Says first that K3s runs, if it does: files change under it.
pub fn announce_running(node: &Node) {
    if let Some(process) = running(&node.inventory.site, &node.configured) {
        output::talk(&format!(
            "K3s is running on this node ({} {}): it keeps its old certificates until restarted.",
            process.name, process.pid
        ));
    }
}

/// Says that K3s is down, where a plan was interrupted between its stop and its start.
pub fn announce_stopped(state: &StateDir, plan: &Plan) {
    let replay = state.journal(&plan.id).ok();
    let replay = replay.and_then(|journal| kubepki::journal::replay(&journal.entries).ok());
    if let Some(replay) = replay
        && let Some((step, plan::Target::Unit { name, .. })) = stopped(plan, &replay)
    {
        output::talk(&format!(
            "{name} is stopped until step {} starts it.",
            step.number
        ));
    }
}

/// Before anything new: a crash must be settled.
///
/// # Errors
///
/// With exit code 6 while a plan is interrupted, 5 while another process is at work or a plan of
/// the past cannot be read.
pub fn refuse_unfinished(state: &StateDir) -> Result<(), CliError> {
    refuse_unreadable(state).map_err(failed)?;
    match unfinished(state)? {
        None => Ok(()),
        // Not interrupted but at work: the lock says so, and by whom.
        Some(_) if state.holder()?.is_some() => lock(state).map(drop),
        Some(past) => Err(CliError {
            exit: Exit::Interrupted,
            message: format!("{} ({}) was interrupted", past.id, past.title),
            hint: Some(INTERRUPTED.to_owned()),
        }),
    }
}

pub fn last_done(state: &StateDir) -> Result<PlanId, CliError> {
    if let Some(past) = unfinished(state)? {
        return Ok(past.id);
    }
    // The last one done, which need not be the last one made.
    kubepki::apply::history(state)?
        .into_iter()
        .filter(|past| {
            past.standing == kubepki::apply::Standing::Finished
                && past.undone_by.is_none()
                && past.undoes.is_none()
        })
        .max_by_key(|past| (past.last, state.journal_modified(&past.id)))
        .map(|past| past.id)
        .ok_or_else(|| CliError::message("there is nothing to take back; see `kubepki history`"))
}

/// What to do about a plan that is half done.
pub const INTERRUPTED: &str = "run `kubepki resume` to go on or `kubepki undo` to take it back";

pub fn failed(error: ApplyError) -> CliError {
    let (exit, hint) = match error.aftermath() {
        Aftermath::Unchanged => (Exit::Failed, None),
        Aftermath::Refused => (Exit::Refused, None),
        Aftermath::Interrupted => (Exit::Interrupted, Some(INTERRUPTED.to_owned())),
    };
    CliError {
        hint,
        ..CliError {
            exit,
            ..CliError::failed(&error)
        }
    }
}

fn finish(
    world: &World,
    state: &kubepki::state::Locked,
    node: &Node,
    plan: &Plan,
    outcome: Outcome,
) -> Result<Exit, CliError> {
    match outcome {
        Outcome::Finished { untidy, .. } => {
            if let Some(untidy) = untidy {
                output::talk(&format!("Note: {untidy}"));
            }
            // Old backups go only once new ones are safe.
            if let Err(error) = state.prune(world.now()) {
                output::talk(&format!("Note: old plans were kept: {error}"));
            }
            output::talk(&closing(plan, node));
            Ok(Exit::Fine)
        }
        Outcome::Waiting {
            step,
            instruction,
            unmet,
        } => {
            let mut text = format!("Step {step} waits for you: {instruction}");
            for unmet in unmet {
                let _ = write!(text, "\n  not yet: {unmet}");
            }
            text.push_str("\nThen run `kubepki resume`.");
            output::talk(&text);
            Ok(Exit::Partial)
        }
        Outcome::Partly { open, .. } => {
            output::talk(&put_off_text(&open));
            Ok(Exit::Partial)
        }
    }
}

/// Which steps are open, and what to do about them.
pub fn put_off_text(open: &[(u32, String)]) -> String {
    let mut text = "Done, except for what cannot be reached:".to_owned();
    // What waits for the same is told of together.
    let alike = |(step, one): &(u32, String), (next, other): &(u32, String)| {
        one == other && step.checked_add(1) == Some(*next)
    };
    for alike in open.chunk_by(alike) {
        let word = if alike.len() > 1 { "steps" } else { "step" };
        let reason = alike.first().map_or("", |(_, reason)| reason);
        let _ = write!(text, "\n  {word} {}: {reason}", span(alike));
    }
    text.push_str("\nRun `kubepki resume` when it can.");
    text
}

/// The numbers of steps that follow one another: `7`, or `16-30`.
pub fn span(run: &[(u32, String)]) -> String {
    match run {
        [(first, _), .., (last, _)] => format!("{first}-{last}"),
        [(only, _)] => only.to_string(),
        [] => String::new(),
    }
}

/// What the operator has to do now.
fn closing(plan: &Plan, node: &Node) -> String {
    let mut text = format!(
        "Done: {}. Take it back with: kubepki undo {}",
        plan.title, plan.id
    );
    if plan.undoes.is_some() || plan.irreversible.is_some() {
        text = format!("Done: {}.", plan.title);
    }
    let of_k3s = |step: &plan::Step| match &step.target {
        plan::Target::File { path, .. } => path.starts_with(&plan.root),
        _ => false,
    };
    let restarts = |step: &plan::Step| matches!(step.action, plan::Action::Restart { .. });
    let restarted = plan.steps.iter().any(restarts);
    if plan.undoes.as_ref().is_some_and(is_own) {
        text.push_str(
            "\nEvery `kubepki serve` takes this up while it serves (`/v1-k3s/readyz` says so where \
             one cannot); a K3s server restarts.",
        );
    } else if !restarted && plan.datastore.is_some() {
        let _ = write!(
            text,
            "\nEvery server takes this up when it starts: restart K3s on one after the other, then \
             on the agents. `kubepki history {}` shows what else there is to know.",
            plan.id
        );
    } else if !restarted && plan.steps.iter().any(of_k3s) {
        let unit = match node.inventory.site.role {
            Role::Server => "k3s",
            Role::AgentOnly => "k3s-agent",
        };
        let _ = write!(
            text,
            "\nRestart K3s so that it takes this up: systemctl restart {unit}"
        );
    }
    text
}
