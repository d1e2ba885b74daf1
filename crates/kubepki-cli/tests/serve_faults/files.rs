//! Files that somebody puts on a server's disk.

use std::path::Path;

use testkit::{Fixture, run};

use crate::{Serving, Site};

/// The first certificate of a file, and what names it everywhere.
fn first(path: &Path) -> (pki::Certificate, String) {
    let pem = std::fs::read(path).unwrap();
    let first = pki::Certificate::all_from_pem(&pem).unwrap().remove(0);
    let fingerprint = first.fingerprint().to_string();
    (first, fingerprint[..12].to_owned())
}

fn ready(server: &Serving) -> String {
    server.curl("/v1-k3s/readyz", &[]).1
}

/// Another CA on the disk of a server that runs: nothing is issued under it, and both are named;
/// nor does a server start with it.
#[test]
fn a_foreign_ca_on_the_disk_issues_nothing() {
    // Leaves that are due at every look.
    let site = Site::new(&["--window", "400"]);
    let mut server = site.start();
    let request = site.request();
    let tls = site.data_dir().join("server/tls");
    let (own, own_print) = first(&tls.join("client-ca.crt"));
    let other = Fixture::without_datastore("k3s-1.36-custom-ca");
    let other = other.data_dir().join("server/tls");
    let (_, other_print) = first(&other.join("client-ca.crt"));
    let put = || {
        for name in ["client-ca.crt", "client-ca.key"] {
            std::fs::copy(other.join(name), tls.join(name)).unwrap();
            let path = tls.join(name).display().to_string();
            assert!(run("touch", &["-d", "now + 10 seconds", &path], b"").success());
        }
    };
    let leaf = |server: &Serving| {
        let (code, body) = server.ask(&request, "a");
        assert_eq!(code, 200, "{body}");
        pki::Certificate::all_from_pem(body.as_bytes())
            .unwrap()
            .remove(0)
    };
    let admin = tls.join("client-admin.crt");
    let before = std::fs::read(&admin).unwrap();
    put();
    server.signal("-HUP");
    let said = server.until(r#""message":"needs a look","part":"files""#);
    for word in [&own_print, &other_print] {
        assert!(said.contains(word.as_str()), "{word}: {said}");
    }
    assert!(
        said.contains("kubepki reconcile --keep datastore"),
        "{said}"
    );
    assert!(ready(&server).contains("warning: files: "));
    // What is issued is under the cluster's, and what is the node's own waits.
    let issued = leaf(&server);
    assert!(issued.verify_signature(own.spki_der()).is_ok());
    assert_eq!(std::fs::read(&admin).unwrap(), before);
    // The way out that it names.
    let back = site.kubepki(&["reconcile", "--keep", "datastore", "--yes"]);
    assert!(back.success(), "{}", back.text());
    server.signal("-HUP");
    server.until(r#""message":"in order again","part":"files""#);
    server.until("\"a leaf of this node was renewed\",\"subject\":\"CN=system:admin");
    assert_eq!(ready(&server), "ok");
    assert_ne!(std::fs::read(&admin).unwrap(), before);
    assert!(leaf(&server).verify_signature(own.spki_der()).is_ok());
    put();
    server.terminate();
    let refused = site.command().output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(5), "{why}");
    for word in [own_print.as_str(), &other_print, "reconcile"] {
        assert!(why.contains(word), "{word}: {why}");
    }
}
