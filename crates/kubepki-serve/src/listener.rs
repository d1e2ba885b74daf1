//! The certificate that the port serves, kept as K3s keeps it: `tls/dynamic-cert.json`.

use std::path::{Path, PathBuf};

use kubepki::edge::{Entropy, KeySource, file};
use kubepki::host::Attributes;
use kubepki::listener::{Listener, ListenerError, is_listener_name, reissue, render};
use kubepki::plan::served_chain;
use kubepki::state::{Quiet, StateDir, StateError};
use pki::{
    Certificate, DAY, KeyAlgorithm, LeafRequest, PrivateKey, Purpose, San, Serial, UnixTime,
};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::issuance::{Entered, LogError, Need, OwnRecords};
use crate::leaf::validity;
use crate::tls::certified;
use crate::tree::Tree;

/// K3s renews its listener's certificate that long before its end.
pub const WINDOW: i64 = 120 * DAY;

/// The listener's certificate cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its Secret cannot be changed.
    #[error("cannot use {}", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ListenerError,
    },
    /// The CA is not valid now: what it issues would not be either.
    #[error("the listener's certificate is not renewed: the CA {subject} is not valid at {now}")]
    NotNow {
        /// The CA.
        subject: String,
        /// What the clock says.
        now: UnixTime,
    },
    /// Another one is wanted, and not used: it cannot be recorded.
    #[error("another certificate for the listener is not used")]
    Unrecorded(#[source] LogError),
    /// A plan that knows what is in the file is being carried out: it stays as it is until then.
    #[error("a plan is being carried out")]
    AtWork,
    /// Nobody can say whether one is.
    #[error("it cannot be told whether a plan is being carried out")]
    Plans(#[source] StateError),
    /// No certificate can be made or used.
    #[error("the listener's certificate cannot be made or used")]
    Material(#[source] pki::Error),
}

/// What a listener's certificate is made from.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Names and addresses that it must carry.
    pub sans: &'a [San],
    /// In seconds.
    pub lifetime: i64,
    /// Seconds before the end from which the present one is due: [`WINDOW`] as a rule, and less
    /// for a short lifetime.
    pub window: i64,
    /// Now.
    pub now: UnixTime,
    /// Serial numbers.
    pub entropy: &'a dyn Entropy,
    /// A key, where there is none yet.
    pub keys: &'a dyn KeySource,
    /// Where a new one is recorded before it is used.
    pub records: &'a dyn OwnRecords,
    /// Whether the CAs are known to be the cluster's. Where not, a certificate that is there is
    /// shown as it is, and one that has to be made is not written.
    pub is_sure: bool,
    /// Whose plans know what is in the file. While one is at work none is written over one that is
    /// good for a while.
    pub plans: &'a [StateDir],
}

/// What was found or done.
#[derive(Debug)]
pub struct Port {
    /// For new connections.
    pub certified: CertifiedKey,
    /// Its leaf.
    pub leaf: Certificate,
    /// Why it was issued just now; `None` if the present one is good.
    pub issued: Option<&'static str>,
    /// Why the present one stays although another was wanted: that could not be recorded.
    pub unrecorded: Option<LogError>,
    /// What became of the record of one that was issued.
    pub entered: Option<Entered>,
}

/// The certificate in the file, or a new one: where there is none, it is due, lacks a wanted
/// name, or is not by the CA in force. The key and the names that it has stay, as with K3s.
///
/// # Errors
///
/// [`PortError`]; then the file is as it was.
pub fn prepare(tree: &Tree, wanted: &Wanted<'_>) -> Result<Port, PortError> {
    let path = tree.directory.join("tls/dynamic-cert.json");
    let (bytes, present) = read(&path)?;
    if !wanted.is_sure
        && let Some(present) = &present
    {
        return as_it_is(present, None);
    }
    // K3s's `certificate rotate` and `rotate-ca` leave it: the next certificate gets a new key.
    let trigger = tree.directory.join("tls/dynamic-cert-regenerate");
    let is_asked = trigger.exists() && present.as_ref().is_none_or(|it| !it.is_static);
    let why = match is_asked {
        true => Some("tls/dynamic-cert-regenerate asks for it"),
        false => why(tree, wanted, present.as_ref()),
    };
    if let (None, Some(present)) = (why, &present) {
        return as_it_is(present, None);
    }
    let can_wait = present.as_ref().is_some_and(|it| can_wait(it, wanted));
    let _quiet = quiet(tree, wanted, can_wait)?;
    // A plan that was at work just now has ended.
    if read(&path)?.0 != bytes {
        return Err(PortError::AtWork);
    }
    let kept = present.as_ref().filter(|_| !is_asked);
    let New { key, sans, leaf } = new(tree, wanted, present.as_ref(), kept)?;
    let old = present.as_ref().and_then(|it| it.certificates().ok());
    let old = old.as_ref().and_then(|it| it.first());
    let need = Need::of(old, tree.server.issuer.authority.certificate(), wanted.now);
    let entered = match (wanted.records.issued(NAME, &leaf, need), &present) {
        (Ok(entered), _) => Some(entered),
        (Err(error), Some(present)) => return as_it_is(present, Some(error)),
        (Err(_), None) => None,
    };
    let mut chain = leaf.to_pem();
    let behind = served_chain(&tree.server.certificates);
    chain.extend(behind.into_iter().map(Certificate::to_pem));
    let pem = key.to_pem().map_err(PortError::Material)?;
    let port = Port {
        certified: certified(chain.as_bytes(), pem.as_bytes()).map_err(PortError::Material)?,
        leaf,
        issued: why,
        unrecorded: None,
        entered,
    };
    if !wanted.is_sure {
        return Ok(port);
    }
    let texts: Vec<String> = sans.iter().map(San::to_string).collect();
    let written = match &present {
        Some(_) => reissue(&bytes, &chain, &pem),
        None => render(&chain, &pem, &texts),
    };
    write(&path, written)?;
    if is_asked {
        file::remove(&trigger).map_err(|source| PortError::File {
            path: trigger,
            source,
        })?;
    }
    Ok(port)
}

fn write(path: &Path, secret: Result<Zeroizing<Vec<u8>>, ListenerError>) -> Result<(), PortError> {
    let secret = secret.map_err(|source| PortError::Secret {
        path: path.to_owned(),
        source,
    })?;
    file::replace(path, &secret, &attributes(path)).map_err(|source| PortError::File {
        path: path.to_owned(),
        source,
    })
}

/// The file and what it holds; `None` where there is none, or an empty one.
fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, Option<Listener>), PortError> {
    let path = || path.to_owned();
    let bytes = match std::fs::read(path()) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Zeroizing::default(),
        Err(source) => {
            return Err(PortError::File {
                path: path(),
                source,
            });
        }
    };
    match Listener::parse(&bytes) {
        Ok(present) => Ok((bytes, Some(present))),
        Err(ListenerError::Empty) => Ok((bytes, None)),
        Err(source) => Err(PortError::Secret {
            path: path(),
            source,
        }),
    }
}

/// Keeps plans from beginning that know the file. What cannot wait goes on beside them.
fn quiet(tree: &Tree, wanted: &Wanted<'_>, can_wait: bool) -> Result<Vec<Quiet>, PortError> {
    let mut held = Vec::new();
    for plans in wanted.plans {
        match plans.quiet() {
            Ok(Some(quiet)) => held.push(quiet),
            _ if !can_wait => {}
            Ok(None) => return Err(PortError::AtWork),
            Err(error) => return Err(PortError::Plans(error)),
        }
    }
    // One that replaced the CA has just ended: who took that up knows what to sign by.
    if can_wait && !held.is_empty() && tree.is_behind() {
        return Err(PortError::AtWork);
    }
    Ok(held)
}

/// Whether the leaf is valid for a while.
fn can_wait(present: &Listener, wanted: &Wanted<'_>) -> bool {
    let leaf = present.certificates().ok();
    let leaf = leaf.as_ref().and_then(|it| it.first());
    leaf.is_some_and(|leaf| leaf.validity().remaining(wanted.now) > wanted.window / 2)
}

/// In the issuance log, as the catalogue calls it.
const NAME: &str = "dynamic-listener";

fn as_it_is(present: &Listener, unrecorded: Option<LogError>) -> Result<Port, PortError> {
    let leaf = present.certificates().map_err(PortError::Material)?;
    Ok(Port {
        certified: certified(&present.certificate, &present.key).map_err(PortError::Material)?,
        leaf: first(leaf)?,
        issued: None,
        unrecorded,
        entered: None,
    })
}

/// A new certificate and what belongs to it.
struct New {
    key: PrivateKey,
    sans: Vec<San>,
    leaf: Certificate,
}

/// With the key of `kept`, and the names of `present` and those that are wanted.
fn new(
    tree: &Tree,
    wanted: &Wanted<'_>,
    present: Option<&Listener>,
    kept: Option<&Listener>,
) -> Result<New, PortError> {
    let authority = tree.server.issuer.authority.certificate();
    if !authority.validity().contains(wanted.now) {
        return Err(PortError::NotNow {
            subject: authority.subject().to_string(),
            now: wanted.now,
        });
    }
    let key = match kept {
        Some(kept) => PrivateKey::from_pem(&kept.key),
        None => wanted.keys.generate(KeyAlgorithm::P256),
    };
    let key = key.map_err(PortError::Material)?;
    let named = present.iter().flat_map(|it| &it.sans);
    let mut sans: Vec<San> = named.map(|name| San::from_text(name)).collect();
    sans.extend(wanted.sans.iter().cloned());
    sans.retain(|san| is_listener_name(&san.to_string()));
    sans.sort();
    sans.dedup();
    let leaf = leaf(tree, wanted, &key, &sans).map_err(PortError::Material)?;
    Ok(New { key, sans, leaf })
}

fn first(certificates: Vec<Certificate>) -> Result<Certificate, PortError> {
    let first = certificates.into_iter().next();
    first.ok_or(PortError::Material(pki::Error::NoPemBlock {
        expected: "CERTIFICATE",
    }))
}

/// Why the present certificate will not do; `None` if it will.
fn why(tree: &Tree, wanted: &Wanted<'_>, present: Option<&Listener>) -> Option<&'static str> {
    let Some(present) = present else {
        return Some("there is none");
    };
    if present.is_static {
        return None;
    }
    let certificates = present.certificates().unwrap_or_default();
    let Some(leaf) = certificates.first() else {
        return Some("the present one cannot be read");
    };
    let authority = tree.server.issuer.authority.certificate();
    let lacks = |san: &&San| is_listener_name(&san.to_string()) && !leaf.sans().contains(san);
    if leaf.validity().remaining(wanted.now) <= wanted.window
        && leaf.validity().not_after < authority.validity().not_after
    {
        Some("it is due")
    } else if leaf.validity().not_before > wanted.now && authority.validity().contains(wanted.now) {
        // The clock went ahead when it was issued, and has been set back.
        Some("the present one is not valid yet")
    } else if leaf.verify_signature(authority.spki_der()).is_err() {
        Some("the present one is by another CA")
    } else if wanted.sans.iter().find(lacks).is_some() {
        Some("the present one lacks a name")
    } else {
        None
    }
}

fn leaf(
    tree: &Tree,
    wanted: &Wanted<'_>,
    key: &PrivateKey,
    sans: &[San],
) -> Result<Certificate, pki::Error> {
    let authority = &tree.server.issuer.authority;
    authority.issue(&LeafRequest {
        organizations: &["k3s".to_owned()],
        common_name: "k3s",
        sans,
        purposes: &[Purpose::ServerAuth],
        spki_der: key.spki_der(),
        serial: Serial::random(|bytes| wanted.entropy.fill(bytes))?,
        validity: validity(authority, wanted.now, wanted.lifetime),
    })
}

/// The present file's owner, else ours; 0600, as K3s has it.
fn attributes(path: &std::path::Path) -> Attributes {
    use std::os::unix::fs::MetadataExt as _;
    let present = std::fs::symlink_metadata(path).ok();
    Attributes {
        uid: present.as_ref().map(|it| it.uid()),
        gid: present.as_ref().map(|it| it.gid()),
        ..Attributes::new(0o600)
    }
}
