//! Keys, clusters and checks that the tests share.

use std::collections::BTreeMap;

use kubepki::bootstrap::{Bundle, Field, SharedFile, Stamp};
use kubepki::ca::{CaError, CaName, Change, Make, Pool, StageRequest, StagedSet, stage};
use kubepki::edge::{KeySource, SystemEntropy};
use kubepki::plan::served_chain;
use pki::verify::{Options, VerifyError, verify};
use pki::{
    Authority, Certificate, DAY, KeyAlgorithm, LeafRequest, Name, PrivateKey, Purpose, Serial,
    UnixTime, Validity,
};

/// The moment of the tests: a few hours after the fixtures were made.
pub const NOW: UnixTime = UnixTime::from_secs(1_795_360_000);

/// Fresh keys, EC ones also where RSA is asked for, which is dear.
#[derive(Clone, Copy, Debug)]
pub struct Keys;

impl KeySource for Keys {
    fn generate(&self, algorithm: KeyAlgorithm) -> Result<PrivateKey, pki::Error> {
        PrivateKey::generate(match algorithm {
            KeyAlgorithm::Rsa(_) => KeyAlgorithm::P256,
            other => other,
        })
    }
}

/// What makes things at `now`.
pub fn make(keys: &dyn KeySource, now: UnixTime) -> Make<'_> {
    Make {
        now,
        entropy: &SystemEntropy,
        keys,
    }
}

/// The set that follows `live`.
pub fn staged(live: &Bundle, change: Change, pool: Pool) -> Result<StagedSet, CaError> {
    staged_at(live, change, pool, NOW)
}

pub fn staged_at(
    live: &Bundle,
    change: Change,
    pool: Pool,
    now: UnixTime,
) -> Result<StagedSet, CaError> {
    stage(StageRequest {
        live,
        change,
        pool,
        algorithms: kubepki::ca::Algorithms::default(),
        make: make(&Keys, now),
    })
}

pub fn pool_of(set: &StagedSet) -> Pool {
    let mut pool = Pool::default();
    for file in &set.offline {
        pool.add(file.name.as_ref(), &file.content, None).unwrap();
    }
    pool
}

pub fn serial() -> Serial {
    Serial::random(pki::random).unwrap()
}

pub fn name(text: &str) -> Name {
    Name::new(&[], text).unwrap()
}

pub fn from_hour_before(days: i64) -> Validity {
    Validity {
        not_before: NOW.plus(-7200),
        not_after: NOW.plus(-7200 + days * DAY),
    }
}

pub fn new_root(common_name: &str, algorithm: KeyAlgorithm, days: i64) -> Authority {
    let key = PrivateKey::generate(algorithm).unwrap();
    Authority::self_signed(&name(common_name), key, serial(), from_hour_before(days)).unwrap()
}

pub fn put(bundle: &mut Bundle, field: Field, content: &str) {
    let content = content.as_bytes().to_vec().into();
    let stamp = Stamp::at(NOW.plus(-86_400));
    bundle.files.insert(field, SharedFile { stamp, content });
}

/// Five CAs that are each their own root, and a service key, as K3s makes them.
pub fn default_cluster(days: i64) -> Bundle {
    let mut bundle = Bundle::default();
    for ca in CaName::ALL {
        let root = new_root(&format!("k3s-{}-ca@1", ca.flat()), KeyAlgorithm::P256, days);
        put(&mut bundle, ca.field(), &root.certificate().to_pem());
        put(&mut bundle, ca.key_field(), &root.key().to_pem().unwrap());
    }
    put(&mut bundle, Field::ServiceKey, &service_key());
    bundle
}

pub fn service_key() -> String {
    let key = PrivateKey::generate(KeyAlgorithm::Rsa(2048)).unwrap();
    key.to_pem().unwrap().to_string()
}

/// The live set after `set` came in force: what it does not hold stays.
pub fn in_force(live: &Bundle, set: &StagedSet) -> Bundle {
    let mut next = live.clone();
    next.files.extend(set.bundle.files.clone());
    next
}

pub fn certificates(bundle: &Bundle, ca: CaName) -> Vec<Certificate> {
    Certificate::all_from_pem(bundle.content(ca.field()).unwrap()).unwrap()
}

pub fn keys(bundle: &Bundle, field: Field) -> Vec<PrivateKey> {
    PrivateKey::all_from_pem(bundle.content(field).unwrap()).unwrap()
}

/// A leaf of a CA in force, and what follows it.
pub fn leaf(bundle: &Bundle, ca: CaName, now: UnixTime) -> (Certificate, Vec<Certificate>) {
    let file = certificates(bundle, ca);
    let key = keys(bundle, ca.key_field()).remove(0);
    let authority = Authority::new(file[0].clone(), key).unwrap();
    let leaf_key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let certificate = authority
        .issue(&LeafRequest {
            organizations: &[],
            common_name: "someone",
            sans: &[],
            purposes: &[Purpose::ServerAuth, Purpose::ClientAuth],
            spki_der: leaf_key.spki_der(),
            serial: serial(),
            validity: Validity {
                not_before: now,
                not_after: now.plus(DAY),
            }
            .clamped_to(file[0].validity()),
        })
        .unwrap();
    let chain = served_chain(&file).into_iter().cloned().collect();
    (certificate, chain)
}

/// Whether a client that trusts `roots` accepts the leaf with its chain.
pub fn accepted(
    leaf: &(Certificate, Vec<Certificate>),
    roots: &[Certificate],
    now: UnixTime,
) -> Result<(), VerifyError> {
    let purposes = [Purpose::ServerAuth];
    verify(
        &leaf.0,
        &leaf.1,
        roots,
        &Options::at(now).purposes(&purposes),
    )
    .map(|_| ())
}

/// The self-signed ones.
pub fn roots(certificates: &[Certificate]) -> Vec<Certificate> {
    let roots = certificates.iter().filter(|it| it.is_self_signed());
    roots.cloned().collect()
}

/// K3s's own rule for a new CA (reference section 3.4).
pub fn k3s_accepts(old: &[Certificate], new: &[Certificate], now: UnixTime) -> bool {
    let names_none = |it: &&Certificate| {
        let authority = it.authority_key_identifier().unwrap_or_default();
        authority.is_empty() || Some(authority) == it.subject_key_identifier()
    };
    let roots: Vec<_> = old.iter().filter(names_none).cloned().collect();
    let others = old.iter().filter(|it| !names_none(it));
    let named = new[1..]
        .iter()
        .filter(|it| !it.authority_key_identifier().unwrap_or_default().is_empty());
    let intermediates: Vec<_> = others.chain(named).cloned().collect();
    new.len() > 1 && verify(&new[0], &intermediates, &roots, &Options::at(now)).is_ok()
}

/// What holds for every set that is staged.
pub fn assert_sound(live: &Bundle, set: &StagedSet, now: UnixTime) {
    let service = keys(&set.bundle, Field::ServiceKey);
    assert_eq!(set.bundle.files.len(), 11);
    assert!(
        set.bundle
            .files
            .values()
            .all(|it| it.stamp == Stamp::at(now))
    );
    let mut spkis = Vec::new();
    for ca in CaName::ALL {
        let file = certificates(&set.bundle, ca);
        let own = keys(&set.bundle, ca.key_field());
        assert_eq!(own.len(), 1, "only the issuing CA's key: {ca}");
        assert_eq!(own[0].spki_der(), file[0].spki_der());
        spkis.push(own[0].spki_sha256());
        assert_ordered(live, ca, &file);
        assert_eq!(set.served[&ca][0], file[0]);
        let chain: Vec<Certificate> = served_chain(&file).into_iter().cloned().collect();
        assert_eq!(set.served[&ca], chain);
        let leaf = leaf(&set.bundle, ca, now);
        accepted(&leaf, &file, now).unwrap();
        accepted(&leaf, &roots(&file), now).unwrap();
    }
    assert!(spkis.iter().all(|it| !spkis_offline(set).contains(it)));
    let old = live
        .content(Field::ServiceKey)
        .map(|_| keys(live, Field::ServiceKey));
    if set.kind != kubepki::ca::Kind::Compromised {
        for key in old.into_iter().flatten() {
            assert!(
                service[1..]
                    .iter()
                    .any(|it| it.spki_der() == key.spki_der())
            );
        }
    }
    let server = certificates(&set.bundle, CaName::Server);
    let last = roots(&server)
        .into_iter()
        .find(|root| {
            pki::verify::verify(
                &server[0],
                &server[1..],
                std::slice::from_ref(root),
                &Options::at(now),
            )
            .is_ok()
        })
        .unwrap();
    assert_eq!(set.hash.after, last.fingerprint());
}

/// A file whose certificates lead from one to the next, in the order of reference section 13.2.
fn assert_ordered(live: &Bundle, ca: CaName, file: &[Certificate]) {
    // Every certificate but the roots is signed by another of the file, and ends before it.
    for one in file {
        let signed = |by: &&Certificate| {
            one.issuer().der() == by.subject().der() && one.verify_signature(by.spki_der()).is_ok()
        };
        let issuers: Vec<_> = file.iter().filter(signed).collect();
        assert!(!issuers.is_empty(), "{ca}: nobody signed {one:?}");
        let inside = |by: &&Certificate| one.validity().clamped_to(by.validity()) == one.validity();
        // The script's CAs outlive their intermediate by a second.
        let ours = !in_live(live, one);
        assert!(
            !ours || issuers.iter().any(inside),
            "{ca}: {one:?} outlives its issuer"
        );
    }
    let first_self = file.iter().position(Certificate::is_self_issued).unwrap();
    let cross = file.iter().rposition(|it| !it.is_self_issued()).unwrap();
    assert!(
        cross < first_self,
        "{ca}: something self-signed stands too early: {file:?}"
    );
}

fn spkis_offline(set: &StagedSet) -> Vec<pki::Digest> {
    let files = set.offline.iter().filter(|it| it.secret);
    files
        .map(|it| PrivateKey::from_pem(&it.content).unwrap().spki_sha256())
        .collect()
}

/// A rotation that nobody notices: old and new understand each other, both ways round.
pub fn assert_seamless(live: &Bundle, set: &StagedSet, now: UnixTime) {
    let next = in_force(live, set);
    let sound: BTreeMap<CaName, ()> = CaName::ALL
        .into_iter()
        .map(|ca| {
            let (old, new) = (certificates(live, ca), certificates(&next, ca));
            assert!(
                k3s_accepts(&old, &new, now),
                "{ca}: K3s would refuse {new:?}"
            );
            let before = leaf(live, ca, now);
            accepted(&before, &new, now).unwrap();
            accepted(&before, &roots(&new), now).unwrap();
            let after = leaf(&next, ca, now);
            accepted(&after, &old, now).unwrap();
            // A client that has the present root alone.
            let trusted = roots(&old);
            let root = verify(&old[0], &old[1..], &trusted, &Options::at(now)).unwrap();
            let root = root[0].root().unwrap().clone();
            accepted(&after, &[root], now).unwrap_or_else(|error| panic!("{ca}: {error}"));
            (ca, ())
        })
        .collect();
    assert_eq!(sound.len(), 5);
}

fn in_live(live: &Bundle, one: &Certificate) -> bool {
    let five = CaName::ALL.into_iter();
    five.filter_map(|ca| live.content(ca.field()))
        .any(|text| Certificate::all_from_pem(text).unwrap().contains(one))
}
