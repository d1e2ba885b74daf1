//! Rotations on three hosts with three members of etcd, while somebody writes.

use kubepki::rke::{Half, State};
use testkit::rke::{Spec, Writer, Writes};

use crate::pods::Pods;
use crate::scene::{Scene, wait};
use crate::watch::Lookout;

const ETCD: &[&str] = &["etcd"];
/// kube-apiserver is etcd's client with the node's pair.
const KUBELET: &[&str] = &["kubelet", "kube-apiserver"];
pub const ALL: &[&str] = &[
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];

#[test]
fn rotations_lose_nothing() {
    let scene = Scene::start(&Spec::three());
    let mut lookout = Lookout::new(&scene);
    let writer = scene.cluster.writer(&scene.node_pair());
    begun(&writer);
    let mut last = scene.snapshot();
    for (args, components) in [
        (["rotate", "--yes", "--service", "etcd"].as_slice(), ETCD),
        (&["rotate", "--yes", "--service", "kubelet"], KUBELET),
        (&["rotate", "--yes"], ALL),
    ] {
        let state = scene.state();
        last = scene.snapshot();
        scene.ok(args);
        scene.assert_restarted(&last.starts, &scene.everywhere(components));
        scene.assert_whole();
        assert!(scene.state() != state);
        lookout.learn();
    }
    let before = scene.cluster.starts();
    scene.ok(&["undo", "--yes"]);
    scene.assert_restarted(&before, &scene.everywhere(ALL));
    scene.assert_files(&last);
    scene.assert_whole();
    scene.ok(&["check"]);
    assert_none_lost(&finished(writer));
    lookout.finish();
}

#[test]
fn authorities_change_and_come_back() {
    let scene = Scene::start(&Spec::three());
    let mut lookout = Lookout::new(&scene);
    let pair = scene.node_pair();
    let writer = scene.cluster.reloading_writer(&pair);
    begun(&writer);
    let pods = Pods::start(&scene);
    let (before, first) = (scene.snapshot(), scene.state());
    scene.ok(&["rotate-ca", "--yes"]);
    scene.assert_restarted(&before.starts, &scene.everywhere(ALL));
    scene.assert_whole();
    assert_new_authorities(&first, &scene);
    pods.assert_deleted_once(&scene);
    lookout.learn();
    let after = scene.cluster.starts();
    scene.ok(&["undo", "--yes"]);
    scene.assert_restarted(&after, &scene.everywhere(ALL));
    scene.assert_files(&before);
    scene.assert_whole();
    assert_none_lost(&finished(writer));
    lookout.finish();
}

/// Other roots, alone in their files, and nothing behind the leaves.
#[track_caller]
fn assert_new_authorities(before: &State, scene: &Scene) {
    let (before, after) = (
        before.bundle(Half::Current),
        scene.state().bundle(Half::Current),
    );
    assert!(before.keys().eq(after.keys()));
    for (name, entry) in &after {
        let same = *name == "kube-service-account-token";
        assert_eq!(before[name].key_pem == entry.key_pem, same, "{name}");
        assert_eq!(entry.certificates().unwrap().len(), 1, "{name}");
    }
}

/// A little later, so that the end was survived too.
pub fn finished(writer: Writer) -> Writes {
    let so_far = writer.acknowledged();
    wait("writes", || {
        (writer.acknowledged() > so_far + 5).then_some(())
    });
    writer.finish()
}

pub fn begun(writer: &Writer) {
    wait("writes", || (writer.acknowledged() > 5).then_some(()));
}

#[track_caller]
pub fn assert_none_lost(writes: &Writes) {
    assert!(writes.lost.is_empty(), "{writes:?}");
    assert!(writes.acknowledged > 20, "{writes:?}");
    assert_eq!(writes.most_away, 1, "{writes:?}");
    let refused = writes
        .errors
        .iter()
        .find(|it| it.starts_with("certificate"));
    assert_eq!(refused, None);
}
