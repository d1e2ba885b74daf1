//! Hosts are locked from before a plan's first step to its end.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Executor;
use super::error::ApplyError;
use super::hosts::{Reached, each, hosts_of, is_away};
use crate::error_chain;
use crate::machine::Machine;
use crate::plan::Plan;

impl Executor<'_> {
    /// Locks the hosts of an interrupted plan that answer, before its step in flight is looked at.
    pub(super) async fn lock_again(&self, plan: &Plan, first: u32) -> Result<(), ApplyError> {
        let steps = plan.steps.iter().filter(|step| step.number >= first);
        let hosts: BTreeSet<&str> = steps.flat_map(hosts_of).collect();
        if hosts.is_empty() {
            return Ok(());
        }
        let owner = &self.owner()?;
        let lock = |host| async move { self.machine(host).await?.lock(owner).await };
        let failed = each(hosts, lock).await.into_iter().filter_map(Result::err);
        // A host that is away is the business of the steps that need it.
        let refused = failed.into_iter().find(|error| !is_away(error));
        refused.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Gives the hosts of a plan free, as far as they answer; says which did not.
    pub(super) async fn release_hosts(&self, plan: &Plan) -> Option<String> {
        // An undo need not touch every host that was locked for what it takes back.
        let undone = plan.undoes.as_ref().map(|id| self.state.load_plan(id));
        let undone = undone.and_then(Result::ok);
        let steps = plan
            .steps
            .iter()
            .chain(undone.iter().flat_map(|it| &it.steps));
        self.release(steps.flat_map(hosts_of).collect()).await
    }

    async fn release(&self, hosts: BTreeSet<&str>) -> Option<String> {
        if self.machines.is_none() || hosts.is_empty() {
            return None;
        }
        let reach = |host| async move { (host, self.machine(host).await) };
        let mut reached = Reached::new();
        let mut locked = Vec::new();
        for (host, answer) in each(hosts, reach).await {
            match answer {
                Ok(machine) => drop(reached.insert(host.to_owned(), machine)),
                Err(error) => locked.push(error_chain(&error)),
            }
        }
        match self.state.owner(self.entropy) {
            Ok(owner) => locked.extend(self.unlock_hosts(&owner, &reached).await),
            Err(error) => locked.push(error_chain(&error)),
        }
        match locked.is_empty() {
            true => None,
            false => Some(format!(
                "locks may be left on hosts, `kubepki resume` takes them away: {}",
                locked.join("; ")
            )),
        }
    }

    /// Removes what a program has left that was killed before the first line of its plan or after
    /// the last: locks of `hosts`, staged keys. For when nothing is interrupted. Says what could
    /// not be removed.
    pub async fn tidy(&self, hosts: impl IntoIterator<Item = &str>) -> Option<String> {
        let staging = self.state.drop_unbegun();
        let staging = staging.and_then(|()| self.state.drop_finished_staging());
        let locked = self.release(hosts.into_iter().collect()).await;
        staging.err().map(|error| error_chain(&error)).or(locked)
    }

    pub(super) fn owner(&self) -> Result<String, ApplyError> {
        Ok(self.state.owner(self.entropy)?)
    }

    pub(super) async fn unlock_hosts(&self, owner: &str, machines: &Reached) -> Vec<String> {
        let unlock = |machine: &Arc<dyn Machine>| {
            let machine = machine.clone();
            async move { machine.unlock(owner).await }
        };
        let answers = each(machines.values(), unlock).await;
        let failed = answers.into_iter().filter_map(Result::err);
        failed.map(|error| error_chain(&error)).collect()
    }
}
