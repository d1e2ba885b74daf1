//! `--restart-command`: a restart counts as done only once the new certificates are served.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use common::leaves::{first, leaf, listener};
use common::{Node, changed};
use testkit::{Run, openssl};

/// Serves the listener's certificate on the first port and the API server's on the second, as
/// K3s would; `$1` is where they are taken from, `$2` the folder of this test. Ends what it
/// started before.
const SERVE: &str = r#"#!/bin/sh
set -eu
tls=$1 work=$2 listener=$3 apiserver=$4
if [ -e "$work/pids" ]; then
    for pid in $(cat "$work/pids"); do
        kill "$pid" 2>/dev/null || true
        while grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$pid/status"; do sleep 0.05; done
    done
fi
field() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p' "$tls/dynamic-cert.json" | base64 -d; }
umask 077
field tls.crt > "$work/listener.crt"
field tls.key > "$work/listener.key"
serve() {
    setsid openssl s_server -www -accept "127.0.0.1:$1" -cert "$2" -cert_chain "$2" -key "$3" \
        </dev/null >/dev/null 2>&1 &
    echo $!
}
serve "$listener" "$work/listener.crt" "$work/listener.key" > "$work/pids"
serve "$apiserver" "$tls/serving-kube-apiserver.crt" "$tls/serving-kube-apiserver.key" >> "$work/pids"
"#;

/// A node whose kubeconfigs name two free ports, and servers on them.
struct Served {
    node: Node,
    ports: [u16; 2],
}

impl Served {
    fn new() -> Self {
        let node = Node::new("k3s-1.36-sqlite");
        let ports = [(), ()].map(|()| testkit::free_port());
        for (file, old, port) in [
            ("extra/k3s.yaml", 6443, ports[0]),
            ("data/server/cred/admin.kubeconfig", 6444, ports[1]),
        ] {
            let text = std::fs::read_to_string(node.path(file)).unwrap();
            let edited = text.replace(&format!("127.0.0.1:{old}"), &format!("127.0.0.1:{port}"));
            assert_ne!(text, edited);
            node.overwrite(file, edited.as_bytes());
        }
        let script = node.path("extra/serve");
        std::fs::File::create_new(script).unwrap();
        node.overwrite("extra/serve", SERVE.as_bytes());
        std::fs::create_dir(node.path("work")).unwrap();
        Self { node, ports }
    }

    /// The command that serves the files below `tls`.
    fn command(&self, tls: &str) -> String {
        let [listener, apiserver] = self.ports;
        let path = |below: &str| self.node.text_path(below);
        let (script, tls, work) = (path("extra/serve"), path(tls), path("work"));
        format!("sh {script} {tls} {work} {listener} {apiserver}")
    }

    fn rotate(&self, command: &str, timeout: &str) -> Run {
        self.node.run(&[
            "rotate",
            "--yes",
            "--service",
            "api-server,k3s-server",
            "--restart-command",
            command,
            "--restart-timeout",
            timeout,
        ])
    }

    /// SHA-256 of what is served on the two ports.
    fn served(&self) -> [String; 2] {
        self.ports.map(|port| {
            let address = format!("127.0.0.1:{port}");
            let run = openssl(&["s_client", "-connect", &address], b"");
            first(&run.stdout).fingerprint().to_string()
        })
    }

    /// SHA-256 of what lies on the disk for them.
    fn on_disk(&self) -> [String; 2] {
        let apiserver = leaf(&self.node, "data/server/tls/serving-kube-apiserver.crt");
        let listener = first(&listener(&self.node).certificate);
        [listener, apiserver].map(|leaf| leaf.fingerprint().to_string())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let pids = std::fs::read_to_string(self.node.path("work/pids")).unwrap_or_default();
        for pid in pids.split_whitespace() {
            testkit::run("kill", &[pid], b"");
        }
    }
}

#[test]
fn a_restart_is_done_once_the_new_certificates_are_served() {
    let served = Served::new();
    let command = served.command("data/server/tls");
    testkit::run("sh", &["-c", &command], b"");
    let (tree, old) = (served.node.tree().without("work"), served.on_disk());
    let run = served.rotate(&command, "60");
    assert!(run.success(), "{}", run.text());
    assert!(
        !run.text().contains("Restart K3s"),
        "it was: {}",
        run.text()
    );
    let new = served.on_disk();
    assert_ne!(old, new);
    assert_eq!(served.served(), new);

    let run = served.node.ok(&["undo", "--yes"]);
    assert!(!run.text().contains("Restart K3s"), "{}", run.text());
    assert_eq!(served.served(), old);
    let now = served.node.tree().without("work");
    assert_eq!(changed(&tree, &now), [].into());
}

#[test]
fn a_server_with_the_old_certificate_is_no_proof() {
    let served = Served::new();
    // What is served never changes: a copy from before.
    let copy = served.node.text_path("old");
    let tls = served.node.text_path("data/server/tls");
    testkit::run("cp", &["-a", &tls, &copy], b"");
    let (tree, old) = (served.node.tree().without("work"), served.on_disk());
    let run = served.rotate(&served.command("old"), "2");
    assert_eq!(run.code, Some(6), "{}", run.text());
    let text = run.text();
    assert!(
        text.contains("kubepki resume") && text.contains("kubepki undo"),
        "{text}"
    );
    assert!(
        text.contains(&format!("127.0.0.1:{}", served.ports[0])),
        "{text}"
    );
    assert_eq!(served.served(), old);
    // The files are in place all the same.
    assert_ne!(served.on_disk(), old);
    served.node.ends(&["renew", "--yes"], 6);
    served.node.ends(&["resume", "--restart-timeout", "1"], 6);

    // Once the server would take up the new files, the plan can be finished …
    testkit::run("cp", &["-a", &format!("{tls}/."), &copy], b"");
    served.node.ok(&["resume"]);
    assert_eq!(served.served(), served.on_disk());
    // … and taken back, files first, then the restart.
    testkit::run(
        "sh",
        &["-c", &format!("rm -r {copy} && ln -s {tls} {copy}")],
        b"",
    );
    served.node.ok(&["undo", "--yes"]);
    assert_eq!(served.served(), old);
    let now = served.node.tree().without("work").without("old");
    assert_eq!(changed(&tree.without("old"), &now), [].into());
}

#[test]
fn an_interrupted_restart_is_taken_back_with_what_was_before() {
    let served = Served::new();
    let (tree, old) = (served.node.tree().without("work"), served.on_disk());
    // The command itself fails: nothing is served at all.
    let missing = served.command("missing");
    let run = served.rotate(&missing, "2");
    assert_eq!(run.code, Some(6), "{}", run.text());
    assert_ne!(served.on_disk(), old);
    let tls = served.node.text_path("data/server/tls");
    let link = served.node.text_path("missing");
    testkit::run("ln", &["-s", &tls, &link], b"");
    served.node.ok(&["undo", "--yes"]);
    assert_eq!(served.served(), old);
    let now = served.node.tree().without("work").without("missing");
    assert_eq!(changed(&tree, &now), [].into());
    served.node.ok(&["rotate", "--yes", "--service", "admin"]);
}

#[test]
fn a_wrong_command_can_be_put_right() {
    let served = Served::new();
    let (tree, old) = (served.node.tree().without("work"), served.on_disk());
    let run = served.rotate("false", "1");
    assert_eq!(run.code, Some(6), "{}", run.text());
    assert!(run.text().contains("false"), "{}", run.text());
    served.node.ends(&["resume"], 6);
    let command = served.command("data/server/tls");
    served
        .node
        .ok(&["undo", "--yes", "--restart-command", &command]);
    assert_eq!(served.served(), old);
    let now = served.node.tree().without("work");
    assert_eq!(changed(&tree, &now), [].into());
}
