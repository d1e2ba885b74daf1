//! Name constraints (RFC 5280 section 4.2.1.10, as Go 1.26 reads it).
//!
//! Every CA's constraints hold for the alternative names of every certificate below it, CAs
//! included; subject names are not looked at. Go 1.26 also refuses a URI or mailbox that it
//! cannot compare as soon as any CA above constrains anything.

use core::cell::Cell;
use core::net::IpAddr;

use crate::name_form::{Mailbox, domain_is_valid, uri_host};
use crate::verify::{Identity, Path, PathError, Reason};
use crate::{Certificate, NameConstraints, San, Subtree};

/// Comparisons that one path may need; more is an attack on the verifier's time.
const COMPARISONS: usize = 250_000;

/// Checks a whole path.
pub(super) fn check(path: &Path<'_>) -> Result<(), PathError> {
    let comparisons = Cell::new(0);
    let mut above = path.certificates();
    while let [certificate, rest @ ..] = above {
        above = rest;
        let constrained = rest.iter().any(|ca| ca.name_constraints().is_some());
        if !constrained || certificate.sans().is_empty() {
            continue;
        }
        let names = comparable_names(certificate)?;
        for ca in rest {
            check_against(ca, certificate, &names, &comparisons)?;
        }
    }
    Ok(())
}

/// A name in the form in which it is compared.
enum Comparable<'a> {
    Dns(&'a str),
    Ip(IpAddr),
    Uri(&'a str, String),
    Email(&'a str, Mailbox),
}

impl Comparable<'_> {
    fn text(&self) -> String {
        match self {
            Self::Dns(text) | Self::Uri(text, _) | Self::Email(text, _) => (*text).to_owned(),
            Self::Ip(address) => address.to_string(),
        }
    }
}

fn comparable_names(certificate: &Certificate) -> Result<Vec<Comparable<'_>>, PathError> {
    let mut names = Vec::new();
    for san in certificate.sans() {
        let unusable = |name: &str, detail| {
            let name = name.to_owned();
            PathError::new(certificate, Reason::NameUnusable { name, detail })
        };
        match san {
            San::Dns(text) => {
                if !domain_is_valid(text, false) {
                    return Err(unusable(text, "it is not a domain name"));
                }
                names.push(Comparable::Dns(text));
            }
            San::Ip(address) => names.push(Comparable::Ip(*address)),
            San::Uri(text) => {
                let host = comparable_host(text).map_err(|detail| unusable(text, detail))?;
                names.push(Comparable::Uri(text, host));
            }
            San::Email(text) => {
                let mailbox =
                    Mailbox::parse(text).ok_or_else(|| unusable(text, "it is not a mailbox"))?;
                names.push(Comparable::Email(text, mailbox));
            }
            San::Other(..) => {}
        }
    }
    Ok(names)
}

/// The domain of a URI; addresses have no place in a domain tree.
fn comparable_host(uri: &str) -> Result<String, &'static str> {
    let authority = uri_host(uri).unwrap_or_default();
    if authority.is_empty() {
        return Err("the URI has no host");
    }
    if authority.starts_with('[') {
        return Err("the URI's host is an address");
    }
    let host = match authority.split_once(':') {
        Some((host, port)) if !port.contains(':') => host,
        Some(_) => return Err("the URI's host has several ports"),
        None => authority,
    };
    if host.parse::<IpAddr>().is_ok() {
        return Err("the URI's host is an address");
    }
    if !domain_is_valid(host, false) {
        return Err("the URI's host is not a domain name");
    }
    Ok(host.to_ascii_lowercase())
}

fn check_against(
    ca: &Certificate,
    child: &Certificate,
    names: &[Comparable<'_>],
    comparisons: &Cell<usize>,
) -> Result<(), PathError> {
    let Some(constraints) = ca.name_constraints() else {
        return Ok(());
    };
    for name in names {
        let per_name = constraints.permitted.len() + constraints.excluded.len();
        comparisons.set(comparisons.get().saturating_add(per_name));
        if comparisons.get() > COMPARISONS {
            let limit = COMPARISONS;
            return Err(PathError::new(ca, Reason::TooManyConstraints { limit }));
        }
        let mut of_kind = constraints
            .permitted
            .iter()
            .filter(|subtree| is_of_kind(subtree, name))
            .peekable();
        if of_kind.peek().is_some() && !of_kind.any(|subtree| lies_in(name, subtree, false)) {
            let (child, name) = (Identity::of(child), name.text());
            return Err(PathError::new(ca, Reason::NameNotPermitted { child, name }));
        }
        let excluded =
            |subtree: &&Subtree| is_of_kind(subtree, name) && lies_in(name, subtree, true);
        if let Some(subtree) = constraints.excluded.iter().find(excluded) {
            let (child, name) = (Identity::of(child), name.text());
            let subtree = subtree.to_string();
            let reason = Reason::NameExcluded {
                child,
                name,
                subtree,
            };
            return Err(PathError::new(ca, reason));
        }
    }
    Ok(())
}

impl NameConstraints {
    /// Whether a certificate below may carry `name`, as path building will answer. Kinds other
    /// than DNS names and addresses are not looked at.
    pub fn allow(&self, name: &San) -> bool {
        let name = match name {
            San::Dns(text) => Comparable::Dns(text),
            San::Ip(address) => Comparable::Ip(*address),
            San::Uri(_) | San::Email(_) | San::Other(..) => return true,
        };
        let mut of_kind = self
            .permitted
            .iter()
            .filter(|subtree| is_of_kind(subtree, &name))
            .peekable();
        let permitted =
            of_kind.peek().is_none() || of_kind.any(|subtree| lies_in(&name, subtree, false));
        let excludes =
            |subtree: &Subtree| is_of_kind(subtree, &name) && lies_in(&name, subtree, true);
        permitted && !self.excluded.iter().any(excludes)
    }
}

fn is_of_kind(subtree: &Subtree, name: &Comparable<'_>) -> bool {
    matches!(
        (subtree, name),
        (Subtree::Dns(_), Comparable::Dns(_))
            | (Subtree::Ip(..), Comparable::Ip(_))
            | (Subtree::Uri(_), Comparable::Uri(..))
            | (Subtree::Email(_), Comparable::Email(..))
    )
}

fn lies_in(name: &Comparable<'_>, subtree: &Subtree, excluding: bool) -> bool {
    match (name, subtree) {
        (Comparable::Dns(name), Subtree::Dns(domain)) => domain_lies_in(name, domain, excluding),
        (Comparable::Uri(_, host), Subtree::Uri(domain)) => domain_lies_in(host, domain, excluding),
        (Comparable::Email(_, mailbox), Subtree::Email(base)) => match Mailbox::parse(base) {
            Some(exact) if base.contains('@') => exact == *mailbox,
            _ => domain_lies_in(&mailbox.domain, base, excluding),
        },
        (Comparable::Ip(address), Subtree::Ip(base, mask)) => address_lies_in(*address, base, mask),
        _ => false,
    }
}

/// Whether `name` is `domain` or below it; a leading dot asks for at least one label more. A
/// wildcard is excluded already when it could stand for the excluded domain.
fn domain_lies_in(name: &str, domain: &str, excluding: bool) -> bool {
    if domain.is_empty() {
        return true;
    }
    if let Some((head, tail)) = split_at_end(name, domain.len())
        && tail.eq_ignore_ascii_case(domain)
        && (head.is_empty() || domain.starts_with('.') || head.ends_with('.'))
    {
        return true;
    }
    let after_first = |text: &str| {
        text.find('.')
            .and_then(|dot| text.get(dot..).map(str::to_owned))
    };
    excluding
        && name.starts_with('*')
        && matches!(
            (after_first(name), after_first(domain)),
            (Some(one), Some(other)) if one.eq_ignore_ascii_case(&other)
        )
}

fn split_at_end(text: &str, len: usize) -> Option<(&str, &str)> {
    text.len()
        .checked_sub(len)
        .and_then(|middle| text.split_at_checked(middle))
}

/// Both families are compared as Go's `net.IPNet.Contains` does: an IPv4-mapped address or
/// subtree counts as IPv4 once the lengths on the wire have been told apart.
fn address_lies_in(address: IpAddr, base: &[u8], mask: &[u8]) -> bool {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    if octets(address).len() != base.len() {
        return false;
    }
    let mapped = <[u8; 16]>::try_from(base)
        .ok()
        .map(|octets| octets_of_canonical(IpAddr::from(octets)));
    let base = mapped.as_deref().unwrap_or(base);
    let mask = mask
        .get(mask.len() - base.len().min(mask.len())..)
        .unwrap_or_default();
    let own = octets_of_canonical(address);
    own.len() == base.len()
        && own
            .iter()
            .zip(base)
            .zip(mask)
            .all(|((own, base), mask)| own & mask == base & mask)
}

fn octets_of_canonical(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
