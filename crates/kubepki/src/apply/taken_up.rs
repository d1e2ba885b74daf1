//! Containers that took up new files without being told to: their host or its Docker was restarted
//! after a deployment, or they ended by themselves. An undo has to restart them too.

use std::collections::BTreeMap;

use pki::UnixTime;

use super::Executor;
use super::error::ApplyError;
use super::hosts::{each, place};
use crate::host::HostError;
use crate::journal::{Found, Intend, Replay, StepRecord};
use crate::plan::{Action, ContainerRestart, FileSet, Plan};

/// By a host's own clock: seconds and nanoseconds.
type Moment = (UnixTime, u32);

impl Executor<'_> {
    /// The plan as if it had restarted what started by itself since its deployments: steps that it
    /// had not come to are left with those containers alone, and `replay` says that they are done.
    pub(super) async fn with_taken_up(
        &self,
        plan: &Plan,
        replay: &mut Replay,
    ) -> Result<Plan, ApplyError> {
        let mut plan = plan.clone();
        let mut since: BTreeMap<String, Moment> = BTreeMap::new();
        for step in &mut plan.steps {
            match &mut step.action {
                Action::Deploy { sets } => {
                    let record = replay.steps.get(&step.number);
                    if let Some(Found::Set(left)) = record.and_then(|it| it.after.as_ref()) {
                        for set in sets.iter() {
                            if let Some(first) = first_written(set, left) {
                                since.entry(set.host.clone()).or_insert(first);
                            }
                        }
                    }
                }
                Action::RestartContainers { restarts }
                    if !replay.steps.contains_key(&step.number) =>
                {
                    let started = |restart: ContainerRestart| {
                        let since = since.get(&restart.host).copied();
                        async move { self.started_since(since, restart).await }
                    };
                    let mut found = Vec::new();
                    for answer in each(std::mem::take(restarts), started).await {
                        found.extend(answer?);
                    }
                    if found.is_empty() {
                        continue;
                    }
                    *restarts = found;
                    replay.steps.insert(step.number, restarted(step.number));
                }
                _ => {}
            }
        }
        Ok(plan)
    }

    /// The restart, if its container was started since.
    async fn started_since(
        &self,
        since: Option<Moment>,
        restart: ContainerRestart,
    ) -> Result<Option<ContainerRestart>, HostError> {
        let Some(since) = since else {
            return Ok(None);
        };
        let machine = self.machine(&restart.host).await?;
        let state = machine.container(&restart.container).await?;
        // Docker may show files to the second: rather one restart too many.
        let since = (since.0, 0);
        Ok(state
            .is_some_and(|it| it.started >= since)
            .then_some(restart))
    }
}

/// When the first of the files was put on its host; `None` if none was.
fn first_written(set: &FileSet, left: &BTreeMap<String, Found>) -> Option<Moment> {
    let names = set.files.keys();
    let found = names.filter_map(|name| left.get(&place(&set.host, &set.directory, name)));
    let moments = found.filter_map(|found| match found {
        Found::Present(fingerprint) => fingerprint.attributes.mtime,
        _ => None,
    });
    let (seconds, nanoseconds) = moments.min()?;
    Some((UnixTime::from_secs(seconds), nanoseconds))
}

/// What a journal would say of a restart.
fn restarted(step: u32) -> StepRecord {
    StepRecord {
        intend: Intend {
            step,
            before: Found::Stateless,
            after: Found::Stateless,
            leaves: Vec::new(),
            holds_ca_key: false,
        },
        after: Some(Found::Stateless),
    }
}
