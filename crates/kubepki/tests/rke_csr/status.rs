//! How far the CA has come.

use std::fs;

use kubepki::rke::csr::expected;
use kubepki::rke::custom::{KeyStatus, RequestStatus, Signed, Status, status};

use crate::lab::{Lab, read};

fn of<'a>(all: &'a [Status], entry: &str) -> &'a Status {
    all.iter().find(|one| one.entry == entry).unwrap()
}

#[test]
fn from_nothing_to_all() {
    let lab = Lab::new();
    let all = status(&read(&lab.certs()), &lab.config).unwrap();
    assert_eq!(all.len(), expected(&lab.config).unwrap().len() + 3);
    assert!(all.iter().all(Status::is_complete), "{all:#?}");
    let Signed::By {
        issuer,
        matches_key,
        ..
    } = &of(&all, "kube-apiserver-proxy-client").certificate
    else {
        panic!("not signed");
    };
    assert_eq!(issuer, "CN=Example Front CA,O=Example");
    assert_eq!(*matches_key, Some(true));

    fs::remove_file(lab.file("kube-proxy.pem")).unwrap();
    fs::remove_file(lab.file("kube-node-csr.pem")).unwrap();
    fs::copy(
        lab.file("kube-admin-key.pem"),
        lab.file("kube-scheduler-key.pem"),
    )
    .unwrap();
    fs::write(lab.file("kube-controller-manager.pem"), b"x").unwrap();
    fs::write(lab.file("kube-etcd-10-0-0-1-key.pem"), b"x").unwrap();
    fs::remove_file(lab.file("kube-apiserver-requestheader-ca.pem")).unwrap();
    fs::remove_file(lab.file("kube-service-account-token.pem")).unwrap();
    fs::remove_file(lab.file("kube-ca-key.pem")).unwrap();
    let all = status(&read(&lab.certs()), &lab.config).unwrap();
    assert_eq!(of(&all, "kube-proxy").certificate, Signed::Missing);
    assert_eq!(of(&all, "kube-node").request, RequestStatus::Missing);
    assert!(of(&all, "kube-node").is_complete());
    assert_eq!(
        of(&all, "kube-scheduler").request,
        RequestStatus::OfOtherKey
    );
    let manager = of(&all, "kube-controller-manager");
    assert!(matches!(manager.certificate, Signed::Unreadable(_)));
    let etcd = of(&all, "kube-etcd-10-0-0-1");
    assert!(matches!(etcd.key, KeyStatus::Unreadable(_)));
    // Both may be missing, and so may the CA's key.
    for entry in [
        "kube-apiserver-requestheader-ca",
        "kube-service-account-token",
        "kube-ca",
    ] {
        assert!(of(&all, entry).is_complete(), "{entry}");
    }
    let left: Vec<_> = all
        .iter()
        .filter(|one| !one.is_complete())
        .map(|one| one.entry.as_str())
        .collect();
    assert_eq!(
        left,
        [
            "kube-controller-manager",
            "kube-scheduler",
            "kube-proxy",
            "kube-etcd-10-0-0-1"
        ]
    );
}
