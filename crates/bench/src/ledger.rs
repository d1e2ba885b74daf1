//! The issuance log: records that share an fsync, beside one fsync for each, on the same disk.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use kubepki::log::{Issued, Log, Options, verify};
use pki::UnixTime;

use crate::measure::{Failure, Sample, table};

/// What is measured.
pub struct Request<'a> {
    /// Records in each measurement with a shared fsync; a twentieth of them without.
    pub records: usize,
    /// Callers that wait at the same time.
    pub callers: usize,
    /// How often the sides take turns.
    pub rounds: usize,
    /// On which disk.
    pub folder: Option<&'a Path>,
}

/// Prints records per second: groups, one fsync each, and the disk's own fsync of such a line.
pub fn run(request: &Request<'_>) -> Result<(), Failure> {
    let Request {
        records,
        callers,
        rounds,
        folder,
    } = *request;
    let few = (records / 20).max(callers);
    println!(
        "log: {rounds} rounds, {callers} callers, {records} records in groups, {few} with an fsync \
         each"
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut grouped, mut single, mut disk) =
        (Sample::default(), Sample::default(), Sample::default());
    let (mut ratio, mut checked) = (Sample::default(), Sample::default());
    for _ in 0..rounds {
        let scratch = match folder {
            Some(folder) => tempfile::tempdir_in(folder)?,
            None => tempfile::tempdir()?,
        };
        let options = |name: &str| Options::new(scratch.path(), name);
        let together = runtime.block_on(rate(&options("grouped"), records, callers))?;
        let alone = Options {
            group: 1,
            ..options("single")
        };
        let alone = runtime.block_on(rate(&alone, few, callers))?;
        grouped.push(together);
        single.push(alone);
        ratio.push(together / alone);
        disk.push(floor(scratch.path(), few)?);
        let begin = Instant::now();
        let verified = verify(&scratch.path().join("grouped"), "grouped", None)?;
        checked.push(verified.records as f64 / begin.elapsed().as_secs_f64());
        if !verified.findings.is_empty() {
            return Err(format!("the log is not whole: {:?}", verified.findings).into());
        }
    }
    let row = |name: &str, sample: &Sample| vec![name.to_owned(), sample.range(1.0, 0)];
    table(
        &["", "records per second"],
        &[
            row("records that share an fsync", &grouped),
            row("one fsync for each record", &single),
            row("floor: write and fdatasync of such a line", &disk),
            row("verify", &checked),
        ],
    );
    println!("\nshared over single: {}", ratio.range(1.0, 1));
    Ok(())
}

async fn rate(options: &Options, records: usize, callers: usize) -> Result<f64, Failure> {
    let (log, _) = Log::open(options, None)?;
    let begin = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let log = log.clone();
            tokio::spawn(async move {
                for number in (caller..records).step_by(callers) {
                    log.append(issued(number)).await?;
                }
                Ok::<_, kubepki::log::LogError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let rate = records as f64 / begin.elapsed().as_secs_f64();
    log.close().await;
    Ok(rate)
}

fn issued(number: usize) -> Issued {
    Issued {
        time: UnixTime::from_secs(1_795_328_351),
        server: String::new(),
        endpoint: "/v1-k3s/serving-kubelet.crt".to_owned(),
        user: "node".to_owned(),
        credential: "token".to_owned(),
        peer: None,
        node: Some(format!("worker-{number}.example.org")),
        subject: format!("CN=worker-{number}.example.org"),
        sans: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
        spki: "5a".repeat(32),
        serial: format!("4{number:031x}"),
        not_after: UnixTime::from_secs(1_826_864_351),
    }
}

/// What the disk allows: a line as long as a record's, written and synced, one after the other.
fn floor(folder: &Path, lines: usize) -> Result<f64, Failure> {
    let line = [b'x'; 600];
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("floor"))?;
    let begin = Instant::now();
    for _ in 0..lines {
        file.write_all(&line)?;
        file.sync_data()?;
    }
    Ok(lines as f64 / begin.elapsed().as_secs_f64())
}
