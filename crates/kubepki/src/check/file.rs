//! Files: there, readable, not open to others.

use super::context::{Context, RESTORE_AUTHORITY, quoted};
use super::{Finding, FindingKind, Severity};
use crate::catalogue::{Kind, Row, Side};
use crate::inventory::{Facts, Found, Observed, ObservedRow};
use crate::plan::FingerprintKind;

/// Every file that is there can be read and is what it should be.
pub(super) fn readable(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for observed in &context.inventory().rows {
        for file in [Some(&observed.file), observed.key.as_ref()]
            .into_iter()
            .flatten()
        {
            if let Some(finding) = unreadable(context, observed, file) {
                findings.push(finding.row(observed.row.id));
            }
        }
    }
}

fn unreadable(context: &Context<'_>, observed: &ObservedRow, file: &Observed) -> Option<Finding> {
    let row = observed.row;
    let mend = mend_file(context, row, file);
    let (severity, kind) = match &file.found {
        Found::Absent => return None,
        Found::Unreadable(detail) => (
            Severity::Broken,
            FindingKind::Unreadable {
                detail: detail.clone(),
            },
        ),
        Found::Present(present) => match &present.facts {
            Facts::Malformed(detail) => (
                Severity::Broken,
                FindingKind::Malformed {
                    detail: detail.clone(),
                },
            ),
            Facts::Directory => (Severity::Broken, FindingKind::Directory),
            // The token's old names are links by design, into the live path.
            Facts::Link(_) if matches!(row.kind, Kind::TokenAlias) => return None,
            Facts::Link(target) => {
                let outside = context.inventory().site.is_outside(&file.path, target);
                // A relative target counts from the link, a shell from where it stands.
                let source = file.path.parent().unwrap_or(&file.path).join(target);
                let kind = FindingKind::Link {
                    target: target.clone(),
                    outside,
                };
                return Some(
                    Finding::new(Severity::Warning, &file.path, kind).mend(format!(
                        "replace the link by the file: \
                         cp --remove-destination --preserve=all {} {}",
                        quoted(&source),
                        quoted(&file.path)
                    )),
                );
            }
            _ => return None,
        },
    };
    Some(Finding::new(severity, &file.path, kind).mend(mend))
}

/// Directories that are links out of the tree: what lies there can be on another disk, or another
/// node's.
pub(super) fn foreign_directories(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for (link, target) in context.inventory().foreign_directories() {
        let kind = FindingKind::ForeignDirectory {
            target: target.to_owned(),
        };
        let mend = "see that it is this node's own and mounted before K3s starts";
        findings.push(Finding::new(Severity::Warning, link, kind).mend(mend));
    }
}

/// What brings back a file that is gone or spoilt.
fn mend_file(context: &Context<'_>, row: &'static Row, file: &Observed) -> String {
    match &row.kind {
        Kind::Authority { .. } => RESTORE_AUTHORITY.to_owned(),
        Kind::Leaf(_) | Kind::Key => match &file.found {
            // These are never replaced, for nobody knows what they are there for.
            Found::Unreadable(_) => {
                format!("rm {}, then {}", quoted(&file.path), context.renew(row.id))
            }
            Found::Present(present) if matches!(present.facts, Facts::Directory) => {
                format!(
                    "rm -r {}, then {}",
                    quoted(&file.path),
                    context.renew(row.id)
                )
            }
            _ => context.renew(row.id),
        },
        Kind::ServiceAccountKeys => {
            "put back a backup, or restart K3s: it takes the file from the datastore; with a \
             new one every service-account token loses its worth"
                .to_owned()
        }
        Kind::Kubeconfig { leaf, .. } => context.drop_in_rotate(leaf),
        _ if file.is_absent() => context.restart(),
        Kind::Listener { .. } => format!("rm {}, then {}", quoted(&file.path), context.restart()),
        _ => context.restart(),
    }
}

/// Whether K3s would have made the row on this node.
fn expected(context: &Context<'_>, row: &Row) -> bool {
    row.depends_on.is_none() && context.inventory().release.expects(row)
}

/// Every file that the release has is there.
pub(super) fn missing(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let rows = &context.inventory().rows;
    let no_agent = context.is_server()
        && rows
            .iter()
            .filter(|observed| observed.row.side == Side::Agent)
            .all(|observed| observed.file.is_absent());
    if no_agent {
        let agent = context.inventory().site.agent();
        findings.push(Finding::new(Severity::Note, &agent, FindingKind::NoAgent));
    }
    for observed in rows {
        let row = observed.row;
        let skipped = no_agent && row.side == Side::Agent;
        if !observed.file.is_absent() || skipped || !expected(context, row) {
            continue;
        }
        let severity = match row.kind {
            // K3s makes these at every start from what else is there.
            Kind::FirstOf { .. }
            | Kind::CurrentServiceAccountKey
            | Kind::Listener { .. }
            | Kind::TokenAlias
            | Kind::Plain
            | Kind::AdminKubeconfig { .. } => Severity::Due,
            _ => Severity::Broken,
        };
        let mend = mend_file(context, row, &observed.file);
        let finding = Finding::new(severity, &observed.file.path, FindingKind::Missing);
        findings.push(finding.row(row.id).mend(mend));
    }
}

/// Rows that came later are no fault; an upgrade makes them.
pub(super) fn newer_rows(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let inventory = context.inventory();
    let rows: Vec<&'static str> = inventory
        .rows
        .iter()
        .filter(|observed| observed.file.is_absent())
        .map(|observed| observed.row)
        .filter(|row| row.until.is_none() && row.since.oldest().is_some())
        .filter(|row| !inventory.release.expects(row))
        .map(|row| row.id)
        .collect();
    if !rows.is_empty() {
        let path = &inventory.site.data_dir;
        let kind = FindingKind::NewerRows { rows };
        findings.push(Finding::new(Severity::Note, path, kind));
    }
}

/// Secrets are their owner's alone; nobody else writes what is trusted.
pub(super) fn modes(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for observed in &context.inventory().rows {
        let secret = matches!(
            observed.row.kind,
            Kind::Key
                | Kind::ServiceAccountKeys
                | Kind::CurrentServiceAccountKey
                | Kind::Listener { .. }
                | Kind::AdminKubeconfig { .. }
                | Kind::Secret
                | Kind::TokenAlias
        );
        let wanted = if secret { 0o600 } else { observed.row.mode() };
        let files = [
            Some((&observed.file, wanted)),
            observed.key.as_ref().map(|key| (key, 0o600)),
        ];
        for (file, wanted) in files.into_iter().flatten() {
            // K3s itself makes certificates 0600 at times and 0644 at others: only what others
            // could do with them counts.
            let allowed = if secret || wanted == 0o600 && is_key(observed, file) {
                0o700
            } else {
                0o755
            };
            if let Some(mode) = file_mode(file)
                && mode & !allowed & 0o777 != 0
            {
                let kind = FindingKind::WrongMode { mode, wanted };
                let mend = format!("chmod {wanted:04o} {}", quoted(&file.path));
                let finding = Finding::new(Severity::Warning, &file.path, kind);
                findings.push(finding.row(observed.row.id).mend(mend));
            }
        }
    }
}

fn is_key(observed: &ObservedRow, file: &Observed) -> bool {
    observed
        .key
        .as_ref()
        .is_some_and(|key| key.path == file.path)
}

/// Permission bits of a regular file.
pub(super) fn file_mode(file: &Observed) -> Option<u32> {
    let fingerprint = &file.present()?.fingerprint;
    match fingerprint.kind {
        FingerprintKind::File(_) => Some(fingerprint.attributes.mode),
        FingerprintKind::Directory | FingerprintKind::Link(_) => None,
    }
}
