//! The undo of a finished rotation, killed and resumed.

use crate::change::{Change, Kind};
use crate::moments::moments;
use crate::place::Place;
use crate::rotations::cross_signed;
use crate::scene::Scene;

/// Kills the undo at `wanted` moments and resumes it.
fn survives(change: &Change<'_>, wanted: impl Fn(usize, usize) -> bool) {
    let scene = change.scene;
    let rotated = || {
        scene.put_back("base");
        scene.ends(&change.given(), 0);
    };
    rotated();
    scene.keep("rotated");
    let victim = scene.victim(&["undo", "--yes"]);
    let points = victim.crash_points();
    scene.assert_original("an undo without a kill");
    let (mut kills, mut interrupted) = (0, 0);
    for point in moments(&points, wanted) {
        match scene.place.can_copy() {
            true => scene.put_back("rotated"),
            false => rotated(),
        }
        if !victim.crash_if_reached(&point) {
            continue;
        }
        kills += 1;
        let (name, what) = (scene.place.name(), &change.args[0]);
        let at = format!(
            "{name}: undo of {what}: {} {} ({})",
            point.call, point.nth, point.seen
        );
        let resumed = scene.run(&["resume"]);
        assert!(resumed.success(), "{at}: {}", resumed.text());
        if !resumed.text().contains("Nothing is interrupted") {
            interrupted += 1;
            scene.assert_original(&at);
        } else if scene.differences().is_empty() {
            scene.assert_original(&at);
        } else {
            change.assert_finished(&at);
        }
    }
    let name = scene.place.name();
    println!(
        "{name}: undo of {:?} killed at {kills}, resumed {interrupted} times",
        change.kind
    );
    assert!(
        interrupted * 2 > kills && kills > 5,
        "{interrupted} of {kills}"
    );
}

fn of_tokens(scene: &Scene) {
    survives(&Change::new(scene, Kind::Token), |_, _| true);
}

#[test]
fn of_tokens_in_sqlite() {
    of_tokens(&Scene::new("k3s-1.36-sqlite", Place::sqlite));
}

#[test]
fn of_tokens_in_postgresql() {
    of_tokens(&Scene::new("k3s-1.36-postgres", Place::postgres));
}

/// The CAs' row is the last that is taken back: the end of the undo counts.
#[test]
fn of_cas_in_etcd() {
    let scene = Scene::new("k3s-1.36-etcd-external", Place::etcd);
    let set = cross_signed(&scene);
    let change = Change::new(&scene, Kind::Authorities(set));
    survives(&change, |number, count| {
        number == 2 || number + 4 > count || number % 29 == 0
    });
}
