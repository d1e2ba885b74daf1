//! `kubepki serve`: certificates a second beside the bare cryptography, joining nodes, starts,
//! memory.

mod bare;
mod client;
pub mod load;
mod process;
mod scale;
mod steady;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use tempfile::TempDir;

use self::bare::Bare;
use self::load::{Kind, Load, Outcome};
use self::process::Serving;
use crate::measure::{Failure, Sample, table};

/// What is measured, and how much of it.
#[derive(Args, Clone, Debug)]
pub struct Request {
    /// Which parts.
    #[arg(long, value_delimiter = ',', default_values = ["start", "rate", "handshakes", "join", "scale", "soak"])]
    pub parts: Vec<Part>,
    /// How often each is repeated.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Seconds of a round.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Connections that stay. With few of them, all wait for the same flush of the log's disk and
    /// processors are idle meanwhile.
    #[arg(long, default_value_t = 256)]
    pub connections: usize,
    /// Nodes that join.
    #[arg(long, default_value_t = 10_000)]
    pub nodes: usize,
    /// Seconds of the soak.
    #[arg(long, default_value_t = 600.0)]
    pub soak: f64,
    /// Requests a second in it; 0: as many as it answers.
    #[arg(long, default_value_t = 3000.0)]
    pub soak_rate: f64,
    /// On which disk, in a folder of its own that goes afterwards.
    #[arg(long)]
    pub folder: Option<PathBuf>,
    /// Further arguments of the server, for instance its datastore.
    #[arg(last = true)]
    pub server: Vec<String>,
}

/// One part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The first start and later ones, memory at rest.
    Start,
    /// Renewals over connections that stay, as fast as they go and at half of that.
    Rate,
    /// New connections.
    Handshakes,
    /// Nodes that join, and a server that knows them at rest.
    Join,
    /// One server and three over one PostgreSQL.
    Scale,
    /// Load for long.
    Soak,
}

/// Nodes that the load speaks for, where they are known already: so few that each comes again
/// within the two seconds for which the server believes what it read of a node.
pub const KNOWN: usize = 1_000;
/// So many that none does.
const MANY: usize = 20_000;
pub const MIB: f64 = 1048576.0;

/// Prints all of it.
pub fn run(request: &Request) -> Result<(), Failure> {
    let cores = std::thread::available_parallelism()?.get();
    println!(
        "serve: {cores} cores, {} rounds of {} s, {} connections",
        request.rounds, request.seconds, request.connections
    );
    for part in &request.parts {
        println!();
        let scratch = match &request.folder {
            Some(folder) => TempDir::new_in(folder)?,
            None => TempDir::new()?,
        };
        match part {
            Part::Start => start(request, scratch.path())?,
            Part::Rate => rate(request, scratch.path(), cores as f64)?,
            Part::Handshakes => handshakes(request, scratch.path())?,
            Part::Join => steady::join(request, scratch.path())?,
            Part::Scale => scale::scale(request, scratch.path())?,
            Part::Soak => steady::soak(request, scratch.path())?,
        }
    }
    Ok(())
}

/// A load on `serving` that the parts change where they differ.
pub fn load(serving: &Serving, request: &Request) -> Load {
    Load {
        addresses: vec![serving.address],
        token_file: serving.data_dir.join("server/token"),
        kinds: vec![Kind::ClientKubelet],
        nodes: KNOWN,
        first: 0,
        connections: request.connections,
        each: 0,
        requests: 0,
        seconds: f64::INFINITY,
        rate: 0.0,
        resume: false,
    }
}

/// Makes so many nodes known.
pub fn introduce(serving: &Serving, request: &Request, nodes: usize) -> Result<(), Failure> {
    let first = Load {
        nodes,
        requests: nodes,
        ..load(serving, request)
    };
    first.run(|| ())?.clean().map(drop)
}

fn start(request: &Request, folder: &Path) -> Result<(), Failure> {
    let (mut new, mut later) = (Sample::default(), Sample::default());
    let (mut new_cpu, mut later_cpu) = (Sample::default(), Sample::default());
    let (mut idle, mut peak) = (Sample::default(), Sample::default());
    for round in 0..request.rounds {
        let name = format!("start-{round}");
        let serving = Serving::start(folder, &name, &request.server)?;
        new.push(serving.ready);
        new_cpu.push(serving.taken()?.cpu);
        serving.stop()?;
        let serving = Serving::start(folder, &name, &request.server)?;
        later.push(serving.ready);
        later_cpu.push(serving.taken()?.cpu);
        std::thread::sleep(std::time::Duration::from_secs(2));
        let taken = serving.taken()?;
        idle.push(taken.resident as f64 / MIB);
        peak.push(taken.peak as f64 / MIB);
        serving.stop()?;
    }
    let row = |name: &str, sample: &Sample, unit, digits| {
        let least = format!("{:.digits$}", sample.least() * unit);
        vec![name.to_owned(), sample.range(unit, digits), least]
    };
    table(
        &["", "median", "least"],
        &[
            row("first start to ready, CAs made: wall ms", &new, 1e3, 0),
            row("first start to ready: CPU ms", &new_cpu, 1e3, 0),
            row("later start to ready: wall ms", &later, 1e3, 0),
            row("later start to ready: CPU ms", &later_cpu, 1e3, 0),
            row("at rest after a later start: MiB", &idle, 1.0, 1),
            row("most until then: MiB", &peak, 1.0, 1),
        ],
    );
    Ok(())
}

/// One load beside what the server took for it.
#[derive(Default)]
struct Rates {
    rate: Sample,
    server: Sample,
    load: Sample,
    bare: Sample,
    of_bare: Sample,
    of_cores: Sample,
}

impl Rates {
    fn add(&mut self, outcome: &Outcome, server: f64, bare: f64, cores: f64) {
        let good = outcome.good() as f64;
        self.rate.push(outcome.rate());
        self.server.push(server / good);
        self.load.push(outcome.cpu / good);
        self.bare.push(bare);
        self.of_bare.push(bare / (server / good));
        let left = cores - outcome.cpu / outcome.wall;
        self.of_cores.push(outcome.rate() * bare / left);
    }

    fn print(&self) {
        let row = |name: &str, text: String, best: String| vec![name.to_owned(), text, best];
        let least = |name: &str, sample: &Sample| {
            let best = format!("{:.1}", sample.least() * 1e6);
            row(name, sample.range(1e6, 1), best)
        };
        let most = |name: &str, sample: &Sample, digits| {
            let best = format!("{:.digits$}", sample.most());
            row(name, sample.range(1.0, digits), best)
        };
        let cores = "of the bare loop on what the load leaves of the cores";
        table(
            &["", "median", "best"],
            &[
                most("certificates a second", &self.rate, 0),
                least("CPU of the server: us each", &self.server),
                least("CPU of the load: us each", &self.load),
                least("bare verify and sign: us each", &self.bare),
                most("of the bare loop, by CPU", &self.of_bare, 2),
                most(cores, &self.of_cores, 2),
            ],
        );
    }
}

fn rate(request: &Request, folder: &Path, cores: f64) -> Result<(), Failure> {
    let serving = Serving::start(folder, "rate", &request.server)?;
    introduce(&serving, request, MANY)?;
    let bare = Bare::new()?;
    let mut fastest = 0.0;
    for (nodes, title) in [
        (
            MANY,
            "as fast as it goes, each node's record read from the datastore",
        ),
        (KNOWN, "as fast as it goes, nodes that come again at once"),
    ] {
        let full = Load {
            seconds: request.seconds,
            nodes,
            ..load(&serving, request)
        };
        let mut rates = Rates::default();
        for _ in 0..request.rounds {
            let floor = bare.each()?;
            let before = serving.taken()?.cpu;
            let outcome = full.run(|| ())?.clean()?;
            let server = serving.taken()?.cpu - before;
            rates.add(&outcome, server, floor.min(bare.each()?), cores);
        }
        println!("{title}");
        rates.print();
        println!();
        fastest = rates.rate.median();
    }
    half(&serving, request, fastest / 2.0)?;
    serving.stop()
}

fn half(serving: &Serving, request: &Request, rate: f64) -> Result<(), Failure> {
    let half = Load {
        seconds: request.seconds,
        rate,
        ..load(serving, request)
    };
    let (mut median, mut late, mut most) =
        (Sample::default(), Sample::default(), Sample::default());
    for _ in 0..request.rounds {
        let outcome = half.run(|| ())?.clean()?;
        median.push(outcome.median);
        late.push(outcome.p99);
        most.push(outcome.most);
    }
    println!("half of that, {rate:.0} a second: milliseconds");
    let row = |name: &str, sample: &Sample| {
        let least = format!("{:.1}", sample.least());
        vec![name.to_owned(), sample.range(1.0, 1), least]
    };
    table(
        &["", "median of the rounds", "best"],
        &[
            row("median", &median),
            row("99th percentile", &late),
            row("most", &most),
        ],
    );
    Ok(())
}

fn handshakes(request: &Request, folder: &Path) -> Result<(), Failure> {
    let serving = Serving::start(folder, "handshakes", &request.server)?;
    let mut rows = Vec::new();
    for (name, resume, each) in [
        ("new session, one request", false, 1),
        ("session taken up, one request", true, 1),
        ("no handshake", false, 0),
    ] {
        let pings = Load {
            kinds: vec![Kind::Ping],
            nodes: 1,
            each,
            seconds: request.seconds / 2.0,
            resume,
            ..load(&serving, request)
        };
        let (mut rate, mut server, mut own) =
            (Sample::default(), Sample::default(), Sample::default());
        for _ in 0..request.rounds {
            let before = serving.taken()?.cpu;
            let outcome = pings.run(|| ())?.clean()?;
            let good = outcome.good() as f64;
            rate.push(outcome.rate());
            server.push((serving.taken()?.cpu - before) / good);
            own.push(outcome.cpu / good);
        }
        rows.push(vec![
            name.to_owned(),
            rate.range(1.0, 0),
            server.range(1e6, 0),
            own.range(1e6, 0),
        ]);
    }
    let head = [
        "/ping",
        "a second",
        "CPU of the server, us",
        "of the load, us",
    ];
    table(&head, &rows);
    serving.stop()
}
