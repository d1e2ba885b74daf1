//! Whether the steps of a plan that concern hosts fit together.

use std::collections::BTreeSet;
use std::path::Path;

use super::hosts::place;
use super::http::Url;
use crate::plan::{
    Action, Before, ContainerRestart, Content, Credential, FileSet, LeafId, Plan, Proof, Step,
    Target,
};

/// Checks a step on hosts or at a cluster's API.
pub(super) fn check_hosts(plan: &Plan, step: &Step) -> Result<(), String> {
    if step.before != Before::Any {
        return Err("what must be there stands with its files, not with the step".to_owned());
    }
    let Target::Hosts { hosts } = &step.target else {
        return Ok(());
    };
    let named: BTreeSet<&str> = hosts.iter().map(String::as_str).collect();
    if named.len() != hosts.len() || named.is_empty() || named.contains("") {
        return Err("it names no hosts, or one of them twice".to_owned());
    }
    match &step.action {
        Action::Deploy { sets } => {
            let of: BTreeSet<&str> = sets.iter().map(|set| set.host.as_str()).collect();
            if of != named || of.len() != sets.len() {
                return Err("its sets of files are not one for each of its hosts".to_owned());
            }
            sets.iter().try_for_each(|set| check_set(plan, step, set))
        }
        Action::RestartContainers { restarts } => {
            let of: BTreeSet<&str> = restarts.iter().map(|it| it.host.as_str()).collect();
            if of != named {
                return Err("its containers are not those of its hosts".to_owned());
            }
            restarts.iter().try_for_each(check_restart)
        }
        _ => Ok(()),
    }
}

fn check_set(plan: &Plan, step: &Step, set: &FileSet) -> Result<(), String> {
    let FileSet {
        host,
        directory,
        files,
    } = set;
    let at = directory.display();
    if !directory.is_absolute() || directory.parent().is_none() {
        return Err(format!("{host}: {at} is no absolute path of a directory"));
    }
    if files.is_empty() {
        return Err(format!("{host}: there are no files for {at}"));
    }
    for (name, change) in files {
        if !is_name(name) {
            return Err(format!("{host}: {name:?} is no name of a file in {at}"));
        }
        let fits = match &change.content {
            None => change.before != Before::Absent,
            Some(content) => is_for_hosts(content),
        };
        if !fits {
            return Err(format!(
                "{host}: the content of {name} does not fit its place"
            ));
        }
        match change.before {
            Before::Absent | Before::Present(_) | Before::Any => {}
            Before::LeftBy(number) if deployed_last(plan, step, set, name) == Some(number) => {}
            _ => return Err(format!("{host}: the condition on {name} cannot hold")),
        }
    }
    Ok(())
}

/// The last step before `step` that changes the same file.
fn deployed_last(plan: &Plan, step: &Step, set: &FileSet, name: &str) -> Option<u32> {
    let at = place(&set.host, &set.directory, name);
    let changes = |other: &&Step| match &other.action {
        Action::Deploy { sets } => sets.iter().any(|other| {
            let mut names = other.files.keys();
            names.any(|name| place(&other.host, &other.directory, name) == at)
        }),
        _ => false,
    };
    let earlier = plan.steps.iter().filter(|it| it.number < step.number);
    earlier.filter(changes).map(|it| it.number).next_back()
}

/// Whether a file's condition that an earlier step meets can hold.
pub(super) fn left_by(plan: &Plan, step: &Step, number: u32) -> bool {
    let same = |other: &&Step| other.number < step.number && other.target == step.target;
    plan.steps.iter().rfind(same).map(|it| it.number) == Some(number)
}

fn is_name(name: &str) -> bool {
    let plain = |letter: char| !letter.is_control() && letter != '/';
    !name.is_empty() && name.chars().all(plain) && Path::new(name).file_name().is_some()
}

/// Whether a content can be made without looking at the file that it replaces, which lies on
/// another machine.
fn is_for_hosts(content: &Content) -> bool {
    matches!(
        content,
        Content::Text(_)
            | Content::Staged { .. }
            | Content::Backup { .. }
            | Content::CopyOf { .. }
            | Content::OnHost { .. }
            | Content::LeafKey(_)
            | Content::LeafCertificate(_)
            | Content::BareCertificate(_)
    )
}

fn check_restart(restart: &ContainerRestart) -> Result<(), String> {
    let ContainerRestart {
        host,
        container,
        guard,
        proof,
    } = restart;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if container.is_empty() || !container.bytes().all(plain) {
        return Err(format!("{host}: {container:?} is no name of a container"));
    }
    for proof in guard.iter().chain(proof) {
        for url in urls(proof) {
            Url::parse(url).map_err(|why| format!("{url:?} is no URL: {why}"))?;
        }
    }
    Ok(())
}

fn urls(proof: &Proof) -> Vec<&str> {
    match proof {
        Proof::Healthy { url, .. } | Proof::Accepts { url, .. } => vec![url],
        Proof::Quorum { members, .. } => members.iter().map(|(_, url)| url.as_str()).collect(),
        _ => Vec::new(),
    }
}

/// The leaf that a proof is about, which must have a certificate.
pub(super) fn leaf_of_proof(proof: &Proof) -> Option<&LeafId> {
    let client = match proof {
        Proof::Serves { leaf, .. } | Proof::ServesAt { leaf, .. } => return Some(leaf),
        Proof::Healthy { client, .. } => client.as_ref(),
        Proof::Accepts { client, .. } | Proof::Quorum { client, .. } => Some(client),
        _ => None,
    };
    match client {
        Some(Credential::Leaf(leaf)) => Some(leaf),
        Some(Credential::RkeState { .. } | Credential::RkeDesired { .. }) | None => None,
    }
}

/// Whether what may be put off can be: what comes after it on the same hosts must wait too.
pub(super) fn check_deferrable(plan: &Plan) -> Result<(), String> {
    let mut waiting: BTreeSet<&str> = BTreeSet::new();
    let mut known = BTreeSet::new();
    for step in &plan.steps {
        known.insert(step.number);
        let Target::Hosts { hosts } = &step.target else {
            continue;
        };
        if plan.deferrable.contains(&step.number) {
            waiting.extend(hosts.iter().map(String::as_str));
        } else if let Some(host) = hosts.iter().find(|host| waiting.contains(host.as_str())) {
            return Err(format!(
                "step {} cannot be put off, but an earlier one for {host} can",
                step.number
            ));
        }
    }
    match plan.deferrable.difference(&known).next() {
        Some(number) => Err(format!("step {number} may be put off, but there is none")),
        None => Ok(()),
    }
}
