//! `kill -9` in the middle of taking CAs up: of the server that puts them in force for a client, and
//! of one that takes them from the datastore. The next start ends with the cluster's CAs in force,
//! whole.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pki::{Certificate, PrivateKey};
use testkit::server::Postgres;

use crate::lab::{Serving, assert_ends};

/// strace, that kills a running server at a system call to come.
struct Killer(Child);

impl Drop for Killer {
    fn drop(&mut self) {
        // It lets go of whom it has not killed.
        let _ = testkit::run("kill", &["-TERM", &self.0.id().to_string()], b"");
        let _ = self.0.wait();
    }
}

impl Killer {
    /// Kills at the `nth` call of that name that one of the threads makes from now on; strace
    /// counts for each of them apart.
    fn waits(server: &Serving, call: &str, nth: u32) -> Self {
        let inject = format!("inject={call}:signal=KILL:when={nth}");
        let trace = format!("trace={call}");
        let pid = server.pid();
        let child = Command::new("strace")
            .args(["-f", "-p", &pid, "-e", &trace, "-e", &inject])
            .args(["-o", "/dev/null"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let killer = Self(child);
        let status = format!("/proc/{pid}/status");
        for _ in 0..300 {
            let text = std::fs::read_to_string(&status).unwrap();
            if !text.contains("TracerPid:\t0\n") {
                return killer;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("strace does not trace {pid}");
    }
}

/// Each leaf, and the CA that must have issued it.
const LEAVES: [(&str, &str); 12] = [
    ("client-admin", "client-ca"),
    ("client-auth-proxy", "request-header-ca"),
    ("client-controller", "client-ca"),
    ("client-kube-apiserver", "client-ca"),
    ("client-scheduler", "client-ca"),
    ("client-supervisor", "client-ca"),
    ("kube-scheduler/kube-scheduler", "server-ca"),
    (
        "kube-controller-manager/kube-controller-manager",
        "server-ca",
    ),
    ("serving-kube-apiserver", "server-ca"),
    ("etcd/client", "etcd/server-ca"),
    ("etcd/peer-server-client", "etcd/peer-ca"),
    ("etcd/server-client", "etcd/server-ca"),
];

/// No leaf is another CA's, or has another key, than those that lie there.
#[track_caller]
fn assert_whole(server: &Serving) {
    let first = |name: &str| {
        let pem = server.read(&format!("tls/{name}.crt"));
        Certificate::all_from_pem(pem.as_bytes()).unwrap().remove(0)
    };
    for (leaf, authority) in LEAVES {
        if !server.server(&format!("tls/{leaf}.crt")).exists() {
            continue;
        }
        let (certificate, issuer) = (first(leaf), first(authority));
        assert!(
            certificate.verify_signature(issuer.spki_der()).is_ok(),
            "{leaf} is not by {authority}"
        );
        let key = server.read(&format!("tls/{leaf}.key"));
        let key = PrivateKey::from_pem(key.as_bytes()).unwrap();
        assert_eq!(key.spki_der(), certificate.spki_der(), "{leaf}");
    }
    let (_, ready) = server.ask_as("node", "/v1-k3s/readyz", &[]);
    assert_eq!(ready, "ok");
    let state = server.data_dir.join("kubepki/serve").display().to_string();
    for more in [&[][..], &["--state-dir", &state]] {
        let history = server.kubepki(&[&["history"], more].concat());
        assert!(
            !history.text().contains("interrupted"),
            "{}",
            history.text()
        );
    }
    let verified = server.kubepki(&["log", "verify", "--offline"]);
    assert_ends(&verified, 0, "whole");
}

const CA: &str = "tls/server-ca.crt";

#[track_caller]
fn assert_alike(one: &Serving, two: &Serving) {
    for below in [
        CA,
        "tls/client-ca.key",
        "tls/service.key",
        "tls/etcd/peer-ca.crt",
    ] {
        assert!(one.read(below) == two.read(below), "{below}");
    }
}

/// Waits until the server is dead, or has come through with the CAs of that file; how often a
/// thread makes a call is chance.
fn has_died(server: &mut Serving, killer: Killer, authority: &Path) -> bool {
    let user = format!("node:{}", server.password());
    for _ in 0..900 {
        let wanted = std::fs::read(authority).unwrap();
        let own = server.server(CA);
        let ask = |path: &str| server.try_ask(&own, path, &["-u", &user]);
        let is_through = ask("/cacerts").is_ok_and(|(_, body)| body.as_bytes() == wanted)
            && ask("/v1-k3s/readyz").is_ok_and(|(code, body)| code == "200" && body == "ok");
        if is_through || server.is_dead() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    // Nobody is killed afterwards; a kill that is on its way has its moment.
    drop(killer);
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(300));
        if server.is_dead() {
            return true;
        }
        let own = server.server(CA);
        if server.try_ask(&own, "/ping", &[]).is_ok() {
            return false;
        }
    }
    false
}

/// Both have the same CAs in force, whole.
fn is_settled(one: &Serving, two: &Serving) {
    two.await_answer("/cacerts", |_, body| body == one.read(CA));
    for server in [one, two] {
        server.await_answer("/v1-k3s/readyz", |code, body| (code, body) == ("200", "ok"));
    }
    assert_alike(one, two);
    for server in [one, two] {
        assert_whole(server);
    }
}

#[test]
fn a_kill_while_authorities_are_taken_up_tears_nothing() {
    let postgres = Postgres::start(false);
    let endpoint = postgres.database("killed");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let start = |name: &str, address: &str, more: &[&str]| {
        Serving::start(&at(name), (name, address), &endpoint, more)
    };
    // Where a client finds it again.
    let free = testkit::free_port().to_string();
    let port = ["--https-listen-port", free.as_str()];
    let mut one = start("one", "10.9.9.1", &port);
    let token = one.server("token").display().to_string();
    let join = ["--token-file", token.as_str()];
    let mut two = start("two", "10.9.9.2", &join);
    // While files are written, while the journal is, and between the two.
    let points = [
        ("renameat", 4),
        ("fsync", 24),
        ("fdatasync", 12),
        ("renameat", 16),
    ];
    for (number, (call, most)) in points.into_iter().enumerate() {
        let is_killed = [most, most / 4, 1].into_iter().any(|nth| {
            let own = at(&format!("set-{number}-{nth}"));
            std::fs::create_dir(&own).unwrap();
            let set = one.stage(&own);
            let rotate = ["rotate-ca", "--yes", "--path", &set];
            // The one that takes them from the datastore, or the one that puts them there.
            let is_killed = if number % 2 == 0 {
                let killer = Killer::waits(&two, call, nth);
                assert_ends(&one.kubepki(&rotate), 0, "");
                let is_killed = has_died(&mut two, killer, &one.server(CA));
                if is_killed {
                    two = start("two", "10.9.9.2", &join);
                }
                is_killed
            } else {
                let killer = Killer::waits(&one, call, nth);
                let is_rotated = one.kubepki(&rotate).success();
                let authority = one.server(CA);
                let is_killed = has_died(&mut one, killer, &authority);
                assert!(is_killed || is_rotated, "{:#?}", one.seen);
                if is_killed {
                    // It ends what it began, or takes it back.
                    one = start("one", "10.9.9.1", &port);
                }
                if !is_rotated {
                    // The client's own plan asked for something that it does not know the end of.
                    assert_ends(&one.kubepki(&["resume"]), 0, "");
                    // Else it looks again in five minutes whether that is settled.
                    one.signal("-HUP");
                }
                is_killed
            };
            is_settled(&one, &two);
            is_killed
        });
        assert!(is_killed, "{call} is never reached");
    }
    let worker = at("worker");
    let joined = two.node(&["join"], &worker, "10.1.1.1");
    assert_ends(&joined, 0, "files written");
    assert_issued_by(&worker, &one);
}

fn assert_issued_by(worker: &Path, server: &Serving) {
    let leaf = std::fs::read(worker.join("agent/client-kubelet.crt")).unwrap();
    let leaf = Certificate::all_from_pem(&leaf).unwrap().remove(0);
    let issuer = server.read("tls/client-ca.crt");
    let issuer = Certificate::all_from_pem(issuer.as_bytes())
        .unwrap()
        .remove(0);
    assert!(leaf.verify_signature(issuer.spki_der()).is_ok());
}
