//! `rke cert generate-csr`, `generate-csr` and `custom-certs` as an operator meets them.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and the program is what is tested"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use testkit::{fixture, openssl_ok};

/// A directory with RKE's recorded cluster.yml.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let recording = fixture("rke-1.6-state");
        let config = recording.extra("rke-1.6/cluster.yml");
        fs::copy(config, folder.path().join("cluster.yml")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubepki"));
        command
            .args(args)
            .current_dir(self.folder.path())
            .env_remove("RKE_CONFIG")
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        command
    }

    /// Runs it on a terminal of its own, and answers what the terminal got.
    fn on_terminal(&self, args: &str) -> String {
        let command = format!("{} {args}", env!("CARGO_BIN_EXE_kubepki"));
        let output = Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .current_dir(self.folder.path())
            .env_remove("RKE_CONFIG")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A log without its times.
fn timeless(log: &str) -> Vec<String> {
    let line = |line: &str| {
        let (time, rest) = line.split_once(" level=").unwrap();
        assert!(
            time.starts_with("time=\"20") && time.ends_with("Z\""),
            "{time}"
        );
        format!("level={rest}")
    };
    log.lines().map(line).collect()
}

#[test]
fn a_pipe_gets_rkes_log() {
    let place = Place::new();
    let output = place.run(&["rke", "cert", "generate-csr"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let recorded = fixture("rke-1.6-state").extra_text("rke-1.6/logs/generate-csr.log");
    assert_eq!(timeless(&stdout(&output)), timeless(&recorded));
    assert_eq!(
        fs::read_dir(place.path("cluster_certs")).unwrap().count(),
        24
    );
    // Nothing else was made beside cluster.yml.
    assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 2);

    // Again, from elsewhere, by the variable: the directory is shown as RKE shows it.
    let config = place.path("cluster.yml");
    let output = place
        .command(&["rke", "--debug", "cert", "generate-csr"])
        .env("RKE_CONFIG", &config)
        .current_dir("/")
        .output()
        .unwrap();
    let certs = place.path("cluster_certs");
    assert_eq!(
        timeless(&stdout(&output)),
        [
            "level=debug msg=\"Loglevel set to [debug]\"".to_owned(),
            "level=info msg=\"Running RKE version: v1.6.3\"".to_owned(),
            "level=info msg=\"Generating Kubernetes cluster CSR certificates\"".to_owned(),
            format!(
                "level=info msg=\"Successfully Deployed certificates at [{}]\"",
                certs.display()
            ),
        ]
    );
}

#[test]
fn a_terminal_gets_colours_and_columns() {
    let place = Place::new();
    let shown = place.on_terminal("rke cert generate-csr --cert-dir made");
    let recorded = fixture("rke-1.6-state").extra_text("rke-1.6/logs/generate-csr.log");
    let wanted: Vec<String> = recorded
        .lines()
        .map(|line| {
            let (_, text) = line.split_once(" msg=").unwrap();
            let text = text.trim_matches('"').replace("./cluster_certs", "made");
            format!("\x1b[36mINFO\x1b[0m[] {text:<44} ")
        })
        .collect();
    let shown: Vec<String> = shown.lines().map(without_seconds).collect();
    assert_eq!(shown, wanted);
    assert_eq!(fs::read_dir(place.path("made")).unwrap().count(), 24);
    let failed = place.on_terminal("rke cert generate-csr --config none.yml");
    let last = without_seconds(failed.lines().last().unwrap());
    assert!(last.starts_with("\x1b[31mFATA\x1b[0m[] Failed to resolve cluster file: can not"));
}

/// `[0003]` becomes `[]`.
fn without_seconds(line: &str) -> String {
    let (level, rest) = line.split_once("\x1b[0m[").unwrap();
    let (seconds, text) = rest.split_once(']').unwrap();
    assert_eq!(seconds.len(), 4);
    assert!(seconds.bytes().all(|byte| byte.is_ascii_digit()));
    format!("{level}\x1b[0m[]{text}")
}

#[test]
fn failures_are_the_last_line_and_end_with_1() {
    let place = Place::new();
    fs::write(place.path("tabs.yml"), "nodes:\n\t- x\n").unwrap();
    let node = "nodes: [{address: 10.0.0.1, user: rke, role: [boss]}]\n";
    fs::write(place.path("boss.yml"), node).unwrap();
    fs::create_dir(place.path("locked")).unwrap();
    let locked = openssl_ok(&["genrsa", "-aes128", "-passout", "pass:x"], b"").stdout;
    fs::write(place.path("locked/kube-proxy-key.pem"), locked).unwrap();
    let missing = format!(
        "Failed to resolve cluster file: can not find cluster configuration file: open {}: no \
         such file or directory",
        place.path("none.yml").display()
    );
    for (args, words) in [
        (&["--config", "none.yml"][..], &*missing),
        (&["--config", "tabs.yml"], "Failed to parse cluster file: "),
        (&["--config", "boss.yml"], "Failed to validate cluster: "),
        (
            &["--cert-dir", "locked"],
            "failed to read key [locked/kube-proxy-key.pem], make sure it is not encrypted: ",
        ),
        (
            &["--cert-dir", "cluster.yml"],
            "cluster.yml is not a directory",
        ),
        (&["--cert-dir", "cluster.yml/x"], "cluster.yml/x"),
        (&["--cert-dir", "/proc/none"], "/proc/none"),
    ] {
        let output = place.run(&[&["rke", "cert", "generate-csr"], args].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let log = timeless(&stdout(&output));
        let last = log.last().unwrap();
        assert!(last.starts_with("level=fatal msg=\""), "{last}");
        assert!(last.contains(words), "{args:?}: {last}");
        assert!(!stderr(&output).contains("panicked"));
    }
    // Quiet means quiet.
    let output = place.run(&["rke", "-q", "cert", "generate-csr", "--config", "none.yml"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    // A flag that RKE does not have ends with 1, too; ours end with 2.
    let output = place.run(&["rke", "cert", "generate-csr", "--none"]);
    assert_eq!(output.status.code(), Some(1));
    let output = place.run(&["generate-csr", "--none"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!place.path("cluster_certs").exists());
}

/// The company's CA signs every request as it is.
fn sign_all(certs: &Path) {
    let path = |name: &str| certs.join(name).to_str().unwrap().to_owned();
    for (ca, name) in [
        ("kube-ca", "Cluster"),
        ("kube-apiserver-requestheader-ca", "Front"),
    ] {
        let (out, key) = (path(&format!("{ca}.pem")), path(&format!("{ca}-key.pem")));
        let subject = format!("/O=Example/CN=Example {name} CA");
        let args = [
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "7300",
        ];
        let more = ["-subj", &subject, "-out", &out, "-keyout", &key];
        openssl_ok(&[&args[..], &more[..]].concat(), b"");
    }
    let requests = fs::read_dir(certs).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.strip_suffix("-csr.pem").map(str::to_owned)
    });
    for entry in requests.collect::<Vec<_>>() {
        let ca = match entry.as_str() {
            "kube-apiserver-proxy-client" => "kube-apiserver-requestheader-ca",
            _ => "kube-ca",
        };
        let files = ["-csr.pem", ".pem"].map(|end| path(&format!("{entry}{end}")));
        let [request, out] = &files;
        let (ca, ca_key) = (path(&format!("{ca}.pem")), path(&format!("{ca}-key.pem")));
        let args = [
            "x509", "-req", "-in", request, "-out", out, "-CA", &ca, "-CAkey", &ca_key,
        ];
        let more = ["-days", "3650", "-copy_extensions", "copyall"];
        openssl_ok(&[&args[..], &more[..]].concat(), b"");
    }
    let (out, key) = (
        path("kube-service-account-token.pem"),
        path("kube-service-account-token-key.pem"),
    );
    let args = [
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650",
    ];
    let more = ["-subj", "/CN=tokens", "-out", &out, "-keyout", &key];
    openssl_ok(&[&args[..], &more[..]].concat(), b"");
}

#[test]
fn from_requests_to_a_verdict() {
    let place = Place::new();
    let missing = place.run(&["custom-certs", "status"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("kubepki generate-csr makes it"));
    let made = place.run(&["generate-csr"]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    assert!(stdout(&made).contains("made, with a new key: CN=kube-admin,O=system:masters"));
    let waiting = place.run(&["custom-certs", "status"]);
    assert_eq!(waiting.status.code(), Some(3));
    assert!(stdout(&waiting).contains("14 of 15 are not complete"));
    let early = place.run(&["custom-certs", "verify"]);
    assert_eq!(early.status.code(), Some(4));
    assert!(stdout(&early).contains("RKE: Failed to find master CA certificate"));

    sign_all(&place.path("cluster_certs"));
    let signed = place.run(&["custom-certs", "status"]);
    assert_eq!(signed.status.code(), Some(0), "{}", stdout(&signed));
    let verdict = place.run(&["custom-certs", "verify", "--cluster", "cluster.yml"]);
    let text = stdout(&verdict);
    assert_eq!(verdict.status.code(), Some(0), "{text}{}", stderr(&verdict));
    assert!(
        text.ends_with("./cluster_certs: 15 certificates can be installed\n"),
        "{text}"
    );

    // Programs read the same.
    let output = place.run(&["custom-certs", "verify", "-o", "json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer.get("installable"), Some(&true.into()));
    let output = place.run(&[
        "custom-certs",
        "verify",
        "-o",
        "json",
        "--at",
        "2099-01-01T00:00:00Z",
    ]);
    assert_eq!(output.status.code(), Some(4));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer.get("rke"), Some(&serde_json::Value::Null));
    let output = place.run(&["custom-certs", "status", "-o", "json"]);
    let answer: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer.len(), 15);

    // No key is shown, whatever is asked.
    let secrets = testkit::Secrets::below(place.path("cluster_certs"));
    for output in [made, waiting, signed, verdict, output] {
        secrets.assert_absent("stdout", &output.stdout);
        secrets.assert_absent("stderr", &output.stderr);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = Place::new();
    for args in [
        &["rke", "cert", "generate-csr"][..],
        &["generate-csr"],
        &["custom-certs", "status"],
        &["custom-certs", "verify"],
    ] {
        let mut child = place
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
        assert!(output.status.code().is_some(), "{args:?}");
    }
    assert_eq!(
        fs::read_dir(place.path("cluster_certs")).unwrap().count(),
        24
    );
}
