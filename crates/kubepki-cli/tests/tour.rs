//! `kubepki tour` and `kubepki unit` as programs.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use testkit::Run;

fn kubepki(arguments: &[&str]) -> (Run, String) {
    let run = testkit::run(env!("CARGO_BIN_EXE_kubepki"), arguments, b"");
    let stdout = String::from_utf8(run.stdout.clone()).unwrap();
    (run, stdout)
}

#[test]
fn the_tour_does_what_it_says_and_leaves_nothing() {
    let (run, said) = kubepki(&["tour"]);
    assert_eq!(run.code, Some(0), "{}", run.text());
    for line in [
        "35 certificates: 14 due",
        "!! the process was killed (signal 9) with 9 files replaced",
        "Every step done once, none twice; nothing is due any more.",
        "TLS handshake, old client, new server: both accept",
        "TLS handshake, 70 days later, old client, new server: refused: ",
        "The old certificates and keys are back, byte for byte.",
        "Rotate the CA first",
        "Refused; datastore and disk are as before.",
        "keep working",
        "TLS handshake, kubeconfig from before, restarted server: both accept",
        "TLS handshake, new kubeconfig, server not restarted yet: both accept",
        "The old CAs are back, on the disk and in the datastore.",
        "Root and intermediate lie in the safe",
        "CN=kube-ca",
        "error    kube-apiserver.pem",
        "Refused; RKE itself would have installed it.",
        "each proven before the next; etcd one member at a time",
        "$ kubepki join --server https://127.0.0.1:",
        "The server serves under the new CAs; it was not restarted, and ",
        "talks of its nodes meanwhile went well, none failed.",
        "system:node:node-2",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let place = said
        .split_whitespace()
        .find_map(|word| word.strip_suffix("/k3s:"))
        .unwrap();
    assert!(place.contains("kubepki-tour-"), "{place}");
    assert!(!std::path::Path::new(place).exists(), "{place}");
}

#[test]
fn units_run_what_exists() {
    for (arguments, place, line) in [
        (
            &["unit", "drop-in"][..],
            "# /etc/systemd/system/k3s.service.d/10-kubepki.conf",
            "ExecStartPre=-/usr/local/bin/kubepki renew --yes",
        ),
        (
            &["unit", "drop-in", "--role", "agent"],
            "# /etc/systemd/system/k3s-agent.service.d/10-kubepki.conf",
            "ExecStartPre=-/usr/local/bin/kubepki renew --yes",
        ),
        (
            &["unit", "timer", "--program", "/opt/kubepki"],
            "# /etc/systemd/system/kubepki-renew.timer",
            "ExecStart=/opt/kubepki renew --yes",
        ),
        (
            &["unit", "node-timer", "--server", "https://10.0.0.1:6443"],
            "# /etc/systemd/system/kubepki-node-renew.timer",
            "ExecStart=/usr/local/bin/kubepki node renew --yes --server https://10.0.0.1:6443",
        ),
        (
            &["unit", "metrics"],
            "# /etc/systemd/system/kubepki-check.timer",
            "ExecStart=/usr/local/bin/kubepki check --output prometheus",
        ),
    ] {
        let (run, said) = kubepki(arguments);
        assert_eq!(run.code, Some(0));
        assert!(said.lines().any(|it| it == place), "{said}");
        let command = said.lines().find(|it| *it == line).unwrap();
        // The words after the program are a command line that the program itself understands.
        let words: Vec<&str> = command.split(' ').skip(1).chain(["--help"]).collect();
        assert_eq!(kubepki(&words).0.code, Some(0), "{words:?}");
    }
    let (run, _) = kubepki(&["unit", "timer", "--program", "kube pki"]);
    assert_eq!(run.code, Some(2));
}
