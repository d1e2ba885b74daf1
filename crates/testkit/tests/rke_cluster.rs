//! A whole RKE cluster: recorded certificates, real etcd, components that answer.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use testkit::TlsFiles;
use testkit::rke::{Cluster, Spec};

#[test]
fn the_recorded_cluster_lives() {
    let fixture = testkit::fixture("rke-1.6-live");
    let cluster = Cluster::prepare(&Spec::recorded());
    cluster.deploy_state(&fixture.extra("cluster.rkestate"));
    cluster.start();
    let ssl = cluster.ssl("cp1");
    let files = TlsFiles {
        cert: ssl.join("kube-node.pem"),
        key: ssl.join("kube-node-key.pem"),
        trusted: Some(ssl.join("kube-ca.pem")),
    };
    let writer = cluster.writer(&files);
    let before = cluster.starts();
    cluster.host("cp1").docker().restart("kubelet");
    let after = cluster.starts();
    let changed: Vec<_> = after
        .iter()
        .filter(|(name, it)| before[name] != **it)
        .collect();
    assert_eq!(changed.len(), 1, "{changed:?}");
    cluster.wait_healthy();
    while writer.acknowledged() < 20 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let writes = writer.finish();
    assert!(writes.lost.is_empty(), "{writes:?}");
    assert!(writes.errors.is_empty(), "{writes:?}");
    let failed: Vec<_> = cluster
        .calls()
        .into_iter()
        .filter(|it| it.outcome != "ok")
        .collect();
    assert!(
        failed.iter().all(|it| it.outcome != "certificate"),
        "{failed:#?}"
    );
}
