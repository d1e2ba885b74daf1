//! Ten thousand nodes, and ten minutes.

use std::path::Path;
use std::time::{Duration, Instant};

use super::load::{Kind, Load};
use super::process::Serving;
use super::{KNOWN, MIB, Request, introduce, load};
use crate::measure::{Failure, Sample, table};

/// Nodes that join at the same time.
pub const AT_ONCE: usize = 64;
/// For how long a server that is left alone is watched: two looks at its files.
const REST: Duration = Duration::from_secs(65);

/// Nodes join: three certificates each, on one connection for the node, then on one for each
/// certificate, as K3s's agents do. Then the server is left alone.
pub fn join(request: &Request, folder: &Path) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for (name, each) in [("one connection a node", 3), ("one a certificate", 1)] {
        let server = format!("join-{each}");
        let serving = Serving::start(folder, &server, &request.server)?;
        let nodes = Load {
            kinds: Kind::JOIN.to_vec(),
            nodes: request.nodes,
            connections: AT_ONCE,
            each,
            requests: 3 * request.nodes,
            ..load(&serving, request)
        };
        let before = serving.taken()?.cpu;
        let outcome = nodes.run(|| ())?.clean()?;
        let taken = serving.taken()?;
        let begin = Instant::now();
        std::thread::sleep(REST);
        let rest = (serving.taken()?.cpu - taken.cpu) / begin.elapsed().as_secs_f64();
        rows.push(vec![
            name.to_owned(),
            format!("{:.1}", outcome.wall),
            format!("{:.1}", taken.cpu - before),
            format!("{:.1}", outcome.cpu),
            format!("{:.1}", taken.peak as f64 / MIB),
            format!("{:.1}", serving.taken()?.resident as f64 / MIB),
            format!("{:.2}", rest * 100.0),
        ]);
        look(&serving, request)?;
        serving.stop()?;
    }
    println!("{} nodes join, three certificates each", request.nodes);
    let head = [
        "",
        "wall s",
        "CPU s",
        "of the load",
        "most MiB",
        "MiB at rest",
        "% of a core at rest",
    ];
    table(&head, &rows);
    Ok(())
}

/// What one look of the renewal loop takes, by asking for many.
fn look(serving: &Serving, request: &Request) -> Result<(), Failure> {
    const LOOKS: u32 = 50;
    let before = serving.taken()?.cpu;
    for _ in 0..LOOKS {
        serving.hang_up()?;
        std::thread::sleep(Duration::from_millis(40));
    }
    let each = (serving.taken()?.cpu - before) / f64::from(LOOKS);
    println!(
        "a look of the renewal loop, {} nodes known: {:.2} ms CPU; one in 30 s is {:.3} % of a core",
        request.nodes,
        each * 1e3,
        each / 30.0 * 100.0
    );
    Ok(())
}

/// Load for long: memory must not grow, nothing may fail.
pub fn soak(request: &Request, folder: &Path) -> Result<(), Failure> {
    let serving = Serving::start(folder, "soak", &request.server)?;
    introduce(&serving, request, KNOWN)?;
    let long = Load {
        kinds: Kind::JOIN.to_vec(),
        seconds: request.soak,
        rate: request.soak_rate,
        ..load(&serving, request)
    };
    let before = serving.taken()?.cpu;
    let mut seen: Vec<f64> = Vec::new();
    let outcome = long.run(|| {
        if let Ok(taken) = serving.taken() {
            seen.push(taken.resident as f64 / MIB);
        }
    })?;
    let cpu = serving.taken()?.cpu - before;
    let quarter = |number: usize| -> Sample {
        let length = seen.len() / 4;
        seen.iter()
            .skip(number * length)
            .take(length)
            .copied()
            .collect()
    };
    println!(
        "{:.0} s of load, {} connections",
        request.soak, request.connections
    );
    println!(
        "answers by code: {:?}; broken: {}",
        outcome.codes, outcome.broken
    );
    println!(
        "{:.0} a second, {:.1} us CPU each, 99th percentile {:.1} ms, most {:.1} ms",
        outcome.rate(),
        cpu / outcome.good() as f64 * 1e6,
        outcome.p99,
        outcome.most
    );
    let rows: Vec<_> = (0..4)
        .map(|number| {
            vec![
                format!("quarter {}", number + 1),
                quarter(number).range(1.0, 1),
            ]
        })
        .collect();
    table(&["", "MiB"], &rows);
    serving.stop()
}
