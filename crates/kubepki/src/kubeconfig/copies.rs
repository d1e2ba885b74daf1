//! Copies of kubeconfigs that people carry about: which of them still work, and new ones that are
//! short-lived.

use std::path::{Path, PathBuf};

use pki::{
    Authority, BACKDATE, Certificate, DAY, KeyAlgorithm, LeafRequest, Name, PrivateKey, Purpose,
    Serial, UnixTime, Validity,
};
use zeroize::Zeroizing;

use super::{Inline, Kubeconfig, Placement, render_inline};

/// A file that may be a kubeconfig.
#[derive(Clone, Copy)]
pub struct Candidate<'a> {
    /// Where it was read.
    pub path: &'a Path,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// What a kubeconfig's user has to do with this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The file.
    pub path: PathBuf,
    /// The user's name in the file; empty when the file as a whole is [`CopyState::Unreadable`].
    pub entry: String,
    /// The leaf's facts, if one is inlined and can be read.
    pub identity: Option<Identity>,
    /// How it stands.
    pub state: CopyState,
}

/// Who a client certificate says one is, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// CN: the user to Kubernetes.
    pub user: String,
    /// Each O: its groups.
    pub groups: Vec<String>,
    /// Last valid second.
    pub not_after: UnixTime,
    /// How long it was made for, in seconds.
    pub lifetime: i64,
    /// The inlined key belongs to the certificate.
    pub key_matches: bool,
}

/// How a copy stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyState {
    /// Of the issuing CA and not due.
    Current,
    /// Of the issuing CA, inside the renewal window.
    Due,
    /// Of one of this cluster's CAs, but its time is over.
    Expired,
    /// Of a CA of this cluster that is accepted but issues no more.
    FromFormerAuthority,
    /// The issuer has the name of one of this cluster's CAs, but none of their keys signed it:
    /// made before the CA was replaced, or a forgery.
    UnknownAuthority,
    /// Another cluster's.
    Foreign,
    /// It names files instead of inlining a certificate.
    References,
    /// It logs in without a certificate.
    WithoutCertificate,
    /// The file, or the certificate in it, cannot be read.
    Unreadable(String),
}

impl CopyState {
    /// Whether `renew` would put a new certificate in.
    pub fn wants_renewal(&self) -> bool {
        matches!(self, Self::Due | Self::Expired | Self::FromFormerAuthority)
    }
}

/// Looks at each user of each candidate. `authorities` are this cluster's client CAs, the issuing
/// one first, then those still accepted; `window` is the renewal window in seconds.
pub fn find_copies(
    candidates: &[Candidate<'_>],
    authorities: &[Certificate],
    now: UnixTime,
    window: i64,
) -> Vec<Copy> {
    let mut found = Vec::new();
    for candidate in candidates {
        let path = candidate.path.to_owned();
        let config = match Kubeconfig::parse(candidate.bytes) {
            Ok(config) => config,
            Err(error) => {
                let state = CopyState::Unreadable(error.to_string());
                found.push(Copy {
                    path,
                    entry: String::new(),
                    identity: None,
                    state,
                });
                continue;
            }
        };
        for user in &config.users {
            let copy = |identity, state| Copy {
                path: path.clone(),
                entry: user.name.clone(),
                identity,
                state,
            };
            found.push(match &user.certificate {
                None => copy(None, CopyState::WithoutCertificate),
                Some(Placement::File(_)) => copy(None, CopyState::References),
                Some(Placement::Inline(pem)) => match Certificate::all_from_pem(pem) {
                    Err(error) => copy(None, CopyState::Unreadable(error.to_string())),
                    Ok(chain) => match chain.first() {
                        None => copy(None, CopyState::WithoutCertificate),
                        Some(leaf) => copy(
                            Some(identity(leaf, user.key.as_ref())),
                            state(leaf, &chain, authorities, now, window),
                        ),
                    },
                },
            });
        }
    }
    found
}

fn identity(leaf: &Certificate, key: Option<&super::KeyPlacement>) -> Identity {
    let key_matches = match key {
        Some(super::KeyPlacement::Inline(pem)) => {
            PrivateKey::from_pem(pem).is_ok_and(|key| key.spki_der() == leaf.spki_der())
        }
        _ => false,
    };
    Identity {
        user: leaf.subject().common_name().unwrap_or_default().to_owned(),
        groups: leaf
            .subject()
            .organizations()
            .into_iter()
            .map(str::to_owned)
            .collect(),
        not_after: leaf.validity().not_after,
        lifetime: lifetime(leaf),
        key_matches,
    }
}

fn state(
    leaf: &Certificate,
    chain: &[Certificate],
    authorities: &[Certificate],
    now: UnixTime,
    window: i64,
) -> CopyState {
    let Some(signer) = authorities.iter().position(|ca| signed(leaf, ca)) else {
        // The copy's own chain can lead to a CA of this cluster that issues through another.
        let via_chain = chain
            .iter()
            .skip(1)
            .filter(|ca| ca.is_ca() && signed(leaf, ca))
            .any(|ca| {
                authorities
                    .iter()
                    .any(|ours| ours.spki_der() != ca.spki_der() && signed(ca, ours))
            });
        return match () {
            () if via_chain && expired(leaf, now) => CopyState::Expired,
            () if via_chain => CopyState::FromFormerAuthority,
            () if authorities
                .iter()
                .any(|ca| ca.subject().der() == leaf.issuer().der()) =>
            {
                CopyState::UnknownAuthority
            }
            () => CopyState::Foreign,
        };
    };
    let issuing = authorities.first().is_some_and(|first| {
        authorities
            .get(signer)
            .is_some_and(|ca| ca.spki_der() == first.spki_der())
    });
    match () {
        () if expired(leaf, now) => CopyState::Expired,
        () if !issuing => CopyState::FromFormerAuthority,
        () if leaf.validity().remaining(now) <= window.min(lifetime(leaf) / 3) => CopyState::Due,
        () => CopyState::Current,
    }
}

/// How long it was made for, in seconds. A certificate of a few hours is not due all its life.
fn lifetime(leaf: &Certificate) -> i64 {
    let validity = leaf.validity();
    validity.not_after.since(validity.not_before)
}

fn expired(leaf: &Certificate, now: UnixTime) -> bool {
    leaf.validity().remaining(now) < 0
}

/// Names first, then key identifiers where both have one, then the signature.
fn signed(certificate: &Certificate, ca: &Certificate) -> bool {
    let names = certificate.issuer().der() == ca.subject().der();
    let keys = match (
        certificate.authority_key_identifier(),
        ca.subject_key_identifier(),
    ) {
        (Some(wanted), Some(held)) => wanted == held,
        _ => true,
    };
    names && keys && certificate.verify_signature(ca.spki_der()).is_ok()
}

/// A kubeconfig for a person or program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewCopy<'a> {
    /// CN: the user.
    pub user: &'a str,
    /// Each O: the groups.
    pub groups: &'a [String],
    /// How long it is valid, in seconds: [`SHORTEST`] to [`LONGEST`].
    pub ttl: i64,
    /// Names that begin with `system:` are allowed, `system:masters` among them.
    pub allow_masters: bool,
    /// URL of the API server.
    pub server: &'a str,
    /// Name of cluster, user and context in the file.
    pub name: &'a str,
    /// PEM of the bundle that verifies the server.
    pub server_authority: &'a str,
    /// PEM of the certificates between the leaf and what the API server trusts; mostly empty.
    pub chain: &'a str,
}

/// The shortest time for which a kubeconfig is made: five minutes.
pub const SHORTEST: i64 = 300;

/// The longest time for which a kubeconfig is made: a year. A certificate cannot be revoked in
/// Kubernetes, so whoever has the file has the access until it ends.
pub const LONGEST: i64 = 365 * DAY;

/// What [`create`] made.
#[derive(Clone)]
pub struct Created {
    /// The kubeconfig; it holds the key.
    pub text: Zeroizing<Vec<u8>>,
    /// The leaf.
    pub certificate: Certificate,
}

/// Issues a client certificate for `key` and puts both into a kubeconfig.
///
/// # Errors
///
/// Names or a time that are refused, and what the CA refuses.
pub fn create(
    wanted: &NewCopy<'_>,
    authority: &Authority,
    key: &PrivateKey,
    serial: Serial,
    now: UnixTime,
) -> Result<Created, CreateError> {
    check_names(wanted)?;
    let validity = validity(wanted, authority.certificate(), now)?;
    let certificate = authority.issue(&LeafRequest {
        organizations: wanted.groups,
        common_name: wanted.user,
        sans: &[],
        purposes: &[Purpose::ClientAuth],
        spki_der: key.spki_der(),
        serial,
        validity,
    })?;
    let chain = certificate.to_pem() + wanted.chain;
    let text = render_inline(&Inline {
        name: wanted.name,
        server: wanted.server,
        authority: wanted.server_authority.as_bytes(),
        certificate: chain.as_bytes(),
        key: key.to_pem()?.as_bytes(),
        preferences: false,
    });
    Ok(Created { text, certificate })
}

/// The kind of key that [`create`] should be given.
pub const KEY_ALGORITHM: KeyAlgorithm = KeyAlgorithm::P256;

fn check_names(wanted: &NewCopy<'_>) -> Result<(), CreateError> {
    let names = std::iter::once(("user", wanted.user));
    for (what, name) in names.chain(wanted.groups.iter().map(|group| ("group", group.as_str()))) {
        if name.trim().is_empty() {
            return Err(CreateError::EmptyName { what });
        }
        if name.trim() != name || name.chars().any(char::is_control) {
            return Err(CreateError::OddName {
                what,
                name: name.to_owned(),
            });
        }
        if !wanted.allow_masters {
            if name == "system:masters" {
                return Err(CreateError::Masters);
            }
            if name.starts_with("system:") {
                return Err(CreateError::Reserved {
                    what,
                    name: name.to_owned(),
                });
            }
        }
    }
    // A subject that cannot be encoded is found before anything is signed.
    Name::new(wanted.groups, wanted.user)?;
    Ok(())
}

fn validity(
    wanted: &NewCopy<'_>,
    ca: &Certificate,
    now: UnixTime,
) -> Result<Validity, CreateError> {
    if !(SHORTEST..=LONGEST).contains(&wanted.ttl) {
        return Err(CreateError::Ttl {
            seconds: wanted.ttl,
        });
    }
    let period = Validity {
        not_before: now.plus(-BACKDATE),
        not_after: now.plus(wanted.ttl),
    };
    if !ca.validity().contains(now) || period.not_after > ca.validity().not_after {
        return Err(CreateError::OutlivesAuthority {
            subject: ca.subject().to_string(),
            period: ca.validity(),
        });
    }
    Ok(period.clamped_to(ca.validity()))
}

/// A kubeconfig was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// A user or group without a name.
    #[error("the {what} has no name; to Kubernetes an empty one is nobody")]
    EmptyName {
        /// "user" or "group".
        what: &'static str,
    },
    /// Blanks at an end or control characters.
    #[error("the {what} {name:?} has blanks at an end or control characters")]
    OddName {
        /// "user" or "group".
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The group that passes every check.
    #[error(
        "the group system:masters passes every authorization check and cannot be taken back; \
         bind a group of your own to the role cluster-admin, or ask for it explicitly"
    )]
    Masters,
    /// A name of Kubernetes itself.
    #[error(
        "the {what} {name:?} belongs to Kubernetes itself, as every name with system: in front; \
         choose another, or ask for it explicitly"
    )]
    Reserved {
        /// "user" or "group".
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Too short or too long.
    #[error(
        "a certificate for {seconds} s is refused; between 5 minutes and 365 days is allowed, \
         because it cannot be revoked"
    )]
    Ttl {
        /// What was asked for.
        seconds: i64,
    },
    /// Beyond what the CA can promise.
    #[error(
        "it would have to end before its CA: {subject} is valid from {} to {}",
        period.not_before, period.not_after
    )]
    OutlivesAuthority {
        /// The CA.
        subject: String,
        /// Its period.
        period: Validity,
    },
    /// The CA or a key refused.
    #[error("the certificate cannot be issued")]
    Pki(#[from] pki::Error),
}
