//! Why there is no path, certificate by certificate.

use core::fmt;

use crate::{Certificate, Digest, Error, Purpose, San, Serial, UnixTime};

/// Which certificate is meant; several may share subject and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its subject as Go prints it.
    pub subject: String,
    /// Its number.
    pub serial: Serial,
    /// SHA-256 of its DER.
    pub fingerprint: Digest,
}

impl Identity {
    /// The identity of `certificate`; boxed, as errors carry several.
    pub fn of(certificate: &Certificate) -> Box<Self> {
        Box::new(Self {
            subject: certificate.subject().to_string(),
            serial: certificate.serial().clone(),
            fingerprint: certificate.fingerprint(),
        })
    }
}

impl fmt::Display for Identity {
    /// Subject and serial: enough to find it, short enough to read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.subject.is_empty() {
            write!(f, "certificate with an empty subject")?;
        } else {
            write!(f, "{}", self.subject)?;
        }
        write!(f, " (serial {})", self.serial)
    }
}

/// One certificate and what speaks against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathError {
    /// The one that is to blame.
    pub certificate: Box<Identity>,
    /// Why.
    pub reason: Reason,
}

impl PathError {
    pub(super) fn new(certificate: &Certificate, reason: Reason) -> Self {
        Self {
            certificate: Identity::of(certificate),
            reason,
        }
    }
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.certificate, self.reason)
    }
}

impl core::error::Error for PathError {}

/// What can speak against a certificate in a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its time has not come.
    NotYetValid {
        /// When it was looked at.
        at: UnixTime,
        /// Its first valid second.
        not_before: UnixTime,
    },
    /// Its time is over.
    Expired {
        /// When it was looked at.
        at: UnixTime,
        /// Its last valid second.
        not_after: UnixTime,
    },
    /// Critical extensions that are not understood, as OIDs.
    UnknownCritical(Vec<String>),
    /// Basic constraints do not say that it is a CA.
    NotACa,
    /// Key usage is there and lacks `keyCertSign`.
    NoCertSign,
    /// Its signature over the certificate below does not hold.
    Signature {
        /// The certificate below.
        child: Box<Identity>,
        /// [`Error::BadSignature`] for another key of the same name, else what is not supported.
        error: Error,
    },
    /// More CAs stand below it than it allows.
    PathTooLong {
        /// Its `pathLenConstraint`.
        allowed: u32,
        /// CAs between it and the leaf.
        below: usize,
    },
    /// It is its own issuer, and not among the roots.
    NotTrusted,
    /// No other certificate at hand has its issuer's name.
    IssuerNotFound {
        /// That name.
        issuer: String,
    },
    /// Its extended key usage leaves out what is wanted.
    PurposeExcluded {
        /// What was wanted and still allowed by the CAs above.
        wanted: Vec<Purpose>,
        /// What it allows.
        allowed: Vec<Purpose>,
    },
    /// Its name constraints do not allow a name of a certificate below.
    NameNotPermitted {
        /// The certificate below.
        child: Box<Identity>,
        /// The name.
        name: String,
    },
    /// Its name constraints exclude a name of a certificate below.
    NameExcluded {
        /// The certificate below.
        child: Box<Identity>,
        /// The name.
        name: String,
        /// The subtree that the name lies in.
        subtree: String,
    },
    /// A name of its own cannot be compared with the name constraints above it.
    NameUnusable {
        /// The name.
        name: String,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// So many names and name constraints that checking them was given up.
    TooManyConstraints {
        /// Comparisons after which it was given up.
        limit: usize,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYetValid { at, not_before } => {
                write!(
                    f,
                    "is not valid before {not_before}; it is looked at for {at}"
                )
            }
            Self::Expired { at, not_after } => {
                write!(f, "expired at {not_after}; it is looked at for {at}")
            }
            Self::UnknownCritical(oids) => {
                write!(
                    f,
                    "has critical extensions that are not understood: {}",
                    oids.join(", ")
                )
            }
            Self::NotACa => f.write_str("is not a CA (basic constraints)"),
            Self::NoCertSign => f.write_str("may not sign certificates (key usage)"),
            Self::Signature { child, error } => {
                write!(f, "is not shown to have signed {child}: {error}")
            }
            Self::PathTooLong { allowed, below } => write!(
                f,
                "allows {allowed} CAs below it (path length), the path has {below}"
            ),
            Self::NotTrusted => f.write_str("is its own issuer and not among the trusted roots"),
            Self::IssuerNotFound { issuer } => {
                write!(
                    f,
                    "was issued by {issuer}, and no other certificate of that name is at hand"
                )
            }
            Self::PurposeExcluded { wanted, allowed } => write!(
                f,
                "allows only {} (extended key usage), not {}",
                Listed(allowed),
                Listed(wanted)
            ),
            Self::NameNotPermitted { child, name } => {
                write!(
                    f,
                    "does not permit the name {name} of {child} (name constraints)"
                )
            }
            Self::NameExcluded {
                child,
                name,
                subtree,
            } => write!(
                f,
                "excludes the name {name} of {child} (name constraints, subtree {subtree:?})"
            ),
            Self::NameUnusable { name, detail } => write!(
                f,
                "has the name {name:?}, which cannot be held against name constraints: {detail}"
            ),
            Self::TooManyConstraints { limit } => {
                write!(
                    f,
                    "needs over {limit} comparisons of names with name constraints"
                )
            }
        }
    }
}

struct Listed<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for item in self.0 {
            write!(f, "{separator}{item}")?;
            separator = ", ";
        }
        Ok(())
    }
}

/// Why [`super::verify`] found no path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyError {
    /// The leaf is out of its time or not understood, whoever issued it.
    Leaf(PathError),
    /// The leaf is not for that host.
    Host {
        /// The leaf.
        certificate: Box<Identity>,
        /// The host.
        wanted: String,
        /// Its names of that kind: addresses for an address, else DNS names. The common name
        /// never counts.
        names: Vec<San>,
    },
    /// No path leads to a root.
    NoPath {
        /// The leaf.
        certificate: Box<Identity>,
        /// Every candidate issuer that was looked at, nearest first, and every dead end.
        rejected: Vec<PathError>,
    },
    /// Paths lead to a root, but none may be used for what is wanted.
    Unusable {
        /// The leaf.
        certificate: Box<Identity>,
        /// What is wrong with each.
        rejected: Vec<PathError>,
    },
    /// The search was given up.
    TooManySignatures {
        /// The leaf.
        certificate: Box<Identity>,
        /// Candidate issuers that were looked at.
        limit: usize,
    },
}

impl VerifyError {
    /// Every certificate that stands in the way, with its reason.
    pub fn reasons(&self) -> &[PathError] {
        match self {
            Self::Leaf(error) => core::slice::from_ref(error),
            Self::NoPath { rejected, .. } | Self::Unusable { rejected, .. } => rejected,
            Self::Host { .. } | Self::TooManySignatures { .. } => &[],
        }
    }
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf(error) => write!(f, "{error}"),
            Self::Host {
                certificate,
                wanted,
                names,
            } if names.is_empty() => {
                write!(f, "{certificate} has no name of the kind of {wanted}")
            }
            Self::Host {
                certificate,
                wanted,
                names,
            } => write!(
                f,
                "{certificate} is for {}, not for {wanted}",
                Listed(names)
            ),
            Self::NoPath {
                certificate,
                rejected,
            } => {
                write!(f, "no trusted root vouches for {certificate}")?;
                write_list(f, rejected)
            }
            Self::Unusable {
                certificate,
                rejected,
            } => {
                write!(
                    f,
                    "{certificate} has a trusted root, but may not be used so"
                )?;
                write_list(f, rejected)
            }
            Self::TooManySignatures { certificate, limit } => write!(
                f,
                "gave up on {certificate} after {limit} candidate issuers; \
                 remove certificates of the same name from the bundle"
            ),
        }
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, rejected: &[PathError]) -> fmt::Result {
    let mut separator = ": ";
    for error in rejected {
        write!(f, "{separator}{error}")?;
        separator = "; ";
    }
    Ok(())
}

impl core::error::Error for VerifyError {}
