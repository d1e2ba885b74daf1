//! Bad input: a clear error, and nothing changed on disk or in the datastore.

use std::fs;
use std::os::unix::fs::symlink;

use crate::lab::{Lab, TOKEN};
use crate::write::sqlite;

/// Every command that opens the data, with what lets it run without asking.
const COMMANDS: [&[&str]; 6] = [
    &["bootstrap", "show"],
    &["bootstrap", "diff"],
    &["bootstrap", "verify"],
    &["bootstrap", "extract", "--yes"],
    &["bootstrap", "restore", "--yes", "--still-for", "0"],
    &[
        "reconcile",
        "--yes",
        "--still-for",
        "0",
        "--node-ip",
        "10.0.0.1",
    ],
];

/// All of them end with `code` and say `words`, and change nothing.
#[track_caller]
fn all_say(lab: &Lab, more: &[&str], code: i32, words: &[&str]) {
    let before = lab.tree();
    for command in COMMANDS {
        let args: Vec<&str> = command.iter().chain(more).copied().collect();
        let run = lab.ends(&args, code);
        for words in words {
            assert!(run.text().contains(words), "{args:?}: {}", run.text());
        }
        assert!(!run.text().contains(TOKEN), "{args:?}");
        lab.assert_untouched(&before);
    }
}

/// Takes away what else tells the token.
fn forget_token(lab: &Lab) {
    fs::remove_file(lab.server().join("token")).unwrap();
    fs::remove_file(lab.server().join("cred/passwd")).unwrap();
}

#[test]
fn a_wrong_token() {
    let lab = Lab::new("k3s-1.36-sqlite");
    forget_token(&lab);
    all_say(
        &lab,
        &[],
        5,
        &["none was found", "--token-file", "/bootstrap/d0bdc7873da2"],
    );
    let wrong = lab.token("another-clusters-token");
    let words = [
        "encrypted with a different token",
        "/bootstrap/d0bdc7873da2",
        wrong.as_str(),
    ];
    all_say(&lab, &["--token-file", &wrong], 5, &words);
    let right = lab.token(TOKEN);
    let both = [
        "bootstrap",
        "show",
        "--token-file",
        &wrong,
        "--token-file",
        &right,
    ];
    let run = lab.ends(&both, 0);
    assert!(!run.text().contains("does not open"), "{}", run.text());
}

/// Another token opens the data: that is not what was asked.
#[test]
fn a_wrong_token_is_not_passed_over_in_silence() {
    let lab = Lab::new("k3s-1.36-sqlite");
    let wrong = lab.token("another-clusters-token");
    let run = lab.ends(&["bootstrap", "show", "--token-file", &wrong], 0);
    let heard = String::from_utf8(run.stderr).unwrap();
    let note = format!("the token in {wrong} does not open the data in sqlite://");
    assert!(heard.contains(&note), "{heard}");
    assert!(heard.contains("server/token does"), "{heard}");
}

#[test]
fn no_token_at_all() {
    let lab = Lab::new("k3s-1.36-sqlite");
    let cases = [
        ("", "empty"),
        ("abcdef.0123456789abcdef", "bootstrap token"),
        ("K10abc::server:x", "64"),
    ];
    for (text, words) in cases {
        let path = lab.token(text);
        let run = lab.ends(&["bootstrap", "show", "--token-file", &path], 2);
        assert!(run.text().contains(words), "{text}: {}", run.text());
    }
    lab.ends(&["bootstrap", "show", "--token-file", "/no/such/file"], 2);
    let twice = [
        "bootstrap",
        "show",
        "--token-file",
        "-",
        "--token-file",
        "-",
    ];
    lab.ends(&twice, 2);
}

#[test]
fn two_keys() {
    let lab = Lab::new("k3s-1.36-sqlite");
    sqlite(
        &lab,
        "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value) \
         VALUES ('/bootstrap/5d556c033043', 1, 0, 0, 0, 0, 'x:eA==')",
    );
    let words = [
        "found multiple bootstrap keys in storage",
        "/bootstrap/d0bdc7873da2: opens with the token from",
        "/bootstrap/5d556c033043: of an unknown token",
    ];
    all_say(&lab, &[], 5, &words);
}

#[test]
fn a_lock() {
    let lab = Lab::new("k3s-1.36-sqlite");
    sqlite(
        &lab,
        "UPDATE kine SET value = NULL WHERE name LIKE '/bootstrap/%'",
    );
    all_say(&lab, &[], 5, &["is locked", "25 s"]);
}

#[test]
fn nothing_there() {
    let lab = Lab::new("k3s-1.36-sqlite");
    sqlite(&lab, "DELETE FROM kine WHERE name LIKE '/bootstrap/%'");
    let before = lab.tree();
    for command in &COMMANDS[..4] {
        let run = lab.ends(command, 5);
        assert!(
            run.text().contains("no bootstrap data found"),
            "{}",
            run.text()
        );
    }
    lab.assert_untouched(&before);
}

#[test]
fn a_damaged_value() {
    let lab = Lab::new("k3s-1.36-sqlite");
    sqlite(
        &lab,
        "UPDATE kine SET value = substr(value, 1, 200) WHERE name LIKE '/bootstrap/%'",
    );
    let before = lab.tree();
    for command in &COMMANDS[..4] {
        let run = lab.ends(command, 4);
        assert!(
            run.text().contains("cannot be opened with it"),
            "{}",
            run.text()
        );
    }
    lab.assert_untouched(&before);
}

#[test]
fn newer_on_disk() {
    let lab = Lab::new("k3s-1.36-sqlite");
    fs::write(lab.server().join("tls/service.key"), "other").unwrap();
    let before = lab.tree();
    for command in [
        &["bootstrap", "extract", "--yes"][..],
        &["reconcile", "--yes", "--node-ip", "10.0.0.1"],
    ] {
        let run = lab.ends(command, 5);
        let words = "tls/service.key newer than datastore and could cause a cluster outage";
        assert!(run.text().contains(words), "{}", run.text());
        assert!(run.text().contains("--keep"), "{}", run.text());
        lab.assert_untouched(&before);
    }
    // The disk's file is no key: it does not get into the datastore.
    let restore = ["bootstrap", "restore", "--yes", "--still-for", "0"];
    let run = lab.ends(&restore, 5);
    assert!(
        run.text().contains("ServiceKey cannot be read"),
        "{}",
        run.text()
    );
    lab.assert_untouched(&before);
}

#[test]
fn a_link_in_the_way() {
    let lab = Lab::new("k3s-1.36-sqlite");
    let path = lab.server().join("tls/client-ca.crt");
    let elsewhere = lab.scratch("elsewhere.crt");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    let before = lab.tree();
    for command in &COMMANDS[1..] {
        let run = lab.run(command);
        assert!(!run.success(), "{command:?}");
        assert!(run.text().contains("is a link to"), "{}", run.text());
        lab.assert_untouched(&before);
    }
}

#[test]
fn a_live_directory_is_no_place_to_extract_to() {
    let lab = Lab::new("k3s-1.36-sqlite");
    let link = lab.scratch("link");
    symlink(lab.server(), &link).unwrap();
    let relative = lab.data_dir().join("agent/../server");
    let above = lab.data_dir();
    let below = lab.server().join("tls");
    let inside = lab.scratch("inside");
    fs::create_dir(&inside).unwrap();
    symlink(lab.server().join("tls"), inside.join("tls")).unwrap();
    let before = lab.tree();
    for to in [link, relative, above, below, inside] {
        let to = to.to_str().unwrap();
        let run = lab.ends(&["bootstrap", "extract", "--to", to, "--yes"], 5);
        assert!(run.text().contains(to.rsplit('/').next().unwrap()) || !run.text().is_empty());
        lab.assert_untouched(&before);
    }
}

#[test]
fn a_snapshot_that_is_none() {
    let lab = Lab::new("k3s-1.36-sqlite");
    let before = lab.tree();
    let key = lab.server().join("tls/server-ca.key");
    for path in [key.to_str().unwrap(), "/no/such/file", "/dev/null"] {
        let run = lab.run(&["bootstrap", "show", "--snapshot", path]);
        assert!(!run.success(), "{path}: {}", run.text());
        assert!(!run.text().contains("PRIVATE"), "{path}");
        lab.assert_untouched(&before);
    }
}

#[test]
fn datastores_that_are_none() {
    let lab = Lab::bare("k3s-1.36-sqlite");
    let run = lab.ends(&["bootstrap", "show"], 1);
    assert!(run.text().contains("holds no datastore"), "{}", run.text());
    for (endpoint, code) in [
        ("postgres://u:hunter2@127.0.0.1:1/k", 1),
        ("mysql://u:hunter2@tcp(127.0.0.1:1)/k", 1),
        ("nats://u:hunter2@127.0.0.1", 2),
        ("nonsense hunter2", 2),
        ("http://u:hunter2@127.0.0.1:1", 1),
    ] {
        let run = lab.ends(
            &["bootstrap", "show", "--datastore-endpoint", endpoint],
            code,
        );
        assert!(!run.text().contains("hunter2"), "{}", run.text());
    }
}

#[test]
fn a_living_server() {
    let lab = Lab::new("k3s-1.36-sqlite");
    fs::write(
        lab.server().join("tls/service.key"),
        [
            fs::read(lab.server().join("tls/service.key"))
                .unwrap()
                .as_slice(),
            b"\n",
        ]
        .concat(),
    )
    .unwrap();
    let before = lab.tree();
    // Somebody has the file open.
    let open = fs::File::open(lab.server().join("db/state.db")).unwrap();
    let restore = ["bootstrap", "restore", "--yes", "--still-for", "0"];
    let run = lab.ends(&restore, 5);
    let words = format!("process {} has", std::process::id());
    assert!(run.text().contains(&words), "{}", run.text());
    drop(open);
    lab.assert_untouched(&before);

    // Or the configured server's port answers.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let number = port.local_addr().unwrap().port();
    let config = lab.scratch("config.yaml");
    let data = lab.data_dir();
    let text = format!(
        "data-dir: {}\nhttps-listen-port: {number}\n",
        data.display()
    );
    fs::write(&config, text).unwrap();
    let before = lab.tree();
    let named = [&restore[..], &["--k3s-config", config.to_str().unwrap()]].concat();
    let run = lab.ends(&named, 5);
    let words = format!("127.0.0.1:{number} answers");
    assert!(run.text().contains(&words), "{}", run.text());
    lab.assert_untouched(&before);
    drop(port);
    lab.ends(&named, 0);
}

#[test]
fn etcds_files_are_not_written() {
    let lab = Lab::new("k3s-1.36-etcd-embedded");
    let path = lab.server().join("tls/service.key");
    let mut bytes = fs::read(&path).unwrap();
    bytes.push(b'\n');
    fs::write(&path, bytes).unwrap();
    let before = lab.tree();
    for command in [
        &["bootstrap", "restore", "--yes", "--still-for", "0"][..],
        &[
            "reconcile",
            "--keep",
            "disk",
            "--yes",
            "--still-for",
            "0",
            "--node-ip",
            "10.0.0.1",
        ],
    ] {
        let run = lab.ends(command, 5);
        assert!(run.text().contains("can only be read"), "{}", run.text());
        assert!(run.text().contains("rotate-ca"), "{}", run.text());
        lab.assert_untouched(&before);
    }
}

#[test]
fn a_linked_tls_is_followed_and_told() {
    let lab = Lab::new("k3s-1.36-sqlite");
    let tls = lab.server().join("tls");
    let elsewhere = lab.scratch("elsewhere");
    fs::rename(&tls, &elsewhere).unwrap();
    symlink(&elsewhere, &tls).unwrap();
    lab.ends(&["bootstrap", "diff"], 0);
    fs::remove_file(elsewhere.join("service.key")).unwrap();
    let run = lab.ends(&["bootstrap", "extract", "--yes"], 0);
    assert!(
        run.text()
            .contains("is a link: files below it are written to")
    );
    lab.ends(&["bootstrap", "diff"], 0);
    assert!(elsewhere.join("service.key").exists());
}
