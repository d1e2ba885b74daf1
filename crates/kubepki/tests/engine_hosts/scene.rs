//! A cluster of three hosts, its state file, and the plan that renews what they serve.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kubepki::apply::{ApplyError, Executor, Outcome, Patience, Quiet, served_certificate};
use kubepki::edge::file::replace;
use kubepki::edge::{FixedClock, FreshKeys, SystemEntropy};
use kubepki::error_chain;
use kubepki::host::{Attributes, Host, LocalHost};
use kubepki::machine::Machine;
use kubepki::plan::*;
use kubepki::rke::entry::Origin;
use kubepki::rke::{Entry, Half, Secret, State};
use kubepki::state::{Locked, StateDir};
use pki::{
    Authority, Certificate, DAY, KeyAlgorithm, LeafRequest, Name, PrivateKey, Purpose, Serial,
    UnixTime, Validity,
};

use crate::world::{Api, Faults, Hosts, Node, make_all};

pub const NOW: UnixTime = UnixTime::from_secs(1_795_328_351);
const CLOCK: FixedClock = FixedClock(NOW);
pub const SSL: &str = "/etc/kubernetes/ssl";
pub const NAMES: [&str; 3] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];

pub struct Scene {
    folder: tempfile::TempDir,
    pub hosts: Hosts,
    pub api: Api,
    ca: String,
}

/// What hosts and operator hold, apart from what kubepki keeps.
pub type Picture = BTreeMap<String, (u32, Vec<u8>)>;

impl Scene {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = authority();
        let faults = Arc::new(Faults::default());
        let mut boxes = BTreeMap::new();
        for name in NAMES {
            let node = Node::new(name, folder.path().join(name), &faults);
            let ssl = node.at(Path::new(SSL));
            make_all(&ssl);
            let (key, certificate) = issue(&ca, name);
            let write = |name: &str, text: &str| {
                replace(&ssl.join(name), text.as_bytes(), &Attributes::new(0o600)).unwrap();
            };
            write("kube-ca.pem", &ca.certificate().to_pem());
            write("web.pem", &certificate.to_pem());
            write("web-key.pem", &key.to_pem().unwrap());
            write("stale.pem", "of another node\n");
            let health = node.root.join("health");
            replace(&health, b"{\"health\":\"true\"}", &Attributes::new(0o644)).unwrap();
            node.start();
            boxes.insert(name.to_owned(), Arc::new(node));
        }
        let mut state = State::empty();
        let (key, certificate) = issue(&ca, "client");
        let entry = |name: &str, certificate: &Certificate, key: &PrivateKey| {
            let key = Secret::new(key.to_pem().unwrap());
            Entry::new(name, &certificate.to_pem(), key, Origin::Issued)
        };
        state.set_desired([
            entry("kube-ca", ca.certificate(), ca.key()),
            entry("kube-node", &certificate, &key),
        ]);
        state.promote(["kube-ca", "kube-node"]);
        let at = folder.path().join("cluster.rkestate");
        replace(&at, &state.render(), &Attributes::new(0o600)).unwrap();
        let ca = ca.certificate().to_pem();
        Self {
            hosts: Hosts { boxes, faults },
            api: Api::default(),
            ca,
            folder,
        }
    }

    pub fn node(&self, host: &str) -> &Arc<Node> {
        &self.hosts.boxes[host]
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn lock(&self) -> Locked {
        StateDir::new(self.path("kubepki")).lock().unwrap()
    }

    pub fn state_file(&self) -> State {
        State::parse(&std::fs::read(self.path("cluster.rkestate")).unwrap()).unwrap()
    }

    /// The cluster's CA.
    pub fn ca(&self) -> Authority {
        let entry = self.state_file().entry(Half::Current, "kube-ca").unwrap();
        let certificate = entry.certificate().unwrap().unwrap();
        Authority::new(certificate, entry.key().unwrap().unwrap()).unwrap()
    }

    pub fn executor<'a>(&'a self, state: &'a Locked) -> Executor<'a> {
        Executor {
            host: &LocalHost,
            state,
            clock: &CLOCK,
            entropy: &SystemEntropy,
            keys: &FreshKeys,
            observer: &Quiet,
            patience: Patience {
                proof: Duration::from_millis(1500),
                pause: Duration::from_millis(20),
                ..Patience::default()
            },
            cluster: None,
            caller: None,
            machines: Some(&self.hosts),
            kubernetes: Some(&self.api),
        }
    }

    pub async fn picture(&self) -> Picture {
        let mut picture = Picture::new();
        for (host, node) in &self.hosts.boxes {
            let files = node.read_directory(Path::new(SSL)).await.unwrap().unwrap();
            for (name, entry) in files {
                let bytes = entry.bytes().unwrap().to_vec();
                picture.insert(format!("{host}/{name}"), (entry.attributes.mode, bytes));
            }
        }
        for name in ["cluster.rkestate", "kube_config"] {
            if let Some(entry) = LocalHost.read(&self.path(name)).await.unwrap() {
                let bytes = entry.bytes().unwrap().to_vec();
                picture.insert(name.to_owned(), (entry.attributes.mode, bytes));
            }
        }
        picture
    }

    pub fn restarts(&self) -> usize {
        let all = self.hosts.boxes.values();
        all.map(|it| it.restarts.load(std::sync::atomic::Ordering::SeqCst))
            .sum()
    }

    /// Whether every host serves what lies on its disk.
    pub async fn assert_serves(&self) {
        for node in self.hosts.boxes.values() {
            let pem = std::fs::read(node.at(Path::new(SSL)).join("web.pem")).unwrap();
            let leaf = Certificate::all_from_pem(&pem).unwrap().remove(0);
            let address = format!("127.0.0.1:{}", node.port);
            let served = served_certificate(&address, Duration::from_secs(5)).await;
            assert_eq!(served.unwrap(), leaf.der(), "{}", node.name);
        }
    }

    pub fn proofs(&self, host: &str) -> Vec<Proof> {
        let (leaf, url) = (leaf_id(host), self.url(host));
        let address = format!("127.0.0.1:{}", self.node(host).port);
        let client = Credential::Leaf(leaf_id("client"));
        let host = host.to_owned();
        vec![
            Proof::ServesAt {
                host: host.clone(),
                address,
                leaf,
            },
            Proof::Healthy {
                host: host.clone(),
                url: url.clone(),
                client: Some(client.clone()),
                member: Some(("health".to_owned(), "true".to_owned())),
            },
            Proof::Accepts { host, url, client },
        ]
    }

    fn url(&self, host: &str) -> String {
        format!("https://127.0.0.1:{}/health", self.node(host).port)
    }

    pub fn guard(&self, but: &str) -> Vec<Proof> {
        let others = NAMES.into_iter().filter(|name| *name != but);
        let members: Vec<_> = others
            .map(|name| (name.to_owned(), self.url(name)))
            .collect();
        let client = Credential::RkeState {
            path: self.path("cluster.rkestate"),
            entry: "kube-node".to_owned(),
        };
        vec![Proof::Quorum {
            members,
            needed: 2,
            client,
        }]
    }

    pub async fn deployment(&self, hosts: &[&str]) -> Action {
        let mut sets = Vec::new();
        for host in hosts {
            let here = self.node(host).at(Path::new(SSL));
            let mut files = BTreeMap::new();
            let leaf = leaf_id(host);
            for (name, content) in [
                ("web.pem", Some(Content::BareCertificate(leaf.clone()))),
                ("web-key.pem", Some(Content::LeafKey(leaf))),
                ("new.txt", Some(Content::Text("new\n".to_owned()))),
                ("stale.pem", None),
            ] {
                let entry = LocalHost.read(&here.join(name)).await.unwrap();
                let before =
                    entry.map_or(Before::Absent, |it| Before::Present(Fingerprint::of(&it)));
                let attributes = Attributes {
                    uid: Some(0),
                    gid: Some(0),
                    ..Attributes::new(0o640)
                };
                files.insert(
                    name.to_owned(),
                    FileChange {
                        before,
                        attributes,
                        content,
                    },
                );
            }
            let (host, directory) = ((*host).to_owned(), SSL.into());
            sets.push(FileSet {
                host,
                directory,
                files,
            });
        }
        Action::Deploy { sets }
    }

    pub fn restart(&self, hosts: &[&str]) -> Action {
        let one = |host: &str, container: &str| ContainerRestart {
            host: host.to_owned(),
            container: container.to_owned(),
            guard: self.guard(host),
            proof: self.proofs(host),
        };
        let restarts = hosts
            .iter()
            .flat_map(|host| [one(host, "web"), one(host, "nginx-proxy")]);
        Action::RestartContainers {
            restarts: restarts.collect(),
        }
    }

    /// Everything that a rotation has; `away` is a host whose steps may be put off.
    pub async fn plan(&self, id: &str, away: Option<&str>) -> Plan {
        let state = self.path("cluster.rkestate");
        let config = self.path("kube_config");
        let present = |entry: Option<kubepki::host::Entry>| {
            entry.map_or(Before::Absent, |it| Before::Present(Fingerprint::of(&it)))
        };
        let edit = |edit| put(Content::RkeState(Box::new(edit)));
        let entry = StateEntry {
            certificate: Some(Content::LeafCertificate(leaf_id("client"))),
            key: Some(Content::LeafKey(leaf_id("client"))),
            config: None,
        };
        let desire = StateEdit::Desire {
            entries: BTreeMap::from([("kube-node".to_owned(), entry)]),
            removed: Vec::new(),
            config: None,
        };
        let promote = StateEdit::Promote {
            entries: vec!["kube-node".to_owned()],
            config: true,
        };
        let admin = Content::AdminKubeconfig {
            server: "https://10.0.0.1:6443".to_owned(),
            cluster: "local".to_owned(),
            authority: self.ca.clone(),
            leaf: leaf_id("client"),
        };
        let file = |path: &Path| Target::File {
            host: "local".to_owned(),
            path: path.to_owned(),
        };
        let kubernetes = || Target::Kubernetes {
            cluster: "local".to_owned(),
        };
        let near: Vec<&str> = NAMES
            .into_iter()
            .filter(|name| Some(*name) != away)
            .collect();
        let now = LocalHost.read(&state).await.unwrap();
        let mut steps = vec![
            (file(&state), present(now), edit(desire)),
            (hosts(&near), Before::Any, self.deployment(&near).await),
        ];
        for host in near {
            steps.push((hosts(&[host]), Before::Any, self.restart(&[host])));
        }
        steps.push((file(&state), Before::LeftBy(1), edit(promote)));
        let now = LocalHost.read(&config).await.unwrap();
        steps.push((file(&config), present(now), put(admin)));
        let certain = steps.len();
        if let Some(away) = away {
            steps.push((hosts(&[away]), Before::Any, self.deployment(&[away]).await));
            steps.push((hosts(&[away]), Before::Any, self.restart(&[away])));
        }
        steps.push((kubernetes(), Before::Any, Action::SaveState { path: state }));
        let selectors = vec!["k8s-app=canal".to_owned()];
        steps.push((kubernetes(), Before::Any, Action::DeletePods { selectors }));
        self.plan_of(id, steps, certain)
    }

    pub fn plan_of(&self, id: &str, steps: Vec<(Target, Before, Action)>, certain: usize) -> Plan {
        let numbered = (1..)
            .zip(steps)
            .map(|(number, (target, before, action))| Step {
                number,
                target,
                before,
                action,
                reason: "test".to_owned(),
            });
        let steps: Vec<Step> = numbered.collect();
        let numbers = steps.iter().map(|step| step.number).skip(certain);
        Plan {
            format: PLAN_FORMAT,
            id: PlanId(id.to_owned()),
            undoes: None,
            title: "rotate".to_owned(),
            node: "local".to_owned(),
            root: self.folder.path().to_owned(),
            datastore: None,
            irreversible: None,
            deferrable: numbers.collect::<BTreeSet<u32>>(),
            created: NOW,
            hypothetical: false,
            leaves: NAMES
                .into_iter()
                .chain(["client"])
                .map(|it| self.leaf(it))
                .collect(),
            steps,
            notes: Vec::new(),
        }
    }

    fn leaf(&self, name: &str) -> (LeafId, Leaf) {
        let certificate = Certificate::all_from_pem(self.ca.as_bytes())
            .unwrap()
            .remove(0);
        let issuer = IssuerRef {
            certificate: self.ca.clone(),
            key: SecretRef::RkeState {
                path: self.path("cluster.rkestate"),
                entry: "kube-ca".to_owned(),
            },
            spki: certificate.spki_sha256().to_string(),
        };
        let certificate = LeafCertificate {
            organizations: Vec::new(),
            common_name: name.to_owned(),
            sans: vec!["127.0.0.1".to_owned()],
            purposes: vec!["server-auth".to_owned(), "client-auth".to_owned()],
            serial: "4f00112233445566778899aabbccddee".to_owned(),
            not_before: today().plus(-DAY),
            not_after: today().plus(DAY),
            issuer,
            chain: String::new(),
        };
        let key = KeyOrigin::New {
            algorithm: "p256".to_owned(),
        };
        (
            leaf_id(name),
            Leaf {
                key,
                certificate: Some(certificate),
            },
        )
    }

    /// Whether all of the plan is done.
    pub async fn assert_renewed(&self, before: &Picture) {
        let state = self.state_file();
        let entry = |half| state.entry(half, "kube-node").unwrap();
        assert_eq!(
            entry(Half::Current).certificate_pem,
            entry(Half::Desired).certificate_pem
        );
        let now = self.picture().await;
        for host in NAMES {
            assert!(!now.contains_key(&format!("{host}/stale.pem")), "{host}");
            assert_eq!(now[&format!("{host}/new.txt")], (0o640, b"new\n".to_vec()));
            let web = format!("{host}/web.pem");
            assert_ne!(now[&web], before[&web]);
        }
        assert!(now.contains_key("kube_config"));
        self.assert_serves().await;
        for node in self.hosts.boxes.values() {
            assert_eq!(*node.owner.lock().unwrap(), None, "{} is locked", node.name);
        }
    }
}

/// OpenSSL looks at its own clock.
fn today() -> UnixTime {
    kubepki::edge::Clock::now(&kubepki::edge::SystemClock)
}

pub fn hosts(names: &[&str]) -> Target {
    let hosts = names.iter().map(|name| (*name).to_owned()).collect();
    Target::Hosts { hosts }
}

pub fn leaf_id(name: &str) -> LeafId {
    LeafId(format!("leaf-{name}"))
}

fn put(content: Content) -> Action {
    Action::Put {
        attributes: Attributes::new(0o600),
        content,
    }
}

pub fn authority() -> Authority {
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let validity = Validity {
        not_before: today().plus(-2 * DAY),
        not_after: today().plus(3650 * DAY),
    };
    let serial = Serial::random(pki::random).unwrap();
    Authority::self_signed(&Name::new(&[], "kube-ca").unwrap(), key, serial, validity).unwrap()
}

pub fn issue(ca: &Authority, name: &str) -> (PrivateKey, Certificate) {
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let request = LeafRequest {
        organizations: &[],
        common_name: name,
        sans: &[pki::San::from_text("127.0.0.1")],
        purposes: &[Purpose::ServerAuth, Purpose::ClientAuth],
        spki_der: key.spki_der(),
        serial: Serial::random(pki::random).unwrap(),
        validity: Validity {
            not_before: today().plus(-DAY),
            not_after: today().plus(DAY),
        },
    };
    let certificate = ca.issue(&request).unwrap();
    (key, certificate)
}

#[track_caller]
pub fn finished(outcome: Result<Outcome, ApplyError>) {
    match outcome {
        Ok(Outcome::Finished { untidy: None, .. }) => {}
        Ok(other) => panic!("{other:?}"),
        Err(error) => panic!("{}", error_chain(&error)),
    }
}
