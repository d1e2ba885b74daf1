//! CAs that sign: those of the state, and new ones.

use pki::{
    Authority, AuthorityRequest, BACKDATE, Certificate, DAY, Name, PrivateKey, Serial, Validity,
};
use zeroize::Zeroizing;

use super::{Request, RotateError, Switch};
use crate::init::Staged;
use crate::plan::SecretRef;
use crate::rke::catalogue::AUTHORITY_DAYS;
use crate::rke::generate::AuthoritySpec;
use crate::rke::{Bundle, Entry, names};

/// A CA as leaves are issued by it.
#[derive(Clone, Debug)]
pub(super) struct Issuer {
    pub certificate: Certificate,
    /// What follows its leaves: cross-certificates for its key.
    pub chain: Vec<Certificate>,
    pub key: SecretRef,
}

/// A CA that was made now.
#[derive(Debug)]
pub(super) struct Fresh {
    pub issuer: Issuer,
    /// PEM of what is trusted at first: the new root, the cross-certificate, what was trusted.
    pub bundle: String,
    /// PEM of the new root.
    pub alone: String,
    /// Its key.
    pub staged: Staged,
}

/// A CA of the state, held to its key.
pub(super) fn present(
    request: &Request<'_>,
    bundle: &Bundle,
    entry: &'static str,
) -> Result<Issuer, RotateError> {
    let keyless = || match entry {
        names::REQUEST_HEADER_CA => RotateError::KeylessRequestHeader,
        _ => RotateError::KeylessAuthority,
    };
    let present = bundle.get(entry).ok_or_else(keyless)?;
    let (authority, certificates) = signer(entry, present)?.ok_or_else(keyless)?;
    let certificate = authority.certificate().clone();
    if !certificate.validity().contains(request.now) {
        let validity = certificate.validity();
        return Err(RotateError::BadAuthority {
            entry: entry.to_owned(),
            problem: format!(
                "it is valid from {} to {}, and now it is {}; rotate the CAs",
                validity.not_before, validity.not_after, request.now
            ),
        });
    }
    Ok(Issuer {
        chain: vouching(&certificates),
        certificate,
        key: SecretRef::RkeState {
            path: request.site.state.clone(),
            entry: entry.to_owned(),
        },
    })
}

/// The CA of an entry with its key, and every certificate of the entry; `None` when either is
/// missing.
fn signer(name: &str, entry: &Entry) -> Result<Option<(Authority, Vec<Certificate>)>, RotateError> {
    let bad = |source: pki::Error| RotateError::BadAuthority {
        entry: name.to_owned(),
        problem: source.to_string(),
    };
    let certificates = entry.certificates().map_err(bad)?;
    let key = entry.key().map_err(bad)?;
    let (Some(first), Some(key)) = (certificates.first().cloned(), key) else {
        return Ok(None);
    };
    let authority = Authority::new(first, key).map_err(bad)?;
    Ok(Some((authority, certificates)))
}

/// Certificates of a bundle for the key and name of its first one: who has only the old root
/// needs them behind a leaf.
pub(super) fn vouching(bundle: &[Certificate]) -> Vec<Certificate> {
    let Some((first, rest)) = bundle.split_first() else {
        return Vec::new();
    };
    let crosses = |it: &&Certificate| {
        it.spki_der() == first.spki_der() && it.subject().der() == first.subject().der()
    };
    let own: Vec<Certificate> = rest.iter().filter(crosses).cloned().collect();
    match (own.is_empty(), rest.iter().position(|it| !crosses(&it))) {
        // The old root may be vouched for itself, by one that is older still.
        (false, Some(old)) => {
            let older = vouching(rest.get(old..).unwrap_or_default());
            own.into_iter().chain(older).collect()
        }
        _ => own,
    }
}

/// Makes a CA. With [`Switch::Cross`] the one that `old` holds vouches for it.
pub(super) fn fresh(
    request: &Request<'_>,
    spec: &AuthoritySpec,
    old: Option<&Entry>,
    switch: Switch,
) -> Result<Fresh, RotateError> {
    let make = |source| RotateError::Make {
        what: format!("the CA {}", spec.entry),
        source,
    };
    let key = request.keys.generate(spec.algorithm()).map_err(make)?;
    let validity = Validity {
        not_before: request.now.plus(-BACKDATE),
        not_after: request.now.plus(AUTHORITY_DAYS * DAY),
    };
    let name = Name::new(&[], spec.entry).map_err(make)?;
    let pem = key.to_pem().map_err(make)?;
    let root = Authority::self_signed(&name, key, serial(request).map_err(make)?, validity);
    let root = root.map_err(make)?;
    let alone = root.certificate().to_pem();
    let mut bundle = alone.clone();
    let mut chain = Vec::new();
    if let (Switch::Cross, Some(old)) = (switch, old) {
        let vouched = vouch(request, spec.entry, &root, old)?;
        if let Some((cross, trusted)) = vouched {
            chain.push(cross.clone());
            chain.extend(vouching(&trusted));
            for certificate in std::iter::once(&cross).chain(&trusted) {
                bundle.push_str(&certificate.to_pem());
            }
        }
    }
    let name = staged_name(spec.entry);
    Ok(Fresh {
        issuer: Issuer {
            certificate: root.certificate().clone(),
            chain,
            key: SecretRef::Staged(name.clone()),
        },
        bundle,
        alone,
        staged: Staged {
            name,
            bytes: Zeroizing::new(pem.as_bytes().to_vec()),
        },
    })
}

/// The cross-certificate for a new root, and what was trusted until now; `None` where nothing
/// was.
fn vouch(
    request: &Request<'_>,
    entry: &str,
    root: &Authority,
    old: &Entry,
) -> Result<Option<(Certificate, Vec<Certificate>)>, RotateError> {
    let refuse = |problem: String| no_cross(entry, problem);
    let Some((authority, trusted)) = old_signer(entry, old)? else {
        return Ok(None);
    };
    let new = root.certificate();
    let validity = new
        .validity()
        .clamped_to(authority.certificate().validity());
    let serial = serial(request).map_err(|error| refuse(error.to_string()))?;
    let cross = authority
        .issue_authority(&AuthorityRequest {
            subject: new.subject(),
            spki_der: new.spki_der(),
            subject_key_identifier: new.subject_key_identifier(),
            path_len: None,
            serial,
            validity,
        })
        .map_err(|error| refuse(error.to_string()))?;
    let options = pki::verify::Options::at(request.now).purposes(&[pki::Purpose::Any]);
    pki::verify::verify(&cross, &[], &trusted, &options)
        .map_err(|error| refuse(error.to_string()))?;
    Ok(Some((cross, trusted)))
}

fn no_cross(entry: &str, problem: String) -> RotateError {
    RotateError::NoCross {
        entry: entry.to_owned(),
        problem,
    }
}

/// The CA that is to vouch for a new one; `None` where there was none.
fn old_signer(
    entry: &str,
    old: &Entry,
) -> Result<Option<(Authority, Vec<Certificate>)>, RotateError> {
    if old.certificate_pem.is_empty() {
        return Ok(None);
    }
    match signer(entry, old) {
        Ok(Some(signer)) => Ok(Some(signer)),
        Ok(None) => Err(no_cross(
            entry,
            "its key is not in the state file".to_owned(),
        )),
        Err(RotateError::BadAuthority { problem, .. }) => Err(no_cross(entry, problem)),
        Err(other) => Err(other),
    }
}

/// Whether a CA could vouch for a new one, as far as its own key goes.
pub(super) fn can_vouch(entry: &str, old: &Entry) -> Result<(), RotateError> {
    old_signer(entry, old).map(drop)
}

fn serial(request: &Request<'_>) -> Result<Serial, pki::Error> {
    Serial::random(|bytes| request.entropy.fill(bytes))
}

/// A key of an entry in the plan's staging directory.
pub(super) fn staged_name(entry: &str) -> String {
    format!("{entry}.key")
}

/// A key as the state file holds it.
pub(super) fn staged_key(entry: &str, key: &str) -> Staged {
    Staged {
        name: staged_name(entry),
        bytes: Zeroizing::new(key.as_bytes().to_vec()),
    }
}

/// The key kinds of a bundle that RKE cannot read.
pub(super) fn foreign_keys(bundle: &Bundle) -> Vec<(String, String)> {
    let kind = |entry: &Entry| -> Option<String> {
        let key: PrivateKey = entry.key().ok()??;
        let algorithm = key.algorithm();
        let rsa = matches!(algorithm, pki::KeyAlgorithm::Rsa(_));
        (!rsa).then(|| algorithm.to_string())
    };
    bundle
        .iter()
        .filter_map(|(name, entry)| Some((name.clone(), kind(entry)?)))
        .collect()
}
