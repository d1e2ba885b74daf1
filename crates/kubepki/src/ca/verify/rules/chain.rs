//! What a CA's file holds: the CA first, its issuers up to a root, all of them fit to sign.

use pki::verify::{Options, Path, VerifyError, verify};
use pki::{Certificate, DAY, KeyAlgorithm, KeyUsage, Purpose, San, UnixTime, public_key_algorithm};

use super::{Severity, finding, staged};
use crate::bootstrap::Field;
use crate::ca::outer::names_everywhere;
use crate::ca::verify::Finding;
use crate::ca::verify::context::{Context, Fault, View, purposes, split};
use crate::check::AUTHORITY_WINDOW;

const ANY: [Purpose; 1] = [Purpose::Any];

/// It is a file of certificates.
pub(super) fn readable(context: &Context<'_>, found: &mut Vec<Finding>) {
    for view in context.views.iter().filter(|view| view.staged) {
        let Err(Fault::Unreadable(error)) = &view.new else {
            continue;
        };
        let message = format!("cannot be read as certificates: {error}");
        found.push(finding(Severity::Broken, "malformed", view.field, message));
    }
}

/// The first certificate is a CA that may sign, and so is every other.
pub(super) fn signer(context: &Context<'_>, found: &mut Vec<Finding>) {
    for (view, certificates) in staged(context) {
        for (index, certificate) in certificates.iter().enumerate() {
            let (severity, what) = match index {
                0 => (Severity::Broken, "begins with"),
                _ => (Severity::Warning, "holds"),
            };
            let subject = certificate.subject();
            let usage = certificate.key_usage();
            if !certificate.is_ca() {
                let message = format!("{what} {subject}, which is not a CA (basic constraints)");
                found.push(finding(severity, "not-a-ca", view.field, message));
            } else if usage.is_some_and(|usage| !usage.has(KeyUsage::KEY_CERT_SIGN)) {
                let message = format!("{what} {subject}, whose key usage lacks keyCertSign");
                found.push(finding(severity, "no-cert-sign", view.field, message));
            } else if index == 0 && certificate.subject_key_identifier().is_none() {
                let message = format!(
                    "begins with {subject}, which has no subject key identifier: by it K3s tells \
                     whose leaves are whose"
                );
                found.push(finding(Severity::Warning, "no-key-id", view.field, message));
            }
        }
    }
}

/// The file alone leads from the CA to a self-signed root, by a path that allows what the CA has
/// to sign.
pub(super) fn complete(context: &Context<'_>, found: &mut Vec<Finding>) {
    for (view, certificates) in staged(context) {
        let Some(first) = certificates.first() else {
            continue;
        };
        let (roots, intermediates) = split(certificates);
        let at = alive(first, context.question.now);
        match paths(&roots, &intermediates, first, at) {
            Err(error) if is_reversed(certificates, context.question.now) => {
                let last = certificates.last().map(|it| it.subject().to_string());
                let message = format!(
                    "stands the wrong way round: it begins with {} and ends with {} ({error})",
                    first.subject(),
                    last.unwrap_or_default()
                );
                found.push(
                    finding(Severity::Broken, "reversed", view.field, message)
                        .mend("put the CA first, then its issuers up to the root"),
                );
            }
            Err(error) => {
                let message = format!(
                    "does not lead from {} to a self-signed root: {error}",
                    first.subject()
                );
                found.push(
                    finding(Severity::Broken, "incomplete-chain", view.field, message)
                        .mend("append the missing CAs up to the root"),
                );
            }
            Ok(_) if is_reversed(certificates, context.question.now) => {
                let message = format!(
                    "begins with the root {}: K3s would sign with it, and served after a leaf it \
                     stands in the way",
                    first.subject()
                );
                found.push(
                    finding(Severity::Broken, "reversed", view.field, message)
                        .mend("put the CA first, then its issuers up to the root"),
                );
            }
            Ok(paths) => found.extend(unfit(view, &paths)),
        }
    }
}

/// Every path of the file's first certificate inside the file, dates of others included.
fn paths<'c>(
    roots: &'c [Certificate],
    intermediates: &'c [Certificate],
    first: &'c Certificate,
    at: UnixTime,
) -> Result<Vec<Path<'c>>, VerifyError> {
    verify(first, intermediates, roots, &Options::at(at).purposes(&ANY))
}

/// A moment at which the certificate itself is valid, now if it is: dates are another rule's.
fn alive(certificate: &Certificate, now: UnixTime) -> UnixTime {
    let validity = certificate.validity();
    now.max(validity.not_before).min(validity.not_after)
}

fn is_reversed(certificates: &[Certificate], now: UnixTime) -> bool {
    let mut turned = certificates.to_vec();
    turned.reverse();
    let Some(first) = turned.first() else {
        return false;
    };
    let (roots, intermediates) = split(&turned);
    let found = paths(&roots, &intermediates, first, alive(first, now));
    // A root that stands first is a path of its own.
    found.is_ok_and(|paths| paths.iter().any(|path| path.certificates().len() > 1))
}

/// Path length, name constraints and extended key usage, as they will count for a leaf below the CA.
fn unfit(view: &View, paths: &[Path<'_>]) -> Option<Finding> {
    let wanted = purposes(view.field);
    let mut first = None;
    for path in paths {
        match unfit_path(view, path, &wanted) {
            None => return None,
            Some(problem) => first = first.or(Some(problem)),
        }
    }
    first
}

fn unfit_path(view: &View, path: &Path<'_>, wanted: &[Purpose]) -> Option<Finding> {
    for (below, certificate) in path.certificates().iter().enumerate() {
        let allowed = certificate.basic_constraints().and_then(|it| it.path_len);
        if let Some(allowed) = allowed
            && usize::try_from(allowed).is_ok_and(|allowed| below > allowed)
        {
            let message = format!(
                "holds {}, which allows {allowed} CAs below it (path length) and has {below}",
                certificate.subject()
            );
            return Some(finding(
                Severity::Broken,
                "path-length",
                view.field,
                message,
            ));
        }
        if let Some(constraints) = certificate.name_constraints()
            && let Some(name) = names(view.field).iter().find(|it| !constraints.allow(it))
        {
            let message = format!(
                "holds {}, whose name constraints forbid {name}: every client refuses the server \
                 certificates below it",
                certificate.subject()
            );
            return Some(
                finding(Severity::Broken, "name-constraints", view.field, message)
                    .mend("ask for a CA without constraints on names and addresses"),
            );
        }
        let purposes = certificate.purposes();
        if purposes.is_empty() || purposes.contains(&Purpose::Any) {
            continue;
        }
        if let Some(excluded) = wanted.iter().find(|purpose| !purposes.contains(purpose)) {
            let message = format!(
                "holds {}, whose extended key usage excludes {excluded}, which K3s has it sign",
                certificate.subject()
            );
            return Some(finding(Severity::Broken, "purposes", view.field, message));
        }
    }
    None
}

/// Names that leaves of a CA carry everywhere; those of the CAs for clients carry none.
fn names(field: Field) -> Vec<San> {
    let all = names_everywhere();
    let etcd = |name: &San| !matches!(name, San::Dns(text) if text.starts_with("kubernetes"));
    match field {
        Field::ServerCa => all.to_vec(),
        Field::EtcdServerCa | Field::EtcdPeerCa => all.into_iter().filter(etcd).collect(),
        _ => Vec::new(),
    }
}

/// The CA and a root that it leads to are valid now, on the date that is asked about, and for a
/// while.
pub(super) fn dates(context: &Context<'_>, found: &mut Vec<Finding>) {
    let (now, on_date) = (context.question.now, context.question.on_date);
    for (view, certificates) in staged(context) {
        let mut dead = Vec::new();
        for certificate in certificates {
            let validity = certificate.validity();
            let subject = certificate.subject();
            if now > validity.not_after {
                dead.push(format!("{subject} ended {}", validity.not_after));
            } else if now < validity.not_before {
                dead.push(format!("{subject} begins {}", validity.not_before));
            }
        }
        if !dead.is_empty() {
            // Whoever cannot use it any more may still be looked past: an old root, say.
            let severity = match ends(certificates, now) {
                Some(_) => Severity::Warning,
                None => Severity::Broken,
            };
            let message = format!("holds what is not valid now ({now}): {}", dead.join(", "));
            found.push(finding(severity, "not-valid", view.field, message));
        }
        match ends(certificates, now) {
            Some(end) if end < on_date => {
                let message = format!("leads to no valid root on {on_date}: it ends {end}");
                found.push(finding(
                    Severity::Broken,
                    "ends-before",
                    view.field,
                    message,
                ));
            }
            Some(end) if end.since(on_date) < AUTHORITY_WINDOW => {
                let message = format!("ends {end}, less than a year after {on_date}");
                found.push(finding(Severity::Due, "ends-soon", view.field, message));
            }
            _ => {}
        }
    }
}

/// The end of the path that lasts longest; `None` where there is none now.
fn ends(certificates: &[Certificate], now: UnixTime) -> Option<UnixTime> {
    let (roots, intermediates) = split(certificates);
    let paths = paths(&roots, &intermediates, certificates.first()?, now).ok()?;
    let ends = paths.iter().filter_map(Path::validity);
    ends.map(|validity| validity.not_after).max()
}

/// No certificate promises more than its issuer in the same file can keep.
pub(super) fn outlives(context: &Context<'_>, found: &mut Vec<Finding>) {
    for (view, certificates) in staged(context) {
        for certificate in certificates.iter().filter(|it| !it.is_self_issued()) {
            let end = certificate.validity().not_after;
            let issuers = certificates.iter().filter(|issuer| {
                issuer.subject().der() == certificate.issuer().der()
                    && certificate.verify_signature(issuer.spki_der()).is_ok()
            });
            // A root that is cross-signed too counts by the certificate that lasts longest.
            let Some(issuer) = issuers.max_by_key(|issuer| issuer.validity().not_after) else {
                continue;
            };
            let issuer_end = issuer.validity().not_after;
            if end > issuer_end {
                let message = format!(
                    "holds {}, valid until {end}, and its issuer {} ends {issuer_end}: from then \
                     on it is worth nothing",
                    certificate.subject(),
                    issuer.subject()
                );
                // K3s's scripts make both in one run, seconds apart.
                let severity = match end.since(issuer_end) {
                    ..=DAY => Severity::Note,
                    _ => Severity::Warning,
                };
                found.push(finding(severity, "outlives-issuer", view.field, message));
            }
        }
    }
}

/// Every signature is one that Go takes; a root's own is never looked at.
pub(super) fn signatures(context: &Context<'_>, found: &mut Vec<Finding>) {
    for (view, certificates) in staged(context) {
        for certificate in certificates {
            let algorithm = certificate.signature_algorithm();
            let weak = algorithm.to_ascii_uppercase().contains("SHA1")
                // MD2, MD5 with RSA.
                || matches!(algorithm.as_str(), "1.2.840.113549.1.1.2" | "1.2.840.113549.1.1.4");
            if !weak {
                continue;
            }
            let severity = match certificate.is_self_issued() {
                true => Severity::Warning,
                false => Severity::Broken,
            };
            let message = format!(
                "holds {}, signed with {algorithm}, which Go refuses",
                certificate.subject()
            );
            found.push(finding(severity, "weak-signature", view.field, message));
        }
    }
}

/// Keys are long enough; the CA's own must be one that leaves can be signed with.
pub(super) fn weak(context: &Context<'_>, found: &mut Vec<Finding>) {
    for (view, certificates) in staged(context) {
        for (index, certificate) in certificates.iter().enumerate() {
            let bits = match public_key_algorithm(certificate.spki_der()) {
                Some(KeyAlgorithm::Ed25519) => {
                    let message = format!(
                        "holds {}, whose key is Ed25519: FIPS builds, browsers and some TLS stacks \
                         refuse it; P-256 is understood everywhere",
                        certificate.subject()
                    );
                    found.push(finding(
                        Severity::Warning,
                        "uncommon-key",
                        view.field,
                        message,
                    ));
                    continue;
                }
                Some(KeyAlgorithm::Rsa(bits)) if bits < 2048 => bits,
                _ => continue,
            };
            let severity = match index {
                0 => Severity::Broken,
                _ => Severity::Warning,
            };
            let message = format!(
                "holds {}, whose RSA key has {bits} bits; 2048 are the least",
                certificate.subject()
            );
            found.push(finding(severity, "weak-key", view.field, message));
        }
    }
}

/// No certificate stands twice.
pub(super) fn duplicates(context: &Context<'_>, found: &mut Vec<Finding>) {
    for (view, certificates) in staged(context) {
        let mut rest = certificates;
        while let [certificate, others @ ..] = rest {
            rest = others;
            if others.contains(certificate) {
                let message = format!(
                    "holds {} twice: every handshake carries it twice",
                    certificate.subject()
                );
                found.push(finding(Severity::Warning, "duplicate", view.field, message));
            }
        }
    }
}

/// CAs of one name have one key, or key identifiers that tell them apart.
pub(super) fn clashes(context: &Context<'_>, found: &mut Vec<Finding>) {
    for (view, certificates) in staged(context) {
        let all: Vec<&Certificate> = certificates.iter().chain(view.old_certificates()).collect();
        let mut rest = all.as_slice();
        let mut told: Vec<&[u8]> = Vec::new();
        while let [one, others @ ..] = rest {
            rest = others;
            let name = one.subject().der();
            let mut namesakes = others
                .iter()
                .filter(|it| it.subject().der() == name && it.spki_der() != one.spki_der());
            let Some(other) = namesakes.next() else {
                continue;
            };
            if told.contains(&name) {
                continue;
            }
            told.push(name);
            let ids = (one.subject_key_identifier(), other.subject_key_identifier());
            let severity = match ids {
                (Some(one), Some(other)) if one != other => Severity::Note,
                _ => Severity::Warning,
            };
            let message = format!(
                "has two CAs called {} with different keys, counting the file in force: programs \
                 that look for an issuer by its name may take the wrong one",
                one.subject()
            );
            found.push(finding(severity, "name-clash", view.field, message));
        }
    }
}

/// K3s appends the whole file to each leaf that it makes, so the order of the file is an order
/// that is served (reference section 13.2).
pub(super) fn served_order(context: &Context<'_>, found: &mut Vec<Finding>) {
    for (view, certificates) in staged(context) {
        let Some((cross, index)) = certificates.iter().zip(0..).find(|(cross, _)| {
            !cross.is_self_issued() && certificates.iter().any(|root| is_twin(root, cross))
        }) else {
            continue;
        };
        let earlier = certificates.get(..index).unwrap_or_default();
        if let Some(root) = earlier.iter().find(|root| is_twin(root, cross)) {
            let message = format!(
                "has the self-signed {} before its cross-certificate: every client on OpenSSL \
                 (curl, Python, nginx, git) that has only the old CA refuses leaves that K3s makes",
                root.subject()
            );
            found.push(
                finding(Severity::Broken, "root-before-cross", view.field, message)
                    .mend("put the cross-certificate before everything self-signed"),
            );
            continue;
        }
        let own = certificates
            .first()
            .is_some_and(Certificate::is_self_issued);
        let signed = |it: &Certificate| it.is_self_issued();
        if earlier.iter().skip(usize::from(own)).any(signed) {
            let message = "has an old root before the cross-certificate: clients on GnuTLS that \
                           have only the new root refuse leaves that K3s makes";
            found.push(
                finding(
                    Severity::Warning,
                    "old-root-before-cross",
                    view.field,
                    message,
                )
                .mend("put the cross-certificate before everything self-signed"),
            );
        } else if certificates.iter().filter(|it| signed(it)).count() > 1 {
            let message = "has both roots, as it must; clients on GnuTLS that have only the new \
                           root refuse leaves that K3s itself makes, those of kubepki are served \
                           without roots";
            found.push(finding(Severity::Note, "roots-served", view.field, message));
        }
    }
}

/// Whether `root` is self-signed and has name and key of `cross`.
fn is_twin(root: &Certificate, cross: &Certificate) -> bool {
    root.is_self_issued()
        && root.subject().der() == cross.subject().der()
        && root.spki_der() == cross.spki_der()
}
