//! The answer as a report, for every output there is.

use pki::{Certificate, KeyUsage, UnixTime, public_key_algorithm};

use super::hosts::is_file;
use super::{Finding, Question};
use crate::check::Severity;
use crate::report::{CertificateEntry, FindingEntry, Part, Report, SCHEMA, Status, Summary};
use crate::rke::catalogue::{Kind, Row, row_of};
use crate::rke::survey::{Seen, Survey};
use crate::rke::{ClusterConfig, Half, names};

/// The report on a question and what was found. Certificates of hosts are in it where hosts were
/// asked.
pub fn report(question: &Question<'_>, findings: &[Finding]) -> Report {
    let mut certificates = Vec::new();
    for (name, entry) in question.state.bundle(Half::Current) {
        let path = format!("{}:{name}", question.name);
        let all = entry.certificates().unwrap_or_default();
        certificates.extend(entries(question, findings, &path, &name, &all));
    }
    if let Some(survey) = question.survey {
        certificates.extend(on_hosts(question, findings, survey));
    }
    let count = |severity| findings.iter().filter(|it| it.severity == severity).count();
    let first_end: Option<UnixTime> = certificates
        .iter()
        .filter(|entry| entry.part != Part::Stray && entry.remaining_seconds >= 0)
        .map(|entry| entry.validity.not_after)
        .min();
    let stored = question.state.rke_config(Half::Current);
    let stored = stored.and_then(|json| ClusterConfig::from_rke_config(json).ok());
    let version = stored.and_then(|config| config.kubernetes_version);
    Report {
        schema: SCHEMA,
        data_dir: question.root.display().to_string(),
        node: Some(question.config.cluster_name.clone()),
        role: "cluster",
        release: version.unwrap_or_else(|| "unknown".to_owned()),
        at: question.now.to_string(),
        at_seconds: question.now.as_secs(),
        summary: Summary {
            certificates: certificates.len(),
            notes: count(Severity::Note),
            warnings: count(Severity::Warning),
            due: count(Severity::Due),
            broken: count(Severity::Broken),
            first_end: first_end.map(|end| end.to_string()),
        },
        certificates,
        findings: findings.iter().map(finding).collect(),
    }
}

fn finding(finding: &Finding) -> FindingEntry {
    let row = finding.entry.as_deref().and_then(row_of);
    FindingEntry {
        severity: finding.severity.name(),
        rule: finding.rule,
        path: finding.path.clone(),
        row: row.map(|row| row.id),
        subject: finding.subject.clone(),
        message: finding.message.clone(),
        mends: finding.mends.clone(),
    }
}

fn on_hosts(
    question: &Question<'_>,
    findings: &[Finding],
    survey: &Survey,
) -> Vec<CertificateEntry> {
    let mut certificates = Vec::new();
    for (host, seen) in &survey.hosts {
        let Seen::Here(view) = seen else { continue };
        for (name, file) in view.files.iter().flatten() {
            let Some(entry) = name.strip_suffix(".pem").filter(|_| is_file(file)) else {
                continue;
            };
            let path = format!("{host}:{}/{name}", names::SSL_DIRECTORY);
            let all = file.certificates();
            certificates.extend(entries(question, findings, &path, entry, all));
        }
    }
    certificates
}

fn entries(
    question: &Question<'_>,
    findings: &[Finding],
    path: &str,
    entry: &str,
    certificates: &[Certificate],
) -> Vec<CertificateEntry> {
    let row = row_of(entry);
    let numbered = certificates.iter().enumerate();
    numbered
        .map(|(position, certificate)| {
            let part = part(row, position);
            let validity = certificate.validity();
            let key = public_key_algorithm(certificate.spki_der());
            CertificateEntry {
                path: path.to_owned(),
                position,
                inside: None,
                row: row.map(|row| row.id),
                what: row.map(|row| row.summary),
                part,
                subject: certificate.subject().to_string(),
                issuer: certificate.issuer().to_string(),
                serial: certificate.serial().to_string(),
                fingerprint: certificate.fingerprint().to_string(),
                key: key.map(|key| key.to_string()),
                usages: usages(certificate),
                sans: certificate.sans().iter().map(ToString::to_string).collect(),
                not_before: validity.not_before.to_string(),
                not_after: validity.not_after.to_string(),
                remaining_seconds: validity.remaining(question.now),
                status: status(question, findings, path, part, certificate),
                validity,
            }
        })
        .collect()
}

fn part(row: Option<&Row>, position: usize) -> Part {
    match (row.map(|row| &row.kind), position) {
        (None, _) => Part::Stray,
        (Some(Kind::Authority), 0) => Part::Authority,
        (Some(Kind::Authority), _) => Part::OuterAuthority,
        (Some(_), 0) => Part::Leaf,
        (Some(_), _) => Part::Chain,
    }
}

fn usages(certificate: &Certificate) -> Vec<String> {
    let signs = certificate
        .key_usage()
        .is_some_and(|usage| usage.has(KeyUsage::KEY_CERT_SIGN));
    let signs = signs.then(|| "CertSign".to_owned());
    let purposes = certificate.purposes().iter().map(|purpose| match purpose {
        pki::Purpose::ServerAuth => "ServerAuth".to_owned(),
        pki::Purpose::ClientAuth => "ClientAuth".to_owned(),
        other => other.to_string(),
    });
    signs.into_iter().chain(purposes).collect()
}

fn status(
    question: &Question<'_>,
    findings: &[Finding],
    path: &str,
    part: Part,
    certificate: &Certificate,
) -> Status {
    let validity = certificate.validity();
    let window = match part {
        Part::Leaf => question.window,
        _ => question.authority_window,
    };
    let by_date = match () {
        () if question.now < validity.not_before => Status::NotYetValid,
        () if validity.not_after < question.now => Status::Expired,
        () if validity.remaining(question.now) <= window => Status::Due,
        () => Status::Ok,
    };
    if !matches!(part, Part::Leaf | Part::Authority) {
        return by_date;
    }
    let about = findings.iter().filter(|finding| finding.path == path);
    let worst = about.map(|finding| match finding.severity {
        Severity::Note => Status::Ok,
        Severity::Warning => Status::Warning,
        Severity::Due => Status::Due,
        Severity::Broken if by_date >= Status::NotYetValid => by_date,
        Severity::Broken => Status::Broken,
    });
    by_date.max(worst.max().unwrap_or(Status::Ok))
}
