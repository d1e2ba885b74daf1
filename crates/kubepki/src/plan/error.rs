//! Why there can be no plan.

use pki::{Purpose, UnixTime};

use crate::cluster::WantError;

/// Why there can be no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// A CA's certificate cannot be used.
    #[error("{path} cannot be used as {authority}: {detail}")]
    Authority {
        /// The CA's row.
        authority: &'static str,
        /// Its file.
        path: String,
        /// What is wrong and what to do.
        detail: String,
    },
    /// A CA has expired: nothing that it signs would be accepted.
    #[error(
        "{authority} ({path}) expired {not_after}: no leaf that it signs would be accepted. \
         Rotate the CA first: `kubepki ca stage`, then `kubepki rotate-ca`"
    )]
    AuthorityExpired {
        /// The CA's row.
        authority: &'static str,
        /// Its file.
        path: String,
        /// When it ended.
        not_after: UnixTime,
    },
    /// A CA is not valid yet: the clock is behind, or the CA was made on a machine whose clock
    /// is ahead.
    #[error(
        "{authority} ({path}) is not valid before {not_before}, and this machine's clock says \
         {now}: set the clock, or wait"
    )]
    AuthorityNotYetValid {
        /// The CA's row.
        authority: &'static str,
        /// Its file.
        path: String,
        /// When it begins.
        not_before: UnixTime,
        /// The clock.
        now: UnixTime,
    },
    /// A CA may not sign what is wanted of it.
    #[error("{authority} ({path}) may not sign this: its extended key usage excludes {excluded}")]
    AuthorityExcludes {
        /// The CA's row.
        authority: &'static str,
        /// Its file.
        path: String,
        /// What it excludes.
        excluded: Purpose,
    },
    /// A name that no certificate can carry.
    #[error(
        "{name:?} cannot be a name in a certificate: letters, digits, '-', '_', '.' and a leading \
         '*.' can; write international names in their xn-- form"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// What a leaf should say is not known.
    #[error(transparent)]
    Want(#[from] WantError),
    /// The names cannot be reduced so far.
    #[error("{row} would have no name left; K3s could not serve with it")]
    NoNamesLeft {
        /// The row.
        row: &'static str,
    },
    /// A file is in the way or cannot be read.
    #[error("{path}: {detail}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        detail: String,
    },
    /// The cryptographic library failed.
    #[error("cannot prepare a certificate")]
    Pki(#[source] pki::Error),
}
