//! What a directory holds, read.

use std::collections::BTreeMap;

use pki::{Certificate, KeyAlgorithm, PrivateKey, sha256};

use super::{CustomEntry, CustomFile, CustomSet, Judge, RkeSays, Rule, Severity};
use crate::rke::cert_dir::{CertDir, DirFile};
use crate::rke::generate::LeafSpec;
use crate::rke::names;

/// Certificates and keys by entry; those of expected entries only.
pub(super) struct Found {
    pairs: BTreeMap<String, Pair>,
}

/// One entry's two files.
#[derive(Default)]
pub(super) struct Pair {
    /// The certificate, then what follows it in the file.
    pub(super) certificates: Vec<Certificate>,
    pub(super) key: Option<PrivateKey>,
    /// A file is there, and cannot be read; that has been said.
    pub(super) broken: bool,
    certificate_file: Option<CustomFile>,
    key_file: Option<CustomFile>,
}

impl Pair {
    /// The one that RKE reads.
    pub(super) fn certificate(&self) -> Option<&Certificate> {
        self.certificates.first()
    }
}

impl Found {
    /// Reads file by file, in the order in which RKE does.
    pub(super) fn read(directory: &CertDir, leaves: &[LeafSpec], judge: &mut Judge<'_>) -> Self {
        let mut found = Self {
            pairs: BTreeMap::new(),
        };
        for name in directory.names() {
            let Some(entry) = certificate_entry(name) else {
                continue;
            };
            let is_expected = is_expected(entry, leaves);
            let severity = match is_expected {
                true => Severity::Refused,
                // RKE reads what it has no use for, and stops at it.
                false => Severity::Note,
            };
            let mut pair = Pair::default();
            pair.read_certificate(directory, entry, severity, judge);
            pair.read_key(directory, entry, severity, judge);
            if is_expected {
                found.pairs.insert(entry.to_owned(), pair);
            }
        }
        // A key alone RKE does not read.
        let alone = leaves.iter().map(|leaf| leaf.entry.as_str());
        for entry in alone.chain(OTHERS) {
            if found.pairs.contains_key(entry) {
                continue;
            }
            let mut pair = Pair::default();
            pair.read_key(directory, entry, Severity::Error, judge);
            found.pairs.insert(entry.to_owned(), pair);
        }
        found
    }

    /// The entry's files; every expected entry has a pair, if an empty one.
    pub(super) fn pair(&self, entry: &str) -> Option<&Pair> {
        self.pairs.get(entry)
    }

    /// Its certificate.
    pub(super) fn certificate(&self, entry: &str) -> Option<&Certificate> {
        self.pair(entry)?.certificate()
    }

    /// The CA that `entry`, a CA's name, stands for: the cluster CA where the one of the
    /// aggregation layer is missing.
    pub(super) fn authority(&self, entry: &str) -> Option<&Pair> {
        let own = self.pair(entry)?;
        match entry == names::REQUEST_HEADER_CA && own.certificates.is_empty() {
            true => self.pair(names::KUBE_CA),
            false => Some(own),
        }
    }

    /// Every pair.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &Pair)> {
        self.pairs.iter().map(|(name, pair)| (name.as_str(), pair))
    }

    /// What was read, for installing.
    pub(super) fn into_set(self) -> CustomSet {
        let has = |entry: &str| self.certificate(entry).is_some();
        let request_header_defaulted = !has(names::REQUEST_HEADER_CA);
        let mut entries = BTreeMap::new();
        for (name, pair) in &self.pairs {
            let spki = match (pair.certificate(), &pair.key) {
                (Some(certificate), _) => certificate.spki_sha256(),
                (None, Some(key)) => key.spki_sha256(),
                (None, None) => continue,
            };
            let pem = pair.certificates.iter().map(Certificate::to_pem);
            let entry = CustomEntry {
                certificate_pem: pem.collect(),
                certificate: pair.certificate_file.clone(),
                key: pair.key_file.clone(),
                spki: spki.to_string(),
            };
            entries.insert(name.clone(), entry);
        }
        if request_header_defaulted && let Some(ca) = entries.get(names::KUBE_CA).cloned() {
            let ca = CustomEntry { key: None, ..ca };
            entries.insert(names::REQUEST_HEADER_CA.to_owned(), ca);
        }
        CustomSet {
            entries,
            request_header_defaulted,
        }
    }
}

impl Pair {
    fn read_certificate(
        &mut self,
        directory: &CertDir,
        entry: &str,
        severity: Severity,
        judge: &mut Judge<'_>,
    ) {
        let name = names::certificate_file(entry);
        let Some(file) = directory.file(&name) else {
            return;
        };
        match Certificate::all_from_pem(&file.bytes) {
            Ok(found) if !found.is_empty() => {
                self.certificates = found;
                self.certificate_file = Some(digest(file));
            }
            result => {
                let reason = match result {
                    Err(reason) => reason,
                    Ok(_) => pki::Error::NoPemBlock {
                        expected: "CERTIFICATE",
                    },
                };
                self.broken = true;
                let rke = match reason {
                    pki::Error::NoPemBlock { .. } => {
                        "data does not contain any valid RSA or ECDSA certificates".to_owned()
                    }
                    ref other => other.to_string(),
                };
                judge.add(
                    severity,
                    Rule::UnreadableCertificate,
                    &name,
                    format!("cannot be read: {reason}; put the certificate there as PEM"),
                );
                judge.rke_stops(format!("failed to read certificate [{name}]: {rke}"));
            }
        }
    }

    fn read_key(
        &mut self,
        directory: &CertDir,
        entry: &str,
        severity: Severity,
        judge: &mut Judge<'_>,
    ) {
        let name = names::key_file(entry);
        let Some(file) = directory.file(&name) else {
            return;
        };
        let beside_certificate = directory.file(&names::certificate_file(entry)).is_some();
        match PrivateKey::from_pem(&file.bytes) {
            Ok(key) if matches!(key.algorithm(), KeyAlgorithm::Rsa(_)) => {
                self.key = Some(key);
                self.key_file = Some(digest(file));
            }
            Ok(key) => {
                self.broken = true;
                judge.add(
                    severity,
                    Rule::KeyNotRsa,
                    &name,
                    format!(
                        "is {}: RKE panics at keys that are not RSA; have a request of \
                         generate-csr signed",
                        key.algorithm()
                    ),
                );
            }
            Err(reason) => {
                self.broken = true;
                let severity = match reason {
                    // RKE would take it.
                    pki::Error::KeyTooSmall { .. } => severity.max(Severity::Error),
                    _ => severity,
                };
                judge.add(
                    severity,
                    Rule::UnreadableKey,
                    &name,
                    format!("cannot be read: {reason}"),
                );
                if beside_certificate {
                    let rke = match reason {
                        pki::Error::KeyTooSmall { .. } => return,
                        _ => "data does not contain a valid RSA or ECDSA private key",
                    };
                    judge.rke_stops(format!(
                        "failed to read key [{name}], make sure it is not encrypted: {rke}"
                    ));
                }
            }
        }
    }
}

impl Judge<'_> {
    /// Adds RKE's words to the last finding.
    fn rke_stops(&mut self, text: String) {
        if let Some(last) = self.findings.last_mut() {
            last.rke = Some(RkeSays::Refuses(text));
        }
    }
}

fn digest(file: &DirFile) -> CustomFile {
    CustomFile {
        path: file.path.clone(),
        sha256: sha256(&file.bytes).to_string(),
    }
}

/// The entry whose certificate a file of that name is, by RKE's rule.
pub(super) fn certificate_entry(name: &str) -> Option<&str> {
    let entry = name.strip_suffix(".pem")?;
    (!entry.ends_with("-key") && !entry.ends_with("-csr")).then_some(entry)
}

pub(super) fn is_expected(entry: &str, leaves: &[LeafSpec]) -> bool {
    OTHERS.contains(&entry) || leaves.iter().any(|leaf| leaf.entry == entry)
}

/// What belongs to a set beside the leaves that requests are made for.
pub(super) const OTHERS: [&str; 3] = [
    names::KUBE_CA,
    names::REQUEST_HEADER_CA,
    names::SERVICE_ACCOUNT_TOKEN,
];
