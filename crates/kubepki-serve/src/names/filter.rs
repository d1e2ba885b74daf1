//! What may be learnt: K3s's filter, and addresses as clients write them.

use std::net::IpAddr;

use kubepki::listener::is_listener_name;
use kubepki::plan::can_be_carried;
use pki::San;

/// Where a name was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The address at which a connection arrived.
    Local,
    /// The name that a client says in its handshake.
    Sni,
    /// The address that a request says it is for.
    Host,
}

impl Source {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Local => "the address of a connection",
            Self::Sni => "the server name of a handshake",
            Self::Host => "the host of a request",
        }
    }
}

/// What may be learnt: K3s's `--tls-san-security`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Whether only addresses of this machine are learnt. Configured names and those of the other
    /// servers are in the certificate anyway.
    pub is_secure: bool,
    /// Networks of services, whose addresses belong to no machine though one may carry them all.
    pub services: Vec<(IpAddr, u8)>,
}

impl Filter {
    /// Whether a name may be learnt. What the kernel let a connection arrive at is an address of
    /// this machine; what clients say of names and hosts is theirs to choose.
    pub fn admits(&self, source: Source, name: &San) -> bool {
        let is_fit = match name {
            San::Ip(address) => is_fit(*address),
            San::Dns(text) => !text.contains('*') && text.len() <= 253,
            _ => false,
        };
        let text = name.to_string();
        if !is_fit || !is_listener_name(&text) || !can_be_carried(name) {
            return false;
        }
        match (self.is_secure, source, name) {
            (false, ..) => true,
            // Of loopback there are millions, for whoever works on this machine.
            (true, Source::Local, San::Ip(address)) => {
                !address.is_loopback() && !self.services.iter().any(|it| contains(*it, *address))
            }
            (true, ..) => false,
        }
    }
}

/// Whether an address can be one server's: neither everybody's nor good on one wire only.
pub(super) fn is_fit(address: IpAddr) -> bool {
    let is_of_link = match address {
        IpAddr::V4(it) => it.is_link_local() || it.is_broadcast(),
        IpAddr::V6(it) => it.is_unicast_link_local(),
    };
    !(address.is_unspecified() || address.is_multicast() || is_of_link)
}

/// The address in `192.0.2.1:6443`, `[2001:db8::1]:6443` or without a port.
pub(super) fn address_of(authority: &str) -> Option<IpAddr> {
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if is_port(port) && (host.ends_with(']') || !host.contains(':')) => host,
        _ => authority,
    };
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}

fn contains((network, length): (IpAddr, u8), address: IpAddr) -> bool {
    let same = |all: u32, network: u128, address: u128| {
        let ignored = all.saturating_sub(u32::from(length));
        let cut = |bits: u128| bits.checked_shr(ignored).unwrap_or(0);
        cut(network) == cut(address)
    };
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            same(32, network.to_bits().into(), address.to_bits().into())
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            same(128, network.to_bits(), address.to_bits())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPEN: Filter = Filter {
        is_secure: false,
        services: Vec::new(),
    };

    fn filter() -> Filter {
        Filter {
            is_secure: true,
            services: vec![
                ("10.43.0.0".parse().unwrap(), 16),
                ("fd43::".parse().unwrap(), 112),
            ],
        }
    }

    #[test]
    fn the_filter_lets_in_what_a_machine_has_and_nothing_that_is_said() {
        for (name, wanted) in [
            ("192.0.2.1", true),
            ("10.42.0.1", true),
            ("10.43.0.1", false),
            ("10.43.255.255", false),
            ("10.44.0.0", true),
            ("fd43::7", false),
            ("fd43::1:0", true),
            ("127.0.0.2", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("169.254.1.1", false),
            ("255.255.255.255", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("::", false),
            ("name.example", false),
        ] {
            let san = San::from_text(name);
            assert_eq!(filter().admits(Source::Local, &san), wanted, "{name}");
            assert!(!filter().admits(Source::Sni, &san), "{name}");
            assert!(!filter().admits(Source::Host, &san), "{name}");
        }
        for (name, wanted) in [
            ("name.example", true),
            ("s1", true),
            ("10.43.0.1", true),
            ("*.example", false),
            ("a.*.example", false),
            ("-a", false),
            ("a b", false),
            ("", false),
            ("fe80::1", false),
        ] {
            let san = San::from_text(name);
            assert_eq!(OPEN.admits(Source::Sni, &san), wanted, "{name}");
        }
    }

    #[test]
    fn addresses_of_hosts_are_read_as_urls_have_them() {
        for (authority, wanted) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:6443", Some("192.0.2.1")),
            ("[2001:db8::1]:6443", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("192.0.2.1:", None),
            ("192.0.2.1:port", None),
            ("[192.0.2.1]", None),
            ("[2001:db8::1", None),
            ("[fe80::1%25eth0]:6443", None),
            ("192.0.2.1.", None),
            ("name.example:6443", None),
            ("", None),
        ] {
            let wanted = wanted.map(|it| it.parse::<IpAddr>().unwrap());
            assert_eq!(address_of(authority), wanted, "{authority}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_said_makes_no_wildcard(text in "\\PC{0,40}|[*.a-z]{1,12}") {
            let _ = address_of(&text);
            let name = San::from_text(&text);
            if OPEN.admits(Source::Sni, &name) {
                prop_assert!(is_listener_name(&text) && !text.contains('*'));
            }
            prop_assert!(!filter().admits(Source::Sni, &name));
        }
    }
}
