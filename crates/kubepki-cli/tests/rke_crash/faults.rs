//! What the program talks to is killed, at steps of every kind.

use std::collections::BTreeSet;
use std::time::Instant;

use kubepki::plan::{Action, Target};
use testkit::Run;
use testkit::rke::{Host, Spec, USER};

use crate::kept::{Before, Pattern, settled};
use crate::operator::{Journals, Kinds, Line, Running};
use crate::scene::{Scene, wait};

/// Proofs are not waited for longer than this, in seconds.
const TIMEOUT: [&str; 2] = ["--restart-timeout", "15"];

#[derive(Clone, Copy, Debug)]
enum Fault {
    Sshd,
    Dockerd,
    Power,
}

impl Fault {
    fn strike(self, host: &Host) {
        match self {
            Self::Sshd => host.kill_sshd(),
            Self::Dockerd => host.kill_dockerd(),
            Self::Power => host.power_off(),
        }
    }

    fn mend(self, host: &Host) {
        match self {
            Self::Sshd => host.start_sshd(),
            Self::Dockerd => host.start_dockerd(),
            Self::Power => host.power_on(),
        }
    }
}

/// A rotation during which something fails at its steps: sshd at each, what takes longer to come
/// back at the first of each kind and some of the others.
struct Ordeal<'a> {
    scene: &'a Scene,
    before: Before,
    journals: Journals,
    fault: Fault,
    kinds: Kinds,
    /// Steps at which it is not to fail any more.
    passed: BTreeSet<u32>,
    /// Steps at which it failed.
    struck: BTreeSet<u32>,
    /// How the runs ended.
    codes: Vec<Option<i32>>,
    /// Containers that Docker left down.
    left: usize,
}

impl<'a> Ordeal<'a> {
    /// Strikes at step after step until a run comes to its end.
    fn run(&mut self, args: &[&str]) {
        let begin = [args, &TIMEOUT].concat();
        let again = [&["resume"][..], &TIMEOUT].concat();
        let mut args = &begin;
        loop {
            let run = self.attempt(args);
            self.codes.push(run.code);
            let at = format!("{:?} at {:?}: {}", self.fault, self.struck, run.text());
            match run.code {
                Some(0) => break,
                Some(6 | 7) => {}
                _ => panic!("{at}"),
            }
            assert!(self.codes.len() < 40, "{at}");
            self.before.assert_kept(self.scene, &at);
            self.clear_leftover(&run);
            args = &again;
        }
        // A host that went away at the very end is still locked.
        self.scene.ok(&["resume"]);
    }

    /// One run, struck at the next step that it is to be struck at; what is broken is mended after
    /// it.
    fn attempt(&mut self, args: &[&str]) -> Run {
        let mut running = Running::start(self.scene, args);
        let mut line: Option<Line> = None;
        let each = matches!(self.fault, Fault::Sshd);
        let (passed, kinds) = (&mut self.passed, &mut self.kinds);
        let journals = &mut self.journals;
        let reached = running.wait_for(|| {
            let mut news = journals.news();
            news.retain(|it| it.intends().is_some_and(|it| passed.insert(it)));
            news.retain(|it| kinds.want(journals, it) || each);
            line = news.pop();
            line.is_some()
        });
        if !reached {
            return running.end();
        }
        let line = line.unwrap();
        let step = line.intends().unwrap();
        let host = self.victim(&line, step);
        if matches!(self.fault, Fault::Dockerd) && self.struck.len().is_multiple_of(2) {
            self.await_restart(&mut running, &line, step, host);
        }
        self.fault.strike(host);
        self.struck.insert(step);
        let run = running.end();
        self.fault.mend(host);
        self.left += self.settle(host);
        run
    }

    /// Lets Docker begin a restart: what it was just stopping or starting when it is killed, it
    /// may not start again.
    fn await_restart(&self, running: &mut Running, line: &Line, step: u32, host: &Host) {
        let plan = self.journals.plan(&line.plan);
        let restarts = plan.steps.iter().any(|it| match &it.action {
            Action::RestartContainers { restarts } if it.number == step => {
                let address = host.address().to_string();
                restarts.iter().any(|it| it.host == address)
            }
            _ => false,
        });
        if restarts {
            running.wait_for(|| stopped(host) > 0);
        }
    }

    /// Waits until all is healthy again, unless Docker has left containers of the host down, which
    /// it was just restarting: to start those is for `resume`. Answers how many they are.
    fn settle(&self, host: &Host) -> usize {
        wait("health, or containers that stay down", || {
            let down = match self.fault {
                Fault::Dockerd => stopped(host),
                Fault::Sshd | Fault::Power => 0,
            };
            let well = down > 0 || self.scene.cluster.unhealthy().is_empty();
            well.then_some(down)
        })
    }

    /// Does what the run said, if Docker does not get past what it was killed with.
    fn clear_leftover(&self, run: &Run) {
        let text = run.text();
        let Some((_, rest)) = text.split_once("as root on the host run `") else {
            return;
        };
        let (command, _) = rest.split_once('`').unwrap();
        let hosts = self.scene.cluster.hosts().iter();
        let cleared = hosts.filter(|it| it.run("sh", &["-c", command]).success());
        // Some remains go by themselves, a few seconds after they were in the way.
        assert!(cleared.count() < 2, "{text}");
    }

    /// One of the hosts that the step is for, or else the next step that is for hosts.
    fn victim(&self, line: &Line, step: u32) -> &'a Host {
        let plan = self.journals.plan(&line.plan);
        let steps = plan.steps.iter().filter(|it| it.number >= step);
        let mut named = steps.filter_map(|it| match &it.target {
            Target::Hosts { hosts } => Some(hosts),
            _ => None,
        });
        let named = named.next();
        let is_named = |it: &&Host| {
            let address = it.address().to_string();
            named.is_none_or(|named| named.contains(&address))
        };
        let hosts = self.scene.cluster.hosts().iter();
        let mut hosts: Vec<&'a Host> = hosts.filter(is_named).collect();
        hosts.swap_remove(self.struck.len() % hosts.len())
    }
}

/// How many of RKE's containers do not run.
fn stopped(host: &Host) -> usize {
    let docker = host.docker();
    let mut names = docker.names().unwrap();
    names.retain(|it| it != "service-sidekick" && it != "kubepki");
    let runs = |name: &String| docker.started(name).is_some_and(|it| it.running);
    names.into_iter().filter(|it| !runs(it)).count()
}

fn strike(scene: &Scene, fault: Fault, args: &[&str], pattern: &Pattern) {
    let start = Instant::now();
    let mut ordeal = Ordeal {
        scene,
        before: Before::now(scene),
        journals: Journals::now(scene),
        fault,
        kinds: Kinds::default(),
        passed: BTreeSet::new(),
        struck: BTreeSet::new(),
        codes: Vec::new(),
        left: 0,
    };
    ordeal.run(args);
    let at = format!("{fault:?} killed at steps of every kind");
    ordeal.before.assert_changed(scene, pattern, &at);
    let failed = ordeal.codes.iter().filter(|it| **it == Some(6)).count();
    println!(
        "{}: {fault:?} killed at {} of {} steps of {} kinds, {failed} runs failed, {} containers \
         were left down, in {:?}",
        args[0],
        ordeal.struck.len(),
        ordeal.passed.len(),
        ordeal.kinds.count(),
        ordeal.left,
        start.elapsed()
    );
    assert!(failed > 3, "{:?}", ordeal.codes);
}

/// Files go through Docker, for the user is not root.
#[test]
fn of_hosts() {
    let scene = settled(&Spec {
        user: USER.to_owned(),
        ..Spec::three()
    });
    let rotate = ["rotate", "--yes"];
    let before = Before::now(&scene);
    scene.ok(&rotate);
    let pattern = before.pattern(&scene);
    undone_when_back(&scene);
    for fault in [Fault::Sshd, Fault::Dockerd, Fault::Power] {
        strike(&scene, fault, &rotate, &pattern);
    }
}

/// What a failing host stopped can be taken back too once it is there again, and not before.
fn undone_when_back(scene: &Scene) {
    let before = Before::now(scene);
    let mut journals = Journals::now(scene);
    let mut running = Running::start(scene, &["rotate", "--yes", TIMEOUT[0], TIMEOUT[1]]);
    let reached = running.wait_for(|| journals.news().iter().any(|it| it.intends() == Some(4)));
    assert!(reached, "{}", running.said());
    let host = scene.cluster.host("cp2");
    host.power_off();
    assert_eq!(running.end().code, Some(6));
    for command in [&["resume"][..], &["undo", "--yes"]] {
        let refused = scene.run(&[command, &TIMEOUT].concat());
        let said = refused.text();
        assert!(matches!(refused.code, Some(1 | 6)), "{said}");
        assert!(said.contains(&host.address().to_string()), "{said}");
        before.assert_kept(scene, &said);
    }
    host.power_on();
    wait("the cluster", || {
        scene.cluster.unhealthy().is_empty().then_some(())
    });
    scene.ok(&["undo", "--yes"]);
    before.assert_back(scene, "undone once the host is back");
}
