//! `kubepki serve` as a program: its first start, its refusals, its end.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, and start the program themselves"
)]

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use testkit::{Fixture, run};

/// A server that is killed with the test, and its log lines as they come.
struct Serving {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(stderr: ChildStderr) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines() {
            let Ok(line) = line else { break };
            let _ = sender.send(line);
        }
    });
    lines
}

fn command(data_dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubepki"));
    command
        .args([
            "serve",
            "--bind-address",
            "127.0.0.1",
            "--node-ip",
            "127.0.0.1",
        ])
        .arg("--data-dir")
        .arg(data_dir)
        .args(more)
        .env_remove("K3S_DATASTORE_ENDPOINT")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

impl Serving {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = follow(child.stderr.take().unwrap());
        let seen = Vec::new();
        Self { child, lines, seen }
    }

    /// Waits for a line with `text` in it.
    fn until(&mut self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(60));
            let line = line.unwrap_or_else(|_| panic!("no {text:?} in {:#?}", self.seen));
            self.seen.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Where it listens.
    fn address(&mut self) -> String {
        let line = self.until(r#""message":"serving""#);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        line["address"].as_str().unwrap().to_owned()
    }

    fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(run("kill", &["-TERM", &pid], b"").success());
        self.child.wait().unwrap().code()
    }
}

/// How the program ends that may not serve, and why.
fn refused(data_dir: &Path, more: &[&str]) -> (Option<i32>, String) {
    let ended = command(data_dir, more).output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    (ended.status.code(), text)
}

fn curl(data_dir: &Path, address: &str, path: &str, more: &[&str]) -> String {
    let authority = data_dir
        .join("server/tls/server-ca.crt")
        .display()
        .to_string();
    let url = format!("https://{address}{path}");
    let fixed = ["-sS", "--cacert", &authority, "--max-time", "30", &url];
    let answer = run("curl", &[&fixed[..], more].concat(), b"");
    assert!(answer.success(), "{path}: {}", answer.text());
    answer.text()
}

#[test]
fn a_first_start_makes_a_cluster_that_serves_again_after_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let socket = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let heard = || {
        let mut text = [0; 64];
        let length = systemd.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    let start = || {
        let mut command = command(
            &data_dir,
            &["--node-name", "one", "--https-listen-port", "0"],
        );
        command.env("NOTIFY_SOCKET", &socket);
        Serving::start(command)
    };
    let mut server = start();
    let address = server.address();
    assert_eq!(heard(), "READY=1");
    let authority = curl(&data_dir, &address, "/cacerts", &[]);
    assert_eq!(curl(&data_dir, &address, "/healthz", &[]), "ok");
    let passwd = std::fs::read_to_string(data_dir.join("server/cred/passwd")).unwrap();
    let password = passwd.split(',').next().unwrap();
    let user = format!("node:{password}");
    let config = curl(&data_dir, &address, "/v1-k3s/config", &["-u", &user]);
    assert!(config.contains(r#""ServerNodeName":"one""#), "{config}");
    let metrics = curl(&data_dir, &address, "/metrics", &[]);
    assert!(
        metrics.contains("k3s_certificate_expiration_seconds{subject=\"O=k3s,CN=k3s\"")
            || metrics.contains("CN=k3s,O=k3s"),
        "{metrics}"
    );

    // One server for a data directory, whatever port it wants.
    let (code, why) = refused(&data_dir, &["--https-listen-port", "0"]);
    assert_eq!(code, Some(5), "{why}");
    assert!(why.contains("serve.lock"), "{why}");

    assert_eq!(server.terminate(), Some(0));
    assert_eq!(heard(), "STOPPING=1");
    while let Ok(line) = server.lines.recv_timeout(Duration::from_secs(60)) {
        server.seen.push(line);
    }
    assert!(
        server.seen.last().unwrap().contains("stopped"),
        "{:#?}",
        server.seen
    );
    assert!(server.seen.iter().all(|line| !line.contains(password)));

    let mut again = start();
    let address = again.address();
    assert_eq!(curl(&data_dir, &address, "/cacerts", &[]), authority);
    assert!(
        again.seen.iter().all(|line| !line.contains("was issued")),
        "{:#?}",
        again.seen
    );
}

#[test]
fn agents_are_told_what_the_clusters_k3s_is_configured_to_tell_them() {
    let folder = tempfile::tempdir().unwrap();
    let told = |name: &str, config: Option<&str>| -> serde_json::Value {
        let data_dir = folder.path().join(name);
        let mut more = vec!["--node-name", "one", "--https-listen-port", "0"];
        let path = folder.path().join(format!("{name}.yaml"));
        let path = path.display().to_string();
        if let Some(text) = config {
            std::fs::write(&path, text).unwrap();
            more.extend(["--k3s-config", &path]);
        }
        let mut server = Serving::start(command(&data_dir, &more));
        let address = server.address();
        let passwd = std::fs::read_to_string(data_dir.join("server/cred/passwd")).unwrap();
        let user = format!("node:{}", passwd.split(',').next().unwrap());
        let config = curl(&data_dir, &address, "/v1-k3s/config", &["-u", &user]);
        serde_json::from_str(&config).unwrap()
    };
    let written = told(
        "written",
        Some(
            "cluster-cidr: 10.52.7.1/16,fd52::/56\nservice-cidr: 10.53.0.0/16,fd53::/112\n\
             disable-network-policy: true\ndisable-kube-proxy: true\n\
             system-default-registry: registry.example\nservice-node-port-range: 20000-22767\n\
             egress-selector-mode: pod\nflannel-backend: wireguard-native\n\
             flannel-ipv6-masq: true\nembedded-registry: true\n",
        ),
    );
    for (name, value) in [
        ("ClusterIPRange", r#"{"IP":"10.52.0.0","Mask":"//8AAA=="}"#),
        ("ClusterDNS", r#""10.53.0.10""#),
        ("ClusterDNSs", r#"["10.53.0.10","fd53::a"]"#),
        ("DisableNPC", "true"),
        ("DisableKubeProxy", "true"),
        ("DisableCCM", "false"),
        ("SystemDefaultRegistry", r#""registry.example""#),
        ("ServiceNodePortRange", r#"{"Base":20000,"Size":2768}"#),
        ("EgressSelectorMode", r#""pod""#),
        ("FlannelBackend", r#""wireguard-native""#),
        ("FlannelIPv6Masq", "true"),
        ("EmbeddedRegistry", "true"),
    ] {
        assert_eq!(written[name].to_string(), value, "{name}");
    }
    // Of a tree that no K3s is configured for. Network policies are the nodes' own work.
    let unknown = told("unknown", None);
    for (name, value) in [
        ("DisableNPC", "false"),
        ("DisableCCM", "true"),
        ("EgressSelectorMode", r#""disabled""#),
        ("ClusterDNSs", r#"["10.43.0.10"]"#),
        ("SystemDefaultRegistry", r#""""#),
    ] {
        assert_eq!(unknown[name].to_string(), value, "{name}");
    }
}

#[test]
fn what_it_may_not_or_cannot_serve_is_said() {
    let fixture = Fixture::new("k3s-1.36-sqlite");
    let data_dir = fixture.data_dir();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, why) = refused(&data_dir, &["--https-listen-port", &port]);
    assert_eq!(code, Some(5), "{why}");
    assert!(
        why.contains("cannot listen on 127.0.0.1") && why.contains("--https-listen-port"),
        "{why}"
    );

    // Nobody wants a cluster that cannot be reached.
    let new = tempfile::tempdir().unwrap();
    let (code, why) = refused(&new.path().join("k3s"), &["--https-listen-port", &port]);
    assert_eq!(code, Some(5), "{why}");
    assert!(!new.path().join("k3s/server").exists(), "{why}");

    let (code, why) = refused(&data_dir, &["--cluster-cidr", "10.42.0.0"]);
    assert_eq!(code, Some(2), "{why}");

    // A hook that was mistyped is found now.
    let hook = new.path().join("hook");
    let flag = ["--https-listen-port", "0", "--reload-hook"];
    let hooked = |says: &str| {
        let command = format!("{} --now", hook.display());
        let data_dir = new.path().join("hooked");
        let (code, why) = refused(&data_dir, &[&flag[..], &[&command]].concat());
        assert_eq!(code, Some(2), "{why}");
        assert!(
            why.contains("--reload-hook /") && why.contains(says),
            "{why}"
        );
        assert!(!data_dir.exists(), "{why}");
    };
    hooked("No such file");
    std::fs::write(&hook, "#!/bin/sh\n").unwrap();
    let mode = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&hook, mode).unwrap();
    };
    mode(0o644);
    hooked("chmod +x");
    mode(0o777);
    hooked("chmod go-w");

    let key = data_dir.join("server/tls/server-ca.key");
    std::fs::write(&key, "no key").unwrap();
    let (code, why) = refused(&data_dir, &["--https-listen-port", "0"]);
    assert!(code.is_some_and(|code| code != 0), "{why}");
    assert!(why.contains("server-ca"), "{why}");
}
