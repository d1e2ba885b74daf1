//! The recorded data in real servers: PostgreSQL, MariaDB, etcd, with and without TLS.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use kubepki::bootstrap::{Bundle, Field, KEY_PREFIX, locate};
use kubepki_datastore::{Access, Endpoint, Tls};
use testkit::server::{Etcd, MariaDb, Postgres};

use crate::lab::{Lab, TOKEN, assert_extracted, block_on, candidates, files};

/// The data behind an endpoint.
fn bundle(endpoint: &str) -> Bundle {
    block_on(async {
        let endpoint = Endpoint::parse(endpoint).unwrap();
        let (tls, nowhere) = (Tls::default(), Path::new("/nowhere"));
        let store = kubepki_datastore::open(&endpoint, &tls, nowhere, Access::Read).await;
        let records = store.unwrap().list(KEY_PREFIX).await.unwrap();
        locate(&records, &candidates(TOKEN)).unwrap().bundle
    })
}

/// What the data equal: `server/`, and for fixtures that were not restarted after `rotate-ca` the
/// staged set.
fn assert_recorded(lab: &Lab, to: &Path, rotated: bool) {
    for (path, bytes) in files(to) {
        let field = Field::ALL.into_iter().find(|field| field.path() == path);
        let from = match rotated && field.unwrap().is_rotatable() {
            true => lab.server().join("rotate-ca"),
            false => lab.server(),
        };
        assert_eq!(
            bytes,
            fs::read(from.join(&path)).unwrap(),
            "{}",
            path.display()
        );
    }
}

/// Shows, verifies, compares and extracts what lies behind an endpoint.
fn read_all(lab: &Lab, endpoint: &str, rotated: bool) {
    let at = ["--datastore-endpoint", endpoint];
    let with = |args: &[&'static str]| [args, &at].concat();
    let before = lab.tree();
    let shown = lab.ends(&with(&["bootstrap", "show"]), 0).text();
    assert!(shown.contains("ServiceKey") && !shown.contains(testkit::server::PASSWORD));
    // The disk is older than the staged set, and newer than nothing.
    let differs = if rotated { 3 } else { 0 };
    lab.ends(&with(&["bootstrap", "diff"]), differs);
    lab.ends(&with(&["bootstrap", "verify"]), differs);
    let out = lab.scratch("out");
    let extract = [
        "bootstrap",
        "extract",
        "--yes",
        "--to",
        out.to_str().unwrap(),
    ];
    lab.ends(&[&extract[..], &at].concat(), 0);
    assert_recorded(lab, &out, rotated);
    let data = bundle(endpoint);
    assert_eq!(files(&out).len(), data.files.len());
    if !rotated {
        assert_extracted(&out, &lab.server(), &data);
    }
    fs::remove_dir_all(&out).unwrap();
    fs::remove_dir_all(lab.scratch("out.kubepki")).unwrap();
    lab.assert_untouched(&before);
}

/// Changes the disk, restores it, and takes that back.
fn write_all(lab: &Lab, endpoint: &str) {
    let at = ["--datastore-endpoint", endpoint];
    let with = |args: &[&'static str]| [args, &at, &["--still-for", "1"]].concat();
    let was = bundle(endpoint);
    let path = lab.server().join("tls/service.key");
    let mut bytes = fs::read(&path).unwrap();
    bytes.push(b'\n');
    fs::write(&path, &bytes).unwrap();
    lab.ends(&with(&["bootstrap", "restore", "--yes"]), 0);
    let now = bundle(endpoint);
    assert_eq!(now.content(Field::ServiceKey), Some(&bytes[..]));
    lab.ends(&with(&["undo", "--yes"]), 0);
    let back = bundle(endpoint);
    for field in Field::ALL {
        assert_eq!(back.content(field), was.content(field), "{field}");
    }
}

#[test]
fn postgres() {
    let lab = Lab::new("k3s-1.36-postgres");
    let server = Postgres::shared();
    let endpoint = server.database("bootstrap");
    server.load("bootstrap", &lab.fixture.extra("kubernetes.sql"));
    read_all(&lab, &endpoint, true);
    write_all(&lab, &endpoint);
}

#[test]
fn mariadb() {
    let lab = Lab::new("k3s-1.36-mariadb");
    let server = MariaDb::shared();
    let endpoint = server.database("bootstrap");
    server.load("bootstrap", &lab.fixture.extra("kubernetes.sql"));
    read_all(&lab, &endpoint, true);
    write_all(&lab, &endpoint);
}

#[test]
fn etcd() {
    let lab = Lab::new("k3s-1.36-etcd-external");
    let snapshot = lab.fixture.extra("etcd-snapshot.db");
    let server = Etcd::restore(&snapshot);
    server.revoke_leases();
    let endpoint = server.url(0);
    read_all(&lab, &endpoint, false);
    write_all(&lab, &endpoint);
}

#[test]
fn etcds_snapshot() {
    let lab = Lab::new("k3s-1.36-etcd-external");
    let snapshot = lab.fixture.extra("etcd-snapshot.db");
    let at = ["--snapshot", snapshot.to_str().unwrap()];
    let with = |args: &[&'static str]| [args, &at].concat();
    lab.ends(&with(&["bootstrap", "show"]), 0);
    lab.ends(&with(&["bootstrap", "diff"]), 0);
    lab.ends(&with(&["bootstrap", "verify"]), 0);
    let out = lab.scratch("out");
    let extract = [
        "bootstrap",
        "extract",
        "--yes",
        "--to",
        out.to_str().unwrap(),
    ];
    lab.ends(&[&extract[..], &at].concat(), 0);
    assert_recorded(&lab, &out, false);
    assert_eq!(files(&out).len(), 13);
}

#[test]
fn a_moving_revision_keeps_writers_off() {
    let lab = Lab::new("k3s-1.36-mariadb");
    let server = MariaDb::shared();
    let endpoint = server.database("alive");
    server.load("alive", &lab.fixture.extra("kubernetes.sql"));
    let path = lab.server().join("tls/service.key");
    let mut bytes = fs::read(&path).unwrap();
    bytes.push(b'\n');
    fs::write(&path, &bytes).unwrap();
    let before = bundle(&endpoint);
    let stop = &AtomicBool::new(false);
    let run = std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let row = format!(
                    "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, \
                     lease, value) VALUES ('/registry/lease{round}', 1, 0, 0, 0, 0, 'x')"
                );
                server.sql("alive", &row);
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        });
        let args = [
            "bootstrap",
            "restore",
            "--yes",
            "--datastore-endpoint",
            &endpoint,
        ];
        let run = lab.ends(&args, 5);
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        run
    });
    assert!(
        run.text().contains("newest revision went from"),
        "{}",
        run.text()
    );
    assert_eq!(bundle(&endpoint), before);
}

/// Its clock is wrong, and its record is written over in its row: no revision moves, and by its time
/// it is dead.
#[test]
fn a_serving_node_is_seen_by_what_it_says() {
    let lab = Lab::new("k3s-1.36-postgres");
    let server = Postgres::shared();
    let endpoint = server.database("says");
    server.load("says", &lab.fixture.extra("kubernetes.sql"));
    let path = lab.server().join("tls/service.key");
    let mut bytes = fs::read(&path).unwrap();
    bytes.push(b'\n');
    fs::write(&path, &bytes).unwrap();
    let before = bundle(&endpoint);
    let says = |heard: u32| {
        format!(
            r#"convert_to('{{"version":1,"node":"one","address":"10.9.9.1:6443","sans":[],"heard":{heard},"stopped":false}}', 'UTF8')"#
        )
    };
    let row = format!(
        "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value) \
         VALUES ('/kubepki/servers/one', 1, 0, 0, 0, 0, {})",
        says(1)
    );
    server.sql("says", &row);
    let stop = &AtomicBool::new(false);
    let run = std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let mut heard = 1;
            while !stop.load(Ordering::Relaxed) {
                heard += 20;
                let set = format!(
                    "UPDATE kine SET value = {} WHERE name = '/kubepki/servers/one'",
                    says(heard)
                );
                server.sql("says", &set);
                std::thread::sleep(std::time::Duration::from_millis(500));
            }
        });
        let restore = ["bootstrap", "restore", "--yes", "--datastore-endpoint"];
        let run = lab.ends(&[&restore[..], &[&endpoint]].concat(), 5);
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        run
    });
    assert!(run.text().contains("said that it lives"), "{}", run.text());
    assert_eq!(bundle(&endpoint), before);
}

#[test]
fn a_server_with_tls_is_trusted_by_its_ca_file_only() {
    let lab = Lab::new("k3s-1.36-postgres");
    let server = Postgres::start(true);
    server.load("kubernetes", &lab.fixture.extra("kubernetes.sql"));
    let endpoint = server.endpoint("kubernetes");
    let at = ["bootstrap", "show", "--datastore-endpoint", &endpoint];
    let (ca, other) = (server.certificates().certificate("ca"), lab.server());
    let trusted = [&at[..], &["--datastore-cafile", ca.to_str().unwrap()]].concat();
    lab.ends(&trusted, 0);
    let other = other.join("tls/server-ca.crt");
    let strange = [&at[..], &["--datastore-cafile", other.to_str().unwrap()]].concat();
    let run = lab.ends(&strange, 1);
    assert!(!run.text().contains(testkit::server::PASSWORD));
    // The same from K3s's own configuration, token and all.
    let config = lab.scratch("config.yaml");
    let text = format!(
        "datastore-endpoint: {endpoint}\ndatastore-cafile: {}\ntoken: {TOKEN}\n",
        ca.display()
    );
    fs::write(&config, text).unwrap();
    fs::remove_file(lab.server().join("token")).unwrap();
    fs::remove_file(lab.server().join("cred/passwd")).unwrap();
    let run = lab.ends(
        &[
            "bootstrap",
            "show",
            "--k3s-config",
            config.to_str().unwrap(),
        ],
        0,
    );
    assert!(run.text().contains("config.yaml:1"), "{}", run.text());
    assert!(run.text().contains("config.yaml:3"), "{}", run.text());
    assert!(!run.text().contains(TOKEN), "{}", run.text());
}

/// What only the log of a killed member holds is told: K3s reads the database alone.
#[test]
fn a_killed_etcd_is_behind_its_log() {
    let lab = Lab::new("k3s-1.36-etcd-external");
    let snapshot = lab.fixture.extra("etcd-snapshot.db");
    let mut server = Etcd::restore(&snapshot);
    let mut behind = kubepki_datastore::etcd::Unapplied::default();
    // Whether etcd has written its database before it is killed is chance.
    for _ in 0..60 {
        let endpoint = Endpoint::parse(&server.url(0)).unwrap();
        behind = block_on(async {
            let (tls, nowhere) = (Tls::default(), Path::new("/nowhere"));
            let store = kubepki_datastore::open(&endpoint, &tls, nowhere, Access::Write).await;
            let store = store.unwrap();
            let record = store.list(KEY_PREFIX).await.unwrap().remove(0);
            let mut revision = record.revision;
            for _ in 0..20 {
                let update = store.update(&record.key, revision, &record.value);
                revision = update.await.unwrap();
            }
            drop(store);
            server.kill(0);
            let file = kubepki_datastore::etcd::EtcdFile::open(&server.database(0)).unwrap();
            file.unapplied().await.unwrap()
        });
        if behind.of_bootstrap > 0 {
            break;
        }
        server.resume(0);
        server.await_healthy(0);
    }
    assert!(behind.of_bootstrap > 0, "etcd was always in time");
    let database = server.database(0);
    let member = database.ancestors().nth(2).unwrap().to_str().unwrap();
    let place = lab.server().join("db/etcd");
    fs::create_dir_all(&place).unwrap();
    testkit::run("cp", &["-a", member, place.to_str().unwrap()], b"");
    let words = format!(
        "{} changes lie only in etcd's log, {} of them of the bootstrap data",
        behind.changes, behind.of_bootstrap
    );
    for command in ["show", "verify"] {
        let run = lab.ends(&["bootstrap", command], 0);
        assert!(run.text().contains(&words), "{command}: {}", run.text());
    }
    let shown = lab.ends(&["bootstrap", "show", "-o", "json"], 0);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert!(shown["notes"][0].as_str().unwrap().contains(&words));
}
