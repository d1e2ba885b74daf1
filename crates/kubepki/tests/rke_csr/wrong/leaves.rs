//! Files, issuers, dates, names, purposes, keys.

use super::*;

pub(super) const CASES: &[Case] = &[
    Case {
        what: "no CA",
        break_it: |lab| remove(lab, "kube-ca.pem"),
        later: 0,
        found: &[(Refused, NoAuthority, "kube-ca.pem")],
        rke: Some("Failed to find master CA certificate"),
    },
    Case {
        what: "no CA of the aggregation layer",
        break_it: |lab| remove(lab, "kube-apiserver-requestheader-ca.pem"),
        later: 0,
        found: &[
            (
                Warning,
                NoRequestHeaderAuthority,
                "kube-apiserver-requestheader-ca.pem",
            ),
            (
                Refused,
                NotSignedByRequestHeaderAuthority,
                "kube-apiserver-proxy-client.pem",
            ),
        ],
        rke: Some(
            "Component [kube-apiserver-proxy-client] is not signed by the custom Request Header CA certificate",
        ),
    },
    Case {
        what: "no API server's certificate",
        break_it: |lab| remove(lab, "kube-apiserver.pem"),
        later: 0,
        found: &[(Refused, MissingComponent, "kube-apiserver.pem")],
        rke: Some("Failed to find [kube-apiserver] Certificate or Key"),
    },
    Case {
        what: "an empty certificate",
        break_it: |lab| fs::write(lab.file("kube-node.pem"), b"").unwrap(),
        later: 0,
        found: &[(Refused, MissingComponent, "kube-node.pem")],
        rke: Some("Failed to find [kube-node] Certificate or Key"),
    },
    Case {
        what: "no key of the administrator",
        break_it: |lab| remove(lab, "kube-admin-key.pem"),
        later: 0,
        found: &[(Refused, MissingComponent, "kube-admin-key.pem")],
        rke: Some("Failed to find [kube-admin] Certificate or Key"),
    },
    Case {
        what: "no etcd certificate",
        break_it: |lab| remove(lab, "kube-etcd-10-0-0-1.pem"),
        later: 0,
        found: &[(Refused, MissingEtcd, "kube-etcd-10-0-0-1.pem")],
        rke: Some("Failed to find etcd [kube-etcd-10-0-0-1] Certificate or Key"),
    },
    Case {
        what: "no etcd key",
        break_it: |lab| remove(lab, "kube-etcd-10-0-0-1-key.pem"),
        later: 0,
        found: &[(Refused, MissingEtcd, "kube-etcd-10-0-0-1-key.pem")],
        rke: Some("Failed to find etcd [kube-etcd-10-0-0-1] Certificate or Key"),
    },
    Case {
        what: "another CA",
        break_it: |lab| sign_by_stranger(lab, "kube-proxy", "/O=Example/CN=Stranger"),
        later: 0,
        found: &[(Refused, NotSignedByAuthority, "kube-proxy.pem")],
        rke: Some("Component [kube-proxy] is not signed by the custom CA certificate"),
    },
    Case {
        what: "another CA, for etcd",
        break_it: |lab| sign_by_stranger(lab, "kube-etcd-10-0-0-1", "/O=Example/CN=Stranger"),
        later: 0,
        found: &[(Refused, NotSignedByAuthority, "kube-etcd-10-0-0-1.pem")],
        rke: Some("Component [kube-etcd-10-0-0-1] is not signed by the custom CA certificate"),
    },
    Case {
        what: "another CA, for a kubelet, at which RKE does not look",
        break_it: |lab| sign_by_stranger(lab, "kube-kubelet-10-0-0-2", "/O=Example/CN=Stranger"),
        later: 0,
        found: &[(Error, IssuerName, "kube-kubelet-10-0-0-2.pem")],
        rke: None,
    },
    Case {
        what: "the cluster CA instead of that of the aggregation layer",
        break_it: |lab| {
            lab.sign_with("kube-apiserver-proxy-client", "kube-ca", CLIENT, false, &[]);
        },
        later: 0,
        found: &[
            (
                Refused,
                NotSignedByRequestHeaderAuthority,
                "kube-apiserver-proxy-client.pem",
            ),
            (Note, UnusedPurpose, "kube-apiserver-proxy-client.pem"),
        ],
        rke: Some(
            "Component [kube-apiserver-proxy-client] is not signed by the custom Request Header CA certificate",
        ),
    },
    Case {
        what: "the CA's common name with another organization",
        break_it: |lab| sign_by_stranger(lab, "kube-proxy", "/O=Other/CN=Example Cluster CA"),
        later: 0,
        found: &[(Error, IssuerName, "kube-proxy.pem")],
        rke: None,
    },
    Case {
        what: "the CA's name and another key",
        break_it: |lab| sign_by_stranger(lab, "kube-proxy", "/O=Example/CN=Example Cluster CA"),
        later: 0,
        found: &[(Error, Signature, "kube-proxy.pem")],
        rke: None,
    },
    Case {
        what: "expired",
        break_it: |lab| lab.sign("kube-node", &["-days", "1"]),
        later: 2,
        found: &[(Error, Expired, "kube-node.pem")],
        rke: None,
    },
    Case {
        what: "ends soon",
        break_it: |lab| lab.sign("kube-node", &["-days", "30"]),
        later: 0,
        found: &[(Warning, EndsSoon, "kube-node.pem")],
        rke: None,
    },
    Case {
        what: "outlives its CA",
        break_it: |lab| lab.sign("kube-node", &["-days", "9000"]),
        later: 0,
        found: &[(Warning, OutlivesAuthority, "kube-node.pem")],
        rke: None,
    },
    Case {
        what: "names lost on the way",
        break_it: |lab| {
            lab.sign_as("kube-apiserver", "extendedKeyUsage=clientAuth,serverAuth");
        },
        later: 0,
        found: &[(Error, MissingName, "kube-apiserver.pem")],
        rke: None,
    },
    Case {
        what: "a wildcard instead of a name, and one name more",
        break_it: |lab| {
            lab.sign_as(
                "kube-kubelet-10-0-0-2",
                "extendedKeyUsage=clientAuth,serverAuth\nsubjectAltName=DNS:w1,DNS:w2,IP:10.0.0.2",
            );
        },
        later: 0,
        found: &[(Note, ExtraName, "kube-kubelet-10-0-0-2.pem")],
        rke: None,
    },
    Case {
        what: "the API server is no client",
        break_it: |lab| {
            lab.sign_as(
                "kube-etcd-10-0-0-1",
                "extendedKeyUsage=serverAuth\nsubjectAltName=DNS:cp1,DNS:localhost,\
                 DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,\
                 DNS:kubernetes.default.svc.cluster.local,IP:10.0.0.1,IP:127.0.0.1,IP:10.43.0.1",
            );
        },
        later: 0,
        found: &[(Error, Purpose, "kube-etcd-10-0-0-1.pem")],
        rke: None,
    },
    Case {
        what: "a kubelet that is a server only",
        break_it: |lab| {
            lab.sign_as(
                "kube-kubelet-10-0-0-2",
                "extendedKeyUsage=serverAuth\nsubjectAltName=DNS:w1,IP:10.0.0.2",
            );
        },
        later: 0,
        found: &[(Note, UnusedPurpose, "kube-kubelet-10-0-0-2.pem")],
        rke: None,
    },
    Case {
        what: "no purposes",
        break_it: |lab| lab.sign_as("kube-proxy", ""),
        later: 0,
        found: &[(Note, AnyPurpose, "kube-proxy.pem")],
        rke: None,
    },
    Case {
        what: "a key that may not sign",
        break_it: |lab| {
            let extensions = "keyUsage=critical,keyEncipherment\nextendedKeyUsage=clientAuth";
            lab.sign_with("kube-proxy", "kube-ca", extensions, false, &[]);
        },
        later: 0,
        found: &[(Error, KeyUsage, "kube-proxy.pem")],
        rke: None,
    },
    Case {
        what: "another's key",
        break_it: |lab| copy(lab, "kube-node-key.pem", "kube-proxy-key.pem"),
        later: 0,
        found: &[(Error, KeyMismatch, "kube-proxy-key.pem")],
        rke: None,
    },
    Case {
        what: "another's key for the CA",
        break_it: |lab| copy(lab, "kube-node-key.pem", "kube-ca-key.pem"),
        later: 0,
        found: &[(Error, KeyMismatch, "kube-ca-key.pem")],
        rke: None,
    },
];
