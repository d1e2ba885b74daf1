//! kubepki: its library alone, and a whole `rotate`.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use pki::{
    Authority, Certificate, DAY, KeyAlgorithm, LeafRequest, Name, PrivateKey, Purpose, San, Serial,
    UnixTime, Validity,
};
use testkit::Fixture;

use super::{COUNT, Contender, SANS, files_with, first_certificate, good_leaves, is_key_of};
use crate::measure::{Failure, cost, kubepki, program};

/// A process of its own that reads the CA, issues, and writes files without flushing them, as
/// the other programs do.
pub(super) const LIBRARY: Contender = Contender {
    name: "kubepki's library",
    prepare: make_authority,
    issue: |folder| {
        let mut command = program(std::env::current_exe()?);
        command.arg("library").arg(folder).arg(folder.join("out"));
        cost(&mut command, 0)
    },
    look: |folder| {
        let out = folder.join("out");
        good_leaves(&folder.join("ca.crt"), &out, &out)
    },
};

/// The command on a copy of what K3s wrote, with the services that hold twelve leaves.
pub(super) const ROTATE: Contender = Contender {
    name: "kubepki rotate, journalled and flushed",
    prepare: |folder| {
        let fixture = Fixture::without_datastore(FIXTURE);
        let mut copy = program("cp");
        copy.arg("-a")
            .arg(fixture.data_dir())
            .arg(folder.join("data"));
        cost(&mut copy, 0).map(drop)
    },
    issue: |folder| {
        let mut command = program(kubepki()?);
        command
            .arg("rotate")
            .arg("--data-dir")
            .arg(folder.join("data"));
        command.args(["--yes", "--service", SERVICES]);
        cost(&mut command, 0)
    },
    look: |folder| {
        let fixture = Fixture::without_datastore(FIXTURE);
        let before = fixture.data_dir();
        let after = folder.join("data");
        let mut changed = 0;
        for below in LEAVES_BELOW {
            for path in files_with("crt", &after.join(below))? {
                let old = before.join(path.strip_prefix(&after)?);
                if std::fs::read(&path)? != std::fs::read(old)? {
                    let leaf = first_certificate(&path)?;
                    changed += usize::from(is_key_of(&path.with_extension("key"), &leaf)?);
                }
            }
        }
        Ok(changed)
    },
};

const FIXTURE: &str = "k3s-1.36-sqlite";
const SERVICES: &str = "admin,api-server,auth-proxy,cloud-controller,controller-manager,\
                        scheduler,supervisor,kube-proxy,k3s-controller";
const LEAVES_BELOW: [&str; 4] = [
    "server/tls",
    "server/tls/kube-controller-manager",
    "server/tls/kube-scheduler",
    "agent",
];

/// `ca.crt` and `ca.key` for whoever issues from files, and the folder `out`.
pub(super) fn make_authority(folder: &Path) -> Result<(), Failure> {
    let key = PrivateKey::generate(KeyAlgorithm::P256)?;
    let name = Name::new(&[], "k3s-server-ca@1795328351")?;
    let serial = Serial::random(pki::random)?;
    let authority = Authority::self_signed(&name, key, serial, validity(3650)?)?;
    write(
        &folder.join("ca.crt"),
        0o644,
        &authority.certificate().to_pem(),
    )?;
    write(&folder.join("ca.key"), 0o600, &authority.key().to_pem()?)?;
    std::fs::create_dir(folder.join("out"))?;
    Ok(())
}

/// Writes twelve leaves of the CA in `authority` into the folder `to`.
pub fn library(authority: &Path, to: &Path) -> Result<(), Failure> {
    let certificates = Certificate::all_from_pem(&std::fs::read(authority.join("ca.crt"))?)?;
    let certificate = certificates.into_iter().next().ok_or("no CA")?;
    let key = PrivateKey::from_pem(&std::fs::read(authority.join("ca.key"))?)?;
    let authority = Authority::new(certificate, key)?;
    let sans = SANS.map(San::from_text);
    for index in 0..COUNT {
        let key = PrivateKey::generate(KeyAlgorithm::P256)?;
        let leaf = authority.issue(&LeafRequest {
            organizations: &["system:masters".to_owned()],
            common_name: &format!("leaf-{index}"),
            sans: &sans,
            purposes: &[Purpose::ServerAuth, Purpose::ClientAuth],
            spki_der: key.spki_der(),
            serial: Serial::random(pki::random)?,
            validity: validity(365)?,
        })?;
        let path = |extension: &str| -> PathBuf { to.join(format!("leaf-{index}.{extension}")) };
        write(&path("key"), 0o600, &key.to_pem()?)?;
        write(&path("crt"), 0o644, &leaf.to_pem())?;
    }
    Ok(())
}

fn validity(days: i64) -> Result<Validity, Failure> {
    let not_before = now()?;
    Ok(Validity {
        not_before,
        not_after: not_before.plus(days * DAY),
    })
}

/// The other programs issue from now on and cannot be told otherwise.
fn now() -> Result<UnixTime, Failure> {
    use kubepki::edge::{Clock, SystemClock};
    Ok(SystemClock.now())
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), Failure> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
