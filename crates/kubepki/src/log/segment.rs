//! Segments: the files that a chain is cut into.

use std::io;
use std::path::{Path, PathBuf};

use super::{Head, LogError};

/// `000000000001.jsonl`: named after its first record, so that names sort as records do.
pub(super) fn name(first: u64) -> String {
    format!("{first:0DIGITS$}{SUFFIX}")
}

const DIGITS: usize = 20;
const SUFFIX: &str = ".jsonl";

/// A segment's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) first: u64,
    pub(super) path: PathBuf,
}

impl Segment {
    pub(super) fn new(directory: &Path, first: u64) -> Self {
        Self {
            first,
            path: directory.join(name(first)),
        }
    }

    /// Its file name.
    pub(super) fn name(&self) -> String {
        name(self.first)
    }

    /// Its bytes.
    pub(super) fn read(&self) -> Result<Vec<u8>, LogError> {
        std::fs::read(&self.path).map_err(|error| LogError::file("read", &self.path, error))
    }
}

/// The segments in `directory`, by number; files with other names are none. No directory is no
/// segment.
pub(super) fn list(directory: &Path) -> Result<Vec<Segment>, LogError> {
    let failed = |error| LogError::file("list", directory, error);
    let found = match std::fs::read_dir(directory) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut segments = Vec::new();
    for entry in found {
        let entry = entry.map_err(failed)?;
        let file = entry.file_name();
        let number = file
            .to_str()
            .and_then(|it| it.strip_suffix(SUFFIX))
            .filter(|it| it.len() == DIGITS && it.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|it| it.parse().ok());
        segments.extend(number.map(|first| Segment::new(directory, first)));
    }
    segments.sort_by_key(|it| it.first);
    Ok(segments)
}

/// Lines of a segment with their offsets; the last has no end if it is unfinished.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8], bool)> {
    let mut offset = 0;
    bytes.split_inclusive(|byte| *byte == b'\n').map(move |it| {
        let at = offset;
        offset += it.len();
        match it.strip_suffix(b"\n") {
            Some(line) => (at, line, true),
            None => (at, it, false),
        }
    })
}

/// The first segment of a chain that goes on after `head`.
pub(super) fn after(directory: &Path, head: &Head) -> Segment {
    Segment::new(directory, head.records + 1)
}
