//! A server, a node's empty data directory, and the program between them.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use pki::{Authority, KeyAlgorithm, PrivateKey, Purpose, San};
use testkit::supervisor::{Agents, Cluster, Supervisor};
use testkit::{Fixture, Run};

use crate::signer::{Signer, Wrong, authority, leaf};
use crate::{KUBEPKI, PASSWORD};

pub struct Lab {
    pub server: Supervisor,
    pub signer: Arc<Signer>,
    pub folder: tempfile::TempDir,
    pub token: String,
}

impl Lab {
    pub fn new() -> Self {
        Self::with(None)
    }

    pub fn with(wrong: Option<Wrong>) -> Self {
        Self::of("k3s-1.36-sqlite", wrong)
    }

    /// A server on the CAs and with the token that K3s wrote into that fixture.
    pub fn of(fixture: &str, wrong: Option<Wrong>) -> Self {
        let fixture = Fixture::without_datastore(fixture);
        let tls = fixture.data_dir().join("server/tls");
        let authorities = ["client-ca", "server-ca"].map(|name| authority(&tls, name));
        let token = fixture.data_dir().join("server/token");
        let token = std::fs::read_to_string(token).unwrap().trim().to_owned();
        Self::on(0, authorities, token, wrong)
    }

    /// A server of another cluster with the same password, on a free port or this one.
    pub fn stranger(port: u16) -> Self {
        let fixture = Fixture::without_datastore("k3s-1.36-mariadb");
        let tls = fixture.data_dir().join("server/tls");
        let authorities = ["client-ca", "server-ca"].map(|name| authority(&tls, name));
        Self::on(port, authorities, PASSWORD.to_owned(), None)
    }

    fn on(
        port: u16,
        [(client, client_text), (server, server_text)]: [(Authority, Vec<u8>); 2],
        token: String,
        wrong: Option<Wrong>,
    ) -> Self {
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let sans = [San::from_text("127.0.0.1")];
        let subject: (&[&str], &str) = (&["k3s"], "k3s");
        let listener = leaf(&server, subject, &sans, Purpose::ServerAuth, key.spki_der());
        let cluster = Cluster {
            chain: [listener.to_pem().as_bytes(), &server_text].concat(),
            key: key.to_pem().unwrap().as_bytes().to_vec(),
            cacerts: server_text.clone(),
            password: PASSWORD.to_owned(),
            agent_password: PASSWORD.to_owned(),
            kubernetes: BTreeMap::new(),
        };
        let signer = Arc::new(Signer {
            client,
            client_text: client_text.clone(),
            server,
            server_text,
            passwords: Mutex::default(),
            calls: Mutex::default(),
            wrong,
        });
        let answering = signer.clone();
        let agents = Agents {
            client_ca: client_text,
            answer: Box::new(move |call| answering.answer(call)),
        };
        Self {
            server: Supervisor::start_with_agents_on(port, cluster, agents),
            signer,
            folder: tempfile::tempdir().unwrap(),
            token,
        }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn agent(&self, name: &str) -> PathBuf {
        self.data_dir().join("agent").join(name)
    }

    pub fn run(&self, words: &[&str], input: &str) -> Run {
        let data_dir = self.data_dir().display().to_string();
        let mut words = words.to_vec();
        words.extend(["--data-dir", &data_dir, "--yes"]);
        let run = testkit::run(KUBEPKI, &words, input.as_bytes());
        for secret in [PASSWORD.to_owned(), self.password()] {
            assert!(secret.is_empty() || !run.text().contains(&secret));
        }
        run
    }

    pub fn join_as(&self, token: &str, more: &[&str]) -> Run {
        let url = self.server.url();
        let mut words = vec!["join", "--token-file", "-", "--server", &url];
        words.extend(more);
        self.run(&words, token)
    }

    pub fn join(&self, more: &[&str]) -> Run {
        let named = [
            "--node-name",
            "K3s-Fixture",
            "--node-ip",
            "10.9.8.7,fd00::7",
        ];
        self.join_as(&self.token, &[&named, more].concat())
    }

    pub fn password(&self) -> String {
        let file = self.agent("etc/rancher/node/password");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.trim().to_owned()
    }

    /// Bytes, inode and mode of everything in agent/.
    pub fn state(&self) -> BTreeMap<String, (Vec<u8>, u64, u32)> {
        let mut state = BTreeMap::new();
        for entry in std::fs::read_dir(self.data_dir().join("agent"))
            .into_iter()
            .flatten()
        {
            let path = entry.unwrap().path();
            if path.is_file() {
                let metadata = path.metadata().unwrap();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let mode = metadata.permissions().mode() & 0o7777;
                let bytes = std::fs::read(&path).unwrap();
                state.insert(name, (bytes, metadata.ino(), mode));
            }
        }
        state
    }

    pub fn changed(&self, before: &BTreeMap<String, (Vec<u8>, u64, u32)>) -> Vec<String> {
        let after = self.state();
        let changed = after
            .iter()
            .filter(|(name, it)| before.get(*name) != Some(it));
        changed.map(|(name, _)| name.clone()).collect()
    }

    pub fn asked(&self) -> Vec<String> {
        let calls = std::mem::take(&mut *self.signer.calls.lock().unwrap());
        calls.into_iter().map(|it| it.path).collect()
    }
}
