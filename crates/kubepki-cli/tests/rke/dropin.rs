//! `kubepki rke cert rotate` on the recorded cluster's hosts: RKE's log, exit codes, the way back.

use std::path::Path;

use testkit::rke::Cluster;
use testkit::{Run, fixture};

use crate::recorded::same_files_as_rkes;
use crate::rke_log::{ALL, ETCD_ALONE, KUBELET, Kind, assert_like, parsed, recorded};
use crate::rotate;
use crate::scene::{Places, Scene};

/// Runs `kubepki ARGS` in the operator's folder.
fn kubepki(folder: &Path, args: &[&str]) -> Run {
    let mut all = vec!["-C", folder.to_str().unwrap(), "TZ=UTC"];
    all.push(env!("CARGO_BIN_EXE_kubepki"));
    all.extend(args);
    testkit::run("env", &all, b"")
}

fn run_rotate(cluster: &Cluster, args: &[&str], code: i32) -> Run {
    let known = cluster.known_hosts();
    let mut all = vec!["rke", "cert", "rotate"];
    all.extend(args);
    all.extend(["--known-hosts", known.to_str().unwrap()]);
    let run = kubepki(cluster.folder(), &all);
    assert_eq!(run.code, Some(code), "{args:?}: {}", run.text());
    run
}

fn stdout(run: &Run) -> String {
    String::from_utf8(run.stdout.clone()).unwrap()
}

#[test]
fn the_logs_are_rkes() {
    let fixture = fixture("rke-1.6-live");
    let scene = Scene::recorded(&fixture);
    let cluster = &scene.cluster;
    let before = cluster.starts();
    // Two members cannot spare one. RKE does not ask.
    let refused = scene.ends(&["rotate", "--yes"], 5);
    assert!(refused.text().contains("--allow-etcd-outage"));
    scene.assert_restarted(&before, &Places::new());
    let kinds: [(&str, &[&str], Kind<'_>); 4] = [
        ("service-kubelet", &["--service", "kubelet"], KUBELET),
        ("service-etcd", &["--service", "etcd"], ETCD_ALONE),
        ("rotate", &[], ALL),
        ("rotate-ca", &["--rotate-ca"], ALL),
    ];
    for (name, args, kind) in kinds {
        let before = cluster.starts();
        let run = run_rotate(cluster, args, 0);
        let ours = parsed(&stdout(&run));
        let log = fixture.extra_text(&format!("logs/{name}.log"));
        assert_like(&ours, &recorded(&log), &kind);
        let stderr = String::from_utf8(run.stderr.clone()).unwrap();
        assert!(!stderr.contains("level="), "{stderr}");
        assert!(
            stderr.contains("Take it back with: kubepki undo "),
            "{stderr}"
        );
        if name == "rotate" {
            scene.assert_restarted(&before, &scene.everywhere(rotate::ALL));
            scene.assert_whole();
            same_files_as_rkes(&scene, &fixture);
        }
        cluster.wait_healthy();
    }
    a_host_that_is_away_is_left_out_and_comes_back(cluster);
}

fn a_host_that_is_away_is_left_out_and_comes_back(cluster: &Cluster) {
    cluster.host("w1").kill_sshd();
    let run = run_rotate(cluster, &["--service", "kube-proxy"], 7);
    let said = stdout(&run);
    let address = cluster.host("w1").address();
    let failed =
        format!("level=warning msg=\"Failed to set up SSH tunneling for host [{address}]: ");
    assert!(said.contains(&failed), "{said}");
    let removed = format!("level=warning msg=\"Removing host [{address}] from node lists\"");
    assert!(said.contains(&removed), "{said}");
    assert!(
        said.contains("[worker] Successfully restarted Worker Plane.."),
        "{said}"
    );
    let old = std::fs::read(cluster.ssl("w1").join("kube-proxy.pem")).unwrap();
    cluster.host("w1").start_sshd();
    let known = cluster.known_hosts();
    let known = known.to_str().unwrap();
    let run = kubepki(cluster.folder(), &["resume", "--known-hosts", known]);
    assert_eq!(run.code, Some(0), "{}", run.text());
    let new = std::fs::read(cluster.ssl("w1").join("kube-proxy.pem")).unwrap();
    assert!(new != old);
    assert!(new == std::fs::read(cluster.ssl("cp1").join("kube-proxy.pem")).unwrap());
    cluster.wait_healthy();
}
