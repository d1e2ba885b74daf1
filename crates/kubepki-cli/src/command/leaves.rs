//! `rotate`, `renew`, `plan`: from a look at the node to a plan for its leaves.

use kubepki::apply::plan_id;
use kubepki::inventory::Role;
use kubepki::plan::{self, Plan, Request, Selection};

use super::change::{announce_running, carry_out, lock, print_plan, refuse_unfinished};
use crate::args::{PlanArgs, RenewArgs, RotateArgs};
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::{Node, World, moment};

/// `kubepki rotate`.
///
/// # Errors
///
/// When there is no node, no plan, or the plan cannot be carried out.
pub async fn rotate(args: &RotateArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let node = Node::open(&world, &args.site, Some(&args.names), Some(&args.leaves)).await?;
    refuse_unfinished(&node.state)?;
    announce_running(&node);
    let (title, selected) = requested(&node, &args.services)?;
    let plan = make(&world, &node, "rotate", title, &selected)?;
    carry_out(&world, &node, plan, &args.change).await
}

/// `kubepki renew`.
///
/// # Errors
///
/// As [`rotate`].
pub async fn renew(args: &RenewArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let node = Node::open(&world, &args.site, Some(&args.names), Some(&args.leaves)).await?;
    refuse_unfinished(&node.state)?;
    announce_running(&node);
    let plan = due(&world, &node)?;
    carry_out(&world, &node, plan, &args.change).await
}

/// `kubepki plan`.
///
/// # Errors
///
/// As [`rotate`], but nothing is carried out.
pub async fn plan(args: &PlanArgs) -> Result<Exit, CliError> {
    let world = match &args.at {
        Some(at) => World::at(moment(at)?),
        None => World::real(),
    };
    let node = Node::open(&world, &args.site, Some(&args.names), Some(&args.leaves)).await?;
    let made = if args.services.is_empty() {
        due(&world, &node)?
    } else {
        let all = args.services.iter().any(|name| name == "all");
        let services = if all { &[][..] } else { &args.services };
        let (title, selected) = requested(&node, services)?;
        make(&world, &node, "rotate", title, &selected)?
    };
    print_plan(&made, Some(&node.inventory), args.output)?;
    if made.steps.is_empty() {
        output::talk("Nothing to do.");
    } else if !made.hypothetical {
        lock(&node.state)?.save_plan(&made)?;
        output::talk(&format!("Saved. Run it with: kubepki apply {}", made.id));
    }
    Ok(Exit::Fine)
}

fn requested(node: &Node, names: &[String]) -> Result<(String, Vec<Selection>), CliError> {
    let inventory = &node.inventory;
    let services = plan::services(inventory.flavour, inventory.site.role, names)
        .map_err(|unknown| CliError::usage(unknown.to_string()))?;
    let selected = plan::requested(inventory, &services);
    let named: Vec<&str> = services.iter().map(|service| service.name).collect();
    let title = match (names.is_empty(), inventory.site.role) {
        (true, Role::Server) => "rotate every leaf".to_owned(),
        (true, Role::AgentOnly) => "rotate every leaf of the agent".to_owned(),
        (false, _) => format!("rotate {}", named.join(", ")),
    };
    Ok((title, selected))
}

fn due(world: &World, node: &Node) -> Result<Plan, CliError> {
    let due = plan::due(&node.inventory, &node.wishes, &node.policy, world.now())?;
    let mut made = make(
        world,
        node,
        "renew",
        "renew what is due".to_owned(),
        &due.selected,
    )?;
    made.notes.extend(due.notes);
    Ok(made)
}

fn make(
    world: &World,
    node: &Node,
    purpose: &str,
    title: String,
    selected: &[Selection],
) -> Result<Plan, CliError> {
    let request = Request {
        id: plan_id(world.now(), purpose, &world.entropy)?,
        title,
        inventory: &node.inventory,
        wishes: &node.wishes,
        policy: node.policy,
        now: world.now(),
        hypothetical: world.hypothetical,
        entropy: &world.entropy,
    };
    Ok(plan::plan_leaves(&request, selected)?)
}
