//! The other side: K3s's scripts, or their steps with `openssl`.

use std::path::{Path, PathBuf};

use kubepki::ca::CaName;

use super::ours::write;
use super::{Job, Part};
use crate::measure::{Cost, Failure, cost, program};

/// The folder of K3s's scripts, if one is named.
pub(super) fn folder() -> Option<PathBuf> {
    std::env::var_os("K3S_SCRIPTS").map(PathBuf::from)
}

pub(super) fn name() -> &'static str {
    match folder() {
        Some(_) => "K3s's script",
        None => "openssl, the script's steps",
    }
}

/// The whole job, RSA keys included.
pub(super) fn whole(job: Job, folder: &Path) -> Result<Cost, Failure> {
    let Some(scripts) = self::folder() else {
        return steps(job, Part::Whole, folder);
    };
    let script = match job {
        Job::CrossSigned => "rotate-default-ca-certs.sh",
        Job::GivenRoots | Job::NewRoots => "generate-custom-ca-certs.sh",
    };
    let mut command = program("bash");
    command
        .arg(scripts.join(script))
        .current_dir(folder)
        .env("DATA_DIR", folder)
        .env("PRODUCT", "k3s");
    cost(&mut command, 0)
}

const EXTENSIONS: &str = "[x]\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid:always\n\
                          basicConstraints=critical,CA:true\n\
                          keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign\n";

/// A sequence of `openssl`, each a process.
struct Steps<'a> {
    at: &'a Path,
    total: Cost,
}

/// The keys and certificates of the script, in its order.
pub(super) fn steps(job: Job, part: Part, folder: &Path) -> Result<Cost, Failure> {
    let server = folder.join("server");
    let tls = match job {
        Job::CrossSigned => server.join("rotate-ca/tls"),
        Job::GivenRoots | Job::NewRoots => server.join("tls"),
    };
    std::fs::create_dir_all(tls.join("etcd"))?;
    let mut config = b"[req]\ndistinguished_name=n\n[n]\n".to_vec();
    config.extend_from_slice(EXTENSIONS.as_bytes());
    write(&tls.join("config"), &config)?;
    let mut steps = Steps {
        at: &tls,
        total: Cost::default(),
    };
    if part == Part::Whole {
        steps.rsa("service.key", 2048)?;
    }
    if job == Job::NewRoots {
        steps.rsa("root-ca.key", 4096)?;
        steps.root("root-ca", "root-ca")?;
        steps.rsa("intermediate-ca.key", 4096)?;
        steps.below(
            "intermediate-ca",
            "intermediate-ca",
            "root-ca.pem",
            "root-ca.key",
            "intermediate-ca.pem",
        )?;
    }
    for ca in CaName::ALL {
        let stem = ca.label();
        match job {
            Job::CrossSigned => steps.cross_signed(stem, &server.join("tls"))?,
            Job::GivenRoots | Job::NewRoots => steps.under_intermediate(stem)?,
        }
    }
    Ok(steps.total)
}

impl Steps<'_> {
    fn openssl(&mut self, line: &str) -> Result<(), Failure> {
        let mut command = program("openssl");
        command
            .args(line.split_ascii_whitespace())
            .current_dir(self.at);
        self.total = self.total.then(cost(&mut command, 0)?);
        Ok(())
    }

    fn rsa(&mut self, file: &str, bits: u32) -> Result<(), Failure> {
        self.openssl(&format!("genrsa -traditional -out {file} {bits}"))
    }

    fn curve(&mut self, file: &str) -> Result<(), Failure> {
        self.openssl(&format!(
            "ecparam -name prime256v1 -genkey -noout -out {file}"
        ))
    }

    /// `stem.pem`, signed by `stem.key`.
    fn root(&mut self, stem: &str, name: &str) -> Result<(), Failure> {
        self.openssl(&format!(
            "req -x509 -new -sha256 -key {stem}.key -subj /CN=k3s-{name}@1 -days 7300 \
             -config config -extensions x -out {stem}.pem"
        ))
    }

    /// `out` for the key of `stem`, by way of a request.
    fn below(
        &mut self,
        stem: &str,
        name: &str,
        ca: &str,
        key: &str,
        out: &str,
    ) -> Result<(), Failure> {
        self.openssl(&format!(
            "req -new -sha256 -key {stem}.key -subj /CN=k3s-{name}@1 -config config -out {stem}.csr"
        ))?;
        self.openssl(&format!(
            "x509 -req -sha256 -in {stem}.csr -CA {ca} -CAkey {key} -days 3700 -extfile config \
             -extensions x -out {out}"
        ))
    }

    fn under_intermediate(&mut self, stem: &str) -> Result<(), Failure> {
        self.curve(&format!("{stem}-ca.key"))?;
        let own = format!("{stem}-ca");
        let out = format!("{own}.pem");
        let name = own.replace('/', "-");
        self.below(
            &own,
            &name,
            "intermediate-ca.pem",
            "intermediate-ca.key",
            &out,
        )?;
        self.join(&own, &[&out, "intermediate-ca.pem", "root-ca.pem"])
    }

    fn cross_signed(&mut self, stem: &str, live: &Path) -> Result<(), Failure> {
        let old = live.join(format!("{stem}-ca"));
        let (old_crt, old_key) = (old.with_extension("crt"), old.with_extension("key"));
        let root = format!("{stem}-root");
        let name = root.replace('/', "-");
        self.curve(&format!("{root}.key"))?;
        self.root(&root, &name)?;
        let (ca, key) = (old_crt.display().to_string(), old_key.display().to_string());
        let crossed = format!("{root}-x.pem");
        self.below(&root, &name, &ca, &key, &crossed)?;
        let own = format!("{stem}-ca");
        self.curve(&format!("{own}.key"))?;
        let (signer, signer_key) = (format!("{root}.pem"), format!("{root}.key"));
        let out = format!("{own}.pem");
        self.below(&own, &own.replace('/', "-"), &signer, &signer_key, &out)?;
        self.join(&own, &[&out, &signer, &crossed, &ca])
    }

    fn join(&self, stem: &str, files: &[&str]) -> Result<(), Failure> {
        let mut all = Vec::new();
        for file in files {
            all.extend(std::fs::read(self.at.join(file))?);
        }
        write(&self.at.join(format!("{stem}.crt")), &all)
    }
}
