//! The datastore's files against a server directory's, by K3s's rules at start (reference section
//! 4.6).

use std::path::Path;

use serde::Serialize;

use super::words::{Seen, describe};
use super::{Bundle, Disk, Field, SharedFile};

/// How a file of the data stands on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// The same bytes on both sides; times do not matter.
    Same,
    /// K3s's next start writes it.
    MissingOnDisk,
    /// It differs, and K3s's next start replaces it by the datastore's.
    DatastoreWins,
    /// It differs and is newer on disk by three seconds or more: K3s does not start.
    DiskNewer,
    /// Not in the datastore; K3s does not look at it.
    OnlyOnDisk,
}

impl Standing {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::MissingOnDisk => "missing on disk",
            Self::DatastoreWins => "differs, the datastore's counts",
            Self::DiskNewer => "differs, newer on disk",
            Self::OnlyOnDisk => "only on disk",
        }
    }
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Its name in the data.
    pub name: &'static str,
    /// Its path under the server directory.
    pub path: &'static Path,
    /// How it stands.
    pub standing: Standing,
    /// The datastore's.
    pub datastore: Option<Seen>,
    /// The disk's.
    pub disk: Option<Seen>,
}

/// Every file that one of the sides has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// In order of the fields' names.
    pub lines: Vec<Line>,
    /// Directories that are missing or empty: for their sake K3s writes everything out and does
    /// not compare.
    pub wiped: Vec<String>,
}

/// What K3s makes of it when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A directory is missing or empty: everything is written out.
    WriteAll,
    /// Everything is the same.
    Same,
    /// Something differs or is missing: everything is written out.
    Update,
    /// Something is newer on disk: K3s does not start.
    Dies,
}

/// Seconds by which a differing file has to be newer on disk for K3s to give up.
pub const SKEW: i64 = 3;

/// Compares; nothing is read or written.
pub fn compare(bundle: &Bundle, disk: &Disk) -> Comparison {
    let line = |field: Field| {
        let (ours, theirs) = (bundle.files.get(&field), disk.bundle.files.get(&field));
        let standing = match (ours, theirs) {
            (None, None) => return None,
            (Some(_), None) => Standing::MissingOnDisk,
            (None, Some(_)) => Standing::OnlyOnDisk,
            (Some(data), Some(disk)) => standing(data, disk),
        };
        Some(Line {
            name: field.name(),
            path: field.path(),
            standing,
            datastore: ours.map(|file| describe(field, file)),
            disk: theirs.map(|file| describe(field, file)),
        })
    };
    Comparison {
        lines: Field::ALL.into_iter().filter_map(line).collect(),
        wiped: disk
            .wiped()
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
    }
}

fn standing(data: &SharedFile, disk: &SharedFile) -> Standing {
    if data.content == disk.content {
        return Standing::Same;
    }
    match disk.stamp.seconds.saturating_sub(data.stamp.seconds) >= SKEW {
        true => Standing::DiskNewer,
        false => Standing::DatastoreWins,
    }
}

impl Comparison {
    /// What K3s makes of it when it starts.
    pub fn verdict(&self) -> Verdict {
        let any = |wanted: &[Standing]| self.lines.iter().any(|it| wanted.contains(&it.standing));
        if !self.wiped.is_empty() {
            Verdict::WriteAll
        } else if any(&[Standing::DiskNewer]) {
            Verdict::Dies
        } else if any(&[Standing::MissingOnDisk, Standing::DatastoreWins]) {
            Verdict::Update
        } else {
            Verdict::Same
        }
    }

    /// The files that are newer on disk.
    pub fn newer_on_disk(&self) -> impl Iterator<Item = &Line> {
        let newer = |it: &&Line| it.standing == Standing::DiskNewer;
        self.lines.iter().filter(newer)
    }

    /// Whether one of the sides has something that the other has not, or differently.
    pub fn differs(&self) -> bool {
        self.lines.iter().any(|it| it.standing != Standing::Same)
    }

    /// K3s's last words where it does not start, of a server directory `server`.
    pub fn k3s_words(&self, server: &Path) -> Option<String> {
        if self.verdict() != Verdict::Dies {
            return None;
        }
        let paths: Vec<String> = self
            .newer_on_disk()
            .map(|it| server.join(it.path).display().to_string())
            .collect();
        Some(format!(
            "{} newer than datastore and could cause a cluster outage. Remove the file(s) from \
             disk and restart to be recreated from datastore.",
            paths.join(", ")
        ))
    }
}
