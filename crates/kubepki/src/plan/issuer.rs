//! Who signs, and what is served behind a leaf.

use pki::{Certificate, Purpose, San, Serial, Validity};

use super::error::PlanError;
use super::planner::Request;
use super::{IssuerRef, LeafCertificate, SecretRef};
use crate::cluster::LeafWant;
use crate::inventory::{Facts, Found, ObservedRow};

/// The certificates of a CA's file that follow a leaf of it.
///
/// K3s appends the whole file. Where the file holds a cross-certificate, that order makes every
/// OpenSSL client with the old CA fail, so what is self-signed stays out: the peer has its own
/// roots (reference section 13.2).
pub fn served_chain(authority: &[Certificate]) -> Vec<&Certificate> {
    let crosses = |candidate: &Certificate| {
        !candidate.is_self_issued()
            && authority.iter().any(|root| {
                root.is_self_issued()
                    && root.subject().der() == candidate.subject().der()
                    && root.spki_der() == candidate.spki_der()
            })
    };
    let crossed = authority.iter().any(crosses);
    authority
        .iter()
        .enumerate()
        .filter(|(index, certificate)| *index == 0 || !crossed || !certificate.is_self_issued())
        .map(|(_, certificate)| certificate)
        .collect()
}

/// Who signs for `authority`, and what follows its leaves.
pub(super) fn issuer<'a>(
    request: &Request<'a>,
    authority: &'static str,
) -> Result<(IssuerRef, Vec<&'a Certificate>), PlanError> {
    let inventory = request.inventory;
    let observed = inventory.row(authority);
    let path = observed.map_or_else(String::new, |o| o.file.path.display().to_string());
    let unusable = |detail: String| PlanError::Authority {
        authority,
        path: path.clone(),
        detail,
    };
    let (observed, ca) = observed
        .and_then(|o| o.file.first_certificate().map(|ca| (o, ca)))
        .ok_or_else(|| unusable(missing_authority(observed)))?;
    if ca.validity().not_after < request.now {
        let not_after = ca.validity().not_after;
        return Err(PlanError::AuthorityExpired {
            authority,
            path,
            not_after,
        });
    }
    if ca.validity().not_before > request.now {
        return Err(PlanError::AuthorityNotYetValid {
            authority,
            path,
            not_before: ca.validity().not_before,
            now: request.now,
        });
    }
    let key = observed
        .key
        .as_ref()
        .ok_or_else(|| unusable("it has no key file".to_owned()))?;
    let Some(facts) = key.keys().first() else {
        return Err(unusable(format!(
            "its key {} is missing or cannot be read; take it from the datastore or a backup",
            key.path.display()
        )));
    };
    if facts.spki != ca.spki_sha256() {
        return Err(unusable(format!(
            "{} holds another key",
            key.path.display()
        )));
    }
    if !ca.is_ca() {
        return Err(unusable("its first certificate is not a CA".to_owned()));
    }
    let issuer = IssuerRef {
        certificate: ca.to_pem(),
        key: SecretRef::File(key.path.clone()),
        spki: facts.spki.to_string(),
    };
    Ok((issuer, served_chain(observed.file.certificates())))
}

fn missing_authority(observed: Option<&ObservedRow>) -> String {
    match observed.map(|o| &o.file.found) {
        Some(Found::Unreadable(why)) => format!("it cannot be read: {why}"),
        Some(Found::Present(present)) => match &present.facts {
            Facts::Malformed(detail) => detail.clone(),
            _ => "it is not a file of certificates".to_owned(),
        },
        Some(Found::Absent) | None => {
            "it is missing; take it from the datastore or a backup".to_owned()
        }
    }
}

/// What a leaf of `authority` will say, serial number and dates included. `lifetime` is in
/// seconds.
pub(crate) fn certificate(
    request: &Request<'_>,
    lifetime: i64,
    want: LeafWant,
    authority: &'static str,
) -> Result<LeafCertificate, PlanError> {
    let (issuer, chain) = issuer(request, authority)?;
    let ca = chain.first().ok_or_else(|| PlanError::Authority {
        authority,
        path: String::new(),
        detail: "it holds no certificate".to_owned(),
    })?;
    let allowed = ca.purposes();
    let excluded = want.purposes.iter().find(|purpose| {
        !allowed.is_empty() && !allowed.contains(&Purpose::Any) && !allowed.contains(purpose)
    });
    if let Some(excluded) = excluded {
        let file = request.inventory.row(authority).map(|o| &o.file.path);
        return Err(PlanError::AuthorityExcludes {
            authority,
            path: file.map_or_else(String::new, |path| path.display().to_string()),
            excluded: excluded.clone(),
        });
    }
    if let Some(name) = want.sans.iter().find(|san| !can_be_carried(san)) {
        let name = name.to_string();
        return Err(PlanError::BadName { name });
    }
    let not_before = request.now.plus(-request.policy.backdate);
    let validity = Validity {
        not_before,
        not_after: not_before.plus(lifetime),
    }
    .clamped_to(ca.validity());
    let serial = Serial::random(|bytes| request.entropy.fill(bytes)).map_err(PlanError::Pki)?;
    Ok(LeafCertificate {
        organizations: want.organizations,
        common_name: want.common_name,
        sans: want.sans.iter().map(San::to_string).collect(),
        purposes: want.purposes.iter().map(purpose_name).collect(),
        serial: serial.to_string(),
        not_before: validity.not_before,
        not_after: validity.not_after,
        issuer,
        chain: chain
            .iter()
            .map(|certificate| certificate.to_pem())
            .collect(),
    })
}

/// Whether a certificate can carry the name; K3s's listener drops others too (reference section
/// 8.3).
pub fn can_be_carried(san: &San) -> bool {
    let San::Dns(name) = san else {
        return true;
    };
    let rest = name.strip_prefix("*.").unwrap_or(name);
    let fits = |letter: u8| letter.is_ascii_alphanumeric() || b"-_.".contains(&letter);
    !rest.is_empty() && rest.len() <= 253 && rest.bytes().all(fits)
}

fn purpose_name(purpose: &Purpose) -> String {
    match purpose {
        Purpose::ServerAuth => "server-auth".to_owned(),
        Purpose::ClientAuth => "client-auth".to_owned(),
        Purpose::Any => "any".to_owned(),
        Purpose::Other(oid) => oid.clone(),
    }
}
