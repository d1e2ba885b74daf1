//! How far a company's CA has come with the requests.

use pki::{Certificate, CertificateRequest, PrivateKey, UnixTime};
use serde::Serialize;

use super::found::OTHERS;
use crate::rke::cert_dir::CertDir;
use crate::rke::csr::expected;
use crate::rke::generate::GenerateError;
use crate::rke::{ClusterConfig, names};

/// What there is of one expected certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The entry: `kube-etcd-10-0-0-1`.
    pub entry: String,
    /// Whether RKE makes a request for it; CAs and the service-account key come otherwise.
    pub has_request: bool,
    /// Its request.
    pub request: RequestStatus,
    /// Its key.
    pub key: KeyStatus,
    /// Its certificate.
    pub certificate: Signed,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestStatus {
    /// None.
    Missing,
    /// It is there.
    There,
    /// It is there, and was made with another key than the one beside it.
    OfOtherKey,
    /// Why it cannot be read.
    Unreadable(String),
}

/// A key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyStatus {
    /// None.
    Missing,
    /// It is there.
    There,
    /// Why it cannot be read.
    Unreadable(String),
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signed {
    /// None yet.
    Missing,
    /// Why it cannot be read.
    Unreadable(String),
    /// It has come.
    By {
        /// Who signed it.
        issuer: String,
        /// Its last valid second.
        #[serde(serialize_with = "in_words")]
        not_after: UnixTime,
        /// Whether it is for the key that is there; `None` where there is none.
        matches_key: Option<bool>,
    },
}

impl Status {
    /// Whether nothing is left to do for it, as far as can be told without judging it.
    pub fn is_complete(&self) -> bool {
        let key_is_there = self.key == KeyStatus::There;
        match (&self.certificate, self.entry.as_str()) {
            (Signed::By { matches_key, .. }, _) if key_is_there => *matches_key == Some(true),
            (Signed::By { .. }, names::KUBE_CA | names::REQUEST_HEADER_CA) => true,
            // The cluster CA stands in, and nobody reads the tokens' certificate.
            (Signed::Missing, names::REQUEST_HEADER_CA) => true,
            (Signed::Missing, names::SERVICE_ACCOUNT_TOKEN) => key_is_there,
            _ => false,
        }
    }
}

/// What there is, by entry: CAs, then requests in RKE's order, then the service-account key.
///
/// # Errors
///
/// When `cluster.yml` does not tell which certificates there should be.
pub fn status(directory: &CertDir, config: &ClusterConfig) -> Result<Vec<Status>, GenerateError> {
    let leaves = expected(config)?;
    let [kube_ca, request_header_ca, service_account] = OTHERS;
    let before = [kube_ca, request_header_ca].map(|entry| (entry, false));
    let requested = leaves.iter().map(|leaf| (leaf.entry.as_str(), true));
    let all = before
        .into_iter()
        .chain(requested)
        .chain([(service_account, false)]);
    Ok(all
        .map(|(entry, has_request)| one(directory, entry, has_request))
        .collect())
}

fn one(directory: &CertDir, entry: &str, has_request: bool) -> Status {
    let key = directory
        .file(&names::key_file(entry))
        .map(|file| PrivateKey::from_pem(&file.bytes));
    let spki = match &key {
        Some(Ok(key)) => Some(key.spki_sha256()),
        _ => None,
    };
    let request = match directory.file(&names::request_file(entry)) {
        None => RequestStatus::Missing,
        Some(file) => match CertificateRequest::from_pem(&file.bytes) {
            Err(error) => RequestStatus::Unreadable(error.to_string()),
            Ok(request) if spki.is_some_and(|spki| spki != request.spki_sha256()) => {
                RequestStatus::OfOtherKey
            }
            Ok(_) => RequestStatus::There,
        },
    };
    Status {
        entry: entry.to_owned(),
        has_request,
        request,
        certificate: certificate(directory, entry, spki),
        key: match key {
            None => KeyStatus::Missing,
            Some(Ok(_)) => KeyStatus::There,
            Some(Err(error)) => KeyStatus::Unreadable(error.to_string()),
        },
    }
}

fn certificate(directory: &CertDir, entry: &str, spki: Option<pki::Digest>) -> Signed {
    let Some(file) = directory.file(&names::certificate_file(entry)) else {
        return Signed::Missing;
    };
    let found = Certificate::all_from_pem(&file.bytes);
    match found.map(|all| all.into_iter().next()) {
        Ok(Some(certificate)) => Signed::By {
            issuer: certificate.issuer().to_string(),
            not_after: certificate.validity().not_after,
            matches_key: spki.map(|spki| spki == certificate.spki_sha256()),
        },
        Ok(None) => Signed::Unreadable("no CERTIFICATE PEM block found".to_owned()),
        Err(error) => Signed::Unreadable(error.to_string()),
    }
}

fn in_words<S: serde::Serializer>(moment: &UnixTime, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(moment)
}
