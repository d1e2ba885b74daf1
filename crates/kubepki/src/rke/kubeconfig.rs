//! RKE's kubeconfigs, byte for byte (`pki/kubeconfig.go`). They end without LF; on a host's disk
//! and in the administrator's file RKE's scripts add what they add.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{Secret, names};

/// What every host's kubeconfig points to: the API server or nginx-proxy of the same host.
pub const HOST_SERVER: &str = "https://127.0.0.1:6443";

/// The kubeconfig of `entry` on hosts: it names files. The cluster is always called `local`.
pub fn host(entry: &str) -> String {
    let text = render(
        HOST_SERVER,
        "local",
        entry,
        ["certificate-authority", "client-certificate", "client-key"],
        [
            &names::certificate_path(names::KUBE_CA),
            &names::certificate_path(entry),
            &names::key_path(entry),
        ],
    );
    String::clone(&text)
}

/// The administrator's kubeconfig: it carries CA, certificate and key (PEM).
///
/// `address` is a control-plane node's; `authority` may hold several certificates, where RKE
/// writes only the first.
pub fn admin(
    address: &str,
    cluster_name: &str,
    authority: &str,
    certificate: &str,
    key: &str,
) -> Secret {
    let key = Zeroizing::new(STANDARD.encode(key));
    let text = render(
        &admin_server(address),
        cluster_name,
        names::KUBE_ADMIN,
        [
            "certificate-authority-data",
            "client-certificate-data",
            "client-key-data",
        ],
        [
            &STANDARD.encode(authority),
            &STANDARD.encode(certificate),
            &key,
        ],
    );
    Secret::new(text)
}

/// URL of the API server on the control-plane node at `address`.
pub fn admin_server(address: &str) -> String {
    format!("https://{address}:6443")
}

/// `keys` and `values` are CA, certificate and key. The text is written into a buffer that never
/// grows.
fn render(
    server: &str,
    cluster: &str,
    component: &str,
    keys: [&str; 3],
    values: [&str; 3],
) -> Zeroizing<String> {
    let [ca_key, certificate_key, key_key] = keys;
    let [ca, certificate, key] = values;
    let parts = [
        "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    api-version: v1\n    ",
        ca_key,
        ": ",
        ca,
        "\n    server: \"",
        server,
        "\"\n  name: \"",
        cluster,
        "\"\ncontexts:\n- context:\n    cluster: \"",
        cluster,
        "\"\n    user: \"",
        component,
        "-",
        cluster,
        "\"\n  name: \"",
        cluster,
        "\"\ncurrent-context: \"",
        cluster,
        "\"\nusers:\n- name: \"",
        component,
        "-",
        cluster,
        "\"\n  user:\n    ",
        certificate_key,
        ": ",
        certificate,
        "\n    ",
        key_key,
        ": ",
        key,
    ];
    let length = parts.iter().map(|part| part.len()).sum();
    let mut text = Zeroizing::new(String::with_capacity(length));
    for part in parts {
        text.push_str(part);
    }
    text
}
