//! New roots that the present CAs vouch for.

use std::collections::BTreeMap;

use pki::{Authority, Certificate, PrivateKey};

use super::{Context, CrossRoots, short_lived, together};
use crate::ca::create::{Draft, KeysMade, Made, clone_key, constrained, in_safe, safe};
use crate::ca::outer::{Outer, Ready, faults_of};
use crate::ca::profile::{CA_DAYS, ROOT_DAYS};
use crate::ca::{CaError, CaName, Cross, Kind, OfflineFile, StagedSet};

pub(super) fn stage(context: &Context<'_>, roots: CrossRoots) -> Result<StagedSet, CaError> {
    let paths = paths(context)?;
    let roots = match roots {
        CrossRoots::AsNow => as_now(&paths),
        said => said,
    };
    match roots {
        CrossRoots::Common(outer) => common(context, &paths, outer),
        CrossRoots::PerCa | CrossRoots::AsNow => per_ca(context, &paths),
    }
}

/// Cross-signs CAs that somebody else made: each file as it is, the CA first, its root last.
pub(super) fn imported(
    context: &Context<'_>,
    five: BTreeMap<CaName, Made>,
    service: &PrivateKey,
    notes: Vec<String>,
) -> Result<StagedSet, CaError> {
    let paths = paths(context)?;
    let five = five.into_iter().map(|(ca, made)| {
        let chain = made.certificates;
        let key = made.key;
        (ca, New { chain, key })
    });
    finish(context, &paths, five.collect(), service, Vec::new(), notes)
}

type Paths = BTreeMap<CaName, Vec<Certificate>>;

fn paths(context: &Context<'_>) -> Result<Paths, CaError> {
    let five = context.live.five.iter();
    five.map(|(ca, live)| Ok((*ca, live.path(*ca, context.pool, context.make.now)?)))
        .collect()
}

fn as_now(paths: &Paths) -> CrossRoots {
    let mut roots = paths.values().filter_map(|path| path.last());
    let first = roots.next();
    match roots.all(|root| Some(root) == first) {
        true => CrossRoots::Common(Outer::New),
        false => CrossRoots::PerCa,
    }
}

/// The new certificates of one CA, the CA first, its root last.
struct New {
    chain: Vec<Certificate>,
    key: PrivateKey,
}

fn common(context: &Context<'_>, paths: &Paths, outer: Outer) -> Result<StagedSet, CaError> {
    let make = context.make;
    outer.check(make.now)?;
    super::refuse_known(context, &outer, Kind::CrossSigned)?;
    let mut keys = KeysMade::new(make, context.algorithms, outer.keys_needed())?;
    let taken = context.taken();
    let ready: Ready = outer.ready(make, keys.take_outer(), &taken)?;
    let five = crate::ca::create::below_one(make, &ready, keys.take_five(), &taken)?;
    let new = five.into_iter().map(|(ca, made)| {
        let chain = made.certificates;
        let key = made.key;
        (ca, New { chain, key })
    });
    let notes = constrained(&ready);
    finish(
        context,
        paths,
        new.collect(),
        &keys.service,
        safe(&ready)?,
        notes,
    )
}

fn per_ca(context: &Context<'_>, paths: &Paths) -> Result<StagedSet, CaError> {
    let make = context.make;
    let mut keys = KeysMade::new(make, context.algorithms, CaName::ALL.len())?;
    let taken = context.taken();
    let mut offline = Vec::new();
    let mut new = BTreeMap::new();
    let (outer, five) = (keys.take_outer(), keys.take_five());
    for ((ca, root_key), key) in CaName::ALL.into_iter().zip(outer).zip(five) {
        let stem = format!("k3s-{}-root", ca.flat());
        let root = make.root(&make.name(&stem, &taken)?, root_key)?;
        let name = make.name(&format!("k3s-{}-ca", ca.flat()), &taken)?;
        let own = make.sign(&root, &name, key.spki_der(), None, CA_DAYS)?;
        let file = format!("{}-root", ca.flat());
        let certificate = std::slice::from_ref(root.certificate());
        offline.extend(in_safe(&file, &root, certificate)?);
        let chain = vec![own, root.certificate().clone()];
        new.insert(ca, New { chain, key });
    }
    finish(context, paths, new, &keys.service, offline, Vec::new())
}

fn finish(
    context: &Context<'_>,
    paths: &Paths,
    new: BTreeMap<CaName, New>,
    service: &PrivateKey,
    offline: Vec<OfflineFile>,
    mut notes: Vec<String>,
) -> Result<StagedSet, CaError> {
    let mut five = BTreeMap::new();
    let mut cross: Vec<Cross> = Vec::new();
    let mut gone = Vec::new();
    for (ca, new) in new {
        let path = paths.get(&ca).map_or(&[][..], Vec::as_slice);
        let vouched = vouch(context, ca, path, &new, &cross)?;
        let certificates = ordered(&new.chain, path, &vouched);
        gone.extend(dropped(context, ca, &certificates));
        let key = new.key;
        five.insert(ca, Made { certificates, key });
        cross.push(vouched);
    }
    notes.extend(left(gone));
    notes.extend(ending(&cross));
    let service = context.service_file(service, &mut notes)?;
    notes.extend(short_lived(context.make, &five));
    let draft = Draft {
        kind: Kind::CrossSigned,
        five,
        service: Some(service),
        cross,
        notes,
    };
    let mut set = draft.finish(context.make, Some(context.files))?;
    set.offline = offline;
    Ok(set)
}

/// The cross-certificate for one CA's new root, by the best key at hand: the old root's, else
/// the one of the CA nearest to it.
fn vouch(
    context: &Context<'_>,
    ca: CaName,
    path: &[Certificate],
    new: &New,
    others: &[Cross],
) -> Result<Cross, CaError> {
    let (Some(new_ca), Some(new_root), Some(old_root)) =
        (new.chain.first(), new.chain.last(), path.last())
    else {
        return Err(CaError::Live {
            ca,
            problem: "it has no certificate".to_owned(),
        });
    };
    let signer = signer(context, ca, path, new.chain.len())?;
    let certificate = signer.certificate();
    // One old root and one new one need one word between them, however many files carry it.
    let known = others.iter().find(|it| {
        it.signer == *certificate && it.new_root == *new_root && it.old_root == *old_root
    });
    let cross = match known {
        Some(known) => known.certificate.clone(),
        None => context.make.sign(
            &signer,
            new_root.subject(),
            new_root.spki_der(),
            new_root.subject_key_identifier(),
            ROOT_DAYS,
        )?,
    };
    let until = path
        .iter()
        .skip_while(|it| it != &certificate)
        .map(|it| it.validity().not_after)
        .fold(cross.validity().not_after, std::cmp::min);
    Ok(Cross {
        ca,
        until,
        ends_early: until < new_ca.validity().not_after,
        certificate: cross,
        signer: certificate.clone(),
        old_root: old_root.clone(),
        new_root: new_root.clone(),
    })
}

/// Who signs the cross-certificate; `below` CAs will stand below the signer.
fn signer(
    context: &Context<'_>,
    ca: CaName,
    path: &[Certificate],
    below: usize,
) -> Result<Authority, CaError> {
    let mut refused = Vec::new();
    for (index, candidate) in path.iter().enumerate().rev() {
        let Some(key) = context.pool.key_of(candidate) else {
            refused.push(format!("{} has its key elsewhere", candidate.subject()));
            continue;
        };
        // The cross-certificate itself is one of them, and every step up adds one.
        let above = path.iter().skip(index).enumerate();
        let faults: Vec<String> = above
            .flat_map(|(step, it)| {
                let found = faults_of(it, below + step, context.make.now).into_iter();
                found.map(move |fault| format!("{} {fault}", it.subject()))
            })
            .collect();
        if faults.is_empty() {
            return Authority::new(candidate.clone(), clone_key(key)?).map_err(
                crate::ca::profile::cannot_make(&format!("the cross-certificate of the {ca} CA")),
            );
        }
        refused.extend(
            faults
                .into_iter()
                .filter(|it| !refused.contains(it))
                .collect::<Vec<_>>(),
        );
    }
    Err(CaError::Live {
        ca,
        problem: format!(
            "nothing in force can vouch for a new root: {}. Name the directory with the root's \
             or intermediate's key with --keys, or stage with a new root, which every node \
             and client then has to be given",
            refused.join("; ")
        ),
    })
}

/// The file: new CAs, cross-certificate, the old CAs that it needs, new root, old root.
fn ordered(chain: &[Certificate], path: &[Certificate], cross: &Cross) -> Vec<Certificate> {
    let (root, new) = match chain.split_last() {
        Some((root, new)) => (Some(root), new),
        None => (None, chain),
    };
    let needed = path
        .iter()
        .skip_while(|it| **it != cross.signer)
        .filter(|it| **it != cross.old_root);
    new.iter()
        .chain([&cross.certificate])
        .chain(needed)
        .chain(root)
        .chain([&cross.old_root])
        .cloned()
        .collect()
}

/// Roots that were trusted until now and are not any more.
fn dropped(context: &Context<'_>, ca: CaName, kept: &[Certificate]) -> Vec<(CaName, String)> {
    let live = context.live.five.get(&ca).into_iter();
    live.flat_map(|it| &it.certificates)
        .filter(|it| it.is_self_issued() && !kept.contains(it))
        .map(|root| (ca, root.subject().to_string()))
        .collect()
}

fn left(gone: Vec<(CaName, String)>) -> Vec<String> {
    together(gone.into_iter(), |cas, root| {
        format!(
            "{root} leaves the file of the {cas}: it comes from the rotation before the last. A \
             client that trusts nothing newer is shut out."
        )
    })
}

fn ending(cross: &[Cross]) -> Vec<String> {
    let early = cross.iter().filter(|it| it.ends_early);
    let early = early.map(|it| (it.ca, it.until.to_string()));
    together(early, |cas, end| {
        format!(
            "The new roots of the {cas} are vouched for until {end}, when what signed their \
             cross-certificates ends: give every client the new root before that."
        )
    })
}
