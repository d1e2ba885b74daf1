//! Hosts that are away, refuse us, or are full.

use testkit::rke::{Role, Spec};

use crate::rotate::{ALL, assert_none_lost, begun, finished};
use crate::scene::{Scene, text};

#[test]
fn a_host_that_cannot_be_reached_changes_nothing() {
    let scene = Scene::start(&Spec::calm());
    let before = scene.snapshot();
    let w1 = scene.cluster.host("w1");
    let address = w1.address().to_string();
    let refused = |args: &[&str], words: &[&str]| {
        let run = scene.ends(args, 5);
        for word in words {
            assert!(run.text().contains(word), "{word}: {}", run.text());
        }
        scene.assert_untouched(&before);
    };
    let rotate = ["rotate", "--yes"];
    // Known otherwise.
    let empty = scene.cluster.folder().join("nobody");
    std::fs::write(&empty, "").unwrap();
    let config = crate::scene::text(&scene.config);
    let args = ["rotate", "--yes", "--cluster", config, "--known-hosts"];
    let run = scene.run_bare(&[&args[..], &[crate::scene::text(&empty)]].concat());
    assert_eq!(run.code, Some(5), "{}", run.text());
    assert!(run.text().contains("--ssh-accept-new"), "{}", run.text());
    scene.assert_untouched(&before);
    assert_eq!(std::fs::read(&empty).unwrap(), b"");
    w1.change_host_key();
    refused(&rotate, &[&address, "key"]);
    // Even for who takes new ones.
    refused(&[&rotate[..], &["--ssh-accept-new"]].concat(), &[&address]);
    std::fs::remove_file(&empty).unwrap();
    let lines: String = scene
        .cluster
        .hosts()
        .iter()
        .map(|it| it.known_hosts_line())
        .collect();
    std::fs::write(scene.cluster.known_hosts(), lines).unwrap();

    w1.kill_dockerd();
    let run = scene.ends(&rotate, 5);
    assert!(run.text().contains(&address), "{}", run.text());
    assert!(
        run.text().to_lowercase().contains("docker"),
        "{}",
        run.text()
    );
    w1.start_dockerd();
    scene.cluster.wait_healthy();
    let before = scene.snapshot();

    w1.docker().stop("etcd");
    let run = scene.ends(&["rotate", "--yes", "--service", "etcd"], 5);
    assert!(run.text().contains(&address), "{}", run.text());
    scene.assert_files(&before);
    w1.docker().start("etcd");
    scene.cluster.wait_healthy();

    let before = scene.snapshot();
    w1.kill_sshd();
    let run = scene.ends(&rotate, 5);
    assert!(run.text().contains(&address), "{}", run.text());
    assert!(run.text().contains("--skip-unreachable"), "{}", run.text());
    w1.start_sshd();
    scene.assert_untouched(&before);
    skipped(&scene);
    full(&scene);
}

/// A host that is skipped gets what it lacks when it is back.
fn skipped(scene: &Scene) {
    let w1 = scene.cluster.host("w1");
    let address = w1.address().to_string();
    let writer = scene.cluster.writer(&scene.node_pair());
    begun(&writer);
    let before = scene.snapshot();
    // Without its Docker nothing can be done there.
    w1.kill_dockerd();
    let skip = ["--skip-unreachable", &address];
    let all = [&["rotate", "--yes"], &skip[..]].concat();
    let run = scene.ends(&all, 5);
    assert!(run.text().contains("--allow-etcd-outage"), "{}", run.text());
    let state = scene.state();
    refused_as_rke(scene, &address);
    assert!(scene.on_hosts() == before.hosts && scene.state() == state);
    let run = scene.ends(&[&all[..], &["--allow-etcd-outage"]].concat(), 7);
    assert!(run.text().contains(&address), "{}", run.text());
    let on_w1 = |scene: &Scene| {
        let all = scene.on_hosts().into_iter();
        all.filter(|it| it.0.0 == "w1").collect::<Vec<_>>()
    };
    let old: Vec<_> = before
        .hosts
        .clone()
        .into_iter()
        .filter(|it| it.0.0 == "w1")
        .collect();
    assert!(on_w1(scene) == old);
    // Still away, in another way; Docker starts all its containers anew.
    w1.start_dockerd();
    scene.cluster.wait_healthy();
    w1.kill_sshd();
    scene.ends(&["resume"], 7);
    w1.start_sshd();
    scene.ok(&["resume"]);
    let mut restarted = scene.everywhere(ALL);
    restarted.insert(("w1".to_owned(), "nginx-proxy".to_owned()));
    scene.assert_restarted(&before.starts, &restarted);
    scene.assert_whole();
    assert_none_lost(&finished(writer));
    forgotten(scene);
}

/// Old keys that cannot be removed are named.
fn forgotten(scene: &Scene) {
    let w1 = scene.cluster.host("w1");
    let plan = scene.plans().into_iter().max().unwrap();
    let kept = |name: &str| scene.kept(name).contains(&plan);
    assert!(kept("cp1") && kept("w1"));
    w1.kill_sshd();
    let run = scene.ends(&["history", "--forget", &plan, "--yes"], 7);
    w1.start_sshd();
    let named = format!("/etc/kubernetes/.kubepki/{plan}-*");
    assert!(run.text().contains(&named), "{}", run.text());
    assert!(
        run.text().contains(&w1.address().to_string()),
        "{}",
        run.text()
    );
    assert!(!kept("cp1") && !kept("cp2") && kept("w1"));
    assert!(!scene.plans().contains(&plan));
}

/// Where RKE would go on without a member, and etcd stand still at each restart of another.
fn refused_as_rke(scene: &Scene, address: &str) {
    let (config, known) = (text(&scene.config), scene.cluster.known_hosts());
    let run = scene.run_bare(&[
        "rke",
        "cert",
        "rotate",
        "--config",
        config,
        "--known-hosts",
        text(&known),
    ]);
    assert_eq!(run.code, Some(1), "{}", run.text());
    let said = String::from_utf8(run.stdout).unwrap();
    let removed = format!("level=warning msg=\"Removing host [{address}] from node lists\"");
    assert!(said.contains(&removed), "{said}");
    let last = said.lines().last().unwrap();
    assert!(
        last.contains("level=fatal msg=\"etcd would be without"),
        "{said}"
    );
    assert!(last.contains(&format!("[{address}]")), "{said}");
    let hint = String::from_utf8(run.stderr).unwrap();
    assert!(hint.contains("--allow-etcd-outage"), "{hint}");
    let resume = format!("`kubepki resume --cluster {config}`");
    assert!(hint.contains(&resume), "{hint}");
}

/// A full disk stops a plan before the host's files change; it goes on, or back.
fn full(scene: &Scene) {
    let cp2 = scene.cluster.host("cp2");
    let address = cp2.address().to_string();
    let args = ["rotate", "--yes", "--service", "kubelet"];
    for way in ["undo", "resume"] {
        let before = scene.snapshot();
        cp2.limit_disk(4096);
        let run = scene.ends(&args, 6);
        assert!(run.text().contains(&address), "{}", run.text());
        assert!(run.text().contains("no space left"), "{}", run.text());
        scene.assert_restarted(&before.starts, &Default::default());
        cp2.unlimit_disk();
        scene.ok(&[way, "--yes"]);
        match way {
            "undo" => scene.assert_untouched(&before),
            _ => scene.assert_whole(),
        }
    }
}

#[test]
fn a_single_member_needs_leave_to_be_away() {
    let mut spec = Spec::calm();
    spec.nodes.truncate(1);
    spec.nodes[0].2 = vec![Role::ControlPlane, Role::Etcd, Role::Worker];
    let scene = Scene::start(&spec);
    for args in [["rotate", "--yes"], ["rotate-ca", "--yes"]] {
        let before = scene.snapshot();
        let run = scene.ends(&args, 5);
        assert!(run.text().contains("--allow-etcd-outage"), "{}", run.text());
        scene.assert_untouched(&before);
        scene.ok(&[&args[..], &["--allow-etcd-outage"]].concat());
        scene.assert_restarted(&before.starts, &scene.everywhere(ALL));
        scene.assert_whole();
    }
}
