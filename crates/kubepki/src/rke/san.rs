//! The names in certificates, in RKE's order: RKE compares the API server's in order and issues
//! anew where it finds another (`pki/util.go`).

use std::net::IpAddr;

use pki::San;

use super::{ClusterConfig, Node, Role};

/// A range of service addresses that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "Failed to get Kubernetes Service IP: Failed to get kubernetes service IP from Kube API \
     option [service_cluster_ip_range]: invalid CIDR address: {range}"
)]
pub struct SanError {
    /// The range, as given.
    pub range: String,
}

/// The API server's names: control-plane nodes, then `authentication.sans`, then what every
/// cluster has.
///
/// # Errors
///
/// [`SanError`].
pub fn kube_apiserver_sans(config: &ClusterConfig) -> Result<Vec<San>, SanError> {
    shared(config, Role::ControlPlane, &config.sans)
}

/// The names in every etcd member's certificate: those of all etcd nodes, and what every cluster
/// has.
///
/// # Errors
///
/// [`SanError`].
pub fn etcd_sans(config: &ClusterConfig) -> Result<Vec<San>, SanError> {
    shared(config, Role::Etcd, &[])
}

/// A kubelet's names: those of its node, nothing else.
pub fn kubelet_sans(node: &Node) -> Vec<San> {
    let mut names = Names::default();
    names.host(node);
    names.list()
}

/// The address of the service `kubernetes` in each of the ranges: the network's, plus one.
///
/// # Errors
///
/// [`SanError`].
pub fn service_addresses(ranges: &str) -> Result<Vec<IpAddr>, SanError> {
    ranges
        .split(',')
        .map(|range| {
            let first = first_address(range).ok_or_else(|| SanError {
                range: range.to_owned(),
            })?;
            Ok(first.to_canonical())
        })
        .collect()
}

/// The network's address with one added to its last byte, with carry.
fn first_address(range: &str) -> Option<IpAddr> {
    let (address, bits) = range.split_once('/')?;
    // Go takes neither a sign nor blanks.
    if bits.is_empty() || !bits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let bits: u32 = bits.parse().ok()?;
    match address.parse().ok()? {
        IpAddr::V4(address) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            let first = (address.to_bits() & mask).wrapping_add(1);
            Some(IpAddr::V4(first.into()))
        }
        IpAddr::V6(address) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            let first = (address.to_bits() & mask).wrapping_add(1);
            Some(IpAddr::V6(first.into()))
        }
        _ => None,
    }
}

fn shared(config: &ClusterConfig, role: Role, extra: &[String]) -> Result<Vec<San>, SanError> {
    let mut names = Names::default();
    for node in config.with_role(role) {
        names.host(node);
    }
    for name in extra {
        names.split(name);
    }
    names.addresses.push(IpAddr::from([127, 0, 0, 1]));
    names
        .addresses
        .extend(service_addresses(&config.service_range)?);
    for name in [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
    ] {
        names.dns.push(name.to_owned());
    }
    names
        .dns
        .push(format!("kubernetes.default.svc.{}", config.cluster_domain));
    Ok(names.list())
}

/// Names as they come, repeats kept; DNS names go before addresses in the certificate.
#[derive(Default)]
struct Names {
    dns: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Names {
    fn host(&mut self, node: &Node) {
        self.split(&node.address);
        if !node.internal_address.is_empty() && node.internal_address != node.address {
            self.split(&node.internal_address);
        }
        if !node.hostname.is_empty() && node.hostname != node.address {
            self.dns.push(node.hostname.clone());
        }
    }

    fn split(&mut self, name: &str) {
        match San::from_text(name) {
            // Go writes an IPv4 address in IPv6 form as what it is.
            San::Ip(address) => self.addresses.push(address.to_canonical()),
            _ => self.dns.push(name.to_owned()),
        }
    }

    fn list(self) -> Vec<San> {
        let dns = self.dns.into_iter().map(San::Dns);
        dns.chain(self.addresses.into_iter().map(San::Ip)).collect()
    }
}
