//! Building paths: who could have signed whom.

use std::collections::HashMap;

use crate::verify::{Identity, Options, PathError, Reason, VerifyError};
use crate::{Certificate, KeyUsage, UnixTime};

/// A chain of certificates, each signed by the next; the last one is a root.
#[derive(Clone, PartialEq, Eq)]
pub struct Path<'a>(Vec<&'a Certificate>);

impl<'a> Path<'a> {
    pub(super) fn of(certificates: Vec<&'a Certificate>) -> Self {
        Self(certificates)
    }

    /// Leaf first, root last; one element when the leaf is a root.
    pub fn certificates(&self) -> &[&'a Certificate] {
        &self.0
    }

    /// The root, the end of the path.
    pub fn root(&self) -> Option<&'a Certificate> {
        self.0.last().copied()
    }

    /// The first and the last second in which every certificate of the path is valid.
    pub fn validity(&self) -> Option<crate::Validity> {
        self.0
            .iter()
            .map(|certificate| certificate.validity())
            .reduce(crate::Validity::clamped_to)
    }
}

impl core::fmt::Debug for Path<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

/// What must hold for every certificate, wherever it stands.
pub(super) fn check_alone(certificate: &Certificate, at: UnixTime) -> Result<(), Reason> {
    if !certificate.unknown_critical().is_empty() {
        return Err(Reason::UnknownCritical(
            certificate.unknown_critical().to_vec(),
        ));
    }
    let validity = certificate.validity();
    if at < validity.not_before {
        return Err(Reason::NotYetValid {
            at,
            not_before: validity.not_before,
        });
    }
    if at > validity.not_after {
        return Err(Reason::Expired {
            at,
            not_after: validity.not_after,
        });
    }
    Ok(())
}

/// Every path, without regard to purposes and name constraints, which belong to whole paths.
pub(super) fn search<'a>(
    leaf: &'a Certificate,
    intermediates: &'a [Certificate],
    roots: &'a [Certificate],
    options: &Options<'_>,
) -> Result<Vec<Path<'a>>, VerifyError> {
    if roots.contains(leaf) {
        return Ok(vec![Path(vec![leaf])]);
    }
    let mut search = Search::new(intermediates, roots, options);
    search.extend(&mut vec![leaf], leaf);
    if !search.found.is_empty() {
        return Ok(search.found);
    }
    let certificate = Identity::of(leaf);
    Err(if search.gave_up {
        VerifyError::TooManySignatures {
            certificate,
            limit: options.signature_checks,
        }
    } else {
        VerifyError::NoPath {
            certificate,
            rejected: search.rejected,
        }
    })
}

/// A bundle that holds a certificate twice must not yield a path twice.
fn distinct(bundle: &[Certificate]) -> Vec<&Certificate> {
    let mut kept: Vec<&Certificate> = Vec::with_capacity(bundle.len());
    for certificate in bundle {
        if !kept.contains(&certificate) {
            kept.push(certificate);
        }
    }
    kept
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Root,
    Intermediate,
}

/// A signature is the costly part and many paths share it, so each pair of child and issuer is
/// checked once; the pointers are those of the caller's slices, distinct per certificate.
type Signatures = HashMap<(*const Certificate, *const Certificate), Result<(), Reason>>;

pub(super) struct Search<'a> {
    roots: Vec<&'a Certificate>,
    intermediates: Vec<&'a Certificate>,
    at: UnixTime,
    pub(super) checks_left: usize,
    pub(super) gave_up: bool,
    signatures: Signatures,
    rejected: Vec<PathError>,
    pub(super) found: Vec<Path<'a>>,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        intermediates: &'a [Certificate],
        roots: &'a [Certificate],
        options: &Options<'_>,
    ) -> Self {
        Self {
            roots: distinct(roots),
            intermediates: distinct(intermediates),
            at: options.at,
            checks_left: options.signature_checks,
            gave_up: false,
            signatures: HashMap::new(),
            rejected: Vec::new(),
            found: Vec::new(),
        }
    }

    /// Follows every issuer of `child`, the end of `path`. Depth is bounded by `checks_left`.
    fn extend(&mut self, path: &mut Vec<&'a Certificate>, child: &'a Certificate) {
        let mut looked_at = 0;
        for role in [Role::Root, Role::Intermediate] {
            for candidate in self.candidates(role, child) {
                if self.checks_left == 0 {
                    self.gave_up = true;
                    return;
                }
                self.checks_left -= 1;
                if stands_in(candidate, path) {
                    continue;
                }
                looked_at += 1;
                if let Err(reason) = self.check(role, candidate, child, path.len() - 1) {
                    self.reject(candidate, reason);
                    continue;
                }
                path.push(candidate);
                match role {
                    Role::Root => self.found.push(Path(path.clone())),
                    Role::Intermediate => self.extend(path, candidate),
                }
                path.pop();
                if self.gave_up {
                    return;
                }
            }
        }
        if looked_at == 0 {
            let reason = if child.is_self_issued() {
                Reason::NotTrusted
            } else {
                let issuer = child.issuer().to_string();
                Reason::IssuerNotFound { issuer }
            };
            self.reject(child, reason);
        }
    }

    /// Certificates with the issuer's name, octet for octet, the most plausible first. The key
    /// identifier is a hint for the order only (RFC 5280 section 4.2.1.1).
    pub(super) fn candidates(&self, role: Role, child: &Certificate) -> Vec<&'a Certificate> {
        let pool = match role {
            Role::Root => &self.roots,
            Role::Intermediate => &self.intermediates,
        };
        let mut found: Vec<&Certificate> = pool
            .iter()
            .copied()
            .filter(|candidate| candidate.subject().der() == child.issuer().der())
            .collect();
        let wanted = child.authority_key_identifier().unwrap_or_default();
        found.sort_by_key(|candidate| {
            let own = candidate.subject_key_identifier().unwrap_or_default();
            if own == wanted {
                0
            } else if own.is_empty() || wanted.is_empty() {
                1
            } else {
                2
            }
        });
        found
    }

    pub(super) fn check(
        &mut self,
        role: Role,
        candidate: &'a Certificate,
        child: &'a Certificate,
        below: usize,
    ) -> Result<(), Reason> {
        let pair = (core::ptr::from_ref(child), core::ptr::from_ref(candidate));
        self.signatures
            .entry(pair)
            .or_insert_with(|| check_signed(child, candidate))
            .clone()?;
        check_alone(candidate, self.at)?;
        // A root of version 1 cannot say that it is a CA; being in the bundle says it.
        if role == Role::Intermediate && !candidate.is_ca() {
            return Err(Reason::NotACa);
        }
        // Self-issued certificates count too, unlike in RFC 5280: this is Go's reading.
        match candidate.basic_constraints().and_then(|c| c.path_len) {
            Some(allowed) if below > usize::try_from(allowed).unwrap_or(usize::MAX) => {
                Err(Reason::PathTooLong { allowed, below })
            }
            _ => Ok(()),
        }
    }

    fn reject(&mut self, certificate: &Certificate, reason: Reason) {
        let error = PathError::new(certificate, reason);
        if !self.rejected.contains(&error) {
            self.rejected.push(error);
        }
    }
}

/// Whether `issuer` may sign and has signed `child`.
fn check_signed(child: &Certificate, issuer: &Certificate) -> Result<(), Reason> {
    let not_a_ca = match issuer.basic_constraints() {
        Some(constraints) => !constraints.ca,
        None => issuer.version() == 3,
    };
    if not_a_ca {
        return Err(Reason::NotACa);
    }
    // A key usage without any bit says nothing.
    if issuer
        .key_usage()
        .is_some_and(|usage| usage != KeyUsage(0) && !usage.has(KeyUsage::KEY_CERT_SIGN))
    {
        return Err(Reason::NoCertSign);
    }
    child
        .verify_signature(issuer.spki_der())
        .map_err(|error| Reason::Signature {
            child: Identity::of(child),
            error,
        })
}

/// Whether a path already goes through this CA: same name, key and alternative names. Comparing
/// whole certificates would let two CAs that cross-signed each other lead in circles.
pub(super) fn stands_in(candidate: &Certificate, path: &[&Certificate]) -> bool {
    for certificate in path {
        if candidate.subject().der() != certificate.subject().der()
            || candidate.spki_der() != certificate.spki_der()
        {
            continue;
        }
        match (candidate.sans_der(), certificate.sans_der()) {
            (None, None) => return true,
            (Some(one), Some(other)) if one == other => return true,
            (Some(_), Some(_)) => {}
            // Go stops looking here; so must we, to find the same paths.
            _ => return false,
        }
    }
    false
}
