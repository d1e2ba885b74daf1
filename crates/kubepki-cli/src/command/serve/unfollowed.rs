//! Why a server does not follow the datastore.

use kubepki::bootstrap::{Comparison, Line, Seen, Standing};
use kubepki::plan::{PlanId, Target};
use kubepki::reconcile::ReconcileError;

use super::commons::{Commons, is_of};
use crate::command::init;
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

pub(super) fn refused(error: ReconcileError, differing: Option<String>) -> CliError {
    match error {
        ReconcileError::Init(error) => init::refused(error),
        ReconcileError::Newer { words } => CliError::refused(match differing {
            Some(differing) => format!("{words} On the disk {differing}"),
            None => words,
        })
        .hint(
            "`kubepki reconcile --keep datastore` replaces these files, `--keep disk` puts them \
             into the datastore",
        ),
        other => CliError::refused(kubepki::error_chain(&other)),
    }
}

/// Files that are not the datastore's, with what each side has. It holds no secrets.
pub(super) fn differing(compared: &Comparison) -> Option<String> {
    let differs = |it: &&Line| !matches!(it.standing, Standing::Same | Standing::OnlyOnDisk);
    let shown = |it: &Line| {
        let side = |seen: &Option<Seen>| seen.as_ref().map_or("none", |it| &it.words).to_owned();
        let (path, own, theirs) = (it.path.display(), side(&it.disk), side(&it.datastore));
        format!("{path} is {own}, the cluster's is {theirs}")
    };
    let all: Vec<String> = compared.lines.iter().filter(differs).map(shown).collect();
    let (first, more) = all.split_at(all.len().min(SHOWN));
    match (first, more) {
        ([], _) => None,
        (first, []) => Some(first.join("; ")),
        (first, more) => Some(format!("{}; and {} more", first.join("; "), more.len())),
    }
}

/// Files that are told of one by one: a CA and its key, of each kind that a server signs with.
const SHOWN: usize = 4;
