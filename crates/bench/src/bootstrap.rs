//! The bootstrap data in each datastore: what decrypting, checking and encrypting cost above the
//! query that brings or takes it.

use std::path::Path;
use std::time::Instant;

use kubepki::bootstrap::{Candidates, audit, locate, seal_bundle};
use kubepki::datastore::DatastoreError;
use kubepki::edge::{Clock, SystemClock, SystemEntropy};
use kubepki_datastore::{Access, Endpoint, Store, Tls, open};
use testkit::Fixture;
use testkit::server::{Etcd, MariaDb, Postgres};

use crate::measure::{Failure, Sample, table, thread_cpu};

const TOKEN: &str = "fixture-token-0123456789abcdef";
const PREFIX: &str = "/bootstrap";

/// Prints the table: SQLite, PostgreSQL, MariaDB and etcd of this machine, on loopback.
pub fn run(rounds: usize) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut rows = Vec::new();
    let sqlite = Fixture::new("k3s-1.36-sqlite");
    let server = sqlite.data_dir().join("server");
    rows.extend(runtime.block_on(datastore("SQLite", "", &server, rounds))?);

    let fixture = Fixture::new("k3s-1.36-postgres");
    let postgres = Postgres::start(false);
    let endpoint = postgres.database("bench");
    postgres.load("bench", &fixture.extra("kubernetes.sql"));
    rows.extend(runtime.block_on(datastore("PostgreSQL", &endpoint, &server, rounds))?);

    let fixture = Fixture::new("k3s-1.36-mariadb");
    let mariadb = MariaDb::start(false);
    let endpoint = mariadb.database("bench");
    mariadb.load("bench", &fixture.extra("kubernetes.sql"));
    rows.extend(runtime.block_on(datastore("MariaDB", &endpoint, &server, rounds))?);

    let fixture = Fixture::new("k3s-1.36-etcd-external");
    let etcd = Etcd::restore(&fixture.extra("etcd-snapshot.db"));
    let endpoint = etcd.url(0);
    rows.extend(runtime.block_on(datastore("etcd", &endpoint, &server, rounds))?);

    println!("bootstrap data: {rounds} rounds, servers on loopback without fsync");
    let head = [
        "",
        "query ms",
        "with our work ms",
        "above it ms",
        "CPU above it ms",
    ];
    table(&head, &rows);
    Ok(())
}

/// Wall and CPU seconds.
type Taken = (f64, f64);

async fn datastore(
    name: &str,
    endpoint: &str,
    server: &Path,
    rounds: usize,
) -> Result<Vec<Vec<String>>, Failure> {
    let endpoint = Endpoint::parse(endpoint)?;
    let store = open(&endpoint, &Tls::default(), server, Access::Write).await?;
    let store = store.as_ref();
    let mut candidates = Candidates::new();
    candidates.add_token(TOKEN, "the fixtures")?;
    let (mut bare, mut read) = (Vec::new(), Vec::new());
    let (mut put, mut write) = (Vec::new(), Vec::new());
    // The first one pays for the connection.
    for round in 0..=rounds {
        let mut taken = [(0.0, 0.0); 4];
        for (index, taken) in taken.iter_mut().enumerate() {
            *taken = match index {
                0 => timed(query(store)).await?,
                1 => timed(read_whole(store, &candidates)).await?,
                2 => update(store, &candidates, false).await?,
                _ => update(store, &candidates, true).await?,
            };
        }
        if round > 0 {
            let [a, b, c, d] = taken;
            bare.push(a);
            read.push(b);
            put.push(c);
            write.push(d);
        }
    }
    Ok(vec![
        row(&format!("{name}: read, decrypt, verify"), &bare, &read),
        row(&format!("{name}: encrypt, write"), &put, &write),
    ])
}

async fn timed<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<Taken, Failure> {
    let (wall, cpu) = (Instant::now(), thread_cpu());
    std::hint::black_box(work.await?);
    Ok((wall.elapsed().as_secs_f64(), thread_cpu() - cpu))
}

async fn query(store: &dyn Store) -> Result<(), Failure> {
    std::hint::black_box(store.list(PREFIX).await?);
    Ok(())
}

async fn read_whole(store: &dyn Store, candidates: &Candidates) -> Result<(), Failure> {
    let opened = locate(&store.list(PREFIX).await?, candidates)?;
    let found = audit(&opened.bundle, SystemClock.now());
    match found.is_empty() {
        true => Ok(()),
        false => Err(format!("the data are not whole: {found:?}").into()),
    }
}

/// Writes the data anew; with `sealing` its encryption is part of what is timed.
async fn update(
    store: &dyn Store,
    candidates: &Candidates,
    sealing: bool,
) -> Result<Taken, Failure> {
    let opened = locate(&store.list(PREFIX).await?, candidates)?;
    let seal = || seal_bundle(&opened.bundle, &opened.passphrase, &SystemEntropy);
    let (key, revision) = (&opened.record.key, opened.record.revision);
    let write = async |value: &[u8]| -> Result<i64, DatastoreError> {
        store.update(key, revision, value).await
    };
    if sealing {
        return timed(async { Ok(write(&seal()?).await?) }).await;
    }
    let sealed = seal()?;
    timed(async { Ok(write(&sealed).await?) }).await
}

fn row(name: &str, bare: &[Taken], full: &[Taken]) -> Vec<String> {
    let wall = |taken: &[Taken]| taken.iter().map(|it| it.0).collect::<Sample>();
    let above = |of: fn(&Taken) -> f64| {
        let pairs = bare.iter().zip(full);
        pairs
            .map(|(bare, full)| of(full) - of(bare))
            .collect::<Sample>()
    };
    vec![
        name.to_owned(),
        wall(bare).range(1e3, 2),
        wall(full).range(1e3, 2),
        above(|it| it.0).range(1e3, 2),
        above(|it| it.1).range(1e3, 2),
    ]
}
