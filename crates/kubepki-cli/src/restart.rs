//! The step that restarts K3s and proves what it serves.

use kubepki::inventory::{Facts, Inventory, Role};
use kubepki::plan::{Action, Before, LeafId, Plan, Proof, Step, Target};

use crate::error::CliError;

/// Adds a restart to the end of `plan`, with the proofs that fit what it changes. Where it has one
/// already, as an undo has, the command takes its place: a wrong one must not stand for ever.
///
/// # Errors
///
/// When the command is empty.
pub fn add(plan: &mut Plan, inventory: &Inventory, command: Option<&str>) -> Result<(), CliError> {
    if plan.steps.is_empty() {
        return Ok(());
    }
    let command: Option<Vec<String>> =
        command.map(|text| text.split_whitespace().map(str::to_owned).collect());
    if command.as_ref().is_some_and(Vec::is_empty) {
        return Err(CliError::usage("--restart-command is empty"));
    }
    let mut has_one = false;
    for step in &mut plan.steps {
        if let Action::Restart { command: old, .. } = &mut step.action {
            old.clone_from(&command);
            has_one = true;
        }
    }
    if has_one {
        return Ok(());
    }
    let unit = match inventory.site.role {
        Role::Server => "k3s.service",
        Role::AgentOnly => "k3s-agent.service",
    };
    let mut proof = Vec::new();
    if command.is_none() {
        proof.push(Proof::Active {
            unit: unit.to_owned(),
        });
    }
    proof.extend(serving_proofs(plan, inventory));
    let number = u32::try_from(plan.steps.len())
        .unwrap_or(u32::MAX)
        .saturating_add(1);
    plan.steps.push(Step {
        number,
        target: Target::Unit {
            host: "local".to_owned(),
            name: unit.to_owned(),
        },
        before: Before::Any,
        action: Action::Restart { command, proof },
        reason: "K3s takes certificates up at its start".to_owned(),
    });
    Ok(())
}

/// What must be served afterwards: the listener's and the API server's leaf where the plan has
/// them, else at least an open port.
fn serving_proofs(plan: &Plan, inventory: &Inventory) -> Vec<Proof> {
    // Which kubeconfig tells the port, and which leaf is served there.
    const PORTS: [(&str, &str); 2] = [
        ("admin-kubeconfig", "dynamic-listener"),
        ("cred/admin.kubeconfig", "serving-kube-apiserver"),
    ];
    PORTS
        .into_iter()
        .filter_map(|(kubeconfig, leaf)| {
            let address = address(inventory, kubeconfig)?;
            let leaf = LeafId(leaf.to_owned());
            Some(match plan.leaves.contains_key(&leaf) {
                true => Proof::Serves { address, leaf },
                false => Proof::Listens { address },
            })
        })
        .collect()
}

/// `host:port` of the first server that a kubeconfig names.
fn address(inventory: &Inventory, row: &str) -> Option<String> {
    let present = inventory.row(row)?.file.present()?;
    let Facts::Kubeconfig(facts) = &present.facts else {
        return None;
    };
    let (_, url) = facts.servers.first()?;
    let address = url.strip_prefix("https://")?.split('/').next()?;
    Some(match address.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => address.to_owned(),
        _ => format!("{address}:443"),
    })
}
