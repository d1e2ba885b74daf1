//! Staging on a node.

use std::fs;
use std::path::Path;

use testkit::{DiffOptions, Tree};

use crate::common::{KUBEPKI, Node};
use crate::{openssl_accepts, program};

/// Runs `kubepki ca ARGS` on a node, and the node's `server/` must be as it was.
#[track_caller]
fn ca(node: &Node, args: &[&str], code: i32) -> String {
    let server = node.path("data/server");
    let before = Tree::snapshot(&server);
    let run = node.ends(&[&["ca"], args].concat(), code);
    let after = Tree::snapshot(&server);
    let changed = Tree::diff(&before, &after, &DiffOptions::exact());
    assert!(changed.is_empty(), "{changed:?}");
    let text = run.text();
    assert!(
        !text.contains("PRIVATE KEY") && !text.contains("fixture-token"),
        "{text}"
    );
    text
}

#[test]
fn cross_signed_into_the_state_directory() {
    let node = Node::new("k3s-1.36-sqlite");
    let off = node.text_path("off");
    let said = ca(&node, &["stage", "--cross-signed", "--offline", &off], 0);
    assert!(
        said.contains("Tokens that pin the CA change: hash ") && said.contains("server-root.key"),
        "{said}"
    );
    assert!(said.contains("Next: kubepki rotate-ca --staged"), "{said}");
    let staged = node.path("data/kubepki/staged");
    for name in [
        "client-ca",
        "server-ca",
        "request-header-ca",
        "etcd/peer-ca",
        "etcd/server-ca",
    ] {
        let new = staged.join(format!("tls/{name}.crt"));
        let old = node.path(&format!("data/server/tls/{name}.crt"));
        assert!(openssl_accepts(&new, 2, &old), "{name}");
        // The whole file, as K3s serves it, in our order.
        assert!(openssl_accepts(&new, 4, &old), "{name}");
    }
    // A second set is not mixed into the first.
    let said = ca(
        &node,
        &[
            "stage",
            "--cross-signed",
            "--offline",
            &node.text_path("off2"),
        ],
        5,
    );
    assert!(said.contains("is not empty"), "{said}");
    assert!(!node.path("off2").exists());
}

#[test]
fn where_keys_may_not_go() {
    let node = Node::new("k3s-1.36-sqlite");
    let off = node.text_path("off");
    let said = ca(&node, &["stage", "--cross-signed"], 2);
    assert!(said.contains("--offline"), "{said}");
    let on_node = node.text_path("data/off");
    let said = ca(&node, &["stage", "--new-root", "--offline", &on_node], 5);
    assert!(said.contains("--keep-on-node"), "{said}");
    std::os::unix::fs::symlink("server/tls", node.path("data/link")).unwrap();
    for out in [
        "data/server/tls",
        "data/server/tls/new",
        "data/server",
        "data/link",
        "data/kubepki/../server/tls",
    ] {
        let out = node.text_path(out);
        for command in [
            &["stage", "--cross-signed", "--offline", &off, "--out", &out][..],
            &["create", "--offline", &off, "--out", &out],
            &["request", "--out", &out],
            &["import", "--request", &off, "--out", &out, &off],
        ] {
            let said = ca(&node, command, 5);
            assert!(said.contains("live tls"), "{said}");
        }
    }
    ca(&node, &["stage"], 2);
    ca(&node, &["stage", "--same-root", "--new-root"], 2);
    assert!(!node.path("off").exists() && !node.path("data/off").exists());
}

#[test]
fn the_same_root_finds_the_scripts_working_files() {
    let node = Node::new("k3s-1.36-custom-ca");
    let out = node.text_path("out");
    let said = ca(&node, &["stage", "--same-root", "--out", &out], 0);
    assert!(said.contains("Tokens stay as they are"), "{said}");
    assert!(openssl_accepts(
        &node.path("out/tls/server-ca.crt"),
        2,
        &node.path("data/server/tls/root-ca.pem")
    ));
    let old = fs::read(node.path("data/server/tls/service.key")).unwrap();
    let new = fs::read(node.path("out/tls/service.key")).unwrap();
    let old = String::from_utf8(old).unwrap();
    assert!(
        new.ends_with(old.trim_end().as_bytes())
            || new.ends_with(format!("{}\n", old.trim_end()).as_bytes())
    );
}

#[test]
fn releases_that_take_no_cas_under_cas_are_told_apart() {
    let node = Node::new("k3s-1.21-sqlite");
    let off = node.text_path("off");
    for version in ["v1.21.2", "v1.24.10", "v1.26.1"] {
        let args = [
            "stage",
            "--cross-signed",
            "--offline",
            &off,
            "--k3s-version",
            version,
        ];
        let said = ca(&node, &args, 5);
        assert!(said.contains("v1.26.2") && said.contains(version), "{said}");
    }
    ca(
        &node,
        &[
            "stage",
            "--cross-signed",
            "--offline",
            &off,
            "--k3s-version",
            "v1.26.2",
        ],
        0,
    );
}

/// The environment that the scripts take, and nothing else.
#[test]
fn scripts_by_another_name() {
    let folder = tempfile::tempdir().unwrap();
    let data = format!("DATA_DIR={}", folder.path().display());
    let run = |more: &[&str], command: &str, code: i32| {
        let run = testkit::run(
            "env",
            &[&[&data[..]], more, &[KUBEPKI, "k3s", command]].concat(),
            b"",
        );
        assert_eq!(run.code, Some(code), "{}", run.text());
        String::from_utf8(run.stdout).unwrap()
    };
    let said = run(&["PRODUCT=rke2"], "generate-custom-ca-certs", 0);
    assert!(
        said.contains(
            "Generating rke2-etcd-peer-ca leaf certificate authority EC key and certificate\n"
        ),
        "{said}"
    );
    assert!(
        said.ends_with(&format!(
            "rotate-ca --path={}/server\n",
            folder.path().display()
        )),
        "{said}"
    );
    let said = run(&[], "rotate-default-ca-certs", 1);
    assert_eq!(said, "");
    let said = testkit::run(
        "env",
        &[&data[..], KUBEPKI, "k3s", "rotate-default-ca-certs"],
        b"",
    )
    .text();
    assert!(
        said.contains("server/token does not exist; cannot continue"),
        "{said}"
    );

    let node = Node::new("k3s-1.36-sqlite");
    let token = node.path("data/server/token");
    assert!(token.exists());
    let data = format!("DATA_DIR={}", node.text_path("data"));
    let said = testkit::run(
        "env",
        &[&data[..], KUBEPKI, "k3s", "rotate-default-ca-certs"],
        b"",
    );
    assert_eq!(said.code, Some(0), "{}", said.text());
    let said = said.text();
    assert!(
        said.contains("::node:fixture-token") && said.contains("::server:fixture-token"),
        "{said}"
    );
    let said = testkit::run(
        "env",
        &[&data[..], KUBEPKI, "k3s", "generate-custom-ca-certs"],
        b"",
    );
    assert_eq!(said.code, Some(1), "{}", said.text());
}

/// Killed anywhere, each directory is whole or absent; the next run mends what was left.
#[test]
fn a_crash_leaves_all_or_nothing() {
    let node = Node::new("k3s-1.36-sqlite");
    let (out, off) = (node.path("out"), node.path("off"));
    let arguments = [
        "ca",
        "stage",
        "--cross-signed",
        "--data-dir",
        &node.text_path("data"),
        "--out",
        &node.text_path("out"),
        "--offline",
        &node.text_path("off"),
    ];
    let victim = testkit::Victim::new(KUBEPKI, arguments).alone();
    let clear = || {
        for path in [&out, &off] {
            testkit::run("rm", &[Path::new("-rf"), path], b"");
        }
    };
    let points = victim.crash_points();
    clear();
    // Every call about directories and names, and every fifth of those that fill files.
    let telling = |call: &str| call.contains("rename") || call.contains("dir");
    let chosen = points
        .iter()
        .enumerate()
        .filter(|(index, point)| telling(&point.call) || index % 5 == 0);
    let mut killed = 0;
    for (_, point) in chosen {
        victim.crash_at(point);
        killed += 1;
        for (path, files) in [(&out, 12), (&off, 10)] {
            if path.exists() {
                assert_eq!(files_below(path), files, "{point:?}");
            }
        }
        assert!(!out.exists() || off.exists(), "{point:?}");
        clear();
    }
    assert!(killed > 20, "{killed}");
    // What is left of all those has one name, and goes with the next run.
    program(&arguments, 0);
    let names = fs::read_dir(node.root()).unwrap();
    let left = names.filter(|it| {
        it.as_ref()
            .unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .starts_with('.')
    });
    assert_eq!(left.count(), 0);
}

fn files_below(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path());
    entries
        .map(|it| if it.is_dir() { files_below(&it) } else { 1 })
        .sum()
}
