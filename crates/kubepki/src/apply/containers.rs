//! Restarting containers: guarded before, proven after; several hosts at once, each in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt as _;
use futures_util::stream;
use pki::UnixTime;
use tokio::time::Instant;

use super::Executor;
use super::failure::StepError;
use super::hosts::{AT_ONCE, is_away, never_reached};
use super::proof::Eyes;
use super::step::Taken;
use crate::host::HostError;
use crate::journal::{Event, Found, Journal, JournalError};
use crate::machine::Machine;
use crate::plan::{ContainerRestart, Plan, Proof, Step};
use crate::rke::Service;

/// When a container was started.
type Moment = (UnixTime, u32);

/// How far an interrupted run came with one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Restarted,
    Proven,
}

/// Progress lines about a container begin so.
const RESTARTED: &str = "restarted ";
const PROVEN: &str = "proved ";

/// What an interrupted run says that it has done, by host and container. After a failure, a
/// container that was not proven is restarted again: what was wrong may have been mended.
fn known(journal: &Journal, number: u32) -> BTreeMap<(String, String), Known> {
    let mut known = BTreeMap::new();
    for entry in &journal.contents().entries {
        match &entry.event {
            Event::Progress { step, host, what } if *step == number => {
                let restarted = what
                    .strip_prefix(RESTARTED)
                    .map(|it| (it, Known::Restarted));
                let proven = what.strip_prefix(PROVEN).map(|it| (it, Known::Proven));
                if let Some((container, how)) = proven.or(restarted) {
                    known.insert((host.clone(), container.to_owned()), how);
                }
            }
            Event::Failed { step, .. } | Event::Deferred { step, .. } if *step == number => {
                known.retain(|_, how| *how == Known::Proven);
            }
            _ => {}
        }
    }
    known
}

/// One step's restarts, shared by the hosts that work at the same time.
struct Shift<'a, 'j> {
    executor: &'a Executor<'a>,
    step: &'a Step,
    eyes: Eyes<'a>,
    known: BTreeMap<(String, String), Known>,
    /// Whether guards are asked again before each restart: others have gone before it.
    several: bool,
    journal: Mutex<&'j mut Journal>,
    /// Somewhere something failed: nothing more is stopped.
    failed: AtomicBool,
}

impl Executor<'_> {
    pub(super) async fn take_restarts(
        &self,
        plan: &Plan,
        journal: &mut Journal,
        step: &Step,
        restarts: &[ContainerRestart],
    ) -> Result<Taken, StepError> {
        let machines = self.machines_for(plan, step).await?;
        let known = known(journal, step.number);
        let eyes = self.eyes(plan, journal.replay()?.leaves);
        let mut guards: Vec<&Proof> = Vec::new();
        for restart in restarts {
            let key = (restart.host.clone(), restart.container.clone());
            if !known.contains_key(&key) {
                for guard in &restart.guard {
                    if !guards.contains(&guard) {
                        guards.push(guard);
                    }
                }
            }
        }
        self.guard(&eyes, &guards).await?;
        self.intend_stateless(journal, step)?;

        let mut lanes: Vec<(&str, Vec<&ContainerRestart>)> = Vec::new();
        for restart in restarts {
            match lanes.iter_mut().find(|(host, _)| *host == restart.host) {
                Some((_, lane)) => lane.push(restart),
                None => lanes.push((&restart.host, vec![restart])),
            }
        }
        let shift = Shift {
            executor: self,
            step,
            eyes,
            known,
            several: restarts.len() > 1,
            journal: Mutex::new(journal),
            failed: AtomicBool::new(false),
        };
        let work = lanes.into_iter().map(|(host, lane)| {
            let machine = machines.get(host).cloned();
            let shift = &shift;
            async move {
                let machine = machine.ok_or_else(|| never_reached(host))?;
                shift.lane(&machine, &lane).await
            }
        });
        let mut work = stream::iter(work).buffer_unordered(AT_ONCE);
        let mut failure: Option<StepError> = None;
        while let Some(answer) = work.next().await {
            match (answer, &failure) {
                (Ok(()), _) => {}
                (Err(error), None) => failure = Some(error),
                (Err(error), Some(StepError::Host(first))) if is_away(first) => {
                    failure = Some(error);
                }
                (Err(_), Some(_)) => {}
            }
        }
        drop(work);
        let Shift { journal, .. } = shift;
        let journal = journal.into_inner().map_err(|_| JournalError::Poisoned)?;
        match failure {
            Some(error) => Err(error),
            None => self.done(journal, step, Found::Stateless),
        }
    }

    /// Waits until what must hold before a restart does.
    async fn guard(&self, eyes: &Eyes<'_>, guards: &[&Proof]) -> Result<(), StepError> {
        let deadline = Instant::now() + self.patience.proof;
        loop {
            let unmet = eyes.unmet(guards.iter().copied()).await;
            if unmet.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let seconds = self.patience.proof.as_secs();
                return Err(StepError::Unsafe { seconds, unmet });
            }
            tokio::time::sleep(self.patience.pause).await;
        }
    }
}

impl Shift<'_, '_> {
    /// The restarts of one host.
    async fn lane(
        &self,
        machine: &Arc<dyn Machine>,
        lane: &[&ContainerRestart],
    ) -> Result<(), StepError> {
        for restart in lane {
            if self.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let done = self.restart(machine, restart).await;
            if done.is_err() {
                self.failed.store(true, Ordering::Relaxed);
                return done;
            }
        }
        Ok(())
    }

    async fn restart(
        &self,
        machine: &Arc<dyn Machine>,
        restart: &ContainerRestart,
    ) -> Result<(), StepError> {
        let ContainerRestart {
            host, container, ..
        } = restart;
        let patience = &self.executor.patience;
        let Some(present) = machine.container(container).await? else {
            return self.note(host, &format!("has no {container}"));
        };
        let known = self.known.get(&(host.clone(), container.clone()));
        // Docker does not start every container again that it was killed with.
        let known = known.filter(|_| present.running);
        let started = match known {
            Some(_) => present.started,
            None => {
                if self.several {
                    let guards: Vec<&Proof> = restart.guard.iter().collect();
                    self.executor.guard(&self.eyes, &guards).await?;
                    if self.failed.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                }
                // Without a guard etcd is away all the same.
                let spared = container == Service::Etcd.name() && !restart.guard.is_empty();
                let grace = match spared {
                    true => patience.etcd_grace,
                    false => patience.grace,
                };
                machine.restart(container, grace).await?;
                let started = self.started_anew(machine, restart, present.started).await?;
                self.note(host, &format!("{RESTARTED}{container}"))?;
                started
            }
        };
        self.prove(machine, restart, started).await?;
        match known {
            Some(Known::Proven) => Ok(()),
            _ => self.note(host, &format!("{PROVEN}{container}")),
        }
    }

    async fn started_anew(
        &self,
        machine: &Arc<dyn Machine>,
        restart: &ContainerRestart,
        before: Moment,
    ) -> Result<Moment, StepError> {
        let patience = &self.executor.patience;
        let deadline = Instant::now() + patience.proof;
        loop {
            let now = self.container(machine, restart).await?;
            if let Some((true, started)) = now
                && started != before
            {
                return Ok(started);
            }
            if Instant::now() >= deadline {
                let unmet = format!(
                    "container {} on {} was not started anew",
                    restart.container, restart.host
                );
                return Err(self.unproven(vec![unmet]));
            }
            tokio::time::sleep(patience.pause).await;
        }
    }

    /// Waits until the proofs hold and the container is still the one that was started.
    async fn prove(
        &self,
        machine: &Arc<dyn Machine>,
        restart: &ContainerRestart,
        mut started: Moment,
    ) -> Result<(), StepError> {
        let ContainerRestart {
            host, container, ..
        } = restart;
        let patience = &self.executor.patience;
        let deadline = Instant::now() + patience.proof;
        if restart.proof.is_empty() {
            // A program that ends at once is seen by a second look only.
            tokio::time::sleep(patience.pause).await;
        }
        loop {
            let mut unmet = self.eyes.unmet(&restart.proof).await;
            match self.container(machine, restart).await? {
                Some((true, now)) if now == started => {}
                Some((true, now)) => {
                    started = now;
                    unmet.push(format!(
                        "container {container} on {host} restarts by itself"
                    ));
                }
                Some((false, _)) => {
                    unmet.push(format!("container {container} on {host} does not run"));
                }
                None => unmet.push(format!("container {container} on {host} is gone")),
            }
            if unmet.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.unproven(unmet));
            }
            tokio::time::sleep(patience.pause).await;
        }
    }

    /// Whether the container runs, and since when.
    async fn container(
        &self,
        machine: &Arc<dyn Machine>,
        restart: &ContainerRestart,
    ) -> Result<Option<(bool, Moment)>, HostError> {
        let state = machine.container(&restart.container).await?;
        Ok(state.map(|state| (state.running, state.started)))
    }

    fn unproven(&self, unmet: Vec<String>) -> StepError {
        let seconds = self.executor.patience.proof.as_secs();
        StepError::Unproven { seconds, unmet }
    }

    fn note(&self, host: &str, what: &str) -> Result<(), StepError> {
        let mut journal = self.journal.lock().map_err(|_| JournalError::Poisoned)?;
        self.executor.progress(&mut journal, self.step, host, what)
    }
}
