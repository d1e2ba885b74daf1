//! A cluster as RKE left it, and everything that a plan is made from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use kubepki::edge::{Entropy, KeySource};
use kubepki::host::{Attributes, Entry, EntryKind};
use kubepki::init::Staged;
use kubepki::machine::ContainerState;
use kubepki::plan::{Before, Fingerprint, Plan, PlanId};
use kubepki::rke::custom::CustomSet;
use kubepki::rke::placement::{components_of, files_of, surplus_of};
use kubepki::rke::rotate::{Options, Request, RotateError, Site, install, plan};
use kubepki::rke::survey::{FileView, HostView, Seen, Survey};
use kubepki::rke::{ClusterConfig, Half, Rotation, Service, State};
use pki::{KeyAlgorithm, PrivateKey, UnixTime};
use testkit::{Fixture, fixture};
use zeroize::Zeroizing;

/// A moment shortly after the fixtures were written.
pub const NOW: i64 = 1_795_400_000;

/// What a plan is made from; tests change what they are about.
pub struct Lab {
    _fixture: Fixture,
    pub state: State,
    pub config: ClusterConfig,
    pub survey: Survey,
    pub now: UnixTime,
    pub options: Options,
    /// What the administrator's kubeconfig names.
    pub server: Option<String>,
    pub after: BTreeMap<String, State>,
    keys: Pool,
}

/// RSA keys of the fixtures: making them takes too long.
#[derive(Debug)]
struct Pool(Mutex<Vec<Zeroizing<String>>>);

impl KeySource for Pool {
    fn generate(&self, algorithm: KeyAlgorithm) -> Result<PrivateKey, pki::Error> {
        assert_eq!(algorithm, KeyAlgorithm::Rsa(2048));
        let pem = self.0.lock().unwrap().pop().unwrap();
        PrivateKey::from_pem(pem.as_bytes())
    }
}

/// Serial numbers that count.
#[derive(Debug, Default)]
struct Counting(Mutex<u64>);

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), pki::Error> {
        let mut count = self.0.lock().unwrap();
        *count += 1;
        bytes.fill(0x41);
        let tail = bytes.len().saturating_sub(8);
        let last = count.to_be_bytes();
        bytes[tail..].copy_from_slice(&last[..last.len()]);
        Ok(())
    }
}

impl Lab {
    /// Two control-plane nodes with etcd and a worker, kubelet serving certificates on, files as
    /// RKE spreads them, everything running.
    pub fn new() -> Self {
        let fixture = fixture("rke-1.6-state");
        let folder = fixture.extra("rke-1.6");
        let read = |path: &str| std::fs::read(folder.join(path)).unwrap();
        let state = State::parse(&read("cluster.rkestate")).unwrap();
        let text = String::from_utf8(read("cluster.yml")).unwrap();
        let config = ClusterConfig::parse(&text).unwrap();
        let mut after = BTreeMap::new();
        let mut keys = Vec::new();
        for kind in ["rotate", "rotate-ca", "service-etcd", "service-kubelet"] {
            let state = State::parse(&read(&format!("after/{kind}.rkestate"))).unwrap();
            for (_, entry) in state.bundle(Half::Desired) {
                keys.push(Zeroizing::new(entry.key_pem.expose().to_owned()));
            }
            after.insert(kind.to_owned(), state);
        }
        let known: BTreeSet<String> = state
            .bundle(Half::Current)
            .values()
            .map(|entry| entry.key_pem.expose().to_owned())
            .collect();
        let distinct: BTreeSet<String> = keys.iter().map(|key| key.to_string()).collect();
        let keys = distinct.difference(&known).cloned().map(Zeroizing::new);
        let mut lab = Self {
            _fixture: fixture,
            survey: Survey {
                taken: UnixTime::from_secs(NOW),
                hosts: BTreeMap::new(),
            },
            now: UnixTime::from_secs(NOW),
            options: Options {
                allow_etcd_outage: true,
                ..Options::default()
            },
            server: None,
            after,
            keys: Pool(Mutex::new(keys.collect())),
            state,
            config,
        };
        lab.survey.hosts = lab.hosts();
        lab
    }

    /// The same with `members` nodes that do everything.
    pub fn of_members(members: usize) -> Self {
        let mut lab = Self::new();
        let first = lab.config.nodes[0].clone();
        lab.config.nodes.clear();
        for number in 1..=members {
            let mut node = first.clone();
            node.address = format!("10.0.0.{number}");
            node.internal_address = node.address.clone();
            node.hostname = node.address.clone();
            lab.config.nodes.push(node);
        }
        lab.into_its_own()
    }

    /// A cluster that `cluster.yml` describes: state and hosts follow, certificates are those of
    /// the fixture under the new names.
    pub fn into_its_own(mut self) -> Self {
        let json = rke_config(&self.config);
        let bundle = self.state.bundle(Half::Current);
        let mut state = State::empty();
        let mut entries: Vec<_> = Vec::new();
        let etcd = bundle["kube-etcd-10-99-0-11"].clone();
        let kubelet = bundle["kube-kubelet-10-99-0-11"].clone();
        for (name, entry) in bundle {
            if !name.starts_with("kube-etcd") && !name.starts_with("kube-kubelet") {
                entries.push(entry);
            }
        }
        for node in &self.config.nodes {
            let mut own = etcd.clone();
            own.name = kubepki::rke::names::etcd_entry(node);
            entries.push(own);
            let mut own = kubelet.clone();
            own.name = kubepki::rke::names::kubelet_entry(node);
            entries.push(own);
        }
        let names: Vec<String> = entries.iter().map(|entry| entry.name.clone()).collect();
        state.set_desired(entries);
        state.promote(names.iter().map(String::as_str));
        state.set_rke_config(Half::Current, json.clone());
        state.set_rke_config(Half::Desired, json);
        self.state = state;
        self.survey.hosts = self.hosts();
        self
    }

    /// Every host with what RKE gives it, everything running.
    pub fn hosts(&self) -> BTreeMap<String, Seen> {
        let bundle = self.state.bundle(Half::Current);
        let mut hosts = BTreeMap::new();
        for node in &self.config.nodes {
            let mut files = BTreeMap::new();
            let own = files_of(node, &bundle, &self.config);
            for file in own.iter().chain(&surplus_of(node, &bundle, &self.config)) {
                let entry = host_entry(&file.content(&bundle).unwrap());
                files.insert(file.name.clone(), FileView::of(&file.name, &entry));
            }
            let containers = components_of(node).into_iter();
            let containers = containers.map(|it| (it.name().to_owned(), running()));
            let view = HostView {
                files: Some(files),
                containers: containers.collect(),
                ..HostView::default()
            };
            hosts.insert(node.address.clone(), Seen::Here(Box::new(view)));
        }
        hosts
    }

    /// Makes a host unreachable.
    pub fn away(&mut self, host: &str) {
        let away = Seen::Away {
            why: "connection refused".to_owned(),
            refuses: false,
        };
        self.survey.hosts.insert(host.to_owned(), away);
    }

    pub fn view(&mut self, host: &str) -> &mut HostView {
        match self.survey.hosts.get_mut(host) {
            Some(Seen::Here(view)) => view,
            other => panic!("{other:?}"),
        }
    }

    pub fn plan(&self, rotation: &Rotation) -> (Plan, Vec<Staged>) {
        self.try_plan(rotation).unwrap()
    }

    pub fn try_plan(&self, rotation: &Rotation) -> Result<(Plan, Vec<Staged>), RotateError> {
        let planned = self.ask(rotation, plan)?;
        // The engine takes what we make.
        kubepki::apply::check_fit(&planned.0).unwrap();
        Ok(planned)
    }

    pub fn install(&self, set: &CustomSet, key: &str) -> Result<(Plan, Vec<Staged>), RotateError> {
        let planned = self.ask(&Rotation::All, |request| install(request, set, Some(key)))?;
        kubepki::apply::check_fit(&planned.0).unwrap();
        Ok(planned)
    }

    fn ask<T>(&self, rotation: &Rotation, planner: impl FnOnce(&Request<'_>) -> T) -> T {
        let state = host_entry(&self.state.render());
        let site = Site {
            root: "/clusters".into(),
            state: "/clusters/cluster.rkestate".into(),
            state_before: Before::Present(Fingerprint::of(&state)),
            kubeconfig: "/clusters/kube_config_cluster.yml".into(),
            kubeconfig_before: Before::Absent,
            kubeconfig_server: self.server.clone(),
            kubeconfig_spelled: "./kube_config_cluster.yml".to_owned(),
        };
        planner(&Request {
            id: &PlanId("20261122T000000Z-rotate-0000".to_owned()),
            rotation,
            options: &self.options,
            site: &site,
            state: &self.state,
            config: &self.config,
            survey: &self.survey,
            now: self.now,
            entropy: &Counting::default(),
            keys: &self.keys,
        })
    }

    /// Another key for a leaf.
    pub fn key(&self) -> PrivateKey {
        self.keys.generate(KeyAlgorithm::Rsa(2048)).unwrap()
    }
}

/// The services of these names.
pub fn services(names: &[&str]) -> Rotation {
    Rotation::Services(names.iter().map(|name| name.parse().unwrap()).collect())
}

/// Every service alone.
pub fn each() -> Vec<Rotation> {
    Service::ALL
        .iter()
        .map(|service| Rotation::Services(vec![*service]))
        .collect()
}

pub fn running() -> ContainerState {
    ContainerState {
        running: true,
        started: (UnixTime::from_secs(NOW - 86_400), 0),
        image: "rancher/hyperkube:v1.30.5-rancher1".to_owned(),
        arguments: Vec::new(),
    }
}

pub fn host_entry(bytes: &[u8]) -> Entry {
    Entry {
        kind: EntryKind::File(Zeroizing::new(bytes.to_vec())),
        attributes: Attributes {
            uid: Some(0),
            gid: Some(0),
            mtime: Some((NOW - 90_000, 0)),
            ..Attributes::new(0o600)
        },
    }
}

/// What RKE would store for such a configuration, as far as we read it.
fn rke_config(config: &ClusterConfig) -> kubepki::rke::Json {
    let nodes: Vec<String> = config
        .nodes
        .iter()
        .map(|node| {
            let roles: Vec<String> = node.roles.iter().map(|role| format!("{:?}", role.name())).collect();
            format!(
                r#"{{"address":{:?},"internalAddress":{:?},"hostnameOverride":{:?},"user":"root","role":[{}]}}"#,
                node.address,
                node.internal_address,
                node.hostname,
                roles.join(",")
            )
        })
        .collect();
    let sans: Vec<String> = config.sans.iter().map(|san| format!("{san:?}")).collect();
    let text = format!(
        r#"{{"nodes":[{}],"services":{{"kubeApi":{{"serviceClusterIpRange":{:?}}},"kubelet":{{"clusterDomain":{:?},"generateServingCertificate":{}}}}},"authentication":{{"strategy":"x509","sans":[{}]}},"kubernetesVersion":"v1.30.5-rancher1-1","clusterName":{:?}}}"#,
        nodes.join(","),
        config.service_range,
        config.cluster_domain,
        config.serving_certificates,
        sans.join(","),
        config.cluster_name
    );
    kubepki::rke::json::parse(text.as_bytes()).unwrap()
}
