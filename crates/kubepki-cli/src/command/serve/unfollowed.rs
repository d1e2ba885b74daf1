//! Why a server does not follow the datastore.

use crate::error::CliError;

/// Why a server's files are not what the datastore holds.
#[derive(Debug)]
pub(super) enum Unfollowed {
    /// The datastore does not answer.
    Away(CliError),
    /// It holds no data.
    NoData,
    /// A K3s server makes them.
    Locked(CliError),
    /// They cannot be opened, or not be put in place.
    Refused(CliError),
}

impl From<CliError> for Unfollowed {
    fn from(error: CliError) -> Self {
        Self::Refused(error)
    }
}

impl From<Unfollowed> for CliError {
    fn from(error: Unfollowed) -> Self {
        match error {
            Unfollowed::Away(error) | Unfollowed::Locked(error) | Unfollowed::Refused(error) => {
                error
            }
            Unfollowed::NoData => Self::message("the datastore has no bootstrap data any more"),
        }
    }
}
