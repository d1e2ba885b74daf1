//! A datastore that is away, stands still, or is held by somebody who died.

use std::time::{Duration, Instant};

use testkit::Etcd;
use testkit::server::Postgres;

use crate::{PATIENCE, Serving, Site};

/// The datastore is away at the start, then while it serves.
#[test]
fn without_its_datastore_it_serves_what_it_can() {
    let mut postgres = Postgres::start(false);
    let endpoint = postgres.database("faults");
    let site = Site::new(&["--datastore-endpoint", &endpoint]);
    let server = site.start();
    let request = site.request();
    assert_eq!(server.ask(&request, "a").0, 200);
    server.terminate();
    postgres.kill();
    let mut server = site.begin("serving without the datastore");
    assert_eq!(server.curl("/cacerts", &[]).0, 200);
    let (code, ready) = server.curl("/v1-k3s/readyz", &[]);
    assert!(
        code == 503 && ready.contains("down: datastore: "),
        "{code}: {ready}"
    );
    assert_eq!(server.ask(&request, "a").0, 503);
    postgres.restart();
    let before = server.address.clone();
    server.listens("serving");
    assert_eq!(server.address, before);
    server.until_asked(&request, 200);
    postgres.kill();
    server.until_asked(&request, 503);
    assert_eq!(server.curl("/cacerts", &[]).0, 200);
    postgres.restart();
    server.until_asked(&request, 200);
    server.terminate();
    let verified = site.kubepki(&["log", "verify", "--offline"]);
    assert_eq!(verified.code, Some(0), "{}", verified.text());
}

/// A tree that K3s made, and no server of ours ever worked in.
#[test]
fn a_tree_of_k3s_is_served_without_its_datastore() {
    let site = Site::new(&["--datastore-endpoint", "postgres://x:x@127.0.0.1:1/x"]);
    let fixture = testkit::Fixture::new("k3s-1.36-postgres");
    let (from, to) = (fixture.data_dir(), site.data_dir());
    let [from, to] = [&from, &to].map(|it| it.display().to_string());
    assert!(testkit::run("cp", &["-a", &from, &to], b"").success());
    assert!(!site.data_dir().join("kubepki").exists());
    let server = site.begin("serving without the datastore");
    assert_eq!(server.curl("/cacerts", &[]).0, 200);
    let (code, ready) = server.curl("/readyz", &[]);
    assert!(code == 503 && ready.contains("down: datastore"), "{ready}");
    assert!(!ready.contains("127.0.0.1"), "{ready}");
    server.terminate();
}

/// What takes its time by design, all at once.
#[test]
fn what_is_silent_or_held_is_waited_for() {
    std::thread::scope(|scope| {
        scope.spawn(a_datastore_that_stands_still);
        scope.spawn(a_first_server_that_died);
        scope.spawn(the_lock_of_a_k3s_server);
    });
}

/// It takes connections and says nothing: that costs a request five seconds, and after a while
/// nothing is issued. What needs no datastore is served, and once it goes on all is well.
fn a_datastore_that_stands_still() {
    let postgres = Postgres::start(false);
    let endpoint = postgres.database("still");
    let site = Site::new(&["--datastore-endpoint", &endpoint]);
    let mut server = site.start();
    let request = site.request();
    assert_eq!(server.ask(&request, "a").0, 200);
    let frozen = postgres.freeze();
    let (code, body) = server.ask(&request, "b");
    assert_eq!(code, 503, "{body}");
    for path in ["/cacerts", "/ping", "/v1-k3s/config"] {
        assert_eq!(server.curl(path, &[]).0, 200, "{path}");
    }
    server.until(r#""message":"nothing is issued until this is mended","part":"datastore""#);
    let (code, ready) = server.curl("/v1-k3s/readyz", &[]);
    assert_eq!(code, 503, "{ready}");
    assert!(
        ready.contains("down: datastore: ") && ready.contains("within 5 s"),
        "{ready}"
    );
    assert_eq!(server.ask(&request, "a").0, 503);
    drop(frozen);
    server.until(r#""message":"in order again","part":"datastore""#);
    server.until_asked(&request, 200);
    assert_eq!(server.ask(&request, "b").0, 200);
    assert_eq!(server.curl("/v1-k3s/readyz", &[]), (200, "ok".to_owned()));
    server.terminate();
}

/// Waits until that is in the data directory.
#[track_caller]
fn until(site: &Site, below: &str) {
    let (path, begin) = (site.data_dir().join(below), Instant::now());
    while !path.exists() {
        assert!(begin.elapsed() < PATIENCE, "no {below}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The first server dies while it makes the CAs: the next one makes them, and when the first
/// comes back it takes those.
fn a_first_server_that_died() {
    let etcd = Etcd::plain();
    let endpoint = etcd.url(0);
    let has = |key: &str| {
        let found = etcd.control(&["get", "--prefix", "--keys-only", key]);
        !found.stdout.trim_ascii().is_empty()
    };
    let first = (0..20).find_map(|_| {
        let site = Site::new(&["--datastore-endpoint", &endpoint]);
        let mut serving = Serving::spawn(&site);
        // Its files come before the datastore's rows: seen on the disk, it is early enough.
        until(&site, "server/tls/server-ca.crt");
        serving.signal("-KILL");
        let _ = serving.child.wait();
        let is_between = has("/kubepki/first") && !has("/bootstrap/");
        if !is_between {
            etcd.control(&["del", "--prefix", "/"]);
        }
        is_between.then_some(site)
    });
    let first = first.unwrap();
    // The token is no secret of the first server's.
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "a-token-of-the-whole-cluster\n").unwrap();
    let token = token.display().to_string();
    let join = ["--datastore-endpoint", &endpoint, "--token-file", &token];
    let next = Site::named("two", &join);
    let server = next.start();
    assert!(has("/bootstrap/") && !has("/kubepki/first"));
    let authority = |site: &Site| std::fs::read(site.data_dir().join("server/tls/server-ca.crt"));
    let first = Site {
        more: join.map(str::to_owned).to_vec(),
        ..first
    };
    let back = first.start();
    assert_eq!(authority(&first).unwrap(), authority(&next).unwrap());
    let history = first.kubepki(&["history"]).text();
    assert!(!history.contains("interrupted"), "{history}");
    back.terminate();
    server.terminate();
}

/// K3s's own lock, an empty value: as long as it is there somebody else makes the CAs.
fn the_lock_of_a_k3s_server() {
    let etcd = Etcd::plain();
    let lock = "/bootstrap/3b36d7c8c2d5";
    etcd.control(&["put", lock, ""]);
    let site = Site::new(&["--datastore-endpoint", &etcd.url(0)]);
    let refused = site.command().output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{why}");
    assert!(why.contains(lock), "{why}");
    assert!(!site.data_dir().join("server/tls/server-ca.crt").exists());
    // It ends when it is told to, while it waits.
    std::fs::remove_dir_all(site.data_dir().join("kubepki/serve")).unwrap();
    let waiting = Serving::spawn(&site);
    until(&site, "kubepki/serve");
    waiting.terminate();
    // It goes while the server waits.
    let mut server = Serving::spawn(&site);
    until(&site, "kubepki/serve");
    etcd.control(&["del", lock]);
    server.listens("serving");
    assert_eq!(server.curl("/v1-k3s/readyz", &[]).0, 200);
    server.terminate();
}
