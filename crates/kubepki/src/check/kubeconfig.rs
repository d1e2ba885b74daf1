//! Kubeconfigs: what they point to and what they inline.

use std::path::PathBuf;

use pki::{Certificate, Purpose};

use super::chain::{verdict, verifies_with};
use super::context::{Context, Trust, quoted};
use super::{Finding, FindingKind, Severity};
use crate::catalogue::{Kind, Side};
use crate::inventory::{Facts, KubeconfigFacts, ObservedRow};

/// Kubeconfigs of components point to their leaf, its key and the server CA.
pub(super) fn references(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let inventory = context.inventory();
    for observed in &inventory.rows {
        let Kind::Kubeconfig { leaf, authority } = observed.row.kind else {
            continue;
        };
        let Some(facts) = facts_of(observed) else {
            continue;
        };
        let directory = match observed.row.side {
            Side::Agent => inventory.site.agent(),
            Side::Server | Side::Admin => inventory.site.server(),
        };
        let leaf_row = inventory.row(leaf);
        let expected = [
            Some(directory.join(authority)),
            leaf_row.map(|leaf| leaf.file.path.clone()),
            leaf_row.and_then(|leaf| Some(leaf.key.as_ref()?.path.clone())),
        ];
        let found: Vec<PathBuf> = facts
            .references
            .iter()
            .map(|path| inventory.resolve(path))
            .collect();
        for expected in expected.into_iter().flatten() {
            if !found.contains(&expected) {
                let found = found.clone();
                let kind = FindingKind::ReferenceOther { expected, found };
                let finding = Finding::new(Severity::Broken, &observed.file.path, kind);
                let mend = context.drop_in_rotate(leaf);
                findings.push(finding.row(observed.row.id).mend(mend));
            }
        }
    }
}

fn facts_of(observed: &ObservedRow) -> Option<&KubeconfigFacts> {
    match &observed.file.present()?.facts {
        Facts::Kubeconfig(facts) => Some(facts),
        _ => None,
    }
}

/// The administrator's kubeconfig inlines the present certificate, its key and the present CA.
pub(super) fn inlined(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for observed in &context.inventory().rows {
        let Kind::AdminKubeconfig { leaf, authority } = observed.row.kind else {
            continue;
        };
        let Some(facts) = facts_of(observed) else {
            continue;
        };
        let mend = format!("kubepki kubeconfig renew {}", quoted(&observed.file.path));
        for finding in users(context, observed, facts, leaf)
            .into_iter()
            .chain(clusters(context, observed, facts, authority))
        {
            findings.push(finding.row(observed.row.id).mend(mend.clone()));
        }
    }
}

fn users(
    context: &Context<'_>,
    observed: &ObservedRow,
    facts: &KubeconfigFacts,
    leaf_row: &str,
) -> Vec<Finding> {
    let path = &observed.file.path;
    let file = context.inventory().row(leaf_row);
    let mut findings = Vec::new();
    for user in &facts.users {
        let Some((leaf, chain)) = user.certificates.split_first() else {
            continue;
        };
        let mut add = |severity, kind| {
            findings.push(Finding::new(severity, path, kind).certificate(leaf));
        };
        if user.key.is_some_and(|key| key.spki != leaf.spki_sha256()) {
            let key = path.clone();
            add(Severity::Broken, FindingKind::KeyMismatch { key });
        }
        let trust = file
            .and_then(|file| file.row.leaf())
            .and_then(|spec| context.trust(spec.authority));
        let broken =
            trust.and_then(|trust| verdict(context, leaf, chain, trust, &[Purpose::ClientAuth]));
        if let Some((severity, kind)) = broken {
            add(severity, kind);
            continue;
        }
        let newer = file.filter(|file| is_other(file.file.first_certificate(), leaf));
        if let Some(newer) = newer {
            let kind = FindingKind::InlinedDiffers {
                user: user.name.clone(),
                file: newer.file.path.clone(),
            };
            add(Severity::Warning, kind);
        }
    }
    findings
}

/// Whether the file holds another certificate of the same subject: other users are people's own.
fn is_other(file: Option<&Certificate>, inlined: &Certificate) -> bool {
    file.is_some_and(|file| file != inlined && file.subject().der() == inlined.subject().der())
}

fn clusters(
    context: &Context<'_>,
    observed: &ObservedRow,
    facts: &KubeconfigFacts,
    authority: &str,
) -> Vec<Finding> {
    let path = &observed.file.path;
    let Some(present) = context.trust(authority) else {
        return Vec::new();
    };
    let differing = facts
        .authorities
        .iter()
        .filter(|(_, bundle)| bundle != present.certificates);
    differing
        .map(|(cluster, bundle)| {
            let trust = Trust {
                path,
                certificates: bundle,
            };
            let verifies = ["dynamic-listener", "serving-kube-apiserver"]
                .iter()
                .all(|row| verifies_with(context, row, &Purpose::ServerAuth, trust));
            let severity = match verifies {
                true => Severity::Warning,
                false => Severity::Broken,
            };
            let kind = FindingKind::InlinedAuthority {
                cluster: cluster.clone(),
                file: present.path.to_owned(),
                verifies,
            };
            Finding::new(severity, path, kind)
        })
        .collect()
}
