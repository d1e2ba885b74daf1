//! `check` of many servers at once.
//!
//! Some servers are made as `init` makes them, each with CAs, keys and names of its own. The
//! others are hard links to their files: every one is opened, read and judged for itself, but the
//! disk holds few files, and they stay in the page cache. So this measures work, not the disk.

use std::path::{Path, PathBuf};

use kubepki::apply::{Executor, Outcome, Patience, Quiet, plan_id};
use kubepki::edge::{Clock, FreshKeys, SystemClock, SystemEntropy};
use kubepki::host::LocalHost;
use kubepki::init::{Request, Spec, Words, make_data_dir, plan_init, stage, survey};
use kubepki::state::StateDir;
use tempfile::TempDir;

use crate::check::{certificate_files, with_openssl};
use crate::measure::{Cost, Costs, Failure, cost, kubepki, program, table};

/// The worst exit code: the trees are to be clean.
const CLEAN: i32 = 0;

/// Makes as many servers as the largest count asks for and checks the first of them.
pub fn run(
    counts: &[usize],
    distinct: usize,
    rounds: usize,
    folder: Option<&Path>,
) -> Result<(), Failure> {
    let folder = match folder {
        Some(parent) => TempDir::new_in(parent)?,
        None => TempDir::new()?,
    };
    let most = counts.iter().copied().max().unwrap_or(0);
    let trees = generate(folder.path(), most, distinct.max(1))?;
    let files = trees
        .first()
        .map(|tree| certificate_files(tree))
        .transpose()?;
    println!(
        "trees: {most} servers with {} certificate files each, {distinct} of them made anew, \
         {rounds} rounds",
        files.map_or(0, |files| files.len())
    );
    let fewest = counts.iter().copied().min();
    let mut rows = Vec::new();
    let mut ours = Costs::default();
    for &count in counts {
        let some = trees.get(..count).ok_or("fewer trees than asked for")?;
        for (name, processors, form) in [
            ("check, 1 thread", "0", "table"),
            ("check, 2 threads", "0,1", "table"),
            ("check -o prometheus, 2 threads", "0,1", "prometheus"),
        ] {
            let mut costs = Costs::default();
            for _ in 0..rounds {
                // The number of threads is that of the processors it may use.
                let mut command = program("taskset");
                command.args(["-c", processors]).arg(kubepki()?);
                command.args(["check", "-o", form]).args(some);
                costs.0.push(cost(&mut command, CLEAN)?);
            }
            rows.push(row(name, count, &costs));
            if Some(count) == fewest && processors == "0" {
                ours = costs;
            }
        }
    }
    let mut peers = Costs::default();
    if let Some(count) = fewest {
        peers.0.push(peer(&trees, count)?);
        rows.push(row("openssl x509 -checkend", count, &peers));
    }
    table(
        &["", "trees", "CPU ms a tree", "wall ms a tree", "peak MiB"],
        &rows,
    );
    let ratio = peers.cpu().median() / ours.cpu().median();
    println!("\nopenssl's CPU over that of check with 1 thread: {ratio:.0}");
    Ok(())
}

/// The smallest count once with OpenSSL; more would take minutes.
fn peer(trees: &[PathBuf], count: usize) -> Result<Cost, Failure> {
    let mut total = Cost::default();
    for tree in trees.iter().take(count) {
        total = total.then(with_openssl(&certificate_files(tree)?)?);
    }
    Ok(total)
}

fn row(name: &str, count: usize, costs: &Costs) -> Vec<String> {
    let each = 1e3 / count as f64;
    vec![
        name.to_owned(),
        count.to_string(),
        costs.cpu().range(each, 2),
        costs.wall().range(each, 2),
        format!("{:.1}", costs.peak_mib()),
    ]
}

/// Data directories of `count` servers below `folder`.
fn generate(folder: &Path, count: usize, distinct: usize) -> Result<Vec<PathBuf>, Failure> {
    let trees: Vec<PathBuf> = (0..count)
        .map(|index| folder.join(format!("{index:05}")))
        .collect();
    let (made, linked) = trees.split_at(distinct.min(count));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for (index, tree) in made.iter().enumerate() {
        runtime.block_on(make(tree, &format!("server-{index}")))?;
    }
    for (tree, original) in linked.iter().zip(made.iter().cycle()) {
        link(original, tree)?;
    }
    Ok(trees)
}

/// Makes a server by a journalled plan.
async fn make(data_dir: &Path, node_name: &str) -> Result<(), Failure> {
    let spec = Spec {
        with_agent: true,
        ..Spec::new(&Words {
            node_name: node_name.to_owned(),
            node_ip: vec!["192.0.2.1".to_owned()],
            ..Words::default()
        })?
    };
    let now = SystemClock.now();
    let survey = survey(&LocalHost, data_dir, &spec, now).await?;
    let (plan, staged) = plan_init(&Request {
        id: &plan_id(now, "init", &SystemEntropy)?,
        spec: &spec,
        survey: &survey,
        token: None,
        agent_token: None,
        now,
        entropy: &SystemEntropy,
        keys: &FreshKeys,
    })?;
    make_data_dir(&LocalHost, data_dir).await?;
    let state = StateDir::of_data_dir(data_dir).lock()?;
    stage(&state, &plan.id, &staged)?;
    let executor = Executor {
        host: &LocalHost,
        state: &state,
        clock: &SystemClock,
        entropy: &SystemEntropy,
        keys: &FreshKeys,
        observer: &Quiet,
        patience: Patience::default(),
        cluster: None,
        caller: None,
        machines: None,
        kubernetes: None,
    };
    match executor.apply(&plan).await? {
        Outcome::Finished { .. } => Ok(()),
        other => Err(format!("{}: {other:?}", data_dir.display()).into()),
    }
}

/// The same directories, with links to the same files; symbolic links are copied.
fn link(from: &Path, to: &Path) -> Result<(), Failure> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            // Journals and backups are no part of what is checked.
            if entry.file_name() != "kubepki" {
                link(&entry.path(), &target)?;
            }
        } else {
            std::fs::hard_link(entry.path(), target)?;
        }
    }
    Ok(())
}
