//! Deploying to the hosts of an RKE cluster, beside OpenSSH's own programs doing the same.

mod far;
mod peer;
mod scene;

use std::sync::Arc;
use std::time::Instant;

use kubepki::machine::{Machine, Machines as _};
use testkit::rke::{Host, Network, USER};

use crate::measure::{Failure, Sample, table};
use scene::Scene;

/// The most files that one host of RKE's gets, more or less.
pub const FILES: usize = 20;

/// What to measure.
#[derive(Debug)]
pub struct Request<'a> {
    /// Hosts, one measurement after the other.
    pub counts: &'a [usize],
    /// How often the sides take turns.
    pub rounds: usize,
    /// Milliseconds that each byte is on its way to a host, and from it.
    pub delay: u64,
}

/// Prints the tables.
pub fn run(request: &Request<'_>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut rows = Vec::new();
    for &count in request.counts {
        let network = Network::start();
        let names: Vec<String> = (1..=count).map(|it| format!("bench{it}")).collect();
        let last = |index: usize| u8::try_from(index + 1).unwrap_or(u8::MAX);
        let machines: Vec<(&str, u8)> = names
            .iter()
            .enumerate()
            .map(|(index, name)| (name.as_str(), last(index)))
            .collect();
        let begin = Instant::now();
        let hosts = Host::start_all(&network, &machines);
        eprintln!(
            "{count} hosts started in {:.1} s",
            begin.elapsed().as_secs_f64()
        );
        for host in &hosts {
            host.must("mkdir", &["-p", "/etc/kubernetes/ssl"]);
        }
        let delay = std::time::Duration::from_millis(request.delay);
        let scene = runtime.block_on(Scene::new(&hosts, delay))?;
        if request.counts.first() == Some(&count) {
            runtime.block_on(operations(&scene, request.rounds))?;
        }
        rows.extend(runtime.block_on(deployments(&scene, count, request))?);
        drop(scene);
        std::thread::scope(|scope| {
            for host in hosts {
                scope.spawn(|| drop(host));
            }
        });
    }
    println!(
        "\nrke: {} rounds; {FILES} files for each host; {} ms each way",
        request.rounds, request.delay
    );
    let head = ["", "seconds", "least", "CPU of ours", "over scp and ssh"];
    table(&head, &rows);
    Ok(())
}

/// Whole plans: a row each.
async fn deployments(
    scene: &Scene,
    count: usize,
    request: &Request<'_>,
) -> Result<Vec<Vec<String>>, Failure> {
    let sides = ["root", USER];
    let (mut wall, mut cpu) = (
        [Sample::default(), Sample::default()],
        [Sample::default(), Sample::default()],
    );
    let (mut peer, mut over) = (Sample::default(), [Sample::default(), Sample::default()]);
    // The first finds empty directories, and is not counted.
    for round in 0..=request.rounds {
        let other = peer::copy(scene).await?;
        if round > 0 {
            peer.push(other);
        }
        for (index, user) in sides.iter().enumerate() {
            let taken = scene.deploy(user).await?;
            if let (true, Some(wall), Some(cpu), Some(over)) = (
                round > 0,
                wall.get_mut(index),
                cpu.get_mut(index),
                over.get_mut(index),
            ) {
                wall.push(taken.wall);
                cpu.push(taken.cpu);
                over.push(taken.wall / other);
            }
        }
    }
    let names = ["root: SFTP", "in group docker: a container"];
    let mut rows = Vec::new();
    for (((name, wall), cpu), over) in names.iter().zip(&wall).zip(&cpu).zip(&over) {
        rows.push(vec![
            format!("{count} hosts, {name}"),
            wall.range(1.0, 2),
            format!("{:.2}", wall.least()),
            cpu.range(1.0, 2),
            over.range(1.0, 2),
        ]);
    }
    rows.push(vec![
        format!("{count} hosts, scp and ssh, all at once"),
        peer.range(1.0, 2),
        format!("{:.2}", peer.least()),
        String::new(),
        String::new(),
    ]);
    Ok(rows)
}

/// What each operation on one host takes.
async fn operations(scene: &Scene, rounds: usize) -> Result<(), Failure> {
    let what = ["connect", "lock", "read", "deploy", "read back", "unlock"];
    let mut rows: Vec<Vec<String>> = what.iter().map(|it| vec![(*it).to_owned()]).collect();
    for user in ["root", USER] {
        let mut taken = vec![Sample::default(); what.len()];
        for round in 0..=rounds {
            let times = once(scene, user, round).await?;
            for (sample, time) in taken.iter_mut().zip(times) {
                if round > 0 {
                    sample.push(time);
                }
            }
        }
        for (row, sample) in rows.iter_mut().zip(&taken) {
            row.push(sample.range(1e3, 1));
        }
    }
    println!("one host, milliseconds");
    table(&["", "root", "in group docker"], &rows);
    Ok(())
}

async fn once(scene: &Scene, user: &str, round: usize) -> Result<Vec<f64>, Failure> {
    let machines = scene.machines(user)?;
    let (host, deployment) = scene.single(round);
    let mut times = Vec::new();
    let mut begin = Instant::now();
    let mut lap = || {
        let now = Instant::now();
        times.push((now - begin).as_secs_f64());
        begin = now;
    };
    let machine: Arc<dyn Machine> = machines.machine(&host).await?;
    lap();
    machine.lock("bench").await?;
    lap();
    machine.read_directory(&deployment.directory).await?;
    lap();
    machine.deploy(&deployment).await?;
    lap();
    machine.read_directory(&deployment.directory).await?;
    lap();
    machine.unlock("bench").await?;
    lap();
    Ok(times)
}
