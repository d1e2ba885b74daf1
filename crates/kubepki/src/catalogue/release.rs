//! K3s releases, and from which one on something holds.

use std::fmt;
use std::str::FromStr;

/// A K3s release by its Kubernetes version: `v1.33.1+k3s1` is `(33, 1)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Release {
    /// Kubernetes 1.`minor`.
    pub minor: u16,
    /// Patch level.
    pub patch: u16,
}

impl Release {
    /// Kubernetes 1.`minor`.`patch`.
    pub const fn of(minor: u16, patch: u16) -> Self {
        Self { minor, patch }
    }
}

/// A text that names no release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a K3s version; write it as v1.33.1 or v1.33.1+k3s1")]
pub struct ReleaseError {
    text: String,
}

impl FromStr for Release {
    type Err = ReleaseError;

    fn from_str(text: &str) -> Result<Self, ReleaseError> {
        let bad = || ReleaseError {
            text: text.to_owned(),
        };
        let version = text.trim().strip_prefix('v').unwrap_or(text.trim());
        let version = version.split(['+', '-']).next().unwrap_or_default();
        let mut parts = version.split('.');
        let (Some("1"), Some(minor), patch, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        let minor = minor.parse().map_err(|_| bad())?;
        let patch = patch.map_or(Ok(0), str::parse).map_err(|_| bad())?;
        Ok(Self { minor, patch })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1.{}.{}", self.minor, self.patch)
    }
}

/// The first release of each branch that has something; empty means it was always there.
///
/// K3s ports changes back, so one number would lie about the older branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since(pub &'static [Release]);

impl Since {
    /// Always there.
    pub const ALWAYS: Self = Self(&[]);

    /// Whether `release` has it: its branch is newer than all named, or named and reached.
    pub fn includes(self, release: Release) -> bool {
        let Some(newest) = self.0.iter().max() else {
            return true;
        };
        release.minor > newest.minor
            || self
                .0
                .iter()
                .any(|first| first.minor == release.minor && first.patch <= release.patch)
    }

    /// The oldest release that has it; `None` if it was always there.
    pub fn oldest(self) -> Option<Release> {
        self.0.iter().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_k3s_prints() {
        for text in ["v1.33.1+k3s1", "1.33.1", "v1.33.1-rc1+k3s1", " v1.33.1\n"] {
            assert_eq!(
                text.parse(),
                Ok(Release {
                    minor: 33,
                    patch: 1
                })
            );
        }
        for text in ["", "v2.1.0", "1.x.3", "1.2.3.4", "latest"] {
            assert!(text.parse::<Release>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_backport_counts_in_its_branch_only() {
        const SINCE: Since = Since(&[
            Release {
                minor: 33,
                patch: 1,
            },
            Release {
                minor: 32,
                patch: 5,
            },
        ]);
        let has = |minor, patch| SINCE.includes(Release { minor, patch });
        assert!(has(33, 1) && has(34, 0) && has(32, 5) && has(32, 9));
        assert!(!has(33, 0) && !has(32, 4) && !has(31, 99));
    }
}
