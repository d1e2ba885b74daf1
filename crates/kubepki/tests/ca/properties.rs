//! Rotations from any starting point.

use kubepki::bootstrap::Bundle;
use kubepki::ca::{Algorithms, CaName, Change, CreateRequest, CrossRoots, Outer, Pool, create};
use pki::{Authority, AuthorityRequest, KeyAlgorithm, PrivateKey};
use proptest::prelude::*;

use crate::lab::{
    Keys, NOW, assert_seamless, assert_sound, default_cluster, from_hour_before, in_force, make,
    name, new_root, pool_of, serial, staged_at,
};

/// How a cluster began.
#[derive(Clone, Copy, Debug)]
enum Start {
    /// K3s's own five, with so many days left.
    Default(i64),
    /// K3s's script.
    Script,
    /// A company's: root, then so many CAs down to the one that signs the five.
    Company(usize, i64),
}

#[derive(Clone, Copy, Debug)]
enum Move {
    Cross { per_ca: Option<bool>, offline: bool },
    Same,
}

fn start() -> impl Strategy<Value = Start> {
    prop_oneof![
        (30..4000_i64).prop_map(Start::Default),
        Just(Start::Script),
        (1..4_usize, 100..4000_i64).prop_map(|(depth, days)| Start::Company(depth, days)),
    ]
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let cross = (proptest::option::of(any::<bool>()), any::<bool>())
        .prop_map(|(per_ca, offline)| Move::Cross { per_ca, offline });
    proptest::collection::vec(prop_oneof![3 => cross, 1 => Just(Move::Same)], 1..4)
}

fn begin(start: Start) -> (Bundle, Pool) {
    let outer = match start {
        Start::Default(days) => return (default_cluster(days), Pool::default()),
        Start::Script => Outer::New,
        Start::Company(depth, days) => {
            let mut signer = new_root("Example Root", KeyAlgorithm::P384, days);
            let mut above = Vec::new();
            for level in 0..depth {
                let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
                let request = AuthorityRequest {
                    subject: &name(&format!("Example Level {level}")),
                    spki_der: key.spki_der(),
                    subject_key_identifier: None,
                    path_len: None,
                    serial: serial(),
                    validity: from_hour_before(days - 1 - i64::try_from(level).unwrap()),
                };
                let next = signer.issue_authority(&request).unwrap();
                above.insert(0, signer.certificate().clone());
                signer = Authority::new(next, key).unwrap();
            }
            Outer::Intermediate { signer, above }
        }
    };
    let set = create(CreateRequest {
        outer,
        algorithms: Algorithms::default(),
        service_keys: None,
        make: make(&Keys, NOW),
    })
    .unwrap();
    assert_sound(&Bundle::default(), &set, NOW);
    let pool = pool_of(&set);
    (in_force(&Bundle::default(), &set), pool)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nobody_is_shut_out(start in start(), moves in moves()) {
        let (mut live, mut kept) = begin(start);
        let mut now = NOW;
        for step in moves {
            now = now.plus(60);
            let (change, offline) = match step {
                Move::Same => (Change::SameRoot, true),
                Move::Cross { per_ca, offline } => {
                    let roots = match per_ca {
                        None => CrossRoots::AsNow,
                        Some(true) => CrossRoots::PerCa,
                        Some(false) => CrossRoots::Common(Outer::New),
                    };
                    (Change::CrossSigned(roots), offline)
                }
            };
            let at_hand = if offline { std::mem::take(&mut kept) } else { Pool::default() };
            let same = matches!(change, Change::SameRoot);
            match staged_at(&live, change, at_hand, now) {
                Ok(set) => {
                    assert_sound(&live, &set, now);
                    assert_seamless(&live, &set, now);
                    prop_assert_eq!(set.hash.changes(), !same);
                    prop_assert_eq!(set.cross.len(), if same { 0 } else { CaName::ALL.len() });
                    kept = pool_of(&set);
                    live = in_force(&live, &set);
                }
                // Without the root's or intermediate's key there is nothing to sign with.
                Err(error) => {
                    prop_assert!(same, "{error}");
                    break;
                }
            }
        }
    }
}
