//! Why a server does not follow the datastore.

use kubepki::plan::{PlanId, Target};

use super::commons::{Commons, is_of};
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

impl Commons {
    /// Whether a plan would make a cluster beside the one that others have made since: under another
    /// token it has another row, and with two of them no server starts.
    pub(super) async fn is_outrun(&self, id: &PlanId) -> Result<bool, CliError> {
        if !is_of(id, "begin-") {
            return Ok(false);
        }
        let plan = self.state.load_plan(id);
        let plan = plan.map_err(|error| CliError::failed(&error))?;
        let rows = self.rows().await?;
        let is_own = |key: &str| {
            let mut targets = plan.steps.iter().map(|step| &step.target);
            targets.any(|it| matches!(it, Target::DatastoreKey { key: own } if own == key))
        };
        Ok(!rows.is_empty() && !rows.iter().any(|(key, _)| is_own(key)))
    }
}
