//! The issuance log, killed: at every system call that changes a segment, and at any moment under
//! load. Whoever was told that his record is in the log finds it there.
//!
//! Without libtest: the program to be killed is this one itself.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking; the victim is a process"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kubepki::log::{Issued, Log, Options, Reading, entries, verify};
use pki::UnixTime;
use testkit::Victim;

const FOLDER: &str = "KUBEPKI_TEST_LOG_FOLDER";
const LOAD: &str = "KUBEPKI_TEST_LOG_LOAD";
const SERVER: &str = "server-1";
const RECORDS: u64 = 8;

fn main() -> ExitCode {
    match std::env::var_os(FOLDER) {
        Some(folder) => return victim(&PathBuf::from(folder)),
        // A question about which tests there are.
        None if std::env::args().any(|argument| argument == "--list") => {}
        None => {
            killed_at_every_call();
            a_full_disk_is_told_and_got_over();
            killed_under_load();
        }
    }
    ExitCode::SUCCESS
}

fn issued(number: u64) -> Issued {
    Issued {
        time: UnixTime::from_secs(1_795_328_351),
        server: String::new(),
        endpoint: "/v1-k3s/client-kubelet.crt".to_owned(),
        user: "node".to_owned(),
        credential: "token".to_owned(),
        peer: None,
        node: Some(format!("node-{number}")),
        subject: format!("CN=system:node:node-{number},O=system:nodes"),
        sans: Vec::new(),
        spki: "00".repeat(32),
        serial: format!("4{number:031x}"),
        not_after: UnixTime::from_secs(1_826_864_351),
    }
}

fn options(folder: &Path) -> Options {
    Options {
        segment_bytes: 1500,
        ..Options::new(folder.join("log"), SERVER)
    }
}

/// The program that is killed: notes in `told` every record that it was told is in the log.
fn victim(folder: &Path) -> ExitCode {
    let load = std::env::var_os(LOAD).is_some();
    let told = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("told"));
    let told = Arc::new(Mutex::new(told.unwrap()));
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().build();
    runtime.unwrap().block_on(async {
        let (log, _) = Log::open(&options(folder), None).unwrap();
        let tasks: Vec<_> = (0..if load { 32 } else { 1 })
            .map(|_| {
                let (log, told) = (log.clone(), told.clone());
                tokio::spawn(async move {
                    let mut failed = 0;
                    for number in 0..if load { 100_000 } else { RECORDS } {
                        match log.append(issued(number)).await {
                            Ok(receipt) => {
                                let line = format!("{} {}\n", receipt.seq, receipt.hash);
                                told.lock().unwrap().write_all(line.as_bytes()).unwrap();
                            }
                            Err(error) => {
                                eprintln!("{}", kubepki::error_chain(&error));
                                failed += 1;
                            }
                        }
                    }
                    failed
                })
            })
            .collect();
        let mut failed = 0;
        for task in tasks {
            failed += task.await.unwrap();
        }
        log.close().await;
        println!("{failed} refused");
    });
    ExitCode::SUCCESS
}

/// Opens the log again, adds a record, and holds it to what was told. Answers how many there were.
fn assert_nothing_lost(folder: &Path, what: &str) -> usize {
    let (log, _) = Log::open(&options(folder), None).unwrap_or_else(|it| panic!("{what}: {it}"));
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().build();
    runtime.unwrap().block_on(async {
        log.append(issued(7)).await.unwrap();
        log.close().await;
    });
    let directory = folder.join("log").join(SERVER);
    let verified = verify(&directory, SERVER, Some(&log.head())).unwrap();
    assert_eq!(verified.findings, [], "{what}");
    let there: std::collections::HashMap<u64, String> = entries(&directory)
        .unwrap()
        .map(|it| match it.unwrap() {
            Reading::Record(entry) => (entry.seq, entry.hash.to_string()),
            Reading::Damaged(place) => panic!("{what}: damaged at {place}"),
        })
        .collect();
    let told = std::fs::read_to_string(folder.join("told")).unwrap_or_default();
    for line in told.lines() {
        let (seq, hash) = line.split_once(' ').unwrap();
        let found = there.get(&seq.parse().unwrap());
        assert_eq!(
            found.map(String::as_str),
            Some(hash),
            "{what}: record {seq}"
        );
    }
    told.lines().count()
}

fn strace_victim(folder: &Path) -> Victim {
    let own = folder.join("log").join(SERVER);
    let files = (1..=RECORDS).map(|first| own.join(format!("{first:020}.jsonl")));
    let none: [&str; 0] = [];
    Victim::new(std::env::current_exe().unwrap(), none)
        .env(FOLDER, folder)
        .at_files(files)
}

fn clear(folder: &Path) {
    let own = folder.join("log").join(SERVER);
    for entry in std::fs::read_dir(own).into_iter().flatten() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let _ = std::fs::remove_file(folder.join("told"));
}

fn killed_at_every_call() {
    let folder = tempfile::tempdir().unwrap();
    let victim = strace_victim(folder.path());
    let killed = victim.crash_everywhere(
        || clear(folder.path()),
        |point| {
            assert_nothing_lost(folder.path(), &format!("{point:?}"));
        },
    );
    // A write and a sync for each record, and some opening.
    assert!(killed as u64 > 2 * RECORDS, "{killed}");
}

fn a_full_disk_is_told_and_got_over() {
    let folder = tempfile::tempdir().unwrap();
    let victim = strace_victim(folder.path());
    clear(folder.path());
    let points = victim.crash_points();
    for point in points.iter().filter(|it| it.call == "write") {
        clear(folder.path());
        let output = victim.fail_at(point, "ENOSPC");
        let (said, why) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert!(said.contains("1 refused"), "{point:?}: {said}{why}");
        assert!(why.contains("No space left"), "{point:?}: {why}");
        let told = assert_nothing_lost(folder.path(), &format!("{point:?}"));
        assert_eq!(told as u64, RECORDS - 1);
    }
    // After a failed sync nobody knows what is on the disk: nothing more is taken.
    let syncs: Vec<_> = points.iter().filter(|it| it.call == "fdatasync").collect();
    let Some(point) = syncs.get(3) else {
        panic!("{points:?}")
    };
    clear(folder.path());
    let output = victim.fail_at(point, "EIO");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains(" refused") && !said.contains("0 refused"),
        "{said}"
    );
    assert_nothing_lost(folder.path(), "a failed sync");
}

fn killed_under_load() {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let lines = || std::fs::read(&told).map_or(0, |it| it.iter().filter(|b| **b == b'\n').count());
    for round in 0..4 {
        let before = lines();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(FOLDER, folder.path())
            .env(LOAD, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while lines() < before + 200 + 37 * round {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(assert_nothing_lost(folder.path(), "killed under load") >= before + 200);
    }
}
