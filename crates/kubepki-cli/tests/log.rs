//! `kubepki log` on a log whose head lies in a real datastore, before and after somebody was at
//! it.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking and spoil files"
)]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kubepki::datastore::Datastore;
use kubepki::log::{
    Head, HeadError, Issued, Log, Options, head_key, keep_published, publish, stored_head,
};
use kubepki_datastore::{Access, SqliteStore, new_sqlite};
use pki::UnixTime;
use testkit::Run;

const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");
const SERVER: &str = "server-1";

fn issued(number: u64) -> Issued {
    Issued {
        time: UnixTime::from_secs(1_795_328_351 + number as i64),
        server: String::new(),
        endpoint: "/v1-k3s/client-kubelet.crt".to_owned(),
        user: "node".to_owned(),
        credential: "token".to_owned(),
        peer: Some("10.0.0.9:40312".parse().unwrap()),
        node: Some(format!("node-{number}")),
        subject: format!("CN=system:node:node-{number},O=system:nodes"),
        sans: Vec::new(),
        spki: pki::sha256(&number.to_le_bytes()).to_string(),
        serial: format!("4{number:031x}"),
        not_after: UnixTime::from_secs(1_826_864_351),
    }
}

struct Lab {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    head: Head,
}

impl Lab {
    /// Ten records in segments of three or four, the head published as a server does.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir_all(data.join("server/db")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let head = runtime.block_on(async {
            let file = data.join("server/db/state.db");
            new_sqlite(&file).await.unwrap();
            let store = SqliteStore::open(&file, Access::Write).await.unwrap();
            let options = Options {
                segment_bytes: 2000,
                ..Options::new(data.join("kubepki/log"), SERVER)
            };
            let (log, _) = Log::open(&options, None).unwrap();
            let trouble = Arc::<Mutex<Vec<String>>>::default();
            let told = trouble.clone();
            let note = move |done: Result<(), &HeadError>| {
                if let Err(error) = done {
                    told.lock().unwrap().push(error.to_string());
                }
            };
            let every = Duration::from_millis(1);
            let work = async {
                for number in 1..=10 {
                    log.append(issued(number)).await.unwrap();
                }
                log.close().await;
            };
            tokio::join!(work, keep_published(&log, Arc::new(store), every, note));
            assert_eq!(*trouble.lock().unwrap(), [""; 0]);
            log.head()
        });
        assert_eq!(head.records, 10);
        Self {
            folder,
            runtime,
            head,
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn segments(&self) -> Vec<PathBuf> {
        let own = self.data().join("kubepki/log").join(SERVER);
        let mut found: Vec<PathBuf> = std::fs::read_dir(own)
            .unwrap()
            .map(|it| it.unwrap().path())
            .filter(|it| it.extension().is_some_and(|it| it == "jsonl"))
            .collect();
        found.sort();
        found
    }

    fn run(&self, words: &[&str]) -> Run {
        let data = self.data().display().to_string();
        let words = [&["log"], words, &["--data-dir", &data]].concat();
        testkit::run(KUBEPKI, &words, b"")
    }

    #[track_caller]
    fn ends(&self, words: &[&str], code: i32, word: &str) -> String {
        let run = self.run(words);
        let text = run.text();
        assert_eq!(run.code, Some(code), "{text}");
        assert!(text.contains(word), "{word}: {text}");
        String::from_utf8(run.stdout).unwrap()
    }
}

#[test]
fn a_whole_log_is_called_whole_and_shown() {
    let lab = Lab::new();
    lab.ends(&["verify"], 0, "10 records in");
    let text = lab.ends(&["verify", "-o", "json"], 0, "");
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["chains"][0]["datastore"]["records"], 10);
    assert_eq!(
        answer["chains"][0]["head"],
        answer["chains"][0]["datastore"]
    );

    let text = lab.ends(&["show"], 0, "RECORD");
    assert_eq!(text.lines().count(), 11, "{text}");
    let text = lab.ends(&["show", "--node", "node-4", "-o", "json"], 0, "");
    let records: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(records.as_array().unwrap().len(), 1);
    assert_eq!(records[0]["seq"], 4);
    assert_eq!(records[0]["server"], SERVER);
    let since = UnixTime::from_secs(1_795_328_351 + 9).to_string();
    assert_eq!(
        lab.ends(&["show", "--since", &since], 0, "")
            .lines()
            .count(),
        3
    );
    let serial = issued(7).serial;
    let text = lab.ends(&["show", "--serial", &serial], 0, "");
    assert!(
        text.lines().count() == 2 && text.contains("node-7"),
        "{text}"
    );

    // JSON lines are the log's own: sha256sum proves them.
    let lines = lab.ends(&["export"], 0, "");
    let own: String = lab
        .segments()
        .iter()
        .map(|it| std::fs::read_to_string(it).unwrap())
        .collect();
    assert_eq!(lines, own);
    let line = lines.lines().nth(2).unwrap();
    let (content, hash) = line.split_once(",\"hash\":\"").unwrap();
    let sum = testkit::run("sha256sum", &["-"], content.as_bytes());
    assert_eq!(
        sum.text().split_whitespace().next(),
        hash.strip_suffix("\"}")
    );
    let csv = lab.ends(&["export", "--format", "csv"], 0, "seq,time,server");
    assert_eq!(csv.matches("\r\n").count(), 11);
}

#[test]
fn what_was_done_to_it_is_found_and_the_end_too_if_the_datastore_is_asked() {
    let lab = Lab::new();
    let last = lab.segments().pop().unwrap();
    let whole = std::fs::read(&last).unwrap();
    let lines: Vec<&[u8]> = whole.split_inclusive(|it| *it == b'\n').collect();

    let mut flipped = whole.clone();
    flipped[40] ^= 1;
    std::fs::write(&last, &flipped).unwrap();
    let first = 10 - lines.len() as u64 + 1;
    let name = last.file_name().unwrap().to_string_lossy().into_owned();
    let place = format!("record {first} was damaged at {name} line 1 (byte 0)");
    lab.ends(&["verify"], 4, &place);
    lab.ends(&["verify", "--offline"], 4, &place);
    lab.ends(&["show"], 4, "is left out");

    std::fs::write(&last, lines[..lines.len() - 1].concat()).unwrap();
    lab.ends(&["verify", "--offline"], 0, "cannot be seen");
    lab.ends(&["verify"], 4, "record 10 was cut off");

    std::fs::remove_file(&last).unwrap();
    lab.ends(
        &["verify"],
        4,
        &format!("records {first} to 10 were cut off"),
    );
    std::fs::write(&last, &whole).unwrap();
    std::fs::remove_file(&lab.segments()[0]).unwrap();
    lab.ends(&["verify", "--offline"], 4, "records 1 to ");

    for segment in lab.segments() {
        std::fs::remove_file(segment).unwrap();
    }
    lab.ends(&["verify"], 4, "records 1 to 10 were cut off");
}

#[test]
fn what_is_not_there_is_said() {
    let lab = Lab::new();
    lab.ends(
        &["verify", "--server", "../server-1"],
        2,
        "cannot be the name",
    );
    lab.ends(
        &["show", "--server", "other"],
        1,
        "no issuance log of other",
    );
    lab.ends(&["show", "--serial", "xyz"], 2, "--serial");
    lab.ends(
        &["verify", "--log-dir", "/nonexistent"],
        1,
        "holds no issuance log",
    );
    std::fs::remove_file(lab.data().join("server/db/state.db")).unwrap();
    lab.ends(&["verify"], 1, "--offline");
}

#[test]
fn a_head_never_goes_back_and_two_writers_are_noticed() {
    let lab = Lab::new();
    lab.runtime.block_on(async {
        let file = lab.data().join("server/db/state.db");
        let store = SqliteStore::open(&file, Access::Write).await.unwrap();
        let (stored, revision) = stored_head(&store, SERVER).await.unwrap().unwrap();
        assert_eq!(stored, lab.head);
        publish(&store, &lab.head).await.unwrap();
        let again = stored_head(&store, SERVER).await.unwrap().unwrap();
        assert_eq!(
            again,
            (stored, revision),
            "the same head is not written twice"
        );

        let shorter = Head {
            records: 9,
            ..lab.head.clone()
        };
        let other = Head {
            hash: pki::sha256(b"another"),
            ..lab.head.clone()
        };
        for head in [shorter, other] {
            let refused = publish(&store, &head).await.unwrap_err();
            assert!(matches!(refused, HeadError::Other { .. }), "{refused}");
        }
        // Segments that end before the head, in another directory: not opened.
        let known = stored_head(&store, SERVER).await.unwrap().map(|it| it.0);
        let options = Options::new(lab.folder.path().join("other"), SERVER);
        assert!(Log::open(&options, known.as_ref()).is_err());

        let key = head_key(SERVER).unwrap();
        store.update(&key, again.1, b"rubbish").await.unwrap();
        let refused = stored_head(&store, SERVER).await.unwrap_err();
        assert!(matches!(refused, HeadError::Malformed { .. }), "{refused}");
    });
}
