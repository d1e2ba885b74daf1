//! What comes after the CAs in force.
//!
//! | change | the five CAs | roots | who has to do something |
//! |---|---|---|---|
//! | same root | new, under the present root | stay | nobody joins again |
//! | cross-signed | new | new, and the present CAs vouch for them | tokens change; clients go on |
//! | new root | new | new | everybody |
//! | compromised | new | new; the old leave the bundles at once | everybody, now |
//! | service key only | stay, octet for octet | stay | servers restart |
//!
//! **Cross-signed**: for each CA a cross-certificate X with the name and key of its new root S,
//! signed by the best old key at hand: that of the old root O, else of an intermediate, else of
//! the CA itself, which is on every server. A file holds, in this order, the new CA, the new
//! intermediate if there is one, X, the old CAs between X's signer and O, S, O: what stands before S and O is what
//! OpenSSL follows from the old side, and Go takes either (reference section 13.2).
//!
//! **One new root or five?** As it is now: where the five CAs share a root today, one new root
//! with an intermediate; where each is its own, as K3s makes them by default, five. A shared root
//! makes every CA below it an acceptable signer wherever the root is trusted, so five stay five
//! unless the operator says otherwise.

mod cross;
mod live;
mod same;

use std::collections::BTreeMap;

use pki::Certificate;

use super::create::{Draft, KeysMade, Made, below_one, constrained, safe};
use super::outer::Outer;
use super::profile::{Algorithms, CA_DAYS};
use super::service_key::service_key_file;
use super::{CaError, CaName, Kind, Make, Pool, StagedSet};
use crate::bootstrap::{Bundle, Field};
use live::Live;

/// What should follow.
#[derive(Debug)]
pub enum Change {
    /// New CAs under the present roots.
    SameRoot,
    /// The same under this root or intermediate, whose root is the present one: an intermediate
    /// that was renewed, or is new.
    SameRootUnder(Outer),
    /// New CAs under roots that nobody trusts yet.
    NewRoot(Outer),
    /// New roots that the present CAs vouch for.
    CrossSigned(CrossRoots),
    /// New roots, new service-account keys, nothing of the old.
    Compromised(Outer),
    /// A new first key in `service.key`.
    ServiceKeyOnly,
}

/// The new roots of a cross-signed rotation.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one value per run, and callers need no box"
)]
pub enum CrossRoots {
    /// One for all where the five share one now, else one for each.
    AsNow,
    /// One for each CA, which it signs itself.
    PerCa,
    /// One for all five, with an intermediate.
    Common(Outer),
}

/// What the next set is made from.
#[derive(Debug)]
pub struct StageRequest<'a> {
    /// The files in force; [`crate::bootstrap::read_directory`] reads them.
    pub live: &'a Bundle,
    /// What should follow.
    pub change: Change,
    /// What is at hand beside the live files: the keys of roots and intermediates.
    pub pool: Pool,
    /// Kinds of keys.
    pub algorithms: Algorithms,
    /// Time, serial numbers, keys.
    pub make: Make<'a>,
}

/// Makes the next set. Nothing is written, and nothing that is in force changes.
///
/// # Errors
///
/// [`CaError`]: the live files are incomplete or damaged, no key at hand can sign what is needed,
/// or what was given cannot be used.
pub fn stage(request: StageRequest<'_>) -> Result<StagedSet, CaError> {
    let StageRequest {
        live: files,
        change,
        mut pool,
        algorithms,
        make,
    } = request;
    let algorithms = algorithms.check()?;
    if matches!(change, Change::ServiceKeyOnly) {
        return service_key_only(files, &make);
    }
    let live = Live::read(files)?;
    live.add_to(&mut pool)?;
    let context = Context {
        files,
        live: &live,
        pool: &pool,
        algorithms,
        make: &make,
    };
    match change {
        Change::SameRoot => same::stage(&context),
        Change::SameRootUnder(outer) => same::stage_under(&context, outer),
        Change::CrossSigned(roots) => cross::stage(&context, roots),
        Change::NewRoot(outer) => new_root(&context, outer, Kind::NewRoot),
        Change::Compromised(outer) => new_root(&context, outer, Kind::Compromised),
        Change::ServiceKeyOnly => service_key_only(files, &make),
    }
}

/// What every kind of change works with.
struct Context<'a> {
    files: &'a Bundle,
    live: &'a Live,
    pool: &'a Pool,
    algorithms: Algorithms,
    make: &'a Make<'a>,
}

impl Context<'_> {
    /// Every certificate in force or at hand: names that new ones must not have.
    fn taken(&self) -> Vec<&Certificate> {
        let live = self.live.five.values().flat_map(|it| &it.certificates);
        live.chain(&self.pool.certificates).collect()
    }

    fn service_file(
        &self,
        key: &pki::PrivateKey,
        notes: &mut Vec<String>,
    ) -> Result<zeroize::Zeroizing<Vec<u8>>, CaError> {
        let previous = self.files.content(Field::ServiceKey);
        let (file, found) = service_key_file(key, previous)?;
        notes.extend(found);
        Ok(file)
    }
}

/// Cross-signs CAs that a company made: the present ones vouch for the company's root.
pub(super) fn cross_sign_imported(
    files: &Bundle,
    five: BTreeMap<CaName, Made>,
    mut pool: Pool,
    service: &pki::PrivateKey,
    make: &Make<'_>,
    notes: Vec<String>,
) -> Result<StagedSet, CaError> {
    let live = Live::read(files)?;
    live.add_to(&mut pool)?;
    let context = Context {
        files,
        live: &live,
        pool: &pool,
        algorithms: Algorithms::default(),
        make,
    };
    cross::imported(&context, five, service, notes)
}

fn service_key_only(files: &Bundle, make: &Make<'_>) -> Result<StagedSet, CaError> {
    let Some(previous) = files.content(Field::ServiceKey) else {
        return Err(CaError::Incomplete {
            missing: vec![Field::ServiceKey.path().display().to_string()],
        });
    };
    let keys = make.generate(&[super::SERVICE_KEY])?;
    let new = keys.first().ok_or_else(|| CaError::Make {
        what: "service.key".to_owned(),
        source: pki::Error::Crypto {
            what: "generate a key",
        },
    })?;
    let (service, notes) = service_key_file(new, Some(previous))?;
    Draft {
        kind: Kind::ServiceKeyOnly,
        five: BTreeMap::new(),
        service: Some(service),
        cross: Vec::new(),
        notes,
    }
    .finish(make, Some(files))
}

fn new_root(context: &Context<'_>, outer: Outer, kind: Kind) -> Result<StagedSet, CaError> {
    let make = context.make;
    outer.check(make.now)?;
    refuse_known(context, &outer, kind)?;
    let mut keys = KeysMade::new(make, context.algorithms, outer.keys_needed())?;
    let taken = context.taken();
    let ready = outer.ready(make, keys.take_outer(), &taken)?;
    let five = below_one(make, &ready, keys.take_five(), &taken)?;
    let mut notes = constrained(&ready);
    let service = match kind {
        Kind::Compromised => {
            let (file, _) = service_key_file(&keys.service, None)?;
            notes.push(
                "Every service-account token signed so far ends at once: pods that hold one have \
                 to be restarted after the servers."
                    .to_owned(),
            );
            file
        }
        _ => context.service_file(&keys.service, &mut notes)?,
    };
    notes.extend(short_lived(make, &five));
    let draft = Draft {
        kind,
        five,
        service: Some(service),
        cross: Vec::new(),
        notes,
    };
    let mut set = draft.finish(make, Some(context.files))?;
    set.offline = safe(&ready)?;
    Ok(set)
}

/// A root that is trusted already is no new one, and after a compromise nothing old may stay.
fn refuse_known(context: &Context<'_>, outer: &Outer, kind: Kind) -> Result<(), CaError> {
    let live: Vec<&Certificate> = context
        .live
        .five
        .values()
        .flat_map(|it| &it.certificates)
        .collect();
    for certificate in outer.given() {
        let same_key = |it: &&Certificate| it.spki_der() == certificate.spki_der();
        if live.iter().any(same_key) {
            let problem = match kind {
                Kind::Compromised => {
                    "has a key that is in force now; after a compromise nothing of the old may \
                     stay: give another root, or none to have one made"
                }
                _ => {
                    "has a key that is in force now, so its root is no new one: stage with the \
                     same root (--same-root)"
                }
            };
            return Err(CaError::Given {
                what: certificate.subject().to_string(),
                problem: problem.to_owned(),
            });
        }
    }
    Ok(())
}

/// CAs that end sooner than usual because their issuer does.
fn short_lived(make: &Make<'_>, five: &BTreeMap<CaName, Made>) -> Vec<String> {
    let full = make.now.plus((CA_DAYS - 1) * pki::DAY);
    let firsts = five
        .iter()
        .filter_map(|(ca, made)| Some((*ca, made.certificates.first()?.validity().not_after)));
    let short = firsts.filter(|(_, end)| *end < full);
    together(short.map(|(ca, end)| (ca, end.to_string())), |cas, end| {
        format!("The new {cas} end with their issuers, at {end}.")
    })
}

/// One sentence for all CAs of which the same is to be said.
fn together(
    found: impl Iterator<Item = (CaName, String)>,
    say: impl Fn(&str, &str) -> String,
) -> Vec<String> {
    let mut groups: Vec<(String, Vec<&'static str>)> = Vec::new();
    for (ca, detail) in found {
        match groups.iter_mut().find(|(known, _)| *known == detail) {
            Some((_, cas)) => cas.push(ca.label()),
            None => groups.push((detail, vec![ca.label()])),
        }
    }
    groups
        .iter()
        .map(|(detail, cas)| match cas.split_last() {
            Some((only, [])) => say(&format!("{only} CA"), detail),
            Some((last, others)) => say(&format!("{} and {last} CAs", others.join(", ")), detail),
            None => say("CAs", detail),
        })
        .collect()
}
