//! The plan.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::tokens::{self, Replacement, Tokens};
use super::{Request, RotateError, Way, body, can_be_forced, follow, overlaid, taken, words};
use crate::bootstrap::{Bundle, Disk, Field, Files, Opened, Save, extract_notes, files, save_as};
use crate::ca::verify::{Finding, Intent};
use crate::init::{self, Staged, TRIGGER, plan_init};
use crate::plan::{Action, Before, PLAN_FORMAT, Plan, Step, Target};

/// Plans the rotation.
///
/// The staged bytes must be kept with [`crate::init::stage`] before the plan is applied.
///
/// # Errors
///
/// [`RotateError`]; then nothing was made.
pub fn plan_rotate_ca(request: Request<'_>) -> Result<(Plan, Vec<Staged>), RotateError> {
    refuse(&request)?;
    let present = match request.way {
        Way::Direct { opened, .. } => &opened.bundle,
        Way::Through { .. } => &request.disk.bundle,
    };
    let same = taken(request.staged)
        .into_iter()
        .all(|(field, file)| present.content(field) == Some(file.content.as_slice()));
    if same {
        return Err(RotateError::Same);
    }
    let (mut plan, staged) = match request.way {
        Way::Direct { opened, datastore } => direct(request, opened, datastore)?,
        Way::Through { url } => through(request, url)?,
    };
    number(&mut plan.steps);
    Ok((plan, staged))
}

/// What must not be, and what nobody has overridden.
fn refuse(request: &Request<'_>) -> Result<(), RotateError> {
    let refusals: Vec<&Finding> = request.verdict.refusals().collect();
    let standing: Vec<Finding> = refusals
        .into_iter()
        .filter(|finding| !request.force || !can_be_forced(finding))
        .cloned()
        .collect();
    if !standing.is_empty() {
        return Err(RotateError::Refused {
            findings: standing,
            forced: request.force,
        });
    }
    tokens::refuse(request)?;
    let Way::Direct { opened, .. } = request.way else {
        return Ok(());
    };
    if opened.bundle.legacy {
        return Err(RotateError::Legacy);
    }
    let fields = pending(opened, request.disk);
    match fields.is_empty() {
        true => Ok(()),
        false => Err(RotateError::Pending { fields }),
    }
}

/// CA files on which the datastore and this server differ.
fn pending(opened: &Opened, disk: &Disk) -> Vec<Field> {
    let differs = |field: &Field| {
        let there = disk.bundle.content(*field);
        field.is_rotatable() && there.is_some() && there != opened.bundle.content(*field)
    };
    Field::ALL.into_iter().filter(differs).collect()
}

fn direct(
    mut request: Request<'_>,
    opened: &Opened,
    datastore: &str,
) -> Result<(Plan, Vec<Staged>), RotateError> {
    let mut new = overlaid(&opened.bundle, request.staged, request.now);
    let replacement = match request.tokens {
        Tokens::New(tokens) => Some(Replacement::of(tokens, opened, &mut new, request.now)?),
        Tokens::Stay | Tokens::Replaced => None,
    };
    let owner = replacement.as_ref().map(|it| &it.owner);
    let owner = owner.unwrap_or(&opened.owner);
    let reason = "the cluster's CAs, which every server takes up at its start";
    let Save {
        steps: mut rows,
        staged: sealed,
    } = save_as(opened, owner, &new, request.entropy, reason)?;
    let mut staged = vec![sealed];
    let mut steps = Vec::new();
    let Ready {
        put,
        mut made,
        more,
    } = ready(&mut request, &new)?;
    let agents_too = replacement.as_ref().is_some_and(|it| it.agents_too);
    if let Some(replacement) = replacement {
        let former = rows.split_off(1.min(rows.len()));
        steps.append(&mut rows);
        steps.extend(replacement.edits);
        staged.extend(replacement.staged);
        let server = request.survey.inventory.site.server();
        steps.extend(tokens::token_files(&mut made.steps, &server));
        steps.extend(former);
    } else {
        steps.append(&mut rows);
    }
    steps.extend(put);
    steps.extend(made.steps);
    staged.extend(more);
    steps.extend(follow::steps(&request));
    let mut notes = words::notes(&request, agents_too);
    notes.extend(opened.notes.iter().cloned());
    notes.extend(extract_notes(request.disk));
    notes.extend(made.notes);
    Ok((
        Plan {
            datastore: Some(datastore.to_owned()),
            steps,
            notes,
            leaves: made.leaves,
            ..head(&request)
        },
        staged,
    ))
}

/// Files that are as they should be keep their times: K3s looks at times of differing ones only.
fn differing(new: &Bundle, disk: &Disk) -> Bundle {
    Bundle {
        files: new
            .files
            .iter()
            .filter(|(field, file)| disk.bundle.content(**field) != Some(file.content.as_slice()))
            .map(|(field, file)| (*field, file.clone()))
            .collect(),
        ..Bundle::default()
    }
}

fn through(mut request: Request<'_>, url: &str) -> Result<(Plan, Vec<Staged>), RotateError> {
    // K3s is told to overlook only what it would complain about.
    let force = !request.verdict.k3s_accepts();
    let present = &request.disk.bundle;
    let (step, mut staged) = body::call(url, force, present, request.staged, request.now);
    let mut steps = vec![step];
    let mut notes = words::notes(&request, false);
    let mut leaves = BTreeMap::new();
    if let Some(stop) = follow::stop(&request) {
        let new = overlaid(present, request.staged, request.now);
        let Ready { put, made, more } = ready(&mut request, &new)?;
        let trigger = request.survey.inventory.site.server().join(TRIGGER);
        let is_trigger =
            |step: &Step| matches!(&step.target, Target::File { path, .. } if *path == trigger);
        steps.push(stop);
        steps.extend(put);
        steps.extend(made.steps.into_iter().filter(|it| !is_trigger(it)));
        steps.push(removed(trigger.clone()));
        staged.extend(more);
        notes.extend(made.notes);
        leaves = made.leaves;
    }
    steps.extend(follow::steps(&request));
    let plan = Plan {
        steps,
        notes,
        leaves,
        ..head(&request)
    };
    Ok((plan, staged))
}

/// The PUT's handler makes it, at any time, and K3s would make its listener's certificate anew.
fn removed(trigger: PathBuf) -> Step {
    Step {
        number: 0,
        target: Target::File {
            host: "local".to_owned(),
            path: trigger,
        },
        before: Before::Any,
        action: Action::Remove,
        reason: "the listener's certificate is ready".to_owned(),
    }
}

/// A server's files as K3s's next start would leave them, with the chains of section 13.2.
struct Ready {
    /// Steps that put the new set in place.
    put: Vec<Step>,
    /// What else is made: leaves, kubeconfigs, tokens.
    made: Plan,
    /// What has to be staged for all of them.
    more: Vec<Staged>,
}

fn ready(request: &mut Request<'_>, new: &Bundle) -> Result<Ready, RotateError> {
    let Files {
        steps: put,
        staged: mut more,
    } = files(&differing(new, request.disk), request.disk, "the new set");
    request.survey.foresee(new, request.disk)?;
    // What is not put in place by a step is not staged either.
    let (made, secrets) = plan_init(&init::Request {
        id: request.id,
        spec: request.spec,
        survey: &request.survey,
        token: None,
        agent_token: None,
        now: request.now,
        entropy: request.entropy,
        keys: request.keys,
    })?;
    more.extend(secrets);
    Ok(Ready { put, made, more })
}

fn head(request: &Request<'_>) -> Plan {
    let compromised = request.intent == Intent::Compromised;
    let reason = "the old keys are in wrong hands, and it would put them back in force";
    Plan {
        format: PLAN_FORMAT,
        id: request.id.clone(),
        undoes: None,
        datastore: None,
        irreversible: compromised.then(|| reason.to_owned()),
        deferrable: std::collections::BTreeSet::new(),
        title: words::title(request),
        node: request.spec.node.name.clone(),
        root: request.survey.inventory.site.data_dir.clone(),
        created: request.now,
        hypothetical: false,
        leaves: BTreeMap::new(),
        steps: Vec::new(),
        notes: Vec::new(),
    }
}

fn number(steps: &mut [Step]) {
    for (step, number) in steps.iter_mut().zip(1_u32..) {
        step.number = number;
    }
}
