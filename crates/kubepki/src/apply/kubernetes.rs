//! Steps at the Kubernetes API of an RKE cluster. Both do no harm a second time.

use std::path::Path;

use super::Executor;
use super::failure::{MakeError, StepError};
use super::render::edit_error;
use super::step::Taken;
use crate::host::Entry;
use crate::journal::{Found, Journal};
use crate::machine::ClusterApi;
use crate::plan::Step;
use crate::rke::State;

impl Executor<'_> {
    pub(super) async fn take_save(
        &self,
        journal: &mut Journal,
        step: &Step,
        (cluster, path): (&str, &Path),
    ) -> Result<Taken, StepError> {
        let api = self.api(cluster)?;
        let present = self.host.read(path).await?;
        let state = present.as_ref().and_then(Entry::bytes);
        let state = state.ok_or_else(|| MakeError::Missing {
            place: path.display().to_string(),
        })?;
        // RKE keeps it there on one line (`cluster/state.go`).
        let parsed = State::parse(state).map_err(|source| edit_error("the state file", source))?;
        let state = parsed.render_compact();
        self.intend_stateless(journal, step)?;
        api.save_state(&state).await?;
        self.done(journal, step, Found::Stateless)
    }

    pub(super) async fn take_pods(
        &self,
        journal: &mut Journal,
        step: &Step,
        (cluster, selectors): (&str, &[String]),
    ) -> Result<Taken, StepError> {
        let api = self.api(cluster)?;
        self.intend_stateless(journal, step)?;
        let deleted = api.delete_pods(selectors).await?;
        let what = match deleted.is_empty() {
            true => "had no pods to delete".to_owned(),
            false => format!("deleted pods {}", deleted.join(", ")),
        };
        self.progress(journal, step, cluster, &what)?;
        self.done(journal, step, Found::Stateless)
    }

    fn api(&self, cluster: &str) -> Result<&dyn ClusterApi, StepError> {
        self.kubernetes.ok_or_else(|| StepError::NoKubernetes {
            cluster: cluster.to_owned(),
        })
    }
}
