//! What a server issues to its own node is in the issuance log, and what becomes of it when the log
//! takes no records.

use std::collections::BTreeSet;
use std::path::Path;

use kubepki::listener::Listener;
use pki::Certificate;
use testkit::run;

use crate::lab::{Serving, assert_ends};

/// Name and serial number of every leaf that lies in a server's tree.
fn leaves(data_dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in ["tls", "tls/etcd"] {
        let folder = data_dir.join("server").join(folder);
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|it| it != "crt") {
                continue;
            }
            let all = Certificate::all_from_pem(&std::fs::read(&path).unwrap()).unwrap();
            let leaf = all.first().filter(|it| !it.is_ca());
            found.extend(leaf.map(|it| (path.display().to_string(), it.serial().to_string())));
        }
    }
    let listener = std::fs::read(data_dir.join("server/tls/dynamic-cert.json")).unwrap();
    let listener = Listener::parse(&listener).unwrap().certificates().unwrap();
    found.push(("listener".to_owned(), listener[0].serial().to_string()));
    found
}

/// The records, as JSON.
fn records(server: &Serving) -> Vec<serde_json::Value> {
    let exported = server.kubepki(&["log", "export"]);
    assert_ends(&exported, 0, "");
    let text = String::from_utf8(exported.stdout).unwrap();
    text.lines()
        .map(|it| serde_json::from_str(it).unwrap())
        .collect()
}

#[track_caller]
fn assert_recorded(server: &Serving) {
    let records = records(server);
    let serial = |it: &serde_json::Value| it["serial"].as_str().unwrap().to_owned();
    let known: BTreeSet<String> = records.iter().map(serial).collect();
    for (name, serial) in leaves(&server.data_dir) {
        assert!(
            known.contains(&serial),
            "{name} with {serial} is in no record"
        );
    }
    for record in records.iter().filter(|it| it["credential"] == "local") {
        let user = record["user"].as_str().unwrap();
        assert!(["server", "found in place"].contains(&user), "{user}");
        assert_eq!(record["node"], "one");
        assert!(record["peer"].is_null() && record["spki"].as_str().unwrap().len() == 64);
    }
}

const SHORT: &str = "CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS";
/// Leaves are due at every look.
const ALWAYS: [&str; 2] = ["--window", "400"];

/// At the first start, at every renewal, and when other CAs are in force.
#[test]
fn its_own_leaves_are_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("one");
    let who = ("one", "10.9.9.1");
    // Always due, and good for a while.
    let days = [(SHORT, "30")];
    let mut one = Serving::begin_with(&data_dir, who, "", (&ALWAYS, &days)).up();
    assert_recorded(&one);
    assert!(records(&one).iter().all(|it| it["user"] == "server"));
    let first = records(&one).len();
    assert!(first >= 14, "{first}");
    one.signal("-HUP");
    one.until("a leaf of this node was renewed");
    one.until("new connections get another certificate");
    assert_recorded(&one);
    let set = one.stage(folder.path());
    let rotated = one.kubepki(&["rotate-ca", "--yes", "--path", &set]);
    assert_ends(&rotated, 0, "has put them in force");
    assert_recorded(&one);
    assert!(records(&one).len() > first + 20);
    let shown = one.kubepki(&["log", "show", "--node", "one"]);
    assert_ends(&shown, 0, "the server itself, for client-admin");
    assert_ends(
        &one.kubepki(&["log", "export", "--format", "csv"]),
        0,
        ",server,local,,one,",
    );
    one.stop();
    let verified = run(
        crate::lab::KUBEPKI,
        &[
            "log",
            "verify",
            "--data-dir",
            &data_dir.display().to_string(),
        ],
        b"",
    );
    assert_ends(&verified, 0, "whole");
}

struct Unmount(String);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", &self.0], b"");
    }
}

/// A disk of its own for the log, which is full: a leaf that is good for weeks stays, new CAs are
/// taken up all the same, and what was used without a record is recorded later.
#[test]
fn a_full_log_keeps_leaves_and_ends_no_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("one");
    let log = data_dir.join("kubepki/log");
    std::fs::create_dir_all(&log).unwrap();
    let path = log.display().to_string();
    let mounted = run(
        "mount",
        &["-t", "tmpfs", "-o", "size=256k", "small", &path],
        b"",
    );
    if !mounted.success() {
        println!("skipped: {}", mounted.text());
        return;
    }
    let _unmount = Unmount(path.clone());
    let who = ("one", "10.9.9.1");
    let mut one = Serving::begin_with(&data_dir, who, "", (&ALWAYS, &[(SHORT, "30")])).up();
    let fill = || {
        // The page that the log has may take some records more, as the listener's; those of a
        // renewal are too many.
        let filling = format!("cat /dev/zero > {path}/filling 2>/dev/null; true");
        assert!(run("sh", &["-c", &filling], b"").success());
    };
    fill();
    let lying = || -> Vec<_> {
        let mut leaves = leaves(&data_dir);
        leaves.retain(|(name, _)| name != "listener");
        leaves
    };
    let before = lying();
    one.signal("-HUP");
    let told = one.until(r#""message":"needs a look","part":"leaves""#);
    assert!(told.contains("cannot be recorded"), "{told}");
    assert_eq!(lying(), before);
    let history = one.kubepki(&["history"]);
    assert!(
        !history.text().contains("interrupted"),
        "{}",
        history.text()
    );
    // Other CAs do not wait for the log.
    let set = one.stage(folder.path());
    let rotated = one.kubepki(&["rotate-ca", "--yes", "--path", &set]);
    assert_ends(&rotated, 0, "has put them in force");
    one.until("is used without a record");
    std::fs::remove_file(log.join("filling")).unwrap();
    one.signal("-HUP");
    one.until("leaves of this node that were not recorded are now");
    one.until("new connections get another certificate");
    assert_recorded(&one);
    one.stop();

    // Leaves that end in days do not wait either.
    let mut one = Serving::begin_with(&data_dir, who, "", (&ALWAYS, &[(SHORT, "3")])).up();
    one.signal("-HUP");
    one.until("a leaf of this node was renewed");
    one.until("new connections get another certificate");
    fill();
    let before = lying();
    one.signal("-HUP");
    one.until("is used without a record");
    one.until("new connections get another certificate");
    assert_ne!(lying(), before);
    // It dies before it could record them.
    let used = leaves(&data_dir);
    one.kill();
    std::fs::remove_file(log.join("filling")).unwrap();
    are_found(&data_dir, who, &used);
}

/// The next start finds leaves that no record is of, before it renews them again.
fn are_found(data_dir: &Path, who: (&str, &str), used: &[(String, String)]) {
    let one = Serving::begin_with(data_dir, who, "", (&ALWAYS, &[(SHORT, "30")])).up();
    assert_recorded(&one);
    let records = records(&one);
    for (name, serial) in used {
        let of = |it: &&serde_json::Value| it["serial"] == serial.as_str();
        assert_eq!(records.iter().filter(of).count(), 1, "{name}");
    }
    let is_found = |it: &&serde_json::Value| it["user"] == "found in place";
    assert!(records.iter().filter(is_found).count() > 1);
    let shown = one.kubepki(&["log", "show", "--node", "one"]);
    assert_ends(&shown, 0, "found in place, for client-admin");
    one.stop();
}
