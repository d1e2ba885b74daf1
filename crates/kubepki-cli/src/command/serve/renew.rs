//! The node's own leaves: what is due is renewed, what a crash left half done is finished.

use std::collections::BTreeSet;

use kubepki::apply::{Aftermath, Executor, Outcome, Past, refuse_unreadable, unfinished};
use kubepki::catalogue::K3S;
use kubepki::inventory::Inventory;
use kubepki::plan::{Plan, Target};
use kubepki_serve::ending::unbegun;
use kubepki_serve::health::{Part, State};
use kubepki_serve::issuance::Need;
use pki::{Certificate, UnixTime};

use super::records::Records;
use super::{ServeArgs, tell};
use crate::args::{LeafArgs, NameArgs};
use crate::command::change::{INTERRUPTED, failed, lock};
use crate::command::leaves::due_for;
use crate::error::CliError;
use crate::world::{Node, World};

/// In the ids of the plans that a server makes for itself.
const PURPOSE: &str = "serve";

/// What a look at the node's leaves came to.
pub(super) struct Renewal {
    /// The node afterwards.
    pub node: Node,
    /// Leaves that are new.
    pub renewed: Vec<Certificate>,
    /// Why others could not be renewed.
    pub trouble: Option<Trouble>,
}

/// What keeps leaves from being renewed. The server serves on.
pub(super) struct Trouble {
    /// Who is to be told.
    pub part: Part,
    /// What.
    pub state: State,
}

impl Trouble {
    fn leaves(error: &CliError) -> Self {
        let why = match &error.hint {
            Some(hint) => format!("{}; {hint}", error.message),
            None => error.message.clone(),
        };
        Self {
            part: Part::Leaves,
            state: State::Warning(format!("not renewed, and tried again: {why}")),
        }
    }
}

/// Is told of the services whose leaves are about to change; what it answers with stops the
/// renewal.
pub(super) type Foretold<'a> = dyn Fn(&BTreeSet<String>) -> Result<(), CliError> + Send + Sync + 'a;

/// Looks at the node, finishes what was interrupted, renews what is due. CAs are never touched.
///
/// # Errors
///
/// When the node cannot be looked at. What keeps leaves from being renewed is in the answer.
pub(super) async fn renewed(
    world: &World,
    args: &ServeArgs,
    records: &Records,
    foretold: &Foretold<'_>,
) -> Result<Renewal, CliError> {
    let before = look(world, args).await?;
    let mut changed = BTreeSet::new();
    let trouble = change(world, &before, (records, foretold), &mut changed)
        .await
        .err();
    if changed.is_empty() {
        let renewed = Vec::new();
        return Ok(Renewal {
            node: before,
            renewed,
            trouble,
        });
    }
    let node = look(world, args).await?;
    let renewed = changed.iter().filter_map(|id| {
        let leaf = node.inventory.row(id)?.file.first_certificate()?;
        let old = before.inventory.row(id);
        let old = old.and_then(|row| row.file.first_certificate());
        (old != Some(leaf)).then(|| leaf.clone())
    });
    Ok(Renewal {
        renewed: renewed.collect(),
        node,
        trouble,
    })
}

/// Finishes what a crash left half renewed, before a start changes the same leaves. What cannot be
/// finished is told of by [`renewed`].
pub(super) async fn finish_own(world: &World, args: &ServeArgs, records: &Records) {
    let Ok(node) = look(world, args).await else {
        return;
    };
    if let Ok(Some(past)) = interrupted(&node)
        && let Ok(plan) = node.state.load_plan(&past.id)
        && finish(world, &node, records, &plan).await.is_ok()
    {
        let fields = vec![("plan", past.id.to_string())];
        tell("a renewal that was interrupted is finished", fields);
    }
}

/// Names in `changed` the rows whose leaves may be others afterwards, even when it fails.
async fn change(
    world: &World,
    node: &Node,
    (records, foretold): (&Records, &Foretold<'_>),
    changed: &mut BTreeSet<String>,
) -> Result<(), Trouble> {
    let note = |error: &CliError| Trouble::leaves(error);
    let authorities = node
        .inventory
        .rows
        .iter()
        .filter(|row| row.row.is_authority());
    let authorities = authorities.filter_map(|row| row.file.first_certificate());
    if let Some(why) = unbegun(authorities, world.now()) {
        return Err(note(&CliError::message(why)));
    }
    if let Some(past) = interrupted(node)? {
        let plan = node.state.load_plan(&past.id);
        let plan = plan.map_err(|error| note(&CliError::failed(&error)))?;
        changed.extend(plan.leaves.keys().map(|id| id.0.clone()));
        finish(world, node, records, &plan)
            .await
            .map_err(|e| stuck(&past, &e))?;
        // What else is due is found at the next look.
        return Ok(());
    }
    let plan = due_for(world, node, PURPOSE).map_err(|error| note(&error))?;
    if plan.steps.is_empty() {
        return Ok(());
    }
    foretold(&services(&plan)).map_err(|error| note(&error))?;
    changed.extend(plan.leaves.keys().map(|id| id.0.clone()));
    carry_out(world, node, records, &plan)
        .await
        .map_err(|error| note(&error))
}

/// The server's own plan that a crash interrupted. Somebody else's is his to settle.
fn interrupted(node: &Node) -> Result<Option<Past>, Trouble> {
    let note = |error: &CliError| Trouble::leaves(error);
    refuse_unreadable(&node.state).map_err(|error| note(&failed(error)))?;
    let past = unfinished(&node.state).map_err(|error| note(&CliError::failed(&error)))?;
    let Some(past) = past else { return Ok(None) };
    // Not interrupted but at work.
    let held = node.state.holder();
    if held
        .map_err(|error| note(&CliError::failed(&error)))?
        .is_some()
    {
        let busy = format!("{} ({}) is being carried out here", past.id, past.title);
        return Err(note(&CliError::message(busy)));
    }
    if past.id.0.split('-').nth(1) == Some(PURPOSE) {
        return Ok(Some(past));
    }
    let why = format!(
        "{} ({}) was interrupted: {INTERRUPTED}",
        past.id, past.title
    );
    let plan = node.state.load_plan(&past.id);
    let harmless = plan.is_ok_and(|plan| changes_leaves_alone(&plan, &node.inventory));
    Err(Trouble {
        part: Part::Plan,
        state: match harmless {
            true => State::Warning(format!("{why}. No leaf is renewed until then")),
            // Old and new CAs may lie side by side.
            false => State::Down(why),
        },
    })
}

fn stuck(past: &Past, error: &CliError) -> Trouble {
    Trouble {
        part: Part::Leaves,
        state: State::Warning(format!(
            "{} ({}) was interrupted and cannot be finished: {}; {INTERRUPTED}. No leaf is renewed \
             until then",
            past.id, past.title, error.message
        )),
    }
}

/// Whether no step of `plan` concerns a CA or anything but files.
fn changes_leaves_alone(plan: &Plan, inventory: &Inventory) -> bool {
    let authorities = inventory.rows.iter().filter(|row| row.row.is_authority());
    let of_authorities: BTreeSet<_> = authorities
        .flat_map(|row| std::iter::once(&row.file).chain(&row.key))
        .map(|observed| &observed.path)
        .collect();
    plan.steps.iter().all(|step| match &step.target {
        Target::File { path, .. } => !of_authorities.contains(path),
        _ => false,
    })
}

/// Somebody else's plan that is half done, and that nobody carries out now.
pub(super) fn left_by_others(node: &Node) -> Option<Trouble> {
    let trouble = interrupted(node).err()?;
    // It may have ended between the questions whether it is at its end and who carries it out.
    let is_there = unfinished(&node.state).is_ok_and(|past| past.is_some());
    (trouble.part == Part::Plan && is_there).then_some(trouble)
}

/// The services, by K3s's names, whose leaves a plan changes.
pub(super) fn services(plan: &Plan) -> BTreeSet<String> {
    let rows = plan.leaves.keys().filter_map(|id| K3S.row(&id.0));
    let services = rows.filter_map(|row| K3S.service_of(row));
    services.map(|service| service.name.to_owned()).collect()
}

async fn carry_out(
    world: &World,
    node: &Node,
    records: &Records,
    plan: &Plan,
) -> Result<(), CliError> {
    let state = lock(&node.state)?;
    // What a crash left before its first step is in nobody's way.
    let _ = state.drop_unbegun();
    let observer = records.said(need(plan, &node.inventory, world.now()));
    let executor = Executor {
        observer: &observer,
        ..world.executor(&state)
    };
    let outcome = executor.apply(plan).await.map_err(|error| {
        if error.aftermath() != Aftermath::Interrupted {
            let _ = state.drop_staging(&plan.id);
        }
        failed(error)
    });
    ended(&outcome?)?;
    // Old backups go only once new ones are safe; what cannot go now goes next time.
    let _ = state.prune(world.now());
    Ok(())
}

/// Whether all leaves that a plan replaces will do for some days.
fn need(plan: &Plan, inventory: &Inventory, now: UnixTime) -> Need {
    let will_do = plan.leaves.iter().all(|(id, leaf)| {
        let Some(wanted) = &leaf.certificate else {
            return true;
        };
        let issuer = Certificate::all_from_pem(wanted.issuer.certificate.as_bytes());
        let issuer = issuer.ok().and_then(|it| it.into_iter().next());
        let present = inventory.row(&id.0);
        let present = present.and_then(|row| row.file.first_certificate());
        issuer.is_some_and(|issuer| Need::of(present, &issuer, now) == Need::CanWait)
    });
    match will_do {
        true => Need::CanWait,
        false => Need::Urgent,
    }
}

async fn finish(
    world: &World,
    node: &Node,
    records: &Records,
    plan: &Plan,
) -> Result<(), CliError> {
    let state = lock(&node.state)?;
    // Half of it is in place: the other half does not wait for the log.
    let observer = records.said(Need::Urgent);
    let executor = Executor {
        observer: &observer,
        ..world.executor(&state)
    };
    let outcome = executor.resume(&plan.id).await;
    ended(&outcome.map_err(failed)?)
}

fn ended(outcome: &Outcome) -> Result<(), CliError> {
    match outcome {
        Outcome::Finished { .. } => Ok(()),
        Outcome::Waiting { .. } | Outcome::Partly { .. } => {
            Err(CliError::message("the plan is not at its end"))
        }
    }
}

pub(super) async fn look(world: &World, args: &ServeArgs) -> Result<Node, CliError> {
    let names = NameArgs {
        tls_san: args.tls_san.clone(),
        ..NameArgs::default()
    };
    let leaves = LeafArgs {
        keep_key: false,
        window: args.window,
    };
    let looked = Node::open(world, &args.site, Some(&names), Some(&leaves)).await;
    looked.map_err(|error| match error.hint {
        None => CliError {
            message: format!("the node's files cannot be looked at: {}", error.message),
            ..error
        },
        Some(_) => error,
    })
}
