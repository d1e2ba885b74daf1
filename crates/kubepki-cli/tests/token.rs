//! `kubepki token show`, `check` and `create` on what real clusters wrote.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use std::fs;

use common::{KUBEPKI, Node};
use testkit::Run;

/// Every server of the fixtures whose token is of its present CA.
const SERVERS: [&str; 11] = [
    "k3s-1.36-sqlite",
    "k3s-1.36-custom-ca",
    "k3s-1.36-custom-ca-rotated",
    "k3s-1.36-default-rotated",
    "k3s-1.36-encryption-token-rotated",
    "k3s-1.36-postgres",
    "k3s-1.36-mariadb",
    "k3s-1.36-etcd-embedded",
    "k3s-1.36-new-root-forced",
    "k3s-1.21-sqlite",
    "k3s-1.21-custom-ca",
];

const PASSWORD: &str = "fixture-token-0123456789abcdef";

fn recorded(node: &Node) -> String {
    let text = fs::read_to_string(node.path("data/server/token")).unwrap();
    text.trim().to_owned()
}

fn stdout(run: &Run) -> String {
    String::from_utf8(run.stdout.clone()).unwrap()
}

/// The node's `token check` of `token`, with more arguments.
fn check(node: &Node, token: &str, more: &[&str]) -> Run {
    let mut args = vec!["token", "check"];
    args.extend(more);
    let site = node.site();
    args.extend(site.iter().map(String::as_str));
    testkit::run(KUBEPKI, &args, token.as_bytes())
}

#[test]
fn show_tells_the_recorded_token_of_every_server() {
    for name in SERVERS {
        let node = Node::new(name);
        let before = node.tree();
        let lines = stdout(&node.ok(&["token", "show"]));
        let words: Vec<Vec<&str>> = lines
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let server = recorded(&node);
        let password = server.rsplit(':').next().unwrap();
        assert_eq!(words[0], ["server", &server], "{name}");
        assert_eq!(words[1], ["server", password], "{name}");
        let own = fs::read_link(node.path("data/server/agent-token")).is_err();
        match own && name.contains("1.36") {
            true => {
                let agent = fs::read_to_string(node.path("data/server/agent-token")).unwrap();
                assert_eq!(words[2], ["agent", agent.trim()], "{name}");
            }
            false => {
                let agent = server.replace("::server:", "::node:");
                assert_eq!(words[2], ["agent", &agent], "{name}");
            }
        }
        node.assert_untouched(&before);
    }
}

#[test]
fn show_foretells_the_token_after_a_staged_set() {
    for (name, staged, after) in [
        (
            "k3s-1.36-custom-ca",
            "extra/staged-same-root",
            "k3s-1.36-custom-ca-rotated",
        ),
        (
            "k3s-1.36-default-rotated",
            "data/server/rotate-ca",
            "k3s-1.36-default-rotated",
        ),
    ] {
        let node = Node::new(name);
        let staged = node.text_path(staged);
        let shown = node.ok(&["token", "show", "--path", &staged, "-o", "json"]);
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        let expected = recorded(&Node::new(after));
        assert_eq!(shown["server"]["full"], expected.as_str(), "{name}");
    }
}

#[test]
fn check_knows_what_a_token_is_good_for() {
    let node = Node::new("k3s-1.36-encryption-token-rotated");
    let server = recorded(&node);
    let agent = fs::read_to_string(node.path("data/server/agent-token")).unwrap();
    let hash = server.get(3..67).unwrap();
    let cases = [
        (server.clone(), 0, "the servers' password"),
        (format!("{server}\r\n"), 0, "the servers' password"),
        (agent, 0, "the agents' password"),
        ("rotated-token-abcdef0123456789".to_owned(), 0, "no CA"),
        (
            "K10::server:rotated-token-abcdef0123456789".to_owned(),
            0,
            "without a CA hash",
        ),
        (
            format!("K10{hash}::abc123.0123456789abcdef"),
            0,
            "bootstrap",
        ),
        // The password of before.
        (
            format!("K10{hash}::server:{PASSWORD}"),
            4,
            "no password of this cluster",
        ),
        (
            recorded(&Node::new("k3s-1.36-sqlite")),
            4,
            "not known to be this cluster's",
        ),
        (server.replace(hash, &hash.to_uppercase()), 4, "not known"),
    ];
    let before = node.tree();
    for (token, code, words) in cases {
        let run = check(&node, &token, &[]);
        assert_eq!(run.code, Some(code), "{token}: {}", run.text());
        assert!(run.text().contains(words), "{token}: {}", run.text());
        assert!(!run.text().contains("rotated-token"), "{}", run.text());
    }
    node.assert_untouched(&before);
}

#[test]
fn check_sees_through_the_token_that_the_script_prints() {
    let node = Node::new("k3s-1.36-default-rotated");
    let printed = node.path("extra/script-printed-tokens.txt");
    let printed = fs::read_to_string(printed).unwrap();
    let token = printed.split_whitespace().nth(3).unwrap();
    let run = check(&node, token, &[]);
    assert_eq!(run.code, Some(4), "{}", run.text());
    assert!(
        run.text().contains("rotate-default-ca-certs.sh"),
        "{}",
        run.text()
    );

    // The CA that the cluster had before is still in the bundle.
    let old = fs::read_to_string(node.path("data/server/tls/server-ca.crt")).unwrap();
    let (last, _) = old
        .rmatch_indices("-----BEGIN")
        .next()
        .map(|(at, _)| (&old[at..], at))
        .unwrap();
    let token = format!("K10{}::server:{PASSWORD}", testkit::sha256(last.as_bytes()));
    let run = check(&node, &token, &[]);
    assert_eq!(run.code, Some(4), "{}", run.text());
    assert!(
        run.text().contains("a former CA of this cluster"),
        "{}",
        run.text()
    );
}

#[test]
fn check_says_what_a_staged_set_does_to_a_token() {
    let node = Node::new("k3s-1.36-custom-ca");
    let same = node.text_path("extra/staged-same-root");
    let run = check(&node, &recorded(&node), &["--path", &same]);
    assert_eq!(run.code, Some(0), "{}", run.text());
    let forced = Node::new("k3s-1.36-new-root-forced");
    let other = forced.text_path("data/server");
    let run = check(&node, &recorded(&node), &["--path", &other]);
    assert_eq!(run.code, Some(3), "{}", run.text());
    let run = check(&node, PASSWORD, &["--path", &other, "-o", "json"]);
    assert_eq!(run.code, Some(0), "{}", run.text());
    let answer: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(answer["acceptedAfterStagedSet"], true);
}

#[test]
fn nonsense_is_named_and_never_shown() {
    let node = Node::new("k3s-1.36-sqlite");
    for (token, words) in [
        ("", "empty"),
        ("\u{feff}hunter2-and-more", "byte order mark"),
        ("hunter2-and-more\nhunter2-and-more", "control character"),
        ("K10abc::server:hunter2-and-more", "3 characters, not 64"),
        ("K10hunter2-and-more", "no password"),
    ] {
        let run = check(&node, token, &[]);
        assert_eq!(run.code, Some(4), "{token:?}: {}", run.text());
        assert!(run.text().contains(words), "{token:?}: {}", run.text());
        assert!(!run.text().contains("hunter2"), "{}", run.text());
    }
    let huge = "x".repeat(200_000);
    assert!(check(&node, &huge, &[]).text().contains("are no token"));
    let agent = Node::new("k3s-1.36-agent-only");
    let run = agent.ends(&["token", "show"], 1);
    assert!(run.text().contains("on its servers"), "{}", run.text());
    let node = Node::new("k3s-1.36-sqlite");
    node.overwrite("data/server/cred/passwd", b"no comma\n");
    let run = node.ends(&["token", "show"], 1);
    assert!(run.text().contains("cred/passwd"), "{}", run.text());
}

#[test]
fn links_are_not_followed_to_the_live_tree() {
    let node = Node::new("k3s-1.36-sqlite");
    let live = tempfile::tempdir().unwrap();
    let theirs = live.path().join("token");
    testkit::run(
        "cp",
        &[
            "-p",
            &node.text_path("data/server/token"),
            theirs.to_str().unwrap(),
        ],
        b"",
    );
    let token = node.text_path("data/server/token");
    testkit::run("ln", &["-sf", theirs.to_str().unwrap(), &token], b"");
    let run = node.ends(&["token", "show"], 1);
    assert!(run.text().contains("a link to"), "{}", run.text());
}

#[test]
fn create_makes_tokens_for_clusters_to_be() {
    let run = |args: &[&str]| {
        let run = testkit::run(KUBEPKI, args, b"");
        assert!(run.success(), "{}", run.text());
        stdout(&run)
    };
    let one = run(&["token", "create"]);
    assert_eq!(one.trim_end().len(), 32);
    assert_ne!(one, run(&["token", "create"]));

    let node = Node::new("k3s-1.36-custom-ca");
    let before = node.tree();
    let path = node.text_path("data/server");
    let made = run(&["token", "create", "--path", &path, "-o", "json"]);
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let full = made["server"]["full"].as_str().unwrap();
    assert_eq!(full.get(..67), recorded(&node).get(..67));
    let agent = made["agent"]["full"].as_str().unwrap();
    assert!(agent.contains("::node:"), "{agent}");
    node.assert_untouched(&before);

    let nothing = tempfile::tempdir().unwrap();
    let nothing = nothing.path().to_str().unwrap();
    let empty = testkit::run(KUBEPKI, &["token", "create", "--path", nothing], b"");
    assert_eq!(empty.code, Some(2), "{}", empty.text());
}
