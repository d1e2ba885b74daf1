//! Files of settings without secrets, as K3s writes them at every start.

use serde_json::json;

use super::Spec;

/// `etc/egress-selector-config.yaml` (JSON in spite of its name): how the API server reaches
/// nodes. With an agent on the server it goes through the supervisor's tunnel, whose certificates
/// lie in `tls`, the directory as the recorded paths name it.
pub(super) fn egress_selector(spec: &Spec, tls: &str) -> String {
    let connection = if spec.disable_agent {
        json!({ "proxyProtocol": "Direct" })
    } else {
        json!({
            "proxyProtocol": "HTTPConnect",
            "transport": {
                "tcp": {
                    "url": spec.loopback_url(spec.https_port),
                    "tlsConfig": {
                        "caBundle": format!("{tls}/server-ca.crt"),
                        "clientKey": format!("{tls}/client-kube-apiserver.key"),
                        "clientCert": format!("{tls}/client-kube-apiserver.crt"),
                    },
                },
            },
        })
    };
    json!({
        "kind": "EgressSelectorConfiguration",
        "apiVersion": "apiserver.k8s.io/v1beta1",
        "egressSelections": [{ "name": "cluster", "connection": connection }],
    })
    .to_string()
}

/// `etc/cloud-config.yaml` (JSON in spite of its name). K3s writes it anew at every start, from
/// its flags and with the image of its own release.
pub(super) fn cloud_config(spec: &Spec) -> String {
    json!({
        "lbDefaultPriorityClassName": "system-node-critical",
        "lbEnabled": !spec.disable_agent,
        "lbImage": "rancher/klipper-lb:v0.4.17",
        "lbNamespace": "kube-system",
        "nodeEnabled": !spec.disable_agent,
        "rootless": false,
    })
    .to_string()
}
