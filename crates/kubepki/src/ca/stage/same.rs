//! New CAs under the present roots.

use std::collections::BTreeMap;

use pki::{Authority, Certificate};

use super::{Context, short_lived};
use crate::ca::create::{Draft, KeysMade, Made, clone_key, constrained, in_safe, safe};
use crate::ca::outer::{Outer, faults_of};
use crate::ca::profile::{CA_DAYS, cannot_make};
use crate::ca::{CaError, CaName, Kind, OfflineFile, StagedSet};

pub(super) fn stage(context: &Context<'_>) -> Result<StagedSet, CaError> {
    let make = context.make;
    let mut signers = BTreeMap::new();
    for (ca, live) in &context.live.five {
        let path = live.path(*ca, context.pool, make.now)?;
        signers.insert(*ca, signer(context, *ca, &path)?);
    }
    // Five at most; which roots need a new intermediate is known now.
    let roots = signers.values().filter(|it| it.wants_intermediate);
    let distinct: Vec<&Certificate> = roots.fold(Vec::new(), |mut found, it| {
        if !found.contains(&it.authority.certificate()) {
            found.push(it.authority.certificate());
        }
        found
    });
    let mut keys = KeysMade::new(make, context.algorithms, distinct.len())?;
    let taken = context.taken();
    let mut intermediates = Vec::new();
    let mut offline: Vec<OfflineFile> = Vec::new();
    for (index, (root, key)) in distinct.iter().zip(keys.take_outer()).enumerate() {
        let above = signers
            .values()
            .find(|it| it.authority.certificate() == *root);
        let Some(above) = above else { continue };
        let stem = match index {
            0 => "k3s-intermediate-ca".to_owned(),
            more => format!("k3s-intermediate-ca-{}", more + 1),
        };
        let intermediate = make.below(&above.authority, &make.name(&stem, &taken)?, key)?;
        let chain = [intermediate.certificate().clone(), (*root).clone()];
        let file = stem.trim_start_matches("k3s-");
        offline.extend(in_safe(file, &intermediate, &chain)?);
        intermediates.push(intermediate);
    }
    let mut five = BTreeMap::new();
    for ((ca, signer), key) in signers.iter().zip(keys.take_five()) {
        let fresh = intermediates
            .iter()
            .find(|it| it.certificate().issuer().der() == signer.subject_der());
        let fresh = fresh.filter(|_| signer.wants_intermediate);
        let issuer = fresh.unwrap_or(&signer.authority);
        let name = make.name(&format!("k3s-{}-ca", ca.flat()), &taken)?;
        let own = make.sign(issuer, &name, key.spki_der(), None, CA_DAYS)?;
        let certificates = file(context, *ca, own, fresh, signer);
        five.insert(*ca, Made { certificates, key });
    }
    let mut notes = Vec::new();
    let service = context.service_file(&keys.service, &mut notes)?;
    notes.extend(short_lived(make, &five));
    notes.extend(bare_clients(context, &five));
    let draft = Draft {
        kind: Kind::SameRoot,
        five,
        service: Some(service),
        cross: Vec::new(),
        notes,
    };
    let mut set = draft.finish(make, Some(context.files))?;
    set.offline = offline;
    Ok(set)
}

/// Under an intermediate that is not in the files in force yet.
pub(super) fn stage_under(context: &Context<'_>, outer: Outer) -> Result<StagedSet, CaError> {
    let make = context.make;
    outer.check(make.now)?;
    let mut keys = KeysMade::new(make, context.algorithms, outer.keys_needed())?;
    let taken = context.taken();
    let ready = outer.ready(make, keys.take_outer(), &taken)?;
    let root = ready.chain().last().cloned();
    let mut five = crate::ca::create::below_one(make, &ready, keys.take_five(), &taken)?;
    for (ca, made) in &mut five {
        let live = context.live.five.get(ca);
        let live = live.map_or(&[][..], |it| it.certificates.as_slice());
        let known = |root: &Certificate| live.iter().any(|it| it.spki_der() == root.spki_der());
        if !root.as_ref().is_some_and(known) {
            return Err(CaError::Live {
                ca: *ca,
                problem: format!(
                    "its root is not the one that was given, {}: use --cross-signed or --new-root",
                    root.as_ref()
                        .map(|it| it.subject().to_string())
                        .unwrap_or_default()
                ),
            });
        }
        let own = std::mem::take(&mut made.certificates);
        made.certificates = joined(own, live, |it| is_cross(it, live));
    }
    let mut notes = constrained(&ready);
    let service = context.service_file(&keys.service, &mut notes)?;
    notes.extend(short_lived(make, &five));
    notes.extend(bare_clients(context, &five));
    let draft = Draft {
        kind: Kind::SameRoot,
        five,
        service: Some(service),
        cross: Vec::new(),
        notes,
    };
    let mut set = draft.finish(make, Some(context.files))?;
    set.offline = safe(&ready)?;
    Ok(set)
}

/// Who signs one of the five anew.
struct Signer {
    authority: Authority,
    /// From the signer's issuer up to the root.
    above: Vec<Certificate>,
    /// The root signs, and there was an intermediate between: a new one takes its place.
    wants_intermediate: bool,
}

impl Signer {
    fn subject_der(&self) -> &[u8] {
        self.authority.certificate().subject().der()
    }
}

fn signer(context: &Context<'_>, ca: CaName, path: &[Certificate]) -> Result<Signer, CaError> {
    let live = |problem| CaError::Live { ca, problem };
    if path.len() < 2 {
        return Err(live(
            "it is its own root, so there is no root to keep while it is replaced: use \
             --cross-signed, with which everybody goes on"
                .to_owned(),
        ));
    }
    let mut refused = Vec::new();
    // The nearest that can: the topology stays as it is.
    for (index, candidate) in path.iter().enumerate().skip(1) {
        let Some(key) = context.pool.key_of(candidate) else {
            refused.push(format!("the key of {} is not at hand", candidate.subject()));
            continue;
        };
        let wants_intermediate = index + 1 == path.len() && path.len() > 2;
        let below = if wants_intermediate { 2 } else { 1 };
        let faults: Vec<String> = path
            .iter()
            .skip(index)
            .enumerate()
            .flat_map(|(step, it)| {
                let found = faults_of(it, below + step, context.make.now).into_iter();
                found.map(move |fault| format!("{} {fault}", it.subject()))
            })
            .collect();
        if faults.is_empty() {
            return Ok(Signer {
                authority: Authority::new(candidate.clone(), clone_key(key)?)
                    .map_err(cannot_make(&format!("the {ca} CA")))?,
                above: path.iter().skip(index + 1).cloned().collect(),
                wants_intermediate,
            });
        }
        refused.extend(faults);
    }
    Err(live(format!(
        "nothing at hand can sign under its root: {}. Name the directory with the intermediate's \
         or root's key with --keys",
        refused.join("; ")
    )))
}

/// The new CA, its issuers, and what else clients of an earlier rotation still need: first what
/// another CA signed, then roots.
fn file(
    context: &Context<'_>,
    ca: CaName,
    own: Certificate,
    fresh: Option<&Authority>,
    signer: &Signer,
) -> Vec<Certificate> {
    let live = context.live.five.get(&ca);
    let live = live.map_or(&[][..], |it| it.certificates.as_slice());
    let mut new = vec![own];
    new.extend(fresh.map(|it| it.certificate().clone()));
    new.push(signer.authority.certificate().clone());
    new.extend(signer.above.iter().cloned());
    // With a fresh intermediate the old one leads nowhere new.
    joined(new, live, |it| fresh.is_none() || is_cross(it, live))
}

/// The new chain, then what is kept of the file in force: first what another CA signed, then
/// roots.
fn joined(
    new: Vec<Certificate>,
    live: &[Certificate],
    keep: impl Fn(&Certificate) -> bool,
) -> Vec<Certificate> {
    let kept = live
        .iter()
        .skip(1)
        .filter(|it| it.is_self_issued() || keep(it))
        .cloned();
    let (selves, others): (Vec<_>, Vec<_>) = new
        .into_iter()
        .chain(kept)
        .partition(Certificate::is_self_issued);
    let mut certificates: Vec<Certificate> = Vec::new();
    for certificate in others.into_iter().chain(selves) {
        if !certificates.contains(&certificate) {
            certificates.push(certificate);
        }
    }
    certificates
}

/// Whether another CA vouches in it for a root of the file.
fn is_cross(candidate: &Certificate, file: &[Certificate]) -> bool {
    !candidate.is_self_issued()
        && file.iter().any(|root| {
            root.is_self_issued()
                && root.subject().der() == candidate.subject().der()
                && root.spki_der() == candidate.spki_der()
        })
}

/// Client certificates that were handed out without their CA's certificate, through the
/// Kubernetes CSR API, are checked against the file alone.
fn bare_clients(context: &Context<'_>, five: &BTreeMap<CaName, Made>) -> Option<String> {
    let old = context
        .live
        .five
        .get(&CaName::Client)?
        .certificates
        .first()?;
    let new = &five.get(&CaName::Client)?.certificates;
    (!new.contains(old)).then(|| {
        format!(
            "{} leaves the client CA's file. What it signed carries it along and stays valid; \
             certificates from the Kubernetes CSR API (signer kubernetes.io/kube-apiserver-client) \
             do not, and have to be requested again.",
            old.subject()
        )
    })
}
