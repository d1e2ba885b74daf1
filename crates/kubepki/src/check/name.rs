//! What leaves say: subject, purposes, names.

use std::collections::BTreeSet;

use pki::{Certificate, Purpose, San};

use super::context::Context;
use super::{Finding, FindingKind, Severity};
use crate::catalogue::{LeafSpec, SanRule};
use crate::cluster::{LeafWant, want};
use crate::inventory::{DetectedRelease, Inventory};

/// Each leaf says what its row says.
pub(super) fn leaves(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let inventory = context.inventory();
    for (observed, spec) in context.leaves() {
        let row = observed.row;
        let Some(leaf) = observed.file.first_certificate() else {
            continue;
        };
        // Without a node name nothing can be wanted of it; with a leaf at hand that is rare.
        let Ok(wanted) = want(inventory, row, spec, context.question().wishes) else {
            continue;
        };
        let mut add = |kind, mend: String| {
            findings.push(
                Finding::new(Severity::Broken, &observed.file.path, kind)
                    .row(row.id)
                    .certificate(leaf)
                    .mend(mend),
            );
        };
        if let Some(kind) = wrong_subject(leaf, &wanted) {
            add(kind, context.renew(row.id));
        }
        if let Some(kind) = wrong_purposes(leaf, &wanted.purposes) {
            add(kind, context.rotate(row.id));
        }
        let missing = missing_names(inventory, leaf, spec, &wanted);
        if !missing.is_empty() {
            // A renewal adds what is configured and keeps what is there; the rest must be said.
            let unasked: Vec<String> = missing
                .iter()
                .filter(|san| !wanted.sans.contains(san))
                .map(ToString::to_string)
                .collect();
            let mend = match unasked.is_empty() || !context.is_server() {
                true => context.renew(row.id),
                false => format!("{} --tls-san {}", context.rotate(row.id), unasked.join(",")),
            };
            add(FindingKind::SanMissing { missing }, mend);
        }
    }
}

/// `CN` and the set of `O`: what authorizes. Their order does not.
fn wrong_subject(leaf: &Certificate, wanted: &LeafWant) -> Option<FindingKind> {
    let subject = leaf.subject();
    let found: BTreeSet<&str> = subject.organizations().into_iter().collect();
    let groups: BTreeSet<&str> = wanted.organizations.iter().map(String::as_str).collect();
    let same = subject.common_name() == Some(&wanted.common_name) && found == groups;
    (!same).then(|| {
        let mut text = format!("CN={}", wanted.common_name);
        for group in &wanted.organizations {
            text.push_str(",O=");
            text.push_str(group);
        }
        FindingKind::WrongSubject {
            found: subject.to_string(),
            wanted: text,
        }
    })
}

/// A leaf without the extension may be used for anything (RFC 5280 section 4.2.1.12).
fn wrong_purposes(leaf: &Certificate, wanted: &[Purpose]) -> Option<FindingKind> {
    let allowed = leaf.purposes();
    if allowed.is_empty() || allowed.contains(&Purpose::Any) {
        return None;
    }
    let missing: Vec<Purpose> = wanted
        .iter()
        .filter(|purpose| !allowed.contains(purpose))
        .cloned()
        .collect();
    (!missing.is_empty()).then_some(FindingKind::WrongPurposes { missing })
}

/// Names that are wanted by rule, by flag, or because every server of this kind has them.
fn missing_names(
    inventory: &Inventory,
    leaf: &Certificate,
    spec: &LeafSpec,
    wanted: &LeafWant,
) -> Vec<San> {
    let mut names = wanted.sans.clone();
    for rule in spec.sans {
        match rule {
            SanRule::KubernetesService => names.extend(
                ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(San::from_text),
            ),
            SanRule::ServerNames => {
                names.extend(["127.0.0.1", "localhost"].map(San::from_text));
                // Releases before 1.22 know no `::1`, and none of their files tells the release.
                if inventory.release != DetectedRelease::Unknown {
                    names.push(San::from_text("::1"));
                }
                names.extend(server_name(inventory, leaf));
            }
            SanRule::NodeName => names.extend(inventory.node_name().map(San::Dns)),
            SanRule::Literal(_) | SanRule::LiteralSince(..) | SanRule::NodeAddresses => {}
        }
    }
    let mut missing: Vec<San> = Vec::new();
    for name in names {
        if !leaf.sans().contains(&name) && !missing.contains(&name) {
            missing.push(name);
        }
    }
    missing
}

/// The node's name, if the leaf lacks it. `--with-node-id` appends an id to the agent's name
/// that the server's certificates do not carry (reference section 1.5).
fn server_name(inventory: &Inventory, leaf: &Certificate) -> Option<San> {
    let node = inventory.node_name()?;
    let carried = leaf.sans().iter().any(|san| match san {
        San::Dns(name) => node
            .strip_prefix(name.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-')),
        _ => false,
    });
    (!carried).then_some(San::Dns(node))
}
