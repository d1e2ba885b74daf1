//! What the state file says, by itself and against `cluster.yml`.

use pki::verify::{Options, verify};
use pki::{Certificate, DAY, KeyAlgorithm, Purpose, San};

use super::{Finding, Question};
use crate::check::Severity::{Broken, Due, Note, Warning};
use crate::rke::catalogue::{Kind, RKE, Row, row_of};
use crate::rke::config::differences;
use crate::rke::generate::{LeafSpec, first};
use crate::rke::{Bundle, ClusterConfig, Entry, Half, names};

const ROTATE: &str = "kubepki rotate --cluster cluster.yml";
const ROTATE_CA: &str = "kubepki rotate-ca --cluster cluster.yml";

/// How one entry is renewed.
pub(super) fn renewal(entry: &str) -> String {
    match row_of(entry) {
        Some(row) => match (&row.kind, row.service) {
            (Kind::Authority, _) => ROTATE_CA.to_owned(),
            (_, Some(service)) => format!("{ROTATE} --service {service}"),
            (_, None) => ROTATE.to_owned(),
        },
        None => ROTATE.to_owned(),
    }
}

pub(super) fn check(question: &Question<'_>) -> Vec<Finding> {
    let path = question.name.to_owned();
    let Some(stored) = question.state.rke_config(Half::Current) else {
        let what = "currentState has no configuration: the cluster was never brought up with it, \
                    or the file is another cluster's";
        let finding = Finding::new(Broken, "no-current-state", path, what.to_owned());
        return vec![finding.mend("kubepki state rebuild --cluster cluster.yml")];
    };
    let config = match ClusterConfig::from_rke_config(stored) {
        Ok(config) => config,
        Err(error) => {
            let what = format!("rkeConfig of currentState cannot be used: {error}");
            return vec![Finding::new(Broken, "malformed", path, what)];
        }
    };
    let bundle = question.state.bundle(Half::Current);
    let mut findings = Vec::new();
    let specs = first(&config).map_or_else(|_| Vec::new(), |wanted| wanted.leaves);
    for row in RKE.iter().filter(|row| row.exists_in(&config)) {
        for (name, _) in row.entries(&config) {
            let spec = specs.iter().find(|spec| spec.entry == name);
            one(question, row, &name, &bundle, spec, &mut findings);
        }
    }
    for name in bundle.keys() {
        let row = row_of(name).filter(|row| row.exists_in(&config));
        let known = row.is_some_and(|row| row.entries(&config).iter().any(|(it, _)| it == name));
        if !known {
            let what = "no node of the cluster has it; the next rotation of its kind removes it";
            let finding = Finding::new(Note, "surplus", place(question, name), what.to_owned());
            findings.push(finding.entry(name));
        }
    }
    findings.extend(drift(question, &config));
    findings.extend(unfinished(question));
    findings
}

fn place(question: &Question<'_>, entry: &str) -> String {
    format!("{}:{entry}", question.name)
}

fn one(
    question: &Question<'_>,
    row: &Row,
    name: &str,
    bundle: &Bundle,
    spec: Option<&LeafSpec>,
    findings: &mut Vec<Finding>,
) {
    let at = || place(question, name);
    let mut add = |finding: Finding| findings.push(finding.entry(name));
    let entry = bundle.get(name).filter(|it| !it.certificate_pem.is_empty());
    let Some(entry) = entry else {
        // Custom certificates come without the CA of the aggregation layer.
        add(Finding::new(Broken, "missing", at(), "is missing".to_owned()).mend(renewal(name)));
        return;
    };
    let certificates = match entry.certificates() {
        Ok(certificates) => certificates,
        Err(error) => {
            let what = format!("is not what it should be: {error}");
            add(Finding::new(Broken, "malformed", at(), what).mend(renewal(name)));
            return;
        }
    };
    let Some(certificate) = certificates.first() else {
        return;
    };
    if let Some(finding) = dates(question, row, name, certificate) {
        add(finding);
    }
    if let Some(finding) = key(row, &at(), entry, certificate) {
        add(finding.subject(certificate));
    }
    if certificates.len() > 1 && matches!(row.kind, Kind::Authority) {
        let what = "an older root is trusted beside it, since a rotation that kept it; a newer \
                    rotation of the CAs ends with the newest root alone";
        add(Finding::new(Note, "old-root", at(), what.to_owned()).mend(ROTATE_CA));
    }
    if !matches!(row.kind, Kind::Leaf(_)) {
        return;
    }
    if let Some(finding) = issuer(question, row, &at(), bundle, &certificates) {
        add(finding.subject(certificate).mend(renewal(name)));
    }
    if let Some(spec) = spec {
        let missing: Vec<String> = spec
            .sans
            .iter()
            .filter(|san| !certificate.sans().contains(san))
            .map(San::to_string)
            .collect();
        if !missing.is_empty() {
            let what = format!("lacks names that clients check: {}", missing.join(", "));
            let finding = Finding::new(Broken, "san-missing", at(), what);
            add(finding.subject(certificate).mend(renewal(name)));
        }
    }
}

fn dates(
    question: &Question<'_>,
    row: &Row,
    name: &str,
    certificate: &Certificate,
) -> Option<Finding> {
    let authority = matches!(row.kind, Kind::Authority);
    let unused = matches!(row.kind, Kind::ServiceAccountKey(_));
    let validity = certificate.validity();
    let at = place(question, name);
    let window = match authority {
        true => question.authority_window,
        false => question.window,
    };
    let (severity, rule, what) = if question.now < validity.not_before {
        let what = format!("is not valid before {}", validity.not_before);
        (Broken, "not-yet-valid", what)
    } else if validity.not_after < question.now {
        (Broken, "expired", format!("expired {}", validity.not_after))
    } else if validity.remaining(question.now) <= window {
        let days = window / DAY;
        let end = validity.not_after;
        let what = format!("ends {end}, inside the window of {days} days");
        (Due, "due", what)
    } else {
        return None;
    };
    // Nobody reads the certificate of the service-account key.
    let severity = if unused { Note } else { severity };
    let finding = Finding::new(severity, rule, at, what).subject(certificate);
    Some(match unused {
        true => finding,
        false => finding.mend(renewal(name)),
    })
}

fn key(row: &Row, at: &str, entry: &Entry, certificate: &Certificate) -> Option<Finding> {
    let authority = matches!(row.kind, Kind::Authority);
    if entry.key_pem.is_empty() {
        if matches!(row.kind, Kind::Given) {
            return None;
        }
        let (severity, what) = match authority {
            true => (Note, "has no key here: nothing can be issued with it"),
            false => (Broken, "has no private key"),
        };
        let finding = Finding::new(severity, "key-missing", at.to_owned(), what.to_owned());
        return Some(finding);
    }
    let key = match entry.key() {
        Ok(Some(key)) => key,
        Ok(None) => return None,
        Err(error) => {
            let what = format!("its key cannot be read: {error}");
            let finding = Finding::new(Broken, "malformed", at.to_owned(), what);
            return Some(finding);
        }
    };
    let tokens = matches!(row.kind, Kind::ServiceAccountKey(_));
    if key.spki_der() != certificate.spki_der() && !tokens {
        let what = "its private key belongs to another certificate";
        let finding = Finding::new(Broken, "key-mismatch", at.to_owned(), what.to_owned());
        return Some(finding);
    }
    match key.algorithm() {
        KeyAlgorithm::Rsa(bits) if bits >= 2048 => None,
        KeyAlgorithm::Rsa(bits) => {
            let what = format!("its key has {bits} bits only");
            Some(Finding::new(Warning, "weak-key", at.to_owned(), what))
        }
        other => {
            let what = format!("its key is {other}: RKE itself panics on anything but RSA");
            Some(Finding::new(Warning, "not-rsa", at.to_owned(), what))
        }
    }
}

/// Whether a leaf verifies, and ends before its CA.
fn issuer(
    question: &Question<'_>,
    row: &Row,
    at: &str,
    bundle: &Bundle,
    certificates: &[Certificate],
) -> Option<Finding> {
    let (leaf, behind) = certificates.split_first()?;
    let issuer = row.profile()?.issuer;
    let roots = bundle.get(issuer)?.certificates().ok()?;
    let authority = roots.first()?;
    let (end, last) = (leaf.validity().not_after, authority.validity().not_after);
    // Dates are another rule's.
    let moment = question
        .now
        .min(end)
        .min(last)
        .max(leaf.validity().not_before);
    let options = Options::at(moment).purposes(&[Purpose::ClientAuth, Purpose::ServerAuth]);
    if let Err(error) = verify(leaf, behind, &roots, &options) {
        let what = format!("does not verify under {issuer}: {error}");
        return Some(Finding::new(Broken, "chain-broken", at.to_owned(), what));
    }
    (last < end).then(|| {
        let subject = authority.subject();
        let what = format!("ends {end}, after its issuer {subject}, which ends {last}");
        Finding::new(Note, "outlives-issuer", at.to_owned(), what)
    })
}

fn drift(question: &Question<'_>, stored: &ClusterConfig) -> Vec<Finding> {
    let found = differences(stored, question.config).into_iter();
    let drift = found.map(|difference| {
        let path = "cluster.yml".to_owned();
        let finding = Finding::new(Warning, "config-differs", path, difference.to_string());
        finding.mend("rke up, or a rotation with --apply-config")
    });
    drift.collect()
}

/// Entries on which the two states differ: what a rotation that did not end has left.
fn unfinished(question: &Question<'_>) -> Option<Finding> {
    let (desired, current) = (
        question.state.bundle(Half::Desired),
        question.state.bundle(Half::Current),
    );
    let differing: Vec<&str> = current
        .iter()
        .filter(|(name, entry)| {
            let wanted = desired.get(*name);
            let pem = wanted.map(|wanted| &wanted.certificate_pem);
            *name != names::KUBE_ADMIN && pem != Some(&entry.certificate_pem)
        })
        .map(|(name, _)| name.as_str())
        .collect();
    (!differing.is_empty()).then(|| {
        let what = format!(
            "desiredState and currentState differ, as after a change that did not end: {}",
            differing.join(", ")
        );
        let finding = Finding::new(Due, "unfinished", question.name.to_owned(), what);
        finding.mend("kubepki resume --cluster cluster.yml, or undo")
    })
}
