//! How a command ends: exit codes, and errors with a way out.

use std::io;
use std::process::ExitCode;

use kubepki::error_chain;
use kubepki::rke::rotate::RotateError;

use crate::output;

/// Exit codes of the native commands; the drop-in ones have the originals'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Fine, or done.
    Fine = 0,
    /// Failed, and nothing was changed.
    Failed = 1,
    /// The command was not said right.
    Usage = 2,
    /// Something is due.
    Due = 3,
    /// Something has expired or is broken.
    Broken = 4,
    /// Refused, or the plan is stale.
    Refused = 5,
    /// Interrupted: `kubepki resume` or `kubepki undo`.
    Interrupted = 6,
    /// Done in part.
    Partial = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error at the top: how it ends, what it is, what to do.
#[derive(Debug)]
pub struct CliError {
    /// The exit code.
    pub exit: Exit,
    /// What is wrong.
    pub message: String,
    /// What to do, if the message does not say.
    pub hint: Option<String>,
}

impl CliError {
    /// A failure before anything was changed.
    pub fn failed(error: &(dyn std::error::Error + 'static)) -> Self {
        Self {
            exit: Exit::Failed,
            message: error_chain(error),
            hint: way_out(error).map(str::to_owned),
        }
    }

    /// A refusal.
    pub fn refused(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Refused,
            message: message.into(),
            hint: None,
        }
    }

    /// An argument that cannot be understood.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            message: message.into(),
            hint: None,
        }
    }

    /// A failure in words.
    pub fn message(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Failed,
            message: message.into(),
            hint: None,
        }
    }

    /// Why a rotation of an RKE cluster is not planned.
    pub fn from_rotation(error: &RotateError) -> Self {
        let text = error_chain(error);
        let refusal = match error.is_usage() {
            true => Self::usage(text),
            false => Self::refused(text),
        };
        match error.advice() {
            Some(advice) => refusal.hint(advice),
            None => refusal,
        }
    }

    /// The same about the files of an RKE cluster, which are the operator's own.
    #[must_use]
    pub fn of_cluster(mut self) -> Self {
        if self.hint.as_deref() == Some(K3S_USER) {
            self.hint = Some(OPERATOR.to_owned());
        }
        self
    }

    /// With something to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Tells the operator and ends.
    pub fn report(self) -> ExitCode {
        output::talk(&format!("kubepki: {}", self.message));
        if let Some(hint) = self.hint {
            output::talk(&format!("  {hint}"));
        }
        self.exit.into()
    }
}

const K3S_USER: &str = "run it as the user that K3s runs as: root";
const OPERATOR: &str = "run it as the user whom cluster.yml and the files beside it belong to";

/// What to do where the operating system refused something.
fn way_out(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match error.kind() {
                io::ErrorKind::PermissionDenied => Some(K3S_USER),
                io::ErrorKind::ReadOnlyFilesystem => {
                    Some("the file system is mounted read-only: remount it for writing first")
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Some("make room on that file system first")
                }
                _ => None,
            };
        }
        cause = error.source();
    }
    None
}

impl<E: std::error::Error + 'static> From<E> for CliError {
    fn from(error: E) -> Self {
        Self::failed(&error)
    }
}
