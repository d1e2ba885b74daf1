//! `generate-csr`: requests and keys for a company's CA, from `cluster.yml` alone.
//!
//! What is there stays where it fits: RKE's rule for requests, and, other than RKE, keys are never
//! replaced. RKE reads a key only beside a request, and overwrites it where the request is gone.

use std::path::PathBuf;

use pki::{CertificateRequest, KeyAlgorithm, Name, PrivateKey, San};
use zeroize::Zeroizing;

use super::cert_dir::{CertDir, NewFile};
use super::generate::{self, GenerateError, LeafSpec};
use super::log::{self, Line};
use super::{ClusterConfig, names};
use crate::edge::{KeySource, generate_all};

/// Requests and keys, with what is to be written.
#[derive(Debug)]
pub struct CsrSet {
    /// New files only: what stays is not written.
    pub files: Vec<NewFile>,
    /// Each expected request, in RKE's order, with what became of it.
    pub requests: Vec<Request>,
    /// RKE's log lines, from `Generating Kubernetes cluster CSR certificates` to the last.
    pub lines: Vec<Line>,
    /// What the operator should know: requests of nodes that are gone, keys that others can read.
    pub notes: Vec<String>,
}

/// One expected request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The entry: `kube-etcd-10-0-0-1`.
    pub entry: String,
    /// Its subject.
    pub subject: String,
    /// What was done.
    pub done: Done,
    /// Whether its key was there.
    pub key_kept: bool,
}

/// What was done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was there, and stays.
    Kept,
    /// There was none.
    Made,
    /// The one that was there has other names, or another key.
    Replaced,
}

/// Why nothing is written.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// The configuration cannot be turned into certificates.
    #[error(transparent)]
    Config(#[from] GenerateError),
    /// A request that is there cannot be read.
    #[error("failed to read csr [{file}]: {reason}; remove it to have it made anew")]
    Request {
        /// Its path.
        file: PathBuf,
        /// Why: RKE panics here.
        reason: pki::Error,
    },
    /// A key that is there cannot be read.
    #[error("failed to read key [{file}], make sure it is not encrypted: {reason}")]
    Key {
        /// Its path.
        file: PathBuf,
        /// Why.
        reason: pki::Error,
    },
    /// A key that is there is none that RKE takes.
    #[error(
        "the key [{file}] is {algorithm}: RKE stops at anything but RSA; move it away to have one \
         made"
    )]
    KeyKind {
        /// Its path.
        file: PathBuf,
        /// What it is.
        algorithm: KeyAlgorithm,
    },
    /// A key or request could not be made.
    #[error("cannot make the request {entry}")]
    Make {
        /// Which.
        entry: String,
        /// Why.
        #[source]
        source: pki::Error,
    },
}

/// The certificates that RKE makes requests for, in its order: those of section 2 of its ways but
/// CAs and the service-account key.
///
/// # Errors
///
/// [`GenerateError`].
pub fn expected(config: &ClusterConfig) -> Result<Vec<LeafSpec>, GenerateError> {
    let mut leaves = generate::first(config)?.leaves;
    leaves.retain(|leaf| leaf.entry != names::SERVICE_ACCOUNT_TOKEN);
    Ok(leaves)
}

/// Decides and makes what is missing in `directory`. RSA keys are made on all cores.
///
/// # Errors
///
/// [`CsrError`]: nothing is written then.
pub fn generate(
    config: &ClusterConfig,
    directory: &CertDir,
    keys: &dyn KeySource,
) -> Result<CsrSet, CsrError> {
    let mut set = CsrSet {
        files: Vec::new(),
        requests: Vec::new(),
        lines: vec![log::info("Generating Kubernetes cluster CSR certificates")],
        notes: Vec::new(),
    };
    let expected = expected(config)?;
    let mut drafts = Vec::new();
    for leaf in &expected {
        drafts.push(Draft::new(leaf, directory)?);
    }
    let wanted: Vec<KeyAlgorithm> = drafts
        .iter()
        .filter(|draft| draft.wants_key())
        .map(|draft| draft.leaf.algorithm())
        .collect();
    let made = generate_all(keys, &wanted).map_err(|source| CsrError::Make {
        entry: "keys".to_owned(),
        source,
    })?;
    let mut made = made.into_iter();
    for draft in drafts {
        draft.finish(config, &mut made, &mut set)?;
    }
    set.notes.extend(stale(directory, &expected));
    set.lines.push(log::info(format!(
        "Successfully Deployed certificates at [{}]",
        directory.path.display()
    )));
    Ok(set)
}

/// One expected request with what is there of it.
struct Draft<'a> {
    leaf: &'a LeafSpec,
    subject: Name,
    key: Option<PrivateKey>,
    done: Done,
    notes: Vec<String>,
}

impl<'a> Draft<'a> {
    fn new(leaf: &'a LeafSpec, directory: &CertDir) -> Result<Self, CsrError> {
        let subject = Name::new(&leaf.organizations, &leaf.common_name).map_err(failed(leaf))?;
        let mut draft = Self {
            leaf,
            subject,
            key: read_key(directory, &leaf.entry)?,
            done: Done::Made,
            notes: Vec::new(),
        };
        let name = names::request_file(&leaf.entry);
        if let Some(file) = directory.file(&name) {
            let request = CertificateRequest::from_pem(&file.bytes).map_err(|reason| {
                let file = directory.path.join(&name);
                CsrError::Request { file, reason }
            })?;
            draft.judge(&name, &request);
        }
        if let Some(mode) = directory.key_is_open(&leaf.entry) {
            draft.notes.push(format!(
                "{} can be read by others (mode {mode:04o}): chmod 600",
                names::key_file(&leaf.entry)
            ));
        }
        Ok(draft)
    }

    /// RKE keeps a request whatever it asks for, names excepted.
    fn judge(&mut self, name: &str, request: &CertificateRequest) {
        let other_names = !self.leaf.sans.is_empty() && request.sans() != wanted_names(self.leaf);
        match &self.key {
            Some(key) if key.spki_sha256() != request.spki_sha256() => {
                self.notes.push(format!(
                    "{name} was made with another key than {}, and is made anew",
                    names::key_file(&self.leaf.entry)
                ));
                self.done = Done::Replaced;
            }
            _ if other_names => self.done = Done::Replaced,
            key => {
                if key.is_none() {
                    self.notes.push(format!(
                        "{name} stays, but its key {} is missing: put it back, or remove the \
                         request to have both made anew",
                        names::key_file(&self.leaf.entry)
                    ));
                }
                self.done = Done::Kept;
                self.differences(name, request);
            }
        }
    }

    fn differences(&mut self, name: &str, request: &CertificateRequest) {
        let same = request.subject().common_name() == self.subject.common_name()
            && request.subject().organizations() == self.subject.organizations();
        if !same {
            self.notes.push(format!(
                "{name} stays as it is, and asks for the subject {} instead of {}",
                request.subject(),
                self.subject
            ));
        }
        if request.purposes() != self.leaf.purposes {
            self.notes.push(format!(
                "{name} stays as it is, and asks for other purposes (extended key usage) than RKE"
            ));
        }
    }

    fn wants_key(&self) -> bool {
        self.key.is_none() && self.done != Done::Kept
    }

    fn finish(
        self,
        config: &ClusterConfig,
        made: &mut impl Iterator<Item = PrivateKey>,
        set: &mut CsrSet,
    ) -> Result<(), CsrError> {
        set.notes.extend(self.notes.iter().cloned());
        set.requests.push(Request {
            entry: self.leaf.entry.clone(),
            subject: self.subject.to_string(),
            done: self.done,
            key_kept: self.key.is_some(),
        });
        if self.done == Done::Kept {
            return Ok(());
        }
        let is_new = self.key.is_none();
        let key = match self.key {
            Some(key) => key,
            None => made
                .next()
                .ok_or(pki::Error::Crypto {
                    what: "generate a key",
                })
                .map_err(failed(self.leaf))?,
        };
        let request = CertificateRequest::with_purposes(
            &self.subject,
            &self.leaf.sans,
            &self.leaf.purposes,
            &key,
        )
        .map_err(failed(self.leaf))?;
        // The key first: a request without its key is worth nothing.
        if is_new {
            let pem = key.to_pem().map_err(failed(self.leaf))?;
            set.files.push(NewFile {
                name: names::key_file(&self.leaf.entry),
                bytes: Zeroizing::new(pem.as_bytes().to_vec()),
            });
        }
        set.files.push(NewFile {
            name: names::request_file(&self.leaf.entry),
            bytes: Zeroizing::new(request.to_pem().into_bytes()),
        });
        set.lines.push(line(config, &self.leaf.entry));
        Ok(())
    }
}

/// The names as they stand in a request: DNS names first.
fn wanted_names(leaf: &LeafSpec) -> Vec<San> {
    let mut names = leaf.sans.clone();
    names.sort_by_key(|name| matches!(name, San::Ip(_)));
    names
}

/// The key that is there.
fn read_key(directory: &CertDir, entry: &str) -> Result<Option<PrivateKey>, CsrError> {
    let name = names::key_file(entry);
    let Some(file) = directory.file(&name) else {
        return Ok(None);
    };
    let path = || directory.path.join(&name);
    let key = PrivateKey::from_pem(&file.bytes).map_err(|reason| CsrError::Key {
        file: path(),
        reason,
    })?;
    match key.algorithm() {
        KeyAlgorithm::Rsa(_) => Ok(Some(key)),
        algorithm => Err(CsrError::KeyKind {
            file: path(),
            algorithm,
        }),
    }
}

/// RKE's line for a request that it makes.
fn line(config: &ClusterConfig, entry: &str) -> Line {
    let what = match entry {
        names::KUBE_APISERVER => "Kubernetes API server csr".to_owned(),
        names::KUBE_CONTROLLER_MANAGER => "Kube Controller csr".to_owned(),
        names::KUBE_SCHEDULER => "Kube Scheduler csr".to_owned(),
        names::KUBE_PROXY => "Kube Proxy csr".to_owned(),
        names::KUBE_NODE => "Node csr and key".to_owned(),
        names::KUBE_ADMIN => "admin csr and kubeconfig".to_owned(),
        names::PROXY_CLIENT => "Kubernetes API server proxy client csr".to_owned(),
        other => {
            let member = config
                .nodes
                .iter()
                .find(|node| names::etcd_entry(node) == other);
            match member {
                Some(node) => format!("etcd-{} csr and key", node.internal_address),
                None => format!("{other} Kubernetes Kubelet csr"),
            }
        }
    };
    log::info(format!("[certificates] Generating {what}"))
}

/// Requests that no certificate of the cluster needs; they stay, as with RKE.
fn stale(directory: &CertDir, expected: &[LeafSpec]) -> Vec<String> {
    let mut notes = Vec::new();
    for name in directory.names() {
        match name.strip_suffix("-csr.pem") {
            Some(entry) if expected.iter().any(|leaf| leaf.entry == entry) => {}
            Some(_) => notes.push(format!(
                "{name} belongs to no certificate of this cluster, and stays: remove it with its \
                 key if its node is gone"
            )),
            None if name.contains("-csr.pem") => notes.push(format!(
                "{name} is taken for no request; RKE would stop at it: move it out of the directory"
            )),
            None => {}
        }
    }
    notes
}

fn failed(leaf: &LeafSpec) -> impl FnOnce(pki::Error) -> CsrError {
    let entry = leaf.entry.clone();
    move |source| CsrError::Make { entry, source }
}
