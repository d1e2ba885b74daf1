//! kubepki's side, and the folder that both sides start from.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kubepki::bootstrap::{Bundle, Field, read_directory};
use kubepki::ca::{
    Algorithms, CaName, Change, CreateRequest, CrossRoots, Make, Outer, Pool, StageRequest,
    StagedSet, create, stage,
};
use kubepki::edge::{Clock, Entropy, FreshKeys, KeySource, SystemClock, SystemEntropy};
use kubepki::host::LocalHost;
use pki::verify::{Options, verify};
use pki::{Certificate, KeyAlgorithm, PrivateKey, Purpose};
use testkit::Fixture;

use super::Job;
use crate::measure::{Cost, Failure, cost, program, thread_cpu};

const DEFAULT: &str = "k3s-1.36-sqlite";

/// Elliptic-curve keys made on the spot; the one RSA key is at hand already.
#[derive(Debug)]
struct CurveKeys {
    rsa: String,
}

impl KeySource for CurveKeys {
    fn generate(&self, algorithm: KeyAlgorithm) -> Result<PrivateKey, pki::Error> {
        match algorithm {
            KeyAlgorithm::Rsa(_) => PrivateKey::from_pem(self.rsa.as_bytes()),
            curve => PrivateKey::generate(curve),
        }
    }
}

/// What one job starts from.
pub(super) struct Bench {
    job: Job,
    server: PathBuf,
    _fixture: Fixture,
}

impl Bench {
    pub(super) fn new(job: Job) -> Result<Self, Failure> {
        let fixture = Fixture::without_datastore(DEFAULT);
        let server = fixture.data_dir().join("server");
        if job == Job::GivenRoots {
            let given = create(CreateRequest {
                outer: Outer::New,
                algorithms: Algorithms::default(),
                service_keys: None,
                make: Make {
                    now: SystemClock.now(),
                    entropy: &SystemEntropy,
                    keys: &FreshKeys,
                },
            })?;
            for file in &given.offline {
                // The script wants a certificate alone, in a file of this name.
                let path = server.join("tls").join(file.name.replace(".crt", ".pem"));
                let first = Certificate::all_from_pem(&file.content).ok();
                let first = first.and_then(|all| all.first().map(Certificate::to_pem));
                write(
                    &path,
                    first
                        .as_ref()
                        .map_or(&file.content[..], |pem| pem.as_bytes()),
                )?;
            }
        }
        Ok(Self {
            job,
            server,
            _fixture: fixture,
        })
    }

    /// Puts what the job starts from below `folder`, as on a server.
    pub(super) fn prepare(&self, folder: &Path) -> Result<(), Failure> {
        let tls = folder.join("server/tls");
        std::fs::create_dir_all(tls.join("etcd"))?;
        let mut files: Vec<String> = Vec::new();
        match self.job {
            Job::CrossSigned => {
                for (certificate, key) in Field::AUTHORITIES {
                    files.extend([certificate, key].map(|it| it.path().display().to_string()));
                }
                files.extend(["tls/service.key", "token"].map(str::to_owned));
            }
            Job::GivenRoots => {
                for name in ["root-ca.pem", "root-ca.key", "intermediate-ca.pem"] {
                    files.push(format!("tls/{name}"));
                }
                files.push("tls/intermediate-ca.key".to_owned());
            }
            Job::NewRoots => {}
        }
        for file in files {
            write(
                &folder.join("server").join(&file),
                &std::fs::read(self.server.join(&file))?,
            )?;
        }
        if self.job == Job::CrossSigned {
            // A link in the fixture.
            let token = std::fs::read(self.server.join("token"))?;
            write(&folder.join("server/agent-token"), &token)?;
        }
        Ok(())
    }

    /// CPU seconds of making and writing out one set in this thread, the mean of `times`, its RSA
    /// key given.
    pub(super) fn curves(&self, times: usize) -> Result<f64, Failure> {
        let rsa = PrivateKey::generate(KeyAlgorithm::Rsa(2048))?
            .to_pem()?
            .to_string();
        let keys = CurveKeys { rsa };
        let given = Given::read(self.job, &self.server)?;
        let start = thread_cpu();
        for _ in 0..times {
            std::hint::black_box(given.make(self.job, &keys, Algorithms::default())?);
        }
        Ok((thread_cpu() - start) / times as f64)
    }
}

/// The files that a job starts from, read.
struct Given {
    live: Bundle,
    outer: Vec<(PathBuf, Vec<u8>)>,
}

impl Given {
    fn read(job: Job, server: &Path) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let live = runtime.block_on(read_directory(&LocalHost, server))?;
        let mut outer = Vec::new();
        if job == Job::GivenRoots {
            for name in ["root-ca.pem", "intermediate-ca.pem", "intermediate-ca.key"] {
                let path = server.join("tls").join(name);
                let text = std::fs::read(&path)?;
                outer.push((path, text));
            }
        }
        Ok(Self { live, outer })
    }

    fn make(
        &self,
        job: Job,
        keys: &dyn KeySource,
        algorithms: Algorithms,
    ) -> Result<StagedSet, Failure> {
        let make = Make {
            now: SystemClock.now(),
            entropy: &SystemEntropy as &dyn Entropy,
            keys,
        };
        let mut pool = Pool::default();
        for (path, text) in &self.outer {
            pool.add(path, text, None)?;
        }
        let outer = match job {
            Job::CrossSigned => {
                return Ok(stage(StageRequest {
                    live: &self.live,
                    change: Change::CrossSigned(CrossRoots::PerCa),
                    pool,
                    algorithms,
                    make,
                })?);
            }
            Job::GivenRoots => {
                let mut certificates = pool.certificates.iter();
                let signer = certificates.find(|it| !it.is_self_issued());
                let signer = signer.ok_or("there is no intermediate")?;
                let above = pool.above(signer, make.now)?;
                let signer = pool.authority(signer).ok_or("its key is missing")??;
                Outer::Intermediate { signer, above }
            }
            Job::NewRoots => Outer::New,
        };
        Ok(create(CreateRequest {
            outer,
            algorithms,
            service_keys: None,
            make,
        })?)
    }
}

/// A process of its own that reads, makes and writes files without flushing them, as the script.
pub(super) fn process(job: Job, folder: &Path) -> Result<Cost, Failure> {
    let job = match job {
        Job::CrossSigned => "cross-signed",
        Job::GivenRoots => "given-roots",
        Job::NewRoots => "new-roots",
    };
    let mut command = program(std::env::current_exe()?);
    command.arg("authorities-library").arg(job).arg(folder);
    cost(&mut command, 0)
}

/// What that process does.
pub fn child(job: Job, folder: &Path) -> Result<(), Failure> {
    let server = folder.join("server");
    // The script's roots are RSA only where it makes those of custom CAs.
    let algorithms = match job {
        Job::NewRoots => Algorithms::SCRIPT,
        Job::CrossSigned | Job::GivenRoots => Algorithms::default(),
    };
    let set = Given::read(job, &server)?.make(job, &FreshKeys, algorithms)?;
    let to = made_in(job, folder);
    std::fs::create_dir_all(to.join("tls/etcd"))?;
    for (field, file) in &set.bundle.files {
        write(&field.under(&to), &file.content)?;
    }
    for file in &set.offline {
        write(&to.join("tls").join(&file.name), &file.content)?;
    }
    Ok(())
}

/// Where both sides put what they make: a directory that holds `tls/`.
fn made_in(job: Job, folder: &Path) -> PathBuf {
    match job {
        Job::CrossSigned => folder.join("server/rotate-ca"),
        Job::GivenRoots | Job::NewRoots => folder.join("server"),
    }
}

/// How many of the five new CAs lead to the root that they should lead to.
pub(super) fn sound(job: Job, folder: &Path) -> Result<usize, Failure> {
    let made = made_in(job, folder);
    let mut sound = 0;
    for ca in CaName::ALL {
        let new = Certificate::all_from_pem(&std::fs::read(ca.field().under(&made))?)?;
        let root = match job {
            Job::CrossSigned => std::fs::read(ca.field().under(&folder.join("server")))?,
            Job::GivenRoots => std::fs::read(folder.join("server/tls/root-ca.pem"))?,
            Job::NewRoots => new
                .last()
                .map(Certificate::to_pem)
                .unwrap_or_default()
                .into(),
        };
        let roots = Certificate::all_from_pem(&root)?;
        let own = new.first().ok_or("an empty file")?;
        let key = PrivateKey::from_pem(&std::fs::read(ca.key_field().under(&made))?)?;
        let options = Options::at(SystemClock.now().plus(1)).purposes(&[Purpose::Any]);
        let led = verify(own, &new, &roots, &options).is_ok();
        sound += usize::from(led && key.spki_der() == own.spki_der());
    }
    Ok(sound)
}

/// Writes a file for its owner alone.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    Ok(std::io::Write::write_all(
        &mut options.open(path)?,
        content,
    )?)
}
