//! New CAs beside what K3s's two scripts do with `openssl`.
//!
//! The scripts are run from the folder that `K3S_SCRIPTS` names; without it their steps are done
//! with `openssl`, the same keys and certificates in the same order, a process each as there. The
//! elliptic-curve part alone is always those steps: a script makes its RSA keys too.
//!
//! How long an RSA key takes is luck, so those rows compare sums over all rounds.

mod ours;
mod scripts;

use std::path::Path;

use tempfile::TempDir;

use crate::measure::{Cost, Failure, Sample, table};

pub use ours::child;

/// What is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Job {
    /// The default CAs of K3s get new roots that the old ones vouch for.
    CrossSigned,
    /// Five CAs under a root and an intermediate that are given, with P-256 keys.
    GivenRoots,
    /// Root, intermediate and five CAs.
    NewRoots,
}

impl Job {
    fn title(self) -> &'static str {
        match self {
            Self::CrossSigned => "default CAs cross-signed",
            Self::GivenRoots => "custom CAs under given P-256 roots",
            Self::NewRoots => "custom CAs under new RSA-4096 roots",
        }
    }
}

/// How much of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Elliptic-curve keys and all certificates.
    Curves,
    /// The RSA-2048 service-account key too.
    Whole,
}

/// In-process repetitions of what takes less than a millisecond.
const OPERATIONS: usize = 40;

/// Prints the tables. `rounds` counts for what has no RSA-4096 keys; those take a fifth of them,
/// as each takes seconds.
pub fn run(rounds: usize) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for job in [Job::CrossSigned, Job::GivenRoots] {
        rows.extend(curves(job, rounds)?);
    }
    println!("new CAs, the elliptic-curve part: {rounds} rounds");
    table(&["", "CPU ms", "CPU over kubepki's"], &rows);
    let mut rows = Vec::new();
    for (job, rounds) in [
        (Job::CrossSigned, rounds),
        (Job::GivenRoots, rounds),
        (Job::NewRoots, (rounds / 5).max(1)),
    ] {
        rows.extend(whole(job, rounds)?);
    }
    let scripts = match scripts::folder() {
        Some(folder) => format!("K3s's scripts from {}", folder.display()),
        None => "the steps of K3s's scripts (K3S_SCRIPTS names none)".to_owned(),
    };
    println!("\nnew CAs with the RSA-2048 service key, processes of their own; {scripts}");
    let head = [
        "",
        "CPU ms",
        "wall ms",
        "CPU over kubepki's",
        "wall over kubepki's",
    ];
    table(&head, &rows);
    Ok(())
}

fn curves(job: Job, rounds: usize) -> Result<Vec<Vec<String>>, Failure> {
    let bench = ours::Bench::new(job)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(bench.curves(OPERATIONS)?);
        let folder = TempDir::new()?;
        bench.prepare(folder.path())?;
        theirs.push(scripts::steps(job, Part::Curves, folder.path())?.cpu);
        look(job, folder.path())?;
    }
    let ratio: Sample = ours
        .iter()
        .zip(&theirs)
        .map(|(own, other)| other / own)
        .collect();
    let own: Sample = ours.into_iter().collect();
    let other: Sample = theirs.into_iter().collect();
    Ok(vec![
        vec![
            format!("{}: kubepki's library", job.title()),
            own.range(1e3, 2),
            "1".to_owned(),
        ],
        vec![
            format!("{}: openssl", job.title()),
            other.range(1e3, 1),
            ratio.range(1.0, 0),
        ],
    ])
}

fn whole(job: Job, rounds: usize) -> Result<Vec<Vec<String>>, Failure> {
    let bench = ours::Bench::new(job)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let folder = TempDir::new()?;
        bench.prepare(folder.path())?;
        ours.push(ours::process(job, folder.path())?);
        look(job, folder.path())?;
        let folder = TempDir::new()?;
        bench.prepare(folder.path())?;
        theirs.push(scripts::whole(job, folder.path())?);
        look(job, folder.path())?;
    }
    let sum = |costs: &[Cost], of: fn(&Cost) -> f64| costs.iter().map(of).sum::<f64>();
    let ratio = |of| format!("{:.1}", sum(&theirs, of) / sum(&ours, of));
    let row = |name: &str, costs: &[Cost], ratios: [String; 2]| {
        let cpu: Sample = costs.iter().map(|cost| cost.cpu).collect();
        let wall: Sample = costs.iter().map(|cost| cost.wall).collect();
        let [cpu_ratio, wall_ratio] = ratios;
        vec![
            format!("{} ({rounds} rounds): {name}", job.title()),
            cpu.range(1e3, 0),
            wall.range(1e3, 0),
            cpu_ratio,
            wall_ratio,
        ]
    };
    let one = || "1.0".to_owned();
    Ok(vec![
        row("kubepki's library", &ours, [one(), one()]),
        row(
            scripts::name(),
            &theirs,
            [ratio(|cost| cost.cpu), ratio(|cost| cost.wall)],
        ),
    ])
}

/// Looks at what was made: five files, each new CA under the root that it should be under.
fn look(job: Job, folder: &Path) -> Result<(), Failure> {
    let found = ours::sound(job, folder)?;
    match found == 5 {
        true => Ok(()),
        false => Err(format!("{}: {found} of five CAs are sound", job.title()).into()),
    }
}
