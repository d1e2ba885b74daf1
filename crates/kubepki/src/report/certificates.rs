//! Every certificate of a tree as an entry.

use std::path::Path;

use pki::{Certificate, KeyUsage, Validity, public_key_algorithm};
use serde::Serialize;

use crate::catalogue::Kind;
use crate::check::{Finding, Question, Severity};
use crate::inventory::{Facts, Observed, ObservedRow, Role};

/// One certificate at one place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CertificateEntry {
    /// The file.
    pub path: String,
    /// Where in the file: 0 is the first; of each inlined chain again from 0.
    pub position: usize,
    /// Where inside a kubeconfig: `user NAME`, `cluster NAME`.
    pub inside: Option<String>,
    /// The catalogue's row; none for files that no row names.
    pub row: Option<&'static str>,
    /// What the row is for.
    pub what: Option<&'static str>,
    /// What it is to its file.
    pub part: Part,
    /// As Go prints it.
    pub subject: String,
    /// As Go prints it.
    pub issuer: String,
    /// Hex.
    pub serial: String,
    /// SHA-256 of the DER, hex.
    pub fingerprint: String,
    /// `p256`, `rsa2048`.
    pub key: Option<String>,
    /// `CertSign`, then the extended key usage in its order; the words of K3s.
    pub usages: Vec<String>,
    /// Subject alternative names in their order.
    pub sans: Vec<String>,
    /// First second.
    pub not_before: String,
    /// Last second.
    pub not_after: String,
    /// Seconds until the last one; negative when it is past.
    pub remaining_seconds: i64,
    /// What it amounts to.
    pub status: Status,
    /// Both ends, for programs in this process.
    #[serde(skip)]
    pub validity: Validity,
}

/// What a certificate is to the file that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// An end entity, the first of its file.
    Leaf,
    /// What follows a leaf.
    Chain,
    /// The CA that signs.
    Authority,
    /// What follows the CA that signs: outer CAs, cross-certificates, old CAs.
    OuterAuthority,
    /// A copy of a CA.
    Copy,
    /// In a file that no component reads.
    Stray,
}

/// What a certificate amounts to at the moment of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Nothing wrong.
    Ok,
    /// A warning names it.
    Warning,
    /// It is due.
    Due,
    /// Its time has not come.
    NotYetValid,
    /// Its time is over.
    Expired,
    /// Something else is broken about it.
    Broken,
}

impl Status {
    /// Its name in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Due => "due",
            Self::NotYetValid => "not yet valid",
            Self::Expired => "expired",
            Self::Broken => "broken",
        }
    }
}

/// Where a certificate stands.
struct Place<'a> {
    path: &'a Path,
    row: Option<&'a ObservedRow>,
    position: usize,
    inside: Option<String>,
    part: Part,
}

/// Every certificate, in the catalogue's order; strays last.
pub(super) fn all(question: &Question<'_>, findings: &[Finding]) -> Vec<CertificateEntry> {
    let inventory = question.inventory;
    let mut entries = Vec::new();
    for observed in &inventory.rows {
        let file = &observed.file;
        if let Some(Facts::Kubeconfig(facts)) = file.present().map(|present| &present.facts) {
            let users = facts.users.iter().map(|user| {
                let inside = format!("user {}", user.name);
                (inside, user.certificates.as_slice(), true)
            });
            let clusters = facts.authorities.iter().map(|(name, bundle)| {
                let inside = format!("cluster {name}");
                (inside, bundle.as_slice(), false)
            });
            for (inside, certificates, leaf_first) in users.chain(clusters) {
                for (position, certificate) in certificates.iter().enumerate() {
                    let part = match (leaf_first, position) {
                        (true, 0) => Part::Leaf,
                        (true, _) => Part::Chain,
                        (false, _) => Part::Copy,
                    };
                    let place = Place {
                        path: &file.path,
                        row: Some(observed),
                        position,
                        inside: Some(inside.clone()),
                        part,
                    };
                    entries.push(entry(question, findings, certificate, place));
                }
            }
        }
        for (position, certificate) in file.certificates().iter().enumerate() {
            let part = part_of(&observed.row.kind, position, inventory.site.role);
            let place = Place {
                path: &file.path,
                row: Some(observed),
                position,
                inside: None,
                part,
            };
            entries.push(entry(question, findings, certificate, place));
        }
    }
    for file in &inventory.strays {
        entries.extend(strays(question, findings, file));
    }
    entries
}

fn strays<'a>(
    question: &'a Question<'_>,
    findings: &'a [Finding],
    file: &'a Observed,
) -> impl Iterator<Item = CertificateEntry> + 'a {
    let certificates = file.certificates().iter().enumerate();
    certificates.map(|(position, certificate)| {
        let place = Place {
            path: &file.path,
            row: None,
            position,
            inside: None,
            part: Part::Stray,
        };
        entry(question, findings, certificate, place)
    })
}

fn part_of(kind: &Kind, position: usize, role: Role) -> Part {
    match kind {
        Kind::Authority { .. } if position == 0 => Part::Authority,
        Kind::Authority { .. } => Part::OuterAuthority,
        // An agent-only node has no other CA file than its copies.
        Kind::CopyOf { .. } if role == Role::AgentOnly => match position {
            0 => Part::Authority,
            _ => Part::OuterAuthority,
        },
        Kind::CopyOf { .. } | Kind::FirstOf { .. } => Part::Copy,
        _ if position == 0 => Part::Leaf,
        _ => Part::Chain,
    }
}

fn entry(
    question: &Question<'_>,
    findings: &[Finding],
    certificate: &Certificate,
    place: Place<'_>,
) -> CertificateEntry {
    let validity = certificate.validity();
    let algorithm = public_key_algorithm(certificate.spki_der());
    CertificateEntry {
        path: place.path.display().to_string(),
        position: place.position,
        row: place.row.map(|observed| observed.row.id),
        what: place.row.map(|observed| observed.row.summary),
        part: place.part,
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        serial: certificate.serial().to_string(),
        fingerprint: certificate.fingerprint().to_string(),
        key: algorithm.map(|algorithm| algorithm.to_string()),
        usages: usages(certificate),
        sans: certificate.sans().iter().map(ToString::to_string).collect(),
        not_before: validity.not_before.to_string(),
        not_after: validity.not_after.to_string(),
        remaining_seconds: validity.remaining(question.now),
        status: status(question, findings, certificate, &place),
        inside: place.inside,
        validity,
    }
}

/// K3s's words: `CertSign` for key usage, then `ServerAuth` and `ClientAuth` (reference section
/// 2.4); other purposes by their own name.
fn usages(certificate: &Certificate) -> Vec<String> {
    let mut usages = Vec::new();
    let key_usage = certificate.key_usage();
    if key_usage.is_some_and(|usage| usage.has(KeyUsage::KEY_CERT_SIGN)) {
        usages.push("CertSign".to_owned());
    }
    usages.extend(certificate.purposes().iter().map(|purpose| match purpose {
        pki::Purpose::ServerAuth => "ServerAuth".to_owned(),
        pki::Purpose::ClientAuth => "ClientAuth".to_owned(),
        other => other.to_string(),
    }));
    usages
}

fn status(
    question: &Question<'_>,
    findings: &[Finding],
    certificate: &Certificate,
    place: &Place<'_>,
) -> Status {
    let validity = certificate.validity();
    let now = question.now;
    let window = match place.part {
        Part::Leaf => question.policy.window,
        _ => question.authority_window,
    };
    let by_date = match () {
        () if now < validity.not_before => Status::NotYetValid,
        () if validity.not_after < now => Status::Expired,
        () if validity.remaining(now) <= window => Status::Due,
        () => Status::Ok,
    };
    // Chains and copies are judged where they come from.
    if !matches!(
        place.part,
        Part::Leaf | Part::Authority | Part::OuterAuthority
    ) {
        return by_date;
    }
    let subject = certificate.subject().to_string();
    let by_finding = findings
        .iter()
        .filter(|finding| finding.path == place.path)
        .filter(|finding| match &finding.subject {
            Some(of) => *of == subject,
            None => place.position == 0,
        })
        .map(|finding| match finding.severity {
            Severity::Note => Status::Ok,
            Severity::Warning => Status::Warning,
            Severity::Due => Status::Due,
            Severity::Broken if by_date >= Status::NotYetValid => by_date,
            Severity::Broken => Status::Broken,
        })
        .max();
    by_date.max(by_finding.unwrap_or(Status::Ok))
}
