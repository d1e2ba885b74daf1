//! Names and addresses of servers: no other node may have them in its certificate, or it could pass
//! for the API server.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::IpAddr;

use pki::{Certificate, San};

use crate::status::Refusal;

/// What a certificate answers to, as clients compare: without regard to case, a wildcard for one
/// label (RFC 9525 section 6.3).
#[derive(Debug, Clone, Default)]
pub struct Carried {
    names: HashSet<String>,
    /// Behind `*.`.
    wildcards: HashSet<String>,
    addresses: HashSet<IpAddr>,
}

impl Carried {
    /// Of that certificate.
    pub fn of(leaf: &Certificate) -> Self {
        leaf.sans().iter().collect()
    }

    /// Whether it answers to that name.
    pub fn has_name(&self, name: &str) -> bool {
        let name = match name.bytes().any(|it| it.is_ascii_uppercase()) {
            true => Cow::Owned(name.to_ascii_lowercase()),
            false => Cow::Borrowed(name),
        };
        let is_below = || {
            let rest = name.split_once('.').map(|(_, rest)| rest);
            rest.is_some_and(|rest| self.wildcards.contains(rest))
        };
        self.names.contains(name.as_ref()) || is_below()
    }

    /// Whether it answers to that address.
    pub fn has_address(&self, address: &IpAddr) -> bool {
        self.addresses.contains(address)
    }

    /// Whether it answers to that name or address.
    pub fn has(&self, name: &San) -> bool {
        match name {
            San::Ip(address) => self.has_address(address),
            San::Dns(name) => self.has_name(name),
            _ => false,
        }
    }

    /// How many names, wildcards and addresses there are.
    pub fn count(&self) -> usize {
        self.names.len() + self.wildcards.len() + self.addresses.len()
    }

    /// All but the wildcards.
    pub(crate) fn single(&self) -> impl Iterator<Item = San> + '_ {
        let names = self.names.iter().cloned().map(San::Dns);
        names.chain(self.addresses.iter().copied().map(San::Ip))
    }
}

impl<'a> FromIterator<&'a San> for Carried {
    fn from_iter<T: IntoIterator<Item = &'a San>>(sans: T) -> Self {
        let mut carried = Self::default();
        for san in sans {
            match san {
                San::Ip(address) => drop(carried.addresses.insert(address.to_canonical())),
                San::Dns(name) => {
                    let name = name.to_ascii_lowercase();
                    match name.strip_prefix("*.") {
                        Some(rest) => carried.wildcards.insert(rest.to_owned()),
                        None => carried.names.insert(name),
                    };
                }
                _ => {}
            }
        }
        carried
    }
}

/// What one server is reached by.
#[derive(Debug, Clone, Default)]
pub struct Reserved {
    /// Its node's name, in lower case.
    server: String,
    sans: Carried,
}

impl Reserved {
    /// The names and addresses of the server whose node is called `server`.
    pub fn new<'a>(server: &str, sans: impl IntoIterator<Item = &'a San>) -> Self {
        Self {
            server: server.to_ascii_lowercase(),
            sans: sans.into_iter().collect(),
        }
    }

    /// Whether `node` is the server itself.
    pub fn is_of(&self, node: &str) -> bool {
        self.server.eq_ignore_ascii_case(node)
    }

    /// Whether `node` may have its name and those addresses in its certificate.
    ///
    /// # Errors
    ///
    /// 403 with the reason: they are the server's, and it is another node.
    pub fn refuse(&self, node: &str, addresses: &[IpAddr]) -> Result<(), Refusal> {
        if self.is_of(node) {
            return Ok(());
        }
        // Loopback stands in every kubelet's certificate anyway.
        let mut asked = addresses.iter().filter(|it| !it.is_loopback());
        if let Some(address) = asked.find(|it| self.sans.has_address(it)) {
            return Err(address_of_server(*address, node));
        }
        // A name that looks like an address is taken for one by some clients.
        match self.sans.has_name(node) || self.sans.has(&San::from_text(node)) {
            true => Err(name_of_server(node)),
            false => Ok(()),
        }
    }
}

/// The name is a server's.
pub(crate) fn name_of_server(node: &str) -> Refusal {
    Refusal::ForbiddenFor(format!(
        "{node} is a name of the servers: only the server itself may ask for its certificates"
    ))
}

/// The address is a server's.
pub(crate) fn address_of_server(address: IpAddr, node: &str) -> Refusal {
    Refusal::ForbiddenFor(format!(
        "{address} belongs to the servers: node {node} cannot have it in its certificate"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(texts: &[&str]) -> Carried {
        let sans: Vec<San> = texts.iter().map(|it| San::from_text(it)).collect();
        sans.iter().collect()
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let shown = carried(&["example.com", "*.Example.com"]);
        for (name, wanted) in [
            ("example.com", true),
            ("a.example.com", true),
            ("A.EXAMPLE.com", true),
            ("b.a.example.com", false),
            ("xexample.com", false),
            ("com", false),
        ] {
            assert_eq!(shown.has_name(name), wanted, "{name}");
        }
        assert_eq!(shown.count(), 2);
    }

    #[test]
    fn names_are_the_servers_however_they_are_written() {
        let sans = ["API.Example.com", "*.K8s.example", "10.77.0.11"].map(San::from_text);
        let reserved = Reserved::new("S1", &sans);
        for name in [
            "api.example.com",
            "worker.k8s.example",
            "s2.k8s.example",
            "10.77.0.11",
        ] {
            assert_eq!(reserved.refuse(name, &[]), Err(name_of_server(name)));
        }
        for name in [
            "s1",
            "a",
            "k8s.example",
            "a.b.k8s.example",
            "xapi.example.com",
        ] {
            assert_eq!(reserved.refuse(name, &[]), Ok(()), "{name}");
        }
        let own: IpAddr = "10.77.0.11".parse().unwrap();
        let refused = reserved.refuse("a", &[own]);
        assert_eq!(refused, Err(address_of_server(own, "a")));
        assert_eq!(reserved.refuse("s1", &[own]), Ok(()));
    }
}
