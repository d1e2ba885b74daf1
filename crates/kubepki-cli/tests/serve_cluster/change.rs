//! Two servers on one empty etcd, of which one takes new CAs up by a restart; K3s's own way to
//! hand CAs over, and what it answers to nonsense.

use testkit::Etcd;

use crate::lab::{Serving, assert_ends};

/// The number that a client got instead of the reason.
fn number(body: &str) -> String {
    let (_, id) = body.split_once("error ID ").unwrap();
    id.chars().take_while(char::is_ascii_digit).collect()
}

#[test]
fn authorities_come_through_the_server_and_a_restart_takes_them_up() {
    let etcd = Etcd::plain();
    let endpoint = etcd.url(0);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // Who reads leaves is told of those that are issued anew under other CAs, too.
    let told = ["--reload-hook", "/bin/true"];
    let mut one = Serving::start(&at("one"), ("one", "10.9.9.1"), &endpoint, &told);
    one.until("told of renewed leaves");
    let token = one.server("token").display().to_string();
    let restart = [
        "--token-file",
        &token,
        "--take-up",
        "restart",
        "--window",
        "400",
    ];
    let begin = || Serving::start(&at("two"), ("two", "10.9.9.2"), &endpoint, &restart);
    // Leaves of three days: those that end soon do not wait for the restart.
    let short = [("CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS", "3")];
    let who = ("two", "10.9.9.2");
    let mut two = Serving::begin_with(&at("two"), who, &endpoint, (&restart, &short)).up();
    let before = one.read("tls/server-ca.crt");
    assert_eq!(two.read("tls/server-ca.crt"), before);

    assert_refuses_what_is_no_change(&mut one);
    assert_eq!(two.ask_as("node", "/v1-k3s/readyz", &[]).0, "200");

    let set = one.stage(folder.path());
    // Through the one that takes up by a restart: its files stay, the other's follow.
    let rotated = two.kubepki(&["rotate-ca", "--yes", "--path", &set]);
    assert_ends(&rotated, 0, "Done");
    one.until("were taken up");
    one.until("told of renewed leaves");
    let staged = std::fs::read_to_string(format!("{set}/tls/server-ca.crt")).unwrap();
    assert_eq!(one.read("tls/server-ca.crt"), staged);
    assert_eq!(two.read("tls/server-ca.crt"), before);
    assert_waits_for_restart(&two);
    assert_renews(&mut two);
    assert_ends(&two.node(&["join"], &at("worker"), "10.1.1.1"), 1, "503");
    // Another change through it does not make its CAs the cluster's.
    assert_ends(&two.kubepki(&["token", "rotate", "--yes"]), 0, "");
    assert_eq!(two.ask_as("node", "/v1-k3s/readyz", &[]).0, "503");
    assert_waits_for_restart(&two);
    two.stop();
    let two = begin();
    assert_eq!(two.read("tls/server-ca.crt"), staged);
    let joined = two.node(&["join"], &at("worker"), "10.1.1.1");
    assert_ends(&joined, 0, "files written");
}

/// What is no set of CAs changes nothing, and the log has the reason under the client's number.
fn assert_refuses_what_is_no_change(one: &mut Serving) {
    let before = one.read("tls/server-ca.crt");
    let path = "/v1-k3s/cert/cacerts";
    let put = |one: &Serving, path: &str, body: &str| {
        let form = ["-X", "PUT", "-H", "Content-Type:", "--data-binary", body];
        one.ask_as("server", path, &form)
    };
    assert_eq!(put(one, path, "{}").0, "204");
    let single = unfit(one).to_string();
    for (path, body, reason) in [
        (path, "[]", "no JSON object"),
        (path, single.as_str(), "failed to validate"),
        ("/v1-k3s/cert/cacerts?force=true", single.as_str(), ""),
        ("/v1-k3s/token", "{}", "newToken is missing"),
        ("/v1-k3s/token", r#"{"newToken":"K10x"}"#, ""),
    ] {
        let (code, answer) = put(one, path, body);
        assert_eq!(code, "500", "{body}: {answer}");
        let line = one.until(&format!("error ID {}", number(&answer)));
        assert!(line.contains(reason), "{line}");
    }
    assert_eq!(one.ask_as("node", path, &["-X", "PUT"]).0, "403");
    assert_eq!(one.ask_as("server", path, &[]).0, "405");
    assert_eq!(one.read("tls/server-ca.crt"), before);
}

fn assert_waits_for_restart(server: &Serving) {
    server.await_answer("/v1-k3s/readyz", |code, body| {
        code == "503" && body.contains("restart this server")
    });
}

/// What lies on its disk is in force and no stranger's: it renews by that.
fn assert_renews(server: &mut Serving) {
    server.until(r#""part":"cluster""#);
    server.signal("-HUP");
    server.until("a leaf of this node was renewed");
    let (_, ready) = server.ask_as("node", "/v1-k3s/readyz", &[]);
    assert!(
        !ready.contains("files: ") && !ready.contains("reconcile --keep"),
        "{ready}"
    );
}

/// A CA with another's key.
fn unfit(server: &Serving) -> serde_json::Value {
    let entry = |below: &str| {
        serde_json::json!({
            "Timestamp": "2026-11-23T00:00:00Z",
            "Content": base64(server.read(below).as_bytes()),
        })
    };
    serde_json::json!({
        "ServerCA": entry("tls/server-ca.crt"),
        "ServerCAKey": entry("tls/client-ca.key"),
    })
}

fn base64(bytes: &[u8]) -> String {
    let coded = testkit::run("base64", &["-w", "0"], bytes);
    coded.text()
}
