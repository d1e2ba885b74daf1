//! Room on the disks that a plan writes to.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::ApplyError;
use crate::plan::{Action, Plan, Target};
use crate::state::StateError;

/// Refuses when a disk could fill up in the middle: the one that keeps the state, and those that
/// hold the targets.
///
/// # Errors
///
/// [`ApplyError::NoSpace`], or when a file system cannot be asked.
pub(super) fn check(plan: &Plan, state: &Path) -> Result<(), ApplyError> {
    let mut wanted: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
    let mut want = |path: &Path, bytes: u64| -> Result<(), ApplyError> {
        let (place, device) = existing(path)?;
        let entry = wanted.entry(device).or_insert((place, 0));
        entry.1 = entry.1.saturating_add(bytes);
        Ok(())
    };
    want(state, JOURNAL_ROOM + STEP_ROOM * plan.steps.len() as u64)?;
    for step in &plan.steps {
        if let (Target::File { path, .. }, Action::Put { .. }) = (&step.target, &step.action) {
            want(path.parent().unwrap_or(path), TARGET_ROOM)?;
        }
    }
    for (path, needed) in wanted.into_values() {
        let statistics =
            rustix::fs::statvfs(&path).map_err(|error| unknown(&path, error.into()))?;
        let free = statistics.f_bavail.saturating_mul(statistics.f_frsize);
        if free < needed {
            return Err(ApplyError::NoSpace { path, free, needed });
        }
    }
    Ok(())
}

/// The nearest directory on the way to `path` that is there, and its device.
fn existing(path: &Path) -> Result<(PathBuf, u64), ApplyError> {
    for place in path.ancestors() {
        match std::fs::metadata(place) {
            Ok(metadata) => return Ok((place.to_owned(), metadata.dev())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unknown(place, error)),
        }
    }
    Err(unknown(path, io::ErrorKind::NotFound.into()))
}

fn unknown(path: &Path, source: io::Error) -> ApplyError {
    ApplyError::State(StateError::File {
        action: "see the free space of",
        path: path.to_owned(),
        source,
    })
}

/// Bytes of disk that a step may need beside the state: staged files and a backup.
const STEP_ROOM: u64 = 64 * 1024;
/// Bytes that a target may need: it is made beside the old one, and may be larger.
const TARGET_ROOM: u64 = 16 * 1024;
/// Bytes of disk for plan and journal.
const JOURNAL_ROOM: u64 = 512 * 1024;
