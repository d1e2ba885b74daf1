//! Files of a node that are missing, spoilt, or something else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use super::common::{KUBEPKI, Node};
use super::{SERVER, as_root, assert_civil, run};

const ADMIN: &str = "data/server/tls/client-admin.crt";
const SCHEDULER_KEY: &str = "data/server/tls/client-scheduler.key";
pub const CLIENT_CA: &str = "data/server/tls/client-ca.crt";
pub const CLIENT_CA_KEY: &str = "data/server/tls/client-ca.key";

/// How a tree is spoilt.
type Spoil = fn(&Node);
/// Arguments, exit code, and what is said.
type Answer = (&'static [&'static str], i32, &'static [&'static str]);

const CASES: &[(&str, Spoil, &[Answer])] = &[
    (
        "corrupt leaf",
        |node| node.overwrite(ADMIN, b"garbage\n"),
        SPOILT_LEAF,
    ),
    ("empty leaf", |node| node.overwrite(ADMIN, b""), SPOILT_LEAF),
    (
        "truncated leaf",
        |node| truncate(node, ADMIN, 400),
        SPOILT_LEAF,
    ),
    (
        "huge leaf",
        |node| truncate(node, ADMIN, 17 << 20),
        &[
            (
                &["check"],
                4,
                &["client-admin.crt", "17825792 bytes", "kubepki renew"],
            ),
            (
                &["renew", "--yes"],
                1,
                &["client-admin.crt", "17825792 bytes", "remove it"],
            ),
        ],
    ),
    (
        "key of another",
        |node| copy(node, "data/server/tls/client-admin.key", SCHEDULER_KEY),
        &[
            (
                &["check"],
                4,
                &["belongs to another certificate", "kubepki renew"],
            ),
            (
                &["renew", "--dry-run"],
                0,
                &["its key is another certificate's"],
            ),
        ],
    ),
    (
        "CA key missing",
        |node| fs::remove_file(node.path(CLIENT_CA_KEY)).unwrap(),
        &[
            (
                &["check"],
                4,
                &["client-ca.crt is missing", "put back a backup"],
            ),
            (
                &["rotate", "--yes"],
                1,
                &["client-ca.key is missing", "backup"],
            ),
        ],
    ),
    (
        "CA key of another",
        |node| copy(node, "data/server/tls/server-ca.key", CLIENT_CA_KEY),
        &[
            (
                &["check"],
                4,
                &["belongs to another certificate", "put back a backup"],
            ),
            (
                &["rotate", "--yes"],
                1,
                &["client-ca.key holds another key"],
            ),
            (
                &["kubeconfig", "create", "--user", "x", "--out", "-"],
                1,
                &["client-ca"],
            ),
        ],
    ),
    (
        "corrupt CA",
        |node| node.overwrite(CLIENT_CA, b"{"),
        &[
            (&["check"], 4, &["client-ca.crt", "put back a backup"]),
            (
                &["rotate", "--yes"],
                1,
                &["client-ca.crt cannot be used", "no CERTIFICATE"],
            ),
            (
                &["kubeconfig", "list"],
                1,
                &["client-ca.crt is not what it should be", "backup"],
            ),
            (
                &["kubeconfig", "create", "--user", "x", "--out", "-"],
                1,
                &["client-ca.crt"],
            ),
        ],
    ),
    (
        "huge CA",
        |node| truncate(node, CLIENT_CA, 17 << 20),
        &[(
            &["rotate", "--yes"],
            1,
            &["client-ca.crt", "cannot be read", "17825792 bytes"],
        )],
    ),
    (
        "times",
        |_| {},
        &[
            // The CA is over, ends before the leaf would, has not begun.
            (
                &["plan", "--at", "2036-11-20T00:00:00Z"],
                1,
                &["client-ca", "expired", "rotate-ca"],
            ),
            (
                &["check", "--at", "2036-11-20T00:00:00Z"],
                4,
                &["expired", "rotate-ca"],
            ),
            (
                &["plan", "--at", "2036-06-01T00:00:00Z", "--service", "admin"],
                0,
                &["system:admin, ends 2036-11-19T05:19:11Z"],
            ),
            (
                &["plan", "--at", "2026-01-01T00:00:00Z", "--service", "admin"],
                1,
                &[
                    "client-ca",
                    "not valid before 2026-11-22T05:19:11Z",
                    "set the clock",
                ],
            ),
            (
                &["check", "--at", "2026-01-01T00:00:00Z"],
                4,
                &["set this machine's clock"],
            ),
            (
                &["plan", "--at", "2026-01-01T00:00:00Z"],
                0,
                &[
                    "Note:",
                    "client-ca.crt is not valid before",
                    "set the clock",
                ],
            ),
            (&["plan", "--at", "soon"], 2, &["2027-01-31T12:00:00Z"]),
            (
                &["rotate", "--service", "admn"],
                2,
                &["service admn is not recognized", "admin"],
            ),
            (&["rotate", "--tls-san", "x y"], 2, &["\"x y\"", "letters"]),
            (&["rotate", "--tls-san", "ü.example.org"], 2, &["xn--"]),
        ],
    ),
    (
        "pipe",
        |node| {
            fs::remove_file(node.path(ADMIN)).unwrap();
            assert!(testkit::run("mkfifo", &[node.path(ADMIN)], b"").success());
        },
        SPECIAL,
    ),
    (
        "socket",
        |node| {
            fs::remove_file(node.path(ADMIN)).unwrap();
            // The name of a socket is shorter than the path of a test.
            let short = tempfile::tempdir().unwrap();
            UnixListener::bind(short.path().join("s")).unwrap();
            fs::rename(short.path().join("s"), node.path(ADMIN)).unwrap();
        },
        SPECIAL,
    ),
    (
        "directory for a key",
        |node| {
            fs::remove_file(node.path(SCHEDULER_KEY)).unwrap();
            fs::create_dir(node.path(SCHEDULER_KEY)).unwrap();
        },
        &[
            (
                &["check"],
                4,
                &["client-scheduler.key: is a directory", "-> rm -r"],
            ),
            (
                &["renew", "--yes"],
                1,
                &["client-scheduler.key: is a directory", "remove it"],
            ),
            (
                &["rotate", "--yes"],
                1,
                &["client-scheduler.key: is a directory"],
            ),
        ],
    ),
    (
        "leaf that is a link",
        |node| {
            fs::rename(node.path(ADMIN), node.path("data/elsewhere.crt")).unwrap();
            symlink("../../elsewhere.crt", node.path(ADMIN)).unwrap();
        },
        &[
            (
                &["check"],
                3,
                &["is a link", "server/tls/../../elsewhere.crt"],
            ),
            (
                &["renew", "--yes"],
                1,
                &["client-admin.crt: is a link to ../../elsewhere.crt"],
            ),
            (&["rotate", "--yes"], 1, &["client-admin.crt: is a link"]),
        ],
    ),
    (
        "tls that is a link out of the tree",
        |node| {
            fs::rename(node.path("data/server/tls"), node.path("outside")).unwrap();
            symlink(node.path("outside"), node.path("data/server/tls")).unwrap();
        },
        &[
            (&["check"], 3, &["server/tls", "leads outside", "outside"]),
            (
                &["rotate", "--dry-run"],
                0,
                &["Note:", "link out of the data directory"],
            ),
        ],
    ),
    (
        "K3s's configuration",
        |node| fs::write(node.path("config.yaml"), "data-dir: [a\n").unwrap(),
        &[
            (
                &["check", "--k3s-config", "CONFIG"],
                1,
                &["config.yaml:1", "unclosed bracket"],
            ),
            (&["rotate", "--k3s-config", "CONFIG"], 1, &["config.yaml:1"]),
            (
                &["renew", "--k3s-config", "/nonexistent.yaml"],
                1,
                &["there is no such file"],
            ),
        ],
    ),
    (
        "K3s's service network",
        |node| fs::write(node.path("config.yaml"), "service-cidr: x\n").unwrap(),
        &[(
            &["rotate", "--k3s-config", "CONFIG"],
            1,
            &["config.yaml:1", "\"x\"", "10.43.0.0/16"],
        )],
    ),
];

const SPOILT_LEAF: &[Answer] = &[
    (
        &["check"],
        4,
        &[
            "client-admin.crt",
            "is not what it should be",
            "kubepki renew",
        ],
    ),
    (
        &["renew", "--dry-run"],
        0,
        &["client-admin.crt", "cannot be read as a certificate"],
    ),
    (
        &["plan"],
        0,
        &["cannot be read as a certificate", "kubepki apply"],
    ),
];

const SPECIAL: &[Answer] = &[
    (
        &["check"],
        4,
        &[
            "client-admin.crt: cannot be read: it is a socket, pipe",
            "-> rm ",
        ],
    ),
    (
        &["renew", "--yes"],
        1,
        &["client-admin.crt: cannot be read", "remove it"],
    ),
    (
        &["rotate", "--yes"],
        1,
        &["client-admin.crt: cannot be read", "remove it"],
    ),
];

/// Every command that looks at a node.
const COMMANDS: &[&[&str]] = &[
    &["check", "-o", "json"],
    &["check", "--timeline"],
    &["plan"],
    &["rotate", "--dry-run"],
    &["renew", "--dry-run"],
    &["kubeconfig", "list"],
    &["kubeconfig", "renew", "--dry-run"],
    &["history"],
    &["undo", "--yes"],
    &["resume"],
];

#[test]
fn spoilt_trees_are_told_and_left_alone() {
    for (name, spoil, answers) in CASES {
        let node = Node::new(SERVER);
        spoil(&node);
        let before = node.tree();
        for (args, code, says) in *answers {
            let config = node.text_path("config.yaml");
            let args: Vec<&str> = args
                .iter()
                .map(|arg| {
                    if *arg == "CONFIG" {
                        config.as_str()
                    } else {
                        arg
                    }
                })
                .collect();
            let run = node.ends(&args, *code);
            // Lines are broken where they are too long for a terminal.
            let text = run.text().split_whitespace().collect::<Vec<_>>().join(" ");
            for words in *says {
                assert!(text.contains(words), "{name}: {args:?}: {words:?}: {text}");
            }
            assert_civil(name, &run);
        }
        node.assert_is(&before);
    }
}

#[test]
fn no_command_panics_on_a_spoilt_tree() {
    for (name, spoil, _) in CASES {
        let node = Node::new(SERVER);
        spoil(&node);
        let before = node.tree();
        for command in COMMANDS {
            assert_civil(&format!("{name}: {command:?}"), &node.run(command));
        }
        let data = node.text_path("data");
        for form in ["table", "json"] {
            let args = [
                "k3s",
                "certificate",
                "check",
                "-o",
                form,
                "--data-dir",
                &data,
            ];
            assert_civil(name, &testkit::run(KUBEPKI, &args, b""));
        }
        node.assert_is(&before);
    }
}

#[test]
fn half_a_rotation_by_k3s_is_made_whole() {
    let node = Node::new(SERVER);
    let whole = node.contents();
    for gone in [
        ADMIN,
        "data/server/tls/client-admin.key",
        "data/server/tls/etcd/client.crt",
        SCHEDULER_KEY,
    ] {
        fs::remove_file(node.path(gone)).unwrap();
    }
    fs::remove_dir_all(node.path("data/server/tls/kube-scheduler")).unwrap();
    let half = node.tree();
    let run = node.ends(&["check"], 4);
    assert!(run.text().contains("kubepki renew"), "{}", run.text());
    node.ok(&["renew", "--yes"]);
    node.ok(&["check"]);
    let paths = |files: &std::collections::BTreeMap<String, Vec<u8>>| -> Vec<String> {
        files.keys().cloned().collect()
    };
    assert_eq!(paths(&whole), paths(&node.contents()));
    node.ok(&["undo", "--yes"]);
    node.assert_is(&half);
}

#[test]
fn what_a_user_may_not_read_is_said_once() {
    if !as_root() {
        println!("skipped: only root can become somebody else");
        return;
    }
    let node = Node::new(SERVER);
    let program = node.text_path("kubepki");
    fs::copy(KUBEPKI, &program).unwrap();
    fs::set_permissions(node.root(), PermissionsExt::from_mode(0o755)).unwrap();
    let before = node.tree();
    let data = node.text_path("data");
    for command in COMMANDS
        .iter()
        .chain(&[&["rotate", "--yes"][..], &["renew", "--yes"]])
    {
        let args = [*command, &["--data-dir", &data]].concat();
        let run = run(&program, &args, Some("65534"));
        let text = run.text();
        assert_civil("another user", &run);
        assert_eq!(run.code, Some(1), "{command:?}: {text}");
        assert!(text.contains("server/tls: Permission denied"), "{text}");
        assert!(
            text.contains("run it as the user that K3s runs as"),
            "{text}"
        );
    }
    node.assert_untouched(&before);
}

#[test]
fn a_missing_tree_is_named_by_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let missing = missing.to_str().unwrap();
    for command in COMMANDS
        .iter()
        .chain(&[&["rotate", "--yes"][..], &["renew", "--yes"]])
    {
        let args = [*command, &["--data-dir", missing]].concat();
        let run = run(KUBEPKI, &args, None);
        assert_civil("missing", &run);
        assert_eq!(run.code, Some(1), "{command:?}: {}", run.text());
        assert!(run.text().contains(missing), "{}", run.text());
        assert!(run.text().contains("--data-dir"), "{}", run.text());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

fn truncate(node: &Node, below: &str, length: u64) {
    let file = fs::OpenOptions::new().write(true).open(node.path(below));
    file.unwrap().set_len(length).unwrap();
}

fn copy(node: &Node, from: &str, to: &str) {
    node.overwrite(to, &fs::read(node.path(from)).unwrap());
}
