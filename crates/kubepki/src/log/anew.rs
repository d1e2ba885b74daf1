//! A log whose end is lost goes on: its next record says that something is missing, since when,
//! who knew it, and why.
//!
//! ```text
//! …,"prev":"<hash that the datastore knew>","break":{"time":…,"by":…,"why":…,
//!   "disk":{"records":5,"hash":…},"datastore":{"records":9,"hash":…}},"hash":…
//! ```
//!
//! Its number follows the last one that anybody knew of, so that the head in the datastore never
//! goes back. What was on the disk stays where it is, in the segments before.

use std::cmp::Ordering;
use std::fmt;
use std::path::Path;

use pki::UnixTime;
use serde::{Deserialize, Serialize};

use super::line::{self, Damage, Entry, Link};
use super::segment::{self, Segment};
use super::{Head, Issued, LogError, Place, Receipt, open};
use crate::edge::file;
use crate::host::Attributes;
use crate::plan::unix_time;

/// A record that says where a chain was begun anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Break {
    /// When it was begun anew.
    #[serde(with = "unix_time")]
    pub time: UnixTime,
    /// Whose chain.
    pub server: String,
    /// Who did it.
    pub by: String,
    /// Why.
    pub why: String,
    /// The last record that was on the disk and could be believed.
    pub disk: Anchor,
    /// The last one that the datastore knew of; `None` if it held no head.
    pub datastore: Option<Anchor>,
}

/// A place in a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// A record's number, or 0 for the beginning.
    pub records: u64,
    /// Its hash, hex.
    pub hash: String,
}

impl From<&Head> for Anchor {
    fn from(head: &Head) -> Self {
        Self {
            records: head.records,
            hash: head.hash.to_string(),
        }
    }
}

/// Records that are known to be missing: whoever began the chain anew wrote it down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KnownBreak {
    /// The number of the record that says so.
    pub seq: u64,
    /// The first record that is missing; after [`Self::last`] if none is.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// What the record says.
    pub said: Break,
}

impl fmt::Display for KnownBreak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Break { time, by, why, .. } = &self.said;
        let (first, last) = (self.first, self.last);
        let what = match first.cmp(&last) {
            Ordering::Greater => "nothing is".to_owned(),
            Ordering::Equal => format!("record {first} is"),
            Ordering::Less => format!("records {first} to {last} are"),
        };
        write!(
            f,
            "begun anew with record {} by {by} on {time} ({why}): {what} missing",
            self.seq
        )
    }
}

/// What a chain is begun anew with.
#[derive(Clone, Copy, Debug)]
pub struct Anew<'a> {
    /// Who does it.
    pub by: &'a str,
    /// Why.
    pub why: &'a str,
    /// When.
    pub now: UnixTime,
}

/// Lets the chain of `server` in `directory` (that server's own) go on behind what is lost.
/// `known` is the head in the datastore. Answers the record that says so, which
/// [`super::publish`] has to tell the datastore of; the server's next start does it too.
///
/// # Errors
///
/// [`LogError::Whole`] when nothing is lost: then nothing is changed.
pub fn begin_anew(
    directory: &Path,
    server: &str,
    known: Option<&Head>,
    anew: &Anew<'_>,
) -> Result<(Receipt, Break), LogError> {
    super::checked(server)?;
    match open::open(directory, server, known) {
        Ok(_) => {
            let directory = directory.to_owned();
            return Err(LogError::Whole { directory });
        }
        Err(LogError::CutOff { .. } | LogError::Damaged { .. }) => {}
        Err(other) => return Err(other),
    }
    let _lock = open::take_lock(directory)?;
    let (disk, highest) = on_disk(directory, server)?;
    let written = Break {
        time: anew.now,
        server: server.to_owned(),
        by: anew.by.to_owned(),
        why: anew.why.to_owned(),
        disk: (&disk).into(),
        datastore: known.map(Anchor::from),
    };
    let highest = known.map_or(highest, |known| highest.max(known.records));
    let prev = match known {
        Some(known) if known.records >= disk.records => known.hash,
        _ => disk.hash,
    };
    let seq = highest.saturating_add(1);
    let segment = Segment::new(directory, seq);
    let body = serde_json::to_string(&written)
        .map_err(|error| LogError::file("write a record to", &segment.path, error))?;
    let mut bytes = Vec::new();
    let body = format!("\"break\":{body}");
    let hash = line::render(&mut bytes, seq, &prev, body.as_bytes());
    file::replace(&segment.path, &bytes, &Attributes::new(0o600))
        .map_err(|error| LogError::file("write", &segment.path, error))?;
    Ok((Receipt { seq, hash }, written))
}

/// The last record on the disk that can be believed, and the highest number that a line there may
/// have.
fn on_disk(directory: &Path, server: &str) -> Result<(Head, u64), LogError> {
    let mut good = Head::start(server);
    let mut highest = 0;
    for segment in segment::list(directory)?.iter().rev() {
        let bytes = segment.read()?;
        let lines = u64::try_from(segment::lines(&bytes).count()).unwrap_or(u64::MAX);
        highest = highest.max(segment.first.saturating_sub(1).saturating_add(lines));
        let links = segment::lines(&bytes).filter_map(|(_, text, _)| line::link(text).ok());
        if let Some(last) = links.last() {
            good.records = last.seq;
            good.hash = last.hash;
            break;
        }
    }
    Ok((good, highest))
}

/// What follows `prev` in such a record.
const BEFORE_BREAK: &str = ",\"break\":";

/// What a line (whose hash is right) says of a break; `None` if it is another record.
pub(super) fn broken(line: &[u8]) -> Option<Break> {
    #[derive(Deserialize)]
    struct Whole {
        r#break: Break,
    }
    let text = str::from_utf8(line).ok()?;
    // No other record's second member has that name.
    let (_, after) = text.split_once("\"prev\":\"")?;
    let (_, after) = after.split_once('"')?;
    if !after.starts_with(BEFORE_BREAK) {
        return None;
    }
    let whole: Whole = serde_json::from_str(text).ok()?;
    Some(whole.r#break)
}

/// The break as a record, so that lists of records have it where it belongs.
pub(super) fn entry(line: &[u8], link: Link, place: Place) -> Result<Entry, Damage> {
    let Break {
        time,
        server,
        by,
        why,
        ..
    } = broken(line).ok_or(Damage::Form)?;
    let Link { seq, prev, hash } = link;
    let issued = Issued {
        time,
        server,
        endpoint: "log begin-anew".to_owned(),
        user: by,
        credential: "none".to_owned(),
        peer: None,
        node: None,
        subject: format!("begun anew: {why}"),
        sans: Vec::new(),
        spki: String::new(),
        serial: String::new(),
        not_after: time,
    };
    Ok(Entry {
        seq,
        prev,
        hash,
        issued,
        place,
        text: String::from_utf8_lossy(line).into_owned(),
    })
}
