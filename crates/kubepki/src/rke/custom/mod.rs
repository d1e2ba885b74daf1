//! Custom certificates: what a company's CA made of the requests, judged before it is installed.
//!
//! RKE compares common names and nothing else (`pki/util.go`, `ValidateBundleContent`). Its rules
//! come first, in its order and words; then what it lacks: signatures, dates, names, purposes,
//! keys. What RKE refuses is refused here, too, so that both can go on with the cluster.

mod authority;
mod found;
mod leaf;
mod rules;
mod status;
mod twice;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use pki::UnixTime;
use serde::Serialize;

use super::cert_dir::CertDir;
use super::csr::expected;
use super::generate::GenerateError;
use super::{Bundle, ClusterConfig, names};
use found::Found;

pub use status::{KeyStatus, RequestStatus, Signed, Status, status};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// RKE refuses it, and so do we.
    Refused,
    /// RKE would install it, and something would not work.
    Error,
    /// It works, and has a price.
    Warning,
    /// Worth knowing.
    Note,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// A certificate file that cannot be read.
    UnreadableCertificate,
    /// A key file that cannot be read: encrypted, damaged, shorter than 2048 bits.
    UnreadableKey,
    /// A key of another kind than RSA, at which RKE panics.
    KeyNotRsa,
    /// RKE's rule 1: there must be a cluster CA.
    NoAuthority,
    /// RKE's rule 2: without a CA of the aggregation layer the cluster CA stands in.
    NoRequestHeaderAuthority,
    /// RKE's rule 3: seven pairs of certificate and key.
    MissingComponent,
    /// RKE's rule 4: a pair for each etcd node.
    MissingEtcd,
    /// RKE's rule 6: issuer's common name.
    NotSignedByAuthority,
    /// RKE's rule 7: the same for the aggregation layer's client.
    NotSignedByRequestHeaderAuthority,
    /// The issuer has the CA's common name, but is another name.
    IssuerName,
    /// The CA did not sign it.
    Signature,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// It is valid for longer than its CA.
    OutlivesAuthority,
    /// It ends within 90 days.
    EndsSoon,
    /// A name that clients use is missing.
    MissingName,
    /// A name that nobody asked for.
    ExtraName,
    /// A purpose that is needed is missing (extended key usage).
    Purpose,
    /// A purpose that RKE asks for and nobody needs is missing.
    UnusedPurpose,
    /// No extended key usage: it may be used for anything.
    AnyPurpose,
    /// Key usage without `digitalSignature`.
    KeyUsage,
    /// The key does not belong to the certificate.
    KeyMismatch,
    /// The user or group that Kubernetes takes it for is not the one it should be.
    User,
    /// A group that nobody asked for.
    ExtraGroup,
    /// A CN that nobody reads is another one.
    OtherSubject,
    /// A leaf that is a CA.
    LeafIsAuthority,
    /// A CA certificate that is no CA's.
    NotAuthority,
    /// A CA that may not sign certificates.
    NoCertSign,
    /// Signed with SHA-1 or MD5.
    WeakSignature,
    /// An RSA key under 2048 bits in a certificate.
    WeakKey,
    /// No path to the CA that may be used: name constraints, path length, the CA's purposes.
    Path,
    /// Several certificates in a leaf's file.
    Chain,
    /// Several certificates in a CA's file.
    Authorities,
    /// The CA is one below another: trust ends at it.
    Intermediate,
    /// Two certificates have one key.
    SharedKey,
    /// One CA for both.
    SharedAuthority,
    /// Two CAs of one name.
    SameName,
    /// One CA gave one serial number twice.
    SameSerial,
    /// The CA's key is not here: nothing can be issued later.
    KeylessAuthority,
    /// The same for the CA of the aggregation layer.
    KeylessRequestHeaderAuthority,
    /// A kubelet's serving pair, which RKE neither makes nor misses.
    MissingServing,
    /// No key for service-account tokens.
    NoServiceAccountKey,
    /// The key for service-account tokens has no certificate beside it.
    LoneServiceAccountKey,
    /// Another key for service-account tokens than the cluster has.
    NewServiceAccountKey,
    /// A file that belongs to no certificate of the cluster.
    Foreign,
    /// A key file that others can read.
    OpenKey,
}

/// What RKE says to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RkeSays {
    /// It stops with this.
    Refuses(String),
    /// It goes on with this.
    Warns(String),
}

/// Something that the operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What was looked at.
    pub rule: Rule,
    /// The file's name in the directory.
    pub file: String,
    /// What is wrong, and what to do. Never a secret.
    pub message: String,
    /// RKE's words, where it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rke: Option<RkeSays>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.message)
    }
}

/// What a directory was judged to be.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The directory, as messages show it.
    pub directory: PathBuf,
    /// RKE's rules first, in its order; then ours, entry by entry.
    pub findings: Vec<Finding>,
    /// What can be installed: nothing is refused and nothing is an error.
    pub set: Option<CustomSet>,
}

impl Verdict {
    /// What `rke up --custom-certs` ends with, if it refuses.
    pub fn rke_text(&self) -> Option<String> {
        let directory = self.directory.display();
        self.findings
            .iter()
            .find_map(|finding| match (&finding.rke, finding.rule) {
                (
                    Some(RkeSays::Refuses(text)),
                    Rule::UnreadableCertificate | Rule::UnreadableKey,
                ) => Some(format!(
                    "[state] Failed to read certificates from dir [{directory}]: {text}"
                )),
                (Some(RkeSays::Refuses(text)), _) => Some(format!(
                    "[state] Failed to validates certificates from dir [{directory}]: {text}"
                )),
                _ => None,
            })
    }

    /// The worst severity.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).min()
    }
}

/// Certificates and keys that passed. It names keys and holds none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomSet {
    /// By name, CAs included. Entries that the directory does not have are not in it; the state's
    /// own stay.
    pub entries: BTreeMap<String, CustomEntry>,
    /// Whether the CA of the aggregation layer is the cluster CA in its place (rule 2).
    pub request_header_defaulted: bool,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomEntry {
    /// PEM for the state and the hosts: every certificate of the file, written anew. Empty for a
    /// lone service-account key.
    pub certificate_pem: String,
    /// The certificate's file. That of a defaulted CA is the cluster CA's.
    pub certificate: Option<CustomFile>,
    /// The key's file; `None` for a CA whose key stays elsewhere.
    pub key: Option<CustomFile>,
    /// SHA-256 of the SubjectPublicKeyInfo, hex.
    pub spki: String,
}

/// A file as it was when it was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomFile {
    /// Where, links followed.
    pub path: PathBuf,
    /// SHA-256 of its bytes, hex.
    pub sha256: String,
}

impl CustomSet {
    /// Whether `rke cert rotate` and ours can issue from it later.
    pub fn can_issue(&self) -> bool {
        let key = |name: &str| self.entries.get(name).is_some_and(|it| it.key.is_some());
        key(names::KUBE_CA) && key(names::REQUEST_HEADER_CA)
    }
}

/// What a directory is judged against.
#[derive(Clone, Copy, Debug)]
pub struct Against<'a> {
    /// The cluster.
    pub config: &'a ClusterConfig,
    /// The moment.
    pub now: UnixTime,
    /// The cluster's present entries, if it has a state: its service-account key stays where the
    /// directory has none.
    pub current: Option<&'a Bundle>,
}

/// Judges a directory.
///
/// # Errors
///
/// When `cluster.yml` does not tell which certificates there should be.
pub fn verify(directory: &CertDir, against: &Against<'_>) -> Result<Verdict, GenerateError> {
    let expected = expected(against.config)?;
    let mut judge = Judge {
        against,
        directory,
        findings: Vec::new(),
    };
    let found = Found::read(directory, &expected, &mut judge);
    judge.rules(&found, &expected);
    judge.authorities(&found);
    for leaf in &expected {
        judge.leaf(&found, leaf);
    }
    judge.service_account(&found);
    judge.twice(&found, &expected);
    judge.files(&expected);
    let findings = judge.findings;
    let passed = findings
        .iter()
        .all(|finding| finding.severity > Severity::Error);
    Ok(Verdict {
        directory: directory.path.clone(),
        findings,
        set: passed.then(|| found.into_set()),
    })
}

/// Collects findings.
struct Judge<'a> {
    against: &'a Against<'a>,
    directory: &'a CertDir,
    findings: Vec<Finding>,
}

impl Judge<'_> {
    fn add(&mut self, severity: Severity, rule: Rule, file: &str, message: impl Into<String>) {
        self.findings.push(Finding {
            severity,
            rule,
            file: file.to_owned(),
            message: message.into(),
            rke: None,
        });
    }

    fn error(&mut self, rule: Rule, file: &str, message: impl Into<String>) {
        self.add(Severity::Error, rule, file, message);
    }

    fn warn(&mut self, rule: Rule, file: &str, message: impl Into<String>) {
        self.add(Severity::Warning, rule, file, message);
    }

    fn note(&mut self, rule: Rule, file: &str, message: impl Into<String>) {
        self.add(Severity::Note, rule, file, message);
    }

    /// What RKE stops at, in its words.
    fn refuse(&mut self, rule: Rule, file: &str, message: impl Into<String>, rke: String) {
        self.add(Severity::Refused, rule, file, message);
        if let Some(last) = self.findings.last_mut() {
            last.rke = Some(RkeSays::Refuses(rke));
        }
    }
}
