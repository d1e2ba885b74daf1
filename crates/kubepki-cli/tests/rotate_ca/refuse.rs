//! A refusal changes nothing: not the tree, not the datastore, and the system log is told.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use kubepki::bootstrap::Field;
use testkit::{Fixture, openssl_ok};

use crate::common::KUBEPKI;
use crate::lab::{Server, blocks, stage};

/// A name, what spoils a good set, a word of the reason, and whether K3s itself would take it.
pub type Case = (&'static str, fn(&Server, &Path), &'static str, bool);

const SETS: [Case; 12] = [
    (
        "key of another CA",
        |_, set| {
            let key = std::fs::read(Field::ClientCaKey.under(set)).unwrap();
            stage(set, Field::ServerCaKey, key);
        },
        "is not the key of",
        false,
    ),
    (
        "reversed",
        |_, set| {
            let text = read(set, Field::ServerCa);
            let reversed: String = blocks(&text).into_iter().rev().collect();
            stage(set, Field::ServerCa, reversed);
        },
        "begins with the root",
        false,
    ),
    (
        "single certificate",
        |_, set| {
            let text = read(set, Field::ClientCa);
            stage(set, Field::ClientCa, blocks(&text)[0]);
        },
        "only a single certificate",
        false,
    ),
    (
        "intermediate missing",
        |_, set| {
            let text = read(set, Field::EtcdPeerCa);
            let blocks = blocks(&text);
            stage(set, Field::EtcdPeerCa, [blocks[0], blocks[2]].concat());
        },
        "does not lead from",
        true,
    ),
    (
        "swapped",
        |_, set| {
            let (certificate, key) = (read(set, Field::ServerCa), read(set, Field::ServerCaKey));
            stage(set, Field::ServerCa, key);
            stage(set, Field::ServerCaKey, certificate);
        },
        "are swapped",
        false,
    ),
    (
        "encrypted",
        |_, set| {
            let path = Field::ServerCaKey.under(set).display().to_string();
            let args = ["pkey", "-in", &path, "-aes256", "-passout", "pass:x"];
            stage(set, Field::ServerCaKey, openssl_ok(&args, b"").stdout);
        },
        "is encrypted",
        false,
    ),
    (
        "service key lost",
        |_, set| {
            stage(
                set,
                Field::ServiceKey,
                openssl_ok(&["genrsa", "-traditional", "2048"], b"").stdout,
            );
        },
        "lacks the key that signs",
        false,
    ),
    (
        "EC service key in PKCS#8",
        |server, set| {
            let args = [
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ];
            let mut keys = openssl_ok(&args, b"").stdout;
            keys.extend(server.read("tls/service.key").bytes());
            stage(set, Field::ServiceKey, keys);
        },
        "does not find it among",
        true,
    ),
    (
        "key in the certificate",
        |_, set| {
            let both = read(set, Field::ServerCa) + &read(set, Field::ServerCaKey);
            stage(set, Field::ServerCa, both);
        },
        "holds a private key",
        true,
    ),
    (
        "no certificate",
        |_, set| stage(set, Field::ServerCa, "nothing\n"),
        "cannot be read",
        false,
    ),
    (
        "another CA's place",
        |server, set| {
            stage(set, Field::ServerCa, server.read("tls/client-ca.crt"));
            stage(set, Field::ServerCaKey, server.read("tls/client-ca.key"));
        },
        "in force as ClientCA",
        true,
    ),
    (
        "a key alone",
        |_, set| {
            std::fs::remove_file(Field::ServerCa.under(set)).unwrap();
        },
        "is not the key of",
        false,
    ),
];

pub fn read(set: &Path, field: Field) -> String {
    std::fs::read_to_string(field.under(set)).unwrap()
}

#[test]
fn wrong_sets_change_nothing() {
    assert_refused(&SETS);
}

/// Each set is refused in the right words, and leaves tree and datastore byte for byte.
#[track_caller]
pub fn assert_refused(sets: &[Case]) {
    let server = Server::new("k3s-1.36-custom-ca");
    let good = server.fixture.extra("staged-same-root");
    for &(name, spoil, word, k3s) in sets {
        let set = server.set("set", &good);
        spoil(&server, &set);
        let before = server.tree();
        let run = server.rotate(&set, &[], 5);
        assert!(run.text().contains(word), "{name}: {}", run.text());
        assert_eq!(
            run.text().contains("K3s would refuse"),
            !k3s,
            "{name}: {}",
            run.text()
        );
        let path = set.display().to_string();
        server.ends(&["ca", "verify", "--path", &path], 4);
        server.ends(
            &["ca", "verify", "--path", &path, "--k3s-words"],
            if k3s { 0 } else { 4 },
        );
        server.assert_untouched(&before);
        std::fs::remove_dir_all(set).unwrap();
    }
}

#[test]
fn the_system_log_is_told() {
    let server = Server::new("k3s-1.36-custom-ca");
    let log = UnixDatagram::bind(server.fixture.scratch("syslog")).unwrap();
    log.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
    let reader = std::thread::spawn(move || {
        let mut heard = String::new();
        let mut line = [0; 4096];
        while !heard.contains("the live tls directory") {
            let length = log.recv(&mut line).unwrap();
            let text = std::str::from_utf8(&line[..length]).unwrap();
            assert!(text.starts_with("<83>kubepki["), "{text}");
            heard.push_str(text);
        }
        heard
    });
    let forced = Fixture::without_datastore("k3s-1.36-new-root-forced");
    let set = server.set("set", &forced.data_dir().join("server"));
    let run = server.rotate(&set, &[], 5);
    assert!(run.text().contains("say --force"), "{}", run.text());
    server.rotate(&server.server(), &[], 5);
    let heard = reader.join().unwrap();
    assert!(
        heard.contains("rotate-ca refused, nothing was changed"),
        "{heard}"
    );
    assert!(heard.contains("RequestHeaderCA"), "{heard}");
}

#[test]
fn the_live_directory_is_no_staging_place() {
    let server = Server::new("k3s-1.36-sqlite");
    let link = server.fixture.scratch("link");
    symlink(server.server(), &link).unwrap();
    let roundabout = server.fixture.data_dir().join("agent/../server");
    let before = server.tree();
    for set in [
        server.server(),
        server.server().join("tls"),
        link,
        roundabout,
    ] {
        let run = server.rotate(&set, &[], 5);
        assert!(run.text().contains("live tls"), "{}", run.text());
    }
    let empty = server.fixture.scratch("empty");
    std::fs::create_dir(&empty).unwrap();
    let run = server.rotate(&empty, &[], 1);
    assert!(
        run.text().contains("holds no set of CA files"),
        "{}",
        run.text()
    );
    std::fs::remove_dir(&empty).unwrap();
    server.assert_untouched(&before);
}

#[test]
fn an_old_k3s_and_the_set_in_force_are_refused() {
    let server = Server::new("k3s-1.36-custom-ca");
    let good = server.fixture.extra("staged-same-root");
    let before = server.tree();
    for force in [
        &["--k3s-version", "v1.26.1"][..],
        &["--k3s-version", "v1.26.1", "--force"],
    ] {
        let run = server.rotate(&good, force, 5);
        assert!(
            run.text()
                .contains("v1.26.2, v1.25.7, v1.24.11 and v1.23.17"),
            "{}",
            run.text()
        );
    }
    let path = good.display().to_string();
    let verify = ["ca", "verify", "--path", &path, "--k3s-version"];
    let run = server.ends(&[&verify[..], &["v1.24.9"]].concat(), 4);
    assert!(
        run.text()
            .starts_with("K3s's own checks pass this set, but"),
        "{}",
        run.text()
    );
    let run = server.run(&[&verify[..], &["v1.36.3"]].concat());
    assert!(
        run.text().starts_with("K3s accepts this set.\n"),
        "{}",
        run.text()
    );
    server.assert_untouched(&before);
    let set = server.set("set", &server.server());
    let run = server.rotate(&set, &[], 5);
    assert!(run.text().contains("nothing to rotate"), "{}", run.text());
}

/// Nobody said which K3s it is: the installed program does, here one in its place.
#[test]
fn an_old_k3s_is_found_out() {
    let server = Server::new("k3s-1.21-sqlite");
    let folder = server.fixture.scratch("bin");
    std::fs::create_dir(&folder).unwrap();
    let program = folder.join("k3s");
    let config = server.fixture.scratch("config.yaml");
    let data = server.fixture.data_dir();
    std::fs::write(&config, format!("data-dir: {}\n", data.display())).unwrap();
    let set = server.fixture.scratch("set");
    let new = openssl_ok(&["genrsa", "-traditional", "2048"], b"").stdout;
    let old = server.read("tls/service.key").into_bytes();
    stage(&set, Field::ServiceKey, [new, old].concat());
    let (set, config) = (set.display().to_string(), config.display().to_string());
    let args = ["rotate-ca", "--path", &set, "--dry-run", "--still-for", "0"];
    let path = format!("PATH={}:/usr/bin:/bin", folder.display());
    for (version, found) in [("v1.24.10+k3s1", true), ("v1.24.11+k3s1", false)] {
        let says = format!("#!/bin/sh\necho 'k3s version {version} (0123abcd)'\n");
        std::fs::write(&program, says).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let mut words = vec![path.as_str(), KUBEPKI];
        words.extend(args);
        words.extend(["--k3s-config", &config]);
        let run = testkit::run("env", &words, b"");
        assert_eq!(run.code, Some(5), "{}", run.text());
        let words = "K3s v1.24.10 has no rotate-ca";
        assert_eq!(run.text().contains(words), found, "{}", run.text());
    }
}

/// Begun elsewhere and not taken up here: a second rotation would be lost.
#[test]
fn a_rotation_that_no_server_took_up_is_refused() {
    let server = Server::new("k3s-1.36-custom-ca");
    let good = server.fixture.extra("staged-same-root");
    let former = server.read("tls/server-ca.crt");
    server.rotate(&good, &[], 0);
    std::fs::write(server.server().join("tls/server-ca.crt"), former).unwrap();
    let set = server.set("set", &good);
    std::fs::remove_file(Field::ServiceKey.under(&set)).unwrap();
    let run = server.run(&[
        "rotate-ca",
        "--path",
        &set.display().to_string(),
        "--yes",
        "--still-for",
        "0",
        "--force",
    ]);
    assert!(
        run.text().contains("kubepki reconcile") || run.code == Some(5),
        "{}",
        run.text()
    );
    assert_eq!(run.code, Some(5), "{}", run.text());
}

/// What `undo` refuses is not to be had by another name.
#[test]
fn compromised_authorities_are_not_put_back() {
    let server = Server::new("k3s-1.36-sqlite");
    let set = server.fixture.scratch("set");
    let offline = server.fixture.scratch("offline").display().to_string();
    let out = set.display().to_string();
    let stage = ["ca", "stage", "--compromised", "--out", &out];
    server.ends(&[&stage[..], &["--offline", &offline]].concat(), 0);
    server.rotate(&set, &["--compromised"], 0);
    let history = server.ends(&["history"], 0).text();
    let mut words = history.split_whitespace();
    let id = words.find(|word| word.contains("rotate-ca")).unwrap();
    let in_force = server.read("tls/server-ca.crt");
    let back = ["rotate-ca", "--back", id, "--yes", "--still-for", "0"];
    for args in [&back[..], &[&back[..], &["--force"]].concat()] {
        let run = server.ends(args, 5);
        assert!(run.text().contains("in wrong hands"), "{}", run.text());
    }
    assert_eq!(server.read("tls/server-ca.crt"), in_force);
}
