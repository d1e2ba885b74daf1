//! `history --forget` of an RKE cluster: the old keys that a plan has kept on hosts go too.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use kubepki::apply::unfinished;
use kubepki::host::HostError;
use kubepki::machine::Machines as _;
use kubepki::plan::{Action, Plan, PlanId};

use super::{Hosts, RkeCluster};
use crate::command::change::refuse_unfinished;
use crate::error::{CliError, Exit};
use crate::output;

/// How many hosts are asked at once.
const AT_ONCE: usize = 10;

/// The hosts that keep something of a plan: those it deployed to, or every node of cluster.yml
/// where the plan cannot be read.
pub fn keepers(cluster: &RkeCluster, id: &PlanId, plan: Option<&Plan>) -> BTreeSet<String> {
    let Some(plan) = plan else {
        let nodes = cluster.config.nodes.iter();
        return nodes.map(|node| node.address.clone()).collect();
    };
    let begun = cluster.state_dir.journal(id);
    if begun.is_ok_and(|journal| journal.entries.is_empty()) {
        return BTreeSet::new();
    }
    let sets = plan.steps.iter().filter_map(|step| match &step.action {
        Action::Deploy { sets } => Some(sets),
        _ => None,
    });
    sets.flatten().map(|set| set.host.clone()).collect()
}

/// Removes what `hosts` keep of a plan, as `owner` ([`kubepki::state::Locked::owner`]), and says
/// where that was not possible.
pub async fn on_hosts(machines: &Hosts, owner: &str, id: &PlanId, hosts: BTreeSet<String>) -> Exit {
    let answers = stream::iter(hosts).map(|host| async move {
        let done: Result<(), HostError> = async {
            let machine = machines.machine(&host).await?;
            machine.lock(owner).await?;
            let done = machine.forget(id).await;
            let freed = machine.unlock(owner).await;
            done.and(freed)
        }
        .await;
        let failure = done.err().map(|error| error.reason());
        (host, failure)
    });
    let answers: Vec<_> = answers.buffered(AT_ONCE).collect().await;
    let mut exit = Exit::Fine;
    for (host, failure) in answers {
        let Some(why) = failure else { continue };
        exit = Exit::Partial;
        output::talk(&format!(
            "{host} still has {id}'s old files, private keys among them: remove \
             /etc/kubernetes/.kubepki/{id}-* there ({why})"
        ));
    }
    exit
}

/// Refuses while a plan other than `id` is interrupted: it needs the locks that it has on hosts.
///
/// # Errors
///
/// With that plan's name.
pub fn refuse_beside(cluster: &RkeCluster, id: &PlanId) -> Result<(), CliError> {
    match unfinished(&cluster.state_dir) {
        Ok(Some(past)) if past.id != *id => refuse_unfinished(&cluster.state_dir),
        _ => Ok(()),
    }
}
