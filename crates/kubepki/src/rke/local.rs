//! State file and administrator's kubeconfig, put beside `cluster.yml` as a plan.

use std::collections::{BTreeMap, BTreeSet};

use pki::UnixTime;
use zeroize::Zeroizing;

use super::rotate::Site;
use super::{Secret, State};
use crate::host::Attributes;
use crate::init::Staged;
use crate::plan::{Action, Before, Content, PLAN_FORMAT, Plan, PlanId, Step, Target};

/// What is put, and why.
#[derive(Clone, Copy)]
pub struct LocalFiles<'a> {
    /// The plan's title.
    pub title: &'a str,
    /// The cluster's name.
    pub cluster: &'a str,
    /// The state file's content, and why.
    pub state: (&'a State, &'a str),
    /// The kubeconfig, and why; `None` leaves it as it is.
    pub kubeconfig: Option<(&'a Secret, &'a str)>,
    /// Sentences for the plan.
    pub notes: &'a [String],
}

/// Plans it. What is there is kept as the steps' backup, as with any file.
///
/// The staged bytes must be kept with [`crate::init::stage`] before the plan is applied.
pub fn plan_files(
    id: &PlanId,
    site: &Site,
    files: &LocalFiles<'_>,
    now: UnixTime,
) -> (Plan, Vec<Staged>) {
    let (state, why) = files.state;
    let mut wanted = vec![(&site.state, &site.state_before, state.render(), why)];
    if let Some((text, why)) = files.kubeconfig {
        let bytes = Zeroizing::new(text.as_bytes().to_vec());
        wanted.push((&site.kubeconfig, &site.kubeconfig_before, bytes, why));
    }
    let mut steps = Vec::new();
    let mut staged = Vec::new();
    for ((path, before, bytes, reason), number) in wanted.into_iter().zip(1_u32..) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file = Staged {
            name: name.into_owned(),
            bytes,
        };
        steps.push(Step {
            number,
            target: Target::File {
                host: "local".to_owned(),
                path: path.clone(),
            },
            before: before.clone(),
            action: Action::Put {
                attributes: private(before),
                content: Content::Staged {
                    name: file.name.clone(),
                    sha256: pki::sha256(&file.bytes).to_string(),
                },
            },
            reason: reason.to_owned(),
        });
        staged.push(file);
    }
    let plan = Plan {
        format: PLAN_FORMAT,
        id: id.clone(),
        undoes: None,
        title: files.title.to_owned(),
        node: files.cluster.to_owned(),
        root: site.root.clone(),
        datastore: None,
        irreversible: None,
        created: now,
        hypothetical: false,
        leaves: BTreeMap::new(),
        steps,
        deferrable: BTreeSet::new(),
        notes: files.notes.to_vec(),
    };
    (plan, staged)
}

/// Mode 0600, owned by whoever owns what is there.
pub(super) fn private(before: &Before) -> Attributes {
    let owner = match before {
        Before::Present(found) => (found.attributes.uid, found.attributes.gid),
        _ => (None, None),
    };
    Attributes {
        uid: owner.0,
        gid: owner.1,
        ..Attributes::new(0o600)
    }
}
