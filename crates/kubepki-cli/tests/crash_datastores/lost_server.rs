//! The database server is killed while a rotation runs, at a moment that strace holds still; it
//! comes back, and the rotation is resumed or undone.

use testkit::{CrashPoint, Victim};

use crate::change::{Change, Kind};
use crate::moments::{Left, moments};
use crate::place::Place;
use crate::rotations::cross_signed;
use crate::scene::{KUBEPKI, Scene};

/// Kills the server at each moment of the steps that write to it.
fn survives(change: &Change<'_>) {
    let scene = change.scene;
    let chosen = moments(&change.points, |number, _| {
        change.rows.iter().any(|step| number == 2 * step)
    });
    let sends = |point: &&CrashPoint| {
        let asks = point.call == "fdatasync" || point.call.starts_with("send");
        asks || point.call == "writev"
    };
    let chosen: Vec<&CrashPoint> = chosen.iter().filter(sends).collect();
    let (mut stopped, mut over) = (0, 0);
    for (number, point) in chosen.into_iter().enumerate() {
        scene.put_back("base");
        let victim = Victim::new(KUBEPKI, scene.args(&change.given()));
        let Some(output) = victim.stop_at(point, || scene.place.kill()) else {
            continue;
        };
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let at = format!(
            "{}: {} {}: {text}",
            scene.place.name(),
            point.call,
            point.nth
        );
        match output.status.code() {
            // What it had sent was done, and nothing else was to be.
            Some(0) => over += 1,
            Some(6) => {
                stopped += 1;
                assert!(text.contains("kubepki resume"), "{at}");
                let resumed = scene.run(&["resume"]);
                assert!(!resumed.success(), "nobody is there: {at}");
                let undone = scene.run(&["undo", "--yes"]);
                assert!(!undone.success(), "nobody is there: {at}");
            }
            // HTTP/2 sends a few times more or less: it died before the plan had begun.
            Some(1 | 5) => {
                scene.place.restart();
                assert_eq!(Left::of(scene, &[]), Left::Unbegun, "{at}");
                continue;
            }
            code => panic!("{code:?}: {at}"),
        }
        scene.place.restart();
        let left = Left::of(scene, &[]);
        assert_ne!(left, Left::Unbegun, "{at}");
        match number % 2 {
            0 => change.resume(left, false, &at),
            _ => change.undo(left, false, &at),
        }
    }
    let name = scene.place.name();
    println!(
        "{name}: killed under {:?}: {stopped} stopped, {over} got over it",
        change.kind
    );
    assert!(stopped > 1, "{stopped}");
}

fn survive(scene: &Scene) {
    survives(&Change::new(scene, Kind::Token));
    let set = cross_signed(scene);
    survives(&Change::new(scene, Kind::Authorities(set)));
}

#[test]
fn postgresql_dies_and_comes_back() {
    survive(&Scene::new("k3s-1.36-postgres", Place::postgres));
}

#[test]
fn mariadb_dies_and_comes_back() {
    survive(&Scene::new("k3s-1.36-mariadb", Place::maria_db));
}

#[test]
fn etcd_dies_and_comes_back() {
    survive(&Scene::new("k3s-1.36-etcd-external", Place::etcd));
}
