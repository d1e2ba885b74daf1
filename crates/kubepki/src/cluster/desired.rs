//! What each leaf should say, resolved for one node.

use pki::{Purpose, San};

use super::{NodeSpec, Wishes};
use crate::catalogue::{CommonName, LeafSpec, Row, SanRule};
use crate::inventory::{DetectedRelease, Inventory};

/// A leaf without key, serial number and dates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafWant {
    /// Each `O`.
    pub organizations: Vec<String>,
    /// `CN`.
    pub common_name: String,
    /// Names, in order.
    pub sans: Vec<San>,
    /// Extended key usage, in order.
    pub purposes: Vec<Purpose>,
}

/// A leaf that cannot be described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WantError {
    /// The node's name appears in no certificate and in no flag.
    #[error("the node's name is not known for {row}; give it with --node-name")]
    NoNodeName {
        /// The row.
        row: &'static str,
    },
    /// A certificate with names is missing, and nothing says which names it had.
    #[error(
        "{row} is missing and no other certificate says which names it had; \
         give --node-name and --node-ip"
    )]
    NoServerNames {
        /// The row.
        row: &'static str,
    },
}

/// What the leaf of `row` should say.
///
/// Names of the present certificate stay, in their order, unless dropped by name; what flags and
/// configuration ask for comes after them. A name that a running server learnt is not lost by a
/// renewal.
///
/// # Errors
///
/// [`WantError`] when the node's name or names are nowhere to be found.
pub fn want(
    inventory: &Inventory,
    row: &'static Row,
    spec: &LeafSpec,
    wishes: &Wishes,
) -> Result<LeafWant, WantError> {
    let common_name = match spec.common_name {
        CommonName::Literal(name) => name.to_owned(),
        CommonName::NodeNamed(prefix) => {
            let node = node_name(inventory, wishes).ok_or(WantError::NoNodeName { row: row.id })?;
            format!("{prefix}{node}")
        }
    };
    let present = inventory
        .row(row.id)
        .and_then(|observed| observed.file.first_certificate());
    let present = present.and_then(|certificate| certificate.subject().common_name());
    let (organizations, common_name) = match spec.formerly {
        Some(former) if present == Some(former) => (Vec::new(), former.to_owned()),
        _ => (
            spec.organizations.iter().map(|&o| o.to_owned()).collect(),
            common_name,
        ),
    };
    Ok(LeafWant {
        organizations,
        common_name,
        sans: sans(inventory, row, spec, wishes)?,
        purposes: spec.purposes.to_vec(),
    })
}

/// The names that the dynamic listener's certificate should carry; `None` without a listener.
pub fn listener_sans(inventory: &Inventory, wishes: &Wishes) -> Option<Vec<San>> {
    let listener = inventory.listener()?;
    let mut sans = listener.sans.clone();
    if let Some(leaf) = listener.certificates.first() {
        add_missing(&mut sans, leaf.sans());
    }
    Some(adjusted(sans, &wishes.add_sans, &wishes.drop_sans))
}

fn node_name(inventory: &Inventory, wishes: &Wishes) -> Option<String> {
    inventory
        .node_name()
        .or_else(|| wishes.node.as_ref().map(|node| node.name.clone()))
}

fn sans(
    inventory: &Inventory,
    row: &'static Row,
    spec: &LeafSpec,
    wishes: &Wishes,
) -> Result<Vec<San>, WantError> {
    if spec.sans.is_empty() {
        return Ok(Vec::new());
    }
    let present = inventory
        .row(row.id)
        .and_then(|observed| observed.file.first_certificate())
        .map(|certificate| certificate.sans().to_vec())
        .filter(|sans| !sans.is_empty());
    let carries_server_names = spec.sans.contains(&SanRule::ServerNames);
    // Old releases wrote names twice.
    let rules = present.is_none();
    let mut sans = Vec::new();
    add_missing(&mut sans, &present.unwrap_or_default());
    for rule in spec.sans {
        match rule {
            SanRule::Literal(text) => add_missing(&mut sans, &[San::from_text(text)]),
            SanRule::LiteralSince(text, since) => {
                let expected = match wishes.release {
                    DetectedRelease::Known(release) | DetectedRelease::AtLeast(release) => {
                        since.includes(release)
                    }
                    DetectedRelease::Unknown => false,
                };
                if expected {
                    add_missing(&mut sans, &[San::from_text(text)]);
                }
            }
            _ if rules => {
                let resolved = resolve(inventory, rule, wishes)
                    .ok_or(WantError::NoServerNames { row: row.id })?;
                add_missing(&mut sans, &resolved);
            }
            _ => {}
        }
    }
    if carries_server_names {
        sans = adjusted(sans, &wishes.add_sans, &wishes.drop_sans);
    }
    Ok(sans)
}

/// The names of a rule, from the operator's words or from a sister certificate.
fn resolve(inventory: &Inventory, rule: &SanRule, wishes: &Wishes) -> Option<Vec<San>> {
    let node = wishes.node.as_ref();
    match rule {
        SanRule::Literal(text) | SanRule::LiteralSince(text, _) => Some(vec![San::from_text(text)]),
        SanRule::KubernetesService => match node {
            Some(node) => Some(node.service_names()),
            None => names_of(inventory, "dynamic-listener", is_service_name),
        },
        SanRule::ServerNames => match node {
            Some(node) => Some(node.server_names()),
            None => [
                "serving-kube-apiserver",
                "etcd-peer-server-client",
                "etcd-server-client",
            ]
            .into_iter()
            .find_map(|id| names_of(inventory, id, |san| !is_service_name(san) && !is_kine(san))),
        },
        SanRule::NodeName => node_name(inventory, wishes).map(|name| vec![San::Dns(name)]),
        SanRule::NodeAddresses => Some(node.map_or_else(Vec::new, addresses)),
    }
}

fn addresses(node: &NodeSpec) -> Vec<San> {
    node.addresses
        .iter()
        .chain(&node.external_addresses)
        .copied()
        .map(San::Ip)
        .collect()
}

/// The names of another row's certificate that `keep` keeps; `None` without any.
fn names_of(inventory: &Inventory, id: &str, keep: impl Fn(&San) -> bool) -> Option<Vec<San>> {
    let certificate = inventory.row(id)?.file.first_certificate()?;
    let names: Vec<San> = certificate
        .sans()
        .iter()
        .filter(|san| keep(san))
        .cloned()
        .collect();
    (!names.is_empty()).then_some(names)
}

fn is_service_name(san: &San) -> bool {
    matches!(san, San::Dns(name) if name == "kubernetes" || name.starts_with("kubernetes.default"))
}

fn is_kine(san: &San) -> bool {
    matches!(san, San::Dns(name) if name == "kine.sock")
}

fn adjusted(mut sans: Vec<San>, add: &[San], drop: &[San]) -> Vec<San> {
    add_missing(&mut sans, add);
    sans.retain(|san| !drop.contains(san));
    sans
}

fn add_missing(sans: &mut Vec<San>, more: &[San]) {
    for san in more {
        if !sans.contains(san) {
            sans.push(san.clone());
        }
    }
}
