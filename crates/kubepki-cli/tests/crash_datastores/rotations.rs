//! The three rotations on the four datastores.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::change::{Change, Kind};
use crate::moments::{Left, around_targets, moments};
use crate::place::Place;
use crate::scene::Scene;

/// All moments of the two that have few steps.
fn small(scene: &Scene) {
    for kind in [Kind::Token, Kind::ServiceKey] {
        let change = Change::new(scene, kind);
        let must = Left::all(change.steps);
        let left = change.survives(&must, &moments(&change.points, |_, _| true));
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

/// The rotation of the CAs, which has more than fifty steps: all moments of the write to the
/// datastore and of the first and the last steps, and of the steps between those states of
/// `each` that they can be left in.
fn authorities(scene: &Scene, set: PathBuf, each: impl Fn(Left) -> bool) {
    let change = Change::new(scene, Kind::Authorities(set));
    let steps = change.steps;
    assert!(steps > 45, "{steps}");
    let ends = [
        Left::Unbegun,
        Left::Before(1),
        Left::Intended(1),
        Left::Done(1),
        Left::Before(2),
        Left::Before(steps + 1),
        Left::Finished,
    ];
    let all = (1..=steps).flat_map(|step| [Left::Intended(step), Left::Done(step)]);
    let must: BTreeSet<Left> = ends.into_iter().chain(all.filter(|it| each(*it))).collect();
    let edge = |number: usize, count: usize| number < 4 || number + 4 > count;
    let mut chosen = moments(&change.points, edge);
    let around = around_targets(&change.points).into_iter();
    chosen.extend(
        around
            .filter(|(left, _)| each(*left))
            .map(|(_, point)| point),
    );
    let left = change.survives(&must, &chosen);
    let missed: Vec<&Left> = must.difference(&left).collect();
    assert!(missed.is_empty(), "{missed:?} on {}", scene.place.name());
}

/// Of every twelfth step that its target is untouched, of those in the middle between them that
/// nothing says that it is done; `turn` says where they begin, so that the three database servers
/// together have every fourth. These steps put files, wherever the rows are: each is tried both
/// ways with SQLite.
fn in_turn(turn: u32) -> impl Fn(Left) -> bool {
    move |left| match left {
        Left::Intended(step) => step % 12 == 4 * turn,
        Left::Done(step) => step % 12 == (4 * turn + 6) % 12,
        _ => false,
    }
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
    authorities(&scene, set, |_| true);
}

#[test]
fn cas_in_postgresql() {
    let scene = Scene::new("k3s-1.36-postgres", Place::postgres);
    let set = cross_signed(&scene);
    authorities(&scene, set, in_turn(0));
}

#[test]
fn cas_in_mariadb() {
    let scene = Scene::new("k3s-1.36-mariadb", Place::maria_db);
    let set = cross_signed(&scene);
    authorities(&scene, set, in_turn(1));
}

#[test]
fn cas_in_etcd() {
    let scene = Scene::new("k3s-1.36-etcd-external", Place::etcd);
    let set = cross_signed(&scene);
    authorities(&scene, set, in_turn(2));
}
