//! The CAs of the test, what they issue, and how it connects.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kubepki::datastore::DatastoreError;
use kubepki_datastore::Tls;
use kubepki_datastore::etcd::EtcdStore;
use pki::{
    Authority, AuthorityRequest, Certificate, DAY, KeyAlgorithm, LeafRequest, Name, PrivateKey,
    Purpose, San, Serial, UnixTime, Validity,
};
use tempfile::TempDir;
use testkit::{Etcd, EtcdMember, TlsFiles};

pub const MEMBERS: usize = 3;

/// One CA before and after its rotation.
pub struct Rotation {
    pub old: Authority,
    /// The new root, self-signed.
    pub root: Certificate,
    /// The same root, signed by the old CA.
    pub cross: Certificate,
    /// Issues from now on.
    pub new: Authority,
}

impl Rotation {
    pub fn of(name: &str) -> Self {
        let old = authority(&format!("{name}@1"));
        let root = authority(&format!("{name} root@2"));
        let cross = old
            .issue_authority(&AuthorityRequest {
                subject: root.certificate().subject(),
                spki_der: root.key().spki_der(),
                subject_key_identifier: root.certificate().subject_key_identifier(),
                path_len: None,
                serial: serial(),
                validity: period(),
            })
            .unwrap();
        let key = key();
        let issuing = root
            .issue_authority(&AuthorityRequest {
                subject: &Name::new(&[], &format!("{name}@2")).unwrap(),
                spki_der: key.spki_der(),
                subject_key_identifier: None,
                path_len: None,
                serial: serial(),
                validity: period(),
            })
            .unwrap();
        Self {
            root: root.certificate().clone(),
            cross,
            new: Authority::new(issuing, key).unwrap(),
            old,
        }
    }

    pub fn old_bundle(&self) -> Vec<Certificate> {
        vec![self.old.certificate().clone()]
    }

    pub fn new_bundle(&self) -> Vec<Certificate> {
        let parts = [
            self.new.certificate(),
            &self.cross,
            &self.root,
            self.old.certificate(),
        ];
        parts.into_iter().cloned().collect()
    }

    /// What follows a leaf of the new CA.
    pub fn served(&self) -> Vec<Certificate> {
        vec![self.new.certificate().clone(), self.cross.clone()]
    }
}

/// The two CAs of an etcd, and a folder for what they issue.
pub struct Lab {
    pub server: Rotation,
    peer: Rotation,
    folder: TempDir,
}

impl Lab {
    pub fn new() -> Self {
        Self {
            server: Rotation::of("etcd-server-ca"),
            peer: Rotation::of("etcd-peer-ca"),
            folder: TempDir::new().unwrap(),
        }
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        put(&path, text.as_bytes());
        path
    }

    /// A leaf with what is served after it, its key, and whom its owner trusts.
    pub fn leaf(
        &self,
        name: &str,
        ca: &Authority,
        served: &[Certificate],
        trusted: &[Certificate],
    ) -> TlsFiles {
        let key = key();
        let leaf = ca
            .issue(&LeafRequest {
                organizations: &[],
                common_name: "etcd",
                sans: &[San::from_text("127.0.0.1"), San::from_text("localhost")],
                purposes: &[Purpose::ServerAuth, Purpose::ClientAuth],
                spki_der: key.spki_der(),
                serial: serial(),
                validity: ca.certificate().validity(),
            })
            .unwrap();
        TlsFiles {
            cert: self.write(&format!("{name}.crt"), &(leaf.to_pem() + &pem(served))),
            key: self.write(&format!("{name}.key"), &key.to_pem().unwrap()),
            trusted: Some(self.write(&format!("{name}-ca.crt"), &pem(trusted))),
        }
    }

    pub fn old_member(&self, index: usize) -> EtcdMember {
        let side = |name: &str, ca: &Rotation| {
            let served = [ca.old.certificate().clone()];
            self.leaf(
                &format!("{name}-{index}-old"),
                &ca.old,
                &served,
                &ca.old_bundle(),
            )
        };
        EtcdMember {
            client: Some(side("server", &self.server)),
            peer: Some(side("peer", &self.peer)),
        }
    }

    pub fn new_member(&self, index: usize) -> EtcdMember {
        let side = |name: &str, ca: &Rotation| {
            let name = format!("{name}-{index}-new");
            self.leaf(&name, &ca.new, &ca.served(), &ca.new_bundle())
        };
        EtcdMember {
            client: Some(side("server", &self.server)),
            peer: Some(side("peer", &self.peer)),
        }
    }

    pub fn old_client(&self) -> TlsFiles {
        let served = [self.server.old.certificate().clone()];
        self.leaf(
            "client-old",
            &self.server.old,
            &served,
            &self.server.old_bundle(),
        )
    }

    pub fn new_client(&self) -> TlsFiles {
        let ca = &self.server;
        self.leaf("client-new", &ca.new, &ca.served(), &ca.new_bundle())
    }

    pub fn start(&self) -> Etcd {
        let members: Vec<EtcdMember> = (0..MEMBERS).map(|it| self.old_member(it)).collect();
        Etcd::start(&members, Some(&self.old_client()))
    }
}

pub async fn connect(urls: &[String], client: &TlsFiles) -> Result<EtcdStore, DatastoreError> {
    let tls = Tls {
        ca_file: client.trusted.clone(),
        cert_file: Some(client.cert.clone()),
        key_file: Some(client.key.clone()),
    };
    EtcdStore::connect(urls, &tls).await
}

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

fn authority(name: &str) -> Authority {
    let name = Name::new(&[], name).unwrap();
    Authority::self_signed(&name, key(), serial(), period()).unwrap()
}

fn key() -> PrivateKey {
    PrivateKey::generate(KeyAlgorithm::P256).unwrap()
}

fn serial() -> Serial {
    Serial::random(pki::random).unwrap()
}

/// Long enough for whatever clock the machine has: etcd and OpenSSL look at it.
fn period() -> Validity {
    let start = UnixTime::from_secs(1_700_000_000);
    Validity {
        not_before: start,
        not_after: start.plus(36_500 * DAY),
    }
}

fn pem(certificates: &[Certificate]) -> String {
    certificates.iter().map(Certificate::to_pem).collect()
}

#[expect(clippy::disallowed_methods, reason = "a file in a temporary folder")]
fn put(path: &Path, content: &[u8]) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
