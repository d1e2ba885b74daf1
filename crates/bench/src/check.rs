//! `check` of one server that K3s wrote, from a cold process.
//!
//! The peer is what a script does without kubepki: `openssl x509 -checkend` on each certificate
//! file, a process each. It sees ends only; nothing of chains, keys, modes, kubeconfigs and the
//! listener.

use std::path::{Path, PathBuf};

use testkit::Fixture;

use crate::measure::{Cost, Costs, Failure, cost, kubepki, program, table};

/// A moment at which nothing of the fixture is due.
const MOMENT: &str = "2026-11-22T12:00:00Z";
/// The worst exit code of a check that could be made: something is broken.
const BROKEN: i32 = 4;

type Contender<'a> = (&'static str, &'a dyn Fn() -> Result<Cost, Failure>);

/// Runs the contenders in turns.
pub fn run(rounds: usize) -> Result<(), Failure> {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let data_dir = fixture.data_dir();
    let kubepki = kubepki()?;
    let files = certificate_files(&data_dir)?;
    let ours = |words: &[&str]| {
        let mut command = program(&kubepki);
        command.args(words).arg(&data_dir);
        cost(&mut command, BROKEN)
    };
    let contenders: [Contender<'_>; 6] = [
        ("kubepki check", &|| ours(&["check", "--at", MOMENT])),
        ("kubepki check -o json", &|| {
            ours(&["check", "--at", MOMENT, "-o", "json"])
        }),
        ("kubepki k3s certificate check", &|| {
            ours(&["k3s", "certificate", "check", "--data-dir"])
        }),
        ("floor: kubepki --version", &|| {
            cost(program(&kubepki).arg("--version"), 0)
        }),
        ("floor: true", &|| cost(&mut program("true"), 0)),
        ("openssl x509 -checkend, a process a file", &|| {
            with_openssl(&files)
        }),
    ];
    let mut costs = vec![Costs::default(); contenders.len()];
    for _ in 0..rounds {
        for ((_, work), costs) in contenders.iter().zip(&mut costs) {
            costs.0.push(work()?);
        }
    }
    println!(
        "check: one server with {} certificate files, {rounds} rounds",
        files.len()
    );
    let mut rows = Vec::new();
    for ((name, _), own) in contenders.iter().zip(&costs) {
        let mut row = vec![
            (*name).to_owned(),
            own.cpu().range(1e3, 1),
            own.wall().range(1e3, 1),
            format!("{:.1}", own.peak_mib()),
        ];
        row.extend(costs.first().map(|ours| own.cpu_over(ours).range(1.0, 2)));
        rows.push(row);
    }
    table(
        &["", "CPU ms", "wall ms", "peak MiB", "CPU of check"],
        &rows,
    );
    Ok(())
}

/// One `openssl` for each file; OpenSSL reads a file's first certificate only.
pub fn with_openssl(files: &[PathBuf]) -> Result<Cost, Failure> {
    let mut total = Cost::default();
    for file in files {
        let mut command = program("openssl");
        command.args(["x509", "-noout", "-enddate", "-checkend", "10368000", "-in"]);
        total = total.then(cost(command.arg(file), 1)?);
    }
    Ok(total)
}

/// Every `.crt` below `folder`.
pub fn certificate_files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            let kind = entry.file_type()?;
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|e| e == "crt") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
