//! Whether a plan is one that this program can carry out, before anything is looked at.

use super::error::ApplyError;
use super::fit_hosts::{check_deferrable, check_hosts, leaf_of_proof, left_by};
use super::render::leaves_of;
use crate::bootstrap::KEY_PREFIX;
use crate::plan::{Action, Before, Content, PLAN_FORMAT, Plan, Proof, Step, Target, TxnOperation};

/// Whether this build can carry out the plan at all, before anything is looked at.
///
/// # Errors
///
/// [`ApplyError::Hypothetical`], [`ApplyError::Unfit`], [`ApplyError::Unsupported`].
pub fn check_fit(plan: &Plan) -> Result<(), ApplyError> {
    let unfit = |problem| ApplyError::Unfit {
        plan: plan.id.clone(),
        problem,
    };
    if plan.hypothetical {
        return Err(ApplyError::Hypothetical {
            plan: plan.id.clone(),
        });
    }
    if plan.format != PLAN_FORMAT {
        return Err(unfit(format!("format {} is not known", plan.format)));
    }
    for (step, number) in plan.steps.iter().zip(1_u32..) {
        if step.number != number {
            return Err(unfit(format!(
                "step {} stands where step {number} should",
                step.number
            )));
        }
        check_step(plan, step).map_err(|problem| unfit(format!("step {number}: {problem}")))?;
    }
    check_deferrable(plan).map_err(unfit)?;
    // A plan that contradicts itself is a worse fault than one that needs a later build.
    plan.steps.iter().try_for_each(check_supported)
}

fn check_step(plan: &Plan, step: &Step) -> Result<(), String> {
    match (&step.target, &step.action) {
        (Target::File { path, .. }, Action::Put { .. } | Action::Remove) => {
            let plain = path.is_absolute() && path.file_name().is_some();
            if !plain {
                return Err(format!("{} is no absolute path of a file", path.display()));
            }
            match step.before {
                Before::Absent | Before::Present(_) => {}
                Before::Any if step.action == Action::Remove || puts_back(step) => {}
                Before::LeftBy(number) if left_by(plan, step, number) => {}
                _ => return Err("it does not say what must be there before".to_owned()),
            }
        }
        (Target::DatastoreKey { key }, Action::Txn { operation }) => {
            check_txn(plan, step, key, operation)?;
        }
        (Target::Http { url, .. }, Action::Call { .. }) => {
            if !url.starts_with("https://") {
                return Err(format!("{url} is no https URL"));
            }
            if step.before != Before::Any {
                return Err("what a server holds cannot be compared before a call".to_owned());
            }
        }
        (Target::Unit { .. }, Action::Stop { .. }) => check_stop(plan, step)?,
        (Target::Unit { .. } | Target::Container { .. }, Action::Restart { .. })
        | (Target::Container { .. }, _) => {}
        (Target::Hosts { .. }, Action::Deploy { .. } | Action::RestartContainers { .. })
        | (Target::Kubernetes { .. }, Action::SaveState { .. } | Action::DeletePods { .. }) => {
            check_hosts(plan, step)?;
        }
        (Target::Manual { .. }, Action::Manual { probe, .. }) => {
            if probe.is_empty() {
                return Err("a manual step needs a probe, else it is a note".to_owned());
            }
        }
        (target, _) => return Err(format!("its action does not fit its target {target:?}")),
    }
    if let Action::Put { content, .. } = &step.action {
        let edits = matches!(
            content,
            Content::Kubeconfig { .. } | Content::ListenerSecret { .. }
        );
        if edits && step.before == Before::Absent {
            return Err("it edits a file that should be absent".to_owned());
        }
    }
    check_contents(plan, step)?;
    for proof in proofs(step) {
        if let Some(leaf) = leaf_of_proof(proof)
            && plan
                .leaves
                .get(leaf)
                .is_none_or(|leaf| leaf.certificate.is_none())
        {
            return Err(format!(
                "leaf {leaf} that is to be shown has no certificate"
            ));
        }
    }
    Ok(())
}

/// Whether it brings back what another plan replaced, over what a server wrote there since.
fn puts_back(step: &Step) -> bool {
    let Action::Put { content, .. } = &step.action else {
        return false;
    };
    matches!(content, Content::Backup { .. })
}

/// Whether a later step starts what `step` stops.
fn check_stop(plan: &Plan, step: &Step) -> Result<(), String> {
    let starts = |later: &Step| {
        later.number > step.number
            && later.target == step.target
            && matches!(later.action, Action::Restart { .. })
    };
    match plan.steps.iter().any(starts) {
        true => Ok(()),
        false => Err("nothing starts again what it stops".to_owned()),
    }
}

/// A file can be given anything but bootstrap data and what hosts keep; a datastore and a server,
/// whatever is bytes before the step. Hosts are looked at elsewhere.
fn check_contents(plan: &Plan, step: &Step) -> Result<(), String> {
    let (is_file, is_hosts) = (
        matches!(step.target, Target::File { .. }),
        matches!(step.target, Target::Hosts { .. }),
    );
    for content in step.action.contents() {
        let fits = match content {
            Content::Restamped { .. } => !is_file,
            Content::OnHost { .. } => is_hosts,
            Content::RkeState(edit) => is_file && edit.contents().into_iter().all(is_whole),
            other => is_file || is_hosts || other.is_ready(),
        };
        if !fits {
            return Err("its content does not fit its target".to_owned());
        }
        for leaf in leaves_of(content) {
            if !plan.leaves.contains_key(leaf) {
                return Err(format!("the plan does not say what leaf {leaf} is"));
            }
        }
    }
    Ok(())
}

/// Whether a content is made from nothing that is there.
fn is_whole(content: &Content) -> bool {
    content.is_ready()
        || matches!(
            content,
            Content::LeafKey(_) | Content::LeafCertificate(_) | Content::BareCertificate(_)
        )
}

/// Whether a transaction's condition can hold when its turn comes.
fn check_txn(plan: &Plan, step: &Step, key: &str, operation: &TxnOperation) -> Result<(), String> {
    if plan.datastore.is_none() {
        return Err("the plan does not say which datastore it is for".to_owned());
    }
    // Everything else belongs to Kubernetes.
    if !key.starts_with(KEY_PREFIX) {
        return Err(format!("{key} is not a key of K3s's bootstrap data"));
    }
    let last = plan
        .steps
        .iter()
        .rfind(|earlier| earlier.number < step.number && earlier.target == step.target);
    let last = last.map(|earlier| (earlier.number, leaves_a_row(&earlier.action)));
    let fits = match (operation, &step.before) {
        (TxnOperation::Create(_), Before::Absent) => last.is_none_or(|(_, row)| !row),
        (TxnOperation::Create(_), _) => false,
        (_, Before::Revision(_)) => last.is_none(),
        (_, Before::RevisionOfStep(number)) => last == Some((*number, true)),
        _ => false,
    };
    match fits {
        true => Ok(()),
        false => Err(format!("its condition cannot hold for {key}")),
    }
}

fn leaves_a_row(action: &Action) -> bool {
    let operation = match action {
        Action::Txn { operation } => Some(operation),
        _ => None,
    };
    operation.is_some_and(|operation| operation.content().is_some())
}

fn check_supported(step: &Step) -> Result<(), ApplyError> {
    let cannot = |what: String| {
        Err(ApplyError::Unsupported {
            step: step.number,
            what,
        })
    };
    match &step.target {
        Target::File { host, .. } | Target::Unit { host, .. } | Target::Manual { host } => {
            if host != LOCAL {
                cannot(format!("reach the host {host}"))
            } else {
                Ok(())
            }
        }
        Target::Container { name, .. } => cannot(format!("restart the container {name}")),
        Target::DatastoreKey { .. }
        | Target::Http { .. }
        | Target::Hosts { .. }
        | Target::Kubernetes { .. } => Ok(()),
    }
}

fn proofs(step: &Step) -> Vec<&Proof> {
    match &step.action {
        Action::Restart { proof, .. } | Action::Stop { proof, .. } => proof.iter().collect(),
        Action::Manual { probe, .. } => probe.iter().collect(),
        Action::RestartContainers { restarts } => {
            let all = restarts
                .iter()
                .flat_map(|it| it.guard.iter().chain(&it.proof));
            all.collect()
        }
        _ => Vec::new(),
    }
}

/// This machine's name in plans.
const LOCAL: &str = "local";
