//! What a running K3s is sent (K3s `pkg/server/handlers/cert.go`).

use std::collections::BTreeMap;

use pki::UnixTime;

use super::taken;
use crate::bootstrap::{Bundle, Stamp};
use crate::init::Staged;
use crate::plan::{Action, Before, Content, Plan, Step, Target};

/// What the new set is called in a plan's staging directory.
pub const BODY: &str = "rotate-ca-body";
/// What the set in force is called there, which takes the call back.
pub const FORMER: &str = "rotate-ca-former";

/// Where a supervisor takes CAs; `force` makes K3s overlook what it finds.
pub fn supervisor_url(base: &str, force: bool) -> String {
    let base = base.trim_end_matches('/');
    format!("{base}/v1-k3s/cert/cacerts?force={force}")
}

/// Whether a plan needs a supervisor, and at which address.
pub fn calls_supervisor(plan: &Plan) -> Option<String> {
    plan.steps.iter().find_map(|step| match &step.target {
        Target::Http { url, .. } => {
            let path = url.find("/v1-k3s/")?;
            url.get(..path).map(str::to_owned)
        }
        _ => None,
    })
}

/// The step that hands the staged set to the server at `base`, and what has to be staged for it.
pub(super) fn call(
    base: &str,
    force: bool,
    present: &Bundle,
    staged: &Bundle,
    now: UnixTime,
) -> (Step, Vec<Staged>) {
    let fields = taken(staged);
    let part = |of: &Bundle| {
        Bundle {
            files: of
                .files
                .iter()
                .filter(|(field, _)| fields.contains_key(field))
                .map(|(field, file)| (*field, file.clone()))
                .collect::<BTreeMap<_, _>>(),
            ..Bundle::default()
        }
        .restamped(Stamp::at(now))
    };
    let secret = |name: &str, bundle: Bundle| {
        let bytes = bundle.to_json();
        let content = Content::Staged {
            name: name.to_owned(),
            sha256: pki::sha256(&bytes).to_string(),
        };
        let name = name.to_owned();
        (content, Staged { name, bytes })
    };
    let (body, sent) = secret(BODY, part(staged));
    let (former, kept) = secret(FORMER, part(present));
    let step = Step {
        number: 0,
        target: Target::Http {
            method: "PUT".to_owned(),
            url: supervisor_url(base, force),
        },
        before: Before::Any,
        action: Action::Call {
            body,
            former,
            former_url: Some(supervisor_url(base, true)),
        },
        reason: "the server checks the set and writes it to the datastore".to_owned(),
    };
    (step, vec![sent, kept])
}
