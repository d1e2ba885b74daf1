//! A lost state file, from what control-plane hosts still have.
//!
//! RKE keeps the cluster CA with its key on every control-plane host, and there nearly everything
//! else: only the administrator's pair is nowhere but in the state, and is issued anew.

use std::collections::{BTreeMap, BTreeSet};

use pki::{Authority, PrivateKey, Serial, UnixTime};
use zeroize::Zeroizing;

use super::catalogue::{Kind, RKE};
use super::entry::Origin;
use super::generate::{GenerateError, first};
use super::init::{rke_config, with_admin};
use super::rotate::Site;
use super::{Bundle, ClusterConfig, Entry, Half, Role, Secret, State, names};
use crate::edge::{Entropy, KeySource};
use crate::host;

/// What a state is rebuilt from.
#[derive(Clone, Copy, Debug)]
pub struct RebuildRequest<'a> {
    /// `cluster.yml`: the stored configuration comes from it.
    pub config: &'a ClusterConfig,
    /// Hosts and the files of [`names::SSL_DIRECTORY`] on each, the one that counts first: a file
    /// that it lacks is taken from the next that has it.
    pub hosts: &'a [(String, BTreeMap<String, host::Entry>)],
    /// The files on this machine.
    pub site: &'a Site,
    /// Now.
    pub now: UnixTime,
    /// The serial number of the administrator's certificate.
    pub entropy: &'a dyn Entropy,
    /// Its key.
    pub keys: &'a dyn KeySource,
}

/// A state that was rebuilt.
#[derive(Clone)]
pub struct Rebuilt {
    /// Both halves are what the hosts have.
    pub state: State,
    /// The administrator's kubeconfig.
    pub kubeconfig: Secret,
    /// What is not as it was, a sentence each.
    pub notes: Vec<String>,
}

/// Why a state cannot be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// No host has the cluster CA with its key.
    #[error(
        "none of the hosts ({}) has {file} in /etc/kubernetes/ssl: without it no certificate can \
         be issued. Ask a control-plane host, or restore the state from an etcd snapshot",
        hosts.join(", ")
    )]
    Missing {
        /// The file.
        file: String,
        /// Who was asked.
        hosts: Vec<String>,
    },
    /// A file that has to be right is not.
    #[error("{file} of host {host} cannot be used")]
    Unusable {
        /// The host.
        host: String,
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: pki::Error,
    },
    /// What belongs into the state cannot be said.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The administrator's certificate cannot be issued.
    #[error("cannot make the administrator's certificate")]
    Admin(#[source] pki::Error),
}

/// Rebuilds a state.
///
/// # Errors
///
/// [`RebuildError`]: without the CA's key there is nothing to rebuild. What else is missing or
/// unreadable is left out and said.
pub fn rebuild(request: &RebuildRequest<'_>) -> Result<Rebuilt, RebuildError> {
    let mut notes = Vec::new();
    let mut bundle = Bundle::new();
    let mut sources: BTreeSet<String> = BTreeSet::new();
    for row in RKE.iter().filter(|row| row.exists_in(request.config)) {
        if row.id == names::KUBE_ADMIN {
            continue;
        }
        for (name, _) in row.entries(request.config) {
            if matches!(row.kind, Kind::Given) {
                continue;
            }
            if let Some((host, entry)) = collect(request, &name, &mut notes)? {
                sources.insert(host);
                bundle.insert(name, entry);
            }
        }
    }
    let wanted = first(request.config)?;
    for given in wanted.given {
        bundle.insert(given.name.clone(), given);
    }
    let mut admin = administrator(request, &bundle, &wanted.leaves)?;
    let mut planes = request.config.with_role(Role::ControlPlane);
    let mut kubeconfig = Secret::default();
    if let (Some(node), Some(ca)) = (planes.next(), bundle.get(names::KUBE_CA)) {
        let authority = ca.certificate_pem.clone();
        let config = request.config;
        kubeconfig = with_admin(&mut admin, node, config, &authority, request.site);
    }
    bundle.insert(admin.name.clone(), admin);
    notes.extend(closing(request, &sources));
    let mut state = State::empty();
    let entries: Vec<String> = bundle.keys().cloned().collect();
    state.set_desired(bundle.into_values());
    state.promote(entries.iter().map(String::as_str));
    for half in [Half::Desired, Half::Current] {
        state.set_rke_config(half, rke_config(request.config));
        if let Some(text) = encryption(request) {
            state.set_encryption_config(half, &text);
        }
    }
    Ok(Rebuilt {
        state,
        kubeconfig,
        notes,
    })
}

/// An entry from the first host that has its certificate, with that host's key.
fn collect(
    request: &RebuildRequest<'_>,
    name: &str,
    notes: &mut Vec<String>,
) -> Result<Option<(String, Entry)>, RebuildError> {
    let required = name == names::KUBE_CA;
    let (certificate, key) = (names::certificate_file(name), names::key_file(name));
    let having: Vec<_> = request
        .hosts
        .iter()
        .filter_map(|(host, files)| Some((host, files, files.get(&certificate)?.bytes()?)))
        .collect();
    let mut keyed = having
        .iter()
        .filter(|(_, files, _)| files.contains_key(&key));
    let found = keyed
        .next()
        .or_else(|| having.first().filter(|_| !required));
    let Some((host, files, bytes)) = found else {
        if required {
            let file = match having.is_empty() {
                false => key,
                true => certificate,
            };
            let hosts = request.hosts.iter().map(|(host, _)| host.clone());
            return Err(RebuildError::Missing {
                file,
                hosts: hosts.collect(),
            });
        }
        notes.push(format!(
            "{certificate} is on none of the hosts that were asked: the state has no {name}."
        ));
        return Ok(None);
    };
    let entry = read(name, bytes, files.get(&key).and_then(host::Entry::bytes));
    match entry {
        Ok(entry) => {
            if entry.key_pem.is_empty() {
                notes.push(format!("{key} is on none of the hosts that were asked."));
            }
            Ok(Some(((*host).clone(), entry)))
        }
        Err(source) if required => Err(RebuildError::Unusable {
            host: (*host).clone(),
            file: certificate,
            source,
        }),
        Err(source) => {
            notes.push(format!(
                "{certificate} of host {host} cannot be used, and is left out: {source}"
            ));
            Ok(None)
        }
    }
}

/// An entry, its certificate held to its key.
fn read(name: &str, certificate: &[u8], key: Option<&[u8]>) -> Result<Entry, pki::Error> {
    let certificates = pki::Certificate::all_from_pem(certificate)?;
    let Some(first) = certificates.first() else {
        return Err(pki::Error::NoPemBlock {
            expected: "CERTIFICATE",
        });
    };
    let pem: String = certificates.iter().map(pki::Certificate::to_pem).collect();
    let mut secret = Secret::default();
    if let Some(text) = key {
        let key = PrivateKey::from_pem(text)?;
        if key.spki_der() != first.spki_der() && name != names::SERVICE_ACCOUNT_TOKEN {
            return Err(pki::Error::KeyMismatch {
                subject: first.subject().to_string(),
                certificate_spki: first.spki_sha256().to_string(),
                key_spki: key.spki_sha256().to_string(),
            });
        }
        secret = Secret::new(key.to_pem()?);
    }
    Ok(Entry::new(name, &pem, secret, Origin::Issued))
}

fn administrator(
    request: &RebuildRequest<'_>,
    bundle: &Bundle,
    leaves: &[super::LeafSpec],
) -> Result<Entry, RebuildError> {
    let missing = |file: String| RebuildError::Missing {
        file,
        hosts: request.hosts.iter().map(|(host, _)| host.clone()).collect(),
    };
    let ca = bundle.get(names::KUBE_CA);
    let ca = ca.ok_or_else(|| missing(names::certificate_file(names::KUBE_CA)))?;
    let certificate = ca.certificate().map_err(RebuildError::Admin)?;
    let key = ca.key().map_err(RebuildError::Admin)?;
    let (Some(certificate), Some(key)) = (certificate, key) else {
        return Err(missing(names::key_file(names::KUBE_CA)));
    };
    let authority = Authority::new(certificate, key).map_err(RebuildError::Admin)?;
    let Some(spec) = leaves.iter().find(|leaf| leaf.entry == names::KUBE_ADMIN) else {
        return Err(missing(names::KUBE_ADMIN.to_owned()));
    };
    let key = request.keys.generate(spec.algorithm());
    let key = key.map_err(RebuildError::Admin)?;
    let serial = Serial::random(|bytes| request.entropy.fill(bytes));
    let serial = serial.map_err(RebuildError::Admin)?;
    let issued = spec.issue(&authority, &key, serial, request.now);
    let certificate = issued.map_err(RebuildError::Admin)?;
    let pem = Secret::new(key.to_pem().map_err(RebuildError::Admin)?);
    let text = certificate.to_pem();
    Ok(Entry::new(names::KUBE_ADMIN, &text, pem, Origin::Issued))
}

fn closing(request: &RebuildRequest<'_>, sources: &BTreeSet<String>) -> Vec<String> {
    let hosts: Vec<&str> = sources.iter().map(String::as_str).collect();
    let mut notes = vec![
        format!("Rebuilt from {}.", hosts.join(", ")),
        "kube-admin is issued anew; the former administrator's certificate stays valid until it \
         ends."
            .to_owned(),
        "rkeConfig holds what cluster.yml says of certificates and hosts; the next `rke up` fills \
         in the rest."
            .to_owned(),
    ];
    let encrypted = request
        .hosts
        .iter()
        .find(|(_, files)| files.contains_key("encryption.yaml"));
    if let Some((host, _)) = encrypted {
        notes.push(format!(
            "Secrets are encrypted with what /etc/kubernetes/ssl/encryption.yaml of host {host} \
             says; it is in the state again."
        ));
    }
    notes
}

/// Text of the EncryptionConfiguration, where control-plane hosts have one.
fn encryption(request: &RebuildRequest<'_>) -> Option<Zeroizing<String>> {
    let files = request.hosts.iter();
    let found = files.filter_map(|(_, files)| files.get("encryption.yaml")?.bytes());
    let mut texts = found.filter_map(|bytes| std::str::from_utf8(bytes).ok());
    texts.next().map(|text| Zeroizing::new(text.to_owned()))
}
