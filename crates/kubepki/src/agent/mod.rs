//! A node that joins: which certificates it asks for, and what it takes for an answer.
//!
//! ```text
//! catalogue rows of agents + Node -> Wanted -> request with the node's own key -> answer
//!                                                      Wanted::accept <-------------'
//! ```
//!
//! Pure. K3s's agents take whatever a server sends (reference section 6.2), a private key too;
//! here an answer is held to what was asked for, and a key that was not made on the node is
//! refused, unless it is asked for.

mod plan;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use pki::verify::{Options, VerifyError, verify};
use pki::{Certificate, DAY, PrivateKey, Purpose, San, UnixTime, pem};

use crate::catalogue::{CommonName, K3S, Kind, LeafSpec, Row, SanRule, Side};
use crate::cluster::renewal_window;
use crate::kubeconfig::{Reference, render_reference};

/// K3s's window, in seconds.
const WINDOW: i64 = 120 * DAY;

pub use plan::{NodeFile, plan_files};

/// A node, by what its certificates say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    name: String,
    addresses: Vec<IpAddr>,
}

/// A name that no node can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} cannot be a node's name: write up to 253 lower-case letters, digits, dashes and \
     dots, each part between dots beginning and ending with a letter or digit"
)]
pub struct BadName {
    name: String,
}

impl Node {
    /// A node with that name, which is turned to lower case as K3s does, and addresses.
    ///
    /// # Errors
    ///
    /// [`BadName`] for what Kubernetes would not take as a node's name (RFC 1123).
    pub fn new(name: &str, addresses: Vec<IpAddr>) -> Result<Self, BadName> {
        let name = name.to_lowercase();
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let part = |part: &str| {
            let bytes = part.as_bytes();
            edge(bytes.first())
                && edge(bytes.last())
                && bytes
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        };
        match name.len() <= 253 && name.split('.').all(part) {
            true => Ok(Self { name, addresses }),
            false => Err(BadName {
                name: name.chars().take(300).collect(),
            }),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its addresses, for its kubelet's port.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }
}

/// The CA bundles that a node is given.
#[derive(Clone, Debug)]
pub struct Trust {
    /// What signs clients: `client-ca.crt`.
    pub client: Vec<Certificate>,
    /// What signs servers: `server-ca.crt`.
    pub server: Vec<Certificate>,
}

/// A leaf that a node asks for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its row in the catalogue.
    pub row: &'static Row,
    spec: &'static LeafSpec,
    organizations: Vec<String>,
    common_name: String,
    /// Names that it must have; K3s adds more.
    sans: Vec<San>,
}

/// An answer that is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// No certificate.
    #[error("the answer holds no certificate")]
    Certificate(#[source] pki::Error),
    /// K3s before v1.32 sends a key of its own, which other nodes have too.
    #[error(
        "the server sent a private key: it takes no certificate requests (K3s does since v1.32), \
         and its key is shared by all nodes"
    )]
    SentKey,
    /// The key that was sent cannot be used.
    #[error("the private key that the server sent cannot be read")]
    SharedKey(#[source] pki::Error),
    /// Somebody else's.
    #[error("the certificate is not for the key that was asked for")]
    OtherKey,
    /// Another subject, other names or purposes.
    #[error("the certificate {has}, and {wanted} was asked for")]
    Content {
        /// What it says.
        has: String,
        /// What it should say.
        wanted: String,
    },
    /// It does not stand under the CA that the server shows.
    #[error("the certificate does not stand under the CA that the server shows for it")]
    Path(#[source] VerifyError),
}

/// What a server's answer is worth.
pub struct Accepted {
    /// What belongs in the certificate's file: PEM of the leaf and its chain.
    pub text: String,
    /// The key that came with it, of a server that makes one for all nodes.
    pub shared_key: Option<PrivateKey>,
}

/// The leaves of a node, in the catalogue's order.
pub fn wanted(node: &Node) -> Vec<Wanted> {
    let rows = K3S.rows.iter().filter(|row| row.side == Side::Agent);
    rows.filter_map(|row| row.leaf().map(|spec| (row, spec)))
        .map(|(row, spec)| Wanted {
            row,
            spec,
            organizations: spec.organizations.iter().map(|&o| o.to_owned()).collect(),
            common_name: match spec.common_name {
                CommonName::Literal(name) => name.to_owned(),
                CommonName::NodeNamed(prefix) => format!("{prefix}{}", node.name),
            },
            sans: sans(spec, node),
        })
        .collect()
}

/// The names without which a certificate is of no use to the node. Those that are the same for every
/// node are the server's affair, and not all servers write the same: `::1` is there since some
/// release after v1.32 only.
fn sans(spec: &LeafSpec, node: &Node) -> Vec<San> {
    let mut sans: Vec<San> = Vec::new();
    for rule in spec.sans {
        let more = match rule {
            SanRule::NodeName => vec![San::Dns(node.name.clone())],
            SanRule::NodeAddresses => node.addresses.iter().copied().map(San::Ip).collect(),
            SanRule::Literal(_)
            | SanRule::LiteralSince(..)
            | SanRule::ServerNames
            | SanRule::KubernetesService => Vec::new(),
        };
        for san in more {
            if !sans.contains(&san) {
                sans.push(san);
            }
        }
    }
    sans
}

impl Wanted {
    /// Where it is asked for: `/v1-k3s/client-kubelet.crt`.
    pub fn endpoint(&self) -> String {
        format!("/v1-k3s/{}.crt", self.row.path)
    }

    /// Whether it needs the node's addresses.
    pub fn carries_addresses(&self) -> bool {
        self.spec.sans.contains(&SanRule::NodeAddresses)
    }

    /// What is in the file of the certificate, from an answer to a request with `key`. With
    /// `shared_keys`, the key of a server that takes no requests is taken in place of `key`.
    ///
    /// # Errors
    ///
    /// [`AnswerError`] when the answer is anything else than what was asked for.
    pub fn accept(
        &self,
        answer: &[u8],
        key: &PrivateKey,
        shared_keys: bool,
        trust: &Trust,
        now: UnixTime,
    ) -> Result<Accepted, AnswerError> {
        let sends_key = pem::blocks(answer)
            .iter()
            .any(|block| block.label.contains("PRIVATE KEY"));
        let shared_key = match (sends_key, shared_keys) {
            (false, _) => None,
            (true, false) => return Err(AnswerError::SentKey),
            (true, true) => Some(PrivateKey::from_pem(answer).map_err(AnswerError::SharedKey)?),
        };
        let chain = Certificate::all_from_pem(answer).map_err(AnswerError::Certificate)?;
        self.judge(&chain, shared_key.as_ref().unwrap_or(key), trust, now)?;
        Ok(Accepted {
            text: chain.iter().map(Certificate::to_pem).collect(),
            shared_key,
        })
    }

    /// Why the present certificate must be renewed; `None` when it can stay. `window` is in seconds;
    /// where none is given it is K3s's, and a third of the certificate's life at most.
    pub fn due(
        &self,
        present: Option<&[u8]>,
        key: &PrivateKey,
        trust: &Trust,
        window: Option<i64>,
        now: UnixTime,
    ) -> Option<String> {
        let Some(present) = present else {
            return Some("is missing".to_owned());
        };
        let chain = match Certificate::all_from_pem(present) {
            Ok(chain) => chain,
            Err(error) => return Some(format!("cannot be read: {error}")),
        };
        if let Err(error) = self.judge(&chain, key, trust, now) {
            return Some(crate::error_chain(&error));
        }
        let validity = chain.first()?.validity();
        let (begin, end) = (validity.not_before, validity.not_after);
        let window = window.unwrap_or_else(|| renewal_window(WINDOW, end.since(begin)));
        (end.since(now) <= window).then(|| format!("ends at {end}"))
    }

    fn judge(
        &self,
        chain: &[Certificate],
        key: &PrivateKey,
        trust: &Trust,
        now: UnixTime,
    ) -> Result<(), AnswerError> {
        let Some((leaf, rest)) = chain.split_first() else {
            return Err(AnswerError::Certificate(pki::Error::NoPemBlock {
                expected: "CERTIFICATE",
            }));
        };
        if leaf.spki_der() != key.spki_der() {
            return Err(AnswerError::OtherKey);
        }
        let subject = leaf.subject();
        let same = subject.common_name() == Some(self.common_name.as_str())
            && subject.organizations() == self.organizations
            && !leaf.is_ca();
        if !same {
            return Err(AnswerError::Content {
                has: format!("is of {subject}"),
                wanted: self.subject(),
            });
        }
        let missing: Vec<String> = self
            .sans
            .iter()
            .filter(|san| !leaf.sans().contains(san))
            .map(ToString::to_string)
            .collect();
        if !missing.is_empty() {
            return Err(AnswerError::Content {
                has: format!("lacks {}", missing.join(", ")),
                wanted: "a certificate with it".to_owned(),
            });
        }
        let roots = match self.spec.purposes.contains(&Purpose::ServerAuth) {
            true => &trust.server,
            false => &trust.client,
        };
        let options = Options::at(now).purposes(self.spec.purposes);
        verify(leaf, rest, roots, &options).map_err(AnswerError::Path)?;
        Ok(())
    }

    fn subject(&self) -> String {
        let groups = self.organizations.iter().map(|o| format!(",O={o}"));
        format!("CN={}{}", self.common_name, groups.collect::<String>())
    }
}

/// The node's kubeconfigs, file name and text: they point to the files in `directory`
/// (`<data-dir>/agent`) and to `server`.
pub fn kubeconfigs(directory: &Path, server: &str) -> Vec<(PathBuf, String)> {
    let below = |path: &str| directory.join(path).to_string_lossy().into_owned();
    let rows = K3S.rows.iter().filter(|row| row.side == Side::Agent);
    rows.filter_map(|row| {
        let Kind::Kubeconfig { leaf, authority } = &row.kind else {
            return None;
        };
        let leaf = K3S.row(leaf)?;
        let text = render_reference(&Reference {
            server,
            authority: &below(authority),
            certificate: &below(&format!("{}.crt", leaf.path)),
            key: &below(&format!("{}.key", leaf.path)),
        });
        Some((directory.join(row.file()), text))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_asks_for_what_the_fixture_holds() {
        let node = Node::new("K3s-Fixture", vec![[127, 0, 0, 1].into()]).unwrap();
        let asked: Vec<_> = wanted(&node)
            .iter()
            .map(|it| (it.endpoint(), it.subject(), it.carries_addresses()))
            .collect();
        let expected = [
            (
                "client-kubelet",
                "CN=system:node:k3s-fixture,O=system:nodes",
                false,
            ),
            ("serving-kubelet", "CN=k3s-fixture", true),
            ("client-kube-proxy", "CN=system:kube-proxy", false),
            ("client-k3s-controller", "CN=system:k3s-controller", false),
        ];
        let expected = expected
            .map(|(stem, subject, ip)| (format!("/v1-k3s/{stem}.crt"), subject.to_owned(), ip));
        assert_eq!(asked, expected);
    }

    #[test]
    fn names_that_would_break_a_header_or_kubernetes_are_refused() {
        for bad in [
            "",
            "a b",
            "a\r\nb",
            "-a",
            "a-",
            "a..b",
            ".a",
            "a_b",
            "ä",
            &"a".repeat(254),
        ] {
            assert!(Node::new(bad, Vec::new()).is_err(), "{bad:?}");
        }
        for good in ["a", "node-1.example.org", "1", "NODE"] {
            assert!(Node::new(good, Vec::new()).is_ok(), "{good:?}");
        }
    }
}
