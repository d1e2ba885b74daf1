//! A cluster in memory: what lies on each host, what each component has loaded, who connects to
//! whom, and whether they take each other.
//!
//! Nobody knows when a component reads its files: etcd and the API server read some of them anew
//! with each handshake, kubelets when they feel like it, and all at their start. So whatever a
//! component has loaded when it started last counts, and whatever lies on its disk, in every
//! combination.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use kubepki::init::Staged;
use kubepki::plan::{Action, Content, LeafId, Plan, SecretRef, Step};
use kubepki::rke::placement::{components_of, files_of};
use kubepki::rke::{ClusterConfig, Half, Role, Service, names};
use pki::verify::{Options, verify};
use pki::{Authority, Certificate, LeafRequest, PrivateKey, Purpose, San, Serial, UnixTime};

use crate::lab::Lab;

type Text = Rc<str>;
type Files = BTreeMap<String, Text>;

/// A component: what answers or asks.
type Component = (String, Service);

#[derive(Clone)]
pub struct World {
    config: ClusterConfig,
    /// Certificate files, by host and name.
    disk: BTreeMap<String, Files>,
    loaded: BTreeMap<Component, Files>,
    /// The trust bundle of pods that read it when they start.
    pods: Text,
    /// The administrator's certificate and trust bundle.
    admin: (Text, Text),
    issued: BTreeMap<LeafId, (Text, Text)>,
    /// Kubeconfigs that were made before the plan: certificate and trust bundle.
    kubeconfigs: BTreeMap<String, (Text, Text)>,
}

/// Answers that were given once.
#[derive(Default)]
pub struct Judge {
    known: HashMap<(Text, Text, bool), Option<String>>,
    now: Option<UnixTime>,
}

impl World {
    /// The cluster before the plan, and everything that the plan will issue.
    pub fn before(lab: &Lab, plan: &Plan, staged: &[Staged]) -> Self {
        let bundle = lab.state.bundle(Half::Current);
        let mut disk = BTreeMap::new();
        let mut loaded = BTreeMap::new();
        for node in &lab.config.nodes {
            let files: Files = files_of(node, &bundle, &lab.config)
                .into_iter()
                .map(|file| {
                    let content = file.content(&bundle).unwrap();
                    (
                        file.name,
                        Text::from(std::str::from_utf8(&content).unwrap()),
                    )
                })
                .collect();
            for component in components_of(node) {
                loaded.insert((node.address.clone(), component), files.clone());
            }
            disk.insert(node.address.clone(), files);
        }
        let authority = Text::from(bundle[names::KUBE_CA].certificate_pem.as_str());
        let admin = Text::from(bundle[names::KUBE_ADMIN].certificate_pem.as_str());
        Self {
            config: lab.config.clone(),
            disk,
            loaded,
            pods: authority.clone(),
            admin: (admin, authority),
            issued: issue(lab, plan, staged),
            kubeconfigs: staged
                .iter()
                .filter(|it| it.name.starts_with("kubeconfig"))
                .map(|it| (it.name.clone(), inlined(&it.bytes)))
                .collect(),
        }
    }

    pub fn take(&mut self, step: &Step) {
        match &step.action {
            Action::Deploy { sets } => {
                for set in sets {
                    for (name, file) in &set.files {
                        let disk = self.disk.get_mut(&set.host).unwrap();
                        match &file.content {
                            None => drop(disk.remove(name)),
                            Some(content) => {
                                let text = text(&self.issued, content);
                                disk.insert(name.clone(), text);
                            }
                        }
                    }
                }
            }
            Action::RestartContainers { restarts } => {
                for restart in restarts {
                    self.restart(&restart.host, restart.container.parse().unwrap());
                }
            }
            Action::DeletePods { .. } => self.renew_pods(),
            Action::Put { content, .. } => {
                if let Content::AdminKubeconfig {
                    authority, leaf, ..
                } = content
                {
                    self.admin = (self.issued[leaf].0.clone(), Text::from(authority.as_str()));
                }
                if let Content::Staged { name, .. } = content {
                    self.admin = self.kubeconfigs[name].clone();
                }
            }
            _ => {}
        }
    }

    pub fn restart(&mut self, host: &str, component: Service) {
        let files = self.disk[host].clone();
        self.loaded.insert((host.to_owned(), component), files);
    }

    pub fn renew_pods(&mut self) {
        let plane = self.config.with_role(Role::ControlPlane).next().unwrap();
        self.pods = self.disk[&plane.address]["kube-ca.pem"].clone();
    }

    /// Puts the files of hosts back as another moment had them.
    pub fn deploy_back(&mut self, hosts: &BTreeSet<String>, then: &Self) {
        for host in hosts {
            self.disk.insert(host.clone(), then.disk[host].clone());
        }
    }

    pub fn admin_back(&mut self, then: &Self) {
        self.admin = then.admin.clone();
    }

    /// Everything on hosts that is trusted or shown.
    pub fn texts(&self) -> impl Iterator<Item = (&String, &Text)> {
        self.disk.values().flatten()
    }

    /// What a component may have in use of a file.
    fn uses(&self, who: &Component, file: &str) -> BTreeSet<Text> {
        let loaded = self.loaded[who].get(file);
        let disk = self.disk[&who.0].get(file);
        loaded.into_iter().chain(disk).cloned().collect()
    }

    fn all(&self, component: Service) -> Vec<Component> {
        let known = self.loaded.keys();
        known.filter(|(_, it)| *it == component).cloned().collect()
    }

    /// Who refuses whom, a sentence each.
    pub fn cut_off(&self, judge: &mut Judge) -> Vec<String> {
        let mut talks = Vec::new();
        for etcd in self.all(Service::Etcd) {
            talks.extend(self.with_etcd(&etcd));
        }
        for api in self.all(Service::KubeApiserver) {
            talks.extend(self.with_api(&api));
            talks.extend(self.of_api(&api));
        }
        let refusals = talks.iter().flat_map(|talk| talk.refusals(judge));
        refusals.collect()
    }

    fn end(&self, who: &Component, certificate: &str) -> End {
        End {
            name: format!("{} of {}", who.1, who.0),
            shows: self.uses(who, certificate),
            trusts: self.uses(who, CA),
        }
    }

    /// Members of etcd and API servers ask etcd.
    fn with_etcd(&self, etcd: &Component) -> Vec<Talk> {
        let server = self.end(etcd, &certificate(&self.config, etcd));
        let mut clients = Vec::new();
        for peer in self.all(Service::Etcd).iter().filter(|it| *it != etcd) {
            clients.push(self.end(peer, &certificate(&self.config, peer)));
        }
        for api in self.all(Service::KubeApiserver) {
            clients.push(self.end(&api, "kube-node.pem"));
        }
        Talk::of(clients, &server)
    }

    /// Components, the administrator and pods ask an API server.
    fn with_api(&self, api: &Component) -> Vec<Talk> {
        let server = self.end(api, "kube-apiserver.pem");
        let mut clients = Vec::new();
        for component in [
            Service::KubeControllerManager,
            Service::KubeScheduler,
            Service::Kubelet,
            Service::KubeProxy,
        ] {
            for client in self.all(component) {
                clients.push(self.end(&client, &certificate_of_client(component)));
            }
        }
        clients.push(End {
            name: "the administrator".to_owned(),
            shows: one(&self.admin.0),
            trusts: one(&self.admin.1),
        });
        clients.push(End {
            name: "a system pod".to_owned(),
            shows: BTreeSet::new(),
            trusts: one(&self.pods),
        });
        Talk::of(clients, &server)
    }

    /// An API server asks kubelets, and aggregated API servers, which trust what any API server
    /// has published.
    fn of_api(&self, api: &Component) -> Vec<Talk> {
        let mut talks = Vec::new();
        for kubelet in self.all(Service::Kubelet) {
            let node = self.config.node(&kubelet.0).unwrap();
            let own = format!("{}.pem", names::kubelet_entry(node));
            let client = self.end(api, "kube-apiserver.pem");
            talks.extend(Talk::of(vec![client], &self.end(&kubelet, &own)));
        }
        for other in self.all(Service::KubeApiserver) {
            let client = self.end(api, "kube-apiserver-proxy-client.pem");
            let server = End {
                name: "an aggregated API server".to_owned(),
                shows: BTreeSet::new(),
                trusts: self.uses(&other, "kube-apiserver-requestheader-ca.pem"),
            };
            talks.extend(Talk::of(vec![client], &server));
        }
        talks
    }
}

const CA: &str = "kube-ca.pem";

fn one(text: &Text) -> BTreeSet<Text> {
    BTreeSet::from([text.clone()])
}

/// One end of a connection, with everything that it may have in use.
#[derive(Clone)]
struct End {
    name: String,
    shows: BTreeSet<Text>,
    trusts: BTreeSet<Text>,
}

struct Talk {
    client: End,
    server: End,
}

impl Talk {
    fn of(clients: Vec<End>, server: &End) -> Vec<Self> {
        let talks = clients.into_iter().map(|client| Self {
            client,
            server: server.clone(),
        });
        talks.collect()
    }

    fn refusals(&self, judge: &mut Judge) -> Vec<String> {
        let mut refusals = Vec::new();
        for (who, whom, serving) in [
            (&self.client, &self.server, true),
            (&self.server, &self.client, false),
        ] {
            for chain in &whom.shows {
                for bundle in &who.trusts {
                    if let Some(why) = judge.judge(chain, bundle, serving) {
                        refusals.push(format!("{} refuses {}: {why}", who.name, whom.name));
                    }
                }
            }
        }
        refusals
    }
}

impl Judge {
    pub fn at(now: UnixTime) -> Self {
        Self {
            now: Some(now),
            ..Self::default()
        }
    }

    fn judge(&mut self, chain: &Text, bundle: &Text, serving: bool) -> Option<String> {
        let now = self.now.unwrap();
        let key = (chain.clone(), bundle.clone(), serving);
        let answer = self.known.entry(key).or_insert_with(|| {
            let chain = Certificate::all_from_pem(chain.as_bytes()).unwrap();
            let roots = Certificate::all_from_pem(bundle.as_bytes()).unwrap();
            let purpose = [if serving {
                Purpose::ServerAuth
            } else {
                Purpose::ClientAuth
            }];
            let options = Options::at(now).purposes(&purpose);
            let verdict = verify(&chain[0], &chain[1..], &roots, &options);
            verdict.err().map(|error| error.to_string())
        });
        answer.clone()
    }
}

fn certificate(config: &ClusterConfig, etcd: &Component) -> String {
    format!("{}.pem", names::etcd_entry(config.node(&etcd.0).unwrap()))
}

fn certificate_of_client(component: Service) -> String {
    match component {
        Service::Kubelet => "kube-node.pem".to_owned(),
        other => format!("{other}.pem"),
    }
}

fn text(issued: &BTreeMap<LeafId, (Text, Text)>, content: &Content) -> Text {
    match content {
        Content::Text(text) => text.as_str().into(),
        Content::LeafCertificate(leaf) => issued[leaf].0.clone(),
        Content::BareCertificate(leaf) => issued[leaf].1.clone(),
        Content::LeafKey(_) | Content::Staged { .. } | Content::CopyOf { .. } => "a key".into(),
        other => panic!("{other:?}"),
    }
}

/// Every leaf with what follows it, and alone.
fn issue(lab: &Lab, plan: &Plan, staged: &[Staged]) -> BTreeMap<LeafId, (Text, Text)> {
    let mut issued = BTreeMap::new();
    for (id, leaf) in &plan.leaves {
        let wanted = leaf.certificate.as_ref().unwrap();
        let ca = Certificate::all_from_pem(wanted.issuer.certificate.as_bytes()).unwrap();
        let pem = match &wanted.issuer.key {
            SecretRef::Staged(name) => {
                let found = staged.iter().find(|it| it.name == *name).unwrap();
                String::from_utf8(found.bytes.to_vec()).unwrap()
            }
            SecretRef::RkeState { entry, .. } => {
                let entry = lab.state.entry(Half::Current, entry).unwrap();
                entry.key_pem.expose().to_owned()
            }
            other => panic!("{other:?}"),
        };
        let key = PrivateKey::from_pem(pem.as_bytes()).unwrap();
        let authority = Authority::new(ca[0].clone(), key).unwrap();
        let purposes: Vec<Purpose> = wanted
            .purposes
            .iter()
            .map(|purpose| match purpose.as_str() {
                "server-auth" => Purpose::ServerAuth,
                _ => Purpose::ClientAuth,
            })
            .collect();
        let sans: Vec<San> = wanted.sans.iter().map(|san| San::from_text(san)).collect();
        let key = lab.key();
        let request = LeafRequest {
            organizations: &wanted.organizations,
            common_name: &wanted.common_name,
            sans: &sans,
            purposes: &purposes,
            spki_der: key.spki_der(),
            serial: Serial::from_hex(&wanted.serial).unwrap(),
            validity: pki::Validity {
                not_before: wanted.not_before,
                not_after: wanted.not_after,
            },
        };
        let leaf = authority.issue(&request).unwrap().to_pem();
        let whole = format!("{leaf}{}", wanted.chain);
        issued.insert(id.clone(), (whole.into(), leaf.into()));
    }
    issued
}

/// Certificate and trust bundle of a kubeconfig.
fn inlined(kubeconfig: &[u8]) -> (Text, Text) {
    use base64::Engine as _;
    let text = std::str::from_utf8(kubeconfig).unwrap();
    let part = |key: &str| {
        let value = text
            .split(key)
            .nth(1)
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap();
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(value)
            .unwrap();
        Text::from(String::from_utf8(bytes).unwrap())
    };
    (
        part("client-certificate-data: "),
        part("certificate-authority-data: "),
    )
}
