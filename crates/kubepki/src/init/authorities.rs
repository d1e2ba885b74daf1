//! The eleven files that a first start of K3s can be given: five CAs with their keys, and the
//! service-account keys.

use std::fmt;
use std::path::PathBuf;

use pki::verify::{Options, Path, verify};
use pki::{Certificate, KeyAlgorithm, KeyUsage, Purpose, UnixTime};

use crate::catalogue::{Kind, Row};
use crate::inventory::{DetectedRelease, Facts, Found, Inventory, Observed, ObservedRow};

/// How much of a CA, or of the service-account keys, is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All of it, and it can be used.
    Whole,
    /// Nothing.
    Absent,
    /// The key without its certificate; K3s would sign one with it for itself.
    KeyOnly,
}

/// What is there of the eleven files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities {
    /// Each CA's row and the service-account keys', in the catalogue's order.
    pub standing: Vec<(&'static str, Standing)>,
    /// The files that are missing.
    pub missing: Vec<PathBuf>,
}

/// A file that cannot be used as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub path: PathBuf,
    /// What is wrong and what to do.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path.display(), self.problem)
    }
}

impl Authorities {
    /// How it stands with the row `id`.
    pub fn standing(&self, id: &str) -> Standing {
        let known = self.standing.iter().find(|(row, _)| *row == id);
        known.map_or(Standing::Absent, |(_, standing)| *standing)
    }

    /// Whether some of the eleven are there and some are not.
    pub fn is_partial(&self) -> bool {
        !self.missing.is_empty()
            && self
                .standing
                .iter()
                .any(|(_, standing)| *standing != Standing::Absent)
    }
}

/// Looks at the eleven files, and at whether those that are there can do what they are for.
///
/// # Errors
///
/// Every fault: a CA without its key (K3s would overwrite it), files that do not fit together, a
/// CA that could not sign what K3s lets it sign.
pub fn state_of_authorities(
    inventory: &Inventory,
    release: DetectedRelease,
    now: UnixTime,
) -> Result<Authorities, Vec<Fault>> {
    let mut authorities = Authorities {
        standing: Vec::new(),
        missing: Vec::new(),
    };
    let mut faults = Vec::new();
    for observed in &inventory.rows {
        let found = match observed.row.kind {
            Kind::Authority { .. } => authority(inventory, observed, release, now),
            Kind::ServiceAccountKeys => service_keys(&observed.file),
            _ => continue,
        };
        match found {
            Ok(standing) => {
                let pair = observed.key.as_ref();
                let files = [Some(&observed.file), pair].into_iter().flatten();
                let gone = files
                    .filter(|file| file.is_absent())
                    .map(|file| file.path.clone());
                authorities.missing.extend(gone);
                authorities.standing.push((observed.row.id, standing));
            }
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() {
        Ok(authorities)
    } else {
        Err(faults)
    }
}

fn fault(file: &Observed, problem: impl Into<String>) -> Fault {
    Fault {
        path: file.path.clone(),
        problem: problem.into(),
    }
}

fn authority(
    inventory: &Inventory,
    observed: &ObservedRow,
    release: DetectedRelease,
    now: UnixTime,
) -> Result<Standing, Fault> {
    let file = &observed.file;
    let Some(key) = &observed.key else {
        return Ok(Standing::Absent);
    };
    match (file.is_absent(), key.is_absent()) {
        (true, true) => return Ok(Standing::Absent),
        (true, false) => {
            facts(key)?;
            return Ok(Standing::KeyOnly);
        }
        (false, true) => {
            return Err(fault(
                key,
                format!(
                    "is missing, and {} without it would be overwritten by K3s: put the key \
                     beside it, or take the certificate away",
                    file.path.display()
                ),
            ));
        }
        (false, false) => {}
    }
    let (Facts::Certificates(bundle), Facts::Keys(keys)) = (facts(file)?, facts(key)?) else {
        return Err(fault(file, "is not a file of certificates"));
    };
    let (Some(first), Some(used)) = (bundle.first(), keys.first()) else {
        return Err(fault(file, "holds no certificate"));
    };
    if first.spki_sha256() != used.spki {
        let problem = format!(
            "is not the key of {}, the first certificate of {}; the CA that signs stands first",
            first.subject(),
            file.path.display()
        );
        return Err(fault(key, problem));
    }
    let wanted = purposes(inventory, observed.row, release);
    check_bundle(bundle, &wanted, release, now).map_err(|problem| fault(file, problem))?;
    Ok(Standing::Whole)
}

fn service_keys(file: &Observed) -> Result<Standing, Fault> {
    if file.is_absent() {
        return Ok(Standing::Absent);
    }
    let Facts::Keys(keys) = facts(file)? else {
        return Err(fault(file, "is not a file of keys"));
    };
    match keys.first() {
        Some(first) if first.algorithm == KeyAlgorithm::Ed25519 => Err(fault(
            file,
            "begins with an Ed25519 key, with which K3s does not start: use RSA",
        )),
        Some(_) => Ok(Standing::Whole),
        None => Err(fault(file, "holds no key")),
    }
}

fn facts(file: &Observed) -> Result<&Facts, Fault> {
    match &file.found {
        Found::Absent => Err(fault(file, "is missing")),
        Found::Unreadable(detail) => Err(fault(file, format!("cannot be read: {detail}"))),
        Found::Present(present) => match &present.facts {
            Facts::Malformed(detail) => Err(fault(file, format!("cannot be used: {detail}"))),
            Facts::Directory => Err(fault(file, "is a directory, not a file")),
            Facts::Link(to) => Err(fault(
                file,
                format!("is a link to {}: put the file itself", to.display()),
            )),
            facts => Ok(facts),
        },
    }
}

/// What the CA `row` signs in K3s, by purpose.
fn purposes(inventory: &Inventory, row: &Row, release: DetectedRelease) -> Vec<Purpose> {
    let mut wanted = Vec::new();
    let mut want = |purpose: &Purpose| {
        if !wanted.contains(purpose) {
            wanted.push(purpose.clone());
        }
    };
    for other in inventory.flavour.rows {
        match &other.kind {
            Kind::Leaf(leaf) if leaf.authority == row.id && release.expects(other) => {
                leaf.purposes.iter().for_each(&mut want);
            }
            Kind::Listener { authority } if *authority == row.id => want(&Purpose::ServerAuth),
            _ => {}
        }
    }
    wanted
}

/// Whether the first certificate of `bundle` may sign what is wanted of it, up to a root that is
/// in the bundle too.
fn check_bundle(
    bundle: &[Certificate],
    wanted: &[Purpose],
    release: DetectedRelease,
    now: UnixTime,
) -> Result<(), String> {
    let Some(first) = bundle.first() else {
        return Err("holds no certificate".to_owned());
    };
    check_signer(first)?;
    if let DetectedRelease::Known(release) = release
        && !outer_authorities(release)
        && !(first.is_self_issued() && bundle.len() == 1)
    {
        return Err(format!(
            "is a CA under another CA, which K3s {release} cannot use; v1.26.2, v1.25.7, \
             v1.24.11 and v1.23.17 are the first that can"
        ));
    }
    let (roots, intermediates): (Vec<_>, Vec<_>) = bundle
        .iter()
        .cloned()
        .partition(Certificate::is_self_issued);
    let options = Options::at(now).purposes(&[Purpose::Any]);
    let paths = verify(first, &intermediates, &roots, &options).map_err(|error| {
        format!(
            "does not lead from the CA that signs to a root; it holds that CA first, then its \
             issuers up to the self-signed root: {error}"
        )
    })?;
    let mut problem = None;
    for path in &paths {
        match check_path(path, wanted) {
            Ok(()) => return Ok(()),
            Err(found) => problem = problem.or(Some(found)),
        }
    }
    Err(problem.unwrap_or_else(|| "leads to no root".to_owned()))
}

fn check_signer(first: &Certificate) -> Result<(), String> {
    let subject = first.subject();
    if !first.is_ca() {
        return Err(format!(
            "begins with {subject}, which is not a CA (basic constraints)"
        ));
    }
    if first
        .key_usage()
        .is_some_and(|usage| !usage.has(KeyUsage::KEY_CERT_SIGN))
    {
        return Err(format!(
            "begins with {subject}, whose key usage lacks keyCertSign"
        ));
    }
    Ok(())
}

/// Path length and extended key usage of the CAs, as they will count for a leaf below them.
fn check_path(path: &Path<'_>, wanted: &[Purpose]) -> Result<(), String> {
    for (below, certificate) in path.certificates().iter().enumerate() {
        let allowed = certificate.basic_constraints().and_then(|it| it.path_len);
        if let Some(allowed) = allowed
            && !usize::try_from(allowed).is_ok_and(|allowed| below <= allowed)
        {
            return Err(format!(
                "holds {}, which allows {allowed} CAs below it (path length) and has {below}",
                certificate.subject()
            ));
        }
        let purposes = certificate.purposes();
        if purposes.is_empty() || purposes.contains(&Purpose::Any) {
            continue;
        }
        if let Some(excluded) = wanted.iter().find(|purpose| !purposes.contains(purpose)) {
            return Err(format!(
                "holds {}, whose extended key usage excludes {excluded}, which K3s has it sign",
                certificate.subject()
            ));
        }
    }
    Ok(())
}

/// Whether K3s takes CAs under other CAs. The same releases keep `*.nochain.crt`.
pub(crate) fn outer_authorities(release: crate::catalogue::Release) -> bool {
    crate::catalogue::K3S
        .row("server-ca.nochain")
        .is_some_and(|row| row.since.includes(release))
}
