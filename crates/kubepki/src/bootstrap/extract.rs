//! Writing the data's files under a server directory, as K3s extracts them (reference section
//! 4.6): directories 0700, files 0600, times from the data; what is there keeps its mode.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pki::UnixTime;

use super::{Bundle, Directory, Disk, Field, SharedFile, Stamp};
use crate::host::Attributes;
use crate::init::Staged;
use crate::plan::{Action, Before, Content, PLAN_FORMAT, Plan, PlanId, Step, Target};

/// What an extraction is made from.
#[derive(Clone, Copy, Debug)]
pub struct Extraction<'a> {
    /// The plan's name.
    pub id: &'a PlanId,
    /// What is written.
    pub bundle: &'a Bundle,
    /// Where, and what is there.
    pub disk: &'a Disk,
    /// The directory that the plan belongs to: a data directory, or the target itself.
    pub root: &'a Path,
    /// The node's name, for people.
    pub node: &'a str,
    /// Now.
    pub now: UnixTime,
}

/// Steps that put files in place, and the secrets among them.
#[derive(Debug, Default)]
pub struct Files {
    /// In order; their numbers are the plan's business.
    pub steps: Vec<Step>,
    /// What has to be staged.
    pub staged: Vec<Staged>,
}

/// A plan that writes every file of the data. Without steps everything is in place, times
/// included.
pub fn plan_extract(request: &Extraction<'_>) -> (Plan, Vec<Staged>) {
    let Files { mut steps, staged } = files(request.bundle, request.disk, "from the datastore");
    for (step, number) in steps.iter_mut().zip(1_u32..) {
        step.number = number;
    }
    let plan = Plan {
        format: PLAN_FORMAT,
        id: request.id.clone(),
        undoes: None,
        datastore: None,
        irreversible: None,
        deferrable: std::collections::BTreeSet::new(),
        title: format!(
            "extract the bootstrap data to {}",
            request.disk.server.display()
        ),
        node: request.node.to_owned(),
        root: request.root.to_owned(),
        created: request.now,
        hypothetical: false,
        leaves: BTreeMap::new(),
        steps,
        notes: extract_notes(request.disk),
    };
    (plan, staged)
}

/// What is to be known of a directory that files are written to.
pub fn extract_notes(disk: &Disk) -> Vec<String> {
    let note = |(link, to): &(PathBuf, PathBuf)| {
        format!(
            "{} is a link: files below it are written to {}",
            link.display(),
            to.display()
        )
    };
    disk.links.iter().map(note).collect()
}

/// The steps that write every file of `bundle` that is not in place with its time, and the
/// directories that they need.
pub fn files(bundle: &Bundle, disk: &Disk, reason: &str) -> Files {
    let mut files = Files::default();
    let missing = disk
        .directories
        .iter()
        .filter(|(_, found)| *found == Directory::Missing);
    for (path, _) in missing {
        let needed = bundle
            .files
            .keys()
            .any(|field| field.under(&disk.server).starts_with(path));
        if needed {
            let attributes = Attributes::new(0o700);
            let action = Action::Put {
                attributes,
                content: Content::Directory,
            };
            let step = step(path.clone(), Before::Absent, action, "is missing");
            files.steps.push(step);
        }
    }
    for (field, file) in &bundle.files {
        if let Some(step) = place(*field, file, disk, reason, &mut files.staged) {
            files.steps.push(step);
        }
    }
    files
}

/// The step that puts one file in place; `None` where it is.
fn place(
    field: Field,
    file: &SharedFile,
    disk: &Disk,
    reason: &str,
    staged: &mut Vec<Staged>,
) -> Option<Step> {
    // Go takes the zero time of the old form for "leave it as it is".
    let mtime = (file.stamp != Stamp::ZERO).then_some((file.stamp.seconds, file.stamp.nanoseconds));
    let present = disk.fingerprints.get(&field);
    let there = disk.bundle.files.get(&field);
    if let Some(there) = there
        && there.content == file.content
        && (mtime.is_none() || there.stamp == file.stamp)
    {
        return None;
    }
    let (before, attributes) = match present {
        Some(present) => {
            let kept = present.attributes.clone();
            (Before::Present(present.clone()), kept)
        }
        None => (Before::Absent, Attributes::new(0o600)),
    };
    let attributes = Attributes {
        mtime,
        ..attributes
    };
    let content = content(field, file, staged);
    let action = Action::Put {
        attributes,
        content,
    };
    Some(step(field.under(&disk.server), before, action, reason))
}

/// By value where nothing is secret, else by name in the plan's staging directory.
fn content(field: Field, file: &SharedFile, staged: &mut Vec<Staged>) -> Content {
    if !field.is_secret()
        && let Ok(text) = str::from_utf8(&file.content)
    {
        return Content::Text(text.to_owned());
    }
    let name = staged_name(field);
    let sha256 = pki::sha256(&file.content).to_string();
    staged.push(Staged {
        name: name.clone(),
        bytes: file.content.clone(),
    });
    Content::Staged { name, sha256 }
}

/// What a field's file is called in a plan's staging directory.
pub fn staged_name(field: Field) -> String {
    format!("bootstrap-{}", field.name())
}

fn step(path: PathBuf, before: Before, action: Action, reason: &str) -> Step {
    let host = "local".to_owned();
    Step {
        number: 0,
        target: Target::File { host, path },
        before,
        action,
        reason: reason.to_owned(),
    }
}
