//! Doing what a plan says, one step at a time, so that a crash anywhere can be mended.
//!
//! ```text
//! check: the plan fits this build, reaches its datastore and servers, finds what it was made
//!        for, has its sources, has room
//! for each step:  read the target and compare with `before`
//!                 make the content (keys and certificates are staged first, and only once)
//!                 back up what is there
//!                 journal "intend"     <- on the disk before the target is touched
//!                 do
//!                 read back and compare
//!                 journal "done"
//! journal "finished"; forget what was staged
//! ```
//!
//! [`Executor::apply`] begins a plan. After a crash or failure [`Executor::resume`] goes on with
//! it, or [`Executor::undo`] makes the plan that takes it back, which is applied like any other:
//! journalled, resumable, undoable. Both look at the target of the step in flight first; if it
//! holds neither what was there nor what was to be there, somebody else changed it, and they stop.
//!
//! A row of a datastore is a target like a file. Its revision is compared instead of a digest, the
//! digest of the new value tells after a crash whether it was written, and it is never put back as
//! it was: see [`Executor::undo`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pki::UnixTime;

use crate::edge::{Clock, Entropy, KeySource};
use crate::error_chain;
use crate::host::Host;
use crate::journal::{Event, FORMAT, Header, Journal, JournalError, LeafRecord, Progress};
use crate::machine::{ClusterApi, Machines};
use crate::plan::{LeafId, Plan, PlanId, Step};
use crate::state::{Locked, StateError};

mod call;
mod compare;
mod containers;
mod deferred;
mod deploy;
mod error;
mod failure;
mod fit;
mod fit_hosts;
mod history;
mod hosts;
mod http;
mod inverse;
mod inverse_hosts;
mod kubernetes;
mod leaves;
mod locks;
mod observer;
mod outside;
mod preflight;
mod proof;
mod remote_proof;
mod render;
mod restamp;
mod space;
mod state_file;
mod step;
mod taken_up;
mod txn;
mod undo;
mod witness;

pub use compare::found;
pub use error::{Aftermath, ApplyError, Difference};
pub use failure::{MakeError, StepError};
pub use fit::check_fit;
pub use history::{Past, Standing, history, put_off, refuse_unreadable, unfinished};
pub(crate) use http::ask;
pub use observer::{Observer, Quiet, Register};
pub use outside::{CallError, Caller, Cluster};
pub use preflight::check_before;
pub use proof::served_certificate;
pub use undo::stopped;
pub use witness::Witness;

use deferred::{held_from, waits_for};
use leaves::Workshop;
use step::Taken;

/// Carries out plans. Everything that it needs of the world is here.
#[derive(Clone, Copy, Debug)]
pub struct Executor<'a> {
    /// The machine that plans call `local`.
    pub host: &'a dyn Host,
    /// Plans, journals, staged keys and backups, with the lock held.
    pub state: &'a Locked,
    /// Dates the journal's lines and the plans of undos; nothing else depends on it.
    pub clock: &'a dyn Clock,
    /// Makes ids of undos unique.
    pub entropy: &'a dyn Entropy,
    /// New keys for leaves.
    pub keys: &'a dyn KeySource,
    /// Is told of every step.
    pub observer: &'a dyn Observer,
    /// How long is waited for what.
    pub patience: Patience,
    /// The datastore; plans that write to one are refused without it.
    pub cluster: Option<Cluster<'a>>,
    /// Makes HTTP calls; plans that need some are refused without it.
    pub caller: Option<&'a dyn Caller>,
    /// The hosts of the cluster; plans that change some are refused without it.
    pub machines: Option<&'a dyn Machines>,
    /// The Kubernetes API; steps that need it are put off without it.
    pub kubernetes: Option<&'a dyn ClusterApi>,
}

/// How long is waited for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a restart's proofs to hold.
    pub proof: Duration,
    /// Between two looks at the proofs.
    pub pause: Duration,
    /// For one connection, handshake or short command.
    pub look: Duration,
    /// For a restart command to end; K3s's unit returns when it is up.
    pub command: Duration,
    /// For a container to stop before it is killed; RKE gives as much.
    pub grace: Duration,
    /// For one of several etcd members: 15 s for clients, and time to hand leadership over.
    pub etcd_grace: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            proof: Duration::from_secs(120),
            pause: Duration::from_millis(200),
            look: Duration::from_secs(5),
            command: Duration::from_secs(300),
            grace: Duration::from_secs(5),
            etcd_grace: Duration::from_secs(30),
        }
    }
}

/// How an application ended without an error.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Every step is done.
    Finished {
        /// The leaves that were put in place.
        leaves: BTreeMap<LeafId, LeafRecord>,
        /// What could not be tidied up afterwards; the plan is done all the same.
        untidy: Option<String>,
    },
    /// A person has to do something; `resume` goes on once it is done.
    Waiting {
        /// The step.
        step: u32,
        /// What to do.
        instruction: String,
        /// What is not yet as it should be.
        unmet: Vec<String>,
    },
    /// Everything is done but steps that were put off; `resume` tries them again.
    Partly {
        /// The steps that are open, and why.
        open: Vec<(u32, String)>,
        /// The leaves that were put in place.
        leaves: BTreeMap<LeafId, LeafRecord>,
    },
}

impl<'a> Executor<'a> {
    /// Begins a plan and carries it out. Saves the plan if it is not saved yet.
    ///
    /// # Errors
    ///
    /// Refusals ([`Aftermath::Refused`]) and failures before the first step change nothing;
    /// [`ApplyError::Stopped`] leaves a plan to resume or undo.
    pub async fn apply(&self, plan: &Plan) -> Result<Outcome, ApplyError> {
        check_fit(plan)?;
        self.refuse_second(plan)?;
        preflight::check_reach(plan, 1, self)?;
        check_before(plan, self.host, self.cluster).await?;
        self.refuse_overtaken_undo(plan).await?;
        space::check(plan, self.state.path())?;
        let workshop = self.workshop(plan);
        preflight::check_sources(&workshop, 1).await?;
        if workshop.register.is_some() {
            preflight::sign_ahead(&workshop).await?;
        }
        self.prepare_hosts(plan, 1, None).await?;
        match self.begin(plan) {
            Ok(mut journal) => {
                self.take_over(plan).await?;
                self.run(plan, &mut journal, BTreeSet::new()).await
            }
            Err(error) => {
                let _ = self.release_hosts(plan).await;
                Err(error)
            }
        }
    }

    fn begin(&self, plan: &Plan) -> Result<Journal, ApplyError> {
        self.state.save_plan(plan)?;
        let mut journal = self.state.open_journal(&plan.id)?;
        let header = Header {
            format: FORMAT,
            plan: plan.id.clone(),
            plan_sha256: self.state.plan_sha256(&plan.id)?,
            steps: u32::try_from(plan.steps.len()).unwrap_or(u32::MAX),
        };
        self.write(&mut journal, plan, Event::Begin(header))?;
        Ok(journal)
    }

    /// Gives up the plans whose place a plan takes that has begun.
    async fn take_over(&self, plan: &Plan) -> Result<(), ApplyError> {
        self.give_up_undone(plan).await?;
        self.supersede(plan)
    }

    /// Goes on with a plan that a crash or failure interrupted, that waited for a person, or of
    /// which steps were put off: those are tried again. A finished plan is finished again.
    ///
    /// # Errors
    ///
    /// As [`Self::apply`]; a step in flight that holds neither what was there nor what was to be
    /// there stops with [`StepError::Conflict`].
    pub async fn resume(&self, id: &PlanId) -> Result<Outcome, ApplyError> {
        let plan = self.state.load_plan(id)?;
        check_fit(&plan)?;
        let mut journal = self.begun_journal(&plan)?;
        let replay = self.replay(&journal, id)?;
        let next = match replay.progress {
            Progress::NotStarted => return Err(ApplyError::NotBegun { plan: id.clone() }),
            Progress::Abandoned => return Err(ApplyError::Abandoned { plan: id.clone() }),
            Progress::Finished => {
                self.refuse_undone(id)?;
                return self.finish(&plan, &journal).await;
            }
            Progress::InProgress { next } | Progress::InFlight { step: next } => next,
        };
        self.refuse_being_undone(id)?;
        let open = Self::to_retry(&replay);
        let first = open.first().map_or(next, |open| next.min(*open));
        preflight::check_reach(&plan, first, self)?;
        self.take_over(&plan).await?;
        self.lock_again(&plan, first).await?;
        if let Progress::InFlight { step } = self.replay(&journal, id)?.progress
            && let Some(step) = numbered(&plan, step)
        {
            self.observer.begin(step);
            let taken = self.take_again(&plan, &mut journal, step).await;
            if let Some(waiting) = self.taken(&plan, &mut journal, step, taken)? {
                return Ok(waiting);
            }
        }
        let replay = self.replay(&journal, id)?;
        if let Progress::InProgress { next } = replay.progress {
            let next = held_from(&plan, &replay).unwrap_or(next);
            let (host, cluster) = (self.host, self.cluster);
            preflight::check_before_from(&plan, next, host, cluster, Some(&replay))
                .await
                .map_err(ApplyError::when_begun)?;
            self.prepare_hosts(&plan, next, Some(&replay))
                .await
                .map_err(ApplyError::when_begun)?;
        }
        self.run(&plan, &mut journal, open).await
    }

    /// Takes steps until none is left. Of those that were put off, the ones in `retry` are tried
    /// again after the last.
    async fn run(
        &self,
        plan: &Plan,
        journal: &mut Journal,
        mut retry: BTreeSet<u32>,
    ) -> Result<Outcome, ApplyError> {
        loop {
            let replay = self.replay(journal, &plan.id)?;
            let Progress::InProgress { next } = replay.progress else {
                break;
            };
            let again = || {
                let mut open = replay.deferred.keys().copied();
                open.find(|open| retry.contains(open))
            };
            let number = match numbered(plan, next) {
                Some(step) => step.number,
                None if replay.deferred.is_empty() => {
                    self.write(journal, plan, Event::Finished)?;
                    break;
                }
                None => match again() {
                    Some(open) => open,
                    None => return Ok(self.leave_open(plan, replay).await),
                },
            };
            retry.remove(&number);
            let Some(step) = numbered(plan, number) else {
                break;
            };
            if let Some(reason) = waits_for(plan, step, &replay.deferred) {
                self.defer(plan, journal, step, reason)?;
                continue;
            }
            self.observer.begin(step);
            let taken = match replay.deferred.contains_key(&number) {
                // It was begun perhaps before it was put off.
                true => self.take_again(plan, journal, step).await,
                false => self.take(plan, journal, step).await,
            };
            if let Some(waiting) = self.taken(plan, journal, step, taken)? {
                return Ok(waiting);
            }
        }
        self.finish(plan, journal).await
    }

    /// Notes how a step went. `Some` ends the run without an error.
    fn taken(
        &self,
        plan: &Plan,
        journal: &mut Journal,
        step: &Step,
        taken: Result<Taken, StepError>,
    ) -> Result<Option<Outcome>, ApplyError> {
        match taken {
            Ok(Taken::Done) => {
                self.observer.done(step);
                Ok(None)
            }
            Ok(Taken::Waiting { instruction, unmet }) => Ok(Some(Outcome::Waiting {
                step: step.number,
                instruction,
                unmet,
            })),
            Err(source) if self.put_off(plan, journal, step, &source)? => Ok(None),
            Err(source) => {
                let error = error_chain(&source);
                // The first error is the one to report; without this line the journal still says
                // that the step is in doubt.
                let _ = journal.append(
                    self.now(),
                    Event::Failed {
                        step: step.number,
                        error,
                    },
                );
                if source.is_not_done() {
                    let withdrawn = Event::Withdrawn { step: step.number };
                    let _ = journal.append(self.now(), withdrawn);
                }
                let (plan, step) = (plan.id.clone(), step.number);
                Err(ApplyError::Stopped {
                    plan,
                    step,
                    source: Box::new(source),
                })
            }
        }
    }

    async fn finish(&self, plan: &Plan, journal: &Journal) -> Result<Outcome, ApplyError> {
        let leaves = self.replay(journal, &plan.id)?.leaves;
        let locked = self.release_hosts(plan).await;
        let tidied = self
            .state
            .drop_finished_staging()
            .and_then(|()| self.state.prune(self.now()));
        let untidy = tidied.err().map(|error| error_chain(&error)).or(locked);
        Ok(Outcome::Finished { leaves, untidy })
    }

    /// Refuses to begin a plan that was begun, or while another one is unfinished.
    fn refuse_second(&self, plan: &Plan) -> Result<(), ApplyError> {
        let id = || plan.id.clone();
        let contents = self.state.journal(&plan.id)?;
        match self.replay_entries(&contents.entries, &plan.id)?.progress {
            Progress::NotStarted => {}
            Progress::Finished => return Err(ApplyError::Over { plan: id() }),
            Progress::Abandoned => return Err(ApplyError::Abandoned { plan: id() }),
            _ => return Err(ApplyError::Begun { plan: id() }),
        }
        refuse_unreadable(self.state)?;
        match unfinished(self.state)? {
            Some(other) if plan.undoes.as_ref() != Some(&other.id) => {
                Err(ApplyError::Unfinished { plan: other.id })
            }
            _ => Ok(()),
        }
    }

    fn refuse_being_undone(&self, id: &PlanId) -> Result<(), ApplyError> {
        let undo = history(self.state)?
            .into_iter()
            .find(|past| past.undoes.as_ref() == Some(id) && past.is_interrupted());
        match undo {
            Some(undo) => Err(ApplyError::BeingUndone {
                plan: id.clone(),
                by: undo.id,
            }),
            None => Ok(()),
        }
    }

    /// What was taken back is not in force, however its journal ends.
    fn refuse_undone(&self, id: &PlanId) -> Result<(), ApplyError> {
        let past = history(self.state)?;
        let by = past.into_iter().find(|past| past.id == *id);
        match by.and_then(|past| past.undone_by) {
            Some(by) => Err(ApplyError::Undone {
                plan: id.clone(),
                by,
            }),
            None => Ok(()),
        }
    }

    /// The journal of a plan, if the plan is still the one that was begun.
    fn begun_journal(&self, plan: &Plan) -> Result<Journal, ApplyError> {
        let journal = self.state.open_journal(&plan.id)?;
        let saved = self.state.plan_sha256(&plan.id)?;
        match &journal.contents().header {
            Some(header) if header.plan_sha256 != saved => Err(ApplyError::PlanChanged {
                plan: plan.id.clone(),
            }),
            _ => Ok(journal),
        }
    }

    fn workshop<'b>(&'b self, plan: &'b Plan) -> Workshop<'b> {
        Workshop {
            plan,
            host: self.host,
            state: self.state,
            keys: self.keys,
            entropy: self.entropy,
            passphrases: self.cluster.map_or(&[], |cluster| cluster.passphrases),
            now: self.now(),
            authorities: leaves::Authorities::default(),
            register: self.observer.register(),
        }
    }

    fn write(&self, journal: &mut Journal, plan: &Plan, event: Event) -> Result<(), ApplyError> {
        journal
            .append(self.now(), event)
            .map_err(|source| journal_error(&plan.id, source))
    }

    fn replay(&self, journal: &Journal, id: &PlanId) -> Result<crate::journal::Replay, ApplyError> {
        self.replay_entries(&journal.contents().entries, id)
    }

    fn replay_entries(
        &self,
        entries: &[crate::journal::Entry],
        id: &PlanId,
    ) -> Result<crate::journal::Replay, ApplyError> {
        crate::journal::replay(entries)
            .map_err(|source| journal_error(id, JournalError::Contradiction(source)))
    }

    fn now(&self) -> UnixTime {
        self.clock.now()
    }
}

/// A new plan's id: `20261122T101500Z-rotate-1f0c`. `purpose` is one lower-case word.
///
/// # Errors
///
/// When `entropy` fails.
pub fn plan_id(now: UnixTime, purpose: &str, entropy: &dyn Entropy) -> Result<PlanId, pki::Error> {
    let mut suffix = [0; 2];
    entropy.fill(&mut suffix)?;
    let (year, month, day, hour, minute, second) = now.civil();
    let suffix = pki::hex(&suffix);
    Ok(PlanId(format!(
        "{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z-{purpose}-{suffix}"
    )))
}

fn numbered(plan: &Plan, number: u32) -> Option<&Step> {
    plan.steps
        .get(usize::try_from(number).ok()?.checked_sub(1)?)
}

fn journal_error(id: &PlanId, source: JournalError) -> ApplyError {
    ApplyError::State(StateError::Journal {
        id: id.clone(),
        source,
    })
}
