//! The database servers that tests start.

use testkit::fixture;
use testkit::server::{MariaDb, Postgres};
use testkit::{SshKey, SshKeyType, Sshd, SshdOptions};

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

/// OpenSSH's own client gets in, sees the bound file, and is thrown out when the host dies.
#[test]
fn an_ssh_server_lets_ssh_in() {
    let files = tempfile::tempdir().unwrap();
    let user = SshKey::make(files.path(), "user", SshKeyType::Ed25519, "");
    std::fs::create_dir(files.path().join("bound")).unwrap();
    let mut server = Sshd::start(SshdOptions {
        host_keys: vec![SshKeyType::Ed25519, SshKeyType::Ecdsa],
        listen: "127.0.0.7".to_owned(),
        authorized: vec![user.public.clone()],
        binds: vec![(files.path().join("bound"), "/mnt".into())],
        ..SshdOptions::default()
    });
    let known = server.folder().join("known_hosts");
    testkit::run(
        "sh",
        &["-c", "cat >$1", "sh", known.to_str().unwrap()],
        server.known_hosts().as_bytes(),
    );
    let port = server.port().to_string();
    let known = format!("UserKnownHostsFile={}", known.display());
    let key = user.path.to_str().unwrap();
    let ssh = |command: &str| {
        let options = [
            "-F",
            "none",
            "-o",
            &known,
            "-o",
            "StrictHostKeyChecking=yes",
            "-i",
            key,
        ];
        let rest = [
            "-o",
            "BatchMode=yes",
            "-p",
            &port,
            "root@127.0.0.7",
            command,
        ];
        testkit::run("ssh", &[options.as_slice(), &rest].concat(), b"")
    };
    let run = ssh("touch /mnt/seen; sleep 0 & echo in");
    assert_eq!(run.stdout, b"in\n", "{}", run.text());
    assert!(files.path().join("bound/seen").exists());
    server.kill();
    assert_eq!(ssh("true").code, Some(255));
    server.restart();
    assert!(ssh("true").success());
}
