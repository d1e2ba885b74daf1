//! `rotate`, `renew`, `plan`: from a look at the node to a plan for its leaves.

use kubepki::apply::plan_id;
use kubepki::inventory::Role;
use kubepki::plan::{self, Plan, Request, Selection};
use pki::San;

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
    refuse_joined(&node)?;
    announce_running(&node);
    let (title, mut selected) = requested(&node, &args.services)?;
    if !args.names.tls_san.is_empty() || !args.names.tls_san_drop.is_empty() {
        // A name is of use only where every server has it.
        let renamed = plan::renamed(&node.inventory, &node.wishes, &node.policy, world.now())?;
        for selection in renamed {
            if !selected.iter().any(|other| other.row == selection.row) {
                selected.push(selection);
            }
        }
    }
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
    refuse_joined(&node)?;
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
    refuse_joined(&node)?;
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

/// On an agent alone leaves are renewed by removing them, for K3s makes them anew at its start.
/// Where there is no K3s nothing brings them back, and without its certificate the node cannot
/// even log in.
fn refuse_joined(node: &Node) -> Result<(), CliError> {
    let site = &node.inventory.site;
    if site.role == Role::Server || site.has_k3s {
        return Ok(());
    }
    Err(CliError::refused(format!(
        "{} is an agent's, and no K3s works on it: here its certificates could only be removed, and \
         nothing would make new ones",
        site.data_dir.display()
    ))
    .hint("`kubepki node renew --server https://SERVER:6443` gets new ones from a server"))
}

fn requested(node: &Node, names: &[String]) -> Result<(String, Vec<Selection>), CliError> {
    let inventory = &node.inventory;
    let services = plan::services(inventory.flavour, inventory.site.role, names)
        .map_err(|unknown| CliError::usage(unknown.to_string()))?;
    let selected = plan::requested(inventory, &services);
    for service in &services {
        let here = service.rows.iter().any(|row| inventory.row(row).is_some());
        if !here && !names.is_empty() {
            output::talk(&format!("Note: this node has nothing of {}.", service.name));
        }
    }
    let named: Vec<&str> = services.iter().map(|service| service.name).collect();
    let title = match (names.is_empty(), inventory.site.role) {
        (true, Role::Server) => "rotate every leaf".to_owned(),
        (true, Role::AgentOnly) => "rotate every leaf of the agent".to_owned(),
        (false, _) => format!("rotate {}", named.join(", ")),
    };
    Ok((title, selected))
}

fn due(world: &World, node: &Node) -> Result<Plan, CliError> {
    due_for(world, node, "renew")
}

/// A plan for what is due, with `purpose` in its id.
pub(super) fn due_for(world: &World, node: &Node, purpose: &str) -> Result<Plan, CliError> {
    let due = plan::due(&node.inventory, &node.wishes, &node.policy, world.now())?;
    let mut made = make(
        world,
        node,
        purpose,
        "renew what is due".to_owned(),
        &due.selected,
    )?;
    made.notes.extend(due.notes);
    Ok(made)
}

/// What comes of names that were to be dropped and cannot be for long.
fn drop_notes(node: &Node) -> Vec<String> {
    let inventory = &node.inventory;
    let own = inventory.node_name().map(San::Dns);
    let carried = |san: &San| {
        let mut certificates = inventory
            .rows
            .iter()
            .flat_map(|row| row.file.certificates());
        certificates.any(|certificate| certificate.sans().contains(san))
    };
    let note = |san: &San| match () {
        () if !carried(san) => Some(format!("no certificate here carries {san}")),
        () if is_fixed(san) || own.as_ref() == Some(san) => Some(format!(
            "K3s itself wants {san}: its next start issues anew what does not carry it"
        )),
        () if node.configured_sans.contains(san) => Some(format!(
            "K3s's configuration still asks for {san}: drop it there too, else its next start adds \
             it again"
        )),
        () => None,
    };
    node.wishes.drop_sans.iter().filter_map(note).collect()
}

/// Whether K3s writes the name into every server's certificates (reference section 1.5).
fn is_fixed(san: &San) -> bool {
    match san {
        San::Dns(name) => {
            ["localhost", "kubernetes", "kubernetes.default"].contains(&name.as_str())
                || name.starts_with("kubernetes.default.svc")
        }
        San::Ip(address) => address.is_loopback(),
        _ => false,
    }
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
    let mut made = plan::plan_leaves(&request, selected)?;
    made.notes.extend(drop_notes(node));
    Ok(made)
}
