//! Several servers over one PostgreSQL that flushes what it commits, all on this machine.

use std::path::Path;

use testkit::Fixture;
use testkit::server::Postgres;

use super::load::{Kind, Load};
use super::process::Serving;
use super::steady::AT_ONCE;
use super::{Request, load};
use crate::measure::{Failure, cost, program, table};

/// Nodes that join in each measurement.
const NODES: usize = 3_000;

/// Prints what a node's joining and a renewal take of the servers and of the database.
pub fn scale(request: &Request, folder: &Path) -> Result<(), Failure> {
    let fixture = Fixture::new("k3s-1.36-postgres");
    let postgres = Postgres::start(false).flushing();
    let mut rows = Vec::new();
    for count in [1, 3] {
        let database = format!("scale{count}");
        let endpoint = postgres.database(&database);
        postgres.load(&database, &fixture.extra("kubernetes.sql"));
        let more = ["--datastore-endpoint".to_owned(), endpoint];
        let mut servers = Vec::new();
        for number in 1..=count {
            let name = format!("scale-{count}-{number}");
            let mut copy = program("cp");
            copy.arg("-a")
                .arg(fixture.data_dir())
                .arg(folder.join(&name));
            cost(&mut copy, 0)?;
            servers.push(Serving::start(folder, &name, &more)?);
        }
        let first = servers.first().ok_or("no server")?;
        let join = Load {
            addresses: servers.iter().map(|it| it.address).collect(),
            kinds: Kind::JOIN.to_vec(),
            nodes: NODES,
            connections: AT_ONCE,
            each: 3,
            requests: 3 * NODES,
            ..load(first, request)
        };
        // Later than any record is believed without a look.
        let renew = Load {
            kinds: vec![Kind::ClientKubelet],
            each: 0,
            requests: 2 * NODES,
            ..join.clone()
        };
        for (what, load) in [("3 certificates of a new node", join), ("a renewal", renew)] {
            let before = (taken(&servers)?, database_cpu(&postgres)?);
            let outcome = load.run(|| ())?.clean()?;
            let (own, database) = (taken(&servers)?, database_cpu(&postgres)?);
            let operations = match load.each {
                0 => outcome.good(),
                each => outcome.good() / each,
            } as f64;
            let each = |cpu: f64| format!("{:.0}", cpu / operations * 1e6);
            rows.push(vec![
                format!("{count} server(s): {what}"),
                format!("{:.0}", operations / outcome.wall),
                each(own - before.0),
                each(database - before.1),
                each(outcome.cpu),
                format!("{:.1}", outcome.p99),
            ]);
            std::thread::sleep(std::time::Duration::from_secs(3));
        }
        servers.into_iter().try_for_each(Serving::stop)?;
    }
    let head = [
        "",
        "a second",
        "CPU of the servers, us",
        "of the database",
        "of the load",
        "p99 ms of a request",
    ];
    table(&head, &rows);
    Ok(())
}

fn taken(servers: &[Serving]) -> Result<f64, Failure> {
    servers.iter().map(|it| Ok(it.taken()?.cpu)).sum()
}

/// CPU seconds of the database and all its processes, also those that have ended.
fn database_cpu(postgres: &Postgres) -> Result<f64, Failure> {
    let mark = format!("port={}", postgres.port());
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let folder = entry?.path();
        let (Ok(stat), Ok(arguments)) = (
            std::fs::read_to_string(folder.join("stat")),
            std::fs::read(folder.join("cmdline")),
        ) else {
            continue;
        };
        let number = |text: &str| text.parse::<u64>().ok();
        let own = folder.file_name().and_then(|it| number(it.to_str()?));
        // After the name: state, parent, …; the 12th to 15th are this process's and its dead
        // children's user and system time, in hundredths of a second.
        let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
        let fields: Vec<&str> = after.split(' ').collect();
        let parent = fields.get(1).and_then(|it| number(it));
        let ticks = fields.get(11..15).unwrap_or_default();
        let ticks: u64 = ticks.iter().filter_map(|it| number(it)).sum();
        let is_it = arguments
            .split(|byte| *byte == 0)
            .any(|it| it == mark.as_bytes());
        processes.push((own, parent, ticks, is_it && stat.contains("(postgres)")));
    }
    let main = processes.iter().find(|(.., is_it)| *is_it);
    let main = main.and_then(|(own, ..)| *own).ok_or("no PostgreSQL")?;
    let family = processes
        .iter()
        .filter(|(own, parent, ..)| [*own, *parent].contains(&Some(main)));
    Ok(family.map(|(.., ticks, _)| *ticks as f64 / 100.0).sum())
}
