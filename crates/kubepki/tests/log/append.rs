//! Adding records, opening again, mending.

use std::os::unix::fs::PermissionsExt;

use kubepki::edge::file::replace;
use kubepki::host::Attributes;
use kubepki::log::{
    CSV_HEADER, Filter, Head, Issued, Log, LogError, Mended, Options, Reading, csv_line, entries,
    unrecorded, verify,
};
use pki::{Serial, UnixTime};

use crate::{RECORDS, SERVER, chain, issued, open, options, own, runtime, segments};

/// Everything that the log holds, in order.
fn records(folder: &std::path::Path) -> Vec<kubepki::log::Entry> {
    let read = entries(&own(folder)).unwrap();
    read.map(|it| match it.unwrap() {
        Reading::Record(entry) => *entry,
        Reading::Damaged(place) => panic!("damaged at {place}"),
    })
    .collect()
}

#[test]
fn many_callers_get_each_a_record_of_their_own_in_one_chain() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let mut receipts = runtime().block_on(async move {
        let log = open(&path);
        let tasks: Vec<_> = (0..40_u64)
            .map(|task| {
                let log = log.clone();
                tokio::spawn(async move {
                    let mut own = Vec::new();
                    for number in 0..10 {
                        let number = task * 10 + number;
                        let receipt = log.append(issued(number)).await.unwrap();
                        own.push((receipt.seq, receipt.hash, number));
                    }
                    own
                })
            })
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        log.close().await;
        assert!(matches!(log.append(issued(1)).await, Err(LogError::Closed)));
        all
    });
    receipts.sort_unstable();
    let records = records(folder.path());
    assert_eq!((receipts.len(), records.len()), (400, 400));
    for (record, (seq, hash, number)) in records.iter().zip(receipts) {
        assert_eq!((record.seq, record.hash), (seq, hash));
        let expected = Issued {
            server: SERVER.to_owned(),
            ..issued(number)
        };
        assert_eq!(record.issued, expected);
    }
    let verified = verify(&own(folder.path()), SERVER, None).unwrap();
    assert_eq!((verified.records, verified.findings), (400, vec![]));
}

#[test]
fn files_are_for_the_owner_alone_and_two_processes_do_not_share_one() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let log = open(folder.path());
        log.append(issued(1)).await.unwrap();
        let second = Log::open(&options(folder.path()), None).unwrap_err();
        assert!(matches!(second, LogError::Locked { .. }), "{second}");
        log.close().await;
        let again = open(folder.path());
        assert_eq!(again.append(issued(2)).await.unwrap().seq, 2);
        again.close().await;
    });
    let mode = |path: &std::path::Path| {
        let metadata = std::fs::metadata(path).unwrap();
        metadata.permissions().mode() & 0o7777
    };
    assert_eq!(mode(&own(folder.path())), 0o700);
    for segment in segments(&own(folder.path())) {
        assert_eq!(mode(&segment), 0o600);
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["", ".", "..", ".hidden", "a/b", "../a", "a b", "ä", "a\0"] {
        let refused = Log::open(&Options::new(folder.path(), name), None).unwrap_err();
        assert!(matches!(refused, LogError::Name { .. }), "{name:?}");
    }
    let long = Options::new(folder.path(), "a".repeat(254));
    assert!(Log::open(&long, None).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_record_too_long_for_a_line_is_refused_and_the_next_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let log = open(folder.path());
        let long = Issued {
            subject: "x".repeat(1 << 20),
            ..issued(1)
        };
        assert!(matches!(
            log.append(long).await,
            Err(LogError::TooLong { .. })
        ));
        assert_eq!(log.append(issued(1)).await.unwrap().seq, 1);
        log.close().await;
    });
}

/// Opens the chain as it was left, with its last segment cut to `keep` bytes and `add` behind.
fn reopened(
    keep: impl FnOnce(usize) -> usize,
    add: &[u8],
    known: Option<&Head>,
) -> (tempfile::TempDir, Result<Option<Mended>, LogError>) {
    let folder = tempfile::tempdir().unwrap();
    chain().write(folder.path());
    let last = segments(&own(folder.path())).pop().unwrap();
    let mut bytes = std::fs::read(&last).unwrap();
    bytes.truncate(keep(bytes.len()));
    bytes.extend_from_slice(add);
    replace(&last, &bytes, &Attributes::new(0o600)).unwrap();
    let opened = Log::open(&options(folder.path()), known);
    let mended = opened.map(|(log, mended)| {
        runtime().block_on(async {
            log.append(issued(99)).await.unwrap();
            log.close().await;
        });
        let verified = verify(&own(folder.path()), SERVER, None).unwrap();
        assert_eq!(verified.findings, []);
        mended
    });
    (folder, mended)
}

#[test]
fn what_a_crash_left_unfinished_is_mended_and_nothing_else() {
    let head = &chain().head;
    let piece = b"{\"seq\":15,\"prev\":\"ab";
    let (folder, mended) = reopened(|all| all, piece, Some(head));
    let cut = Mended::CutOff {
        seq: RECORDS + 1,
        bytes: piece.len() as u64,
    };
    assert_eq!(mended.unwrap(), Some(cut));
    assert_eq!(records(folder.path()).len() as u64, RECORDS + 1);

    // A whole record that lacks its line's end is kept.
    let (folder, mended) = reopened(|all| all - 1, b"", Some(head));
    assert_eq!(mended.unwrap(), Some(Mended::Completed { seq: RECORDS }));
    assert_eq!(records(folder.path()).len() as u64, RECORDS + 1);

    // A piece of a record that the datastore knows was no crash's.
    let (folder, refused) = reopened(|all| all - 2, b"", Some(head));
    let refused = refused.unwrap_err();
    assert!(matches!(refused, LogError::CutOff { .. }), "{refused}");
    let left = std::fs::read(segments(&own(folder.path())).pop().unwrap()).unwrap();
    assert_eq!(left.len(), chain().files.values().last().unwrap().len() - 2);

    // An end of a line that became something else was no crash either.
    let (_, refused) = reopened(|all| all - 1, b"X", None);
    let refused = refused.unwrap_err();
    assert!(matches!(refused, LogError::Damaged { .. }), "{refused}");
}

#[test]
fn a_log_that_lacks_what_the_datastore_knows_is_not_opened() {
    let longer = Head {
        records: RECORDS + 1,
        ..chain().head.clone()
    };
    let (_, refused) = reopened(|all| all, b"", Some(&longer));
    assert!(matches!(refused, Err(LogError::CutOff { .. })));
    let other = Head {
        hash: pki::sha256(b"another"),
        ..chain().head.clone()
    };
    let (_, refused) = reopened(|all| all, b"", Some(&other));
    assert!(matches!(refused, Err(LogError::CutOff { .. })));
    let (_, opened) = reopened(|all| all, b"", Some(&chain().head));
    assert_eq!(opened.unwrap(), None);
    // All of it is gone.
    let folder = tempfile::tempdir().unwrap();
    let refused = Log::open(&options(folder.path()), Some(&chain().head)).unwrap_err();
    assert!(matches!(refused, LogError::CutOff { .. }), "{refused}");
}

#[test]
fn records_are_chosen_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    chain().write(folder.path());
    let records = records(folder.path());
    let chosen = |filter: Filter| -> Vec<u64> {
        let taken = records.iter().filter(|it| filter.takes(it));
        taken.map(|it| it.seq).collect()
    };
    let node = Some("NODE-3".to_owned());
    assert_eq!(
        chosen(Filter {
            node,
            ..Filter::default()
        }),
        [3]
    );
    let since = Some(UnixTime::from_secs(1_795_328_351 + 13));
    assert_eq!(
        chosen(Filter {
            since,
            ..Filter::default()
        }),
        [13, 14]
    );
    let serial = Some(
        Serial::from_hex(&format!("004{:031X}", 5))
            .unwrap_or_else(|_| Serial::from_hex(&issued(5).serial).unwrap()),
    );
    assert_eq!(
        chosen(Filter {
            serial,
            ..Filter::default()
        }),
        [5]
    );
    let line = csv_line(&records[0]);
    assert_eq!(
        line.matches(',').count(),
        CSV_HEADER.matches(',').count(),
        "{line}"
    );
    assert!(line.contains("node-1 10.0.0.1"), "{line}");
}

/// Records that belong together are there or not, and a serial number is found in whatever segment
/// it stands; not in names, and not in lines that were changed.
#[test]
fn a_group_is_one_and_what_no_record_is_of_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let all = |numbers: std::ops::Range<u64>| numbers.map(issued).collect::<Vec<_>>();
    // Whether a runtime works on the thread or not.
    runtime().block_on(async { log.append_now(all(0..9)).unwrap() });
    log.append_now(Vec::new()).unwrap();
    let sly = format!("\"serial\":\"{}\"", issued(77).serial);
    let mut long = all(20..23);
    long[2].sans = vec!["x".repeat(300 << 10)];
    let refused = log.append_now(long).unwrap_err();
    assert!(matches!(refused, LogError::TooLong { .. }), "{refused}");
    for number in 9..15 {
        let named = Issued {
            subject: sly.clone(),
            ..issued(number)
        };
        log.append_now(vec![named]).unwrap();
    }
    runtime().block_on(log.close());
    assert!(matches!(log.append_now(all(0..1)), Err(LogError::Closed)));
    let verified = verify(log.directory(), SERVER, None).unwrap();
    assert_eq!(
        (verified.findings.len(), records(folder.path()).len()),
        (0, 15)
    );
    assert!(segments(log.directory()).len() > 1);
    let of = |number: u64| (issued(number).serial, issued(number).spki);
    let asked = || [0, 8, 14, 20, 77].map(of).into();
    let unknown = |numbers: &[u64]| numbers.iter().map(|it| of(*it)).collect();
    let missing = || unrecorded(log.directory(), asked()).unwrap();
    assert_eq!(missing(), unknown(&[20, 77]));
    // Another leaf with a serial number that was given is in no record.
    let forged = (issued(14).serial, "f".repeat(64));
    let looked = unrecorded(log.directory(), [forged.clone()].into());
    assert_eq!(looked.unwrap(), [forged].into());
    let first = &segments(log.directory())[0];
    let text = std::fs::read_to_string(first).unwrap();
    std::fs::write(first, text.replacen("node-8", "node-9", 1)).unwrap();
    assert_eq!(missing(), unknown(&[8, 20, 77]));
}
