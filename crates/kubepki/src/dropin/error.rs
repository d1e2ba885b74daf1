//! What K3s ends with `level=fatal msg="Error: …"`.

use std::io;
use std::path::{Path, PathBuf};

use pki::UnixTime;

use super::go;
use crate::error_chain;
use crate::host::HostError;

/// Why a drop-in command failed; its text, with what it came from, follows `Error: ` in the last
/// line. K3s's own words where it has any.
#[derive(Debug, thiserror::Error)]
pub enum DropinError {
    /// Services that do not exist.
    #[error("{}; known services: {known}", unknown_services(names))]
    UnknownService {
        /// Those named.
        names: Vec<String>,
        /// Those that there are, joined by commas.
        known: String,
    },
    /// `--output` names no format.
    #[error("invalid output format {format}")]
    OutputFormat {
        /// What was given.
        format: String,
    },
    /// A clock that was never set.
    #[error("server time isn't set properly: {}", go::time_string(*now))]
    Clock {
        /// What it says.
        now: UnixTime,
    },
    /// A file operation failed; Go's words for it.
    #[error("{operation} {}: {reason}", path.display())]
    File {
        /// `open`, `read`, `stat`.
        operation: &'static str,
        /// Where, as the operator wrote it.
        path: PathBuf,
        /// The system's reason, as Go words it.
        reason: String,
    },
    /// Something in the way of a complete backup.
    #[error("cannot back up {}, so nothing was changed; move it elsewhere and run again", path.display())]
    Unsaved {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: HostError,
    },
    /// A directory where a file belongs.
    #[error(
        "{} is a directory where a file belongs, so nothing was changed; move it elsewhere and run again",
        path.display()
    )]
    Directory {
        /// Where.
        path: PathBuf,
    },
    /// Neither server nor agent has ever run here.
    #[error(
        "neither {} nor {} exists; name the data directory with --data-dir",
        server.display(),
        agent.display()
    )]
    NoTree {
        /// `<data>/server`.
        server: PathBuf,
        /// `<data>/agent`.
        agent: PathBuf,
    },
}

fn unknown_services(names: &[String]) -> String {
    let each: Vec<_> = names
        .iter()
        .map(|name| format!("service {name} is not recognized"))
        .collect();
    each.join(", ")
}

impl DropinError {
    /// A failed read or stat in Go's words; `path` is how the operator wrote it.
    pub(super) fn file(operation: &'static str, path: &Path, error: &HostError) -> Self {
        let reason = match error {
            HostError::File { source, .. } => go::io_error(source),
            other => error_chain(other),
        };
        Self::File {
            operation,
            path: path.to_owned(),
            reason,
        }
    }

    /// The same where nothing is there.
    pub(super) fn missing(operation: &'static str, path: &Path) -> Self {
        let reason = go::io_error(&io::Error::from_raw_os_error(
            rustix::io::Errno::NOENT.raw_os_error(),
        ));
        Self::File {
            operation,
            path: path.to_owned(),
            reason,
        }
    }
}
