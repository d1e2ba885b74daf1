//! The data of real clusters, in real servers, served to nodes: beside the cluster's own tree, and
//! into an empty directory.

use testkit::server::{MariaDb, Postgres};
use testkit::{Etcd, Fixture};

use crate::lab::{Serving, assert_ends};

fn serve_twice(fixture: &Fixture, endpoint: &str) {
    let data_dir = fixture.data_dir();
    // Two of the clusters were not restarted after their last rotation: the datastore is ahead of
    // the disk, and is what counts.
    let tls = ["server/rotate-ca/tls", "server/tls"].map(|it| data_dir.join(it));
    let tls = tls.iter().find(|it| it.exists()).unwrap();
    let authority = std::fs::read_to_string(tls.join("server-ca.crt")).unwrap();
    let own = Serving::start(&data_dir, ("k3s-server", "10.9.9.1"), endpoint, &[]);
    let token = own.server("token").display().to_string();
    let join = ["--token-file", token.as_str()];
    let new = fixture.scratch("second");
    let second = Serving::start(&new, ("second", "10.9.9.2"), endpoint, &join);
    for server in [&own, &second] {
        let (code, served) = server.ask("/cacerts", &[]);
        assert_eq!(
            (code.as_str(), served.as_str()),
            ("200", authority.as_str())
        );
        for (user, path, wanted) in [
            ("node", "/v1-k3s/config", "200"),
            ("node", "/v1-k3s/readyz", "200"),
            ("node", "/v1-k3s/client-ca.crt", "200"),
            ("server", "/v1-k3s/server-bootstrap", "400"),
            ("node", "/v1-k3s/server-bootstrap", "403"),
        ] {
            assert_eq!(server.ask_as(user, path, &[]).0, wanted, "{path}");
        }
    }
    let worker = fixture.scratch("worker");
    let joined = second.node(&["join"], &worker, "10.1.1.1");
    assert_ends(&joined, 0, "files written");
    let renew = ["node", "renew", "--window", "400"];
    assert_ends(&own.node(&renew, &worker, ""), 0, "4 files written");
    second.stop();
}

#[test]
fn postgres() {
    let fixture = Fixture::new("k3s-1.36-postgres");
    let server = Postgres::start(false);
    server.load("kubernetes", &fixture.extra("kubernetes.sql"));
    serve_twice(&fixture, &server.endpoint("kubernetes"));
}

#[test]
fn maria_db() {
    let fixture = Fixture::new("k3s-1.36-mariadb");
    let server = MariaDb::start(false);
    server.load("kubernetes", &fixture.extra("kubernetes.sql"));
    serve_twice(&fixture, &server.endpoint("kubernetes"));
}

#[test]
fn etcd() {
    let fixture = Fixture::new("k3s-1.36-etcd-external");
    let etcd = Etcd::restore(&fixture.extra("etcd-snapshot.db"));
    serve_twice(&fixture, &etcd.url(0));
}
