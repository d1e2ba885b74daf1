//! The issuance log: what is written stands there, and whatever is done to it is found.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking and spoil files"
)]

mod anew;
mod append;
mod tamper;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kubepki::log::{Head, Issued, Log, Options, Verified, verify};
use pki::UnixTime;

const SERVER: &str = "server-1";

fn issued(number: u64) -> Issued {
    Issued {
        time: UnixTime::from_secs(1_795_328_351 + number as i64),
        server: String::new(),
        endpoint: "/v1-k3s/serving-kubelet.crt".to_owned(),
        user: "node".to_owned(),
        credential: "token".to_owned(),
        peer: Some("[fd00::7]:40312".parse().unwrap()),
        node: Some(format!("node-{number}")),
        subject: format!("CN=node-{number}"),
        sans: vec![format!("node-{number}"), "10.0.0.1".to_owned()],
        spki: pki::sha256(&number.to_le_bytes()).to_string(),
        serial: format!("4{number:031x}"),
        not_after: UnixTime::from_secs(1_795_328_351 + 365 * pki::DAY),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Segments of three or four records each.
fn options(folder: &Path) -> Options {
    Options {
        segment_bytes: 2000,
        ..Options::new(folder.join("log"), SERVER)
    }
}

fn open(folder: &Path) -> Log {
    let (log, mended) = Log::open(&options(folder), None).unwrap();
    assert_eq!(mended, None);
    log
}

/// A chain in memory: file name to bytes.
#[derive(Clone)]
struct Chain {
    files: BTreeMap<String, Vec<u8>>,
    head: Head,
}

const RECORDS: u64 = 14;

/// The same chain for all tests, which change copies of it.
fn chain() -> &'static Chain {
    static CHAIN: OnceLock<Chain> = OnceLock::new();
    CHAIN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let head = runtime().block_on(async {
            let log = open(folder.path());
            for number in 1..=RECORDS {
                assert_eq!(log.append(issued(number)).await.unwrap().seq, number);
            }
            log.close().await;
            log.head()
        });
        let files = segments(&own(folder.path()))
            .into_iter()
            .map(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, std::fs::read(path).unwrap())
            })
            .collect();
        let chain = Chain { files, head };
        assert!(chain.files.len() >= 4, "{}", chain.files.len());
        assert_eq!(chain.lines().len() as u64, RECORDS);
        chain
    })
}

fn own(folder: &Path) -> PathBuf {
    folder.join("log").join(SERVER)
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|it| it.unwrap().path())
        .filter(|it| it.extension().is_some_and(|it| it == "jsonl"))
        .collect();
    found.sort();
    found
}

impl Chain {
    /// File, range of bytes (with the end of the line) of every record.
    fn lines(&self) -> Vec<(String, std::ops::Range<usize>)> {
        let mut lines = Vec::new();
        for (name, bytes) in &self.files {
            let mut at = 0;
            for line in bytes.split_inclusive(|it| *it == b'\n') {
                lines.push((name.clone(), at..at + line.len()));
                at += line.len();
            }
        }
        lines
    }

    fn text(&self, (name, range): &(String, std::ops::Range<usize>)) -> Vec<u8> {
        self.files[name][range.clone()].to_vec()
    }

    /// The chain with these lines in the files that they were in, one list per file.
    fn with(&self, change: impl FnOnce(&mut Vec<(String, Vec<u8>)>)) -> Self {
        let mut all: Vec<(String, Vec<u8>)> = self
            .lines()
            .iter()
            .map(|line| (line.0.clone(), self.text(line)))
            .collect();
        change(&mut all);
        let mut files: BTreeMap<String, Vec<u8>> = self
            .files
            .keys()
            .map(|name| (name.clone(), Vec::new()))
            .collect();
        for (name, line) in all {
            files.get_mut(&name).unwrap().extend(line);
        }
        Self {
            files,
            head: self.head.clone(),
        }
    }

    fn write(&self, folder: &Path) {
        let directory = own(folder);
        std::fs::create_dir_all(&directory).unwrap();
        for (name, bytes) in &self.files {
            std::fs::write(directory.join(name), bytes).unwrap();
        }
    }

    /// What verifying says, with and without the datastore's head.
    fn verified(&self) -> [Verified; 2] {
        let folder = tempfile::tempdir().unwrap();
        self.write(folder.path());
        let directory = own(folder.path());
        [Some(&self.head), None].map(|head| verify(&directory, SERVER, head).unwrap())
    }
}
