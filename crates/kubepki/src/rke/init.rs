//! The first state of a cluster: every entry, as a first `rke up --init` makes them.
//!
//! Like RKE's, it is `desiredState` alone; the `rke up` that follows finds its certificates there
//! and deploys them. Of `rkeConfig` it holds what certificates depend on: `rke up` fills in the
//! rest, images above all, from metadata that we do not have.

use std::collections::BTreeMap;
use std::thread;

use pki::{
    Authority, BACKDATE, Certificate, DAY, KeyAlgorithm, Name, PrivateKey, Serial, UnixTime,
    Validity,
};

use super::catalogue::AUTHORITY_DAYS;
use super::entry::Origin;
use super::generate::{GenerateError, LeafSpec, first};
use super::local::{LocalFiles, plan_files};
use super::rotate::Site;
use super::{ClusterConfig, Entry, Half, Json, Node, Role, Secret, State, kubeconfig, names};
use crate::edge::{Entropy, KeySource};
use crate::init::Staged;
use crate::plan::{Before, Plan, PlanId};

/// What a first state is made from.
#[derive(Clone, Copy, Debug)]
pub struct InitRequest<'a> {
    /// The plan's name.
    pub id: &'a PlanId,
    /// `cluster.yml`.
    pub config: &'a ClusterConfig,
    /// The files on this machine.
    pub site: &'a Site,
    /// Now.
    pub now: UnixTime,
    /// Serial numbers.
    pub entropy: &'a dyn Entropy,
    /// Keys.
    pub keys: &'a dyn KeySource,
}

/// Why there is no first state.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is one already.
    #[error(
        "{path} is there already: a new state would lose the CA's key. Move it away to begin \
         another cluster"
    )]
    Exists {
        /// The state file.
        path: String,
    },
    /// What to issue cannot be said.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// No key, number or certificate could be made.
    #[error("cannot make {what}")]
    Make {
        /// What.
        what: String,
        /// Why.
        #[source]
        source: pki::Error,
    },
    /// No node has the role that the administrator connects to.
    #[error("no node of cluster.yml has the role controlplane")]
    NoControlPlane,
}

/// A first state.
#[derive(Clone)]
pub struct First {
    /// Everything in `desiredState`.
    pub state: State,
    /// The administrator's kubeconfig.
    pub kubeconfig: Secret,
}

/// Makes CAs, keys and certificates, keys on as many threads as there are of them.
///
/// # Errors
///
/// [`InitError`].
pub fn first_state(request: &InitRequest<'_>) -> Result<First, InitError> {
    let wanted = first(request.config)?;
    let count = wanted.authorities.len().saturating_add(wanted.leaves.len());
    let mut keys = generate(request, count)?.into_iter();
    let mut next = || {
        keys.next().ok_or(InitError::Make {
            what: "a private key".to_owned(),
            source: pki::Error::Crypto {
                what: "generate a key",
            },
        })
    };
    let mut authorities = BTreeMap::new();
    let mut entries = wanted.given;
    for spec in &wanted.authorities {
        let authority = authority(request, spec.entry, next()?)?;
        entries.push(entry(spec.entry, authority.certificate(), authority.key())?);
        authorities.insert(spec.entry, authority);
    }
    for spec in &wanted.leaves {
        let key = next()?;
        if let Some(authority) = authorities.get(spec.issuer) {
            let certificate = leaf(request, spec, authority, &key)?;
            entries.push(entry(&spec.entry, &certificate, &key)?);
        }
    }
    let kubeconfig = admin(request, &mut entries)?;
    let mut state = State::empty();
    state.set_rke_config(Half::Desired, rke_config(request.config));
    state.set_desired(entries);
    Ok(First { state, kubeconfig })
}

/// Plans the two files of a first state.
///
/// The staged bytes must be kept with [`crate::init::stage`] before the plan is applied.
///
/// # Errors
///
/// [`InitError`]; a state file that is there is never replaced.
pub fn plan_init(request: &InitRequest<'_>) -> Result<(Plan, Vec<Staged>), InitError> {
    if request.site.state_before != Before::Absent {
        return Err(InitError::Exists {
            path: request.site.state.display().to_string(),
        });
    }
    let First { state, kubeconfig } = first_state(request)?;
    let notes = ["`rke up` with the same --config takes it from here.".to_owned()];
    let files = LocalFiles {
        title: &format!("first state of {}", request.config.cluster_name),
        cluster: &request.config.cluster_name,
        state: (
            &state,
            "every certificate and key of the cluster; keep it safe, nothing else has the CA's key",
        ),
        kubeconfig: Some((
            &kubeconfig,
            "the administrator's way in, once the cluster is up",
        )),
        notes: &notes,
    };
    Ok(plan_files(request.id, request.site, &files, request.now))
}

fn make(what: &str) -> impl Fn(pki::Error) -> InitError {
    let what = what.to_owned();
    move |source| InitError::Make {
        what: what.clone(),
        source,
    }
}

/// RSA keys cost a good part of a second each.
fn generate(request: &InitRequest<'_>, count: usize) -> Result<Vec<PrivateKey>, InitError> {
    let algorithm = KeyAlgorithm::Rsa(super::catalogue::KEY_BITS);
    let keys = request.keys;
    let made: Result<Vec<PrivateKey>, pki::Error> = thread::scope(|scope| {
        let started: Vec<_> = (0..count)
            .map(|_| scope.spawn(move || keys.generate(algorithm)))
            .collect();
        let finished = started.into_iter().map(|thread| {
            thread.join().unwrap_or(Err(pki::Error::Crypto {
                what: "generate a key",
            }))
        });
        finished.collect()
    });
    made.map_err(make("a private key"))
}

fn serial(request: &InitRequest<'_>, what: &str) -> Result<Serial, InitError> {
    Serial::random(|bytes| request.entropy.fill(bytes)).map_err(make(what))
}

fn authority(
    request: &InitRequest<'_>,
    name: &str,
    key: PrivateKey,
) -> Result<Authority, InitError> {
    let subject = Name::new(&[], name).map_err(make(name))?;
    let validity = Validity {
        not_before: request.now.plus(-BACKDATE),
        not_after: request.now.plus(AUTHORITY_DAYS * DAY),
    };
    Authority::self_signed(&subject, key, serial(request, name)?, validity).map_err(make(name))
}

fn leaf(
    request: &InitRequest<'_>,
    spec: &LeafSpec,
    authority: &Authority,
    key: &PrivateKey,
) -> Result<Certificate, InitError> {
    let serial = serial(request, &spec.entry)?;
    let issued = spec.issue(authority, key, serial, request.now);
    issued.map_err(make(&spec.entry))
}

fn entry(name: &str, certificate: &Certificate, key: &PrivateKey) -> Result<Entry, InitError> {
    let key = Secret::new(key.to_pem().map_err(make(name))?);
    Ok(Entry::new(name, &certificate.to_pem(), key, Origin::Issued))
}

/// Gives `kube-admin` its kubeconfig, and returns it.
fn admin(request: &InitRequest<'_>, entries: &mut [Entry]) -> Result<Secret, InitError> {
    let mut planes = request.config.with_role(Role::ControlPlane);
    let node = planes.next().ok_or(InitError::NoControlPlane)?;
    let authority = entries.iter().find(|entry| entry.name == names::KUBE_CA);
    let authority = authority.map_or_else(String::new, |entry| entry.certificate_pem.clone());
    let mut config = Secret::default();
    for entry in entries.iter_mut().filter(|it| it.name == names::KUBE_ADMIN) {
        config = with_admin(entry, node, request.config, &authority, request.site);
    }
    Ok(config)
}

/// Gives an administrator's entry its kubeconfig, and returns it.
pub(super) fn with_admin(
    entry: &mut Entry,
    node: &Node,
    config: &ClusterConfig,
    authority: &str,
    site: &Site,
) -> Secret {
    let text = kubeconfig::admin(
        &node.address,
        &config.cluster_name,
        authority,
        &entry.certificate_pem,
        &entry.key_pem,
    );
    let path = &site.kubeconfig_spelled;
    *entry = std::mem::take(entry).with_admin_config(text.clone(), path);
    text
}

/// The `rkeConfig` of a `cluster.yml`, as far as it is read here: what certificates and the way
/// to the hosts depend on. Keys stand in RKE's order.
pub fn rke_config(config: &ClusterConfig) -> Json {
    let text = |text: &str| Json::text(text);
    let object = |pairs: Vec<(&str, Json)>| {
        let pairs = pairs.into_iter();
        Json::Object(pairs.map(|(key, value)| (key.to_owned(), value)).collect())
    };
    let nodes = config.nodes.iter().map(|node| {
        let roles = node.roles.iter().map(|role| text(role.name())).collect();
        let mut pairs = vec![
            ("address", text(&node.address)),
            ("port", text(&node.port)),
            ("internalAddress", text(&node.internal_address)),
            ("role", Json::List(roles)),
            ("hostnameOverride", text(&node.hostname)),
            ("user", text(&node.user)),
        ];
        if let Some(socket) = &node.docker_socket {
            pairs.push(("dockerSocket", text(socket)));
        }
        pairs.push(("sshKeyPath", text(&node.ssh_key_path)));
        object(pairs)
    });
    let etcd = etcd_config(config);
    let range = ("serviceClusterIpRange", text(&config.service_range));
    let kubelet = vec![
        ("clusterDomain", text(&config.cluster_domain)),
        (
            "generateServingCertificate",
            Json::Bool(config.serving_certificates),
        ),
    ];
    let services = object(vec![
        ("etcd", object(etcd)),
        ("kubeApi", object(vec![range.clone()])),
        ("kubeController", object(vec![range])),
        ("scheduler", object(Vec::new())),
        ("kubelet", object(kubelet)),
        ("kubeproxy", object(Vec::new())),
    ]);
    let network = object(vec![("plugin", text(&config.network_plugin))]);
    let authentication = object(vec![
        ("strategy", text(&config.authentication_strategy)),
        ("sans", list(&config.sans)),
    ]);
    let version = config.kubernetes_version.as_deref().unwrap_or_default();
    object(vec![
        ("nodes", Json::List(nodes.collect())),
        ("services", services),
        ("network", network),
        ("authentication", authentication),
        ("sshKeyPath", text(&config.ssh_key_path)),
        ("sshAgentAuth", Json::Bool(config.ssh_agent_auth)),
        ("ignoreDockerVersion", Json::Null),
        ("enableCriDockerd", Json::Null),
        ("kubernetesVersion", text(version)),
        ("clusterName", text(&config.cluster_name)),
        ("prefixPath", text(&config.prefix_path)),
        ("rotateEncryptionKey", Json::Bool(false)),
    ])
}

/// `services.etcd`.
fn etcd_config(config: &ClusterConfig) -> Vec<(&'static str, Json)> {
    let text = |text: &str| Json::text(text);
    let mut etcd = Vec::new();
    if config.has_external_etcd() {
        etcd.push(("externalUrls", list(&config.etcd.external_urls)));
        etcd.push(("caCert", text(&config.etcd.ca_cert)));
        etcd.push(("cert", text(&config.etcd.cert)));
        etcd.push(("key", text(&config.etcd.key)));
        etcd.push(("path", text(&config.etcd.path)));
    }
    if let Some((uid, gid)) = config.etcd_owner() {
        etcd.push(("uid", Json::Number(uid.to_string())));
        etcd.push(("gid", Json::Number(gid.to_string())));
    }
    etcd
}

fn list(items: &[String]) -> Json {
    Json::List(items.iter().map(|it| Json::text(it)).collect())
}
