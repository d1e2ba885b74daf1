//! Names that one server learns are every server's: two over one etcd, two over one PostgreSQL.

use testkit::server::Postgres;
use testkit::{Etcd, openssl};

use crate::lab::Serving;

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

#[track_caller]
fn assert_known(server: &Serving, name: &str) {
    let seen = handshake(server, name);
    assert!(
        seen.contains("Verify return code: 0 (ok)"),
        "{name}: {seen}"
    );
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
    let mut two = Serving::start(&at("two"), ("two", "10.9.9.2"), endpoint, &join);
    let keys = [key(&one), key(&two)];
    assert_ne!(keys[0], keys[1]);
    assert_known(&one, "lb.example.net");
    while !handshake(&two, "lb.example.net").contains("Verify return code: 0 (ok)") {
        two.until("another certificate");
    }
    assert_known(&one, "a.example.net");
    assert!(!handshake(&two, "b.example.net").contains("0 (ok)"));
    assert_known(&two, "any.two.example");
    assert!(!handshake(&two, "two.levels.two.example").contains("0 (ok)"));
    while !handshake(&two, "a.example.net").contains("Verify return code: 0 (ok)") {
        two.until("another certificate");
    }
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
