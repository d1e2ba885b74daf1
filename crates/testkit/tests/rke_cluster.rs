//! A whole RKE cluster: real etcd, components that answer.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::TlsFiles;
use testkit::rke::{Call, Cluster, Container, Fault, Spec, TOOLS_IMAGE, restarted};

#[test]
fn the_recorded_cluster_lives() {
    let fixture = testkit::fixture("rke-1.6-live");
    let cluster = Cluster::prepare(&Spec::recorded());
    cluster.adopt(&fixture);
    cluster.start();
    let state = read(&cluster.folder().join("cluster.rkestate"));
    for (text, recorded) in [(&state, "rkestate"), (&read(&cluster.cluster_yml()), "yml")] {
        assert!(
            !text.contains("127.0.0.11") && !text.contains("h1-docker"),
            "{text}"
        );
        let before = fixture.extra_text(&format!("cluster.{recorded}"));
        assert_eq!(text.lines().count(), before.lines().count());
    }
    let before = cluster.starts();
    cluster.host("cp1").docker().restart("kubelet");
    let after = cluster.starts();
    let changed = restarted(&before, &after);
    assert_eq!(
        changed,
        BTreeSet::from([("cp1".to_owned(), "kubelet".to_owned())])
    );
    cluster.wait_healthy();
    assert_eq!(refused(&cluster), []);
}

#[test]
fn three_members_lose_no_write() {
    let cluster = Cluster::prepare(&Spec::three());
    cluster.deploy_state(&cluster.make_state("cluster"));
    cluster.start();
    let watch = cluster.watch();
    let writer = cluster.writer(&node_pair(&cluster.ssl("cp1")));
    wait("writes", || (writer.acknowledged() > 5).then_some(()));
    for host in cluster.hosts() {
        host.docker().restart("etcd");
        cluster.wait_healthy();
    }
    let killed = cluster.host("w1");
    let before = killed.docker().started("etcd").unwrap();
    killed.kill_container("etcd");
    wait("the member", || {
        killed
            .docker()
            .started("etcd")
            .filter(|it| it.at > before.at)
    });
    cluster.wait_healthy();
    let so_far = writer.acknowledged();
    wait("writes", || {
        (writer.acknowledged() > so_far + 5).then_some(())
    });
    let writes = writer.finish();
    assert!(writes.lost.is_empty(), "{writes:?}");
    assert!(writes.acknowledged > 10, "{writes:?}");
    assert_eq!(writes.most_away, 1, "{writes:?}");
    // Members went away, and nobody was refused.
    assert!(!writes.errors.is_empty(), "{writes:?}");
    assert!(
        writes
            .errors
            .iter()
            .all(|it| !it.starts_with("certificate")),
        "{writes:?}"
    );
    assert_eq!(refused(&cluster), []);
    two_at_once_are_seen(&cluster);
    a_container_with_a_secret_is_seen(&cluster);
    let seen = watch.finish(&cluster);
    assert_eq!(seen.missed, []);
    assert!(
        seen.made.contains(&("w1".to_owned(), "leaky".to_owned())),
        "{:?}",
        seen.made
    );
    let leaks = seen
        .shown
        .iter()
        .filter(|it| holds(&it.text, "tell-nobody"));
    let leaks: Vec<_> = leaks
        .map(|it| (it.node.as_str(), it.what.as_str()))
        .collect();
    assert!(leaks.contains(&("w1", "inspect leaky")), "{leaks:?}");
    assert!(leaks.contains(&("w1", "logs leaky")), "{leaks:?}");
}

/// What `most_away` is there to tell.
fn two_at_once_are_seen(cluster: &Cluster) {
    let writer = cluster.writer(&node_pair(&cluster.ssl("cp1")));
    wait("writes", || (writer.acknowledged() > 0).then_some(()));
    let [one, other] = ["cp1", "w1"].map(|it| cluster.host(it).docker());
    one.stop("etcd");
    other.restart("etcd");
    one.start("etcd");
    cluster.wait_healthy();
    assert_eq!(writer.finish().most_away, 2);
}

fn a_container_with_a_secret_is_seen(cluster: &Cluster) {
    let docker = cluster.host("w1").docker();
    docker.run(&Container {
        name: "leaky".to_owned(),
        image: TOOLS_IMAGE.to_owned(),
        command: ["sh", "-c", "echo $KEY; sleep 1000"]
            .map(str::to_owned)
            .to_vec(),
        environment: vec!["KEY=tell-nobody".to_owned()],
        ..Container::default()
    });
    wait("its words", || {
        holds(&docker.logs("leaky"), "tell-nobody").then_some(())
    });
    docker.kill("leaky", "KILL");
    wait("its end", || {
        docker.started("leaky").filter(|it| !it.running)
    });
    docker.remove("leaky");
}

#[test]
fn the_api_is_faithful() {
    let cluster = Cluster::prepare(&Spec::three());
    cluster.deploy_state(&cluster.make_state("cluster"));
    cluster.start();
    objects(&cluster);
    pods(&cluster);
    who_may_do_what(&cluster);
    faults(&cluster);
    root_is_published(&cluster);
    assert_eq!(refused(&cluster), []);
}

fn objects(cluster: &Cluster) {
    let all = "/api/v1/namespaces/kube-system/secrets";
    let one = format!("{all}/full-cluster-state");
    assert_eq!(cluster.api("GET", &one, None).0, 404);
    let secret = json!({"metadata": {"name": "full-cluster-state"}, "data": {"a": "MQ=="}});
    let (code, made) = cluster.api("POST", all, Some(&secret));
    assert_eq!((code, &made["type"]), (201, &json!("Opaque")));
    let (code, again) = cluster.api("POST", all, Some(&secret));
    assert_eq!((code, &again["reason"]), (409, &json!("AlreadyExists")));
    let mut changed = made.clone();
    changed["data"]["a"] = json!("Mg==");
    let (code, newer) = cluster.api("PUT", &one, Some(&changed));
    assert_eq!(
        (code, &newer["metadata"]["uid"]),
        (200, &made["metadata"]["uid"])
    );
    let (code, stale) = cluster.api("PUT", &one, Some(&changed));
    assert_eq!((code, &stale["reason"]), (409, &json!("Conflict")));
    assert_eq!(cluster.api("GET", &one, None), (200, newer));
    assert_eq!(cluster.api("DELETE", &one, None).0, 200);
    assert_eq!(cluster.api("GET", &one, None).1["reason"], "NotFound");
}

fn pods(cluster: &Cluster) {
    cluster.add_pod(
        "kube-system",
        "canal-abcde",
        "k8s-app=canal",
        Some("DaemonSet"),
    );
    cluster.add_pod("default", "alone", "app=mine", None);
    cluster.add_pod("default", "db-0", "app=db", Some("StatefulSet"));
    let before = cluster.pods();
    let list = cluster
        .api("GET", "/api/v1/pods?labelSelector=k8s-app%3Dcanal", None)
        .1;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    for path in [
        "kube-system/pods/canal-abcde",
        "default/pods/alone",
        "default/pods/db-0",
    ] {
        let path = format!("/api/v1/namespaces/{path}");
        let (code, pod) = cluster.api("DELETE", &path, None);
        assert_eq!(code, 200);
        assert!(pod["metadata"]["deletionTimestamp"].is_string(), "{pod}");
    }
    let after = wait("new pods", || {
        let pods = cluster.pods();
        let new = pods
            .values()
            .all(|uid| !before.values().any(|it| it == uid));
        (pods.len() == 2 && new).then_some(pods)
    });
    let names: Vec<_> = after.keys().collect();
    assert_eq!(names[0], "default/db-0");
    assert!(names[1].starts_with("kube-system/canal-"), "{names:?}");
}

fn who_may_do_what(cluster: &Cluster) {
    let host = cluster.host("cp1");
    let ask = |pair: &str, path: &str| {
        let url = format!("https://localhost:6443{path}");
        let ssl = "/etc/kubernetes/ssl";
        let (cert, key) = (format!("{ssl}/{pair}.pem"), format!("{ssl}/{pair}-key.pem"));
        let mut all = vec![
            "-sS",
            "--cacert",
            "/etc/kubernetes/ssl/kube-ca.pem",
            "-o",
            "/dev/null",
        ];
        all.extend(["-w", "%{http_code}", url.as_str()]);
        if !pair.is_empty() {
            all.extend(["--cert", &cert, "--key", &key]);
        }
        host.must("curl", &all)
    };
    assert_eq!(ask("", "/version"), "401");
    assert_eq!(ask("kube-apiserver-proxy-client", "/version"), "401");
    assert_eq!(ask("kube-proxy", "/version"), "200");
    assert_eq!(ask("kube-proxy", "/api/v1/nodes"), "200");
    assert_eq!(ask("kube-proxy", "/api/v1/secrets"), "403");
    assert_eq!(ask("kube-controller-manager", "/api/v1/secrets"), "200");
}

fn faults(cluster: &Cluster) {
    let host = cluster.host("cp2");
    let ask = |patience: &str| {
        let ssl = "/etc/kubernetes/ssl/kube-controller-manager";
        let (cert, key) = (format!("{ssl}.pem"), format!("{ssl}-key.pem"));
        let url = "https://localhost:6443/api/v1/pods?labelSelector=k8s-app%3Dcanal";
        let all = [
            "-sSk",
            "--max-time",
            patience,
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
        ];
        let all = [all.as_slice(), &["--cert", &cert, "--key", &key, url]].concat();
        host.run("curl", &all)
    };
    assert_eq!(ask("60").text(), "200");
    for (fault, said, code) in [
        (Fault::Status(500), "500", 0),
        (Fault::Hang, "timed out", 28),
        (Fault::Close, "", 56),
    ] {
        cluster.fail_calls("GET", "k8s-app=canal", fault);
        let run = ask(if fault == Fault::Hang { "3" } else { "60" });
        assert!(run.text().contains(said), "{}", run.text());
        if fault == Fault::Close {
            assert!(!run.success());
        } else {
            assert_eq!(run.code, Some(code));
        }
        cluster.clear_faults();
    }
    assert_eq!(ask("60").text(), "200");
}

fn root_is_published(cluster: &Cluster) {
    let all = "/api/v1/namespaces/default/secrets";
    let secret = json!({
        "metadata": {
            "name": "token", "annotations": {"kubernetes.io/service-account.name": "default"},
        },
        "type": "kubernetes.io/service-account-token",
    });
    assert_eq!(cluster.api("POST", all, Some(&secret)).0, 201);
    wait("a token", || {
        let secret = cluster.api("GET", &format!("{all}/token"), None).1;
        (secret["data"]["token"].is_string() && secret["data"]["ca.crt"].is_string()).then_some(())
    });
    let root = wait("the root", || {
        let path = "/api/v1/namespaces/default/configmaps/kube-root-ca.crt";
        let (code, map) = cluster.api("GET", path, None);
        (code == 200).then_some(map)
    });
    let ca = std::fs::read_to_string(cluster.ssl("cp1").join("kube-ca.pem")).unwrap();
    assert_eq!(root["data"]["ca.crt"], Value::String(ca));
}

/// Calls where a certificate was refused.
fn refused(cluster: &Cluster) -> Vec<Call> {
    let calls = cluster.calls();
    let well = calls.iter().filter(|it| it.outcome == "ok");
    for component in [
        "kube-apiserver",
        "kube-controller-manager",
        "kubelet",
        "kube-proxy",
    ] {
        assert!(
            well.clone().any(|it| it.component == component),
            "{component} called nobody"
        );
    }
    calls
        .into_iter()
        .filter(|it| it.outcome == "certificate")
        .collect()
}

#[test]
fn what_does_not_fit_is_noted() {
    let cluster = Cluster::prepare(&Spec::three());
    cluster.deploy_state(&cluster.make_state("first"));
    cluster.start();
    assert_eq!(refused(&cluster), []);
    // Another authority's files everywhere, with the same names; only one API server reads them.
    cluster.deploy_state(&cluster.make_state("second"));
    cluster.host("cp1").docker().restart("kube-apiserver");
    let callers = |component: &str, address: &str| {
        let calls = refused(&cluster).into_iter();
        calls
            .filter(|it| it.node == "cp1" && it.component == component)
            .any(|it| it.address.contains(address))
    };
    for component in [
        "kubelet",
        "kube-proxy",
        "kube-scheduler",
        "kube-controller-manager",
    ] {
        wait(component, || {
            callers(component, "https://127.0.0.1:6443").then_some(())
        });
    }
    wait("etcd", || callers("kube-apiserver", ":2379").then_some(()));
    let unhealthy = cluster.unhealthy();
    assert!(
        unhealthy
            .iter()
            .any(|it| it.0 == "cp1" && it.1 == "kube-apiserver"),
        "{unhealthy:?}"
    );
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn node_pair(ssl: &Path) -> TlsFiles {
    TlsFiles {
        cert: ssl.join("kube-node.pem"),
        key: ssl.join("kube-node-key.pem"),
        trusted: Some(ssl.join("kube-ca.pem")),
    }
}

fn holds(text: &[u8], word: &str) -> bool {
    text.windows(word.len()).any(|it| it == word.as_bytes())
}

fn wait<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(it) = ready() {
            return it;
        }
        assert!(start.elapsed() < Duration::from_secs(90), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
