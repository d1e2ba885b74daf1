//! Which certificates a rotation renews, and what they say: specifications, no keys.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use pki::{
    Authority, BACKDATE, Certificate, DAY, KeyAlgorithm, LeafRequest, PrivateKey, Purpose, San,
    Serial, UnixTime, Validity,
};

use super::catalogue::{
    AUTHORITY_DAYS, CommonName, KEY_BITS, Kind, LEAF_DAYS, Per, RKE, Row, SanRule, When,
};
use super::entry::Origin;
use super::{Bundle, ClusterConfig, Entry, Node, SanError, Secret, names, san};

/// What `--service` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// `kube-apiserver`.
    KubeApiserver,
    /// `kube-controller-manager`.
    KubeControllerManager,
    /// `kube-scheduler`.
    KubeScheduler,
    /// `kubelet`.
    Kubelet,
    /// `kube-proxy`.
    KubeProxy,
    /// `etcd`.
    Etcd,
}

impl Service {
    /// All six, in the order of RKE's help.
    pub const ALL: [Self; 6] = [
        Self::KubeApiserver,
        Self::KubeControllerManager,
        Self::KubeScheduler,
        Self::Kubelet,
        Self::KubeProxy,
        Self::Etcd,
    ];

    /// RKE's name for it, which is its container's.
    pub fn name(self) -> &'static str {
        match self {
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeScheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::Etcd => "etcd",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Service {
    type Err = UnknownService;

    fn from_str(name: &str) -> Result<Self, UnknownService> {
        Self::ALL
            .into_iter()
            .find(|service| service.name() == name)
            .ok_or_else(|| UnknownService(name.to_owned()))
    }
}

/// A `--service` that RKE takes without a word and does nothing for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown service {0:?}; allowed values: kube-apiserver, kube-controller-manager, \
     kube-scheduler, kubelet, kube-proxy, etcd; give each with a --service of its own"
)]
pub struct UnknownService(pub String);

/// A kind of rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Every leaf.
    All,
    /// The leaves of these services, in this order.
    Services(Vec<Service>),
    /// Both CAs and every leaf.
    Authorities,
}

/// What a rotation is to bring about in the bundle. Entries that it does not name stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// CAs to make, before the leaves.
    pub authorities: Vec<AuthoritySpec>,
    /// Leaves to issue, in RKE's order.
    pub leaves: Vec<LeafSpec>,
    /// Entries that come as they are from `cluster.yml`: those for an external etcd.
    pub given: Vec<Entry>,
    /// Entries to remove: of nodes that are gone, or of a switch that is off.
    pub removed: Vec<String>,
}

/// A CA to make: self-signed, RSA of [`KEY_BITS`], valid from now for [`AUTHORITY_DAYS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthoritySpec {
    /// Its entry, and its CN.
    pub entry: &'static str,
}

/// A leaf to issue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafSpec {
    /// Its entry.
    pub entry: String,
    /// Each `O`.
    pub organizations: Vec<String>,
    /// `CN`.
    pub common_name: String,
    /// Names, in order, repeats kept.
    pub sans: Vec<San>,
    /// Extended key usage, in order.
    pub purposes: Vec<Purpose>,
    /// The entry of the CA that signs.
    pub issuer: &'static str,
    /// Where its key comes from.
    pub key: LeafKey,
}

/// Where a leaf's key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeafKey {
    /// A new one of [`LeafSpec::algorithm`].
    New,
    /// The one that this entry has before the rotation.
    Of(&'static str),
}

impl LeafSpec {
    /// RSA: RKE panics on anything else.
    pub fn algorithm(&self) -> KeyAlgorithm {
        KeyAlgorithm::Rsa(KEY_BITS)
    }

    /// The certificate for `key`, as long as RKE's.
    ///
    /// # Errors
    ///
    /// What [`Authority::issue`] refuses.
    pub(super) fn issue(
        &self,
        authority: &Authority,
        key: &PrivateKey,
        serial: Serial,
        now: UnixTime,
    ) -> Result<Certificate, pki::Error> {
        authority.issue(&LeafRequest {
            organizations: &self.organizations,
            common_name: &self.common_name,
            sans: &self.sans,
            purposes: &self.purposes,
            spki_der: key.spki_der(),
            serial,
            validity: leaf_validity(now, authority.certificate().validity()),
        })
    }
}

impl AuthoritySpec {
    /// RSA.
    pub fn algorithm(&self) -> KeyAlgorithm {
        KeyAlgorithm::Rsa(KEY_BITS)
    }

    /// From `now` on.
    pub fn validity(&self, now: UnixTime) -> Validity {
        Validity {
            not_before: now,
            not_after: now.plus(AUTHORITY_DAYS * DAY),
        }
    }
}

/// When a leaf issued at `now` is valid: from an hour before, for clocks that are late, but
/// within its CA's validity. RKE begins with the CA's first second and may end after its last.
pub fn leaf_validity(now: UnixTime, issuer: Validity) -> Validity {
    Validity {
        not_before: now.plus(-BACKDATE).max(issuer.not_before),
        not_after: now.plus(LEAF_DAYS * DAY).min(issuer.not_after),
    }
}

/// What cannot be specified.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GenerateError {
    /// The range of service addresses is none.
    #[error(transparent)]
    Sans(#[from] SanError),
    /// Two nodes whose internal addresses give one name: one would get the other's key.
    #[error(
        "two nodes share the certificate name {entry}; give them internal addresses that differ"
    )]
    SharedName {
        /// The entry.
        entry: String,
    },
    /// `cluster.yml`'s certificate or key for an external etcd cannot be read.
    #[error("services.etcd.{key} cannot be read; give it as PEM")]
    ExternalEtcd {
        /// Which one.
        key: &'static str,
        /// Why.
        #[source]
        source: pki::Error,
    },
}

/// What a first state holds: every entry of the catalogue.
///
/// Two named differences from a first `rke up`: `kube-node` and `kube-proxy` have keys of their
/// own, and so have `kube-apiserver` and the service-account tokens, whose certificate RKE copies
/// from `kube-apiserver`. Nothing that RKE does depends on either pair being the same.
///
/// # Errors
///
/// [`GenerateError`].
pub fn first(config: &ClusterConfig) -> Result<Wanted, GenerateError> {
    let mut wanted = Wanted {
        authorities: authorities(),
        given: given(config)?,
        ..Wanted::default()
    };
    for row in RKE {
        wanted.leaves.extend(specs(row, config)?);
    }
    Ok(wanted)
}

/// What a rotation renews, from the state's own configuration and bundle (section 5.1 of RKE's
/// ways: new keys for all that is named).
///
/// Differences from RKE: an external etcd's entries are never removed; service-account tokens
/// that have no key of their own get the API server's present one, which signed them so far,
/// where RKE takes its new one.
///
/// # Errors
///
/// [`GenerateError`].
pub fn renewed(
    rotation: &Rotation,
    config: &ClusterConfig,
    bundle: &Bundle,
) -> Result<Wanted, GenerateError> {
    match rotation {
        Rotation::All => {
            let mut wanted = all(config, bundle)?;
            let has = |entry: &Entry| !entry.certificate_pem.is_empty();
            if !bundle.get(names::REQUEST_HEADER_CA).is_some_and(has) {
                wanted.authorities.push(AuthoritySpec {
                    entry: names::REQUEST_HEADER_CA,
                });
            }
            Ok(wanted)
        }
        Rotation::Authorities => Ok(Wanted {
            authorities: authorities(),
            ..all(config, bundle)?
        }),
        Rotation::Services(services) => some(services, config, bundle),
    }
}

fn authorities() -> Vec<AuthoritySpec> {
    RKE.iter()
        .filter(|row| matches!(row.kind, Kind::Authority))
        .map(|row| AuthoritySpec { entry: row.id })
        .collect()
}

fn all(config: &ClusterConfig, bundle: &Bundle) -> Result<Wanted, GenerateError> {
    let mut wanted = Wanted {
        given: given(config)?,
        ..Wanted::default()
    };
    for row in RKE {
        wanted.leaves.extend(due(row, config, bundle)?);
        if row.per != Per::Cluster {
            wanted.removed.extend(stale(row, config, bundle));
        }
    }
    Ok(wanted)
}

fn some(
    services: &[Service],
    config: &ClusterConfig,
    bundle: &Bundle,
) -> Result<Wanted, GenerateError> {
    let mut wanted = Wanted::default();
    let mut done = BTreeSet::new();
    for service in services.iter().filter(|service| done.insert(**service)) {
        for row in RKE.iter().filter(|row| row.service == Some(*service)) {
            wanted.leaves.extend(due(row, config, bundle)?);
            // RKE looks for certificates of kubelets that are gone only where it makes some.
            if row.per != Per::Cluster && row.exists_in(config) {
                wanted.removed.extend(stale(row, config, bundle));
            }
        }
        if *service == Service::KubeApiserver {
            for row in RKE {
                if matches!(row.kind, Kind::ServiceAccountKey(_)) {
                    wanted.leaves.extend(due(row, config, bundle)?);
                }
            }
        }
    }
    Ok(wanted)
}

/// The row's leaves, but for a service-account key that is there.
fn due(row: &Row, config: &ClusterConfig, bundle: &Bundle) -> Result<Vec<LeafSpec>, GenerateError> {
    let mut leaves = specs(row, config)?;
    if matches!(row.kind, Kind::ServiceAccountKey(_)) {
        let has_key = |entry: &str| {
            bundle
                .get(entry)
                .is_some_and(|entry| !entry.key_pem.is_empty())
        };
        if has_key(row.id) {
            return Ok(Vec::new());
        }
        if has_key(names::KUBE_APISERVER) {
            for leaf in &mut leaves {
                leaf.key = LeafKey::Of(names::KUBE_APISERVER);
            }
        }
    }
    Ok(leaves)
}

fn specs(row: &Row, config: &ClusterConfig) -> Result<Vec<LeafSpec>, GenerateError> {
    let Some(profile) = row.profile().filter(|_| row.exists_in(config)) else {
        return Ok(Vec::new());
    };
    let mut seen = BTreeSet::new();
    row.entries(config)
        .into_iter()
        .map(|(entry, node)| {
            if !seen.insert(entry.clone()) {
                return Err(GenerateError::SharedName { entry });
            }
            let common_name = match profile.common_name {
                CommonName::Literal(name) => name.to_owned(),
                CommonName::Entry => entry.clone(),
            };
            let organizations = profile.organizations.iter().map(|&o| o.to_owned());
            Ok(LeafSpec {
                organizations: organizations.collect(),
                common_name,
                sans: sans(profile.sans, config, node)?,
                purposes: profile.purposes.to_vec(),
                issuer: profile.issuer,
                key: LeafKey::New,
                entry,
            })
        })
        .collect()
}

fn sans(rule: SanRule, config: &ClusterConfig, node: Option<&Node>) -> Result<Vec<San>, SanError> {
    match rule {
        SanRule::None => Ok(Vec::new()),
        SanRule::KubeApiserver => san::kube_apiserver_sans(config),
        SanRule::Etcd => san::etcd_sans(config),
        SanRule::Kubelet => Ok(node.map(san::kubelet_sans).unwrap_or_default()),
    }
}

/// Entries of the row that no node of the cluster has.
fn stale(row: &Row, config: &ClusterConfig, bundle: &Bundle) -> Vec<String> {
    let kept: BTreeSet<String> = match row.exists_in(config) {
        true => row
            .entries(config)
            .into_iter()
            .map(|(name, _)| name)
            .collect(),
        false => BTreeSet::new(),
    };
    bundle
        .keys()
        .filter(|name| name.starts_with(row.id) && !kept.contains(*name))
        .filter(|name| {
            !RKE.iter().any(|row| {
                row.when == When::ExternalEtcd && row.id == *name && config.has_external_etcd()
            })
        })
        .cloned()
        .collect()
}

/// The entries for an external etcd, as `cluster.yml` has them; its PEM written anew.
fn given(config: &ClusterConfig) -> Result<Vec<Entry>, GenerateError> {
    if !config.has_external_etcd() {
        return Ok(Vec::new());
    }
    let unreadable = |key| move |source| GenerateError::ExternalEtcd { key, source };
    let certificates = |key, text: &str| {
        let all = Certificate::all_from_pem(text.as_bytes()).map_err(unreadable(key))?;
        Ok::<_, GenerateError>(all.iter().map(Certificate::to_pem).collect::<String>())
    };
    let key = PrivateKey::from_pem(config.etcd.key.as_bytes())
        .and_then(|key| key.to_pem())
        .map_err(unreadable("key"))?;
    Ok(vec![
        Entry::new(
            names::ETCD_CLIENT,
            &certificates("cert", &config.etcd.cert)?,
            Secret::new(key),
            Origin::Issued,
        ),
        Entry::new(
            names::ETCD_CLIENT_CA,
            &certificates("ca_cert", &config.etcd.ca_cert)?,
            Secret::default(),
            Origin::Issued,
        ),
    ])
}
