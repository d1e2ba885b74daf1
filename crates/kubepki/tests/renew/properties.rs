//! Renewal and names for any clock, window and wish.

use std::collections::BTreeSet;

use kubepki::catalogue::{K3S, Kind, LeafSpec, Row};
use kubepki::cluster::{Policy, Wishes, listener_sans, want};
use kubepki::inventory::{Facts, Found, Inventory};
use kubepki::plan;
use pki::{
    Authority, Certificate, DAY, LeafRequest, PrivateKey, Purpose, San, Serial, UnixTime, Validity,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::LEAVES;
use crate::lab::{Lab, policy, wishes};

fn look(fixture: &str) -> Inventory {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(Lab::new(fixture).inventory(UnixTime::from_secs(0)))
}

/// When each leaf ends, by row.
fn ends(inventory: &Inventory) -> Vec<(&'static str, UnixTime)> {
    let is_leaf = |kind: &Kind| matches!(kind, Kind::Leaf(_) | Kind::Listener { .. });
    inventory
        .rows
        .iter()
        .filter(|observed| is_leaf(&observed.row.kind))
        .filter_map(|observed| {
            let leaf = observed.file.first_certificate()?;
            Some((observed.row.id, leaf.validity().not_after))
        })
        .collect()
}

#[test]
fn due_is_whatever_ends_inside_the_window() {
    let inventory = look("k3s-1.36-sqlite");
    let ends = ends(&inventory);
    assert_eq!(ends.len(), LEAVES);
    let start = ends.iter().map(|(_, end)| *end).min().unwrap();
    // Around the edges of all leaves, which lie within a few minutes, as well as far from them.
    let moment = prop_oneof![-600_i64..600, -400 * DAY..400 * DAY];
    proptest!(|(days in 0_i64..400, moment in moment)| {
        let now = start.plus(moment - days * DAY);
        let due = plan::due(&inventory, &wishes(&inventory), &policy(&inventory, days), now).unwrap();
        let selected: BTreeSet<&str> = due.selected.iter().map(|it| it.row).collect();
        let expected: BTreeSet<&str> = ends
            .iter()
            .filter(|(_, end)| end.as_secs() - now.as_secs() <= days * 86_400)
            .map(|(row, _)| *row)
            .collect();
        prop_assert_eq!(selected, expected);
    });
}

#[test]
fn a_new_leaf_lies_inside_its_ca() {
    let inventory = look("k3s-1.36-sqlite");
    let ca = inventory.authority("client-ca")[0].validity();
    let span = ca.not_after.since(ca.not_before);
    proptest!(|(at in 0..=span, days in 1_i64..4_000)| {
        let now = ca.not_before.plus(at);
        let request = plan::Request {
            id: plan::PlanId("test".to_owned()),
            title: String::new(),
            inventory: &inventory,
            wishes: &wishes(&inventory),
            policy: Policy { lifetime: days * DAY, ..policy(&inventory, 120) },
            now,
            hypothetical: false,
            entropy: &kubepki::edge::SystemEntropy,
        };
        let selected = [plan::Selection { row: "client-admin", reason: String::new() }];
        let plan = plan::plan_leaves(&request, &selected).unwrap();
        let leaf = plan.leaves.values().next().unwrap().certificate.as_ref().unwrap();
        prop_assert_eq!(leaf.not_before, now.plus(-3_600).max(ca.not_before));
        let wanted = now.plus(days * DAY - 3_600);
        prop_assert_eq!(leaf.not_after, wanted.min(ca.not_after));
        prop_assert!(!leaf.serial.starts_with('-'));
    });
}

fn name() -> impl Strategy<Value = San> {
    prop_oneof![
        "[a-c]{1,2}(\\.[a-c]{1,2})?".prop_map(San::Dns),
        Just(San::Dns("localhost".to_owned())),
        Just(San::Dns("k3s-fixture".to_owned())),
        Just(San::Dns("kubernetes.default.svc".to_owned())),
        (0_u8..4).prop_map(|last| San::from_text(&format!("192.0.2.{last}"))),
        (0_u8..4).prop_map(|last| San::from_text(&format!("2001:db8::{last}"))),
        Just(San::from_text("127.0.0.1")),
        Just(San::from_text("::1")),
    ]
}

const CARRIERS: [&str; 3] = [
    "serving-kube-apiserver",
    "etcd-server-client",
    "etcd-peer-server-client",
];

fn row(id: &str) -> (&'static Row, &'static LeafSpec) {
    let row = K3S.rows.iter().find(|row| row.id == id).unwrap();
    match &row.kind {
        Kind::Leaf(spec) => (row, spec),
        other => panic!("{other:?}"),
    }
}

fn wished(inventory: &Inventory, add: &[San], drop: &[San]) -> Wishes {
    Wishes {
        add_sans: add.to_vec(),
        drop_sans: drop.to_vec(),
        ..wishes(inventory)
    }
}

/// `before`, `add` and `drop` as sets should give `after`, in order and once each.
fn assert_resolved(
    before: &[San],
    add: &[San],
    drop: &[San],
    after: &[San],
) -> Result<(), TestCaseError> {
    let unique: BTreeSet<&San> = after.iter().collect();
    prop_assert_eq!(unique.len(), after.len(), "no name stands twice");
    let expected: BTreeSet<&San> = before
        .iter()
        .chain(add)
        .filter(|san| !drop.contains(san))
        .collect();
    prop_assert_eq!(unique, expected);
    // What was there keeps its place before what is new.
    let mut kept: Vec<&San> = Vec::new();
    for san in before.iter().filter(|san| !drop.contains(san)) {
        if !kept.contains(&san) {
            kept.push(san);
        }
    }
    let first: Vec<&San> = after.iter().take(kept.len()).collect();
    prop_assert_eq!(kept, first);
    Ok(())
}

#[test]
fn present_names_stay_unless_dropped() {
    let inventory = look("k3s-1.36-sqlite");
    proptest!(|(add in vec(name(), 0..6), drop in vec(name(), 0..6))| {
        let wishes = wished(&inventory, &add, &drop);
        for id in CARRIERS {
            let (row, spec) = row(id);
            let present = inventory.row(id).unwrap().file.first_certificate().unwrap().sans();
            let after = want(&inventory, row, spec, &wishes).unwrap().sans;
            assert_resolved(present, &add, &drop, &after)?;
        }
        let listener = inventory.listener().unwrap();
        let mut present = listener.sans.clone();
        present.extend(listener.certificates[0].sans().iter().cloned());
        let after = listener_sans(&inventory, &wishes).unwrap();
        assert_resolved(&present, &add, &drop, &after)?;
        // Fixed names are nobody's to drop.
        let (row, spec) = row("kube-scheduler");
        let fixed = want(&inventory, row, spec, &wishes).unwrap().sans;
        prop_assert_eq!(fixed.len(), 3);
    });
}

#[test]
fn the_same_wish_twice_is_the_same_as_once() {
    let lab = Lab::new("k3s-1.36-sqlite");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let inventory = runtime.block_on(lab.inventory(UnixTime::from_secs(0)));
    let observed = inventory.row("server-ca").unwrap();
    let key = std::fs::read(&observed.key.as_ref().unwrap().path).unwrap();
    let ca = inventory.authority("server-ca")[0].clone();
    let authority = Authority::new(ca, PrivateKey::from_pem(&key).unwrap()).unwrap();
    let leaf_key = PrivateKey::from_pem(testkit::KeyPool::pem(0).as_bytes()).unwrap();
    let (row, spec) = row("serving-kube-apiserver");
    let config = ProptestConfig::with_cases(64);
    proptest!(config, |(add in vec(name(), 0..6), drop in vec(name(), 0..6))| {
        let wishes = wished(&inventory, &add, &drop);
        let once = want(&inventory, row, spec, &wishes).unwrap().sans;
        let issued = issue(&authority, &leaf_key, &once);
        let again = want(&holding(&inventory, row.id, issued), row, spec, &wishes).unwrap().sans;
        // The certificate holds names before addresses; nothing else may differ.
        let (once, again): (BTreeSet<_>, BTreeSet<_>) = (once.iter().collect(), again.iter().collect());
        prop_assert_eq!(once, again);
    });
}

fn issue(authority: &Authority, key: &PrivateKey, sans: &[San]) -> Certificate {
    let ca = authority.certificate().validity();
    let request = LeafRequest {
        organizations: &[],
        common_name: "kube-apiserver",
        sans,
        purposes: &[Purpose::ServerAuth],
        spki_der: key.spki_der(),
        serial: Serial::random(pki::random).unwrap(),
        validity: Validity {
            not_before: ca.not_before,
            not_after: ca.not_before.plus(DAY),
        },
    };
    authority.issue(&request).unwrap()
}

/// The inventory with another certificate in a row's file.
fn holding(inventory: &Inventory, id: &str, certificate: Certificate) -> Inventory {
    let mut inventory = inventory.clone();
    let observed = inventory
        .rows
        .iter_mut()
        .find(|it| it.row.id == id)
        .unwrap();
    let Found::Present(present) = &mut observed.file.found else {
        panic!("{id} is not there");
    };
    present.facts = Facts::Certificates(vec![certificate]);
    inventory
}
