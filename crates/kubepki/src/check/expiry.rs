//! Dates.

use pki::verify::{Options, verify};
use pki::{Certificate, DAY, Purpose, UnixTime};

use super::context::{Context, ROTATE_AUTHORITY};
use super::{Finding, FindingKind, Severity};
use crate::catalogue::Kind;
use crate::inventory::{Facts, ObservedRow};

/// Leaves, the listener's and inlined ones too, are valid and not due.
pub(super) fn leaves(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let window = context.question().policy.window;
    for observed in &context.inventory().rows {
        let row = observed.row;
        match &row.kind {
            Kind::Leaf(_) | Kind::Listener { .. } => {
                let Some(leaf) = observed.file.first_certificate() else {
                    continue;
                };
                if let Some((severity, kind)) = dates(leaf, context.now(), window) {
                    let finding = Finding::new(severity, &observed.file.path, kind);
                    let finding = finding.row(row.id).certificate(leaf);
                    findings.push(match severity {
                        _ if leaf.validity().not_before > context.now() => finding.mend(CLOCK),
                        _ => finding.mend(context.renew(row.id)),
                    });
                }
            }
            Kind::AdminKubeconfig { leaf: of, .. } => {
                let Some(Facts::Kubeconfig(facts)) = observed.file.present().map(|p| &p.facts)
                else {
                    continue;
                };
                let inlined = facts.users.iter().filter_map(|u| u.certificates.first());
                for leaf in inlined {
                    if let Some((severity, kind)) = dates(leaf, context.now(), window) {
                        let finding = Finding::new(severity, &observed.file.path, kind);
                        let finding = finding.row(row.id).certificate(leaf);
                        findings.push(finding.mend(context.renew(of)));
                    }
                }
            }
            _ => {}
        }
    }
}

const CLOCK: &str = "set this machine's clock, or wait";

/// What the dates of a certificate say at `now`.
fn dates(certificate: &Certificate, now: UnixTime, window: i64) -> Option<(Severity, FindingKind)> {
    let validity = certificate.validity();
    let not_after = validity.not_after;
    if now < validity.not_before {
        let not_before = validity.not_before;
        return Some((Severity::Broken, FindingKind::NotYetValid { not_before }));
    }
    if not_after < now {
        return Some((Severity::Broken, FindingKind::Expired { not_after }));
    }
    let window_days = window / DAY;
    (not_after.since(now) <= window).then_some((
        Severity::Due,
        FindingKind::Due {
            not_after,
            window_days,
        },
    ))
}

/// CAs, every certificate of their files, are valid and do not end within the window.
///
/// A certificate behind the first matters as long as the first has no other way to a root: then
/// OpenSSL clients fail when it ends, and the hash in join tokens changes (reference section
/// 5.2).
pub(super) fn authorities(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let window = context.question().authority_window;
    for observed in context.authorities() {
        let bundle = observed.file.certificates();
        for (position, certificate) in bundle.iter().enumerate() {
            let Some((severity, kind)) = dates(certificate, context.now(), window) else {
                continue;
            };
            let end = certificate.validity().not_after;
            let moment = context.now().max(end.plus(1));
            let severity = match &kind {
                // A cross-certificate or old root that is not needed any more.
                FindingKind::Expired { .. } | FindingKind::Due { .. }
                    if position > 0 && anchored(bundle, moment) =>
                {
                    Severity::Note
                }
                _ => severity,
            };
            let finding = Finding::new(severity, &observed.file.path, kind);
            let finding = finding.row(observed.row.id).certificate(certificate);
            findings.push(match certificate.validity().not_before > context.now() {
                true => finding.mend(CLOCK),
                false => finding.mend(mend_authority(context)),
            });
        }
    }
}

fn mend_authority(context: &Context<'_>) -> String {
    match context.is_server() {
        true => ROTATE_AUTHORITY.to_owned(),
        false => format!(
            "{ROTATE_AUTHORITY} on a server, then {} here",
            context.restart()
        ),
    }
}

/// Whether the first certificate has a path to a self-issued one of the same file at `moment`.
fn anchored(bundle: &[Certificate], moment: UnixTime) -> bool {
    let (roots, between): (Vec<Certificate>, Vec<Certificate>) = bundle
        .iter()
        .cloned()
        .partition(Certificate::is_self_issued);
    let options = Options::at(moment).purposes(&[Purpose::Any]);
    bundle
        .first()
        .is_some_and(|first| verify(first, &between, &roots, &options).is_ok())
}

/// No certificate ends later than its issuer. K3s makes such leaves, so it is a note until the
/// issuer's end comes near.
pub(super) fn outlives_issuer(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for observed in &context.inventory().rows {
        let authority = match &observed.row.kind {
            Kind::Leaf(spec) => spec.authority,
            Kind::Listener { authority } => authority,
            _ => continue,
        };
        let (Some(leaf), Some(trust)) =
            (observed.file.first_certificate(), context.trust(authority))
        else {
            continue;
        };
        findings.extend(outlives(context, observed, leaf, trust.certificates));
    }
    for observed in context.authorities() {
        let bundle = observed.file.certificates();
        for certificate in bundle {
            findings.extend(outlives(context, observed, certificate, bundle));
        }
    }
}

/// Seconds by which certificates that one script made in one run differ for no reason.
const SAME_RUN: i64 = 3_600;

fn outlives(
    context: &Context<'_>,
    observed: &ObservedRow,
    certificate: &Certificate,
    bundle: &[Certificate],
) -> Option<Finding> {
    let issuer = issuer_of(certificate, bundle)?;
    let (not_after, issuer_not_after) = (
        certificate.validity().not_after,
        issuer.validity().not_after,
    );
    let near = issuer_not_after.since(context.now()) <= context.question().authority_window;
    let kind = FindingKind::OutlivesIssuer {
        not_after,
        issuer: issuer.subject().to_string(),
        issuer_not_after,
    };
    let over = not_after < context.now() || issuer_not_after < context.now();
    let longer = not_after.since(issuer_not_after) > SAME_RUN;
    (longer && !over).then(|| {
        let severity = if near { Severity::Due } else { Severity::Note };
        let finding = Finding::new(severity, &observed.file.path, kind);
        Finding {
            mends: near.then(|| mend_authority(context)),
            ..finding.row(observed.row.id).certificate(certificate)
        }
    })
}

/// The certificate of `bundle` that says that it issued `certificate`: by name, and by key
/// identifier where both have one. Signatures are another rule's.
pub(crate) fn issuer_of<'a>(
    certificate: &Certificate,
    bundle: &'a [Certificate],
) -> Option<&'a Certificate> {
    if certificate.is_self_issued() {
        return None;
    }
    bundle.iter().find(|candidate| {
        candidate.subject().der() == certificate.issuer().der()
            && *candidate != certificate
            && match (
                certificate.authority_key_identifier(),
                candidate.subject_key_identifier(),
            ) {
                (Some(wanted), Some(found)) => wanted == found,
                _ => true,
            }
    })
}
