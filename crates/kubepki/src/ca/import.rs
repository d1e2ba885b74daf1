//! What a company's CA answered: certificates in any order, matched to the keys that wait here.

use std::collections::BTreeMap;
use std::path::Path;

use pki::{Certificate, PrivateKey, certificates_from_pkcs7, pem};

use super::create::{Draft, Made};
use super::outer::faults_of;
use super::service_key::{SERVICE_KEY, service_key_file};
use super::{CaError, CaName, Kind, Make, Pool, StagedSet};
use crate::bootstrap::{Bundle, Field};

/// What a set is put together from.
pub struct ImportRequest<'a> {
    /// The keys that were kept back when the requests were made.
    pub keys: BTreeMap<CaName, PrivateKey>,
    /// Every certificate that came back, and the company's own above them.
    pub answers: Vec<Certificate>,
    /// The CAs in force, where there are any; their `service.key` stays.
    pub live: Option<&'a Bundle>,
    /// Time, and a new service-account key.
    pub make: Make<'a>,
    /// Has the CAs in force vouch for the company's root, so that nobody is shut out: with their
    /// own keys, or better ones that are in here.
    pub cross: Option<Pool>,
}

/// Every certificate of a file: PEM with any number of certificates or PKCS#7 bundles, DER of one
/// certificate, DER of a PKCS#7 bundle.
///
/// # Errors
///
/// [`CaError::File`] with what it is instead.
pub fn certificates_in(path: &Path, bytes: &[u8]) -> Result<Vec<Certificate>, CaError> {
    let unusable = |source| CaError::File {
        path: path.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for block in pem::blocks(bytes) {
        match block.label.as_str() {
            "CERTIFICATE" if block.headers.is_empty() => {
                found.push(Certificate::from_der(&block.der).map_err(unusable)?);
            }
            "PKCS7" | "PKCS #7 SIGNED DATA" | "CMS" => {
                found.extend(certificates_from_pkcs7(&block.der).map_err(unusable)?);
            }
            _ => {}
        }
    }
    if !found.is_empty() {
        return Ok(found);
    }
    if bytes.first() != Some(&0x30) {
        return Err(unusable(pki::Error::NoPemBlock {
            expected: "CERTIFICATE or PKCS7",
        }));
    }
    match Certificate::from_der(bytes) {
        Ok(one) => Ok(vec![one]),
        Err(_) => certificates_from_pkcs7(bytes).map_err(unusable),
    }
}

/// Matches certificates to keys by public key, orders each chain up to the root, and checks all
/// of it.
///
/// # Errors
///
/// [`CaError::Faults`] with everything that is missing or wrong.
pub fn import(request: ImportRequest<'_>) -> Result<StagedSet, CaError> {
    let ImportRequest {
        keys,
        answers,
        live,
        make,
        cross,
    } = request;
    let mut pool = Pool {
        certificates: answers,
        keys: Vec::new(),
    };
    pool.deduplicate();
    let mut notes = Vec::new();
    let mut faults = Vec::new();
    let mut five = BTreeMap::new();
    for (ca, key) in keys {
        match chain(ca, &key, &pool, &make, &mut notes) {
            Ok(certificates) => drop(five.insert(ca, Made { certificates, key })),
            // An issuer's faults are the same for all that it issued.
            Err(found) => found.into_iter().for_each(|fault| {
                if !faults.contains(&fault) {
                    faults.push(fault);
                }
            }),
        }
    }
    if !faults.is_empty() {
        return Err(CaError::Faults { faults });
    }
    notes.extend(unused(&pool, &five));
    let keys = make.generate(&[SERVICE_KEY])?;
    let new = keys.first().ok_or_else(|| CaError::Make {
        what: "service.key".to_owned(),
        source: pki::Error::Crypto {
            what: "generate a key",
        },
    })?;
    let kind = kind(live, &five);
    if let (Some(files), Some(pool), Kind::NewRoot) = (live, cross, kind) {
        return super::stage::cross_sign_imported(files, five, pool, new, &make, notes);
    }
    let previous = live.and_then(|live| live.content(Field::ServiceKey));
    let (service, found) = service_key_file(new, previous)?;
    notes.extend(found);
    Draft {
        kind,
        five,
        service: Some(service),
        cross: Vec::new(),
        notes,
    }
    .finish(&make, live)
}

type Faults = Vec<(String, String)>;

fn chain(
    ca: CaName,
    key: &PrivateKey,
    pool: &Pool,
    make: &Make<'_>,
    notes: &mut Vec<String>,
) -> Result<Vec<Certificate>, Faults> {
    let what = format!("the {ca} CA");
    let fault = |problem: String| vec![(what.clone(), problem)];
    let mut own: Vec<&Certificate> = pool
        .certificates
        .iter()
        .filter(|it| it.spki_der() == key.spki_der())
        .collect();
    own.sort_by_key(|it| std::cmp::Reverse(it.validity().not_before));
    let Some(newest) = own.first() else {
        return Err(fault(format!(
            "has no certificate among those given: none has the public key of {}. Its CSR may \
             not be signed yet, or is of another request",
            super::request::csr_name(ca)
        )));
    };
    if own.len() > 1 {
        notes.push(format!(
            "The {ca} CA was answered {} times; the newest certificate is used.",
            own.len()
        ));
    }
    let mut found = faults_of(newest, 0, make.now);
    if newest.is_self_issued() {
        found.push(
            "is its own issuer by name; have it signed under a name that differs from its \
             issuer's"
                .to_owned(),
        );
    }
    let above = match pool.above(newest, make.now) {
        Ok(above) => above,
        Err(error) if found.is_empty() => {
            return Err(fault(format!(
                "cannot be used: {error}. Give the certificates of every CA above it too, up to \
                 the root"
            )));
        }
        Err(_) => Vec::new(),
    };
    let mut faults: Faults = Vec::new();
    let subject = newest.subject();
    faults.extend(
        found
            .into_iter()
            .map(|it| (format!("{what}, {subject},"), it)),
    );
    for (index, issuer) in above.iter().enumerate() {
        let found = faults_of(issuer, index + 1, make.now).into_iter();
        faults.extend(found.map(|it| (format!("the issuer {}", issuer.subject()), it)));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(std::iter::once((*newest).clone()).chain(above).collect())
}

fn unused(pool: &Pool, five: &BTreeMap<CaName, Made>) -> Option<String> {
    let used = |it: &&Certificate| five.values().any(|made| made.certificates.contains(it));
    let left: Vec<String> = pool
        .certificates
        .iter()
        .filter(|it| !used(it))
        .map(|it| it.subject().to_string())
        .collect();
    (!left.is_empty()).then(|| format!("Left out, because nothing needs it: {}.", left.join("; ")))
}

/// Whether the roots are those in force.
fn kind(live: Option<&Bundle>, five: &BTreeMap<CaName, Made>) -> Kind {
    let Some(live) = live else {
        return Kind::First;
    };
    let same = five.iter().all(|(ca, made)| {
        let old = live.content(ca.field()).unwrap_or_default();
        let old = Certificate::all_from_pem(old).unwrap_or_default();
        made.certificates
            .last()
            .is_some_and(|root| old.contains(root))
    });
    match same {
        true => Kind::SameRoot,
        false => Kind::NewRoot,
    }
}
