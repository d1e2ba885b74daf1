//! What an operator says of a new server, checked before anything is made from it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use pki::DAY;

use crate::catalogue::Release;
use crate::cluster::NodeSpec;
use crate::listener::is_listener_name;

/// What flags, config.yaml and defaults say, as text. Lists may hold values with commas, as
/// K3s's own flags may.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// `--node-name`, or the host's name.
    pub node_name: String,
    /// `--node-ip`, or the address of the default route.
    pub node_ip: Vec<String>,
    /// `--node-external-ip`.
    pub node_external_ip: Vec<String>,
    /// `--tls-san`.
    pub tls_san: Vec<String>,
    /// `--cluster-domain`; `cluster.local` if absent.
    pub cluster_domain: Option<String>,
    /// `--service-cidr`; `10.43.0.0/16` if empty.
    pub service_cidr: Vec<String>,
    /// `--bind-address`.
    pub bind_address: Option<String>,
}

/// A new server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Names and addresses.
    pub node: NodeSpec,
    /// The K3s that will run on it; what the files tell, or the newest, if absent.
    pub release: Option<Release>,
    /// `--https-listen-port`: supervisor and API server front.
    pub https_port: u16,
    /// The API server's own port; K3s takes the one after [`Self::https_port`].
    pub apiserver_port: u16,
    /// `--bind-address`, which people then reach the server by.
    pub bind_address: Option<IpAddr>,
    /// A leaf's lifetime in seconds: 365 days with K3s, unless
    /// `CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS` says otherwise.
    pub leaf_lifetime: i64,
    /// `--disable-agent`: no pods run here, so the API server needs no tunnel to this node.
    pub disable_agent: bool,
    /// `--disable-etcd`: etcd's server certificate is left out.
    pub disable_etcd: bool,
    /// Whether the agent's files are made too, which an agent else asks its server for.
    pub with_agent: bool,
    /// Whether missing CA files are made where others are there.
    pub complete: bool,
    /// The kubeconfig for people, outside the data directory.
    pub kubeconfig: Option<PathBuf>,
    /// Its mode (`--write-kubeconfig-mode`), `0o600` with K3s.
    pub kubeconfig_mode: u32,
}

/// The release that a new tree is made for unless told otherwise: the newest whose files this
/// program was held against.
pub const NEWEST: Release = Release {
    minor: 36,
    patch: 3,
};

/// K3s's `--https-listen-port`.
pub const HTTPS_PORT: u16 = 6443;

/// A value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{flag} {value:?} {problem}")]
pub struct SpecError {
    /// The flag that it belongs to.
    pub flag: &'static str,
    /// The value.
    pub value: String,
    /// What is wrong with it and what to do.
    pub problem: String,
}

impl Spec {
    /// A spec with K3s's defaults for everything that `words` does not say.
    ///
    /// # Errors
    ///
    /// [`SpecError`] for the first value that K3s or Kubernetes could not use.
    pub fn new(words: &Words) -> Result<Self, SpecError> {
        let cidrs = list(&words.service_cidr);
        let first_cidr = cidrs.first().map_or("10.43.0.0/16", String::as_str);
        for cidr in cidrs.iter().skip(1) {
            service_address(cidr)?;
        }
        let tls_sans = list(&words.tls_san);
        tls_sans.iter().try_for_each(|san| check_san(san))?;
        let node = NodeSpec {
            name: node_name(&words.node_name)?,
            addresses: addresses("--node-ip", &words.node_ip)?,
            external_addresses: addresses("--node-external-ip", &words.node_external_ip)?,
            tls_sans,
            cluster_domain: cluster_domain(words.cluster_domain.as_deref())?,
            service_address: service_address(first_cidr)?,
        };
        let bind_address = words
            .bind_address
            .as_deref()
            .filter(|text| !text.trim().is_empty())
            .map(|text| any_address("--bind-address", text))
            .transpose()?;
        Ok(Self {
            node,
            release: None,
            https_port: HTTPS_PORT,
            apiserver_port: HTTPS_PORT + 1,
            bind_address,
            leaf_lifetime: 365 * DAY,
            disable_agent: false,
            disable_etcd: false,
            with_agent: false,
            complete: false,
            kubeconfig: None,
            kubeconfig_mode: 0o600,
        })
    }

    /// `https://` and the loopback address, of the family that the services have, as K3s's own
    /// components reach the API server.
    pub(super) fn loopback_url(&self, port: u16) -> String {
        let loopback: IpAddr = match self.node.service_address {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        url(loopback, port)
    }

    /// Where people reach the server from here.
    pub(super) fn people_url(&self) -> String {
        match self.bind_address {
            Some(address) if !address.is_unspecified() => url(address, self.https_port),
            _ => self.loopback_url(self.https_port),
        }
    }
}

fn url(address: IpAddr, port: u16) -> String {
    format!("https://{}", std::net::SocketAddr::new(address, port))
}

/// Every value, those with commas split, empty ones left out.
fn list(values: &[String]) -> Vec<String> {
    values
        .iter()
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
        .collect()
}

fn error(flag: &'static str, value: &str, problem: impl Into<String>) -> SpecError {
    SpecError {
        flag,
        value: value.to_owned(),
        problem: problem.into(),
    }
}

/// Lower-cased, as K3s does; a name that Kubernetes takes for a node (RFC 1123 subdomain).
fn node_name(text: &str) -> Result<String, SpecError> {
    let name = text.trim().to_lowercase();
    if name.is_empty() {
        return Err(error("--node-name", text, "is empty: a node needs a name"));
    }
    match dns_problem(&name) {
        Some(problem) => Err(error("--node-name", text, problem)),
        None => Ok(name),
    }
}

fn cluster_domain(text: Option<&str>) -> Result<String, SpecError> {
    let domain = text
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .unwrap_or("cluster.local");
    match dns_problem(domain) {
        Some(problem) => Err(error("--cluster-domain", domain, problem)),
        None => Ok(domain.to_owned()),
    }
}

/// What keeps `name` from being a lower-case DNS name.
fn dns_problem(name: &str) -> Option<String> {
    if name.len() > 253 {
        return Some("has more than 253 characters".to_owned());
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if let Some(odd) = name.chars().find(|c| !allowed(*c)) {
        return Some(format!(
            "holds {odd:?}; only lower-case letters, digits, '-' and '.' can stand in it"
        ));
    }
    let whole = |label: &str| {
        !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
    };
    (!name.split('.').all(whole)).then(|| {
        "is no DNS name: each part between dots has 1 to 63 characters and neither begins nor \
         ends with '-'"
            .to_owned()
    })
}

fn addresses(flag: &'static str, values: &[String]) -> Result<Vec<IpAddr>, SpecError> {
    let mut found = Vec::new();
    for text in list(values) {
        let address = any_address(flag, &text)?;
        if address.is_unspecified() || address.is_multicast() {
            return Err(error(flag, &text, "is no address of a single host"));
        }
        if !found.contains(&address) {
            found.push(address);
        }
    }
    Ok(found)
}

fn any_address(flag: &'static str, text: &str) -> Result<IpAddr, SpecError> {
    let address: IpAddr = text
        .trim()
        .parse()
        .map_err(|_| error(flag, text, "is no IP address"))?;
    // Go's parser, and so K3s, takes ::ffff:192.0.2.1 for 192.0.2.1.
    Ok(address.to_canonical())
}

/// K3s drops names that its listener does not take without a word; they are refused here.
fn check_san(text: &str) -> Result<(), SpecError> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    if text.len() > 253 || text.contains(':') || !is_listener_name(text) {
        let problem = "is neither an IP address nor a DNS name (letters, digits, '-', '_' and \
                       '.', optionally '*.' in front)";
        return Err(error("--tls-san", text, problem));
    }
    Ok(())
}

/// The first usable address of a network (`10.43.0.0/16`): its number plus one.
///
/// # Errors
///
/// [`SpecError`] when `cidr` is no network, or has no room.
pub fn service_address(cidr: &str) -> Result<IpAddr, SpecError> {
    let bad = |problem: &str| error("--service-cidr", cidr, problem);
    let (address, length) = cidr
        .split_once('/')
        .ok_or_else(|| bad("has no prefix length; write it as 10.43.0.0/16"))?;
    let address: IpAddr = address
        .parse()
        .map_err(|_| bad("does not begin with an IP address"))?;
    let length: u32 = length
        .parse()
        .map_err(|_| bad("has a prefix length that is no number"))?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    if length >= bits {
        return Err(bad("has no room for a service address"));
    }
    Ok(match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            Ipv4Addr::from_bits((address.to_bits() & mask).wrapping_add(1)).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            Ipv6Addr::from_bits((address.to_bits() & mask).wrapping_add(1)).into()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(change: impl FnOnce(&mut Words)) -> Words {
        let mut words = Words {
            node_name: "one".to_owned(),
            node_ip: vec!["192.0.2.1".to_owned()],
            ..Words::default()
        };
        change(&mut words);
        words
    }

    fn flag_of(change: impl FnOnce(&mut Words)) -> Option<&'static str> {
        Spec::new(&words(change)).err().map(|error| error.flag)
    }

    #[test]
    fn says_what_k3s_says_by_default() {
        let spec = Spec::new(&words(|_| ())).unwrap();
        assert_eq!(spec.node.cluster_domain, "cluster.local");
        assert_eq!(spec.node.service_address.to_string(), "10.43.0.1");
        assert_eq!(spec.loopback_url(6444), "https://127.0.0.1:6444");
        assert_eq!(spec.people_url(), "https://127.0.0.1:6443");
    }

    #[test]
    fn reads_lists_as_k3s_does() {
        let spec = Spec::new(&words(|it| {
            it.node_name = " Node-1.Example.ORG ".to_owned();
            it.node_ip = vec!["192.0.2.1,2001:db8::1".to_owned(), "192.0.2.1".to_owned()];
            it.tls_san = vec!["a.example,*.b.example".to_owned(), "192.0.2.9".to_owned()];
            it.service_cidr = vec!["fd00:43::/112,10.43.0.0/16".to_owned()];
            it.bind_address = Some("2001:db8::1".to_owned());
        }))
        .unwrap();
        assert_eq!(spec.node.name, "node-1.example.org");
        let shown: Vec<String> = spec
            .node
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(shown, ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(
            spec.node.tls_sans,
            ["a.example", "*.b.example", "192.0.2.9"]
        );
        assert_eq!(spec.node.service_address.to_string(), "fd00:43::1");
        assert_eq!(spec.loopback_url(6444), "https://[::1]:6444");
        assert_eq!(spec.people_url(), "https://[2001:db8::1]:6443");
    }

    #[test]
    fn refuses_by_the_flag_that_is_wrong() {
        for name in ["", " ", "a b", "a:b", "-a", "a..b", "a_b", "ä"] {
            assert_eq!(
                flag_of(|it| it.node_name = name.to_owned()),
                Some("--node-name"),
                "{name}"
            );
        }
        for ip in ["300.1.1.1", "host", "0.0.0.0", "fe80::1%eth0", "224.0.0.1"] {
            assert_eq!(
                flag_of(|it| it.node_ip = vec![ip.to_owned()]),
                Some("--node-ip"),
                "{ip}"
            );
        }
        for san in ["a b", "a/b", "*", "a.*.b", "https://x"] {
            assert_eq!(
                flag_of(|it| it.tls_san = vec![san.to_owned()]),
                Some("--tls-san"),
                "{san}"
            );
        }
        for cidr in [
            "10.43.0.0",
            "10.43.0.0/33",
            "10.43.0.1/32",
            "x/16",
            "10.43.0.0/16,y/8",
        ] {
            let cidr = cidr.to_owned();
            let shown = cidr.clone();
            assert_eq!(
                flag_of(|it| it.service_cidr = vec![cidr]),
                Some("--service-cidr"),
                "{shown}"
            );
        }
        let domain = |it: &mut Words| it.cluster_domain = Some("Cluster.Local".to_owned());
        assert_eq!(flag_of(domain), Some("--cluster-domain"));
    }

    #[test]
    fn host_bits_of_a_network_do_not_matter() {
        assert_eq!(
            service_address("10.43.7.9/16").unwrap().to_string(),
            "10.43.0.1"
        );
        assert_eq!(service_address("0.0.0.0/0").unwrap().to_string(), "0.0.0.1");
        assert_eq!(
            service_address("fd00::5/64").unwrap().to_string(),
            "fd00::1"
        );
    }
}
