//! A member of etcd is killed while its neighbour is about to be restarted.

use std::time::Duration;

use kubepki::journal::Event;
use kubepki::plan::{Action, Plan};
use testkit::rke::Spec;

use crate::kept::Before;
use crate::operator::{Journals, Running};
use crate::scene::{Scene, wait};

const ROTATE: [&str; 4] = ["rotate", "--yes", "--service", "etcd"];

/// The steps that restart a member, and its node.
fn members(scene: &Scene, plan: &Plan) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for step in &plan.steps {
        let Action::RestartContainers { restarts } = &step.action else {
            continue;
        };
        for restart in restarts.iter().filter(|it| it.container == "etcd") {
            let mut nodes = scene.cluster.nodes().iter();
            let node = nodes.find(|it| it.address.to_string() == restart.host);
            found.push((step.number, node.unwrap().name.clone()));
        }
    }
    found
}

/// Starts a rotation and freezes it right before the `nth` member is restarted, kills the member
/// `victim`, and lets it go on.
fn bereaved(scene: &Scene, args: &[&str], nth: usize) -> (Running, String, String) {
    let mut journals = Journals::now(scene);
    let mut running = Running::start(scene, args);
    let mut plan = None;
    let reached = running.wait_for(|| {
        journals.news().iter().any(|line| {
            let plan = plan.get_or_insert_with(|| journals_plan(scene, line));
            let wanted = members(scene, plan)[nth].0 - 1;
            matches!(&line.event, Event::Done { step, .. } if *step == wanted)
        })
    });
    assert!(reached, "{}", running.said());
    running.signal("-STOP");
    let members = members(scene, &plan.unwrap());
    let next = members[nth].1.clone();
    let victim = members[(nth + 1) % members.len()].1.clone();
    // By Docker, so that it stays down.
    scene.cluster.host(&victim).docker().kill("etcd", "KILL");
    running.signal("-CONT");
    (running, next, victim)
}

fn journals_plan(scene: &Scene, line: &crate::operator::Line) -> Plan {
    Journals::now(scene).plan(&line.plan)
}

#[test]
fn is_never_lost() {
    let scene = Scene::start(&Spec::three());
    let writer = scene.cluster.writer(&scene.node_pair());
    wait("writes", || (writer.acknowledged() > 5).then_some(()));
    // It waits until the member is back.
    for nth in 0..3 {
        let (running, next, victim) = bereaved(&scene, &ROTATE, nth);
        let docker = scene.cluster.host(&next).docker();
        let started = docker.started("etcd");
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(docker.started("etcd"), started, "{next} was restarted");
        assert!(!running.said().contains("Done:"), "{}", running.said());
        let bereft = scene.cluster.host(&victim).docker();
        bereft.start("etcd");
        let back = bereft.started("etcd").unwrap();
        let run = running.end();
        assert!(run.success(), "{}", run.text());
        // By Docker's clock, in UTC with nanoseconds: sorts as text.
        let anew = docker.started("etcd").unwrap();
        assert!(anew.at > back.at, "{next}: {anew:?}, {victim}: {back:?}");
        scene.assert_whole();
    }
    // It gives up when the member does not come back, and has stopped nothing.
    let before = Before::now(&scene);
    let args = [&ROTATE[..], &["--restart-timeout", "3"]].concat();
    let (running, next, victim) = bereaved(&scene, &args, 1);
    let started = scene.cluster.host(&next).docker().started("etcd");
    let run = running.end();
    assert_eq!(run.code, Some(6), "{}", run.text());
    assert!(run.text().contains("nothing was stopped"), "{}", run.text());
    assert_eq!(scene.cluster.host(&next).docker().started("etcd"), started);
    before.assert_kept(&scene, "without a quorum");
    scene.cluster.host(&victim).docker().start("etcd");
    scene.cluster.wait_healthy();
    scene.ok(&["resume"]);
    scene.assert_whole();
    let writes = writer.finish();
    assert!(writes.lost.is_empty(), "{writes:?}");
    assert!(writes.acknowledged > 20, "{writes:?}");
}
