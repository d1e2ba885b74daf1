//! Steps on the hosts of an RKE cluster in words: like steps together, however many there are.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write as _;

use super::show::proof_in_words;
use super::show_state;
use super::{
    Action, ContainerRestart, Content, Credential, FileSet, LeafId, Plan, Proof, StateEdit, Step,
    Target, kept_at,
};
use crate::rke::catalogue::{Per, row_of};

/// Tells of the steps at the beginning of `steps` that belong together; answers how many they
/// are, 0 if the first is none of ours.
pub(super) fn block(text: &mut String, plan: &Plan, steps: &[Step]) -> usize {
    let Some(first) = steps.first() else { return 0 };
    let alike = steps.iter().take_while(|step| {
        std::mem::discriminant(&step.action) == std::mem::discriminant(&first.action)
            && step.reason == first.reason
            && plan.deferrable.contains(&step.number) == plan.deferrable.contains(&first.number)
            && containers(step) == containers(first)
    });
    let count = match first.action {
        Action::Deploy { .. } | Action::RestartContainers { .. } => alike.count(),
        _ => 1,
    };
    let group = steps.get(..count).unwrap_or_default();
    match &first.action {
        Action::Deploy { .. } => deploy(text, plan, group),
        Action::RestartContainers { .. } => restart(text, plan, group),
        Action::SaveState { path } => {
            let _ = writeln!(
                text,
                "{} save the state in cluster {}",
                numbers(group),
                cluster(first)
            );
            line(
                text,
                "after:",
                &format!(
                    "Secret full-cluster-state of kube-system holds what {} holds",
                    path.display()
                ),
            );
        }
        Action::DeletePods { selectors } => {
            let _ = writeln!(
                text,
                "{} delete system pods of cluster {}, whose controllers make them anew",
                numbers(group),
                cluster(first)
            );
            wrapped(text, "labels:", selectors);
        }
        Action::Put {
            content: Content::RkeState(edit),
            ..
        } => {
            let _ = writeln!(text, "{} {}", numbers(group), headline_of_edit(first, edit));
            show_state::edit(text, plan, edit);
        }
        _ => return 0,
    }
    if gives_reason(&first.action) {
        line(text, "reason:", &first.reason);
    }
    if plan.deferrable.contains(&first.number) {
        let later = match plan.holds_back(first) {
            true => "put off with all that follows if it cannot be done now",
            false => "put off if it cannot be done now",
        };
        line(text, "later:", &format!("{later}, until `kubepki resume`"));
    }
    count
}

/// Whether a step's reason says more than what it does.
fn gives_reason(action: &Action) -> bool {
    match action {
        Action::SaveState { .. } => false,
        Action::Put {
            content: Content::RkeState(edit),
            ..
        } => matches!(**edit, StateEdit::Desire { .. }),
        _ => true,
    }
}

/// Whether a plan is for the hosts of a cluster, and not for one node.
pub(super) fn is_of_cluster(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| {
        let edits_state = step
            .action
            .contents()
            .iter()
            .any(|content| matches!(content, Content::RkeState(_)));
        edits_state
            || matches!(
                step.target,
                Target::Hosts { .. } | Target::Kubernetes { .. }
            )
    })
}

/// What one of our steps does, on one line; `None` for others.
pub(super) fn headline(step: &Step) -> Option<String> {
    Some(match (&step.action, &step.target) {
        (Action::Deploy { .. }, Target::Hosts { hosts }) => {
            format!("put files on {}", few(hosts))
        }
        (Action::RestartContainers { restarts }, Target::Hosts { hosts }) => {
            let mut names: Vec<String> = Vec::new();
            for restart in restarts {
                if !names.contains(&restart.container) {
                    names.push(restart.container.clone());
                }
            }
            format!("restart {} on {}", names.join(", "), few(hosts))
        }
        (
            Action::Put {
                content: Content::RkeState(edit),
                ..
            },
            _,
        ) => headline_of_edit(step, edit),
        (Action::SaveState { .. }, _) => format!("save the state in cluster {}", cluster(step)),
        (Action::DeletePods { .. }, _) => {
            format!("delete system pods of cluster {}", cluster(step))
        }
        _ => return None,
    })
}

fn headline_of_edit(step: &Step, edit: &StateEdit) -> String {
    let path = match &step.target {
        Target::File { path, .. } => path.file_name().unwrap_or(path.as_os_str()),
        _ => OsStr::new("the state file"),
    };
    let path = path.display();
    match edit {
        StateEdit::Desire { .. } => format!("put {path}: write what is wanted to desiredState"),
        StateEdit::Promote { .. } => format!("put {path}: copy what is proven to currentState"),
    }
}

fn cluster(step: &Step) -> &str {
    match &step.target {
        Target::Kubernetes { cluster } => cluster,
        _ => "?",
    }
}

/// A few names, or how many there are.
fn few(hosts: &[String]) -> String {
    match hosts {
        [] => "no host".to_owned(),
        hosts if hosts.len() > FEW => format!("{} hosts", hosts.len()),
        hosts => hosts.join(", "),
    }
}

/// The numbers of a group, as wide as the others'.
fn numbers(steps: &[Step]) -> String {
    match steps {
        [first, .., last] => format!("{:>4}-{}.", first.number, last.number),
        [only] => format!("{:>4}.", only.number),
        [] => String::new(),
    }
}

fn deploy(text: &mut String, plan: &Plan, steps: &[Step]) {
    let sets: Vec<(u32, &FileSet)> = steps
        .iter()
        .flat_map(|step| {
            match &step.action {
                Action::Deploy { sets } => sets.as_slice(),
                _ => &[],
            }
            .iter()
            .map(move |set| (step.number, set))
        })
        .collect();
    let waves = match steps.len() {
        1 => String::new(),
        waves => format!(", in {waves} waves"),
    };
    let hosts: Vec<String> = sets.iter().map(|(_, set)| set.host.clone()).collect();
    let _ = writeln!(
        text,
        "{} put files on {}{waves}",
        numbers(steps),
        few(&hosts)
    );
    // Hosts that get the same are told of together, in the order in which they come.
    let mut groups: Vec<(Vec<Told>, Vec<String>)> = Vec::new();
    for (_, set) in &sets {
        let told = changes(set);
        match groups.iter_mut().find(|(known, _)| *known == told) {
            Some((_, hosts)) => hosts.push(set.host.clone()),
            None => groups.push((told, vec![set.host.clone()])),
        }
    }
    for (told, hosts) in groups {
        wrapped(text, "on:", &hosts);
        for (form, names) in told {
            line(text, "", &format!("{form}: {names}"));
        }
    }
    if let Some((number, set)) = sets.first() {
        let kept = kept_at(&set.directory, &plan.id, *number);
        let each = match steps.len() {
            1 => String::new(),
            _ => " and so on for each step".to_owned(),
        };
        let kept = format!("the former files, in {}{each} on each host", kept.display());
        line(text, "kept:", &kept);
    }
}

/// A form, such as certificate and key, and the entries in that form.
type Told = (&'static str, String);

/// What changes on a host: by form, which entries, told so that like hosts are told alike.
fn changes(set: &FileSet) -> Vec<Told> {
    let mut parts: BTreeMap<&str, BTreeSet<&'static str>> = BTreeMap::new();
    let mut others = Vec::new();
    let (mut gone, mut strays, mut former) = (Vec::new(), 0_usize, 0_usize);
    for (file, change) in &set.files {
        let (entry, part) = parts_of(file);
        match (&change.content, part) {
            (None, _) if is_of_a_node(entry) => strays = strays.saturating_add(1),
            (None, _) => gone.push(file.clone()),
            (Some(Content::OnHost { .. }), _) => former = former.saturating_add(1),
            (Some(_), Some(part)) => drop(parts.entry(entry).or_default().insert(part)),
            (Some(_), None) => others.push(file.clone()),
        }
    }
    let mut forms: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for (entry, parts) in parts {
        let form = match (parts.contains("certificate"), parts.contains("key")) {
            (true, true) => "certificate and key",
            (true, false) => "certificate",
            (false, true) => "key",
            (false, false) => "kubeconfig",
        };
        let names = forms.entry(form).or_default();
        names.push(match row_of(entry).filter(|row| row.per != Per::Cluster) {
            Some(row) => format!("its own {}", row.id),
            None => entry.to_owned(),
        });
        if parts.contains("kubeconfig") && form != "kubeconfig" {
            forms
                .entry("kubeconfig")
                .or_default()
                .push(entry.to_owned());
        }
    }
    let mut told: Vec<Told> = forms
        .into_iter()
        .map(|(form, names)| (form, names.join(", ")))
        .collect();
    if former > 0 {
        told.push(("as it was before", files(former)));
    }
    if !others.is_empty() {
        told.push(("put", others.join(", ")));
    }
    if !gone.is_empty() {
        told.push(("removed", gone.join(", ")));
    }
    if strays > 0 {
        told.push(("removed", format!("{} of single nodes", files(strays))));
    }
    told
}

fn files(count: usize) -> String {
    format!("{count} file{}", if count == 1 { "" } else { "s" })
}

/// A file's entry and what part of it the file holds.
fn parts_of(file: &str) -> (&str, Option<&'static str>) {
    if let Some(entry) = file.strip_suffix("-key.pem") {
        return (entry, Some("key"));
    }
    if let Some(entry) = file.strip_suffix(".pem") {
        return (entry, Some("certificate"));
    }
    let kubeconfig = file.strip_prefix("kubecfg-");
    match kubeconfig.and_then(|rest| rest.strip_suffix(".yaml")) {
        Some(entry) => (entry, Some("kubeconfig")),
        None => (file, None),
    }
}

fn is_of_a_node(entry: &str) -> bool {
    row_of(entry).is_some_and(|row| row.per != Per::Cluster)
}

fn restarts(step: &Step) -> &[ContainerRestart] {
    match &step.action {
        Action::RestartContainers { restarts } => restarts,
        _ => &[],
    }
}

/// The containers that a step restarts, each once, in order.
fn containers(step: &Step) -> Vec<&str> {
    let mut names = Vec::new();
    for restart in restarts(step) {
        if !names.contains(&restart.container.as_str()) {
            names.push(&restart.container);
        }
    }
    names
}

fn restart(text: &mut String, plan: &Plan, steps: &[Step]) {
    let Some(first) = steps.first() else { return };
    let names = containers(first);
    let all: Vec<&ContainerRestart> = steps.iter().flat_map(restarts).collect();
    let mut waves: Vec<Vec<String>> = Vec::new();
    for step in steps {
        let mut hosts: Vec<String> = Vec::new();
        for restart in restarts(step) {
            if !hosts.contains(&restart.host) {
                hosts.push(restart.host.clone());
            }
        }
        waves.push(hosts);
    }
    let widest = waves.iter().map(Vec::len).max().unwrap_or_default();
    let hosts: Vec<String> = waves.into_iter().flatten().collect();
    let how = match (steps.len(), widest) {
        (1, 1) => String::new(),
        (1, _) => ", all at once".to_owned(),
        (_, 1) => ", one host after the other".to_owned(),
        (_, most) => format!(", {most} hosts at a time"),
    };
    let what = format!("restart {} on {}{how}", names.join(", "), few(&hosts));
    head(text, steps, &what);
    match told_already(plan, first.number, &hosts) {
        Some(step) => line(text, "hosts:", &format!("all of step {step}, in its order")),
        None if hosts.len() > FEW => wrapped(text, "hosts:", &hosts),
        None => {}
    }
    let guards: BTreeSet<String> = all
        .iter()
        .flat_map(|restart| restart.guard.iter().map(seen))
        .collect();
    for guard in guards {
        line(text, "while:", &guard);
    }
    for name in names {
        // What holds for each is said once.
        let mut told: BTreeMap<Vec<String>, Vec<&str>> = BTreeMap::new();
        for restart in all.iter().filter(|restart| restart.container == name) {
            let proofs = restart.proof.iter();
            let words = proofs.map(seen).collect();
            told.entry(words).or_default().push(&restart.host);
        }
        let several = told.len() > 1;
        for (words, hosts) in told {
            let mut on = String::new();
            if several {
                let hosts: Vec<String> = hosts.into_iter().map(str::to_owned).collect();
                on = format!(" on {}", few(&hosts));
            }
            let words = match words.is_empty() {
                true => "started anew".to_owned(),
                false => words.join("; "),
            };
            line(text, "then:", &format!("{name}{on}: {words}"));
        }
    }
}

/// The deployment before a step that names exactly these hosts, if they are many.
fn told_already(plan: &Plan, before: u32, hosts: &[String]) -> Option<u32> {
    let deployments = plan.steps.iter().rev().filter(|step| step.number < before);
    let same = deployments.filter_map(|step| match (&step.action, &step.target) {
        (Action::Deploy { .. }, Target::Hosts { hosts }) => Some((step.number, hosts)),
        _ => None,
    });
    let mut same = same.filter(|(_, known)| known.as_slice() == hosts);
    same.next()
        .map(|(number, _)| number)
        .filter(|_| hosts.len() > FEW)
}

/// What is looked at, in words that are the same for every host.
fn seen(proof: &Proof) -> String {
    match proof {
        Proof::ServesAt { address, .. } | Proof::ServesExactly { address, .. } => {
            format!("{} serves its new certificate", port_of(address))
        }
        Proof::ServesOtherAt { address, .. } => {
            format!("{} serves another certificate", port_of(address))
        }
        Proof::Healthy { url, .. } => format!("healthy at {}", port_of(url)),
        Proof::Accepts { client, .. } => match client {
            Credential::Leaf(LeafId(leaf)) => format!("an API server takes the new {leaf}"),
            Credential::RkeState { entry, .. } => format!("an API server takes {entry}"),
            Credential::RkeDesired { entry, .. } => {
                format!("an API server takes the new {entry}")
            }
        },
        Proof::Quorum {
            members, needed, ..
        } => match (*needed, members.len()) {
            (1, 1) => "the other etcd member is healthy".to_owned(),
            (needed, others) => format!("{needed} of {others} other etcd members are healthy"),
        },
        other => proof_in_words(other),
    }
}

/// The port that a URL names, or else the URL.
fn port_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest
        .split_once('/')
        .map_or(rest, |(authority, _)| authority);
    match authority.rsplit_once(':') {
        Some((_, port)) => format!("port {port}"),
        None => url.to_owned(),
    }
}

/// The first line of a group.
fn head(text: &mut String, steps: &[Step], words: &str) {
    let items: Vec<String> = words.split(' ').map(str::to_owned).collect();
    fill(text, format!("{} ", numbers(steps)), 8, &items, " ");
}

pub(super) fn line(text: &mut String, label: &str, words: &str) {
    let items: Vec<String> = words.split(' ').map(str::to_owned).collect();
    fill(text, format!("      {label:<7} "), 14, &items, " ");
}

fn wrapped(text: &mut String, label: &str, items: &[String]) {
    fill(text, format!("      {label:<7} "), 14, items, ", ");
}

/// Writes items in lines of at most [`WIDTH`] characters: the first after `current`, the others
/// indented.
fn fill(text: &mut String, mut current: String, indent: usize, items: &[String], between: &str) {
    let mut begun = false;
    for item in items {
        let lengths = [&current, between, item].map(|it: &str| it.chars().count());
        if begun && lengths.into_iter().sum::<usize>() > WIDTH {
            let _ = writeln!(text, "{current}{}", between.trim_end());
            current = " ".repeat(indent);
            begun = false;
        }
        if begun {
            current.push_str(between);
        }
        current.push_str(item);
        begun = true;
    }
    let _ = writeln!(text, "{current}");
}

/// More hosts than that are counted rather than named.
const FEW: usize = 4;

/// How wide a terminal is at night, in characters.
const WIDTH: usize = 100;

#[cfg(test)]
#[path = "show_hosts_tests.rs"]
mod tests;
