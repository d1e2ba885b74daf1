//! What must hold before anything is planned.

use std::collections::BTreeSet;

use pki::verify::{self, Options as VerifyOptions};
use pki::{Certificate, Purpose};

use super::authority::{self, foreign_keys};
use super::{Request, RotateError, Scene, Switch, notes, proofs, site};
use crate::rke::config::{Difference, differences};
use crate::rke::survey::{HostView, Seen};
use crate::rke::{
    Bundle, ClusterConfig, Half, Json, Node, Role, Rotation, Service, names, placement,
};

/// What a plan asks of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Whether leaves are issued by the present CA.
    pub signs: bool,
    /// Whether members of etcd restart.
    pub etcd: bool,
    /// Whether the API server's key or that of service-account tokens changes.
    pub tokens: bool,
}

impl Ask {
    /// What a rotation asks.
    pub fn of(rotation: &Rotation) -> Self {
        Self {
            signs: !matches!(rotation, Rotation::Authorities),
            etcd: match rotation {
                Rotation::All | Rotation::Authorities => true,
                Rotation::Services(services) => services.contains(&Service::Etcd),
            },
            tokens: match rotation {
                Rotation::All | Rotation::Authorities => true,
                Rotation::Services(services) => services.contains(&Service::KubeApiserver),
            },
        }
    }
}

/// Refuses what cannot be, and says what the rest goes by.
///
/// # Errors
///
/// [`RotateError`].
pub fn scene(request: &Request<'_>, ask: Ask) -> Result<Scene, RotateError> {
    let current = request
        .state
        .rke_config(Half::Current)
        .ok_or(RotateError::NoCurrentState)?;
    let stored = ClusterConfig::from_rke_config(current)
        .map_err(|error| RotateError::Config(error.to_string()))?;
    let bundle = request.state.bundle(Half::Current);
    if ask.signs {
        authority(request, &bundle)?;
    }
    if let Rotation::Services(services) = request.rotation
        && stored.has_external_etcd()
        && services.iter().all(|it| *it == Service::Etcd)
    {
        return Err(RotateError::ExternalEtcd);
    }
    let found = differences(&stored, request.config);
    let mut notes = Vec::new();
    let mut new_config = None;
    let config = match request.options.apply_config && !found.is_empty() {
        true => {
            refuse_nodes(&found)?;
            let patched = patched(current, request.config);
            new_config = Some(patched.pretty());
            applied(&stored, request.config)
        }
        false => stored,
    };
    notes.extend(notes::differences(&found, request.options.apply_config));
    notes.extend(notes::foreign(&foreign_keys(&bundle)));
    let gone: BTreeSet<String> = config
        .nodes
        .iter()
        .filter(|node| request.config.node(&node.address).is_none())
        .map(|node| node.address.clone())
        .collect();
    let mut scene = Scene {
        admin_server: admin_server(request, &bundle),
        bundle,
        switch: matches!(request.rotation, Rotation::Authorities).then_some(request.options.switch),
        keep_old: request.options.keep_old || request.options.api_away,
        skipped: BTreeSet::new(),
        gone,
        etcd_at_once: false,
        etcd_sick: BTreeSet::new(),
        notes,
        new_config,
        config,
    };
    if ask.tokens {
        legacy(request, &scene)?;
    }
    soften(request, &mut scene);
    can_vouch(&scene)?;
    scene.skipped = hosts(request, &scene)?;
    if !scene.skipped.is_empty() && scene.switch == Some(Switch::Cross) {
        scene.keep_old = true;
    }
    if ask.etcd && !scene.config.has_external_etcd() {
        etcd(request, &mut scene)?;
    }
    scene.notes.extend(notes::scene(request, &scene, ask));
    Ok(scene)
}

/// Whether the CA is one, in RKE's order and words (`cmd/cert.go`), and whether its key is its own,
/// which RKE does not ask.
fn authority(request: &Request<'_>, bundle: &Bundle) -> Result<(), RotateError> {
    let entry = bundle.get(names::KUBE_CA).ok_or(RotateError::NoAuthority)?;
    let certificate: Certificate = match entry.certificate() {
        Ok(Some(certificate)) => certificate,
        Ok(None) | Err(_) => return Err(RotateError::EmptyAuthority),
    };
    let roots = [certificate];
    let [certificate] = &roots;
    let options = VerifyOptions::at(request.now).purposes(&[Purpose::ClientAuth]);
    if verify::verify(certificate, &[], &roots, &options).is_err() {
        let words = verify::go_words(certificate, &[], &roots, &options);
        return Err(RotateError::InvalidAuthority(words.unwrap_or_default()));
    }
    authority::present(request, bundle, names::KUBE_CA).map(drop)
}

/// Clusters of RKE before 0.2 check tokens with the API server's own key, until their API servers
/// are made anew: RKE does so in a rotation (`cmd/cert.go`), this program makes no containers.
fn legacy(request: &Request<'_>, scene: &Scene) -> Result<(), RotateError> {
    let hosts: Vec<String> = scene
        .config
        .with_role(Role::ControlPlane)
        .filter(|node| {
            let view = request.survey.host(&node.address);
            let container =
                view.and_then(|view| view.containers.get(Service::KubeApiserver.name()));
            container.is_some_and(|it| placement::is_legacy_apiserver(&it.arguments))
        })
        .map(|node| node.address.clone())
        .collect();
    match hosts.is_empty() {
        true => Ok(()),
        false => Err(RotateError::Legacy { hosts }),
    }
}

/// Whom the administrator's kubeconfig names: the file, or else the state.
fn admin_server(request: &Request<'_>, bundle: &Bundle) -> Option<String> {
    let recorded = || site::server(bundle.get(names::KUBE_ADMIN)?.config.as_bytes());
    request.site.kubeconfig_server.clone().or_else(recorded)
}

/// Whether the old root can vouch for a new one, where it has to.
fn can_vouch(scene: &Scene) -> Result<(), RotateError> {
    match scene.bundle.get(names::KUBE_CA) {
        Some(old) if scene.switch == Some(Switch::Cross) => {
            authority::can_vouch(names::KUBE_CA, old)
        }
        _ => Ok(()),
    }
}

/// A CA that is out of its time vouches for nobody: then the switch is at once.
fn soften(request: &Request<'_>, scene: &mut Scene) {
    if scene.switch != Some(Switch::Cross) {
        return;
    }
    let old = scene.bundle.get(names::KUBE_CA);
    let old = old.and_then(|entry| entry.certificate().ok().flatten());
    let Some(old) = old else { return };
    if !old.validity().contains(request.now) {
        scene.switch = Some(Switch::Hard);
        scene.notes.push(format!(
            "kube-ca is valid from {} to {} only: it can vouch for no new root, so the switch is \
             at once, as with --hard.",
            old.validity().not_before,
            old.validity().not_after
        ));
    }
}

/// Nodes come and go with `rke up`, not with certificates; so do flags and users of containers
/// without which new certificates are not read.
fn refuse_nodes(found: &[Difference]) -> Result<(), RotateError> {
    let needs_new_containers = |difference: &&Difference| match difference {
        Difference::Cluster { key, wanted, .. } => match *key {
            "services.kubelet.generate_serving_certificate" => wanted == "true",
            "services.etcd.uid:gid" => true,
            _ => false,
        },
        _ => false,
    };
    if let Some(difference) = found.iter().find(needs_new_containers) {
        return Err(RotateError::Containers(difference.to_string()));
    }
    let node = found.iter().find(|difference| {
        matches!(
            difference,
            Difference::NodeAdded { .. } | Difference::NodeRemoved { .. } | Difference::Node { .. }
        )
    });
    match node {
        Some(difference) => Err(RotateError::Nodes(difference.to_string())),
        None => Ok(()),
    }
}

/// The stored configuration with what certificates depend on taken from `cluster.yml`.
fn applied(stored: &ClusterConfig, wanted: &ClusterConfig) -> ClusterConfig {
    ClusterConfig {
        cluster_name: wanted.cluster_name.clone(),
        nodes: wanted.nodes.clone(),
        sans: wanted.sans.clone(),
        etcd: wanted.etcd.clone(),
        service_range: wanted.service_range.clone(),
        cluster_domain: wanted.cluster_domain.clone(),
        serving_certificates: wanted.serving_certificates,
        ..stored.clone()
    }
}

/// The same in the stored JSON; everything else stays as it is.
fn patched(current: &Json, wanted: &ClusterConfig) -> Json {
    let mut config = current.clone();
    let list = |items: &[String]| Json::List(items.iter().map(|it| Json::text(it)).collect());
    config.set("clusterName", Json::text(&wanted.cluster_name), &[]);
    let order = wanted.nodes.iter().map(|node| node.address.as_str());
    let position = |node: &Json| {
        let address = node.get("address").and_then(Json::as_text);
        let mut addresses = order.clone();
        addresses.position(|known| Some(known) == address)
    };
    if let Some(nodes) = current.get("nodes").and_then(Json::items) {
        let mut nodes = nodes.to_vec();
        nodes.sort_by_key(position);
        config.set("nodes", Json::List(nodes), &[]);
    }
    config.edit("authentication", &[], |it| {
        it.set("sans", list(&wanted.sans), &[])
    });
    config.edit("services", &[], |services| {
        services.edit("kubeApi", &[], |it| {
            it.set(
                "serviceClusterIpRange",
                Json::text(&wanted.service_range),
                &[],
            );
        });
        services.edit("kubelet", &[], |it| {
            it.set("clusterDomain", Json::text(&wanted.cluster_domain), &[]);
            let on = wanted.serving_certificates;
            it.set("generateServingCertificate", Json::Bool(on), &[]);
        });
        if wanted.has_external_etcd() {
            services.edit("etcd", &[], |it| {
                it.set("externalUrls", list(&wanted.etcd.external_urls), &[]);
                it.set("caCert", Json::text(&wanted.etcd.ca_cert), &[]);
                it.set("cert", Json::text(&wanted.etcd.cert), &[]);
                it.set("key", Json::text(&wanted.etcd.key), &[]);
            });
        }
    });
    config
}

/// The hosts that are left out: away, and named.
fn hosts(request: &Request<'_>, scene: &Scene) -> Result<BTreeSet<String>, RotateError> {
    let named = &request.options.skip_unreachable;
    for host in named {
        if scene.config.node(host).is_none() {
            let known = scene.config.nodes.iter().map(|node| node.address.clone());
            return Err(RotateError::UnknownHost {
                host: host.clone(),
                known: known.collect(),
            });
        }
    }
    let away = |node: &&Node| request.survey.host(&node.address).is_none();
    let (skipped, missing): (Vec<&Node>, Vec<&Node>) = scene
        .nodes()
        .filter(away)
        .partition(|node| named.contains(&node.address));
    if !missing.is_empty() {
        let why = |node: &Node| match request.survey.hosts.get(&node.address) {
            Some(Seen::Away { why, .. }) => why.clone(),
            _ => "it was not looked at".to_owned(),
        };
        let refuses = |node: &&Node| {
            let seen = request.survey.hosts.get(&node.address);
            matches!(seen, Some(Seen::Away { refuses: true, .. }))
        };
        let told = |nodes: Vec<&Node>| {
            let nodes = nodes.into_iter();
            nodes
                .map(|node| (node.address.clone(), why(node)))
                .collect()
        };
        let (refusing, hosts): (Vec<&Node>, Vec<&Node>) = missing.into_iter().partition(refuses);
        return Err(RotateError::Unreachable {
            hosts: told(hosts),
            refusing: told(refusing),
        });
    }
    if skipped.len() == scene.nodes().count() {
        return Err(RotateError::NobodyThere);
    }
    Ok(skipped
        .into_iter()
        .map(|node| node.address.clone())
        .collect())
}

/// How many members of etcd make a quorum.
pub const fn quorum(members: usize) -> usize {
    members / 2 + 1
}

fn etcd(request: &Request<'_>, scene: &mut Scene) -> Result<(), RotateError> {
    let options = request.options;
    let hard = matches!(scene.switch, Some(Switch::Hard | Switch::Compromised));
    let members: Vec<&Node> = scene.config.with_role(Role::Etcd).collect();
    let here = |node: &&&Node| request.survey.host(&node.address).is_some();
    let reachable = members.iter().filter(here).count();
    let sick: Vec<(String, String)> = members
        .iter()
        .filter_map(|node| {
            let view = request.survey.host(&node.address)?;
            Some((node.address.clone(), sickness(node, view)?))
        })
        .collect();
    let needed = quorum(members.len());
    if hard || options.parallel_restarts {
        scene.etcd_at_once = true;
        return Ok(());
    }
    let healthy = reachable.saturating_sub(sick.len());
    if !options.allow_etcd_outage {
        if !sick.is_empty() {
            return Err(RotateError::Unhealthy {
                members: sick,
                healthy,
                needed,
            });
        }
        if reachable.saturating_sub(1) < needed && reachable > 0 {
            return Err(RotateError::Quorum {
                members: members.len(),
                reachable,
                needed,
            });
        }
    }
    // Where there is no quorum, no member gets well alone; where there is one, it is kept.
    scene.etcd_at_once = !sick.is_empty() && healthy < needed;
    scene.etcd_sick = sick.into_iter().map(|(host, _)| host).collect();
    Ok(())
}

/// Why a member of etcd is not healthy, if it is not.
fn sickness(node: &Node, view: &HostView) -> Option<String> {
    match view.containers.get(Service::Etcd.name()) {
        None => return Some("there is no container etcd".to_owned()),
        Some(state) if !state.running => return Some("the container etcd does not run".to_owned()),
        Some(_) => {}
    }
    let health = view.health.get(&proofs::etcd_health(node))?;
    health.as_ref().err().cloned()
}
