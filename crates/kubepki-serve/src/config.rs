//! `/v1-k3s/config`: what an agent takes over from its server.

use std::net::IpAddr;

use kubepki::k3s::PortRange;
use pki::San;
use serde_json::{Value, json};

use crate::tree::Tree;

/// What the server says of itself and the cluster; K3s's flags of the same names.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server's node name.
    pub node_name: String,
    /// `--advertise-address`, or the node's first address.
    pub advertise_ip: IpAddr,
    /// `--https-listen-port`.
    pub port: u16,
    /// What the listener may be asked by, K3s's order.
    pub sans: Vec<San>,
    /// `--tls-san-security`.
    pub san_security: bool,
    /// `--cluster-cidr`, as `(address, prefix length)`.
    pub cluster_cidrs: Vec<(IpAddr, u8)>,
    /// `--service-cidr`.
    pub service_cidrs: Vec<(IpAddr, u8)>,
    /// `--cluster-dns`.
    pub cluster_dns: Vec<IpAddr>,
    /// `--cluster-domain`.
    pub cluster_domain: String,
    /// `--flannel-backend`.
    pub flannel_backend: String,
    /// The other flags of servers that agents follow.
    pub flags: Flags,
    /// `<data-dir>/server` as agents are told it.
    pub data_dir: String,
}

/// Flags of K3s's servers that agents follow (K3s's `pkg/agent/config`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    /// `--disable-cloud-controller`.
    pub disable_cloud_controller: bool,
    /// `--disable-network-policy`.
    pub disable_network_policy: bool,
    /// `--disable-kube-proxy`.
    pub disable_kube_proxy: bool,
    /// `--disable-helm-controller`.
    pub disable_helm_controller: bool,
    /// `--embedded-registry`.
    pub embedded_registry: bool,
    /// `--flannel-ipv6-masq`.
    pub flannel_ipv6_masq: bool,
    /// `--flannel-external-ip`.
    pub flannel_external_ip: bool,
    /// `--supervisor-metrics`.
    pub supervisor_metrics: bool,
    /// `--egress-selector-mode`.
    pub egress_selector_mode: String,
    /// `--system-default-registry`.
    pub system_default_registry: String,
    /// `--service-node-port-range`.
    pub node_ports: PortRange,
}

impl Default for Flags {
    /// Of a cluster of which nothing is known: this server runs no controllers and no tunnel, and
    /// nodes do what they do by themselves, network policies among it.
    fn default() -> Self {
        Self {
            disable_cloud_controller: true,
            disable_network_policy: false,
            disable_kube_proxy: false,
            disable_helm_controller: true,
            embedded_registry: false,
            flannel_ipv6_masq: false,
            flannel_external_ip: false,
            supervisor_metrics: false,
            egress_selector_mode: "disabled".to_owned(),
            system_default_registry: String::new(),
            node_ports: PortRange::default(),
        }
    }
}

/// The six suites of K3s's listener, in its order.
const SUITES: [&str; 6] = [
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
];

/// The members of K3s's `Control` that agents read, with the names of Go's fields. What only
/// servers compare or print is left out: kine, Helm, job images, restore paths.
pub fn config(settings: &Settings, tree: &Tree) -> Value {
    let networks = |list: &[(IpAddr, u8)]| list.iter().map(network).collect::<Vec<_>>();
    let (pods, services) = (
        networks(&settings.cluster_cidrs),
        networks(&settings.service_cidrs),
    );
    let dns: Vec<String> = settings
        .cluster_dns
        .iter()
        .map(ToString::to_string)
        .collect();
    let sans: Vec<String> = settings.sans.iter().map(ToString::to_string).collect();
    let flags = &settings.flags;
    let psk = tree.ipsec_psk.as_ref().map_or("", |text| text.as_str());
    json!({
        "ClusterDNSs": dns,
        "ClusterIPRanges": pods,
        "ClusterDNS": dns.first(),
        "ClusterDomain": settings.cluster_domain,
        "ClusterIPRange": pods.first(),
        "DisableCCM": flags.disable_cloud_controller,
        "DisableHelmController": flags.disable_helm_controller,
        "DisableNPC": flags.disable_network_policy,
        "EmbeddedRegistry": flags.embedded_registry,
        "FlannelBackend": settings.flannel_backend,
        "FlannelIPv6Masq": flags.flannel_ipv6_masq,
        "FlannelExternalIP": flags.flannel_external_ip,
        "EgressSelectorMode": flags.egress_selector_mode,
        "ServiceIPRange": services.first(),
        "ServiceIPRanges": services,
        "SupervisorMetrics": flags.supervisor_metrics,
        "AdvertisePort": settings.port,
        "AdvertiseIP": settings.advertise_ip.to_string(),
        "HTTPSPort": settings.port,
        "SupervisorPort": settings.port,
        "APIServerPort": settings.port.saturating_add(1),
        "ServiceNodePortRange": { "Base": flags.node_ports.base, "Size": flags.node_ports.size },
        "DataDir": settings.data_dir,
        "DisableAPIServer": false,
        "DisableETCD": false,
        "DisableKubeProxy": flags.disable_kube_proxy,
        "DisableServiceLB": true,
        "Rootless": false,
        "ServiceLBNamespace": "kube-system",
        "SystemDefaultRegistry": flags.system_default_registry,
        "IPSECPSK": psk,
        "MinTLSVersion": "",
        "CipherSuites": SUITES,
        "ServerNodeName": settings.node_name,
        "SANs": sans,
        "SANSecurity": settings.san_security,
        "PrivateIP": settings.advertise_ip.to_string(),
    })
}

/// Go's `net.IPNet`: address, and the mask in base64.
fn network((address, length): &(IpAddr, u8)) -> Value {
    let octets = match address {
        IpAddr::V4(_) => 4,
        IpAddr::V6(_) => 16,
    };
    let mut left = u32::from(*length);
    let mask: Vec<u8> = (0..octets)
        .map(|_| {
            let ones = left.min(8);
            left -= ones;
            u8::try_from(0xff00 >> ones & 0xff).unwrap_or(u8::MAX)
        })
        .collect();
    let engine = base64::engine::general_purpose::STANDARD;
    json!({
        "IP": address.to_string(),
        "Mask": base64::Engine::encode(&engine, mask),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_as_go_writes_them() {
        let of = |text: &str, length| network(&(text.parse().unwrap(), length)).to_string();
        assert_eq!(
            of("10.42.0.0", 16),
            r#"{"IP":"10.42.0.0","Mask":"//8AAA=="}"#
        );
        assert!(of("10.42.0.0", 20).contains("///wAA=="));
        assert!(of("10.42.0.0", 0).contains("AAAAAA=="));
        assert!(of("10.42.0.0", 32).contains("/////w=="));
        assert!(of("fd00::", 56).contains("/////////wAAAAAAAAAAAA=="));
    }
}
