//! Ways to a host: another user, a bastion, other folders.

use std::collections::BTreeSet;

use testkit::rke::{Cluster, Spec, USER};

use crate::rotate::{ALL, assert_none_lost, begun, finished};
use crate::scene::Scene;
use crate::watch::Lookout;

/// Puts a bastion into `cluster.yml`: `w1`.
fn through_w1(cluster: &Cluster, config: &mut String) {
    let bastion = cluster.host("w1");
    config.push_str(&format!(
        "bastion_host:\n  address: {}\n  user: {USER}\n  ssh_key_path: {}\n",
        bastion.address(),
        bastion.network().ssh_key().display()
    ));
}

/// Files go through Docker then, and nothing of them is to be seen there.
#[test]
fn a_user_who_is_not_root_through_a_bastion() {
    let spec = Spec {
        user: USER.to_owned(),
        prefix: "/opt/rke".to_owned(),
        ..Spec::three()
    };
    let scene = Scene::start_as(&spec, "sites/north.east.yaml", through_w1);
    assert!(scene.state_file().ends_with("sites/north.east.rkestate"));
    let mut lookout = Lookout::new(&scene);
    let writer = scene.cluster.writer(&scene.node_pair());
    begun(&writer);
    let before = scene.snapshot();
    // The API, too.
    scene.shut_api(true);
    let run = scene.ok(&["rotate", "--yes"]);
    scene.shut_api(false);
    assert!(!run.text().contains("asked through"), "{}", run.text());
    scene.assert_restarted(&before.starts, &scene.everywhere(ALL));
    scene.assert_whole();
    lookout.learn();
    scene.ok(&["undo", "--yes"]);
    scene.assert_files(&before);
    scene.assert_whole();
    assert_none_lost(&finished(writer));
    lookout.finish();
    all_came_through_w1(&scene);
    forgotten(&scene);
    denied(&scene);
}

/// Old keys on the hosts go with the plan that kept them there.
fn forgotten(scene: &Scene) {
    let kept = scene.kept("w1");
    assert!(kept.len() > 1 && scene.kept("cp1").len() >= kept.len());
    for plan in scene.plans() {
        scene.ok(&["history", "--forget", &plan, "--yes"]);
    }
    for host in ["cp1", "cp2", "w1"] {
        assert_eq!(scene.kept(host), BTreeSet::new());
    }
    scene.assert_nothing_left();
}

fn all_came_through_w1(scene: &Scene) {
    let w1 = scene.cluster.host("w1").address().to_string();
    let network = scene.cluster.host("w1").network().address(254).to_string();
    for name in ["cp1", "cp2"] {
        let log = scene.cluster.host(name).path("/var/log/sshd.log");
        let log = std::fs::read_to_string(log).unwrap();
        let accepted = |from: &str| format!("Accepted publickey for {USER} from {from} ");
        assert!(log.contains(&accepted(&w1)), "{log}");
        assert!(!log.contains(&accepted(&network)), "{log}");
    }
}

/// Whoever may not use Docker is told so.
fn denied(scene: &Scene) {
    let cp2 = scene.cluster.host("cp2");
    let before = scene.snapshot();
    cp2.must("chgrp", &["root", "/var/run/docker.sock"]);
    let run = scene.ends(&["rotate", "--yes"], 5);
    assert!(
        run.text().contains(&cp2.address().to_string()),
        "{}",
        run.text()
    );
    assert!(run.text().contains("docker"), "{}", run.text());
    scene.assert_untouched(&before);
    cp2.must("chgrp", &["docker", "/var/run/docker.sock"]);
}
