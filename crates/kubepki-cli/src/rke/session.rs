//! Carrying out plans of an RKE cluster: print, ask, apply; `apply`, `undo`, `resume`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use kubepki::apply::{
    ApplyError, Executor, Observer, Outcome, Patience, put_off, refuse_unreadable, unfinished,
};
use kubepki::init::{Staged, stage};
use kubepki::plan::{Action, Plan, PlanId, Step};
use kubepki::state::Locked;
use kubepki_remote::RkeApi;

use super::{Hosts, RkeCluster, aftermath};
use crate::args::AskArgs;
use crate::command::change::{
    INTERRUPTED, failed, last_done, lock, print_plan, put_off_text, refuse_unfinished,
};
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::World;

/// All that carrying out a plan takes.
pub struct Session<'a> {
    /// Clock, this machine, randomness.
    pub world: &'a World,
    /// The cluster's files.
    pub cluster: &'a RkeCluster,
    /// Its hosts.
    pub machines: &'a Hosts,
    /// Its API.
    pub api: RkeApi<'a>,
    /// Seconds to wait for the proofs of a restart.
    pub patience: u64,
}

impl<'a> Session<'a> {
    /// To carry out plans of `cluster`, waiting `patience` seconds for the proofs of a restart.
    pub fn new(
        world: &'a World,
        cluster: &'a RkeCluster,
        machines: &'a Hosts,
        patience: u64,
    ) -> Self {
        let kubeconfig = cluster.site.kubeconfig.clone();
        let route = Arc::clone(&machines.route);
        Self {
            world,
            cluster,
            machines,
            api: RkeApi::new(&world.host, kubeconfig, world.clock.as_ref(), route),
            patience,
        }
    }

    /// An executor that tells `observer` of each step.
    pub fn executor<'b>(&'b self, state: &'b Locked, observer: &'b dyn Observer) -> Executor<'b> {
        Executor {
            observer,
            patience: Patience {
                proof: Duration::from_secs(self.patience),
                ..Patience::default()
            },
            machines: Some(self.machines),
            kubernetes: Some(&self.api),
            ..self.world.executor(state)
        }
    }

    /// Prints the plan, asks, and carries it out. `staged` are the keys that it was made with.
    ///
    /// # Errors
    ///
    /// A refusal by the operator or of a stale plan; a failure on the way.
    pub async fn carry_out(
        &self,
        plan: Plan,
        staged: &[Staged],
        ask: &AskArgs,
    ) -> Result<Exit, CliError> {
        print_plan(&plan, None, ask.output)?;
        // An undo without steps still gives up the plan that was interrupted before its first change.
        if plan.steps.is_empty() && plan.undoes.is_none() {
            output::talk("Nothing to do.");
            return Ok(Exit::Fine);
        }
        if ask.dry_run {
            output::talk("Dry run: nothing was changed.");
            return Ok(Exit::Fine);
        }
        let question = match plan.steps.len() {
            0 => "Nothing was changed yet. Give the interrupted plan up?".to_owned(),
            steps => format!("Carry out these {steps} steps?"),
        };
        output::confirm(&question, ask.yes)?;
        let state = lock(&self.cluster.state_dir)?;
        if plan.undoes.is_none() {
            // Another process may have been interrupted since.
            refuse_unfinished(&self.cluster.state_dir)?;
        }
        let outcome = self
            .run(&state, &plan, staged, self.world.teller())
            .await
            .map_err(|error| self.stopped(error))?;
        let exit = self.finish(&state, &plan, outcome);
        drop(state);
        self.look_after(&plan).await;
        Ok(exit)
    }

    /// Carries a plan out that was agreed to, telling `observer`.
    ///
    /// # Errors
    ///
    /// Those of [`Executor::apply`]; secrets of a plan that never began are forgotten.
    pub async fn run(
        &self,
        state: &Locked,
        plan: &Plan,
        staged: &[Staged],
        observer: &dyn Observer,
    ) -> Result<Outcome, ApplyError> {
        state.drop_unbegun()?;
        stage(state, &plan.id, staged)?;
        let done = self.executor(state, observer).apply(plan).await;
        let begun = state.journal(&plan.id).map(|it| !it.entries.is_empty());
        if done.is_err() && matches!(begun, Ok(false)) {
            // What was never begun needs no secrets.
            state.drop_staging(&plan.id)?;
        }
        done
    }

    /// `kubepki undo [ID]`.
    ///
    /// # Errors
    ///
    /// When there is nothing to take back, or something has changed since.
    pub async fn undo(&self, id: Option<&str>, ask: &AskArgs) -> Result<Exit, CliError> {
        let state_dir = &self.cluster.state_dir;
        refuse_unreadable(state_dir).map_err(failed)?;
        let id = match id {
            Some(id) => PlanId(id.to_owned()),
            None => last_done(state_dir)?,
        };
        let undo = {
            let state = lock(state_dir)?;
            let executor = self.executor(&state, self.world.teller());
            executor.undo(&id).await.map_err(failed)?
        };
        self.carry_out(undo, &[], ask).await
    }

    /// `kubepki resume [ID]`.
    ///
    /// # Errors
    ///
    /// When a step in flight was changed by somebody else, or fails again.
    pub async fn resume(&self, id: Option<&str>) -> Result<Exit, CliError> {
        let state_dir = &self.cluster.state_dir;
        let open = unfinished(state_dir)?;
        let open = open.map_or_else(|| put_off(state_dir), |past| Ok(Some(past)))?;
        let id = match (id, open) {
            (Some(id), _) => PlanId(id.to_owned()),
            (None, Some(past)) => past.id,
            (None, None) => {
                self.tidy().await?;
                output::talk("Nothing is interrupted.");
                return Ok(Exit::Fine);
            }
        };
        let plan = state_dir.load_plan(&id)?;
        let state = lock(state_dir)?;
        output::talk(&format!("Going on with {id}: {}", plan.title));
        let executor = self.executor(&state, self.world.teller());
        let outcome = executor.resume(&id).await;
        let outcome = outcome.map_err(|error| self.stopped(error))?;
        let exit = self.finish(&state, &plan, outcome);
        drop(state);
        self.look_after(&plan).await;
        Ok(exit)
    }

    /// Gives hosts free that a program has locked which was killed before its first step or after
    /// its last.
    async fn tidy(&self) -> Result<(), CliError> {
        if !self.cluster.state_dir.path().is_dir() {
            return Ok(());
        }
        let state = lock(&self.cluster.state_dir)?;
        let executor = self.executor(&state, self.world.teller());
        let hosts = self.cluster.config.nodes.iter();
        if let Some(untidy) = executor.tidy(hosts.map(|it| it.address.as_str())).await {
            output::talk(&format!("Note: {untidy}"));
        }
        Ok(())
    }

    /// `kubepki apply ID`.
    ///
    /// # Errors
    ///
    /// When the plan does not exist, is stale, or fails.
    pub async fn apply(&self, id: &str, ask: &AskArgs) -> Result<Exit, CliError> {
        refuse_unfinished(&self.cluster.state_dir)?;
        let plan = self.cluster.state_dir.load_plan(&PlanId(id.to_owned()))?;
        self.carry_out(plan, &[], ask).await
    }

    /// Says how it ended.
    pub fn finish(&self, state: &Locked, plan: &Plan, outcome: Outcome) -> Exit {
        match outcome {
            Outcome::Finished { untidy, .. } => {
                if let Some(untidy) = untidy {
                    output::talk(&format!("Note: {untidy}"));
                }
                // Old backups go only once new ones are safe.
                if let Err(error) = state.prune(self.world.now()) {
                    output::talk(&format!("Note: old plans were kept: {error}"));
                }
                let mut text = format!("Done: {}.", plan.title);
                if plan.undoes.is_none() && plan.irreversible.is_none() {
                    let _ = write!(
                        text,
                        " Take it back with: kubepki undo {}{}",
                        plan.id,
                        self.cluster.flags()
                    );
                }
                output::talk(&text);
                Exit::Fine
            }
            Outcome::Partly { open, .. } => {
                output::talk(&self.cluster.spelled(&put_off_text(&open)));
                Exit::Partial
            }
            Outcome::Waiting {
                step,
                instruction,
                unmet,
            } => {
                let mut text = format!("Step {step} waits for you: {instruction}");
                for unmet in unmet {
                    let _ = write!(text, "\n  not yet: {unmet}");
                }
                text.push_str("\nThen run `kubepki resume`.");
                output::talk(&self.cluster.spelled(&text));
                Exit::Partial
            }
        }
    }

    /// How a plan that was to be carried out did not come to its end. Whatever went wrong, one that
    /// is begun is interrupted.
    pub fn stopped(&self, error: ApplyError) -> CliError {
        let failure = failed(error);
        let begun = unfinished(&self.cluster.state_dir).is_ok_and(|open| open.is_some());
        self.cluster.named(match failure.exit {
            Exit::Failed if begun => CliError {
                exit: Exit::Interrupted,
                hint: Some(INTERRUPTED.to_owned()),
                ..failure
            },
            _ => failure,
        })
    }

    /// After new CAs: whether the Secrets of lasting service-account tokens have learned of them.
    /// Their controller does that in its own time, so it is only said.
    pub async fn look_after(&self, plan: &Plan) {
        let replaces = |step: &Step| matches!(step.action, Action::DeletePods { .. });
        if plan.undoes.is_some() || !plan.steps.iter().any(replaces) {
            return;
        }
        if let Some(text) = aftermath::secrets(self).await {
            output::talk(&text);
        }
    }
}
