//! Which K3s release wrote a tree, as far as its files tell.

use crate::catalogue::{Release, Row};

use super::ObservedRow;

/// What is known of the release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectedRelease {
    /// Told by the operator or by the binary.
    Known(Release),
    /// Files that exist since this release are there; the real one may be newer.
    AtLeast(Release),
    /// No file tells.
    Unknown,
}

impl DetectedRelease {
    /// From the rows that are there: the newest among the oldest releases that can have them.
    pub(super) fn from_rows(rows: &[ObservedRow]) -> Self {
        let oldest = |row: &Row| row.since.oldest();
        // A key that older releases keep beside a certificate says nothing while that is there.
        let told = |observed: &&ObservedRow| {
            observed.file.present().is_some()
                && !rows.iter().any(|other| {
                    other.file.present().is_some()
                        && other
                            .key
                            .as_ref()
                            .is_some_and(|key| key.path == observed.file.path)
                })
        };
        rows.iter()
            .filter(told)
            .filter_map(|observed| oldest(observed.row))
            .max()
            .map_or(Self::Unknown, Self::AtLeast)
    }

    /// Whether the row can be expected: certain for a known release, else only when a row that
    /// came with it or later is there.
    pub fn expects(self, row: &Row) -> bool {
        match self {
            Self::Known(release) => row.exists_in(release),
            // A release that is only known from below may have left the row behind already.
            Self::AtLeast(release) => {
                row.until.is_none() && row.since.oldest().is_none_or(|first| first <= release)
            }
            Self::Unknown => row.until.is_none() && row.since.oldest().is_none(),
        }
    }

    /// The window in days inside which a start renews a leaf: 120 from v1.33.1, v1.32.5, v1.31.9
    /// and v1.30.13 on, 90 before (reference section 2.4). Serving certificates of scheduler and
    /// controller manager came with the same releases, so a tree that has them has the new window.
    pub fn renewal_window_days(self) -> i64 {
        const LONGER: crate::catalogue::Since = crate::catalogue::Since(&[
            Release::of(33, 1),
            Release::of(32, 5),
            Release::of(31, 9),
            Release::of(30, 13),
        ]);
        let longer = match self {
            Self::Known(release) => LONGER.includes(release),
            Self::AtLeast(release) => LONGER.oldest().is_some_and(|first| first <= release),
            Self::Unknown => false,
        };
        if longer { 120 } else { 90 }
    }
}
