//! Private keys and what they are made of.

use std::collections::BTreeMap;

use pki::{Certificate, Digest, KeyAlgorithm, public_key_algorithm};

use super::context::{Context, RESTORE_AUTHORITY, ROTATE_AUTHORITY};
use super::{Finding, FindingKind, Severity};
use crate::catalogue::Kind;
use crate::inventory::{Facts, Inventory};

/// RSA moduli below this many bits are too short for anything new (NIST SP 800-57).
const LEAST_RSA_BITS: u32 = 2048;

/// Each certificate has its private key beside it.
pub(super) fn pairs(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for observed in &context.inventory().rows {
        let row = observed.row;
        let Some(certificate) = observed.file.first_certificate() else {
            continue;
        };
        let (found, mend) = match &row.kind {
            Kind::Authority { .. } => (observed.key.as_ref(), RESTORE_AUTHORITY.to_owned()),
            Kind::Leaf(_) => (observed.key.as_ref(), context.renew(row.id)),
            _ => continue,
        };
        let Some(key) = found else { continue };
        let finding = match key.keys().first() {
            None if key.is_absent() => {
                let certificate = observed.file.path.clone();
                Finding::new(
                    Severity::Broken,
                    &key.path,
                    FindingKind::KeyMissing { certificate },
                )
            }
            Some(facts) if facts.spki != certificate.spki_sha256() => {
                let key = key.path.clone();
                Finding::new(
                    Severity::Broken,
                    &observed.file.path,
                    FindingKind::KeyMismatch { key },
                )
            }
            // A key that cannot be read is another rule's.
            Some(_) | None => continue,
        };
        findings.push(finding.row(row.id).certificate(certificate).mend(mend));
    }
    listener_pair(context, findings);
}

/// The listener's certificate and key lie in one file.
fn listener_pair(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for observed in &context.inventory().rows {
        let Some(Facts::Listener(listener)) = observed.file.present().map(|p| &p.facts) else {
            continue;
        };
        let Some(leaf) = listener.certificates.first() else {
            continue;
        };
        if listener.key.map(|key| key.spki) != Some(leaf.spki_sha256()) {
            let path = &observed.file.path;
            let kind = match listener.key {
                Some(_) => FindingKind::KeyMismatch { key: path.clone() },
                None => FindingKind::KeyMissing {
                    certificate: path.clone(),
                },
            };
            let finding = Finding::new(Severity::Broken, path, kind).row(observed.row.id);
            findings.push(
                finding
                    .certificate(leaf)
                    .mend(context.rotate(observed.row.id)),
            );
        }
    }
}

/// Every CA certificate of the tree by its key.
pub(super) fn authority_keys(inventory: &Inventory) -> BTreeMap<Digest, &Certificate> {
    let mut keys: BTreeMap<Digest, &Certificate> = BTreeMap::new();
    let rows = inventory.rows.iter().filter(|observed| {
        matches!(
            observed.row.kind,
            Kind::Authority { .. } | Kind::CopyOf { .. }
        )
    });
    let certificates = rows
        .map(|observed| &observed.file)
        .chain(&inventory.strays)
        .flat_map(|file| file.certificates())
        .filter(|certificate| certificate.is_ca());
    for certificate in certificates {
        let known = keys.entry(certificate.spki_sha256()).or_insert(certificate);
        // A root also has cross-certificates; its own says best what it is.
        if !known.is_self_issued() && certificate.is_self_issued() {
            *known = certificate;
        }
    }
    keys
}

/// A CA's key file holds that CA's key and no other.
pub(super) fn several_in_authority_file(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let mut known = None;
    for observed in &context.inventory().rows {
        let (true, Some(file)) = (observed.row.is_authority(), observed.key.as_ref()) else {
            continue;
        };
        let [_, others @ ..] = file.keys() else {
            continue;
        };
        if others.is_empty() {
            continue;
        }
        let known = known.get_or_insert_with(|| authority_keys(context.inventory()));
        let names = others
            .iter()
            .filter_map(|key| known.get(&key.spki))
            .map(|certificate| certificate.subject().to_string())
            .collect();
        let kind = FindingKind::SeveralKeys {
            count: others.len().saturating_add(1),
            others: names,
        };
        findings.push(
            Finding::new(Severity::Warning, &file.path, kind)
                .row(observed.row.id)
                // The datastore holds the file too, and K3s refuses to start on another one.
                .mend(format!(
                    "store the others offline; {ROTATE_AUTHORITY}, with one key in each file"
                )),
        );
    }
}

/// Tokens are signed with the first key that verifies them.
pub(super) fn current_service_account_key(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let rows = &context.inventory().rows;
    let find = |wanted: fn(&Kind) -> bool| rows.iter().find(|o| wanted(&o.row.kind));
    let (Some(all), Some(current)) = (
        find(|kind| matches!(kind, Kind::ServiceAccountKeys)),
        find(|kind| matches!(kind, Kind::CurrentServiceAccountKey)),
    ) else {
        return;
    };
    let (Some(first), Some(signs)) = (all.file.keys().first(), current.file.keys().first()) else {
        return;
    };
    if first.spki != signs.spki {
        let keys = all.file.path.clone();
        let kind = FindingKind::CurrentKeyDiffers { keys };
        // A signer that is not among the verifiers makes tokens that nobody accepts.
        let verifies = all.file.keys().iter().any(|key| key.spki == signs.spki);
        let severity = if verifies {
            Severity::Due
        } else {
            Severity::Broken
        };
        let finding = Finding::new(severity, &current.file.path, kind).row(current.row.id);
        findings.push(finding.mend(context.restart()));
    }
}

/// No certificate's key is too short. A private key that short cannot be read at all.
pub(super) fn weak(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for observed in &context.inventory().rows {
        let certificates = match observed.row.kind {
            Kind::Authority { .. } => observed.file.certificates(),
            Kind::Leaf(_) | Kind::Listener { .. } => {
                observed.file.certificates().get(..1).unwrap_or_default()
            }
            _ => continue,
        };
        for certificate in certificates {
            let Some(algorithm) = public_key_algorithm(certificate.spki_der()) else {
                continue;
            };
            if is_weak(algorithm) {
                let kind = FindingKind::WeakKey { algorithm };
                let finding = Finding::new(Severity::Warning, &observed.file.path, kind);
                let mend = match observed.row.is_authority() {
                    true => ROTATE_AUTHORITY.to_owned(),
                    false => context.rotate(observed.row.id),
                };
                let finding = finding.row(observed.row.id).certificate(certificate);
                findings.push(finding.mend(mend));
            }
        }
    }
}

fn is_weak(algorithm: KeyAlgorithm) -> bool {
    matches!(algorithm, KeyAlgorithm::Rsa(bits) if bits < LEAST_RSA_BITS)
}

/// CAs have positive serial numbers (RFC 5280 section 4.1.2.2); K3s's own have not, so the tree
/// gets one note.
pub(super) fn serial_zero(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let mut zero: Vec<&Certificate> = Vec::new();
    for observed in context.authorities() {
        for certificate in observed.file.certificates() {
            let octets = certificate.serial().octets();
            if octets.iter().all(|octet| *octet == 0) && !zero.contains(&certificate) {
                zero.push(certificate);
            }
        }
    }
    if !zero.is_empty() {
        let kind = FindingKind::SerialZero { count: zero.len() };
        let path = &context.inventory().site.data_dir;
        findings.push(Finding::new(Severity::Note, path, kind));
    }
}
