//! Which pods a change of CAs deletes, and what becomes of it when the API fails.

use std::collections::{BTreeMap, BTreeSet};

use testkit::rke::{Fault, Spec};

use crate::expired;
use crate::scene::{Scene, wait};

/// The labels of RKE's table (rke.md section 5.7), of every network plugin and add-on.
const DELETED: [&str; 12] = [
    "k8s-app=flannel",
    "k8s-app=canal",
    "name=weave-net",
    "app=ingress-nginx",
    "k8s-app=metrics-server",
    "k8s-app=kube-dns",
    "k8s-app=kube-dns-autoscaler",
    "k8s-app=coredns-autoscaler",
    "app=kube-api-auth",
    "app=cattle-cluster-agent",
    "k8s-app=calico-node",
    "k8s-app=calico-kube-controllers",
];

/// What RKE leaves alone.
const LEFT: [&str; 7] = [
    "app=mine",
    "app=default-http-backend",
    "app=cattle-agent",
    "k8s-app=node-local-dns",
    "name=aci-containers-host",
    "app=fleet-agent",
    "k8s-app=canal-like",
];

/// Pods with each of these labels.
pub struct Pods {
    before: BTreeMap<String, String>,
}

impl Pods {
    /// Puts them there, some of them in namespaces of their own.
    pub fn start(scene: &Scene) -> Self {
        for (number, label) in DELETED.iter().chain(&LEFT).enumerate() {
            let name = format!("{}-x{number}", label.replace('=', "-"));
            let namespace = ["kube-system", "default"][usize::from(number % 5 == 3)];
            scene
                .cluster
                .add_pod(namespace, &name, label, Some("DaemonSet"));
        }
        Self {
            before: scene.cluster.pods(),
        }
    }

    /// Fails unless each of the labels' pods was deleted once, and no other pod at all.
    #[track_caller]
    pub fn assert_deleted_once(&self, scene: &Scene) {
        assert_eq!(deletions(scene), DELETED.len());
        // The old ones take their time to go.
        let after = wait("new pods", || {
            let after = scene.cluster.pods();
            let new: BTreeSet<_> = after.values().collect();
            let old = self.before.values().filter(|it| new.contains(it));
            let stayed = old.count() == LEFT.len();
            (after.len() == self.before.len() && stayed).then_some(after)
        });
        for (name, uid) in &self.before {
            let number: usize = name.rsplit_once('x').unwrap().1.parse().unwrap();
            let left = number >= DELETED.len();
            assert_eq!(after.get(name) == Some(uid), left, "{name}");
        }
    }
}

/// How often somebody asked for a pod's end.
fn deletions(scene: &Scene) -> usize {
    let calls = scene.cluster.calls();
    let deletes = calls
        .iter()
        .filter(|it| it.component == "requests" && it.way == "DELETE");
    deletes.filter(|it| it.address.contains("/pods/")).count()
}

/// How many certificates are trusted.
fn roots(scene: &Scene) -> usize {
    let authority = scene.entry("kube-ca").certificate_pem;
    authority.matches("BEGIN CERTIFICATE").count()
}

#[test]
fn an_api_that_fails_is_asked_again() {
    let scene = Scene::start(&Spec::three());
    let pods = Pods::start(&scene);
    scene
        .cluster
        .fail_calls("GET", "k8s-app=canal", Fault::Status(500));
    let run = scene.ends(&["rotate-ca", "--yes"], 7);
    assert!(run.text().contains("resume"), "{}", run.text());
    // The old root stays until pods have read the new one.
    assert!(run.text().contains("which is put off"), "{}", run.text());
    assert!(roots(&scene) > 1);
    assert!(!run.text().contains("panic"), "{}", run.text());
    assert_eq!(deletions(&scene), 0);
    scene.cluster.clear_faults();
    scene.ok(&["resume"]);
    pods.assert_deleted_once(&scene);
    scene.assert_whole();
    assert_eq!(roots(&scene), 1);

    // Nobody there at all.
    scene
        .cluster
        .fail_calls("GET", "full-cluster-state", Fault::Close);
    scene.ends(&["rotate-ca", "--yes", "--hard"], 7);
    // Still nobody.
    scene.ends(&["resume"], 7);
    scene.cluster.clear_faults();
    // There, but not for the operator's machine: hosts lead there.
    scene.shut_api(true);
    let run = scene.ok(&["resume"]);
    scene.shut_api(false);
    let cp1 = scene.cluster.host("cp1").address();
    let said = format!("asked through the SSH connection of {cp1}");
    assert!(run.text().contains(&said), "{}", run.text());
    scene.assert_whole();
    assert!(
        scene
            .ok(&["resume"])
            .text()
            .contains("Nothing is interrupted")
    );
    expired::is_rotated(&scene);
}
