//! `rotate-ca --back PLAN`: the set that was in force before a plan.

use kubepki::apply::unfinished;
use kubepki::bootstrap::{Bundle, Disk, Field, SharedFile, Stamp};
use kubepki::plan::{self, Plan, PlanId};
use kubepki::state::StateDir;

use crate::error::CliError;
use crate::world::{Node, World};

/// What puts a rotation's former CAs back where `undo` does not, because files were changed since: a
/// rotation of its own. `None` for other plans, for a server's own, and for one that is half done.
pub async fn instead_of_undo(world: &World, node: &Node, id: &PlanId) -> Option<String> {
    let rest = id.without_moment()?;
    if !rest.starts_with("rotate-ca-") || unfinished(&node.state).ok()?.is_some() {
        return None;
    }
    let data_dir = &node.inventory.site.data_dir;
    let server = data_dir.join("server");
    let disk = Disk::look(&world.host, &server).await.ok()?;
    former(&node.state, &id.0, &disk).ok()?;
    Some(format!(
        "or rotate to the CAs of before it: `kubepki rotate-ca --back {id} --data-dir {} \
         --state-dir {}`",
        data_dir.display(),
        node.state.path().display()
    ))
}

/// The set that was in force before plan `id`, from its backups. Service-account keys that came
/// since stay behind the former ones: tokens that they signed are alive.
///
/// # Errors
///
/// When the plan replaced none, or keys that it would put in force have been given up as
/// compromised.
pub(super) fn former(state: &StateDir, id: &str, disk: &Disk) -> Result<Bundle, CliError> {
    let plan = state.load_plan(&PlanId(id.to_owned()))?;
    refuse_compromised(state, &plan)?;
    let mut bundle = Bundle::default();
    for step in &plan.steps {
        let backup = || state.read_backup(&plan.id, step.number);
        match &step.target {
            plan::Target::File { path, .. } => {
                let mut fields = Field::ALL.into_iter();
                let field = fields.find(|it| it.under(&disk.server) == *path);
                let Some(field) = field.filter(|it| it.is_rotatable()) else {
                    continue;
                };
                if let Some(content) = backup()? {
                    let stamp = Stamp::ZERO;
                    bundle.files.insert(field, SharedFile { stamp, content });
                }
            }
            plan::Target::Http { .. } => {
                if let Some(body) = backup()? {
                    bundle = Bundle::parse(&body)?;
                }
            }
            _ => {}
        }
    }
    if let Some(keys) = bundle.files.get_mut(&Field::ServiceKey)
        && let Some(present) = disk.bundle.content(Field::ServiceKey)
    {
        keys.content = kubepki::ca::rotate::all_keys(&keys.content, present);
    }
    match bundle.files.is_empty() {
        true => Err(CliError::message(format!(
            "plan {id} replaced no CA files, or its backups are gone"
        ))),
        false => Ok(bundle),
    }
}

/// A plan that cannot be taken back, or anything before it.
fn refuse_compromised(state: &StateDir, plan: &Plan) -> Result<(), CliError> {
    for id in state.plans()? {
        let other = state.load_plan(&id)?;
        let Some(reason) = &other.irreversible else {
            continue;
        };
        let begun = !state.journal(&id)?.entries.is_empty();
        if other.created >= plan.created && (begun || other.id == plan.id) {
            return Err(CliError::refused(format!(
                "there is no way back to before {}: {reason}",
                other.id
            )));
        }
    }
    Ok(())
}
