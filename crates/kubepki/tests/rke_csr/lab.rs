//! A cluster, its directory of certificates, and OpenSSL as the company's CA.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kubepki::edge::FreshKeys;
use kubepki::host::LocalHost;
use kubepki::rke::ClusterConfig;
use kubepki::rke::cert_dir::{self, CertDir};
use kubepki::rke::csr::{CsrError, CsrSet, generate};
use kubepki::rke::custom::{Against, Verdict, verify};
use pki::UnixTime;
use tempfile::TempDir;
use testkit::{Fixture, fixture, openssl_ok};

/// `cluster.yml` and `csr/` of a real RKE.
pub struct Recording(Fixture);

impl Recording {
    pub fn new() -> Self {
        Self(fixture("rke-1.6-state"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.extra("rke-1.6").join(name)
    }

    pub fn config_text(&self) -> String {
        fs::read_to_string(self.path("cluster.yml")).unwrap()
    }

    pub fn config(&self) -> ClusterConfig {
        ClusterConfig::parse(&self.config_text()).unwrap()
    }
}

/// Runs what waits for nothing but files.
pub fn now<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(work)
}

pub fn read(path: &Path) -> CertDir {
    now(CertDir::read(
        &LocalHost,
        path,
        Path::new("./cluster_certs"),
    ))
    .unwrap()
}

/// `generate-csr` into `path`.
pub fn run(config: &ClusterConfig, path: &Path) -> Result<CsrSet, CsrError> {
    let set = generate(config, &read(path), &FreshKeys)?;
    now(cert_dir::write(&LocalHost, path, &set.files)).unwrap();
    Ok(set)
}

/// The moment of signing: OpenSSL takes the real one.
pub fn today() -> UnixTime {
    let text = testkit::run("date", &["+%s"], b"").text();
    UnixTime::from_secs(text.trim().parse::<i64>().unwrap() + 5)
}

/// A directory where everything is right, to break one thing in.
pub struct Lab {
    folder: TempDir,
    pub config: ClusterConfig,
}

/// Two nodes are enough, and fewer keys: one does everything, one works.
const CLUSTER: &str = "
nodes:
  - {address: 10.0.0.1, hostname_override: cp1, user: root, role: [controlplane, etcd]}
  - {address: 10.0.0.2, hostname_override: w1, user: root, role: [worker]}
authentication: {strategy: x509, sans: [api.example.com]}
services: {kubelet: {generate_serving_certificate: true}}
";

/// What the company's CA adds to every leaf beside what the request asks for.
const LEAF: &str = "basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature,keyEncipherment
authorityKeyIdentifier=keyid";

impl Lab {
    /// A copy of the good one.
    pub fn new() -> Self {
        static GOOD: OnceLock<TempDir> = OnceLock::new();
        let good = GOOD.get_or_init(|| {
            let lab = Self::empty();
            run(&lab.config, &lab.certs()).unwrap();
            lab.root("kube-ca", "/O=Example/CN=Example Cluster CA");
            lab.root(
                "kube-apiserver-requestheader-ca",
                "/O=Example/CN=Example Front CA",
            );
            for entry in lab.entries() {
                lab.sign(&entry, &[]);
            }
            lab.service_account();
            lab.folder
        });
        let lab = Self::empty();
        fs::create_dir(lab.certs()).unwrap();
        for entry in fs::read_dir(good.path().join("certs")).unwrap() {
            let from = entry.unwrap().path();
            fs::copy(&from, lab.certs().join(from.file_name().unwrap())).unwrap();
        }
        lab
    }

    fn empty() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            config: ClusterConfig::parse(CLUSTER).unwrap(),
        }
    }

    pub fn certs(&self) -> PathBuf {
        self.folder.path().join("certs")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.certs().join(name)
    }

    /// Those with a request.
    pub fn entries(&self) -> Vec<String> {
        let leaves = kubepki::rke::csr::expected(&self.config).unwrap();
        leaves.into_iter().map(|leaf| leaf.entry).collect()
    }

    /// Makes a self-signed CA.
    pub fn root(&self, entry: &str, subject: &str) {
        self.root_with(entry, subject, &[]);
    }

    /// The same with more arguments of `openssl req`; later extensions replace earlier ones.
    pub fn root_with(&self, entry: &str, subject: &str, more: &[&str]) {
        let (out, key) = self.both(entry);
        let mut args = vec![
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "7300",
        ];
        args.extend(["-subj", subject, "-out", &out, "-keyout", &key]);
        args.extend(match more.is_empty() {
            true => &["-addext", "keyUsage=critical,keyCertSign,cRLSign"][..],
            false => more,
        });
        openssl_ok(&args, b"");
        private(Path::new(&key));
    }

    pub fn service_account(&self) {
        let (out, key) = self.both("kube-service-account-token");
        let subject = "/CN=kube-service-account-token";
        let mut args = vec![
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650",
        ];
        args.extend(["-subj", subject, "-out", &out, "-keyout", &key]);
        openssl_ok(&args, b"");
        private(Path::new(&key));
    }

    fn both(&self, entry: &str) -> (String, String) {
        let path = |name: String| self.file(&name).to_str().unwrap().to_owned();
        (
            path(format!("{entry}.pem")),
            path(format!("{entry}-key.pem")),
        )
    }

    /// Signs a request as it is.
    pub fn sign(&self, entry: &str, more: &[&str]) {
        self.sign_with(entry, self.issuer(entry), LEAF, true, more);
    }

    /// Signs with other extensions than those that the request asks for.
    pub fn sign_as(&self, entry: &str, extensions: &str) {
        let extensions = format!("{LEAF}\n{extensions}");
        self.sign_with(entry, self.issuer(entry), &extensions, false, &[]);
    }

    pub fn issuer(&self, entry: &str) -> &'static str {
        match entry {
            "kube-apiserver-proxy-client" => "kube-apiserver-requestheader-ca",
            _ => "kube-ca",
        }
    }

    pub fn sign_with(
        &self,
        entry: &str,
        issuer: &str,
        extensions: &str,
        copy: bool,
        more: &[&str],
    ) {
        let extension_file = self.folder.path().join("extensions");
        fs::write(&extension_file, extensions).unwrap();
        let (out, _) = self.both(entry);
        let (ca, ca_key) = self.both(issuer);
        let request = self.file(&format!("{entry}-csr.pem"));
        let mut args = vec![
            "x509",
            "-req",
            "-in",
            request.to_str().unwrap(),
            "-out",
            &out,
        ];
        args.extend(["-CA", &ca, "-CAkey", &ca_key, "-extfile"]);
        args.push(extension_file.to_str().unwrap());
        if !more.contains(&"-days") {
            args.extend(["-days", "3650"]);
        }
        if copy {
            args.extend(["-copy_extensions", "copy"]);
        }
        args.extend(more);
        openssl_ok(&args, b"");
    }

    pub fn verdict(&self) -> Verdict {
        self.verdict_at(today())
    }

    pub fn verdict_at(&self, now: UnixTime) -> Verdict {
        let against = Against {
            config: &self.config,
            now,
            current: None,
        };
        verify(&read(&self.certs()), &against).unwrap()
    }
}

/// 0600.
pub fn private(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
