//! An operator's folder with a CA in a state file, and plans that deploy to all hosts.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kubepki::apply::{Executor, Outcome, Patience, Quiet};
use kubepki::edge::file::replace;
use kubepki::edge::{Clock as _, FreshKeys, KeySource, SystemClock, SystemEntropy, generate_all};
use kubepki::error_chain;
use kubepki::host::{Attributes, Entry as FileEntry, EntryKind, LocalHost};
use kubepki::machine::Deployment;
use kubepki::plan::{
    Action, Before, Content, FileChange, FileSet, IssuerRef, KeyOrigin, Leaf, LeafCertificate,
    LeafId, PLAN_FORMAT, Plan, PlanId, SecretRef, Step, Target,
};
use kubepki::rke::entry::Origin;
use kubepki::rke::{Entry, Secret, State};
use kubepki::state::StateDir;
use kubepki_remote::machine::{HostSpec, RemoteMachines, SshReach};
use kubepki_remote::ssh::{Credentials, Endpoint, HostKeys, PrivateKey as SshKey, Timeouts};
use pki::{Authority, DAY, KeyAlgorithm, Name, PrivateKey, Serial, Validity};
use rustix::time::{ClockId, clock_gettime};
use testkit::rke::{Host, TOOLS_IMAGE};
use zeroize::Zeroizing;

use super::{FILES, far};
use crate::measure::Failure;

const SSL: &str = "/etc/kubernetes/ssl";
const RSA: KeyAlgorithm = KeyAlgorithm::Rsa(2048);
/// Leaves whose files every host gets; each has two of its own besides.
const SHARED: usize = 6;
/// As many as the command line.
const CONNECTIONS: usize = 10;

/// Where one host is reached.
#[derive(Debug)]
pub struct Way {
    /// Its name in plans.
    pub name: String,
    pub address: String,
    pub port: u16,
}

/// All that rounds have in common.
#[derive(Debug)]
pub struct Scene {
    folder: tempfile::TempDir,
    pub ways: Vec<Way>,
    pub key: PathBuf,
    authority: (String, String),
    round: Cell<u32>,
    ready: Ready,
}

/// A few keys that were made before, again and again: making them is not what is measured.
struct Ready {
    pems: Vec<Zeroizing<String>>,
    next: AtomicUsize,
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ready")
    }
}

impl KeySource for Ready {
    fn generate(&self, _algorithm: KeyAlgorithm) -> Result<PrivateKey, pki::Error> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.pems.len().max(1);
        let pem = self.pems.get(next).map_or("", |it| it.as_str());
        PrivateKey::from_pem(pem.as_bytes())
    }
}

/// What one plan took, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    pub wall: f64,
    pub cpu: f64,
}

/// A state file as large as that of a cluster of so many hosts.
fn state_of(ways: &[Way], pem: &str, key: &Zeroizing<String>) -> State {
    let own = ways.iter().flat_map(|it| {
        let id = it.name.replace('.', "-");
        [format!("kube-etcd-{id}"), format!("kube-kubelet-{id}")]
    });
    let names: Vec<String> = ["kube-ca".to_owned()].into_iter().chain(own).collect();
    let entry = |name: &String| Entry::new(name, pem, Secret::new(key.clone()), Origin::Issued);
    let mut state = State::empty();
    state.set_desired(names.iter().map(entry));
    state.promote(names.iter().map(String::as_str));
    state
}

impl Scene {
    pub async fn new(hosts: &[Host], delay: Duration) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let (mut ways, mut known) = (Vec::new(), String::new());
        for host in hosts {
            let name = host.address().to_string();
            let (mut address, mut port) = (name.clone(), 22);
            let line = host.known_hosts_line();
            if delay.is_zero() {
                known.push_str(&line);
            } else {
                port = far::listen(SocketAddr::from((host.address(), 22)), delay).await?;
                address = "127.0.0.1".to_owned();
                let key = line.split_once(' ').map_or("", |(_, key)| key);
                known.push_str(&format!("[{address}]:{port} {key}"));
            }
            ways.push(Way {
                name,
                address,
                port,
            });
        }
        let private = Attributes::new(0o600);
        replace(
            &folder.path().join("known_hosts"),
            known.as_bytes(),
            &private,
        )?;
        let key = PrivateKey::generate(RSA)?;
        let now = SystemClock.now();
        let validity = Validity {
            not_before: now.plus(-DAY),
            not_after: now.plus(3650 * DAY),
        };
        let serial = Serial::random(pki::random)?;
        let ca = Authority::self_signed(&Name::new(&[], "kube-ca")?, key, serial, validity)?;
        let (pem, key) = (ca.certificate().to_pem(), ca.key().to_pem()?);
        let state = state_of(&ways, &pem, &key);
        replace(
            &folder.path().join("cluster.rkestate"),
            &state.render(),
            &private,
        )?;
        let peer = folder.path().join("peer");
        std::fs::create_dir(&peer)?;
        for number in 0..FILES {
            replace(
                &peer.join(format!("peer-{number}.pem")),
                key.as_bytes(),
                &private,
            )?;
        }
        let ready = generate_all(&FreshKeys, &[RSA; 8])?;
        let first = hosts.first().ok_or("no hosts")?;
        Ok(Self {
            key: first.network().ssh_key(),
            authority: (pem, ca.key().spki_sha256().to_string()),
            folder,
            ways,
            round: Cell::new(0),
            ready: Ready {
                pems: ready
                    .iter()
                    .map(PrivateKey::to_pem)
                    .collect::<Result<_, _>>()?,
                next: AtomicUsize::new(0),
            },
        })
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn known(&self) -> PathBuf {
        self.folder().join("known_hosts")
    }

    /// Hosts that nobody is connected to yet.
    pub fn machines(&self, user: &str) -> Result<RemoteMachines, Failure> {
        let key = SshKey::from_file(&self.key)?;
        let spec = |way: &Way| HostSpec {
            name: way.name.clone(),
            docker_socket: "/var/run/docker.sock".to_owned(),
            prefix_path: "/".to_owned(),
            relabel: false,
            images: vec![TOOLS_IMAGE.to_owned()],
            reach: Arc::new(SshReach {
                endpoint: Endpoint {
                    address: way.address.clone(),
                    port: way.port,
                    user: user.to_owned(),
                    keys: Credentials {
                        key: Some(key.clone()),
                        agent: None,
                    },
                    bastion: None,
                },
                host_keys: HostKeys::strict([self.known()]),
                timeouts: Timeouts::default(),
            }),
        };
        let notify = Arc::new(|_: &str, _: &kubepki_remote::machine::Notice<'_>| {});
        Ok(RemoteMachines::new(
            self.ways.iter().map(spec),
            CONNECTIONS,
            notify,
        ))
    }

    /// A plan's set for the first host, without the plan.
    pub fn single(&self, round: usize) -> (String, Deployment) {
        let host = self
            .ways
            .first()
            .map(|it| it.name.clone())
            .unwrap_or_default();
        let entry = FileEntry {
            kind: EntryKind::File(Zeroizing::new(vec![b'x'; 1700])),
            attributes: root_only(),
        };
        let file = |number| (format!("single-{number}.pem"), Some(entry.clone()));
        let deployment = Deployment {
            directory: PathBuf::from(SSL),
            keep: PathBuf::from(format!("/etc/kubernetes/.kubepki/single-{round}/old")),
            files: (0..FILES).map(file).collect(),
        };
        (host, deployment)
    }

    /// Carries a plan out, from the first connection to the last unlocking. Its keys lie ready.
    pub async fn deploy(&self, user: &str) -> Result<Taken, Failure> {
        let plan = self.plan();
        let state = StateDir::new(self.folder().join("kubepki")).lock()?;
        let machines = self.machines(user)?;
        let executor = Executor {
            host: &LocalHost,
            state: &state,
            clock: &SystemClock,
            entropy: &SystemEntropy,
            keys: &self.ready,
            observer: &Quiet,
            patience: Patience::default(),
            cluster: None,
            caller: None,
            machines: Some(&machines),
            kubernetes: None,
        };
        let (begin, cpu) = (Instant::now(), process_cpu());
        let outcome = executor
            .apply(&plan)
            .await
            .map_err(|error| error_chain(&error))?;
        let (wall, cpu) = (begin.elapsed().as_secs_f64(), process_cpu() - cpu);
        match outcome {
            Outcome::Finished { untidy: None, .. } => Ok(Taken { wall, cpu }),
            other => Err(format!("the plan ended with {other:?}").into()),
        }
    }

    fn plan(&self) -> Plan {
        let round = self.round.get();
        self.round.set(round + 1);
        let mut leaves = BTreeMap::new();
        let mut sets = Vec::new();
        let shared: Vec<LeafId> = (0..SHARED)
            .map(|it| LeafId(format!("shared-{it}")))
            .collect();
        for id in &shared {
            leaves.insert(id.clone(), self.leaf(&id.0));
        }
        for way in &self.ways {
            let name = way.name.replace('.', "-");
            let own = ["etcd", "kubelet"].map(|it| LeafId(format!("{it}-{name}")));
            let mut files = BTreeMap::new();
            for id in shared.iter().chain(&own) {
                leaves.entry(id.clone()).or_insert_with(|| self.leaf(&id.0));
                files.insert(
                    format!("{id}.pem"),
                    put(Content::BareCertificate(id.clone())),
                );
                files.insert(format!("{id}-key.pem"), put(Content::LeafKey(id.clone())));
            }
            for number in files.len()..FILES {
                let text = self.authority.0.clone();
                files.insert(format!("text-{number}.pem"), put(Content::Text(text)));
            }
            let host = way.name.clone();
            sets.push(FileSet {
                host,
                directory: PathBuf::from(SSL),
                files,
            });
        }
        let now = SystemClock.now();
        Plan {
            format: PLAN_FORMAT,
            id: PlanId(format!(
                "20261122T1015{:02}Z-rotate-{round:04x}",
                round % 60
            )),
            undoes: None,
            title: "rotate".to_owned(),
            node: "bench".to_owned(),
            root: self.folder().to_owned(),
            datastore: None,
            irreversible: None,
            deferrable: BTreeSet::new(),
            created: now,
            hypothetical: false,
            leaves,
            steps: vec![Step {
                number: 1,
                target: Target::Hosts {
                    hosts: self.ways.iter().map(|it| it.name.clone()).collect(),
                },
                before: Before::Any,
                action: Action::Deploy { sets },
                reason: "measured".to_owned(),
            }],
            notes: Vec::new(),
        }
    }

    fn leaf(&self, name: &str) -> Leaf {
        let now = SystemClock.now();
        let (certificate, spki) = self.authority.clone();
        let path = self.folder().join("cluster.rkestate");
        let certificate = LeafCertificate {
            organizations: Vec::new(),
            common_name: name.to_owned(),
            sans: ["localhost", "kubernetes", "127.0.0.1"]
                .map(str::to_owned)
                .into(),
            purposes: vec!["server-auth".to_owned(), "client-auth".to_owned()],
            serial: pki::sha256(name.as_bytes())
                .to_string()
                .chars()
                .skip(33)
                .fold("4".to_owned(), |text, it| text + &it.to_string()),
            not_before: now.plus(-DAY),
            not_after: now.plus(365 * DAY),
            issuer: IssuerRef {
                certificate,
                key: SecretRef::RkeState {
                    path,
                    entry: "kube-ca".to_owned(),
                },
                spki,
            },
            chain: String::new(),
        };
        Leaf {
            key: KeyOrigin::New {
                algorithm: "rsa2048".to_owned(),
            },
            certificate: Some(certificate),
        }
    }
}

fn put(content: Content) -> FileChange {
    FileChange {
        before: Before::Any,
        attributes: root_only(),
        content: Some(content),
    }
}

fn root_only() -> Attributes {
    Attributes {
        uid: Some(0),
        gid: Some(0),
        ..Attributes::new(0o600)
    }
}

/// CPU time of this process, in seconds.
fn process_cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
