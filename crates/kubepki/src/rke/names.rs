//! The names that RKE derives from an entry's name (`pki/util.go`).

use super::Node;

/// Where certificates lie on every host.
pub const SSL_DIRECTORY: &str = "/etc/kubernetes/ssl";

/// The cluster CA.
pub const KUBE_CA: &str = "kube-ca";
/// The CA of the API aggregation layer.
pub const REQUEST_HEADER_CA: &str = "kube-apiserver-requestheader-ca";
/// The API server, as server, and as client of kubelets.
pub const KUBE_APISERVER: &str = "kube-apiserver";
/// The key pair that signs service-account tokens.
pub const SERVICE_ACCOUNT_TOKEN: &str = "kube-service-account-token";
/// The controller manager.
pub const KUBE_CONTROLLER_MANAGER: &str = "kube-controller-manager";
/// The scheduler.
pub const KUBE_SCHEDULER: &str = "kube-scheduler";
/// kube-proxy.
pub const KUBE_PROXY: &str = "kube-proxy";
/// The kubelet identity that all nodes share; also the API server's towards etcd.
pub const KUBE_NODE: &str = "kube-node";
/// The administrator; never on a host.
pub const KUBE_ADMIN: &str = "kube-admin";
/// The API server towards aggregated API servers.
pub const PROXY_CLIENT: &str = "kube-apiserver-proxy-client";
/// What an etcd member's entry is called, before `-` and the node's id; the CN of all of them.
pub const KUBE_ETCD: &str = "kube-etcd";
/// What a kubelet's serving entry is called, before `-` and the node's id.
pub const KUBE_KUBELET: &str = "kube-kubelet";
/// The client certificate for an external etcd.
pub const ETCD_CLIENT: &str = "kube-etcd-client";
/// The CA of an external etcd.
pub const ETCD_CLIENT_CA: &str = "kube-etcd-client-ca";

/// A node's id in entry names: its internal address if it has one that differs, else its address;
/// dots become dashes, letters lower case, colons stay.
pub fn host_id(node: &Node) -> String {
    let address = match node.internal_address.is_empty() {
        true => &node.address,
        false => &node.internal_address,
    };
    address.replace('.', "-").to_lowercase()
}

/// The entry of an etcd node: `kube-etcd-10-0-0-1`.
pub fn etcd_entry(node: &Node) -> String {
    format!("{KUBE_ETCD}-{}", host_id(node))
}

/// The entry of a node's kubelet as server: `kube-kubelet-10-0-0-1`.
pub fn kubelet_entry(node: &Node) -> String {
    format!("{KUBE_KUBELET}-{}", host_id(node))
}

/// The name of a certificate in a container's environment. We never use it for that; it is a
/// field of the state file.
pub fn env_name(entry: &str) -> String {
    entry.to_uppercase().replace('-', "_")
}

/// The same for the key.
pub fn key_env_name(entry: &str) -> String {
    format!("{}_KEY", env_name(entry))
}

/// The same for the kubeconfig.
pub fn config_env_name(entry: &str) -> String {
    format!("KUBECFG_{}", env_name(entry))
}

/// File name of the certificate, on hosts and in a directory of certificates.
pub fn certificate_file(entry: &str) -> String {
    format!("{entry}.pem")
}

/// File name of the key.
pub fn key_file(entry: &str) -> String {
    format!("{entry}-key.pem")
}

/// File name of the request.
pub fn request_file(entry: &str) -> String {
    format!("{entry}-csr.pem")
}

/// File name of the kubeconfig on hosts.
pub fn config_file(entry: &str) -> String {
    format!("kubecfg-{entry}.yaml")
}

/// Where the certificate lies on a host.
pub fn certificate_path(entry: &str) -> String {
    format!("{SSL_DIRECTORY}/{}", certificate_file(entry))
}

/// Where the key lies on a host.
pub fn key_path(entry: &str) -> String {
    format!("{SSL_DIRECTORY}/{}", key_file(entry))
}

/// Where the kubeconfig lies on a host.
pub fn config_path(entry: &str) -> String {
    format!("{SSL_DIRECTORY}/{}", config_file(entry))
}

/// Whether RKE gives the entry a kubeconfig for hosts. The CA of the aggregation layer and its
/// client have one that nobody uses; the administrator's is not for hosts.
pub fn has_host_config(entry: &str) -> bool {
    !matches!(
        entry,
        KUBE_CA | KUBE_APISERVER | SERVICE_ACCOUNT_TOKEN | KUBE_ADMIN
    ) && !entry.contains(KUBE_ETCD)
        && !entry.contains(KUBE_KUBELET)
}
