//! What is counted, noticed and told of while a server lives.

use std::sync::atomic::AtomicU64;

use kubepki::apply::Observer;
use kubepki::edge::file;
use kubepki::host::{Attributes, LocalHost};
use kubepki::log::{HeadError, Reading, entries};
use kubepki::plan::Step;
use kubepki_serve::health::{Part, State};
use testkit::server::Postgres;

use super::*;
use crate::args::LeafArgs;
use crate::command::leaves::due_for;
use crate::command::serve::told::published;
use crate::world::Node;

const DAYS: &str = "CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS";

/// The lifetime is the environment's, which a process has for all of its tests: another one runs
/// the life itself.
#[test]
fn leaves_of_ninety_days_are_renewed_as_often_as_they_must_be() {
    let own = std::env::current_exe().unwrap().display().to_string();
    let name = "command::serve::tests::kept::four_hundred_days_with_leaves_of_ninety";
    let words = ["--exact", name];
    let lifetime = format!("{DAYS}=90");
    let run = testkit::run(
        "env",
        &[&[lifetime.as_str(), &own], &words[..]].concat(),
        b"",
    );
    assert!(run.success(), "{}", run.text());
    assert!(run.text().contains("1 passed"), "{}", run.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn four_hundred_days_with_leaves_of_ninety() {
    // The test before runs it, with the environment that it is about.
    if std::env::var_os(DAYS).is_none() {
        return;
    }
    // The fixture's leaves have ended: all are new at the start.
    let time = Moved::new(SystemClock.now().plus(400 * DAY));
    let mut life = live("k3s-1.36-sqlite", &time, time.steady()).await;
    while time.by() < 400 * DAY {
        life.pass(2 * DAY).await;
        assert_eq!(life.service.health.why_not(), None);
        if time.by() % (40 * DAY) == 0 {
            for (row, leaf) in life.leaves().await {
                let left = leaf.validity().remaining(time.now());
                assert!(left > 25 * DAY, "{row}: {} days left", left / DAY);
            }
        }
    }
    let folder = life.fixture.data_dir().join("kubepki/log/s1");
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for read in entries(&folder).unwrap() {
        let Ok(Reading::Record(entry)) = read else {
            panic!("{read:?}");
        };
        // What K3s left is in the log as found.
        if !entry.issued.is_found() {
            *times.entry(entry.issued.endpoint).or_default() += 1;
        }
    }
    for name in ["client-admin", "dynamic-listener"] {
        // Every sixty days, and once at the start.
        let count = times.get(name).copied().unwrap_or_default();
        assert!((6..=8).contains(&count), "{name}: {count} in {times:?}");
    }
    life.end().await;
}

/// The value of the gauge for the certificate of `subject`.
fn left(metrics: &str, subject: &str) -> f64 {
    let line = metrics.lines().find(|line| {
        line.starts_with("k3s_certificate_expiration_seconds{") && line.contains(subject)
    });
    let value = line.unwrap_or_else(|| panic!("no {subject} in {metrics}"));
    value.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Seconds are counted when somebody asks, whatever the loops do.
#[tokio::test(flavor = "multi_thread")]
async fn the_gauge_does_not_stand_still() {
    let time = Moved::new(SystemClock.now());
    let life = live("k3s-1.36-sqlite", &time, time.steady()).await;
    let mut client = life.connect(None).await;
    let subject = "system:admin";
    let before = left(&client.ask("/metrics", "").await.1, subject);
    time.go(DAY);
    let after = left(&client.ask("/metrics", "").await.1, subject);
    assert_eq!(before - after, 86_400.0);
    life.end().await;
}

/// Two logs of one name: the one that is not the datastore's issues nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_another_log_stops_issuing() {
    let time = Moved::new(SystemClock.now());
    let life = live("k3s-1.36-sqlite", &time, time.steady()).await;
    let told = published(&life.service);
    let other = HeadError::Other {
        key: "/kubepki/log/s1".to_owned(),
        stored: 9,
        own: 7,
    };
    told(Err(&other));
    let why = life.service.health.why_not().unwrap();
    assert!(why.contains("another process writes a log"), "{why}");
    told(Ok(()));
    let malformed = HeadError::Malformed {
        key: "/kubepki/log/s1".to_owned(),
    };
    told(Err(&malformed));
    assert_eq!(life.service.health.why_not(), None);
    assert!(life.service.health.is_troubled(Part::Head));
    told(Ok(()));
    assert!(!life.service.health.is_troubled(Part::Head));
    life.end().await;
}

/// Ends as a process does that is killed.
#[derive(Debug)]
struct Dies;

impl Observer for Dies {
    fn begin(&self, _step: &Step) {}

    fn done(&self, _step: &Step) {
        panic!("killed here");
    }
}

/// Somebody's plan is noticed at the next tick, and so is its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_left_half_done_is_noticed_at_once() {
    let time = Moved::new(SystemClock.now());
    let mut life = live("k3s-1.36-sqlite", &time, time.steady()).await;
    life.keeper.tick(false).await;
    assert!(life.service.health.troubles().is_empty());
    let site = life.keeper.args.site.clone();
    let all = LeafArgs {
        keep_key: false,
        window: Some(4000),
    };
    let world = || World::real();
    let node = Node::open(&world(), &site, None, Some(&all)).await;
    let node = node.unwrap_or_else(|error| panic!("{}", error.message));
    let plan = due_for(&world(), &node, "renew").unwrap_or_else(|it| panic!("{}", it.message));
    assert!(plan.steps.len() > 2);
    let (state, killed) = (node.state.clone(), plan.clone());
    let runtime = tokio::runtime::Handle::current();
    let killed = std::thread::spawn(move || {
        let (world, locked) = (World::real(), state.lock().unwrap());
        let executor = kubepki::apply::Executor {
            observer: &Dies,
            ..world.executor(&locked)
        };
        runtime.block_on(executor.apply(&killed)).map(drop)
    });
    assert!(killed.join().is_err());
    time.go(30);
    life.keeper.tick(false).await;
    let plan_state = |life: &Life| {
        let troubles = life.service.health.troubles();
        let found = troubles.into_iter().find(|(part, _)| *part == Part::Plan);
        found.map(|(_, state)| state)
    };
    let told = plan_state(&life);
    assert!(
        matches!(&told, Some(State::Warning(why)) if why.contains("kubepki resume")),
        "{told:?}"
    );
    {
        let (world, locked) = (world(), node.state.lock().unwrap());
        world.executor(&locked).resume(&plan.id).await.unwrap();
    }
    time.go(30);
    life.keeper.tick(false).await;
    assert_eq!(plan_state(&life), None);
    life.end().await;
}

/// Neither a plan of somebody's nor one of the server's own finds another file than it knows, and the
/// first look after it makes up for that.
#[tokio::test(flavor = "multi_thread")]
async fn the_listeners_certificate_waits_for_a_plan_and_no_longer() {
    let time = Moved::new(SystemClock.now());
    let mut life = live("k3s-1.36-sqlite", &time, time.steady()).await;
    let plans = life.keeper.commons.as_ref().unwrap().plans();
    let tls = plans[0].path().parent().unwrap().join("server/tls");
    let content = || std::fs::read(tls.join("dynamic-cert.json")).unwrap();
    let trigger = tls.join("dynamic-cert-regenerate");
    assert_eq!(plans.len(), 2);
    for plans in plans {
        let before = content();
        file::replace(&trigger, b"", &Attributes::new(0o600)).unwrap();
        let locked = plans.lock().unwrap();
        life.keeper.tick(true).await;
        assert!(content() == before);
        drop(locked);
        time.go(30);
        life.keeper.tick(false).await;
        assert!(content() != before && !trigger.exists());
    }
    life.end().await;
}

/// A way to a database on which every question takes `pause` milliseconds.
async fn slow_way(port: u16, pause: Arc<AtomicU64>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
                continue;
            };
            let (mut from, mut back) = client.into_split();
            let (mut answers, mut to) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
            let pause = Arc::clone(&pause);
            tokio::spawn(async move {
                let mut chunk = vec![0; 64 << 10];
                while let Ok(read @ 1..) = from.read(&mut chunk).await {
                    tokio::time::sleep(Duration::from_millis(pause.load(Ordering::SeqCst))).await;
                    if to.write_all(&chunk[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    own
}

/// A datastore that is slow and answers: the others hear of the server, and callers that hang up cost
/// no connection.
#[tokio::test(flavor = "multi_thread")]
async fn over_a_slow_datastore_it_gives_signs_of_life() {
    let postgres = Postgres::start(false);
    let direct = postgres.database("slow");
    postgres.load(
        "slow",
        &testkit::fixture("k3s-1.36-postgres").extra("kubernetes.sql"),
    );
    let pause = Arc::new(AtomicU64::new(0));
    let port = slow_way(postgres.port(), Arc::clone(&pause)).await;
    let endpoint = direct.replace(&format!(":{}", postgres.port()), &format!(":{port}"));
    assert_ne!(endpoint, direct);
    let flag = ["--datastore-endpoint", endpoint.as_str()];
    let time = Moved::new(SystemClock.now());
    let mut life = live_on("k3s-1.36-postgres", &flag, &time, time.steady()).await;
    pause.store(600, Ordering::SeqCst);
    time.go(25);
    life.take_up.go_on().await;
    let heard = "SELECT convert_from(value, 'UTF8') FROM kine WHERE name = '/kubepki/servers/s1';";
    let heard = postgres.sql("slow", heard);
    let at = time.now().as_secs().to_string();
    assert!(heard.contains(&at), "{heard} at {at}");

    let connections = || {
        let of = "SELECT pid FROM pg_stat_activity WHERE datname = 'slow' AND pid <> pg_backend_pid() \
                  ORDER BY pid;";
        postgres.sql("slow", of)
    };
    pause.store(400, Ordering::SeqCst);
    let datastore = &life.service.datastore;
    assert_eq!(datastore.get("/kubepki/nothing").await.unwrap(), None);
    let before = connections();
    for _ in 0..5 {
        let asked = datastore.get("/kubepki/nothing");
        let hung_up = tokio::time::timeout(Duration::from_millis(20), asked).await;
        assert!(hung_up.is_err());
    }
    assert_eq!(datastore.get("/kubepki/nothing").await.unwrap(), None);
    assert_eq!(connections(), before);
    pause.store(0, Ordering::SeqCst);
    life.end().await;
}

/// Leaves that are issued anew because the CAs are others have readers too.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_up_wakes_the_keeper_and_its_hooks() {
    let folder = tempfile::tempdir().unwrap();
    let (told, script) = (folder.path().join("told"), folder.path().join("hook"));
    let text = format!("#!/bin/sh\necho \"$@\" >> {}\n", told.display());
    file::replace(&script, text.as_bytes(), &Attributes::new(0o755)).unwrap();
    let hook = script.display().to_string();
    let time = Moved::new(SystemClock.now());
    let flags = ["--reload-hook", hook.as_str()];
    let mut life = live_on("k3s-1.36-sqlite", &flags, &time, time.steady()).await;
    life.keeper.tick(false).await;
    assert!(!life.keeper.hooks.are_open());
    // As a plan does that changes leaves: it is written down before, and run once that is in force.
    let services = BTreeSet::from(["admin".to_owned()]);
    life.keeper.hooks.foretold(&services).unwrap();
    assert!(!life.keeper.woken.has_changed().unwrap());
    life.take_up.put_in_force().unwrap();
    assert!(life.keeper.woken.has_changed().unwrap());
    life.keeper.tick(false).await;
    assert!(!life.keeper.hooks.are_open());
    assert!(life.keeper.hooks.run(&LocalHost).await.is_empty());
    assert_eq!(std::fs::read_to_string(&told).unwrap(), "admin\n");
    life.end().await;
}
