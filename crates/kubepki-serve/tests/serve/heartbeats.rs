//! Signs of life in real datastores: they fill none, and nothing else is touched.

use std::path::Path;

use kubepki::datastore::{DatastoreError, Record};
use kubepki_datastore::{Access, Endpoint, Store, Tls, open};
use kubepki_serve::cluster::{Cluster, Forgetting, LEASE, Member, SERVERS};
use pki::UnixTime;
use testkit::server::{MariaDb, Postgres};
use testkit::{Etcd, Fixture, fixture};

/// A day and a half of two servers is 13,000; as many as the tests have time for.
const TIMES: i64 = 1500;

const BEGIN: i64 = 1_800_000_000;

async fn store(endpoint: &str, server: &Path) -> Box<dyn Store> {
    let endpoint = Endpoint::parse(endpoint).unwrap();
    let tls = Tls::default();
    let opened = open(&endpoint, &tls, server, Access::Write);
    opened.await.unwrap()
}

fn member(node: &str, heard: i64) -> Member {
    Member {
        version: 1,
        node: node.to_owned(),
        address: "10.9.9.1:6443".parse().unwrap(),
        sans: vec!["kubernetes".to_owned(), node.to_owned()],
        local: Vec::new(),
        heard,
        stopped: false,
        life: None,
    }
}

/// Ids and names of all rows by the database's own client, and the number of those that are ours.
fn split(rows: &str) -> (Vec<&str>, usize) {
    let (ours, others): (Vec<&str>, Vec<&str>) =
        rows.lines().partition(|it| it.contains("/kubepki/"));
    (others, ours.len())
}

/// Says that two servers live, again and again, and looks at the table.
async fn live(store: &dyn Store, table: impl Fn() -> String) {
    let before = table();
    let (others, ours) = split(&before);
    assert!(others.len() > 100 && ours == 0, "{ours}");
    let cluster = Cluster::default();
    for time in 0..TIMES {
        let heard = BEGIN + 20 * time;
        let node = if time % 2 == 0 { "one" } else { "two" };
        Cluster::greet(store, &member(node, heard)).await.unwrap();
        if time % 100 == 0 {
            let now = UnixTime::from_secs(heard);
            cluster.look_around(store, "three", now).await.unwrap();
        }
    }
    let after = table();
    let (still, ours) = split(&after);
    assert_eq!(ours, 2);
    assert!(still == others, "rows of others were changed");
    assert_eq!(cluster.addresses().len(), 2);
    values(store).await;
}

/// What is written over is read, compared and swapped as before.
async fn values(store: &dyn Store) {
    let key = format!("{SERVERS}one");
    let first = store.get(&key).await.unwrap().unwrap();
    let told: Member = serde_json::from_slice(&first.value).unwrap();
    assert_eq!(told.heard, BEGIN + 20 * (TIMES - 2));
    let newest = store.newest_revision().await.unwrap();
    assert_eq!(store.rewrite(&first, b"2").await.unwrap(), first.revision);
    assert_eq!(store.newest_revision().await.unwrap(), newest);
    let conflict = |answer: Result<i64, DatastoreError>| {
        assert!(
            matches!(answer, Err(DatastoreError::Conflict { .. })),
            "{answer:?}"
        );
    };
    conflict(store.rewrite(&first, b"3").await);
    let second = store.get(&key).await.unwrap().unwrap();
    assert_eq!(*second.value, b"2");
    let third = store.update(&key, second.revision, b"3").await.unwrap();
    assert!(third > newest);
    conflict(store.rewrite(&second, b"4").await);
    conflict(store.update(&key, second.revision, b"4").await);
    store.delete(&key, third).await.unwrap();
    let gone = Record {
        revision: third,
        ..second
    };
    conflict(store.rewrite(&gone, b"4").await);
    assert_eq!(store.get(&key).await.unwrap(), None);
    assert!(store.create(&key, b"5").await.unwrap() > third);
    assert!(!store.forget(newest).await.unwrap());
}

const ROWS: &str = "SELECT id, name, created, deleted, create_revision, prev_revision, \
                    length(value), length(old_value) FROM kine ORDER BY id;";

#[tokio::test]
async fn signs_of_life_do_not_fill_sqlite() {
    let fixture = Fixture::new("k3s-1.36-sqlite");
    let server = fixture.data_dir().join("server");
    let file = server.join("db/state.db").display().to_string();
    let store = store("sqlite", &server).await;
    live(store.as_ref(), || {
        let options = ["-batch", "-cmd", ".timeout 30000", &file];
        let run = testkit::run("sqlite3", &options, ROWS.as_bytes());
        assert!(run.success(), "{}", run.text());
        run.text()
    })
    .await;
}

#[tokio::test]
async fn signs_of_life_do_not_fill_postgres() {
    let (server, name) = (Postgres::shared(), "t_heartbeats");
    let endpoint = server.database(name);
    server.load(name, &fixture("k3s-1.36-postgres").extra("kubernetes.sql"));
    let store = store(&endpoint, Path::new("/nowhere")).await;
    live(store.as_ref(), || server.sql(name, ROWS)).await;
}

#[tokio::test]
async fn signs_of_life_do_not_fill_mariadb() {
    let (server, name) = (MariaDb::shared(), "t_heartbeats");
    let endpoint = server.database(name);
    server.load(name, &fixture("k3s-1.36-mariadb").extra("kubernetes.sql"));
    let store = store(&endpoint, Path::new("/nowhere")).await;
    live(store.as_ref(), || server.sql(name, ROWS)).await;
}

/// etcd remembers everything until somebody says that it need not: where nobody else uses it, it is
/// said here, and what is present stays.
#[tokio::test]
async fn signs_of_life_do_not_fill_etcd() {
    let etcd = Etcd::plain();
    let store = store(&etcd.url(0), Path::new("/nowhere")).await;
    store.create("/bootstrap/x", b"data").await.unwrap();
    let mut forgetting = Forgetting::default();
    let mut heard = BEGIN;
    let mut greet = async |times: i64| {
        for _ in 0..times {
            heard += 20;
            Cluster::greet(store.as_ref(), &member("one", heard))
                .await
                .unwrap();
        }
    };
    let remembered = async || store.former(SERVERS).await.unwrap().len();
    assert!(!forgetting.look(store.as_ref()).await.unwrap());
    for _ in 0..5 {
        greet(30).await;
        assert!(forgetting.look(store.as_ref()).await.unwrap());
        // What was replaced since the look before that one.
        assert!(remembered().await <= 31, "{}", remembered().await);
    }
    let kept = store.get("/bootstrap/x").await.unwrap().unwrap();
    assert_eq!(*kept.value, b"data");
    // Whoever else keeps something there may need its past: an API server that is down or does
    // not compact, another program, before, between and behind our keys.
    for key in [
        "/registry/x",
        "compact_rev_key",
        "/app",
        "/kubepki0",
        "/bootstrap",
    ] {
        etcd.control(&["put", key, "1"]);
        let before = remembered().await;
        greet(30).await;
        assert!(!forgetting.look(store.as_ref()).await.unwrap(), "{key}");
        assert_eq!(remembered().await, before + 30);
        etcd.control(&["del", key]);
    }
    assert!(forgetting.look(store.as_ref()).await.unwrap());
    assert!(remembered().await <= 31);
}

/// A server is seen to live though the revision of its record stands still.
#[tokio::test]
async fn a_record_that_is_written_over_is_a_sign_of_life() {
    let fixture = Fixture::new("k3s-1.36-sqlite");
    let store = store("sqlite", &fixture.data_dir().join("server")).await;
    let cluster = Cluster::default();
    let lease = i64::try_from(LEASE.as_secs()).unwrap();
    let now = UnixTime::from_secs(BEGIN);
    let look = async || {
        cluster
            .look_around(store.as_ref(), "two", now)
            .await
            .unwrap();
        cluster.addresses().len()
    };
    let late = member("one", BEGIN - 2 * lease);
    Cluster::greet(store.as_ref(), &late).await.unwrap();
    assert_eq!(look().await, 0);
    assert_eq!(look().await, 0);
    // By a clock that is as wrong as before.
    let again = member("one", BEGIN - 2 * lease + 20);
    Cluster::greet(store.as_ref(), &again).await.unwrap();
    assert_eq!(look().await, 1);
    let stopped = Member {
        stopped: true,
        ..again
    };
    Cluster::greet(store.as_ref(), &stopped).await.unwrap();
    assert_eq!(look().await, 0);
}

/// A record that stood still for a week goes, whatever its clock and ours say, and a server that comes back at that moment stays: where rows
/// are written over, a revision does not tell that somebody has.
#[tokio::test]
async fn an_old_record_goes_and_a_fresh_one_stays() {
    let fixture = Fixture::new("k3s-1.36-sqlite");
    let store = store("sqlite", &fixture.data_dir().join("server")).await;
    let key = format!("{SERVERS}one");
    let week = UnixTime::from_secs(BEGIN + 8 * pki::DAY);
    let fresh = member("one", week.as_secs());
    let greet = async |member: &Member| Cluster::greet(store.as_ref(), member).await.unwrap();
    let patient = Cluster::default();
    let short = Cluster::keeping(std::time::Duration::ZERO);
    let look_as = async |cluster: &Cluster| {
        cluster
            .look_around(store.as_ref(), "two", week)
            .await
            .unwrap();
        store.get(&key).await.unwrap()
    };
    let look = async || look_as(&Cluster::default()).await;
    greet(&member("one", BEGIN)).await;
    // By a clock that is days ahead it is old; before our eyes it is not.
    for _ in 0..3 {
        assert!(look_as(&patient).await.is_some());
    }
    assert!(look_as(&short).await.is_some());
    assert!(!patient.sans().is_empty() && !short.sans().is_empty());
    assert_eq!(look_as(&short).await, None);
    assert!(short.sans().is_empty());
    // Renewed after it was listed: what was seen is no longer there to be marked.
    greet(&member("one", BEGIN)).await;
    let seen = store.get(&key).await.unwrap().unwrap();
    greet(&fresh).await;
    store.rewrite(&seen, b"gone").await.unwrap_err();
    assert!(look().await.is_some());
    // Renewed between the mark and the deletion: the revision is another.
    let seen = store.get(&key).await.unwrap().unwrap();
    let marked = store.rewrite(&seen, b"gone").await.unwrap();
    greet(&fresh).await;
    store.delete(&key, marked).await.unwrap_err();
    assert!(look().await.is_some());
    // Whoever marked it was killed.
    let seen = store.get(&key).await.unwrap().unwrap();
    store.rewrite(&seen, b"gone").await.unwrap();
    assert_eq!(look().await, None);
}

/// What another program left where servers' records lie is named once, and in nobody's way.
#[tokio::test]
async fn what_is_no_record_of_a_server_is_named_and_passed_over() {
    let fixture = Fixture::new("k3s-1.36-sqlite");
    let store = store("sqlite", &fixture.data_dir().join("server")).await;
    let now = UnixTime::from_secs(BEGIN);
    Cluster::greet(store.as_ref(), &member("one", BEGIN))
        .await
        .unwrap();
    let odd = [
        ("odd", "{"),
        ("old", r#"{"version":1,"node":"x"}"#),
        ("text", "gone?"),
    ];
    for (name, value) in odd {
        let key = format!("{SERVERS}{name}");
        store.create(&key, value.as_bytes()).await.unwrap();
    }
    let cluster = Cluster::default();
    let look = async || {
        cluster
            .look_around(store.as_ref(), "two", now)
            .await
            .unwrap()
    };
    let named = look().await;
    let keys: Vec<&str> = named.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, odd.map(|(name, _)| format!("{SERVERS}{name}")));
    assert!(named[1].1.contains("missing field"), "{named:?}");
    assert_eq!(cluster.addresses().len(), 1);
    assert_eq!(look().await, []);
    // One that goes and comes back is told of again; none is taken away.
    let key = format!("{SERVERS}odd");
    let record = store.get(&key).await.unwrap().unwrap();
    store.delete(&key, record.revision).await.unwrap();
    assert_eq!(look().await, []);
    store.create(&key, b"[").await.unwrap();
    assert_eq!(look().await.len(), 1);
    assert_eq!(store.list(SERVERS).await.unwrap().len(), 4);
}

/// All others live, and are days away from this machine's clock: that is wrong, not theirs.
#[tokio::test]
async fn a_clock_that_is_days_away_from_all_others_is_told_of() {
    let fixture = Fixture::new("k3s-1.36-sqlite");
    let store = store("sqlite", &fixture.data_dir().join("server")).await;
    let cluster = Cluster::default();
    let ahead = UnixTime::from_secs(BEGIN + 9 * pki::DAY);
    let beat = async |node: &str, heard: i64| {
        let member = member(node, heard);
        Cluster::greet(store.as_ref(), &member).await.unwrap();
        let looked = cluster.look_around(store.as_ref(), "three", ahead);
        looked.await.unwrap();
        cluster.clock_problem(ahead)
    };
    // Old records alone tell nothing: their servers may be off.
    assert_eq!(beat("one", BEGIN).await, None);
    let why = beat("one", BEGIN + 20).await.unwrap();
    assert!(why.contains("ahead of") && why.contains("one's"), "{why}");
    assert_eq!(cluster.addresses().len(), 1);
    // One of two is wrong: not known which.
    assert!(beat("two", ahead.as_secs() - 20).await.is_some());
    assert_eq!(beat("two", ahead.as_secs()).await, None);
}

/// Two processes of one name write over each other's sign of life, and both notice.
#[tokio::test]
async fn another_process_with_this_name_is_noticed() {
    let fixture = Fixture::new("k3s-1.36-sqlite");
    let store = store("sqlite", &fixture.data_dir().join("server")).await;
    let all = ["a", "b"].map(|instance| {
        let cluster = Cluster::default();
        cluster.lives_as(instance);
        (cluster, instance)
    });
    let mut heard = BEGIN;
    let mut beat = async |instance: &str, stopped: bool| {
        heard += 1;
        let own = Member {
            life: Some(instance.to_owned()),
            stopped,
            ..member("one", heard)
        };
        Cluster::greet(store.as_ref(), &own).await.unwrap();
        for (cluster, _) in &all {
            let now = UnixTime::from_secs(heard);
            let looked = cluster.look_around(store.as_ref(), "one", now);
            looked.await.unwrap();
        }
        [all[0].0.twin().is_some(), all[1].0.twin().is_some()]
    };
    // What lies there from before, and what a former process says at its end, is no other.
    assert_eq!(beat("b", false).await, [false, false]);
    assert_eq!(beat("b", true).await, [false, false]);
    assert_eq!(beat("a", false).await, [false, true]);
    assert_eq!(beat("b", true).await, [false, true]);
    assert_eq!(beat("b", false).await, [true, true]);
}
