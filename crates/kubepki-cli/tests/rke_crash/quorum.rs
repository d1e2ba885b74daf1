//! A member of etcd is killed while its neighbour is about to be restarted.

use std::process::Output;
use std::time::Duration;

use kubepki::plan::{Action, Plan, PlanId, Step};
use testkit::rke::Spec;
use testkit::{CrashPoint, Victim};

use crate::kept::Before;
use crate::operator::{Journals, KUBEPKI, arguments};
use crate::scene::{Scene, wait};

/// A plan to rotate etcd's certificates, saved.
fn planned(scene: &Scene) -> Plan {
    let said = scene.ok(&["plan", "--service", "etcd"]).text();
    let id = said.split("kubepki apply ").nth(1);
    let id = id.and_then(|it| it.split_whitespace().next());
    let id = id.unwrap_or_else(|| panic!("{said}"));
    Journals::now(scene).plan(&PlanId(id.to_owned()))
}

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

/// How many lines a journal has before that of step `number`.
fn lines_before(plan: &Plan, number: u32) -> usize {
    let lines = |step: &Step| match &step.action {
        Action::Deploy { sets } => 2 + sets.len(),
        Action::RestartContainers { restarts } => 2 + 2 * restarts.len(),
        _ => 2,
    };
    let earlier = plan.steps.iter().filter(|it| it.number < number);
    1 + earlier.map(lines).sum::<usize>()
}

/// Carries out a rotation that is frozen right before the `nth` member is restarted: another
/// member is killed, and only then it goes on. The other one is there again some seconds later if
/// it `comes_back`; the `nth` must not have been restarted before.
fn bereaved(scene: &Scene, nth: usize, comes_back: bool) -> Output {
    let plan = planned(scene);
    let members = members(scene, &plan);
    let (step, next) = &members[nth];
    let victim = &members[(nth + 1) % members.len()].1;
    let at = format!("{victim} was killed before {next} is restarted");
    let [next, victim] = [next, victim].map(|it| scene.cluster.host(it).docker());
    let point = CrashPoint {
        call: "write".to_owned(),
        nth: lines_before(&plan, *step),
        seen: "the line before".to_owned(),
    };
    let timeout = if comes_back { "120" } else { "20" };
    let args = ["apply", &plan.id.0, "--yes", "--restart-timeout", timeout];
    let journal = format!("journal/{}.jsonl", plan.id);
    let program =
        Victim::new(KUBEPKI, arguments(scene, &args)).at_files([scene.state_dir().join(journal)]);
    let before = next.started("etcd");
    let mut meantime = None;
    let output = program.stop_at(&point, || {
        // By Docker, so that it stays down.
        victim.kill("etcd", "KILL");
        let (next, victim) = (next.clone(), victim.clone());
        meantime = Some(std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(3));
            let still = next.started("etcd");
            if comes_back {
                victim.start("etcd");
            }
            (still, victim.started("etcd").unwrap())
        }));
    });
    let output = output.unwrap_or_else(|| panic!("{at}: it was never frozen"));
    let (still, back) = meantime.unwrap().join().unwrap();
    assert_eq!(still, before, "{at}: restarted without a quorum");
    // By Docker's clock, in UTC with nanoseconds: sorts as text.
    let anew = next.started("etcd").unwrap();
    assert_eq!(anew.at > back.at, comes_back, "{at}: {anew:?}, {back:?}");
    output
}

#[test]
fn is_never_lost() {
    let scene = Scene::start(&Spec::three());
    let writer = scene.cluster.writer(&scene.node_pair());
    wait("writes", || (writer.acknowledged() > 5).then_some(()));
    // It waits until the member is back.
    for nth in 0..3 {
        let output = bereaved(&scene, nth, true);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        scene.assert_whole();
    }
    // It gives up when the member does not come back, and has stopped nothing.
    let before = Before::now(&scene);
    let output = bereaved(&scene, 1, false);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains("nothing was stopped"), "{said}");
    before.assert_kept(&scene, "without a quorum");
    for host in scene.cluster.hosts() {
        if !host.docker().started("etcd").is_some_and(|it| it.running) {
            host.docker().start("etcd");
        }
    }
    scene.cluster.wait_healthy();
    scene.ok(&["resume"]);
    scene.assert_whole();
    let writes = writer.finish();
    assert!(writes.lost.is_empty(), "{writes:?}");
    assert!(writes.acknowledged > 20, "{writes:?}");
}
