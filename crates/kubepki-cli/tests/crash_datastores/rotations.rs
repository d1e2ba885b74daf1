//! The three rotations on the four datastores.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::change::{Change, Kind};
use crate::moments::Left;
use crate::place::Place;
use crate::scene::Scene;

/// All moments of the two that have few steps.
fn small(scene: &Scene) {
    for kind in [Kind::Token, Kind::ServiceKey] {
        let change = Change::new(scene, kind);
        let must = Left::all(change.steps);
        let left = change.survives(&must, |_, _| true);
        let missed: Vec<Left> = must.difference(&left).copied().collect();
        assert_eq!(missed, [], "{:?} on {}", change.kind, scene.place.name());
    }
}

/// A set under a new root, cross-signed by the CAs in force.
pub fn cross_signed(scene: &Scene) -> PathBuf {
    let (set, offline) = (scene.scratch("set"), scene.scratch("offline"));
    let (out, away) = (set.to_str().unwrap(), offline.to_str().unwrap());
    let stage = ["ca", "stage", "--cross-signed", "--out", out];
    scene.ends(&[&stage[..], &["--offline", away]].concat(), 0);
    testkit::run(
        "rm",
        &["-rf".as_ref(), scene.state().path().as_os_str()],
        b"",
    );
    set
}

/// Of the rotation of the CAs, which has more than fifty steps, all moments of the write to the
/// datastore and of the first and the last steps, and of the others every so manieth group.
fn authorities(scene: &Scene, set: PathBuf, stride: usize) {
    let change = Change::new(scene, Kind::Authorities(set));
    assert!(change.steps > 45, "{}", change.steps);
    let edge = |number: usize, count: usize| number < 5 || number + 5 > count;
    let steps = change.steps;
    let must = BTreeSet::from([
        Left::Unbegun,
        Left::Before(1),
        Left::Intended(1),
        Left::Done(1),
        Left::Before(2),
        Left::Intended(2),
        Left::Done(2),
        Left::Done(steps),
        Left::Before(steps + 1),
        Left::Finished,
    ]);
    let left = change.survives(&must, |number, count| {
        edge(number, count) || number % stride == 0
    });
    let missed: Vec<&Left> = must.difference(&left).collect();
    assert!(missed.is_empty(), "{missed:?} on {}", scene.place.name());
    let least = 2 * usize::try_from(steps).unwrap() / stride;
    assert!(left.len() >= must.len() + least, "{left:?}");
}

fn sqlite(name: &str) -> Scene {
    Scene::new(name, Place::sqlite)
}

#[test]
fn tokens_and_keys_in_sqlite() {
    small(&sqlite("k3s-1.36-sqlite"));
}

#[test]
fn tokens_and_keys_in_postgresql() {
    small(&Scene::new("k3s-1.36-postgres", Place::postgres));
}

#[test]
fn tokens_and_keys_in_mariadb() {
    small(&Scene::new("k3s-1.36-mariadb", Place::maria_db));
}

#[test]
fn tokens_and_keys_in_etcd() {
    small(&Scene::new("k3s-1.36-etcd-external", Place::etcd));
}

#[test]
fn cas_under_the_same_root_in_sqlite() {
    let scene = sqlite("k3s-1.36-custom-ca");
    let set = scene.scratch("set");
    authorities(&scene, set, 9);
}

#[test]
fn cas_in_postgresql() {
    let scene = Scene::new("k3s-1.36-postgres", Place::postgres);
    let set = cross_signed(&scene);
    authorities(&scene, set, 25);
}

#[test]
fn cas_in_mariadb() {
    let scene = Scene::new("k3s-1.36-mariadb", Place::maria_db);
    let set = cross_signed(&scene);
    authorities(&scene, set, 25);
}

#[test]
fn cas_in_etcd() {
    let scene = Scene::new("k3s-1.36-etcd-external", Place::etcd);
    let set = cross_signed(&scene);
    authorities(&scene, set, 17);
}
