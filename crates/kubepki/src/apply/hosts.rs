//! The hosts of a cluster: reached, locked, read and compared before anything is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream;

use super::Executor;
use super::compare::{Care, difference, found, required};
use super::deferred::waits_for_own;
use super::error::{ApplyError, Difference};
use super::failure::{MakeError, StepError};
use super::preflight::{fill_unknown, foreseen_kind};
use crate::host::{Entry, HostError};
use crate::journal::{Found, Replay};
use crate::machine::Machine;
use crate::plan::{Action, Before, Content, FileSet, Fingerprint, Plan, Proof, Step, Target};

/// Machines by name.
pub(super) type Reached = BTreeMap<String, Arc<dyn Machine>>;

/// What lies in the directories that were read, by host and directory.
pub(super) type Listings = BTreeMap<(String, PathBuf), BTreeMap<String, Entry>>;

/// Does the same for many, some of them at once. Answers come in the order of `items`.
pub(super) async fn each<I, F: Future>(
    items: impl IntoIterator<Item = I>,
    work: impl Fn(I) -> F,
) -> Vec<F::Output> {
    let work = stream::iter(items.into_iter().map(work));
    work.buffered(AT_ONCE).collect().await
}

/// A file of a host in journals and messages: `host:/path`.
pub(super) fn place(host: &str, directory: &Path, name: &str) -> String {
    format!("{host}:{}", directory.join(name).display())
}

/// What a set finds now, by place.
pub(super) fn found_in(set: &FileSet, listings: &Listings) -> BTreeMap<String, Found> {
    let listing = listings.get(&(set.host.clone(), set.directory.clone()));
    let now = |name: &String| found(listing.and_then(|files| files.get(name)));
    let files = set.files.keys();
    files
        .map(|name| (place(&set.host, &set.directory, name), now(name)))
        .collect()
}

/// What a condition on a file asks for, once the steps before it are done.
pub(super) fn wanted(
    before: &Before,
    replay: Option<&Replay>,
    place: Option<&str>,
) -> Result<Option<Found>, String> {
    let Before::LeftBy(number) = before else {
        return Ok(required(before));
    };
    let left = replay
        .and_then(|replay| replay.steps.get(number))
        .and_then(|record| record.after.as_ref());
    let left = match (left, place) {
        (Some(Found::Set(files)), Some(place)) => files.get(place),
        (Some(found @ (Found::Absent | Found::Present(_))), None) => Some(found),
        _ => None,
    };
    match left {
        Some(left) => Ok(Some(left.clone())),
        None => Err(format!("step {number} has left nothing here")),
    }
}

/// The hosts that a step changes or looks at.
pub(super) fn hosts_of(step: &Step) -> BTreeSet<&str> {
    let mut hosts = BTreeSet::new();
    if let Target::Hosts { hosts: named } = &step.target {
        hosts.extend(named.iter().map(String::as_str));
    }
    if let Action::RestartContainers { restarts } = &step.action {
        for proof in restarts
            .iter()
            .flat_map(|it| it.guard.iter().chain(&it.proof))
        {
            hosts.extend(seen_from(proof));
        }
    }
    hosts
}

/// The hosts from which a proof is looked at.
pub(super) fn seen_from(proof: &Proof) -> Vec<&str> {
    match proof {
        Proof::ServesAt { host, .. }
        | Proof::ServesOtherAt { host, .. }
        | Proof::ServesExactly { host, .. }
        | Proof::Healthy { host, .. }
        | Proof::Accepts { host, .. } => vec![host],
        // Some of the members may be away.
        _ => Vec::new(),
    }
}

/// Reads every directory that is named, many hosts at once; one that is missing is empty.
pub(super) async fn read_all(
    machines: &Reached,
    wanted: impl IntoIterator<Item = (String, PathBuf)>,
) -> Vec<(
    (String, PathBuf),
    Result<BTreeMap<String, Entry>, HostError>,
)> {
    let wanted: BTreeSet<(String, PathBuf)> = wanted.into_iter().collect();
    let read = |(host, directory): (String, PathBuf)| async move {
        let read = match machines.get(&host) {
            Some(machine) => machine.read_directory(&directory).await,
            None => Err(never_reached(&host)),
        };
        ((host, directory), read.map(Option::unwrap_or_default))
    };
    each(wanted, read).await
}

/// The directories that sets are for.
pub(super) fn directories(sets: &[FileSet]) -> Vec<(String, PathBuf)> {
    let of = |set: &FileSet| (set.host.clone(), set.directory.clone());
    sets.iter().map(of).collect()
}

/// The directories in which what sets take from their hosts is kept.
pub(super) fn kept_directories(sets: &[FileSet]) -> Vec<(String, PathBuf)> {
    let mut kept = Vec::new();
    for set in sets {
        for file in set.files.values() {
            if let Some(Content::OnHost { path, .. }) = &file.content
                && let Some(parent) = path.parent()
            {
                kept.push((set.host.clone(), parent.to_owned()));
            }
        }
    }
    kept
}

/// The file that a content takes from a host, held to the digest that the plan names.
pub(super) fn kept_entry<'a>(
    host: &str,
    content: &Content,
    listings: &'a Listings,
) -> Result<Option<&'a Entry>, MakeError> {
    let Content::OnHost { path, sha256 } = content else {
        return Ok(None);
    };
    let place = format!("{host}:{}", path.display());
    let parent = path.parent().unwrap_or(path).to_owned();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let entry = listings
        .get(&(host.to_owned(), parent))
        .and_then(|files| files.get(&*name));
    let Some(bytes) = entry.and_then(Entry::bytes) else {
        return Err(MakeError::Missing { place });
    };
    let there = pki::sha256(bytes).to_string();
    if there != *sha256 {
        return Err(MakeError::OtherBytes {
            place,
            expected: sha256.clone(),
            found: there,
        });
    }
    Ok(entry)
}

pub(super) fn never_reached(host: &str) -> HostError {
    HostError::Remote {
        host: host.to_owned(),
        message: "no way to this host was given; name the cluster with --cluster".to_owned(),
        source: None,
    }
}

pub(super) fn is_away(error: &HostError) -> bool {
    matches!(error, HostError::Unreachable { .. })
}

impl Executor<'_> {
    /// Reaches the machines that a step is for. One that may be put off is locked again: its hosts
    /// may have been away when the plan began.
    pub(super) async fn machines_for(
        &self,
        plan: &Plan,
        step: &Step,
    ) -> Result<Reached, StepError> {
        let Target::Hosts { hosts } = &step.target else {
            return Ok(Reached::new());
        };
        let mut reached = Reached::new();
        let mut failure = None;
        let lock = match plan.deferrable.contains(&step.number) {
            true => Some(self.state.owner(self.entropy)?),
            false => None,
        };
        let lock = lock.as_deref();
        let reach = |host: &String| {
            let host = host.clone();
            async move {
                let machine = self.machine(&host).await?;
                if let Some(owner) = lock {
                    machine.lock(owner).await?;
                }
                Ok::<_, HostError>((host, machine))
            }
        };
        for answer in each(hosts, reach).await {
            match answer {
                Ok((host, machine)) => drop(reached.insert(host, machine)),
                Err(error) => failure = Some(worse(failure, error)),
            }
        }
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(reached),
        }
    }

    pub(super) async fn machine(&self, host: &str) -> Result<Arc<dyn Machine>, HostError> {
        match self.machines {
            Some(machines) => machines.machine(host).await,
            None => Err(never_reached(host)),
        }
    }

    /// Reaches and locks the hosts of the steps from `first` on, and compares what they hold with
    /// what the plan was made for. `replay` says what was done, if the plan was begun.
    pub(super) async fn prepare_hosts(
        &self,
        plan: &Plan,
        first: u32,
        replay: Option<&Replay>,
    ) -> Result<(), ApplyError> {
        let machines = self.reach_for(plan, first).await?;
        if machines.is_empty() {
            return Ok(());
        }
        let owner = &self.owner()?;
        let lock = |(host, machine): (&String, &Arc<dyn Machine>)| {
            let (host, machine) = (host.clone(), machine.clone());
            async move { (machine.lock(owner).await, host) }
        };
        let mut failure = None;
        for (answer, host) in each(&machines, lock).await {
            match answer {
                // It went away since; the step that needs it will say so.
                Err(error) if is_away(&error) && may_wait(plan, first, &host) => {}
                Err(error) => failure = Some(worse(failure, error)),
                Ok(()) => {}
            }
        }
        let checked = match failure {
            Some(error) => Err(error.into()),
            None => compare_hosts(plan, first, &machines, replay).await,
        };
        if checked.is_err() && replay.is_none() {
            self.unlock_hosts(owner, &machines).await;
        }
        checked
    }

    /// The same without locks, for a plan that is not begun yet.
    pub(super) async fn check_hosts(&self, plan: &Plan) -> Result<(), ApplyError> {
        let machines = self.reach_for(plan, 1).await?;
        compare_hosts(plan, 1, &machines, None).await
    }

    /// Reaches the hosts of the steps from `first` on; one that is away may be missing in the
    /// answer if all its steps may be put off.
    async fn reach_for(&self, plan: &Plan, first: u32) -> Result<Reached, ApplyError> {
        let steps = plan.steps.iter().filter(|step| step.number >= first);
        let hosts: BTreeSet<&str> = steps.flat_map(hosts_of).collect();
        let mut reached = Reached::new();
        let mut away = Vec::new();
        let reach = |host| async move { (host, self.machine(host).await) };
        for (host, answer) in each(hosts, reach).await {
            match answer {
                Ok(machine) => drop(reached.insert(host.to_owned(), machine)),
                Err(error) if is_away(&error) => {
                    if !may_wait(plan, first, host) {
                        away.push(format!("{host}: {}", error.reason()));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        if away.is_empty() {
            return Ok(reached);
        }
        Err(ApplyError::Unreachable {
            plan: plan.id.clone(),
            hosts: away,
            begun: false,
        })
    }
}

/// Whether every step from `first` on that needs the host may be put off.
fn may_wait(plan: &Plan, first: u32, host: &str) -> bool {
    let mut steps = plan.steps.iter().filter(|step| step.number >= first);
    steps.all(|step| plan.deferrable.contains(&step.number) || !hosts_of(step).contains(host))
}

/// Of two failures the one that waiting does not mend.
pub(super) fn worse(one: Option<HostError>, other: HostError) -> HostError {
    match one {
        Some(one) if !is_away(&one) || is_away(&other) => one,
        _ => other,
    }
}

/// Whether every deployment from `first` on finds what it was made for, those before it taken into
/// account, and what it takes from its hosts.
async fn compare_hosts(
    plan: &Plan,
    first: u32,
    machines: &Reached,
    replay: Option<&Replay>,
) -> Result<(), ApplyError> {
    let steps = || plan.steps.iter().filter(|step| step.number >= first);
    let mut wanted = Vec::new();
    for step in steps() {
        if let Action::Deploy { sets } = &step.action {
            wanted.extend(directories(sets));
            wanted.extend(kept_directories(sets));
        }
    }
    wanted.retain(|(host, _)| machines.contains_key(host));
    let mut listings = Listings::new();
    let mut away = BTreeSet::new();
    for ((host, directory), read) in read_all(machines, wanted).await {
        match read {
            Ok(files) => drop(listings.insert((host, directory), files)),
            Err(error) if is_away(&error) && may_wait(plan, first, &host) => {
                away.insert(host);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut foresight = Foresight {
        listings: &listings,
        replay,
        first,
        expected: BTreeMap::new(),
        differences: Vec::new(),
    };
    for step in steps() {
        let waits = replay.and_then(|replay| waits_for_own(plan, step, &replay.deferred));
        if let (Action::Deploy { sets }, None) = (&step.action, waits) {
            let seen =
                |set: &&FileSet| machines.contains_key(&set.host) && !away.contains(&set.host);
            for set in sets.iter().filter(seen) {
                foresight.take(plan, step, set)?;
            }
        }
    }
    if foresight.differences.is_empty() {
        return Ok(());
    }
    Err(ApplyError::Stale {
        plan: plan.id.clone(),
        differences: foresight.differences,
        begun: replay.is_some(),
    })
}

/// What files of hosts will hold when a step comes to them.
struct Foresight<'a> {
    listings: &'a Listings,
    replay: Option<&'a Replay>,
    first: u32,
    expected: BTreeMap<String, Found>,
    differences: Vec<Difference>,
}

impl Foresight<'_> {
    fn take(&mut self, plan: &Plan, step: &Step, set: &FileSet) -> Result<(), ApplyError> {
        let now = found_in(set, self.listings);
        for (name, change) in &set.files {
            let at = place(&set.host, &set.directory, name);
            let foreseen = self.expected.get(&at).or_else(|| now.get(&at)).cloned();
            let now = foreseen.unwrap_or(Found::Absent);
            let wanted = match &change.before {
                // What a step of this run will leave there cannot be known yet.
                Before::LeftBy(number) if *number >= self.first => Ok(None),
                before => wanted(before, self.replay, Some(&at)),
            };
            let problem = match wanted {
                Ok(Some(wanted)) => difference(&fill_unknown(wanted, &now), &now, Care::Before),
                Ok(None) => None,
                Err(problem) => Some(problem),
            };
            if let Some(detail) = problem {
                self.differences.push(Difference {
                    step: step.number,
                    path: PathBuf::from(&at),
                    detail,
                });
            }
            let after = match &change.content {
                None => Found::Absent,
                Some(content) => {
                    kept_entry(&set.host, content, self.listings).map_err(|source| {
                        ApplyError::Unprepared {
                            plan: plan.id.clone(),
                            step: step.number,
                            source: Box::new(source.into()),
                        }
                    })?;
                    Found::Present(Fingerprint {
                        kind: foreseen_kind(content),
                        attributes: change.attributes.clone(),
                    })
                }
            };
            self.expected.insert(at, after);
        }
        Ok(())
    }
}

/// How many hosts are spoken to at the same time.
pub(super) const AT_ONCE: usize = 25;
