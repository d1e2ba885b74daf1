//! Names that one server learns are every server's: two over one etcd, two over one PostgreSQL.

use std::time::Duration;

use testkit::server::Postgres;
use testkit::{Etcd, openssl, run};

use crate::lab::{KUBEPKI, Serving, assert_ends};

/// What OpenSSL says of a handshake for `name`, under the CA of `server`.
fn handshake(server: &Serving, name: &str) -> String {
    let authority = server.server("tls/server-ca.crt").display().to_string();
    let arguments = [
        "s_client",
        "-connect",
        &server.address,
        "-CAfile",
        &authority,
        "-verify_return_error",
        "-servername",
        name,
        "-verify_hostname",
        name,
    ];
    openssl(&arguments, b"").text()
}

/// Shakes hands until the name is known: a connection waits for it, but not for long.
#[track_caller]
pub fn assert_known(server: &Serving, name: &str) {
    let mut seen = String::new();
    for _ in 0..300 {
        seen = handshake(server, name);
        if seen.contains("Verify return code: 0 (ok)") {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{name}: {seen}");
}

/// The public key that a server shows.
fn key(server: &Serving) -> String {
    let script = format!(
        "openssl s_client -connect {} </dev/null 2>/dev/null | openssl x509 -noout -pubkey",
        server.address
    );
    testkit::run("sh", &["-c", &script], b"").text()
}

fn two_learn(endpoint: &str) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let open = ["--tls-san-security=false"];
    let one = Serving::start(&at("one"), ("one", "10.9.9.1"), endpoint, &open);
    let token = one.server("token").display().to_string();
    // The filter is each server's own: what another one has learnt is the cluster's.
    let join = ["--token-file", &token, "--tls-san", "*.two.example"];
    let two = Serving::start(&at("two"), ("two", "10.9.9.2"), endpoint, &join);
    let keys = [key(&one), key(&two)];
    assert_ne!(keys[0], keys[1]);
    assert_known(&one, "lb.example.net");
    assert_known(&two, "lb.example.net");
    assert_known(&one, "a.example.net");
    assert!(!handshake(&two, "b.example.net").contains("0 (ok)"));
    assert_known(&two, "any.two.example");
    assert!(!handshake(&two, "two.levels.two.example").contains("0 (ok)"));
    assert_known(&two, "a.example.net");
    let file = two.read("tls/dynamic-cert.json");
    assert!(
        file.contains("listener.cattle.io/cn-a.example.net"),
        "{file}"
    );
    assert!(!file.contains("/cn-b.example.net"));
    // The keys stay, whoever learns, and so do the names when a server comes back.
    assert_eq!(keys, [key(&one), key(&two)]);
    one.stop();
    let one = Serving::start(&at("one"), ("one", "10.9.9.1"), endpoint, &[]);
    assert_known(&one, "lb.example.net");
    // A server that is new has them from the start.
    let join = ["--token-file", &token];
    let three = Serving::start(&at("three"), ("three", "10.9.9.3"), endpoint, &join);
    assert_known(&three, "lb.example.net");
}

#[test]
fn what_one_server_learns_all_show() {
    std::thread::scope(|scope| {
        scope.spawn(|| two_learn(&Etcd::plain().url(0)));
        scope.spawn(|| two_learn(&Postgres::start(false).database("names")));
    });
}

/// Names are learnt while CAs are rotated, by the server itself, and leaves by somebody beside it:
/// neither is in the other's way, and no name is lost.
#[test]
fn what_is_learnt_during_a_plan_is_shown_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let open = ["--tls-san-security=false"];
    let one = Serving::start(&folder.path().join("one"), ("one", "10.9.9.1"), "", &open);
    let set = one.stage(folder.path());
    let name = |number: usize| format!("n{number}.example.net");
    for words in [
        &["rotate-ca", "--yes", "--path", &set][..],
        &["rotate", "--yes"],
    ] {
        let data_dir = one.data_dir.display().to_string();
        let whole = [words, &["--data-dir", &data_dir]].concat();
        let asked = std::thread::scope(|scope| {
            // A name that was signed for between plan and lock makes the plan stale, and no more.
            let plan = scope.spawn(|| {
                let runs = std::iter::repeat_with(|| run(KUBEPKI, &whole, b""));
                let mut runs = runs.take(20).filter(|it| it.code != Some(5));
                runs.next().unwrap()
            });
            let mut asked = 0;
            while asked == 0 || (!plan.is_finished() && asked < 40) {
                handshake(&one, &format!("{}-{}", words[0], name(asked)));
                asked += 1;
            }
            assert_ends(&plan.join().unwrap(), 0, "Done");
            asked
        });
        for number in 0..asked {
            assert_known(&one, &format!("{}-{}", words[0], name(number)));
        }
    }
    for more in [
        &[][..],
        &[
            "--state-dir",
            &one.data_dir.join("kubepki/serve").display().to_string(),
        ],
    ] {
        let history = one.kubepki(&[&["history"], more].concat());
        assert!(
            !history.text().contains("interrupted"),
            "{}",
            history.text()
        );
    }
    one.stop();
}

/// A machine with addresses of its own: what a connection arrives at is learnt under the filter,
/// unless it is a service's.
#[test]
fn addresses_of_the_machine_are_learnt_under_the_filter() {
    let folder = tempfile::tempdir().unwrap();
    let wire = "ip link set lo up && ip addr add 192.0.2.7/32 dev lo && ip addr add \
                2001:db8::7/128 dev lo nodad && ip addr add 10.43.7.7/32 dev lo";
    let able = testkit::run("unshare", &["-n", "sh", "-c", wire], b"");
    if !able.success() {
        println!("skipped: {}", able.text());
        return;
    }
    let server = Serving::on(wire, folder.path(), ("one", "10.9.9.1"));
    let port = server.address.rsplit(':').next().unwrap().to_owned();
    let pid = server.pid();
    let file = || server.read("tls/dynamic-cert.json");
    let shake = |connect: &str, address: &str| {
        let authority = server.server("tls/server-ca.crt").display().to_string();
        let connect = format!("{connect}:{port}");
        let inside = [
            "-t", &pid, "-n", "openssl", "s_client", "-connect", &connect,
        ];
        let checked = [
            "-CAfile",
            &authority,
            "-verify_return_error",
            "-verify_ip",
            address,
        ];
        let seen = testkit::run("nsenter", &[&inside[..], &checked].concat(), b"");
        seen.text().contains("Verify return code: 0 (ok)")
    };
    let before = file();
    assert!(!shake("10.43.7.7", "10.43.7.7") && !shake("127.0.0.9", "127.0.0.9"));
    assert_eq!(file(), before);
    for (connect, address) in [("192.0.2.7", "192.0.2.7"), ("[2001:db8::7]", "2001:db8::7")] {
        assert!(!before.contains(address));
        let known = (0..300).any(|_| {
            let known = shake(connect, address);
            if !known {
                std::thread::sleep(Duration::from_millis(100));
            }
            known
        });
        assert!(known, "{address}");
        assert!(file().contains(&format!("\":\"{address}\"")), "{}", file());
    }
    server.stop();
}
