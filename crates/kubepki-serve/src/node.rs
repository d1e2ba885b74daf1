//! Which node a request is for, and whether it may be that node.

use std::net::IpAddr;

use zeroize::Zeroizing;

use crate::access::Identity;
use crate::reserved::{Reserved, name_of_server};
use crate::status::Refusal;

/// K3s's carelessness, or ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Signatures of requests are checked, keys held to a policy, every certificate bound to a
    /// node, names and addresses that belong to servers withheld from other nodes.
    Strict,
    /// `--k3s-compatible`: as K3s, legacy mode included.
    K3sCompatible,
}

/// What a request says of its node, as the headers have it.
#[derive(Default, Clone)]
pub struct NodeHeaders {
    /// `k3s-Node-Name`.
    pub name: Option<String>,
    /// `k3s-Node-Password`.
    pub password: Option<Zeroizing<String>>,
    /// `k3s-Node-IP`.
    pub addresses: Option<String>,
}

/// A node that a certificate is for.
#[derive(Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, in lower case.
    pub name: String,
    /// The password to hold it to; `None` where its certificate has proved who it is.
    pub password: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.name)
    }
}

/// Which node asks.
///
/// By headers, as K3s wants it. A certificate of a kubelet names its node too: then another name
/// in the headers is refused, and where ours is strict and no header is given, the certificate
/// is enough.
///
/// # Errors
///
/// 400 with K3s's words for what is missing or contradicts; strict also for names that
/// Kubernetes would not take.
pub fn node_of(
    identity: &Identity,
    headers: &NodeHeaders,
    strictness: Strictness,
) -> Result<Node, Refusal> {
    let strict = strictness == Strictness::Strict;
    let bad = |text: &str| Refusal::Bad(text.to_owned());
    let given = headers.name.as_deref().filter(|name| !name.is_empty());
    let name = match (given, identity.node()) {
        // Not every letter that becomes an ASCII one was one: the sign for kelvin becomes a k.
        (Some(name), _) if strict => name.to_ascii_lowercase(),
        (Some(name), _) => name.to_lowercase(),
        // K3s's agents send no headers for kube-proxy and controller, but their certificate.
        (None, Some(own)) if strict => own.to_owned(),
        (None, _) => return Err(bad("node name not set")),
    };
    if identity.node().is_some_and(|own| own != name) {
        return Err(bad("header node name does not match auth node name"));
    }
    if strict && let Some(problem) = name_problem(&name) {
        let shown: String = name.chars().take(LONGEST_NAME).collect();
        return Err(bad(&format!("node name {shown:?} {problem}")));
    }
    let password = headers.password.clone().filter(|text| !text.is_empty());
    match (password, identity.node()) {
        (None, Some(_)) if strict => Ok(Node {
            name,
            password: None,
        }),
        (None, _) => Err(bad("node password not set")),
        (password, _) => Ok(Node { name, password }),
    }
}

/// Characters in the name of a node.
const LONGEST_NAME: usize = 253;

/// What keeps a name from being a node's (RFC 1123 subdomain, as Kubernetes has it).
pub fn name_problem(name: &str) -> Option<&'static str> {
    let whole = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-')
    };
    if name.len() > LONGEST_NAME {
        return Some("has more than 253 characters");
    }
    (!name.split('.').all(whole))
        .then_some("is no name of a node: letters, digits, '-' and '.' as in DNS names")
}

/// The addresses that `header` asks for, in order.
///
/// # Errors
///
/// 500 with Go's words for what is none, as K3s; strict: 400 for it, and for addresses of no
/// host, and 403 for a server's name or address asked for by another node.
pub fn addresses(
    header: Option<&str>,
    node: &str,
    reserved: &Reserved,
    strictness: Strictness,
) -> Result<Vec<IpAddr>, Refusal> {
    let mut found = Vec::new();
    for text in header
        .into_iter()
        .filter(|it| !it.is_empty())
        .flat_map(|it| it.split(','))
    {
        let address = text.parse::<IpAddr>().map(|it| it.to_canonical());
        let address = match (address, strictness) {
            (Ok(address), _) => address,
            (Err(_), Strictness::K3sCompatible) => {
                let why = "invalid node IP address <nil>".to_owned();
                return Err(Refusal::Internal(why));
            }
            (Err(_), Strictness::Strict) => {
                let why = "k3s-Node-IP holds something that is no IP address";
                return Err(Refusal::Bad(why.to_owned()));
            }
        };
        found.push(address);
    }
    if strictness == Strictness::Strict {
        check_addresses(&found, node, reserved)?;
    }
    Ok(found)
}

/// As many as a node may have in its certificate.
const MOST_ADDRESSES: usize = 32;

fn check_addresses(found: &[IpAddr], node: &str, reserved: &Reserved) -> Result<(), Refusal> {
    if found.len() > MOST_ADDRESSES {
        let why = format!(
            "k3s-Node-IP holds {} addresses; {MOST_ADDRESSES} are enough",
            found.len()
        );
        return Err(Refusal::Bad(why));
    }
    for address in found {
        let broadcast = matches!(address, IpAddr::V4(it) if it.is_broadcast());
        if address.is_unspecified() || address.is_multicast() || broadcast {
            return Err(Refusal::Bad(format!(
                "{address} is no address of a single host"
            )));
        }
    }
    match node {
        "localhost" => Err(name_of_server(node)),
        _ => reserved.refuse(node, found),
    }
}

#[cfg(test)]
mod tests {
    use pki::San;
    use proptest::prelude::*;

    use super::*;
    use crate::issuance::Credential;

    fn agent() -> Identity {
        Identity {
            user: "node".to_owned(),
            groups: vec!["k3s:agent".to_owned()],
            credential: Credential::Token,
        }
    }

    fn kubelet(name: &str) -> Identity {
        Identity {
            user: format!("system:node:{name}"),
            groups: vec!["system:nodes".to_owned()],
            credential: Credential::Certificate,
        }
    }

    fn headers(name: &str, password: &str) -> NodeHeaders {
        NodeHeaders {
            name: Some(name.to_owned()),
            password: Some(Zeroizing::new(password.to_owned())),
            addresses: None,
        }
    }

    use Strictness::{K3sCompatible, Strict};

    #[test]
    fn a_node_has_name_and_password() {
        for strictness in [Strict, K3sCompatible] {
            let node = node_of(&agent(), &headers("Node-A", "pw"), strictness).unwrap();
            assert_eq!(node.name, "node-a");
            let refused = |headers: &NodeHeaders| {
                node_of(&agent(), headers, strictness)
                    .unwrap_err()
                    .message()
            };
            assert_eq!(refused(&NodeHeaders::default()), "node name not set");
            assert_eq!(refused(&headers("", "pw")), "node name not set");
            assert_eq!(refused(&headers("a", "")), "node password not set");
        }
    }

    #[test]
    fn a_certificate_is_good_for_its_own_node_only() {
        for strictness in [Strict, K3sCompatible] {
            assert!(node_of(&kubelet("a"), &headers("A", "pw"), strictness).is_ok());
            let other = node_of(&kubelet("a"), &headers("b", "pw"), strictness);
            assert_eq!(other.unwrap_err().code(), 400);
        }
        let bare = NodeHeaders::default();
        assert_eq!(node_of(&kubelet("a"), &bare, Strict).unwrap().name, "a");
        assert!(node_of(&kubelet("a"), &bare, K3sCompatible).is_err());
    }

    #[test]
    fn odd_names_are_refused_by_us_and_taken_by_k3s() {
        for odd in [
            "a..b",
            "-a",
            "a-",
            "a b",
            "a/b",
            "ä",
            "a\u{202e}b",
            ".",
            "a_b",
            "\u{212a}8s",
            &"a".repeat(64),
            &"a.".repeat(9000),
        ] {
            let strict = node_of(&agent(), &headers(odd, "pw"), Strict);
            let refused = strict.unwrap_err();
            assert_eq!(refused.code(), 400, "{odd}");
            assert!(refused.message().len() < 600, "{odd}");
            assert!(node_of(&agent(), &headers(odd, "pw"), K3sCompatible).is_ok());
        }
        assert!(node_of(&agent(), &headers("a.b-1.example", "pw"), Strict).is_ok());
    }

    #[test]
    fn what_is_the_servers_stays_theirs() {
        let sans = ["10.43.0.1", "10.77.0.11", "kubernetes", "s1", "127.0.0.1"];
        let reserved = Reserved::new("s1", &sans.map(San::from_text));
        let ask = |header: &str, node: &str, strictness| {
            addresses(Some(header), node, &reserved, strictness)
        };
        assert_eq!(ask("10.77.0.99,fd00::9", "a", Strict).unwrap().len(), 2);
        assert!(ask("10.77.0.11", "s1", Strict).is_ok());
        assert!(ask("127.0.0.1", "a", Strict).is_ok());
        for header in ["10.43.0.1", "10.77.0.99,10.77.0.11", "::ffff:10.43.0.1"] {
            assert_eq!(
                ask(header, "a", Strict).unwrap_err().code(),
                403,
                "{header}"
            );
            assert!(ask(header, "a", K3sCompatible).is_ok());
        }
        for header in [
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
            "a",
            "1.2.3.4, 5.6.7.8",
            ",",
        ] {
            assert_eq!(
                ask(header, "a", Strict).unwrap_err().code(),
                400,
                "{header}"
            );
        }
        assert_eq!(ask("nonsense", "a", K3sCompatible).unwrap_err().code(), 500);
        for name in ["kubernetes", "localhost", "10.43.0.1"] {
            assert_eq!(ask("", name, Strict).unwrap_err().code(), 403);
            assert!(ask("", name, K3sCompatible).is_ok());
        }
        let many = vec!["10.0.0.1"; 33].join(",");
        assert_eq!(ask(&many, "a", Strict).unwrap_err().code(), 400);
    }

    proptest! {
        #[test]
        fn any_headers_are_answered(name in "\\PC{0,300}", list in "\\PC{0,80}") {
            for strictness in [Strict, K3sCompatible] {
                let _ = node_of(&agent(), &headers(&name, "pw"), strictness);
                let _ = addresses(Some(&list), &name, &Reserved::default(), strictness);
            }
        }
    }
}
