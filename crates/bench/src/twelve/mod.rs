//! Twelve leaves of a K3s server: new P-256 keys, 365 days, names, PEM files.
//!
//! Every contender gets a CA and an empty folder, and ends with twelve certificates and keys that
//! are looked at afterwards. `kubepki rotate` does more than the others: it reads a whole server,
//! plans, journals and flushes every step to the disk, verifies, and keeps backups.

mod others;
mod ours;

use std::path::{Path, PathBuf};

use pki::{Certificate, PrivateKey};
use tempfile::TempDir;

use crate::measure::{Cost, Costs, Failure, table};

pub use ours::library;

/// The names that each leaf carries.
pub const SANS: [&str; 5] = [
    "kubernetes.default.svc.cluster.local",
    "localhost",
    "node-1",
    "127.0.0.1",
    "10.43.0.1",
];

/// How many leaves.
const COUNT: usize = 12;

/// Something that issues.
struct Contender {
    name: &'static str,
    /// Prepares a folder for one round; not measured.
    prepare: fn(&Path) -> Result<(), Failure>,
    /// Issues into that folder.
    issue: fn(&Path) -> Result<Cost, Failure>,
    /// Counts the leaves that are as they should be; not measured.
    look: fn(&Path) -> Result<usize, Failure>,
}

/// Runs the contenders in turns; one that is not installed is left out and named.
pub fn run(rounds: usize) -> Result<(), Failure> {
    let mut contenders = vec![ours::LIBRARY, ours::ROTATE];
    contenders.extend(others::installed());
    let mut costs = vec![Costs::default(); contenders.len()];
    for round in 0..rounds {
        for (contender, costs) in contenders.iter().zip(&mut costs) {
            let folder = TempDir::new()?;
            (contender.prepare)(folder.path())?;
            costs.0.push((contender.issue)(folder.path())?);
            if round == 0 {
                let good = (contender.look)(folder.path())?;
                if good != COUNT {
                    return Err(format!("{}: {good} of {COUNT} leaves", contender.name).into());
                }
            }
        }
    }
    println!("twelve: keys, certificates and PEM files of {COUNT} leaves, {rounds} rounds");
    let mut rows = Vec::new();
    for (contender, own) in contenders.iter().zip(&costs) {
        let mut row = vec![
            contender.name.to_owned(),
            own.cpu().range(1e3, 1),
            own.wall().range(1e3, 1),
        ];
        row.extend(
            costs
                .iter()
                .take(2)
                .map(|ours| own.cpu_over(ours).range(1.0, 1)),
        );
        rows.push(row);
    }
    table(
        &[
            "",
            "CPU ms",
            "wall ms",
            "CPU of the library",
            "CPU of rotate",
        ],
        &rows,
    );
    Ok(())
}

/// Counts certificates below `certificates` that `authority` signed, whose key lies in `keys`
/// under the same name, and that carry [`SANS`].
fn good_leaves(authority: &Path, certificates: &Path, keys: &Path) -> Result<usize, Failure> {
    let authority = first_certificate(authority)?;
    let mut good = 0;
    for path in files_with("crt", certificates)? {
        let leaf = first_certificate(&path)?;
        if leaf.is_ca() {
            continue;
        }
        leaf.verify_signature(authority.spki_der())?;
        let key = path.with_extension("key");
        let key = keys.join(key.file_name().ok_or("a path without a name")?);
        good += usize::from(is_key_of(&key, &leaf)? && leaf.sans().len() == SANS.len());
    }
    Ok(good)
}

fn first_certificate(path: &Path) -> Result<Certificate, Failure> {
    let certificates = Certificate::all_from_pem(&std::fs::read(path)?)?;
    Ok(certificates.into_iter().next().ok_or("no certificate")?)
}

fn is_key_of(key: &Path, leaf: &Certificate) -> Result<bool, Failure> {
    Ok(PrivateKey::from_pem(&std::fs::read(key)?)?.spki_der() == leaf.spki_der())
}

fn files_with(extension: &str, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    Ok(found)
}
