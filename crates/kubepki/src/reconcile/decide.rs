//! K3s's rules at start, as a table (reference section 4.6).

use std::path::Path;

use super::ReconcileError;
use crate::bootstrap::{Comparison, Verdict};

/// Which side counts where they differ, by the operator's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The datastore's files replace the disk's, newer ones too.
    Datastore,
    /// The disk's files go into the datastore.
    Disk,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Every file of the data is written out.
    WriteAll,
    /// Both sides are the same.
    Leave,
    /// The disk's files become the datastore's.
    SaveDisk,
}

/// Decides. `server` is the directory that K3s's words name files in.
///
/// | K3s finds | no word | `--keep datastore` | `--keep disk` | `--cluster-reset` |
/// |---|---|---|---|---|
/// | `cred`, `tls` or `tls/etcd` missing or empty | write all | write all | refused | write all |
/// | everything the same | leave | leave | leave | write all |
/// | something missing, or different and not newer on disk | write all | write all | save the disk's | write all |
/// | something different and newer on disk by 3 s | refused: K3s dies | write all | save the disk's | write all |
///
/// # Errors
///
/// [`ReconcileError::Newer`], [`ReconcileError::NothingToKeep`].
pub fn decide(
    comparison: &Comparison,
    keep: Option<Keep>,
    cluster_reset: bool,
    server: &Path,
) -> Result<Decision, ReconcileError> {
    if cluster_reset {
        return Ok(Decision::WriteAll);
    }
    match (comparison.verdict(), keep) {
        (Verdict::WriteAll, Some(Keep::Disk)) => Err(ReconcileError::NothingToKeep {
            directories: comparison.wiped.clone(),
        }),
        (Verdict::WriteAll, None | Some(Keep::Datastore)) => Ok(Decision::WriteAll),
        (Verdict::Same, _) => Ok(Decision::Leave),
        (Verdict::Update | Verdict::Dies, Some(Keep::Disk)) => Ok(Decision::SaveDisk),
        (Verdict::Update, None) | (Verdict::Update | Verdict::Dies, Some(Keep::Datastore)) => {
            Ok(Decision::WriteAll)
        }
        (Verdict::Dies, None) => Err(ReconcileError::Newer {
            words: comparison.k3s_words(server).unwrap_or_default(),
        }),
    }
}
