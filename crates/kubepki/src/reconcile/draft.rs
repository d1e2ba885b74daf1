//! The plan.

use pki::UnixTime;

use super::{Decision, ReconcileError, Request, decide};
use crate::bootstrap::{
    Bundle, Disk, Field, Files, Opened, Passphrase, Save, SharedFile, Stamp, compare, create,
    extract_notes, files, save,
};
use crate::edge::Entropy;
use crate::init::{self, Passwd, SERVER, Staged, plan_init};
use crate::plan::{Action, Content, Plan, Step, Target};

/// Plans what K3s's next start would do. A plan without steps means: nothing.
///
/// The staged bytes must be kept with [`crate::init::stage`] before the plan is applied.
///
/// # Errors
///
/// [`ReconcileError`]; then nothing was made.
pub fn plan_reconcile(request: Request<'_>) -> Result<(Plan, Vec<Staged>), ReconcileError> {
    match request.opened {
        Some(opened) => follow(request, opened),
        None => begin(request),
    }
}

/// The datastore has data: they are brought together with the disk's.
fn follow(
    mut request: Request<'_>,
    opened: &Opened,
) -> Result<(Plan, Vec<Staged>), ReconcileError> {
    let disk = request.disk;
    let comparison = compare(&opened.bundle, disk);
    let reset = request.reset.take();
    let decision = decide(&comparison, request.keep, reset.is_some(), &disk.server)?;
    let mut steps: Vec<Step> = reset.map(|reset| reset.backup).unwrap_or_default();
    let mut staged = Vec::new();
    let mut written = None;
    let in_force = match decision {
        Decision::Leave | Decision::WriteAll => opened.bundle.clone(),
        Decision::SaveDisk => disk_over(&opened.bundle, disk, request.now),
    };
    match decision {
        Decision::Leave => {}
        Decision::WriteAll => {
            let Files {
                steps: put,
                staged: secrets,
            } = files(&in_force, disk, "from the datastore");
            steps.extend(put);
            staged.extend(secrets);
        }
        Decision::SaveDisk => {
            let reason = "the disk's files are to count";
            let save: Save = save(opened, &in_force, request.entropy, reason)?;
            steps.extend(save.steps);
            staged.push(save.staged);
            written = Some(request.datastore.to_owned());
            // What only the datastore has is written out, what lies there stays.
            let missing = Bundle {
                files: in_force
                    .files
                    .iter()
                    .filter(|(field, _)| !disk.bundle.files.contains_key(field))
                    .map(|(field, file)| (*field, file.clone()))
                    .collect(),
                ..Bundle::default()
            };
            let Files {
                steps: put,
                staged: secrets,
            } = files(&missing, disk, "from the datastore");
            steps.extend(put);
            staged.extend(secrets);
        }
    }
    request.survey.foresee(&in_force, disk)?;
    let (mut plan, made) = plan_init(&init_request(&request))?;
    steps.append(&mut plan.steps);
    number(&mut steps);
    staged.extend(made);
    plan.steps = steps;
    plan.datastore = written;
    plan.title = match plan.steps.is_empty() {
        true => format!(
            "nothing to reconcile: {} is in force",
            disk.server.display()
        ),
        false => format!("reconcile {} with the datastore", plan.node),
    };
    let mut notes = opened.notes.clone();
    notes.extend(extract_notes(disk));
    notes.append(&mut plan.notes);
    plan.notes = notes;
    Ok((plan, staged))
}

/// The datastore has nothing: the disk's files and what is missing of them become its data.
fn begin(mut request: Request<'_>) -> Result<(Plan, Vec<Staged>), ReconcileError> {
    request.survey.asked_datastore();
    let (mut plan, mut staged) = plan_init(&init_request(&request))?;
    let bundle = as_planned(&plan, &staged, request.disk, request.now);
    let owner = owner(&bundle)?;
    let save = created(&owner, &bundle, request.entropy)?;
    save.append(&mut plan.steps, &mut staged);
    plan.datastore = Some(request.datastore.to_owned());
    plan.title = format!("begin the cluster's bootstrap data with {}", plan.node);
    Ok((plan, staged))
}

fn created(
    owner: &Passphrase,
    bundle: &Bundle,
    entropy: &dyn Entropy,
) -> Result<Save, ReconcileError> {
    let reason = "the datastore has no bootstrap data yet";
    Ok(create(owner, bundle, entropy, reason)?)
}

/// The server token's password, as `cred/passwd` will hold it.
fn owner(bundle: &Bundle) -> Result<Passphrase, ReconcileError> {
    let missing = || ReconcileError::Incomplete {
        field: "the password of servers".to_owned(),
    };
    let text = bundle
        .content(Field::PasswdFile)
        .and_then(|content| str::from_utf8(content).ok())
        .ok_or_else(missing)?;
    let passwd = Passwd::parse(text).map_err(|_| missing())?;
    let password = passwd.password(SERVER.0).ok_or_else(missing)?;
    Ok(Passphrase::new(password.clone()))
}

fn init_request<'r>(request: &'r Request<'_>) -> init::Request<'r> {
    init::Request {
        id: request.id,
        spec: request.spec,
        survey: &request.survey,
        token: request.token,
        agent_token: None,
        now: request.now,
        entropy: request.entropy,
        keys: request.keys,
    }
}

/// The disk's files laid over the data's, all stamped `now`, so that no server finds its own
/// newer.
fn disk_over(data: &Bundle, disk: &Disk, now: UnixTime) -> Bundle {
    let mut merged = data.clone();
    let files = disk.bundle.files.iter();
    merged
        .files
        .extend(files.map(|(field, file)| (*field, file.clone())));
    merged.restamped(Stamp::at(now))
}

/// The files of the data as they will be once the plan is done.
fn as_planned(plan: &Plan, staged: &[Staged], disk: &Disk, now: UnixTime) -> Bundle {
    let stamp = Stamp::at(now);
    let mut bundle = disk.bundle.clone().restamped(stamp);
    for step in &plan.steps {
        let (Target::File { path, .. }, Action::Put { content, .. }) = (&step.target, &step.action)
        else {
            continue;
        };
        let field = Field::ALL
            .into_iter()
            .find(|field| field.under(&disk.server) == *path);
        let bytes = match content {
            Content::Text(text) => Some(text.as_bytes().to_vec().into()),
            Content::Staged { name, .. } => staged
                .iter()
                .find(|it| it.name == *name)
                .map(|it| it.bytes.clone()),
            _ => None,
        };
        if let (Some(field), Some(content)) = (field, bytes) {
            bundle.files.insert(field, SharedFile { stamp, content });
        }
    }
    bundle
}

fn number(steps: &mut [Step]) {
    for (step, number) in steps.iter_mut().zip(1_u32..) {
        step.number = number;
    }
}
