//! Opening a log to add to it: the end is found, held to the datastore's head, and mended.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::line::{self, Damage, Link};
use super::segment::{self, Segment};
use super::{Head, LogError, Place};
use crate::edge::file;
use crate::host::Attributes;

/// What a crash had left at the end of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mended {
    /// The last record lacked nothing but its line's end; it is kept.
    Completed {
        /// Its number.
        seq: u64,
    },
    /// An unfinished line was cut off. Nobody had been told that the record is in the log.
    CutOff {
        /// The number that the record would have had.
        seq: u64,
        /// How long the piece was.
        bytes: u64,
    },
}

/// A log's end, and the lock on it.
#[derive(Debug)]
pub(super) struct End {
    pub(super) head: Head,
    /// The last segment, open for adding.
    pub(super) file: File,
    pub(super) segment: Segment,
    pub(super) length: u64,
    pub(super) lock: Lock,
    pub(super) mended: Option<Mended>,
}

/// Held while a log is open for adding.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    /// Lets go at once: closing would not while a child that was just forked has a copy.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// Opens or begins the chain of `server` in `directory`. `known` is what the datastore knows of
/// it: where that is more than what is there, nothing is changed.
pub(super) fn open(directory: &Path, server: &str, known: Option<&Head>) -> Result<End, LogError> {
    make(directory)?;
    let lock = take_lock(directory)?;
    let mut segments = segment::list(directory)?;
    let mut head = Head::start(server);
    // A segment that was made just before a crash is still empty: the end is in the one before.
    while segments.len() > 1 && segments.last().is_some_and(is_empty) {
        segments.pop();
    }
    let scanned = match segments.pop() {
        None => None,
        Some(last) => {
            let bytes = last.read()?;
            let found = scan(directory, &last, &bytes, &head, known)?;
            Some((last, found))
        }
    };
    let (segment, found) = match scanned {
        Some((segment, found)) => (segment, found),
        None => (segment::after(directory, &head), Scanned::default()),
    };
    if let Some(link) = &found.last {
        head.records = link.seq;
        head.hash = link.hash;
    }
    hold_to(directory, &head, &found, known)?;
    let (file, length) = prepare(&segment, &found)?;
    Ok(End {
        head,
        file,
        segment,
        length,
        lock,
        mended: found.mended,
    })
}

fn is_empty(segment: &Segment) -> bool {
    std::fs::metadata(&segment.path).is_ok_and(|it| it.len() == 0)
}

/// What the last segment holds.
#[derive(Debug, Default)]
struct Scanned {
    last: Option<Link>,
    /// The record that the datastore knows as the last, if it is in this segment.
    at_known: Option<Link>,
    /// Up to where the segment is whole.
    good: u64,
    mended: Option<Mended>,
}

fn scan(
    directory: &Path,
    segment: &Segment,
    bytes: &[u8],
    start: &Head,
    known: Option<&Head>,
) -> Result<Scanned, LogError> {
    let mut found = Scanned::default();
    let damaged_at = |line, offset: usize, damage| LogError::Damaged {
        place: Place {
            segment: segment.name(),
            line,
            offset: offset as u64,
        },
        damage,
        directory: directory.to_owned(),
    };
    if bytes.is_empty() && segment.first != start.records + 1 {
        return Err(damaged_at(1, 0, Damage::Sequence));
    }
    for (number, (offset, line, ended)) in (1_u64..).zip(segment::lines(bytes)) {
        let damaged = |damage| damaged_at(number, offset, damage);
        let seq = found.last.map_or(segment.first, |it| it.seq + 1);
        let link = match line::link(line) {
            Ok(link) => link,
            // A whole record with something after it is no piece of one.
            Err(_) if !ended && whole_inside(line).is_none() => {
                let bytes = line.len() as u64;
                found.mended = Some(Mended::CutOff { seq, bytes });
                return Ok(found);
            }
            Err(damage) => return Err(damaged(damage)),
        };
        let follows = match found.last {
            Some(last) => link.prev == last.hash,
            None => link.seq > 1 || link.prev == start.hash,
        };
        if link.seq != seq || !follows {
            return Err(damaged(Damage::Sequence));
        }
        if known.is_some_and(|known| known.records == seq) {
            found.at_known = Some(link);
        }
        found.last = Some(link);
        found.good = (offset + line.len()) as u64 + 1;
        if !ended {
            found.mended = Some(Mended::Completed { seq });
        }
    }
    Ok(found)
}

/// A record at the beginning of `line` that something follows, as where its line's end was
/// overwritten.
fn whole_inside(line: &[u8]) -> Option<Link> {
    let end = line.iter().rposition(|byte| *byte == b'}')?;
    line::link(line.get(..=end)?).ok()
}

fn hold_to(
    directory: &Path,
    head: &Head,
    found: &Scanned,
    known: Option<&Head>,
) -> Result<(), LogError> {
    let Some(known) = known else { return Ok(()) };
    let other = match found.at_known {
        Some(link) => link.hash != known.hash,
        None => known.records == head.records && known.hash != head.hash,
    };
    if known.records > head.records || other {
        return Err(LogError::CutOff {
            directory: directory.to_owned(),
            found: head.records,
            known: known.records,
        });
    }
    Ok(())
}

/// Opens the segment for adding, with nothing unfinished at its end.
fn prepare(segment: &Segment, found: &Scanned) -> Result<(File, u64), LogError> {
    let mut file = create(segment)?;
    let failed = |error| LogError::file("mend the end of", &segment.path, error);
    match found.mended {
        None => {}
        Some(Mended::CutOff { .. }) => {
            file.set_len(found.good).map_err(failed)?;
            file.sync_all().map_err(failed)?;
        }
        Some(Mended::Completed { .. }) => file::append(&mut file, b"\n").map_err(failed)?,
    }
    Ok((file, found.good))
}

/// Makes or opens a segment, 0600, for adding at its end.
pub(super) fn create(segment: &Segment) -> Result<File, LogError> {
    let path = &segment.path;
    let flags =
        OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
    let opened = File::from(opened.map_err(|error| LogError::file("open", path, error))?);
    file::sync_parent(path).map_err(|error| LogError::file("open", path, error))?;
    Ok(opened)
}

/// Makes `directory` and, where they are absent, the two above it: the state directory's.
fn make(directory: &Path) -> Result<(), LogError> {
    let mut absent: Vec<&Path> = directory
        .ancestors()
        .take(3)
        .filter(|path| !path.as_os_str().is_empty() && !path.is_dir())
        .collect();
    while let Some(path) = absent.pop() {
        file::make_directory(path, &Attributes::new(0o700))
            .map_err(|error| LogError::file("make", path, error))?;
    }
    Ok(())
}

pub(super) fn take_lock(directory: &Path) -> Result<Lock, LogError> {
    let path = directory.join("lock");
    let failed = |error: rustix::io::Errno| LogError::file("lock", &path, error);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    let lock = File::from(opened);
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(LogError::Locked {
            directory: directory.to_owned(),
        }),
        Err(error) => Err(failed(error)),
    }
}
