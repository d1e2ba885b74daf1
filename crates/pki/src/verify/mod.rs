//! Certification paths, answered as Go's `crypto/x509` answers.
//!
//! Every Kubernetes component is a Go program, so whether a cluster works is what Go says. The
//! verifier inside rustls differs where it hurts: it takes an expired root, takes an issuer that
//! may not sign certificates, and finds one path where Go finds all. The rules here are those of
//! Go 1.26 (`crypto/x509/verify.go`, `constraints.go`), which read RFC 5280 section 6 leniently
//! in some places; `tests/foreign` holds this module to Go, verdict by verdict and path by
//! path, and names the few differences:
//!
//! - certificate policies are not evaluated: a *critical* policy constraints or policy mappings
//!   extension refuses the certificate, where Go computes the policy tree;
//! - keys that aws-lc cannot check (P-224, RSA under 1024 or over 8192 bits) end a path.

mod constraints;
mod error;
mod host;
mod path;
mod words;

pub use error::{Identity, PathError, Reason, VerifyError};
pub use host::check_host;
pub use path::Path;
pub use words::go_words;

use crate::{Certificate, Purpose, UnixTime};

/// How many signatures a search tries unless told otherwise: Go's number.
pub const SIGNATURE_CHECKS: usize = 100;

/// What a path is checked for.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The moment at which every certificate of the path must be valid.
    pub at: UnixTime,
    /// A path is good if it allows any of these; empty means [`Purpose::ServerAuth`], as in Go,
    /// and [`Purpose::Any`] switches the check off.
    pub purposes: &'a [Purpose],
    /// The host that the leaf must be valid for: a DNS name, or an address, also in brackets.
    pub host: Option<&'a str>,
    /// After that many candidate issuers the search stops: same-named CAs that sign each other
    /// make it exponential.
    pub signature_checks: usize,
}

impl<'a> Options<'a> {
    /// A server's path at that moment, any host.
    pub const fn at(at: UnixTime) -> Self {
        Self {
            at,
            purposes: &[],
            host: None,
            signature_checks: SIGNATURE_CHECKS,
        }
    }

    /// These options with other purposes.
    pub const fn purposes(self, purposes: &'a [Purpose]) -> Self {
        Self { purposes, ..self }
    }

    /// These options with a host.
    pub const fn host(self, host: &'a str) -> Self {
        Self {
            host: Some(host),
            ..self
        }
    }
}

/// Every path from `leaf` to one of `roots`, in the order in which Go returns them: at each step
/// roots before intermediates, and among those the ones whose key identifier matches first.
///
/// `leaf` may be a CA. A `leaf` that is itself among `roots` is a path of one. Nothing in the
/// three arguments needs an order; duplicates do no harm.
///
/// # Errors
///
/// [`VerifyError`], naming the certificates that stand in the way.
pub fn verify<'a>(
    leaf: &'a Certificate,
    intermediates: &'a [Certificate],
    roots: &'a [Certificate],
    options: &Options<'_>,
) -> Result<Vec<Path<'a>>, VerifyError> {
    path::check_alone(leaf, options.at)
        .map_err(|reason| VerifyError::Leaf(PathError::new(leaf, reason)))?;
    if let Some(host) = options.host {
        check_host(leaf, host)?;
    }
    let candidates = path::search(leaf, intermediates, roots, options)?;
    let mut paths = Vec::new();
    let mut rejected = Vec::new();
    for path in candidates {
        match check_whole(&path, options) {
            Ok(()) => paths.push(path),
            Err(error) if rejected.contains(&error) => {}
            Err(error) => rejected.push(error),
        }
    }
    if paths.is_empty() {
        return Err(VerifyError::Unusable {
            certificate: Identity::of(leaf),
            rejected,
        });
    }
    Ok(paths)
}

fn check_whole(path: &Path<'_>, options: &Options<'_>) -> Result<(), PathError> {
    check_purposes(path, options.purposes)?;
    constraints::check(path)
}

/// Extended key usage nests: what a CA's list leaves out, nothing below it may do. A missing
/// list and `anyExtendedKeyUsage` leave nothing out.
fn check_purposes(path: &Path<'_>, wanted: &[Purpose]) -> Result<(), PathError> {
    if wanted.contains(&Purpose::Any) {
        return Ok(());
    }
    let mut left: Vec<&Purpose> = match wanted {
        [] => vec![&Purpose::ServerAuth],
        wanted => wanted.iter().collect(),
    };
    for certificate in path.certificates().iter().rev() {
        let allowed = certificate.purposes();
        if allowed.is_empty() || allowed.contains(&Purpose::Any) {
            continue;
        }
        let before = left.clone();
        left.retain(|purpose| allowed.contains(purpose));
        if left.is_empty() {
            return Err(PathError::new(
                certificate,
                Reason::PurposeExcluded {
                    wanted: before.into_iter().cloned().collect(),
                    allowed: allowed.to_vec(),
                },
            ));
        }
    }
    Ok(())
}
