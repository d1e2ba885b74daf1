//! A small node with one of everything that a step can touch, and the plan that touches it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kubepki::apply::{Executor, Patience, Quiet};
use kubepki::edge::file::{make_directory, replace, replace_link};
use kubepki::edge::{FixedClock, FreshKeys, SystemEntropy};
use kubepki::host::{Attributes, Host, LocalHost};
use kubepki::journal::{Event, replay};
use kubepki::kubeconfig::Kubeconfig;
use kubepki::plan::*;
use kubepki::state::{Locked, StateDir};
use pki::{
    Authority, Certificate, DAY, KeyAlgorithm, LeafRequest, Name, PrivateKey, Purpose, Serial,
    UnixTime, Validity,
};
use testkit::{DiffOptions, Tree};

pub const NOW: UnixTime = UnixTime::from_secs(1_795_328_351);
pub const CLOCK: FixedClock = FixedClock(NOW);

/// A folder for a node, in memory where there is such a place: these tests sync a lot.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir()
        && let Ok(folder) = tempfile::tempdir_in(memory)
    {
        return folder;
    }
    tempfile::tempdir().unwrap()
}

/// A node below a folder of its own.
pub struct Node {
    pub root: PathBuf,
}

impl Node {
    pub fn at(folder: &Path) -> Self {
        Self {
            root: folder.join("node"),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn state(&self) -> StateDir {
        StateDir::of_data_dir(&self.root)
    }

    /// Everything but kubepki's own directory.
    pub fn tree(&self) -> Tree {
        Tree::snapshot(&self.root).without("kubepki")
    }

    /// Makes the node as it was before the plan.
    pub fn make(&self) {
        let old = Some((1_700_000_000, 987_654_321));
        let attributes = |mode| Attributes {
            mtime: old,
            ..Attributes::new(mode)
        };
        let write = |name: &str, bytes: &[u8], mode| {
            replace(&self.path(name), bytes, &attributes(mode)).unwrap();
        };
        for name in ["", "tls", "empty"] {
            make_directory(&self.path(name), &attributes(0o755)).unwrap();
        }
        let ca = authority("test-ca");
        let (admin_key, admin) = issue(&ca, "system:admin");
        let chain = format!("{}{}", admin.to_pem(), ca.certificate().to_pem());
        write("tls/ca.crt", ca.certificate().to_pem().as_bytes(), 0o644);
        write("tls/ca.key", ca.key().to_pem().unwrap().as_bytes(), 0o600);
        write("tls/admin.crt", chain.as_bytes(), 0o644);
        write(
            "tls/admin.key",
            admin_key.to_pem().unwrap().as_bytes(),
            0o600,
        );
        let encoded = |pem: &str| STANDARD.encode(pem);
        let config = format!(
            "apiVersion: v1\nkind: Config\n# mine\nclusters:\n- name: default\n  cluster:\n    \
             server: https://127.0.0.1:6443\n    certificate-authority-data: {}\nusers:\n\
             - name: default\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n\
             contexts:\n- name: default\n  context: {{cluster: default, user: default}}\n\
             current-context: default\n",
            encoded(&ca.certificate().to_pem()),
            encoded(&chain),
            encoded(&admin_key.to_pem().unwrap()),
        );
        write("admin.kubeconfig", config.as_bytes(), 0o640);
        write("old.txt", b"to be removed\n", 0o604);
        write("twice.txt", b"zero\n", 0o644);
        replace_link(&self.path("current"), Path::new("tls"), &attributes(0o777)).unwrap();
    }

    /// Makes the same node again, byte for byte, from a copy that [`Self::keep`] made.
    pub fn restore(&self, kept: &Path) {
        if self.root.exists() {
            #[expect(clippy::disallowed_methods, reason = "a folder of this test")]
            std::fs::remove_dir_all(&self.root).unwrap();
        }
        copy(kept, &self.root);
    }

    pub fn keep(&self, kept: &Path) {
        copy(&self.root, kept);
    }

    /// A plan with every kind of file step, and one path touched twice.
    pub async fn plan(&self) -> Plan {
        let fresh = Attributes::new(0o644);
        let dated = Attributes {
            mtime: Some((1_750_000_000, 1)),
            ..Attributes::new(0o644)
        };
        let leaf = || LeafId("client-admin".to_owned());
        let text = |text: &str| Content::Text(text.to_owned());
        let old_crt = self.sha256("tls/admin.crt").await;
        let copy = Content::CopyOf {
            path: self.path("tls/admin.crt"),
            sha256: old_crt,
        };
        let config = Content::Kubeconfig {
            user: "default".to_owned(),
            leaf: leaf(),
            authority: None,
        };
        let private = |mode| Attributes::new(mode);
        let actions = [
            ("backup", put(private(0o700), Content::Directory)),
            ("backup/admin.crt", put(private(0o600), copy)),
            (
                "tls/admin.key",
                put(private(0o600), Content::LeafKey(leaf())),
            ),
            (
                "tls/admin.crt",
                put(fresh.clone(), Content::LeafCertificate(leaf())),
            ),
            ("admin.kubeconfig", put(private(0o640), config)),
            ("old.txt", Action::Remove),
            (
                "current",
                put(private(0o777), Content::Link(PathBuf::from("backup"))),
            ),
            ("twice.txt", put(dated.clone(), text("one\n"))),
            ("tls", put(private(0o711), Content::Directory)),
            ("empty", Action::Remove),
            ("new.txt", put(dated, text("new\n"))),
            ("twice.txt", put(fresh, text("two\n"))),
        ];
        let mut steps = self.steps(actions).await;
        // The second step of a path finds what the first one leaves.
        let (one, two) = (steps[7].clone(), &mut steps[11]);
        if let (Before::Present(there), Action::Put { attributes, .. }) =
            (&mut two.before, one.action)
        {
            there.kind = FingerprintKind::File(pki::sha256(b"one\n").to_string());
            there.attributes.mtime = attributes.mtime;
        }
        self.plan_of("20261122T061911Z-test-0001", steps)
    }

    /// Steps on files of the node, each on the condition of what is there now.
    pub async fn steps(&self, actions: impl IntoIterator<Item = (&str, Action)>) -> Vec<Step> {
        let mut steps = Vec::new();
        for (name, action) in actions {
            let path = self.path(name);
            let before = match LocalHost.read(&path).await.unwrap() {
                Some(entry) => Before::Present(Fingerprint::of(&entry)),
                None => Before::Absent,
            };
            let number = u32::try_from(steps.len() + 1).unwrap();
            let target = Target::File {
                host: "local".to_owned(),
                path,
            };
            steps.push(Step {
                number,
                target,
                before,
                action,
                reason: "test".to_owned(),
            });
        }
        steps
    }

    pub fn plan_of(&self, id: &str, steps: Vec<Step>) -> Plan {
        let ca = std::fs::read_to_string(self.path("tls/ca.crt")).unwrap();
        let certificate = Certificate::all_from_pem(ca.as_bytes()).unwrap().remove(0);
        let issuer = IssuerRef {
            certificate: ca.clone(),
            key: SecretRef::File(self.path("tls/ca.key")),
            spki: certificate.spki_sha256().to_string(),
        };
        let certificate = LeafCertificate {
            organizations: vec!["system:masters".to_owned()],
            common_name: "system:admin".to_owned(),
            sans: Vec::new(),
            purposes: vec!["client-auth".to_owned()],
            serial: SERIAL.to_owned(),
            not_before: NOW,
            not_after: NOW.plus(365 * DAY),
            issuer,
            chain: ca,
        };
        let key = KeyOrigin::New {
            algorithm: "p256".to_owned(),
        };
        let leaf = Leaf {
            key,
            certificate: Some(certificate),
        };
        Plan {
            format: PLAN_FORMAT,
            id: PlanId(id.to_owned()),
            undoes: None,
            title: "rotate admin".to_owned(),
            node: "test".to_owned(),
            root: self.root.clone(),
            created: NOW,
            datastore: None,
            irreversible: None,
            deferrable: std::collections::BTreeSet::new(),
            hypothetical: false,
            leaves: BTreeMap::from([(LeafId("client-admin".to_owned()), leaf)]),
            steps,
            notes: Vec::new(),
        }
    }

    async fn sha256(&self, name: &str) -> String {
        let entry = LocalHost.read(&self.path(name)).await.unwrap().unwrap();
        pki::sha256(entry.bytes().unwrap()).to_string()
    }

    /// Asserts that the tree is the one that the plan ends with: `finished`, but for the leaf,
    /// which is a new one each time and must be the same everywhere.
    #[track_caller]
    pub fn assert_finished(&self, finished: &Tree, plan: &PlanId) {
        let options = ["tls/admin.key", "tls/admin.crt", "admin.kubeconfig"]
            .iter()
            .fold(untimed(), |options, name| options.content_may_differ(name))
            .mtime_may_differ("backup/admin.crt")
            .mtime_may_differ("current")
            .mtime_may_differ("twice.txt");
        Tree::assert_equal(finished, &self.tree(), &options);

        let read = |name: &str| std::fs::read(self.path(name)).unwrap();
        let key = PrivateKey::from_pem(&read("tls/admin.key")).unwrap();
        let chain = Certificate::all_from_pem(&read("tls/admin.crt")).unwrap();
        assert_eq!(chain.len(), 2);
        assert_eq!(chain[0].spki_der(), key.spki_der());
        assert_eq!(chain[0].serial().to_string(), SERIAL);
        chain[0].verify_signature(chain[1].spki_der()).unwrap();
        let config = read("admin.kubeconfig");
        assert!(Kubeconfig::parse(&config).is_ok());
        let config = String::from_utf8(config).unwrap();
        for file in ["tls/admin.key", "tls/admin.crt"] {
            assert!(
                config.contains(&STANDARD.encode(read(file))),
                "{file} is not inlined"
            );
        }

        let contents = self.state().journal(plan).unwrap();
        let mut spki: Vec<String> = Vec::new();
        for entry in &contents.entries {
            if let Event::Intend(intend) = &entry.event {
                spki.extend(intend.leaves.iter().map(|leaf| leaf.spki.clone()));
            }
        }
        spki.dedup();
        assert_eq!(
            spki,
            [key.spki_sha256().to_string()],
            "only one key was ever in place"
        );
        assert!(replay(&contents.entries).is_ok());
        assert!(
            !self.state().path().join("staging").join(&plan.0).exists(),
            "staged keys stay"
        );
    }

    #[track_caller]
    pub fn assert_original(&self, original: &Tree) {
        Tree::assert_equal(original, &self.tree(), &untimed());
    }
}

/// Directories' times move with what is in them.
fn untimed() -> DiffOptions {
    DiffOptions::exact().without_directory_mtimes()
}

pub fn executor<'a>(host: &'a dyn Host, state: &'a Locked) -> Executor<'a> {
    Executor {
        host,
        state,
        clock: &CLOCK,
        entropy: &SystemEntropy,
        keys: &FreshKeys,
        observer: &Quiet,
        patience: Patience::default(),
        cluster: None,
        caller: None,
        machines: None,
        kubernetes: None,
    }
}

pub fn put(attributes: Attributes, content: Content) -> Action {
    Action::Put {
        attributes,
        content,
    }
}

pub fn authority(name: &str) -> Authority {
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let validity = Validity {
        not_before: NOW.plus(-DAY),
        not_after: NOW.plus(3650 * DAY),
    };
    let serial = Serial::random(pki::random).unwrap();
    Authority::self_signed(&Name::new(&[], name).unwrap(), key, serial, validity).unwrap()
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
            not_before: NOW.plus(-DAY),
            not_after: NOW.plus(DAY),
        },
    };
    let certificate = ca.issue(&request).unwrap();
    (key, certificate)
}

#[expect(clippy::disallowed_methods, reason = "cp keeps what a test compares")]
fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
}

const SERIAL: &str = "4f00112233445566778899aabbccddee";
