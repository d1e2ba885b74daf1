//! A log whose end is lost goes on, and says so for good.

use kubepki::log::{Anew, Finding, Head, Log, LogError, Reading, begin_anew, entries, verify};
use pki::UnixTime;

use crate::{RECORDS, SERVER, chain, issued, options, own, runtime, segments};

const ANEW: Anew<'_> = Anew {
    by: "anna",
    why: "the disk was \"replaced\"",
    now: UnixTime::from_secs(1_800_000_000),
};

fn known() -> Head {
    chain().head.clone()
}

/// The log goes on after a break; what stands there then.
fn goes_on(folder: &std::path::Path, known: &Head, missing: (u64, u64)) {
    let (receipt, said) = begin_anew(&own(folder), SERVER, Some(known), &ANEW).unwrap();
    assert_eq!(receipt.seq, known.records + 1);
    assert_eq!(
        said.datastore.as_ref().unwrap().hash,
        known.hash.to_string()
    );
    // The datastore may have been told of the break, or not yet.
    let head = Head {
        records: receipt.seq,
        hash: receipt.hash,
        server: SERVER.to_owned(),
    };
    for known in [known, &head] {
        let (log, mended) = Log::open(&options(folder), Some(known)).unwrap();
        assert_eq!(mended, None);
        runtime().block_on(log.close());
    }
    let again = begin_anew(&own(folder), SERVER, Some(&head), &ANEW);
    assert!(matches!(again, Err(LogError::Whole { .. })), "{again:?}");
    let last = runtime().block_on(async {
        let (log, _) = Log::open(&options(folder), Some(&head)).unwrap();
        let last = log.append(issued(99)).await.unwrap();
        log.close().await;
        assert_eq!(last.seq, receipt.seq + 1);
        log.head()
    });
    for known in [None, Some(known), Some(&head), Some(&last)] {
        let verified = verify(&own(folder), SERVER, known).unwrap();
        assert_eq!(verified.findings, [], "{known:?}");
        assert_eq!(verified.head, last);
        let [found] = verified.breaks.as_slice() else {
            panic!("{:?}", verified.breaks);
        };
        assert_eq!((found.first, found.last), missing);
        assert_eq!((&found.said, found.seq), (&said, receipt.seq));
        assert!(found.to_string().contains("anna"), "{found}");
    }
}

#[test]
fn a_lost_end_is_written_down_and_no_fault() {
    let folder = tempfile::tempdir().unwrap();
    let kept = chain().with(|lines| lines.truncate(9));
    kept.write(folder.path());
    let whole = Log::open(&options(folder.path()), Some(&known()));
    let Err(error @ LogError::CutOff { .. }) = whole else {
        panic!("{whole:?}");
    };
    assert!(
        error.to_string().contains("kubepki log begin-anew"),
        "{error}"
    );
    goes_on(folder.path(), &known(), (10, RECORDS));
    // What vanishes after the break is a fault as ever.
    let first = segments(&own(folder.path())).remove(0);
    std::fs::remove_file(first).unwrap();
    let verified = verify(&own(folder.path()), SERVER, None).unwrap();
    assert!(
        matches!(
            verified.findings.first(),
            Some(Finding::Missing { first: 1, .. })
        ),
        "{:?}",
        verified.findings
    );
    assert_eq!(verified.breaks.len(), 1);
}

#[test]
fn a_log_that_is_gone_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    goes_on(folder.path(), &known(), (1, RECORDS));
    let read = entries(&own(folder.path())).unwrap();
    let read: Vec<_> = read.map(Result::unwrap).collect();
    let [Reading::Record(begun), Reading::Record(_)] = read.as_slice() else {
        panic!("{read:?}");
    };
    assert_eq!(begun.issued.user, "anna");
    assert!(begun.issued.subject.contains("replaced"));
}

#[test]
fn a_whole_log_is_not_begun_anew_and_a_damaged_end_is_left_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    chain().write(folder.path());
    let begun = begin_anew(&own(folder.path()), SERVER, Some(&known()), &ANEW);
    assert!(matches!(begun, Err(LogError::Whole { .. })), "{begun:?}");
    let last = segments(&own(folder.path())).pop().unwrap();
    let mut bytes = std::fs::read(&last).unwrap();
    let middle = bytes.iter().position(|it| *it == b'\n').unwrap() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&last, &bytes).unwrap();
    let (receipt, said) = begin_anew(&own(folder.path()), SERVER, Some(&known()), &ANEW).unwrap();
    assert_eq!(receipt.seq, RECORDS + 1);
    assert!(said.disk.records < RECORDS + 1);
    assert_eq!(std::fs::read(&last).unwrap(), bytes);
    let (log, _) = Log::open(&options(folder.path()), Some(&known())).unwrap();
    runtime().block_on(log.close());
    let verified = verify(&own(folder.path()), SERVER, None).unwrap();
    assert!(
        matches!(verified.findings.as_slice(), [Finding::Damaged { .. }]),
        "{:?}",
        verified.findings
    );
    assert_eq!(verified.breaks.len(), 1);
}
