//! How certificates hang together, in the bundles that their consumers read.

use pki::verify::{Reason, VerifyError};
use pki::{Certificate, Error, Purpose};

use super::context::{Context, Trust};
use super::{Finding, FindingKind, Severity};
use crate::catalogue::Kind;
use crate::inventory::ObservedRow;

/// Each leaf verifies with the bundle that its consumer reads, for each of its purposes, and was
/// issued by the CA in force.
///
/// API server and kubelet read the client CA's file for clients, the API server and every client
/// the server CA's, etcd its own two, aggregated API servers the request header CA's; an agent
/// reads its copies.
pub(super) fn leaves(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for observed in &context.inventory().rows {
        let (authority, purposes) = match &observed.row.kind {
            Kind::Leaf(spec) => (spec.authority, spec.purposes),
            Kind::Listener { authority } => (*authority, &[Purpose::ServerAuth][..]),
            _ => continue,
        };
        let (Some((leaf, chain)), Some(trust)) = (
            observed.file.certificates().split_first(),
            context.trust(authority),
        ) else {
            continue;
        };
        if let Some((severity, kind)) = verdict(context, leaf, chain, trust, purposes) {
            findings.push(
                Finding::new(severity, &observed.file.path, kind)
                    .row(observed.row.id)
                    .certificate(leaf)
                    .mend(context.rotate(observed.row.id)),
            );
        }
    }
}

/// What is wrong with a leaf's path, in one finding.
pub(super) fn verdict(
    context: &Context<'_>,
    leaf: &Certificate,
    chain: &[Certificate],
    trust: Trust<'_>,
    purposes: &[Purpose],
) -> Option<(Severity, FindingKind)> {
    if !leaf.validity().contains(context.now()) {
        return None;
    }
    // What a leaf may be used for is the rule about purposes; a path must only not forbid it.
    let usable: Vec<Purpose> = purposes
        .iter()
        .filter(|purpose| allows(leaf, purpose))
        .cloned()
        .collect();
    let verified = match usable.as_slice() {
        [] => context.verifies(leaf, chain, trust.certificates, &[Purpose::Any]),
        usable => context.verifies(leaf, chain, trust.certificates, usable),
    };
    let signer = trust.signer()?;
    let other = leaf.issuer().der() != signer.subject().der()
        || leaf.authority_key_identifier() != signer.subject_key_identifier();
    if other {
        let kind = FindingKind::OtherAuthority {
            issuer: leaf.issuer().to_string(),
            authority: signer.subject().to_string(),
            verifies: verified.is_ok(),
        };
        // K3s's next start makes it anew.
        let severity = match verified {
            Ok(()) => Severity::Due,
            Err(_) => Severity::Broken,
        };
        return Some((severity, kind));
    }
    let error = verified.err()?;
    Some((Severity::Broken, reason(trust, &error)?))
}

fn allows(leaf: &Certificate, purpose: &Purpose) -> bool {
    let allowed = leaf.purposes();
    allowed.is_empty() || allowed.contains(&Purpose::Any) || allowed.contains(purpose)
}

/// `None` when only dates of CAs are wrong: those have findings of their own.
fn reason(trust: Trust<'_>, error: &VerifyError) -> Option<FindingKind> {
    let reasons = error.reasons();
    let only_dates =
        |reason: &Reason| matches!(reason, Reason::Expired { .. } | Reason::NotYetValid { .. });
    if !reasons.is_empty() && reasons.iter().all(|found| only_dates(&found.reason)) {
        return None;
    }
    let weak = reasons.iter().find_map(|found| match &found.reason {
        Reason::Signature {
            error: Error::UnsupportedSignature { algorithm },
            ..
        } => Some(algorithm.clone()),
        _ => None,
    });
    Some(match weak {
        Some(algorithm) => FindingKind::WeakSignature { algorithm },
        None => FindingKind::ChainBroken {
            trust: trust.path.to_owned(),
            detail: error.to_string(),
        },
    })
}

/// Which leaves a copy of a CA must verify for the agent to work.
const MET_BY_AGENTS: [(&str, &str, Purpose); 3] = [
    ("server-ca", "serving-kube-apiserver", Purpose::ServerAuth),
    ("server-ca", "dynamic-listener", Purpose::ServerAuth),
    ("client-ca", "client-kube-apiserver", Purpose::ClientAuth),
];

/// An agent beside a server holds the server's CA files.
pub(super) fn copies(context: &Context<'_>, findings: &mut Vec<Finding>) {
    if !context.is_server() {
        return;
    }
    for observed in &context.inventory().rows {
        let Kind::CopyOf { authority } = observed.row.kind else {
            continue;
        };
        let (Some(copy), Some(original)) = (Trust::of(&observed.file), context.trust(authority))
        else {
            continue;
        };
        if copy.certificates == original.certificates {
            continue;
        }
        let breaks: Vec<String> = MET_BY_AGENTS
            .iter()
            .filter(|(of, ..)| *of == authority)
            .filter(|(_, row, purpose)| !verifies_with(context, row, purpose, copy))
            .map(|(_, row, _)| (*row).to_owned())
            .collect();
        let severity = match breaks.is_empty() {
            true => Severity::Due,
            false => Severity::Broken,
        };
        let original = original.path.to_owned();
        let kind = FindingKind::CopyDiffers { original, breaks };
        let finding = Finding::new(severity, &observed.file.path, kind);
        findings.push(finding.row(observed.row.id).mend(context.restart()));
    }
}

/// Whether the row's leaf verifies with another bundle; a row without a leaf breaks nothing.
pub(super) fn verifies_with(
    context: &Context<'_>,
    row: &str,
    purpose: &Purpose,
    trust: Trust<'_>,
) -> bool {
    let leaf = context
        .inventory()
        .row(row)
        .and_then(|observed| observed.file.certificates().split_first());
    let Some((leaf, chain)) = leaf else {
        return true;
    };
    let purposes = std::slice::from_ref(purpose);
    context
        .verifies(leaf, chain, trust.certificates, purposes)
        .is_ok()
}

/// What the controller manager signs with is the CA's first certificate, alone.
pub(super) fn first_of(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for observed in &context.inventory().rows {
        let Kind::FirstOf { authority } = observed.row.kind else {
            continue;
        };
        let (Some(found), Some(trust)) = (Trust::of(&observed.file), context.trust(authority))
        else {
            continue;
        };
        if found.certificates != trust.certificates.get(..1).unwrap_or_default() {
            let authority = trust.path.to_owned();
            let kind = FindingKind::NotFirst { authority };
            let finding = Finding::new(Severity::Due, &observed.file.path, kind);
            findings.push(finding.row(observed.row.id).mend(context.restart()));
        }
    }
}

/// No self-signed root stands before the cross-certificate for its key.
///
/// K3s appends its whole CA file to every leaf that it makes. OpenSSL takes the first issuer of
/// that name among what is served; a self-signed one ends its search, and a client that holds
/// only the old CA fails (reference section 13.2). Go searches on, which is why K3s's own script
/// writes that order.
pub(super) fn root_before_cross(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for observed in context.authorities() {
        let serving = serving_rows(context, observed)
            .filter_map(|leaf| Some((&leaf.file.path, misordered(leaf.file.certificates())?)));
        let (paths, served): (Vec<_>, Vec<_>) = serving.unzip();
        let served_paths: Vec<_> = paths.into_iter().cloned().collect();
        // Leaves issued before the file was put right still carry the old order.
        let Some((root, cross)) =
            misordered(observed.file.certificates()).or(served.first().copied())
        else {
            continue;
        };
        let severity = match served_paths.is_empty() {
            true => Severity::Note,
            false => Severity::Warning,
        };
        // Leaves that we issue carry the cross-certificate and nothing self-signed.
        let mend = context
            .rotate("serving-kube-apiserver")
            .replace("--service api-server", "--service api-server,k3s-server");
        let mend = (!served_paths.is_empty()).then_some(mend);
        let kind = FindingKind::RootBeforeCross {
            root: root.subject().to_string(),
            old: cross.issuer().to_string(),
            served: served_paths,
        };
        let finding = Finding::new(severity, &observed.file.path, kind)
            .row(observed.row.id)
            .certificate(root);
        findings.push(Finding {
            mends: mend,
            ..finding
        });
    }
}

/// The ports that strangers connect to: others than Go programs meet only these.
fn serving_rows<'a>(
    context: &Context<'a>,
    authority: &ObservedRow,
) -> impl Iterator<Item = &'a ObservedRow> {
    let id = authority.row.id;
    let rows = context.inventory().rows.iter();
    rows.filter(move |observed| match &observed.row.kind {
        Kind::Leaf(spec) => spec.authority == id && observed.row.id == "serving-kube-apiserver",
        Kind::Listener { authority } => *authority == id,
        _ => false,
    })
}

/// A self-issued certificate and a later one for the same name and key by somebody else.
fn misordered(chain: &[Certificate]) -> Option<(&Certificate, &Certificate)> {
    chain.iter().enumerate().find_map(|(index, root)| {
        let later = chain.get(index..).unwrap_or_default();
        let cross = later.iter().find(|cross| {
            !cross.is_self_issued()
                && cross.subject().der() == root.subject().der()
                && cross.spki_der() == root.spki_der()
        })?;
        root.is_self_issued().then_some((root, cross))
    })
}
