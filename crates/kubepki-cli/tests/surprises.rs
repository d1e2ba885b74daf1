//! What an operator stumbles over: a listener that cannot be read, keys that are open to everybody, names
//! that only some servers get, kubeconfigs named by relative paths.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use std::os::unix::fs::PermissionsExt;

use common::leaves::leaf;
use common::{KUBEPKI, Node};
use pki::San;

fn mode(node: &Node, below: &str) -> u32 {
    std::fs::metadata(node.path(below))
        .unwrap()
        .permissions()
        .mode()
        & 0o777
}

#[test]
fn a_listener_that_cannot_be_read_makes_way_for_a_new_one() {
    let node = Node::new("k3s-1.36-sqlite");
    node.overwrite("data/server/tls/dynamic-cert.json", b"{");
    let before = node.tree();
    let run = node.ok(&["rotate", "--service", "k3s-server", "--yes"]);
    assert!(
        run.text().contains("cannot be read and is removed"),
        "{}",
        run.text()
    );
    assert!(!node.path("data/server/tls/dynamic-cert.json").exists());
    node.ok(&["undo", "--yes"]);
    node.assert_is(&before);
    let run = node.ok(&["renew", "--dry-run"]);
    assert!(
        run.text().contains("remove server/tls/dynamic-cert.json"),
        "{}",
        run.text()
    );
}

#[test]
fn what_k3s_wrote_into_its_listener_since_is_in_the_way_of_no_undo() {
    let node = Node::new("k3s-1.36-sqlite");
    let listener = "data/server/tls/dynamic-cert.json";
    let with = |name: &str| {
        let text = std::fs::read_to_string(node.path(listener)).unwrap();
        let new = format!("\"annotations\":{{\"listener.cattle.io/cn-{name}\":\"{name}\",");
        let learnt = text.replace("\"annotations\":{", &new);
        assert_ne!(learnt, text);
        node.overwrite(listener, learnt.as_bytes());
        learnt
    };
    let before = node.tree();
    node.ok(&["rotate", "--yes"]);
    let learnt = with("one");
    node.ok(&["undo", "--yes"]);
    node.assert_is(&before);
    // And of the undo's undo, which brings back what that found.
    with("two");
    let history = node.ok(&["history"]).text();
    let id = history.split_whitespace().find(|it| it.contains("-undo-"));
    node.ok(&["undo", id.unwrap(), "--yes"]);
    assert_eq!(
        std::fs::read_to_string(node.path(listener)).unwrap(),
        learnt
    );
    // Any other file is somebody's.
    node.overwrite("data/server/tls/client-admin.crt", b"mine");
    node.ends(&["undo", "--yes"], 5);
}

#[test]
fn a_key_that_is_open_to_everybody_is_told_and_keeps_its_mode() {
    let node = Node::new("k3s-1.36-sqlite");
    let key = "data/server/tls/client-admin.key";
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(node.path(key), open).unwrap();
    let run = node.ok(&["rotate", "--service", "admin", "--yes"]);
    assert!(run.text().contains("open to everybody"), "{}", run.text());
    assert_eq!(mode(&node, key), 0o644);
}

#[test]
fn a_name_goes_to_every_server_whatever_service_is_rotated() {
    let node = Node::new("k3s-1.36-sqlite");
    node.ok(&[
        "rotate",
        "--service",
        "api-server",
        "--tls-san",
        "new.example",
        "--yes",
    ]);
    let name = San::Dns("new.example".to_owned());
    for path in [
        "data/server/tls/serving-kube-apiserver.crt",
        "data/server/tls/etcd/server-client.crt",
        "data/server/tls/etcd/peer-server-client.crt",
    ] {
        assert!(leaf(&node, path).sans().contains(&name), "{path}");
    }
    assert!(
        common::leaves::listener(&node)
            .sans
            .contains(&"new.example".to_owned())
    );
    assert!(
        !leaf(&node, "data/server/tls/kube-scheduler/kube-scheduler.crt")
            .sans()
            .contains(&name)
    );
}

#[test]
fn kubeconfigs_may_be_named_from_here_and_one_missing_does_not_hide_the_rest() {
    let node = Node::new("k3s-1.36-sqlite");
    let made = node.text_path("data/jane.yaml");
    let create = ["kubeconfig", "create", "--user", "jane", "--ttl", "300s"];
    let server = ["--server", "https://192.0.2.1:6443", "--out", &made];
    node.ok(&[&create[..], &server[..]].concat());
    let refused = ["--group", "system:masters"];
    let other = [
        "--server",
        "https://192.0.2.1:6443",
        "--out",
        "/nonexistent/x",
    ];
    node.ends(&[&create[..], &other[..], &refused[..]].concat(), 5);

    let list = node.ends(&["kubeconfig", "list", "/nonexistent/a", &made], 4);
    assert!(
        list.text()
            .contains("/nonexistent/a: cannot be read: it is not there")
    );
    assert!(
        list.text().contains("jane.yaml user default (jane)"),
        "{}",
        list.text()
    );

    // Five minutes, backdated by an hour: it is in its last third from the beginning.
    let site = node.site();
    let arguments: Vec<String> = ["-c", "cd \"$1\" && shift && exec \"$@\"", "sh"]
        .map(str::to_owned)
        .into_iter()
        .chain([node.text_path("data"), KUBEPKI.to_owned()])
        .chain(["kubeconfig", "renew", "jane.yaml", "--yes"].map(str::to_owned))
        .chain(site)
        .collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let run = testkit::run("sh", &words, b"");
    assert_eq!(run.code, Some(0), "{}", run.text());
    assert!(
        run.text().contains("Done: renew 1 kubeconfig(s)"),
        "{}",
        run.text()
    );
}
