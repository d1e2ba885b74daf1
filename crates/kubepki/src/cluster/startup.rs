//! What K3s itself will do with a leaf at its next start.

use std::collections::BTreeSet;
use std::fmt;

use pki::{Certificate, DAY, San, UnixTime};

use super::LeafWant;

/// A leaf as K3s's start finds it.
#[derive(Clone, Copy, Debug)]
pub struct Leaf<'a> {
    /// The first certificate of its file.
    pub certificate: &'a Certificate,
    /// The first certificate of its CA's file.
    pub authority: &'a Certificate,
}

/// Why a start of K3s would make the leaf anew (`deps.go`, reference section 1.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Regenerates {
    /// It ends inside the window.
    Due {
        /// When it ends.
        not_after: UnixTime,
        /// The window in days.
        window_days: i64,
    },
    /// It has ended.
    Expired {
        /// When it ended.
        not_after: UnixTime,
    },
    /// Its CN is another.
    CommonName {
        /// What it is.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// Its set of `O` is another.
    Organizations {
        /// What it is.
        found: Vec<String>,
        /// What it should be.
        wanted: Vec<String>,
    },
    /// It lacks names.
    Names {
        /// Which ones.
        missing: Vec<San>,
    },
    /// It comes from another CA, or the CA's key identifier is another.
    OtherAuthority {
        /// The CA that it should come from.
        authority: String,
    },
}

impl fmt::Display for Regenerates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Due {
                not_after,
                window_days,
            } => {
                write!(
                    f,
                    "ends {not_after}, inside the window of {window_days} days"
                )
            }
            Self::Expired { not_after } => write!(f, "expired {not_after}"),
            Self::CommonName { found, wanted } => {
                write!(f, "common name is {found:?}, should be {wanted:?}")
            }
            Self::Organizations { found, wanted } => write!(
                f,
                "organizations are {:?}, should be {:?}",
                found.join(", "),
                wanted.join(", ")
            ),
            Self::Names { missing } => {
                let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
                write!(f, "lacks the name {}", missing.join(", "))
            }
            Self::OtherAuthority { authority } => {
                write!(f, "is from another CA than {authority}")
            }
        }
    }
}

/// Whether a start of K3s would keep the leaf; if not, why.
///
/// Surplus names never matter to K3s, nor do key usages, key kinds and the chain behind the
/// first certificate.
///
/// # Errors
///
/// The first reason for which K3s would make it anew, in K3s's order of severity for operators:
/// dates, then identity, then CA.
pub fn k3s_keeps(
    leaf: Leaf<'_>,
    want: &LeafWant,
    now: UnixTime,
    window: i64,
) -> Result<(), Regenerates> {
    let certificate = leaf.certificate;
    let not_after = certificate.validity().not_after;
    if not_after < now {
        return Err(Regenerates::Expired { not_after });
    }
    if not_after.since(now) <= window {
        return Err(Regenerates::Due {
            not_after,
            window_days: window / DAY,
        });
    }
    let found = certificate.subject().common_name().unwrap_or_default();
    if found != want.common_name {
        return Err(Regenerates::CommonName {
            found: found.to_owned(),
            wanted: want.common_name.clone(),
        });
    }
    let groups = certificate.subject().organizations();
    let found: BTreeSet<&str> = groups.iter().copied().collect();
    let wanted: BTreeSet<&str> = want.organizations.iter().map(String::as_str).collect();
    if found != wanted {
        return Err(Regenerates::Organizations {
            found: groups.into_iter().map(str::to_owned).collect(),
            wanted: want.organizations.clone(),
        });
    }
    let missing: Vec<San> = want
        .sans
        .iter()
        .filter(|san| !certificate.sans().contains(san))
        .cloned()
        .collect();
    if !missing.is_empty() {
        return Err(Regenerates::Names { missing });
    }
    let authority = leaf.authority;
    if certificate.authority_key_identifier() != authority.subject_key_identifier() {
        return Err(Regenerates::OtherAuthority {
            authority: authority.subject().to_string(),
        });
    }
    Ok(())
}
