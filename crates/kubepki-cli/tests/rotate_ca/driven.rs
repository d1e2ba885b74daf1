//! Through a running server whose restart is driven: it is stopped once it took the set, its files
//! are made ready, it is started.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kubepki::bootstrap::{Bundle, Field};
use pki::Certificate;
use testkit::supervisor::Supervisor;
use testkit::{DiffOptions, Run, Tree};

use crate::lab::{Server, blocks, openssl_trusts};
use crate::through::{cluster, listener, put_bundle, sent};

/// What stands for K3s's unit: serves the listener's certificate, as K3s does with what it finds at
/// its start. `$1` is what to do, `$2` the server's directory, `$3` a folder of its own, `$4` the
/// port. Notes what it did and whether K3s would make that certificate anew.
const UNIT: &str = r#"#!/bin/sh
set -eu
tls=$2/tls work=$3 port=$4
mkdir -p "$work"
state=kept
if [ -e "$tls/dynamic-cert-regenerate" ]; then state=regenerated; fi
echo "$1 $state $(sha256sum <"$tls/server-ca.crt" | cut -c1-16)" >>"$work/log"
if [ -e "$work/pid" ]; then
    pid=$(cat "$work/pid")
    kill "$pid" 2>/dev/null || true
    rm "$work/pid"
    while grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$pid/status"; do sleep 0.05; done
fi
if [ "$1" = stop ]; then
    if [ -e "$work/spoil" ]; then
        cp "$tls/client-scheduler.crt" "$work/spoilt"
        echo >>"$tls/client-scheduler.crt"
    fi
    exit 0
fi
field() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p' "$tls/dynamic-cert.json" | base64 -d; }
umask 077
field tls.crt >"$work/crt"
field tls.key >"$work/key"
setsid openssl s_server -www -accept "127.0.0.1:$port" -cert "$work/crt" -cert_chain "$work/crt" \
    -key "$work/key" </dev/null >/dev/null 2>&1 &
echo $! >"$work/pid"
"#;

/// A server whose supervisor takes PUTs into its datastore, and a unit that can be stopped.
struct Running {
    server: Server,
    supervisor: Option<Supervisor>,
    set: PathBuf,
    config: String,
    https: u16,
}

impl Running {
    fn new() -> Self {
        let server = Server::new("k3s-1.36-sqlite");
        let set = server.fixture.scratch("set");
        let offline = server.fixture.scratch("offline").display().to_string();
        let out = set.display().to_string();
        let stage = ["ca", "stage", "--cross-signed", "--out", &out];
        server.ends(&[&stage[..], &["--offline", &offline]].concat(), 0);
        let https = testkit::free_port();
        let config = server.fixture.scratch("config.yaml");
        let data = server.fixture.data_dir();
        let text = format!("data-dir: {}\nhttps-listen-port: {https}\n", data.display());
        std::fs::write(&config, text).unwrap();
        std::fs::write(server.fixture.scratch("unit"), UNIT).unwrap();
        let mut running = Self {
            server,
            supervisor: None,
            set,
            config: config.display().to_string(),
            https,
        };
        running.supervise(testkit::free_port());
        let start = running.command("start");
        let run = testkit::run("sh", &["-c", &start], b"");
        assert!(run.success(), "{}", run.text());
        running.forget_log();
        running.served();
        running
    }

    /// A supervisor with the CA that is now on the disk: its handler writes the datastore, and
    /// leaves the trigger.
    fn supervise(&mut self, port: u16) {
        let directory = self.server.server();
        let takes = move |call: &testkit::supervisor::Call| {
            put_bundle(&directory, &Bundle::parse(&call.body).unwrap());
            std::fs::write(directory.join("tls/dynamic-cert-regenerate"), "").unwrap();
            true
        };
        let cluster = cluster(&self.server, BTreeMap::new());
        self.supervisor = None;
        self.supervisor = Some(Supervisor::start_on(port, cluster, Box::new(takes)));
    }

    fn url(&self) -> String {
        self.supervisor.as_ref().unwrap().url()
    }

    fn work(&self, name: &str) -> PathBuf {
        self.server.fixture.scratch("work").join(name)
    }

    fn command(&self, act: &str) -> String {
        let script = self.server.fixture.scratch("unit");
        let (server, work) = (self.server.server(), self.work(""));
        let (script, server, work) = (script.display(), server.display(), work.display());
        format!("sh {script} {act} {server} {work} {}", self.https)
    }

    fn forget_log(&self) {
        std::fs::write(self.work("log"), "").unwrap();
    }

    /// What the unit was told to do, and how it found things.
    fn log(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.work("log")).unwrap();
        self.forget_log();
        log.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn rotate(&self, stop: &str, code: i32) -> Run {
        let through = format!("--through-server={}", self.url());
        let start = self.command("start");
        let more = [
            through.as_str(),
            "--k3s-config",
            &self.config,
            "--restart-command",
            &start,
            "--stop-command",
            stop,
            "--restart-timeout",
            // What does not come is waited for.
            if code == 0 { "60" } else { "5" },
        ];
        self.server.rotate(&self.set, &more, code)
    }

    fn resume(&self, code: i32) -> Run {
        let kubeconfig = self.server.fixture.admin_kubeconfig().display().to_string();
        let resume = ["resume", "--still-for", "0", "--kubeconfig", &kubeconfig];
        self.server.ends(&resume, code)
    }

    /// Files, without the datastore and what this test keeps there.
    fn tree(&self) -> Tree {
        let tree = self.server.tree();
        let own = ["work", "syslog", "data/kubepki", "data/server/db"];
        own.into_iter().fold(tree, |tree, path| tree.without(path))
    }

    /// The disk holds the set, leaves that every client follows, and is what the datastore holds.
    fn assert_whole(&self, old_root: &str) {
        crate::direct::assert_in_force(&self.server, &self.set);
        let bundle = self.server.read("tls/server-ca.crt");
        let roots = Certificate::all_from_pem(bundle.as_bytes()).unwrap();
        let roots = roots.iter().filter(|it| it.is_self_signed());
        let mut roots = roots.map(Certificate::to_pem);
        let new_root = roots.find(|it| it != old_root).unwrap();
        for chain in [
            self.server.read("tls/serving-kube-apiserver.crt"),
            listener(&self.server),
        ] {
            assert_eq!(blocks(&chain).len(), 3, "leaf, CA, cross-certificate");
            assert!(openssl_trusts(&self.server, &chain, old_root));
            assert!(openssl_trusts(&self.server, &chain, &new_root));
        }
        let trigger = self.server.server().join("tls/dynamic-cert-regenerate");
        assert!(!trigger.exists());
        assert!(listener(&self.server).starts_with(&self.served()));
        crate::direct::assert_nothing_left(&self.server);
        self.server.ends(&["bootstrap", "diff"], 0);
    }

    /// The first certificate that the unit serves.
    fn served(&self) -> String {
        let address = format!("127.0.0.1:{}", self.https);
        for _ in 0..300 {
            let run = testkit::openssl(&["s_client", "-connect", &address], b"");
            let text = String::from_utf8(run.stdout).unwrap();
            if let Some(begin) = text.find("-----BEGIN CERTIFICATE-----") {
                return blocks(&text[begin..])[0].to_owned();
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("nothing is served on {address}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(pid) = std::fs::read_to_string(self.work("pid")) {
            testkit::run("kill", &[pid.trim()], b"");
        }
    }
}

/// The beginning of the SHA-256 of a CA file, as the unit notes it.
fn digest(file: &Path) -> String {
    let digest = pki::sha256(&std::fs::read(file).unwrap()).to_string();
    digest[..16].to_owned()
}

#[test]
fn files_are_made_ready_between_stop_and_start() {
    let mut running = Running::new();
    let server_ca = running.server.server().join("tls/server-ca.crt");
    let (old, before) = (digest(&server_ca), running.tree());
    let old_root = running.server.read("tls/server-ca.crt");
    let old_served = running.served();
    let new = digest(&Field::ServerCa.under(&running.set));

    let run = running.rotate(&running.command("stop"), 0);
    let text = run.text();
    assert!(text.contains("stop k3s.service"), "{text}");
    assert!(text.contains("On every other server"), "{text}");
    assert!(text.contains("So on every other server"), "{text}");
    assert_eq!(sent(running.supervisor.as_ref().unwrap()).len(), 1);
    // Stopped with what the handler left, started with everything in place.
    let stopped = format!("stop regenerated {old}");
    assert_eq!(running.log(), [stopped, format!("start kept {new}")]);
    running.assert_whole(&old_root);

    // The way back goes through the server too, which runs with the new CA now.
    let port = running.url().rsplit_once(':').unwrap().1.parse().unwrap();
    running.supervise(port);
    running.server.undo(0);
    let sent = sent(running.supervisor.as_ref().unwrap());
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].0, "/v1-k3s/cert/cacerts?force=true");
    let stopped = format!("stop regenerated {new}");
    assert_eq!(running.log(), [stopped, format!("start kept {old}")]);
    let options = DiffOptions::exact().without_directory_mtimes();
    Tree::assert_equal(&before, &running.tree(), &options);
    assert_eq!(running.served(), old_served);
    running.server.ends(&["bootstrap", "diff"], 0);
}

#[test]
fn nothing_is_written_under_a_server_that_does_not_stop() {
    let running = Running::new();
    let before = running.tree();
    let run = running.rotate("true", 6);
    let address = format!("127.0.0.1:{} still answers", running.https);
    assert!(run.text().contains(&address), "{}", run.text());
    let trigger = "+data/server/tls/dynamic-cert-regenerate";
    let changed = crate::common::changed(&before, &running.tree());
    assert_eq!(changed, [trigger.to_owned()].into());
    // It runs, so the set can be taken back through it.
    running.server.undo(0);
    assert_eq!(sent(running.supervisor.as_ref().unwrap()).len(), 2);
    assert_eq!(running.log(), [""; 0]);
    running.server.ends(&["bootstrap", "diff"], 0);
}

#[test]
fn a_stopped_server_is_started_before_anything_is_taken_back() {
    let running = Running::new();
    let old_root = running.server.read("tls/server-ca.crt");
    // Somebody changes a file while it stops.
    std::fs::write(running.work("spoil"), "").unwrap();
    let run = running.rotate(&running.command("stop"), 6);
    assert!(
        run.text().contains("k3s.service is stopped until step"),
        "{}",
        run.text()
    );
    let run = running.server.undo(6);
    assert!(
        run.text().contains("has stopped k3s.service"),
        "{}",
        run.text()
    );
    let run = running.resume(5);
    assert!(
        run.text().contains("is stopped until step"),
        "{}",
        run.text()
    );
    let tls = running.server.server().join("tls/client-scheduler.crt");
    let (spoilt, tls) = (running.work("spoilt"), tls.display().to_string());
    let spoilt = spoilt.display().to_string();
    let run = testkit::run("cp", &["--preserve=all", &spoilt, &tls], b"");
    assert!(run.success(), "{}", run.text());
    running.resume(0);
    // The call was not made again.
    assert_eq!(sent(running.supervisor.as_ref().unwrap()).len(), 1);
    running.assert_whole(&old_root);
}

#[test]
fn a_command_that_only_restarts_leaves_the_files_to_k3s() {
    let running = Running::new();
    let before = running.tree();
    let through = format!("--through-server={}", running.url());
    let more = [
        through.as_str(),
        "--k3s-config",
        &running.config,
        "--restart-command",
        "true",
        "--restart-timeout",
        "5",
    ];
    // What does nothing is found out: the old certificate is still served.
    let run = running.server.rotate(&running.set, &more, 6);
    assert!(
        run.text().contains("serves a certificate that"),
        "{}",
        run.text()
    );
    assert!(!run.text().contains("stop k3s.service"), "{}", run.text());
    assert!(
        run.text()
            .contains("kubepki rotate --service api-server,k3s-server --restart"),
        "{}",
        run.text()
    );
    let changed = crate::common::changed(&before, &running.tree());
    let trigger = "+data/server/tls/dynamic-cert-regenerate";
    assert_eq!(changed, [trigger.to_owned()].into());
}
