//! What may be written beside a server that works, and what once it was killed.

use testkit::{Etcd, run};

use crate::lab::{KUBEPKI, Serving, assert_ends};

/// Beside a server that has the datastore's file open.
#[test]
fn beside_a_server_that_works_only_some_commands_write() {
    let folder = tempfile::tempdir().unwrap();
    let one = Serving::start(&folder.path().join("one"), ("one", "10.9.9.1"), "", &[]);
    let set = one.stage(folder.path());
    let before = std::fs::read(one.server("tls/server-ca.crt")).unwrap();
    let refused: [(&[&str], &str); 3] = [
        (
            &["rotate-ca", "--direct", "--yes", "--path", &set],
            "state.db open",
        ),
        (&["sa-key", "rotate", "--yes"], "state.db open"),
        (
            &[
                "log",
                "begin-anew",
                "--server",
                "one",
                "--by",
                "a",
                "--why",
                "b",
                "--yes",
            ],
            "held by another process",
        ),
    ];
    for (words, says) in refused {
        assert_ends(&one.kubepki(words), 5, says);
    }
    let kept = std::fs::read(one.server("tls/server-ca.crt")).unwrap();
    assert!(kept == before);
    // What the server reads anew with each request, what is this node's alone, and what only reads.
    let token = ["token", "create", "--role", "agent", "--ttl", "1h"];
    for words in [
        &token[..],
        &["token", "list"],
        &["reconcile", "--yes"],
        &["node", "forget", "nobody"],
        &["rotate", "--yes"],
        &["renew", "--yes"],
        &["log", "verify"],
        &["history"],
    ] {
        assert_ends(&one.kubepki(words), 0, "");
    }
    one.await_answer("/v1-k3s/readyz", |code, body| (code, body) == ("200", "ok"));
    one.stop();
}

/// A server that was killed says for a minute that it lives. On the machine that it ran on its lock
/// tells otherwise; a copy of that proves nothing.
#[test]
fn a_server_that_was_killed_here_is_not_waited_for() {
    let etcd = Etcd::plain();
    let endpoint = etcd.url(0);
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("one");
    let mut one = Serving::start(&data_dir, ("one", "10.9.9.1"), &endpoint, &[]);
    let set = one.stage(folder.path());
    let direct = |data_dir: &std::path::Path| {
        let data_dir = data_dir.display().to_string();
        let words = ["rotate-ca", "--direct", "--yes", "--path", &set];
        let place = ["--datastore-endpoint", &endpoint, "--data-dir", &data_dir];
        run(
            KUBEPKI,
            &[&words[..], &place, &["--still-for", "1"]].concat(),
            b"",
        )
    };
    // Something else where records of servers lie keeps nobody from anything.
    let odd = "/kubepki/servers/odd";
    etcd.control(&["put", odd, "{"]);
    let told = one.until("a record of a server cannot be read");
    assert!(told.contains(odd), "{told}");
    one.await_answer("/v1-k3s/readyz", |code, body| (code, body) == ("200", "ok"));
    let refused = direct(&data_dir);
    assert_ends(&refused, 5, "`kubepki serve` of node one");
    assert_ends(
        &refused,
        5,
        &format!("Note: {odd} in the datastore is no record"),
    );
    etcd.control(&["del", odd]);

    one.kill();
    let copy = folder.path().join("copy");
    let copied = ["-a", data_dir.to_str().unwrap(), copy.to_str().unwrap()];
    assert!(run("cp", &copied, b"").success());
    assert_ends(&direct(&copy), 5, "`kubepki serve` of node one");
    assert_ends(&direct(&data_dir), 0, "Done");
    let one = Serving::start(&data_dir, ("one", "10.9.9.1"), &endpoint, &[]);
    one.await_answer("/v1-k3s/readyz", |code, body| (code, body) == ("200", "ok"));
    one.stop();
}
