//! The CAs of the test, what they issue, and how it connects.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kubepki::bootstrap::{Bundle, read_directory};
use kubepki::ca::{
    Algorithms, CaName, Change, CrossRoots, Make, Pool, StageRequest, StagedSet, stage,
};
use kubepki::datastore::DatastoreError;
use kubepki::edge::{Clock as _, FreshKeys, SystemClock, SystemEntropy};
use kubepki::host::LocalHost;
use kubepki_datastore::Tls;
use kubepki_datastore::etcd::EtcdStore;
use pki::{
    Authority, Certificate, DAY, KeyAlgorithm, LeafRequest, Name, PrivateKey, Purpose, San, Serial,
    UnixTime, Validity,
};
use tempfile::TempDir;
use testkit::{Etcd, EtcdMember, Fixture, TlsFiles};

pub const MEMBERS: usize = 3;

/// One CA before and after its rotation.
pub struct Rotation {
    pub old: Authority,
    /// Issues from now on.
    pub new: Authority,
    /// The new root, signed by the old CA.
    pub cross: Certificate,
    /// The new root, signed by itself.
    pub root: Certificate,
    /// What follows a leaf of the new CA.
    pub served: Vec<Certificate>,
    /// Whom servers and clients trust that have been restarted: the staged file.
    pub bundle: Vec<Certificate>,
}

impl Rotation {
    fn of(ca: CaName, live: &Bundle, set: &StagedSet) -> Self {
        let read = |bundle: &Bundle| {
            Certificate::all_from_pem(bundle.content(ca.field()).unwrap()).unwrap()
        };
        let authority = |bundle: &Bundle| {
            let key = PrivateKey::from_pem(bundle.content(ca.key_field()).unwrap()).unwrap();
            Authority::new(read(bundle).swap_remove(0), key).unwrap()
        };
        let cross = set.cross.iter().find(|it| it.ca == ca).unwrap();
        Self {
            old: authority(live),
            new: authority(&set.bundle),
            cross: cross.certificate.clone(),
            root: cross.new_root.clone(),
            served: set.served.get(&ca).unwrap().clone(),
            bundle: read(&set.bundle),
        }
    }
}

/// The two etcd CAs of a real K3s server, and a folder for what they issue.
pub struct Lab {
    pub server: Rotation,
    pub peer: Rotation,
    folder: TempDir,
}

impl Lab {
    /// What `ca stage` makes of a server's default CAs.
    pub fn new() -> Self {
        let fixture = Fixture::without_datastore("k3s-1.36-etcd-embedded");
        let server = fixture.data_dir().join("server");
        let live = block_on(read_directory(&LocalHost, &server)).unwrap();
        let set = stage(StageRequest {
            live: &live,
            change: Change::CrossSigned(CrossRoots::AsNow),
            pool: Pool::default(),
            algorithms: Algorithms::default(),
            make: Make {
                now: SystemClock.now(),
                entropy: &SystemEntropy,
                keys: &FreshKeys,
            },
        })
        .unwrap();
        Self {
            server: Rotation::of(CaName::EtcdServer, &live, &set),
            peer: Rotation::of(CaName::EtcdPeer, &live, &set),
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
                &[ca.old.certificate().clone()],
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
            self.leaf(&name, &ca.new, &ca.served, &ca.bundle)
        };
        EtcdMember {
            client: Some(side("server", &self.server)),
            peer: Some(side("peer", &self.peer)),
        }
    }

    pub fn old_client(&self) -> TlsFiles {
        let served = [self.server.old.certificate().clone()];
        self.leaf("client-old", &self.server.old, &served, &served)
    }

    pub fn new_client(&self) -> TlsFiles {
        let ca = &self.server;
        self.leaf("client-new", &ca.new, &ca.served, &ca.bundle)
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

pub fn authority(name: &str) -> Authority {
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
