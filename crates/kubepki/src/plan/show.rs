//! A plan in words.

use std::fmt::Write as _;
use std::path::Path;

use pki::UnixTime;

use super::show_hosts::{self, is_of_cluster};
use super::{
    Action, Before, Content, FingerprintKind, KeyOrigin, Leaf, LeafId, Plan, Proof, Step, Target,
    TxnOperation,
};
use crate::inventory::{Facts, Inventory, Observed};

/// The plan as an operator reads it: node, path, before, after and reason of each step.
///
/// With the inventory that it was made from, what is there now is told by its end date; without
/// one, by its digest.
pub fn show(plan: &Plan, inventory: Option<&Inventory>) -> String {
    let mut text = format!("Plan {}: {}\n", plan.id, plan.title);
    let (of, directory) = match is_of_cluster(plan) {
        true => ("Cluster", "directory"),
        false => ("Node", "data directory"),
    };
    let _ = writeln!(
        text,
        "{} {}, {} {}",
        of,
        plan.node,
        directory,
        plan.root.display()
    );
    if let Some(datastore) = &plan.datastore {
        let _ = writeln!(text, "Datastore {datastore}");
    }
    if let Some(undone) = &plan.undoes {
        let _ = writeln!(text, "It takes back {undone}");
    }
    if plan.hypothetical {
        text.push_str("Made for another moment (--at): it cannot be applied\n");
    }
    // Whom it touches comes before how: plans of fifty steps are read from their beginning.
    if let Some(reason) = &plan.irreversible {
        let _ = writeln!(text, "It cannot be taken back: {reason}");
    }
    for note in &plan.notes {
        let _ = writeln!(text, "Note: {note}");
    }
    let mut steps = plan.steps.as_slice();
    while let Some((step, others)) = steps.split_first() {
        let told = show_hosts::block(&mut text, plan, steps);
        if told > 0 {
            steps = steps.get(told..).unwrap_or_default();
            continue;
        }
        steps = match others.first().and_then(|next| pair(step, next)) {
            Some((certificate, key)) => {
                show_pair(&mut text, plan, certificate, key, inventory);
                others.get(1..).unwrap_or_default()
            }
            None => {
                show_step(&mut text, plan, step, inventory);
                others
            }
        };
    }
    text
}

/// Two steps in a row that put a certificate's file and its key's in place, whichever comes first.
fn pair<'a>(step: &'a Step, next: &'a Step) -> Option<(&'a Step, &'a Step)> {
    let path = |step: &'a Step| match (&step.target, &step.action) {
        (Target::File { path, .. }, Action::Put { .. }) => Some(path.as_path()),
        _ => None,
    };
    let (one, other) = (path(step)?, path(next)?);
    let same = one.with_extension("") == other.with_extension("") && step.reason == next.reason;
    let ends = |path: &Path, extension: &str| path.extension().is_some_and(|it| it == extension);
    match (ends(one, "crt"), ends(other, "crt")) {
        (true, false) if same && ends(other, "key") => Some((step, next)),
        (false, true) if same && ends(one, "key") => Some((next, step)),
        _ => None,
    }
}

fn show_pair(
    text: &mut String,
    plan: &Plan,
    certificate: &Step,
    key: &Step,
    inventory: Option<&Inventory>,
) {
    let (name, path) = named(plan, &certificate.target);
    let (_, path_of_key) = named(plan, &key.target);
    let (first, second) = match certificate.number < key.number {
        true => (certificate.number, key.number),
        false => (key.number, certificate.number),
    };
    let _ = writeln!(
        text,
        "{first:>4}. put {name} and .key (steps {first}, {second})"
    );
    let was_key = was(&key.before, path_of_key, inventory);
    let was = match was(&certificate.before, path, inventory) {
        was if was == was_key => was,
        was => format!("{was}; key: {was_key}"),
    };
    let _ = writeln!(text, "      before: {was}");
    let (_, mut after) = becomes(plan, &certificate.action);
    // A leaf's certificate tells of its key.
    let of_leaf = |content: &&Content| matches!(content, Content::LeafKey(_));
    if !key.action.contents().iter().any(of_leaf) {
        after = format!("{after}; key: {}", becomes(plan, &key.action).1);
    }
    let _ = writeln!(text, "      after:  {after}");
    let _ = writeln!(text, "      reason: {}", certificate.reason);
}

fn show_step(text: &mut String, plan: &Plan, step: &Step, inventory: Option<&Inventory>) {
    let Step {
        number,
        target,
        before,
        action,
        reason,
    } = step;
    let (name, path) = named(plan, target);
    let was = was(before, path, inventory);
    let (verb, becomes) = becomes(plan, action);
    let _ = writeln!(text, "{number:>4}. {verb} {name}");
    let _ = writeln!(text, "      before: {was}");
    let _ = writeln!(text, "      after:  {becomes}");
    let _ = writeln!(text, "      reason: {reason}");
}

/// What a step's target is called, and where it is if it is a file.
fn named<'a>(plan: &Plan, target: &'a Target) -> (String, Option<&'a Path>) {
    match target {
        Target::File { path, .. } => {
            let below = path.strip_prefix(&plan.root).ok();
            let shown = below
                .filter(|it| !it.as_os_str().is_empty())
                .unwrap_or(path);
            (shown.display().to_string(), Some(path.as_path()))
        }
        Target::DatastoreKey { key } => (format!("datastore key {key}"), None),
        Target::Unit { name, .. } => (name.clone(), None),
        Target::Container { name, .. } => (format!("container {name}"), None),
        Target::Http { method, url } => (format!("{method} {url}"), None),
        Target::Manual { host } => (person(host), None),
        Target::Hosts { hosts } => (hosts.join(", "), None),
        Target::Kubernetes { cluster } => (format!("cluster {cluster}"), None),
    }
}

/// What a step does to what, on one line.
pub fn headline(step: &Step) -> String {
    if let Some(told) = show_hosts::headline(step) {
        return told;
    }
    let verb = headline_of(&step.action);
    let target = match &step.target {
        Target::File { path, .. } => path.display().to_string(),
        Target::DatastoreKey { key } => format!("datastore key {key}"),
        Target::Unit { name, .. } => name.clone(),
        Target::Container { name, .. } => format!("container {name}"),
        Target::Http { method, url } => format!("{method} {url}"),
        Target::Manual { host } => person(host),
        Target::Hosts { hosts } => hosts.join(", "),
        Target::Kubernetes { cluster } => format!("cluster {cluster}"),
    };
    format!("{verb} {target}")
}

/// The verb of a headline.
fn headline_of(action: &Action) -> &'static str {
    match action {
        Action::Put { .. } => "put",
        Action::Remove => "remove",
        Action::Txn { operation } => txn(operation),
        Action::Call { .. } => "call",
        Action::Restart { .. } => "restart",
        Action::Stop { .. } => "stop",
        Action::Deploy { .. } => "deploy to",
        Action::RestartContainers { .. } => "restart containers of",
        Action::SaveState { .. } => "save the state in",
        Action::DeletePods { .. } => "delete pods of",
        Action::Manual { .. } => "wait for",
    }
}

fn was(before: &Before, path: Option<&Path>, inventory: Option<&Inventory>) -> String {
    let known = path.and_then(|path| inventory.and_then(|i| i.observed(path)));
    match before {
        Before::Absent => "nothing".to_owned(),
        Before::Any => "whatever it is".to_owned(),
        Before::Revision(revision) => format!("revision {revision}"),
        Before::LeftBy(step) | Before::RevisionOfStep(step) => format!("as step {step} leaves it"),
        Before::Present(found) => match &found.kind {
            FingerprintKind::Directory => "a directory".to_owned(),
            FingerprintKind::Link(to) => format!("a link to {}", to.display()),
            FingerprintKind::File(sha256) => match known.and_then(summary) {
                Some(summary) => summary,
                None => format!("a file, SHA-256 {}", short(sha256)),
            },
        },
    }
}

fn txn(operation: &TxnOperation) -> &'static str {
    match operation {
        TxnOperation::Create(_) => "create",
        TxnOperation::Update(_) => "update",
        TxnOperation::Delete => "delete",
    }
}

fn summary(observed: &Observed) -> Option<String> {
    match &observed.present()?.facts {
        Facts::Certificates(certificates) => certificates
            .first()
            .map(|leaf| ends(leaf.validity().not_after)),
        Facts::Listener(listener) => listener
            .certificates
            .first()
            .map(|leaf| ends(leaf.validity().not_after)),
        Facts::Kubeconfig(facts) => facts
            .users
            .iter()
            .filter_map(|user| user.certificates.first())
            .map(|leaf| format!("inlined certificate {}", ends(leaf.validity().not_after)))
            .next(),
        Facts::Keys(keys) => keys.first().map(|key| {
            format!(
                "{} key, SPKI {}",
                key.algorithm,
                short(&key.spki.to_string())
            )
        }),
        _ => None,
    }
}

fn ends(not_after: UnixTime) -> String {
    format!("ends {not_after}")
}

fn becomes(plan: &Plan, action: &Action) -> (&'static str, String) {
    match action {
        Action::Put {
            content,
            attributes,
        } => {
            let mode = format!(", mode {:04o}", attributes.mode);
            ("put", content_in_words(plan, content) + &mode)
        }
        Action::Remove => ("remove", "nothing".to_owned()),
        Action::Txn { operation } => {
            let value = operation.content().map(|it| content_in_words(plan, it));
            let value = value.map(|value| format!("{value}, at a new revision"));
            (
                txn(operation),
                value.unwrap_or_else(|| "nothing".to_owned()),
            )
        }
        Action::Call { body, .. } => ("call", format!("{} sent", content_in_words(plan, body))),
        Action::Restart {
            command: Some(command),
            proof,
        } => (
            "restart",
            format!("`{}` run{}", command.join(" "), proven(proof)),
        ),
        Action::Restart {
            command: None,
            proof,
        } => ("restart", format!("restarted{}", proven(proof))),
        Action::Stop { command, proof } => {
            let done = match command {
                Some(command) => format!("`{}` run", command.join(" ")),
                None => "stopped".to_owned(),
            };
            ("stop", done + &proven(proof))
        }
        // What is done on clusters is told in [`show_hosts`].
        Action::Deploy { .. }
        | Action::RestartContainers { .. }
        | Action::SaveState { .. }
        | Action::DeletePods { .. } => ("do", headline_of(action).to_owned()),
        Action::Manual { instruction, probe } => {
            ("wait for", format!("{instruction}{}", proven(probe)))
        }
    }
}

/// Who acts where a program cannot.
fn person(host: &str) -> String {
    match host {
        "local" => "a person".to_owned(),
        host => format!("a person on {host}"),
    }
}

/// What is looked at after a restart, or to see that a person has acted.
fn proven(proofs: &[Proof]) -> String {
    let words: Vec<String> = proofs.iter().map(proof_in_words).collect();
    match words.is_empty() {
        true => String::new(),
        false => format!(", then {}", words.join(", ")),
    }
}

/// What a proof looks at.
pub(super) fn proof_in_words(proof: &Proof) -> String {
    match proof {
        Proof::Serves { address, leaf } => format!("{address} serves the new {leaf}"),
        Proof::ServesOther { address, .. } => format!("{address} serves another certificate"),
        Proof::ServesUnder { address, authority } => match subject(authority) {
            Some(name) => format!("{address} serves a certificate that {name} issued"),
            None => format!("{address} serves a certificate of the new CA"),
        },
        Proof::Listens { address } => format!("{address} answers"),
        Proof::Silent { address } => format!("nothing listens on {address}"),
        Proof::Active { unit } => format!("{unit} is active"),
        Proof::FileRenewed { path, .. } => format!("{} is new", path.display()),
        Proof::ServesAt { address, leaf, .. } => format!("{address} serves the new {leaf}"),
        Proof::ServesOtherAt { address, .. } => format!("{address} serves another certificate"),
        Proof::ServesExactly {
            address, sha256, ..
        } => format!("{address} serves the certificate with SHA-256 {sha256}"),
        Proof::Healthy { url, .. } => format!("{url} is healthy"),
        Proof::Accepts { url, .. } => format!("{url} takes the new certificate"),
        Proof::Quorum {
            members, needed, ..
        } => {
            format!(
                "{needed} of {} other etcd members are healthy",
                members.len()
            )
        }
        Proof::Holds { path, .. } => format!("{} is as planned", path.display()),
    }
}

fn content_in_words(plan: &Plan, content: &Content) -> String {
    let leaf = |id: &LeafId| plan.leaves.get(id);
    match content {
        Content::Directory => "a directory".to_owned(),
        Content::Link(to) => format!("a link to {}", to.display()),
        Content::Text(text) => format!("{} bytes of text", text.len()),
        Content::Staged { .. } => "a prepared secret".to_owned(),
        Content::Backup { plan, step, .. } => format!("what step {step} of {plan} replaced"),
        Content::Restamped {
            plan, step, sent, ..
        } => {
            let did = if *sent { "sent" } else { "replaced" };
            format!("what step {step} of {plan} {did}, its files' times set to now")
        }
        Content::CopyOf { path, .. } => format!("a copy of {}", path.display()),
        Content::LeafKey(id) => leaf(id).map_or_else(String::new, key_in_words),
        Content::RkeState(_) => "the state file with this plan's changes".to_owned(),
        Content::OnHost { .. } => "what was there before".to_owned(),
        Content::AdminKubeconfig { server, .. } => format!("kubeconfig for {server}"),
        Content::BareCertificate(id) | Content::LeafCertificate(id) => {
            leaf(id).map_or_else(String::new, certificate_in_words)
        }
        Content::Kubeconfig { user, leaf: id, .. } => {
            let leaf = leaf(id).map_or_else(String::new, certificate_in_words);
            format!("user {user}: {leaf}")
        }
        Content::NewKubeconfig {
            server, leaf: id, ..
        } => {
            let leaf = leaf(id).map_or_else(String::new, certificate_in_words);
            format!("kubeconfig for {server}: {leaf}")
        }
        Content::ListenerSecret { leaf: id } | Content::NewListenerSecret { leaf: id } => {
            leaf(id).map_or_else(String::new, certificate_in_words)
        }
    }
}

pub(super) fn key_in_words(leaf: &Leaf) -> String {
    match &leaf.key {
        KeyOrigin::New { algorithm } => format!("a new {algorithm} key"),
        KeyOrigin::Keep { spki, .. } => format!("the present key, SPKI {}", short(spki)),
    }
}

pub(super) fn certificate_in_words(leaf: &Leaf) -> String {
    let Some(certificate) = &leaf.certificate else {
        return key_in_words(leaf);
    };
    let issuer = subject(&certificate.issuer.certificate);
    let names = match certificate.sans.len() {
        0 => String::new(),
        count => format!(", {count} names"),
    };
    format!(
        "{}{names}, {}, from {}, {}",
        certificate.common_name,
        ends(certificate.not_after),
        issuer.as_deref().unwrap_or("?"),
        key_in_words(leaf)
    )
}

/// The name of the first certificate in PEM.
pub(super) fn subject(pem: &str) -> Option<String> {
    let certificates = pki::Certificate::all_from_pem(pem.as_bytes()).ok()?;
    Some(certificates.first()?.subject().to_string())
}

/// The first 16 characters of a digest.
fn short(digest: &str) -> &str {
    digest.get(..16).unwrap_or(digest)
}

#[cfg(test)]
#[path = "show_tests.rs"]
mod tests;
