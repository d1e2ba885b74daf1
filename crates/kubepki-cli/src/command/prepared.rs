//! A plan that was made with what it needs: print, ask, stage, carry out.

use std::future::Future;

use kubepki::apply::{Aftermath, ApplyError, Caller, Executor, Outcome};
use kubepki::bootstrap::Candidates;
use kubepki::host::HostError;
use kubepki::init::{Staged, stage};
use kubepki::plan::Plan;
use kubepki::state::{Locked, StateDir};
use kubepki_remote::Supervisor;
use pki::UnixTime;

use super::change::{announce_stopped, failed, lock, print_plan, refuse_unfinished};
use crate::args::AskArgs;
use crate::datastore::{Connected, Reach};
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::World;

/// A plan and what has to be there for it.
pub struct Prepared {
    /// The plan.
    pub plan: Plan,
    /// What has to be staged.
    pub staged: Vec<Staged>,
    /// Where it is kept.
    pub state: StateDir,
    /// The datastore that it writes, with the tokens that open what lies there.
    pub cluster: Option<(Connected, Candidates)>,
    /// What is asked, without the number of steps: `Write the datastore`.
    pub question: &'static str,
    /// The server that it calls.
    pub supervisor: Option<Supervisor>,
    /// Seconds to wait after a restart for its proofs.
    pub restart_timeout: u64,
    /// What the operator does next.
    pub closing: String,
}

/// The type of a `before` that is not there.
pub type NoFuture = std::future::Ready<Result<(), HostError>>;

/// As [`crate::args::RestartArgs`] has it.
pub const RESTART_TIMEOUT: u64 = 120;

/// Prints the plan, asks, stages, and carries it out. `before` makes what the plan stands on,
/// once it is agreed to.
///
/// # Errors
///
/// A refusal by the operator or by a stale plan; a failure on the way.
pub async fn carry_out(
    world: &World,
    prepared: Prepared,
    ask: &AskArgs,
    before: Option<impl Future<Output = Result<(), HostError>>>,
) -> Result<Exit, CliError> {
    let Prepared {
        plan,
        staged,
        state,
        cluster,
        question,
        supervisor,
        restart_timeout,
        closing,
    } = prepared;
    print_plan(&plan, None, ask.output)?;
    if plan.steps.is_empty() {
        output::talk("Nothing to do.");
        return Ok(Exit::Fine);
    }
    if ask.dry_run {
        output::talk("Dry run: nothing was changed.");
        return Ok(Exit::Fine);
    }
    let steps = plan.steps.len();
    let steps = match steps {
        1 => "1 step".to_owned(),
        steps => format!("{steps} steps"),
    };
    output::confirm(&format!("{question} ({steps})?"), ask.yes)?;
    if let Some(before) = before {
        before.await?;
    }
    let reach = match cluster {
        Some((connected, candidates)) => Reach::new(connected, &candidates),
        None => Reach::default(),
    };
    let locked = lock(&state)?;
    // Another process may have been interrupted since.
    refuse_unfinished(&state)?;
    locked.drop_unbegun()?;
    stage(&locked, &plan.id, &staged)?;
    // Last, because opening it can leave a trace.
    let reach = match reach.for_writing().await {
        Ok(reach) => reach,
        Err(error) => {
            locked.drop_staging(&plan.id)?;
            return Err(error);
        }
    };
    let executor = Executor {
        cluster: reach.cluster(),
        caller: supervisor.as_ref().map(|it| it as &dyn Caller),
        machines: None,
        kubernetes: None,
        ..world.patient_executor(&locked, restart_timeout)
    };
    let outcome = executor.apply(&plan).await;
    finish(&locked, &plan, &closing, world.now(), outcome)
}

/// Where the journal is, if `undo` has to be told.
fn elsewhere(locked: &Locked, plan: &Plan) -> String {
    match locked.path() == StateDir::of_data_dir(&plan.root).path() {
        true => String::new(),
        false => format!(" --state-dir {}", locked.path().display()),
    }
}

/// What the operator is told in the end.
fn finish(
    locked: &Locked,
    plan: &Plan,
    closing: &str,
    now: UnixTime,
    outcome: Result<Outcome, ApplyError>,
) -> Result<Exit, CliError> {
    match outcome {
        Ok(Outcome::Finished { untidy, .. }) => {
            if let Some(untidy) = untidy {
                output::talk(&format!("Note: {untidy}"));
            }
            // Old backups go only once new ones are safe.
            if let Err(error) = locked.prune(now) {
                output::talk(&format!("Note: old plans were kept: {error}"));
            }
            output::talk(&format!("Done: {}. {closing}", plan.title));
            if plan.irreversible.is_none() {
                output::talk(&format!(
                    "Take it back with: kubepki undo {}{}",
                    plan.id,
                    elsewhere(locked, plan)
                ));
            }
            Ok(Exit::Fine)
        }
        Ok(Outcome::Partly { open, .. }) => {
            output::talk(&super::change::put_off_text(&open));
            Ok(Exit::Partial)
        }
        Ok(Outcome::Waiting { instruction, .. }) => {
            output::talk(&format!(
                "Waiting for you: {instruction}\nThen run `kubepki resume`."
            ));
            Ok(Exit::Partial)
        }
        Err(error) => {
            // What was never begun needs no secrets.
            if error.aftermath() != Aftermath::Interrupted {
                locked.drop_staging(&plan.id)?;
            }
            announce_stopped(locked, plan);
            Err(failed(error))
        }
    }
}
