//! What K3s's servers tell agents of the cluster, beside its networks (`/v1-k3s/config`).

use std::net::IpAddr;

use super::config::{ConfigError, Found, Values};

/// Flags of servers that agents follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForAgents {
    /// `--cluster-dns`; K3s falls back to the tenth address of each service CIDR.
    pub cluster_dns: Vec<Found<IpAddr>>,
    /// `--service-node-port-range`.
    pub service_node_ports: Found<PortRange>,
    /// `--disable-cloud-controller`: kubelets wait for no cloud controller.
    pub disable_cloud_controller: Found<bool>,
    /// `--disable-network-policy`: agents enforce no network policies.
    pub disable_network_policy: Found<bool>,
    /// `--disable-kube-proxy`.
    pub disable_kube_proxy: Found<bool>,
    /// `--disable-helm-controller`.
    pub disable_helm_controller: Found<bool>,
    /// `--embedded-registry`.
    pub embedded_registry: Found<bool>,
    /// `--flannel-ipv6-masq`.
    pub flannel_ipv6_masq: Found<bool>,
    /// `--flannel-external-ip`.
    pub flannel_external_ip: Found<bool>,
    /// `--supervisor-metrics`.
    pub supervisor_metrics: Found<bool>,
    /// `--egress-selector-mode`, where it is given.
    pub egress_selector_mode: Option<Found<String>>,
    /// `--system-default-registry`.
    pub system_default_registry: Option<Found<String>>,
}

/// Ports in a row, as Kubernetes counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub base: u16,
    /// How many.
    pub size: u16,
}

impl Default for PortRange {
    /// Kubernetes' 30000 to 32767.
    fn default() -> Self {
        Self {
            base: 30000,
            size: 2768,
        }
    }
}

impl PortRange {
    /// `30000-32767`, `30000+2767`, `30000`, as Kubernetes reads them.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (base, last) = if let Some((base, last)) = text.split_once('-') {
            (base.parse().ok()?, last.parse().ok()?)
        } else if let Some((base, more)) = text.split_once('+') {
            let base: u16 = base.parse().ok()?;
            (base, base.checked_add(more.parse().ok()?)?)
        } else {
            let only: u16 = text.parse().ok()?;
            (only, only)
        };
        let size = last.checked_sub(base)?.checked_add(1)?;
        Some(Self { base, size })
    }
}

impl ForAgents {
    pub(super) fn of(values: &Values) -> Result<Self, ConfigError> {
        let ports = values.parsed("service-node-port-range", "a range of ports", |text| {
            PortRange::parse(text)
        })?;
        Ok(Self {
            cluster_dns: values.addresses("cluster-dns")?,
            service_node_ports: ports.unwrap_or_else(|| Found::by_default(PortRange::default())),
            disable_cloud_controller: values.switch("disable-cloud-controller", false)?,
            disable_network_policy: values.switch("disable-network-policy", false)?,
            disable_kube_proxy: values.switch("disable-kube-proxy", false)?,
            disable_helm_controller: values.switch("disable-helm-controller", false)?,
            embedded_registry: values.switch("embedded-registry", false)?,
            flannel_ipv6_masq: values.switch("flannel-ipv6-masq", false)?,
            flannel_external_ip: values.switch("flannel-external-ip", false)?,
            supervisor_metrics: values.switch("supervisor-metrics", false)?,
            egress_selector_mode: values.one("egress-selector-mode"),
            system_default_registry: values.one("system-default-registry"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_kubernetes_reads_them() {
        let of = |text: &str| PortRange::parse(text).map(|it| (it.base, it.size));
        for (text, range) in [
            ("30000-32767", Some((30000, 2768))),
            (" 30000+2767 ", Some((30000, 2768))),
            ("8080", Some((8080, 1))),
            ("1-65535", Some((1, 65535))),
            ("0-65535", None),
            ("32767-30000", None),
            ("60000+10000", None),
            ("30000-", None),
            ("a-b", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(of(text), range, "{text:?}");
        }
    }
}
