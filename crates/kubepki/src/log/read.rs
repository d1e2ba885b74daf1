//! Reading a log record by record.

use std::collections::BTreeSet;
use std::path::Path;

use pki::{Serial, UnixTime};

use super::line::{self, Entry};
use super::segment::{self, Segment};
use super::{LogError, Place, checked};

/// The servers whose chains lie in `directory`, sorted. No directory is no chain.
///
/// # Errors
///
/// When it cannot be read.
pub fn chains(directory: &Path) -> Result<Vec<String>, LogError> {
    let failed = |error| LogError::file("list", directory, error);
    let found = match std::fs::read_dir(directory) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in found {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && checked(&name).is_ok() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// One line of a log, as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A record whose own hash is right. Whether it follows the one before is for
    /// [`super::verify`] to say.
    Record(Box<Entry>),
    /// A line that is none; nothing of it is to be believed.
    Damaged(Place),
}

/// Every line of the chain in `directory` (one server's), in order. Segments are read one by one.
///
/// # Errors
///
/// When the directory cannot be listed; each item can fail where a segment cannot be read.
pub fn entries(
    directory: &Path,
) -> Result<impl Iterator<Item = Result<Reading, LogError>> + use<>, LogError> {
    let segments = segment::list(directory)?;
    Ok(segments.into_iter().flat_map(|it| of_segment(&it)))
}

fn of_segment(segment: &Segment) -> Vec<Result<Reading, LogError>> {
    let bytes = match segment.read() {
        Ok(bytes) => bytes,
        Err(error) => return vec![Err(error)],
    };
    let read = |(number, (offset, text, ended)): (u64, (usize, &[u8], bool))| {
        let place = Place {
            segment: segment.name(),
            line: number,
            offset: offset as u64,
        };
        Ok(match line::entry(text, place.clone()) {
            Ok(entry) if ended => Reading::Record(Box::new(entry)),
            _ => Reading::Damaged(place),
        })
    };
    (1_u64..).zip(segment::lines(&bytes)).map(read).collect()
}

/// Those of `leaves` (serial number and hash of the public key, hex, as records have them) that no
/// record of the chain in `directory` (one server's) is of: a serial number alone may be a forged
/// leaf's too. The newest segments are read first, and no more than it takes.
///
/// # Errors
///
/// When the directory or a segment cannot be read.
pub fn unrecorded(
    directory: &Path,
    mut leaves: BTreeSet<(String, String)>,
) -> Result<BTreeSet<(String, String)>, LogError> {
    let mut segments = segment::list(directory)?;
    while let Some(segment) = segments.pop()
        && !leaves.is_empty()
    {
        let bytes = segment.read()?;
        for (_, text, _) in segment::lines(&bytes) {
            // Most lines are of others: only those that are not are looked at closely.
            let Some(serial) = line::serial(text) else {
                continue;
            };
            if !leaves.iter().any(|(wanted, _)| wanted == serial) {
                continue;
            }
            if let Some(spki) = line::spki(text)
                && line::link(text).is_ok()
            {
                leaves.remove(&(serial.to_owned(), spki.to_owned()));
            }
        }
    }
    Ok(leaves)
}

/// Which records are wanted; all where nothing is said.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// For this node; names are in lower case.
    pub node: Option<String>,
    /// Issued at this moment or later.
    pub since: Option<UnixTime>,
    /// With this serial number.
    pub serial: Option<Serial>,
}

impl Filter {
    /// Whether a record is wanted.
    pub fn takes(&self, entry: &Entry) -> bool {
        let issued = &entry.issued;
        let node = self.node.as_ref();
        node.is_none_or(|node| issued.node.as_deref() == Some(node.to_lowercase().as_str()))
            && self.since.is_none_or(|since| issued.time >= since)
            && self.serial.as_ref().is_none_or(|it| issued.has_serial(it))
    }
}
