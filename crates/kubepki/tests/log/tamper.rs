//! Bytes flipped, records removed, moved, put in, cut off, written anew.

use kubepki::log::{Finding, Verified};
use proptest::prelude::*;

use crate::{Chain, RECORDS, chain};

fn seqs(verified: &Verified) -> Vec<Option<u64>> {
    verified.findings.iter().map(Finding::seq).collect()
}

/// The number of the record whose line holds byte `at` of all.
fn record_at(chain: &Chain, at: usize) -> (String, usize, u64) {
    let mut before = 0;
    for ((name, range), seq) in chain.lines().into_iter().zip(1..) {
        if at < before + range.len() {
            return (name, range.start + at - before, seq);
        }
        before += range.len();
    }
    panic!("byte {at} is behind the end");
}

fn length() -> usize {
    chain().files.values().map(Vec::len).sum()
}

#[test]
fn an_untouched_chain_is_whole() {
    for verified in chain().verified() {
        assert_eq!(verified.findings, []);
        assert_eq!(verified.records, RECORDS);
        assert_eq!(verified.head, chain().head);
        assert_eq!(verified.segments, chain().files.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_flipped_byte_is_found_at_its_record(at in 0..length(), bits in 1_u8..) {
        let (name, offset, seq) = record_at(chain(), at);
        let mut changed = chain().clone();
        changed.files.get_mut(&name).unwrap()[offset] ^= bits;
        for verified in changed.verified() {
            prop_assert!(!verified.findings.is_empty());
            prop_assert_eq!(verified.findings[0].seq(), Some(seq), "{:?}", verified.findings);
            // Where the end of a line is gone, the next one is gone too; never more.
            let records = chain().lines().len() as u64;
            prop_assert!(verified.records >= records - 2, "{:?}", verified);
        }
    }

    #[test]
    fn removed_records_are_named(first in 1..=RECORDS, count in 1..=4_u64) {
        let last = (first + count - 1).min(RECORDS);
        let changed = chain().with(|lines| {
            lines.drain(first as usize - 1..last as usize);
        });
        let [with_head, without] = changed.verified();
        if last < RECORDS {
            for verified in [&with_head, &without] {
                let missing = matches!(
                    verified.findings.as_slice(),
                    [Finding::Missing { first: from, last: to, .. }] if (*from, *to) == (first, last)
                );
                prop_assert!(missing, "{:?}", verified.findings);
            }
        } else {
            // Only the datastore knows.
            prop_assert_eq!(without.findings, vec![]);
            let cut = Finding::CutOff { found: first - 1, known: RECORDS };
            prop_assert_eq!(with_head.findings, vec![cut]);
        }
    }

    #[test]
    fn swapped_records_are_found_between_their_places(one in 0..RECORDS, other in 0..RECORDS) {
        prop_assume!(one != other);
        let (low, high) = (one.min(other), one.max(other));
        let changed = chain().with(|lines| {
            let (left, right) = (lines[low as usize].1.clone(), lines[high as usize].1.clone());
            lines[low as usize].1 = right;
            lines[high as usize].1 = left;
        });
        for verified in changed.verified() {
            prop_assert!(!verified.findings.is_empty());
            for finding in &verified.findings {
                let moved = matches!(
                    finding,
                    Finding::OutOfOrder { seq, .. } if (low + 1..=high + 1).contains(seq)
                );
                prop_assert!(moved, "{:?}", verified.findings);
            }
            if high - low != 2 {
                let moved = seqs(&verified);
                prop_assert!(moved.contains(&Some(high + 1)), "{:?}", moved);
                prop_assert!(moved.len() <= 2, "{:?}", moved);
            }
        }
    }

    #[test]
    fn a_cut_anywhere_is_found(at in 0..length()) {
        let (name, offset, seq) = record_at(chain(), at);
        let mut changed = chain().clone();
        changed.files.retain(|other, _| *other <= name);
        changed.files.get_mut(&name).unwrap().truncate(offset);
        let [with_head, without] = changed.verified();
        let inside = chain().lines().iter().all(|line| line.0 != name || line.1.start != offset);
        let cut = Finding::CutOff { found: seq - 1, known: RECORDS };
        prop_assert_eq!(with_head.findings.last(), Some(&cut));
        prop_assert_eq!(without.findings.len(), usize::from(inside));
        if inside {
            let unfinished = matches!(
                &without.findings[0],
                Finding::Unfinished { seq: at, place } if *at == seq && place.segment == name
            );
            prop_assert!(unfinished, "{:?}", without.findings);
        }
    }

    #[test]
    fn a_copied_record_is_found(from in 0..RECORDS as usize, to in 0..=RECORDS as usize) {
        let changed = chain().with(|lines| {
            let (text, place) = (lines[from].1.clone(), lines[to.min(RECORDS as usize - 1)].0.clone());
            lines.insert(to, (place, text));
        });
        for verified in changed.verified() {
            prop_assert!(!verified.findings.is_empty());
            for finding in &verified.findings {
                prop_assert!(
                    matches!(finding, Finding::Twice { .. } | Finding::OutOfOrder { .. }),
                    "{:?}", verified.findings
                );
            }
            prop_assert!(seqs(&verified).contains(&Some(from as u64 + 1)));
        }
    }

    #[test]
    fn a_line_of_rubbish_is_found_where_it_is(
        to in 0..RECORDS as usize,
        rubbish in "[ -~]{0,400}",
    ) {
        let changed = chain().with(|lines| {
            let place = lines[to].0.clone();
            lines.insert(to, (place, format!("{rubbish}\n").into_bytes()));
        });
        let begin = chain().lines()[to].clone();
        for verified in changed.verified() {
            let found = matches!(
                verified.findings.as_slice(),
                [Finding::Foreign { place }]
                    if place.segment == begin.0 && place.offset == begin.1.start as u64
            );
            prop_assert!(found, "{:?}", verified.findings);
        }
    }
}

#[test]
fn a_missing_segment_is_named_by_its_records() {
    let names: Vec<String> = chain().files.keys().cloned().collect();
    for name in &names {
        let lines = chain().lines();
        let numbers: Vec<u64> = lines
            .iter()
            .zip(1..)
            .filter(|(line, _)| line.0 == *name)
            .map(|(_, seq)| seq)
            .collect();
        let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
        let mut changed = chain().clone();
        changed.files.remove(name);
        let [with_head, without] = changed.verified();
        if name == &names[names.len() - 1] {
            let found = first - 1;
            let cut = Finding::CutOff {
                found,
                known: RECORDS,
            };
            assert_eq!(with_head.findings, [cut]);
            assert_eq!(without.findings, []);
        } else {
            for verified in [with_head, without] {
                let [
                    Finding::Missing {
                        first: from,
                        last: to,
                        before,
                    },
                ] = verified.findings.as_slice()
                else {
                    panic!("{:?}", verified.findings);
                };
                assert_eq!((*from, *to, before.line), (first, last, 1));
            }
        }
    }
}

/// A line that says what the forger wants, with the right hash.
fn forged(seq: u64, prev: &str, line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(line.to_vec()).unwrap();
    let (_, after) = text.split_once("\"time\"").unwrap();
    let (body, _) = after.split_once(",\"hash\":").unwrap();
    let body = body.replace("node-", "evil-");
    let content = format!("{{\"seq\":{seq},\"prev\":\"{prev}\",\"time\"{body}");
    let hash = pki::sha256(content.as_bytes());
    format!("{content},\"hash\":\"{hash}\"}}\n").into_bytes()
}

fn hash_of(line: &[u8]) -> String {
    let text = String::from_utf8(line.to_vec()).unwrap();
    text[text.len() - 67..text.len() - 3].to_owned()
}

#[test]
fn a_forged_record_between_two_is_found() {
    let changed = chain().with(|lines| {
        let before = hash_of(&lines[4].1);
        let line = forged(6, &before, &lines[5].1);
        let place = lines[5].0.clone();
        lines.insert(5, (place, line));
    });
    for verified in changed.verified() {
        assert_eq!(seqs(&verified), [Some(6)], "{:?}", verified.findings);
        assert!(matches!(verified.findings[0], Finding::Twice { .. }));
    }
}

#[test]
fn a_record_written_anew_is_found_by_the_one_after_it() {
    let changed = chain().with(|lines| {
        let before = hash_of(&lines[4].1);
        lines[5].1 = forged(6, &before, &lines[5].1);
    });
    for verified in changed.verified() {
        assert_eq!(seqs(&verified), [Some(6)], "{:?}", verified.findings);
        assert!(matches!(verified.findings[0], Finding::Replaced { .. }));
    }
}

#[test]
fn an_end_written_anew_is_found_by_the_head() {
    let changed = chain().with(|lines| {
        let mut before = hash_of(&lines[8].1);
        for (line, seq) in lines.iter_mut().zip(1..).skip(9) {
            line.1 = forged(seq, &before, &line.1);
            before = hash_of(&line.1);
        }
    });
    let [with_head, without] = changed.verified();
    assert_eq!(without.findings, []);
    assert_eq!(seqs(&with_head), [Some(RECORDS)]);
    assert!(matches!(with_head.findings[0], Finding::OtherHead { .. }));
}
