//! Three servers on one empty PostgreSQL: their first start, nodes, a rotation of CAs and one of
//! the token while they serve.

use std::path::Path;

use pki::Certificate;
use testkit::server::Postgres;

use crate::lab::{Serving, assert_ends};

const AUTHORITIES: [&str; 6] = [
    "tls/server-ca.crt",
    "tls/server-ca.key",
    "tls/client-ca.key",
    "tls/etcd/peer-ca.key",
    "tls/service.key",
    "cred/passwd",
];

fn assert_alike(servers: &[&Serving]) {
    for below in AUTHORITIES {
        let first = servers.first().unwrap().read(below);
        for other in servers {
            assert!(other.read(below) == first, "{below}");
        }
    }
}

/// The root at the end of a chain.
fn root(path: &Path) -> Certificate {
    let all = Certificate::all_from_pem(&std::fs::read(path).unwrap()).unwrap();
    let mut roots = all.into_iter().filter(Certificate::is_self_signed);
    roots.next().unwrap()
}

#[test]
fn three_servers_are_one_cluster() {
    let postgres = Postgres::start(false);
    let endpoint = postgres.database("three");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let one = Serving::start(&at("one"), ("one", "10.9.9.1"), &endpoint, &[]);
    let token = at("token");
    std::fs::copy(one.server("token"), &token).unwrap();
    let token = token.display().to_string();
    // Another's CAs without the token: no server.
    let mut stranger = Serving::begin(&at("stranger"), ("stranger", "10.9.9.9"), &endpoint, &[]);
    stranger.until("--token-file");
    drop(stranger);
    let join = ["--token-file", &token];
    let begin = |name, address| Serving::begin(&at(name), (name, address), &endpoint, &join);
    let (two, three) = (begin("two", "10.9.9.2"), begin("three", "10.9.9.3"));
    let (mut two, mut three) = (two.up(), three.up());
    assert_alike(&[&one, &two, &three]);

    // Each knows the others, and their names are nobody else's.
    for server in [&one, &two, &three] {
        let all = ["10.9.9.1:", "10.9.9.2:", "10.9.9.3:"];
        server.await_answer("/v1-k3s/apiservers", |code, body| {
            code == "200" && all.iter().all(|it| body.contains(it))
        });
        let wanted = |_: &str, _: &str| names_of_listener(server).contains("10.9.9.3");
        server.await_answer("/v1-k3s/apiservers", wanted);
    }
    let (code, body) = one.ask_as("server", "/v1-k3s/server-bootstrap", &[]);
    assert_eq!(code, "400");
    assert!(body.contains("etcd disabled"), "{body}");
    let run = one.node(&["join"], &at("thief"), "10.9.9.2");
    assert_ends(&run, 5, "belongs to the servers");
    let worker = at("worker");
    assert_ends(
        &one.node(&["join"], &worker, "10.1.1.1"),
        0,
        "files written",
    );
    let renew = ["node", "renew", "--window", "400"];
    assert_ends(&two.node(&renew, &worker, ""), 0, "4 files written");

    new_authorities(folder.path(), &one, &mut two, &mut three);
    new_token(&one, &mut two, &at("worker-2"));
}

/// New CAs through `one`, taken up by the others; the node that joined goes on.
fn new_authorities(folder: &Path, one: &Serving, two: &mut Serving, three: &mut Serving) {
    let at = |name: &str| folder.join(name);
    let (worker, renew) = (at("worker"), ["node", "renew", "--window", "400"]);
    let old = at("old.crt");
    std::fs::copy(one.server("tls/server-ca.crt"), &old).unwrap();
    let (set, away) = (at("set"), at("offline"));
    let words = [set.display().to_string(), away.display().to_string()];
    let [out, offline] = words.each_ref().map(String::as_str);
    let stage = [
        "ca",
        "stage",
        "--cross-signed",
        "--out",
        out,
        "--offline",
        offline,
    ];
    assert_ends(&one.kubepki(&stage), 0, "");
    let run = one.kubepki(&["rotate-ca", "--yes", "--path", out]);
    assert_ends(&run, 0, "every other `kubepki serve` does so by itself");
    two.until("were taken up");
    three.until("were taken up");
    assert_alike(&[one, two, three]);
    let new = root(&set.join("tls/server-ca.crt"));
    let staged = std::fs::read_to_string(set.join("tls/server-ca.crt")).unwrap();
    for server in [one, two, three] {
        let (_, served) = server.ask("/cacerts", &[]);
        assert!(served == staged);
        // Clients with the old bundle, and with the new root alone.
        let new_root = at("new.crt");
        std::fs::write(&new_root, new.to_pem()).unwrap();
        for authority in [&old, &new_root] {
            assert_eq!(server.ask_with(authority, "/ping", &[]).1, "pong");
        }
        // Its own leaves are under the new CA, each with its cross-certificate.
        let leaf = server.read("tls/serving-kube-apiserver.crt");
        let chain = Certificate::all_from_pem(leaf.as_bytes()).unwrap();
        assert_eq!(chain.len(), 3);
        assert!(chain.iter().all(|it| !it.is_self_signed()));
        let (code, ready) = server.ask_as("node", "/v1-k3s/readyz", &[]);
        assert_eq!((code.as_str(), ready.as_str()), ("200", "ok"));
        assert!(server.ask("/metrics", &[]).0 == "200");
    }
    // The node's former certificate renews it under the new CA, at any server.
    assert_ends(&three.node(&renew, &worker, ""), 0, "files written");
    let first = |path: &Path| {
        let pem = std::fs::read(path).unwrap();
        Certificate::all_from_pem(&pem).unwrap().remove(0)
    };
    let leaf = first(&worker.join("agent/client-kubelet.crt"));
    let issuer = first(&set.join("tls/client-ca.crt"));
    assert!(leaf.verify_signature(issuer.spki_der()).is_ok());
}

fn names_of_listener(server: &Serving) -> String {
    let script = format!(
        "openssl s_client -connect {} </dev/null 2>/dev/null | openssl x509 -noout -ext \
         subjectAltName",
        server.address
    );
    testkit::run("sh", &["-c", &script], b"").text()
}

/// The token is replaced at `one`; `two` issues nothing until it knows it.
fn new_token(one: &Serving, two: &mut Serving, node: &Path) {
    let before = one.password();
    let run = one.kubepki(&["token", "rotate", "--yes"]);
    assert_ends(&run, 0, "Done");
    let password = one.password();
    assert_ne!(password, before);
    assert!(String::from_utf8_lossy(&run.stdout).contains(&password));
    let (code, _) = one.ask_as("node", "/v1-k3s/readyz", &[]);
    assert_eq!(code, "200");
    two.await_answer("/v1-k3s/readyz", |code, body| {
        code == "503" && body.contains("different token")
    });
    assert_ends(&two.node(&["join"], node, "10.1.1.2"), 1, "503");
    std::fs::write(two.server("token"), one.read("token")).unwrap();
    two.until("were taken up");
    two.await_answer("/v1-k3s/readyz", |code, body| (code, body) == ("200", "ok"));
    assert_ends(&two.node(&["join"], node, "10.1.1.2"), 0, "files written");
    for line in &two.seen {
        assert!(!line.contains(&password) && !line.contains(&before));
    }
}
