//! Whether a log is as it was written; and if not, where.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use pki::Digest;
use serde::Serialize;

use super::anew::{Break, KnownBreak, broken};
use super::line::{self, Damage, Link};
use super::segment::{self, Segment};
use super::{Head, LogError};

/// Where a line stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The segment's file name.
    pub segment: String,
    /// Its line, from 1.
    pub line: u64,
    /// The line's first byte in the file, from 0.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            segment,
            line,
            offset,
        } = self;
        write!(f, "{segment} line {line} (byte {offset})")
    }
}

/// Something in a log that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Finding {
    /// Bytes of these records were changed.
    Damaged {
        /// The first record that cannot be read.
        first: u64,
        /// The last of them.
        last: u64,
        /// Where the damage begins.
        place: Place,
        /// What was seen first.
        damage: String,
    },
    /// A line that is no record stands between two that belong together.
    Foreign {
        /// Where.
        place: Place,
    },
    /// Records are missing.
    Missing {
        /// The first.
        first: u64,
        /// The last.
        last: u64,
        /// The line before which they should stand.
        before: Place,
    },
    /// A record does not stand behind its predecessor.
    OutOfOrder {
        /// Its number.
        seq: u64,
        /// Where it stands.
        place: Place,
    },
    /// A second record with the same number: one of the two was put in.
    Twice {
        /// The number.
        seq: u64,
        /// Where the second stands.
        place: Place,
    },
    /// A record names a predecessor that is not there: the one before it was written anew.
    Replaced {
        /// The record before, which is not the one that was written first.
        seq: u64,
        /// Where the record after it stands.
        place: Place,
    },
    /// The last line is unfinished.
    Unfinished {
        /// The number that it would have.
        seq: u64,
        /// Where it begins.
        place: Place,
    },
    /// Records at the end are missing: the datastore knows of them.
    CutOff {
        /// The last record that is there.
        found: u64,
        /// The last one that the datastore knows.
        known: u64,
    },
    /// The record that the datastore knows as the last is another: everything was written anew.
    OtherHead {
        /// Its number.
        seq: u64,
        /// Where it stands.
        place: Place,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged {
                first,
                last,
                place,
                damage,
            } => write!(f, "{} damaged at {place}: {damage}", were(*first, *last)),
            Self::Foreign { place } => {
                write!(f, "a line that is no record was put in at {place}")
            }
            Self::Missing {
                first,
                last,
                before,
            } => write!(f, "{} removed before {before}", were(*first, *last)),
            Self::OutOfOrder { seq, place } => {
                write!(f, "record {seq} was moved to {place}")
            }
            Self::Twice { seq, place } => write!(
                f,
                "there are two records {seq}, the second at {place}: one was put in"
            ),
            Self::Replaced { seq, place } => write!(
                f,
                "record {seq} is not the one that was written first: the record after it, at \
                 {place}, names another"
            ),
            Self::Unfinished { seq, place } => write!(
                f,
                "record {seq} is unfinished at {place}: a crash left it, which the server's next \
                 start mends, or its end was changed or cut off"
            ),
            Self::CutOff { found, known } => write!(
                f,
                "the log ends with record {found}, and the datastore knows of record {known}: {} \
                 cut off",
                were(found + 1, *known)
            ),
            Self::OtherHead { seq, place } => write!(
                f,
                "record {seq} at {place} is not the one that the datastore knows: the log was \
                 written anew"
            ),
        }
    }
}

fn were(first: u64, last: u64) -> String {
    match first == last {
        true => format!("record {first} was"),
        false => format!("records {first} to {last} were"),
    }
}

/// What a chain was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// How many lines are whole records.
    pub records: u64,
    /// How many files.
    pub segments: usize,
    /// The end, as far as it can be believed.
    pub head: Head,
    /// Everything that is wrong, in the order of the files.
    pub findings: Vec<Finding>,
    /// Where the chain was begun anew, and what has been known to be missing since.
    pub breaks: Vec<KnownBreak>,
}

/// Reads the chain of `server` in `directory` (that server's own) from its first byte to its last.
///
/// `known` is the head in the datastore; without it, a chain that was cut off between two lines
/// or written anew from some record on cannot be told from a whole one.
///
/// # Errors
///
/// When a file cannot be read. What is wrong with the records is in the answer.
pub fn verify(directory: &Path, server: &str, known: Option<&Head>) -> Result<Verified, LogError> {
    let segments = segment::list(directory)?;
    let start = Head::start(server);
    let mut walk = Walk {
        next: 1,
        before: vec![start.hash],
        damaged: None,
        gaps: BTreeMap::new(),
        jump: None,
        early: BTreeSet::new(),
        records: 0,
        findings: Vec::new(),
        breaks: Vec::new(),
        known,
    };
    for segment in &segments {
        walk.segment(segment, &segment.read()?);
    }
    walk.end();
    let hash = walk.before.last().copied().unwrap_or(start.hash);
    Ok(Verified {
        records: walk.records,
        segments: segments.len(),
        head: Head {
            server: start.server,
            records: walk.next - 1,
            hash,
        },
        findings: walk.findings,
        breaks: walk.breaks,
    })
}

/// Lines that cannot be read, one after the other.
struct Run {
    first: u64,
    place: Place,
    damage: Damage,
    /// How many of them look like the beginning of a record.
    lines: u64,
}

/// A record that came where another was to come: moved to the front, or behind a gap.
struct Jump {
    wanted: u64,
    before: Vec<Digest>,
    seq: u64,
    place: Place,
}

struct Walk<'a> {
    /// The number that must come.
    next: u64,
    /// What it may name as its predecessor; empty for anything.
    before: Vec<Digest>,
    damaged: Option<Run>,
    /// Numbers that did not come: first to (last, place).
    gaps: BTreeMap<u64, (u64, Place)>,
    /// The record just read, if numbers before it did not come.
    jump: Option<Jump>,
    /// Records that stood before their predecessors.
    early: BTreeSet<u64>,
    records: u64,
    findings: Vec<Finding>,
    breaks: Vec<KnownBreak>,
    known: Option<&'a Head>,
}

impl Walk<'_> {
    fn segment(&mut self, segment: &Segment, bytes: &[u8]) {
        for (number, (offset, text, ended)) in (1_u64..).zip(segment::lines(bytes)) {
            let place = Place {
                segment: segment.name(),
                line: number,
                offset: offset as u64,
            };
            if !ended {
                self.settle(None);
                let seq = self.next;
                self.findings.push(Finding::Unfinished { seq, place });
                self.before.clear();
                continue;
            }
            match line::link(text) {
                Ok(link) => {
                    if let Some(said) = broken(text) {
                        self.begun_anew(link, &place, said);
                    }
                    self.record(link, place);
                }
                Err(damage) => self.damage(text, damage, place),
            }
        }
    }

    /// The chain was begun anew here. What was on the disk then must be there still.
    fn begun_anew(&mut self, link: Link, place: &Place, said: Break) {
        self.settle(None);
        let found = self.next.saturating_sub(1);
        let disk = &said.disk;
        if disk.records > found {
            let (first, last) = (self.next, disk.records);
            let before = place.clone();
            self.findings.push(Finding::Missing {
                first,
                last,
                before,
            });
        } else if disk.records == found
            && !self.before.is_empty()
            && !self.before.iter().any(|it| it.to_string() == disk.hash)
        {
            let (seq, place) = (found, place.clone());
            self.findings.push(Finding::Replaced { seq, place });
        }
        let first = self.next.max(disk.records.saturating_add(1));
        self.breaks.push(KnownBreak {
            seq: link.seq,
            first,
            last: link.seq.saturating_sub(1),
            said,
        });
        self.next = link.seq;
        self.before.clear();
        self.jump = None;
    }

    fn damage(&mut self, text: &[u8], damage: Damage, place: Place) {
        let looks = u64::from(line::begins(text));
        match &mut self.damaged {
            Some(run) => run.lines += looks,
            None => {
                self.damaged = Some(Run {
                    first: self.next,
                    place,
                    damage,
                    lines: looks,
                });
                self.before.clear();
            }
        }
    }

    /// Ends a run of damaged lines, where the record after it is `next` if there is one.
    fn settle(&mut self, next: Option<u64>) {
        let Some(run) = self.damaged.take() else {
            return;
        };
        let end = match next {
            Some(next) if next <= run.first => {
                self.findings.push(Finding::Foreign { place: run.place });
                self.before.clear();
                return;
            }
            Some(next) => next,
            None => run.first + run.lines.max(1),
        };
        self.findings.push(Finding::Damaged {
            first: run.first,
            last: end - 1,
            place: run.place,
            damage: run.damage.to_string(),
        });
        self.next = end;
    }

    fn record(&mut self, link: Link, place: Place) {
        self.settle(Some(link.seq));
        self.records += 1;
        if let Some(known) = self.known
            && known.records == link.seq
            && known.hash != link.hash
        {
            let (seq, place) = (link.seq, place.clone());
            self.findings.push(Finding::OtherHead { seq, place });
        }
        if let Some(jump) = self.jump.take()
            && (jump.wanted..jump.seq).contains(&link.seq)
        {
            // What was missing begins right behind it: it is the one that stands wrong.
            self.gaps.remove(&jump.wanted);
            self.early.insert(jump.seq);
            self.next = jump.wanted;
            self.before = jump.before;
            let (seq, place) = (jump.seq, jump.place);
            self.findings.push(Finding::OutOfOrder { seq, place });
        }
        while self.next < link.seq && self.early.remove(&self.next) {
            self.next += 1;
            self.before.clear();
        }
        if link.seq < self.next {
            return self.earlier(link, place);
        }
        if link.seq > self.next {
            let (wanted, seq) = (self.next, link.seq);
            self.gaps.insert(wanted, (seq - 1, place.clone()));
            let before = std::mem::take(&mut self.before);
            self.jump = Some(Jump {
                wanted,
                before,
                seq,
                place,
            });
        } else if !self.before.is_empty() && !self.before.contains(&link.prev) {
            let seq = link.seq - 1;
            self.findings.push(Finding::Replaced { seq, place });
        }
        self.next = link.seq.saturating_add(1);
        self.before = vec![link.hash];
    }

    /// A record whose number has passed.
    fn earlier(&mut self, link: Link, place: Place) {
        let seq = link.seq;
        let gap = self.gaps.range(..=seq).next_back();
        let gap = gap.map(|(first, (last, at))| (*first, *last, at.clone()));
        match gap {
            Some((first, last, at)) if seq <= last => {
                self.gaps.remove(&first);
                if first < seq {
                    self.gaps.insert(first, (seq - 1, at.clone()));
                }
                if seq < last {
                    self.gaps.insert(seq + 1, (last, at));
                }
                self.findings.push(Finding::OutOfOrder { seq, place });
            }
            _ => {
                // Which of the two the next record names cannot be known yet.
                if seq + 1 == self.next && !self.before.is_empty() {
                    self.before.push(link.hash);
                }
                self.findings.push(Finding::Twice { seq, place });
            }
        }
    }

    fn end(&mut self) {
        self.settle(None);
        while self.early.remove(&self.next) {
            self.next += 1;
        }
        for (first, (last, before)) in std::mem::take(&mut self.gaps) {
            self.findings.push(Finding::Missing {
                first,
                last,
                before,
            });
        }
        let found = self.next - 1;
        if let Some(known) = self.known.map(|it| it.records)
            && known > found
        {
            self.findings.push(Finding::CutOff { found, known });
        }
        self.findings.sort_by_key(Finding::position);
    }
}

impl Finding {
    /// Where in the files it stands, for sorting.
    fn position(&self) -> (String, u64) {
        match self {
            Self::Damaged { place, .. }
            | Self::Foreign { place }
            | Self::Missing { before: place, .. }
            | Self::OutOfOrder { place, .. }
            | Self::Twice { place, .. }
            | Self::Replaced { place, .. }
            | Self::Unfinished { place, .. }
            | Self::OtherHead { place, .. } => (place.segment.clone(), place.line),
            // Behind every segment's name.
            Self::CutOff { .. } => ("~".to_owned(), 0),
        }
    }

    /// The first record that it is about, where that can be told.
    pub fn seq(&self) -> Option<u64> {
        match self {
            Self::Damaged { first, .. } | Self::Missing { first, .. } => Some(*first),
            Self::OutOfOrder { seq, .. }
            | Self::Twice { seq, .. }
            | Self::Replaced { seq, .. }
            | Self::Unfinished { seq, .. }
            | Self::OtherHead { seq, .. } => Some(*seq),
            Self::CutOff { found, .. } => Some(found + 1),
            Self::Foreign { .. } => None,
        }
    }
}
