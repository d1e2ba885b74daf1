//! `node renew`: by the certificate that a node has.

use pki::{Certificate, San};

use crate::lab::Lab;
use crate::{KUBEPKI, assert_ends};

#[test]
fn a_node_renews_itself_with_its_certificate() {
    let lab = Lab::new();
    let url = lab.server.url();
    let renew = ["node", "renew", "--server", &url];
    assert_ends(&lab.run(&renew, ""), 5, "kubepki join");
    assert_ends(&lab.join(&[]), 0, "13 files written");
    lab.asked();
    assert_ends(&lab.run(&renew, ""), 0, "Nothing was due");
    let before = lab.state();
    let all = [&renew[..], &["--window", "400"]].concat();
    lab.asked();
    let run = lab.run(&all, "");
    assert_ends(&run, 0, "4 files written");
    let calls = lab.signer.calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 6);
    for call in calls {
        assert!(call.by_certificate && !call.headers.contains_key("authorization"));
    }
    // Certificates alone: keys stay, and so do the addresses.
    let changed = lab.changed(&before);
    assert_eq!(changed.len(), 4, "{changed:?}");
    assert!(changed.iter().all(|it| it.ends_with(".crt")));
    let serving = std::fs::read(lab.agent("serving-kubelet.crt")).unwrap();
    let sans = Certificate::all_from_pem(&serving).unwrap()[0]
        .sans()
        .to_vec();
    assert!(sans.contains(&San::from_text("fd00::7")), "{sans:?}");
}

/// What the operator has set stays, and what the servers know the node by is not made anew.
#[test]
fn a_renewal_turns_nothing_back() {
    let lab = Lab::new();
    let url = lab.server.url();
    let renew = ["node", "renew", "--server", &url, "--window", "400"];
    let leads = |to: &str| {
        for name in ["kubelet", "kubeproxy", "k3scontroller"] {
            let file = lab.agent(&format!("{name}.kubeconfig"));
            let text = std::fs::read_to_string(file).unwrap();
            let line = format!("    server: {to}\n");
            assert!(text.contains(&line), "{name}: {text}");
        }
    };
    let elsewhere = "https://vip.example.org:6443";
    let run = lab.join(&["--kubeconfig-server", elsewhere]);
    assert_ends(&run, 0, "13 files written");
    leads(elsewhere);
    assert_ends(&lab.run(&renew, ""), 0, "4 files written");
    leads(elsewhere);
    let moved = "https://10.0.0.9:7443";
    let words = [&renew[..], &["--kubeconfig-server", moved]].concat();
    assert_ends(&lab.run(&words, ""), 0, "7 files written");
    leads(moved);
    assert_ends(&lab.join(&[]), 0, "");
    leads(moved);

    let (before, file) = (lab.state(), lab.agent("etc/rancher/node/password"));
    std::fs::remove_file(&file).unwrap();
    let run = lab.run(&renew, "");
    assert_ends(&run, 5, &format!("{} is missing", file.display()));
    assert!(!file.exists());
    assert_eq!(lab.changed(&before), [""; 0]);
    let calls = lab.signer.calls.lock().unwrap().clone();
    let last = calls.last().unwrap();
    assert!(!last.headers.contains_key("k3s-node-password"));
}

/// The server's CA was replaced, and nothing leads from the new one to the old.
#[test]
fn a_server_with_another_ca_is_told_from_one_that_is_away() {
    let lab = Lab::new();
    assert_ends(&lab.join(&[]), 0, "13 files written");
    let before = lab.state();
    let stranger = Lab::stranger(0);
    let url = stranger.server.url();
    let run = lab.run(&["node", "renew", "--server", &url], "");
    assert_ends(&run, 5, "another CA than the one that this node has");
    assert!(run.text().contains("with the cluster's new token"));
    assert!(run.text().contains("agent/server-ca.crt"));
    assert_eq!(stranger.asked(), [""; 0]);
    assert_eq!(lab.changed(&before), [""; 0]);
}

/// Where there is no K3s nothing brings back what is removed, and the node could not log in.
#[test]
fn the_commands_for_k3s_agents_leave_a_joined_node_alone() {
    let lab = Lab::new();
    assert_ends(&lab.join(&[]), 0, "13 files written");
    let (before, data_dir) = (lab.state(), lab.data_dir().display().to_string());
    for words in [
        &["renew", "--yes", "--window", "400"][..],
        &["rotate", "--yes"],
        &["plan"],
    ] {
        let run = testkit::run(KUBEPKI, &[words, &["--data-dir", &data_dir]].concat(), b"");
        assert_ends(&run, 5, "kubepki node renew");
    }
    assert_eq!(lab.changed(&before), [""; 0]);
    let check = ["check", "--window", "400", "-o", "text"];
    let check = [&check[..], &["--data-dir", &data_dir]].concat();
    let run = testkit::run(KUBEPKI, &check, b"");
    assert_ends(&run, 3, "kubepki node renew --server");
    assert!(!run.text().contains("systemctl"), "{}", run.text());
    // Once a K3s agent has worked there it makes its certificates itself.
    std::fs::create_dir_all(lab.agent("containerd")).unwrap();
    let renew = ["renew", "--dry-run", "--window", "400"];
    let run = testkit::run(
        KUBEPKI,
        &[&renew[..], &["--data-dir", &data_dir]].concat(),
        b"",
    );
    assert_ends(&run, 0, "client-kubelet.crt");
}

/// K3s has one place for it on a machine, wherever its data lies (reference section 1.6). A
/// configuration that names the data directory stands in a file system of its own.
#[test]
fn a_node_of_this_machine_keeps_its_password_where_k3s_does() {
    let lab = Lab::new();
    let (data_dir, url) = (lab.data_dir().display().to_string(), lab.server.url());
    let script = "mount -t tmpfs none /etc; mkdir -p /etc/rancher/k3s; \
                  echo \"data-dir: $1\" > /etc/rancher/k3s/config.yaml; shift; \"$@\"; \
                  cat /etc/rancher/node/password";
    let words = [
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-ec",
        script,
        "sh",
        &data_dir,
        KUBEPKI,
        "join",
        "--yes",
        "--token-file",
        "-",
        "--server",
        &url,
        "--node-name",
        "a",
        "--data-dir",
        &data_dir,
    ];
    let run = testkit::run("unshare", &words, lab.token.as_bytes());
    assert_ends(&run, 0, "Its password is in /etc/rancher/node/password.");
    let known = lab.signer.passwords.lock().unwrap()["a"].clone();
    let shown = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(known.len() == 32 && shown.trim_end().ends_with(&known));
    assert!(!lab.agent("etc").exists());
}
