//! Why CAs cannot be made, taken or staged.

use std::path::PathBuf;

use super::CaName;
use crate::bootstrap::ReadError;
use crate::host::HostError;

/// CAs that cannot be made, taken or staged. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file or certificate that was given and cannot be used.
    #[error("{what} {problem}")]
    Given {
        /// The file, or the certificate's place in it.
        what: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Several of them.
    #[error(
        "these CA files cannot be used:{}",
        faults.iter().map(|(what, problem)| format!("\n  {what} {problem}")).collect::<String>()
    )]
    Faults {
        /// What, and what is wrong with it.
        faults: Vec<(String, String)>,
    },
    /// A CA in force that nothing can follow in the way that was asked for.
    #[error("the {ca} CA: {problem}")]
    Live {
        /// Which one.
        ca: CaName,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The CAs in force are not all there.
    #[error(
        "the CAs in force are incomplete: {} missing; take what is missing from the datastore or \
         a backup first", missing.join(", ")
    )]
    Incomplete {
        /// Paths under `server/`.
        missing: Vec<String>,
    },
    /// A key or certificate file.
    #[error("{} cannot be used", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: pki::Error,
    },
    /// The cryptographic library, or a rule for what is issued, said no.
    #[error("cannot make {what}")]
    Make {
        /// What was to be made.
        what: String,
        /// Why.
        #[source]
        source: pki::Error,
    },
    /// A directory of a running or stopped cluster where a set must not be written.
    #[error(
        "{} {}: name a directory of its own, outside {}",
        path.display(), why, live.display()
    )]
    LiveDirectory {
        /// What was named.
        path: PathBuf,
        /// "is the live tls directory", "lies in …".
        why: &'static str,
        /// The live directory.
        live: PathBuf,
    },
    /// A directory that something lies in.
    #[error("{} is not empty: name another directory, or move away what is in it", path.display())]
    NotEmpty {
        /// Where.
        path: PathBuf,
    },
    /// A directory that others can read or write, or that is none.
    #[error("{} {problem}", path.display())]
    Place {
        /// Where.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Files that were to be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Writing failed.
    #[error("cannot {action} {}", path.display())]
    Write {
        /// "write", "make", "rename".
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
