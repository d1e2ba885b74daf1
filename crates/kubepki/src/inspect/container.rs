//! Files that hold certificates inside: kubeconfigs and Secrets.

use pki::{Certificate, PrivateKey, UnixTime};
use serde::Serialize;

use super::certificate::{CertificateReport, key, report};
use super::plain::plain;
use super::{KeyReport, MOST_ITEMS};
use crate::kubeconfig::{Cluster, KeyPlacement, Kubeconfig, Placement, User};
use crate::listener::{Listener, fingerprint};

/// A kubeconfig by cluster and user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KubeconfigReport {
    /// The context that is used when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_context: Option<String>,
    /// Clusters.
    pub clusters: Vec<ClusterReport>,
    /// Users.
    pub users: Vec<UserReport>,
}

/// A cluster of a kubeconfig.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClusterReport {
    /// Its name.
    pub name: String,
    /// URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// How the server is verified.
    pub authority: AuthorityReport,
}

/// Where a cluster's trust bundle is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthorityReport {
    /// In the kubeconfig.
    Inline(Vec<CertificateReport>),
    /// In a file.
    File(String),
    /// The system's trust store.
    System,
    /// Nowhere: any server is taken.
    NotVerified,
    /// In the kubeconfig, but it cannot be read.
    Unreadable(String),
}

/// A user of a kubeconfig.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UserReport {
    /// Its name.
    pub name: String,
    /// The inlined certificates, leaf first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateReport>,
    /// The file with the certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<String>,
    /// The inlined key's public half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyReport>,
    /// The file with the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
    /// Other ways to log in: `token`, `exec`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_credentials: Vec<String>,
    /// What is wrong, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A Secret with a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenerReport {
    /// SANs that the annotations ask for.
    pub sans: Vec<String>,
    /// Marked static: K3s never changes it.
    pub is_static: bool,
    /// Leaf and chain.
    pub certificates: Vec<CertificateReport>,
    /// The key's public half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyReport>,
    /// What is wrong, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

pub(super) fn kubeconfig(config: &Kubeconfig, now: UnixTime) -> KubeconfigReport {
    KubeconfigReport {
        current_context: config.current_context.as_deref().map(plain),
        clusters: config
            .clusters
            .iter()
            .take(MOST_ITEMS)
            .map(|it| cluster(it, now))
            .collect(),
        users: config
            .users
            .iter()
            .take(MOST_ITEMS)
            .map(|it| user(it, now))
            .collect(),
    }
}

fn cluster(cluster: &Cluster, now: UnixTime) -> ClusterReport {
    let authority = match &cluster.authority {
        // client-go looks at no authority once verification is off.
        _ if cluster.insecure_skip_tls_verify => AuthorityReport::NotVerified,
        Some(Placement::File(path)) => AuthorityReport::File(plain(&path.display().to_string())),
        Some(Placement::Inline(pem)) => match Certificate::all_from_pem(pem) {
            Ok(bundle) => {
                let bundle = bundle.iter().take(MOST_ITEMS);
                AuthorityReport::Inline(bundle.map(|it| report(it, now)).collect())
            }
            Err(error) => AuthorityReport::Unreadable(plain(&error.to_string())),
        },
        None => AuthorityReport::System,
    };
    ClusterReport {
        name: plain(&cluster.name),
        server: cluster.server.as_deref().map(plain),
        authority,
    }
}

fn user(user: &User, now: UnixTime) -> UserReport {
    let mut problems = Vec::new();
    let (mut certificates, mut certificate_file) = (Vec::new(), None);
    match &user.certificate {
        Some(Placement::File(path)) => certificate_file = Some(plain(&path.display().to_string())),
        Some(Placement::Inline(pem)) => certificates = chain(pem, &mut problems),
        None => {}
    }
    let (mut key, mut key_file) = (None, None);
    match &user.key {
        Some(KeyPlacement::File(path)) => key_file = Some(plain(&path.display().to_string())),
        Some(KeyPlacement::Inline(pem)) => key = key_of(pem, &certificates, &mut problems),
        None => {}
    }
    UserReport {
        name: plain(&user.name),
        certificates: certificates.iter().map(|it| report(it, now)).collect(),
        certificate_file,
        key,
        key_file,
        other_credentials: user
            .other_credentials
            .iter()
            .map(|it| (*it).to_owned())
            .collect(),
        problems,
    }
}

pub(super) fn listener(listener: &Listener, now: UnixTime) -> ListenerReport {
    let mut problems = Vec::new();
    let certificates = chain(&listener.certificate, &mut problems);
    let key = key_of(&listener.key, &certificates, &mut problems);
    if let Some(leaf) = certificates.first() {
        match &listener.fingerprint {
            Some(noted) if *noted != fingerprint(leaf) => {
                problems.push("the fingerprint annotation is another certificate's".to_owned());
            }
            _ => {}
        }
        let held: Vec<String> = leaf.sans().iter().map(ToString::to_string).collect();
        for san in listener
            .sans
            .iter()
            .filter(|san| !held.contains(san))
            .take(MOST_ITEMS)
        {
            let san = plain(san);
            problems.push(format!(
                "the annotations ask for {san}, which the certificate lacks"
            ));
        }
    }
    for name in listener.invalid_sans.iter().take(MOST_ITEMS) {
        problems.push(format!(
            "K3s passes over the annotated name {:?}",
            plain(name)
        ));
    }
    ListenerReport {
        sans: listener
            .sans
            .iter()
            .take(MOST_ITEMS)
            .map(|san| plain(san))
            .collect(),
        is_static: listener.is_static,
        certificates: certificates.iter().map(|it| report(it, now)).collect(),
        key,
        problems,
    }
}

fn chain(pem: &[u8], problems: &mut Vec<String>) -> Vec<Certificate> {
    match Certificate::all_from_pem(pem) {
        Ok(mut chain) => {
            chain.truncate(MOST_ITEMS);
            chain
        }
        Err(error) => {
            problems.push(format!(
                "the certificate cannot be read: {}",
                plain(&error.to_string())
            ));
            Vec::new()
        }
    }
}

fn key_of(
    pem: &[u8],
    certificates: &[Certificate],
    problems: &mut Vec<String>,
) -> Option<KeyReport> {
    let private = match PrivateKey::from_pem(pem) {
        Ok(private) => private,
        Err(error) => {
            problems.push(format!(
                "the private key cannot be read: {}",
                plain(&error.to_string())
            ));
            return None;
        }
    };
    let mut found = key(private.spki_der());
    if let Some(leaf) = certificates.first() {
        if leaf.spki_der() == private.spki_der() {
            found.belongs_to = Some(1);
        } else {
            problems.push("the private key does not belong to the certificate".to_owned());
        }
    }
    Some(found)
}
