//! The database servers that tests start.

use testkit::fixture;
use testkit::server::{MariaDb, Postgres};

#[test]
fn postgres_takes_a_dump_and_survives_a_kill() {
    let mut server = Postgres::start(true);
    let fixture = fixture("k3s-1.36-postgres");
    server.load("kubernetes", &fixture.extra("kubernetes.sql"));
    let count = "SELECT count(*) FROM kine WHERE name LIKE '/bootstrap%'";
    assert_eq!(server.sql("kubernetes", count).trim(), "4");
    server.kill();
    server.restart();
    assert_eq!(server.sql("kubernetes", count).trim(), "4");
}

#[test]
fn mariadb_takes_a_dump_and_survives_a_kill() {
    let mut server = MariaDb::start(true);
    let fixture = fixture("k3s-1.36-mariadb");
    server.load("kubernetes", &fixture.extra("kubernetes.sql"));
    let count = "SELECT count(*) FROM kine WHERE name LIKE '/bootstrap%'";
    assert_eq!(server.sql("kubernetes", count).trim(), "3");
    server.kill();
    server.restart();
    assert_eq!(server.sql("kubernetes", count).trim(), "3");
}
