//! One wave of deployments: read all hosts, compare, render, intend, deploy, read back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use futures_util::StreamExt as _;
use futures_util::stream;

use super::Executor;
use super::compare::{Care, describe, difference, found};
use super::failure::StepError;
use super::hosts::{
    AT_ONCE, Listings, Reached, directories, found_in, is_away, kept_directories, kept_entry,
    place, read_all, wanted,
};
use super::render::{leaves_of, render};
use super::step::{Taken, Verdict, refuse_other_leaves, verdict};
use crate::host::{Entry, EntryKind, HostError};
use crate::journal::{Event, Found, Intend, Journal, LeafRecord, Replay};
use crate::machine::Deployment;
use crate::plan::{Content, FileSet, Plan, Step, kept_at};

/// Everything that a wave puts in place.
struct Wave {
    /// By host.
    deployments: BTreeMap<String, Deployment>,
    /// By place.
    after: BTreeMap<String, Found>,
    leaves: Vec<LeafRecord>,
}

/// Judges the files of a wave in flight: those that are as they were to be.
///
/// # Errors
///
/// [`StepError::Conflict`] with host and path of one that is neither that nor as it was.
pub(super) fn judge(
    intend: &Intend,
    now: &BTreeMap<String, Found>,
) -> Result<BTreeMap<String, Found>, StepError> {
    let (Found::Set(before), Found::Set(after)) = (&intend.before, &intend.after) else {
        return Ok(BTreeMap::new());
    };
    let mut done = BTreeMap::new();
    for (place, now) in now {
        let one = Intend {
            before: before.get(place).cloned().unwrap_or(Found::Absent),
            after: after.get(place).cloned().unwrap_or(Found::Absent),
            leaves: Vec::new(),
            step: intend.step,
            holds_ca_key: false,
        };
        match verdict(&one, now) {
            Some(Verdict::Done) => drop(done.insert(place.clone(), now.clone())),
            Some(_) => {}
            None => {
                return Err(StepError::Conflict {
                    path: place.into(),
                    before: describe(&one.before),
                    after: describe(&one.after),
                    found: describe(now),
                });
            }
        }
    }
    Ok(done)
}

impl Executor<'_> {
    pub(super) async fn take_deploy(
        &self,
        plan: &Plan,
        journal: &mut Journal,
        step: &Step,
        sets: &[FileSet],
    ) -> Result<Taken, StepError> {
        let machines = self.machines_for(plan, step).await?;
        let listings = read(&machines, sets).await?;
        let replay = journal.replay()?;
        let mut before = BTreeMap::new();
        for set in sets {
            let now = found_in(set, &listings);
            compare(set, &now, &replay)?;
            before.extend(now);
        }
        let wave = self.wave(plan, step, sets, &listings).await?;
        refuse_other_leaves(&replay, &wave.leaves)?;
        let intend = Intend {
            step: step.number,
            before: Found::Set(before),
            after: Found::Set(wave.after.clone()),
            leaves: wave.leaves.clone(),
            holds_ca_key: false,
        };
        self.intend(journal, intend)?;
        let all = wave.deployments.keys().cloned().collect();
        self.deploy(journal, step, &machines, wave, all).await
    }

    /// Takes a wave in flight to its end: hosts that are done stay as they are.
    pub(super) async fn take_deploy_again(
        &self,
        plan: &Plan,
        journal: &mut Journal,
        step: &Step,
        sets: &[FileSet],
        intend: &Intend,
    ) -> Result<Taken, StepError> {
        let machines = self.machines_for(plan, step).await?;
        let listings = read(&machines, sets).await?;
        let told = told(journal, step.number);
        let wave = self.wave(plan, step, sets, &listings).await?;
        let mut left = BTreeSet::new();
        for set in sets {
            let now = found_in(set, &listings);
            let done = judge(intend, &now)?;
            if done.len() < now.len() || !told.contains(&set.host) {
                left.insert(set.host.clone());
            }
        }
        let Found::Set(intended) = &intend.after else {
            return self.take_deploy(plan, journal, step, sets).await;
        };
        for (place, after) in &wave.after {
            if intended.get(place) != Some(after) {
                return Err(StepError::Changed {
                    path: place.into(),
                    detail: "what would be put there now is not what was intended; undo the plan"
                        .to_owned(),
                });
            }
        }
        self.deploy(journal, step, &machines, wave, left).await
    }

    /// Makes every file of a wave. Keys and certificates are made once; contents that are the same
    /// on several hosts too.
    async fn wave(
        &self,
        plan: &Plan,
        step: &Step,
        sets: &[FileSet],
        listings: &Listings,
    ) -> Result<Wave, StepError> {
        let workshop = self.workshop(plan);
        let contents = || {
            let files = sets.iter().flat_map(|set| set.files.values());
            files.filter_map(|file| file.content.as_ref())
        };
        workshop.make_keys(contents().flat_map(leaves_of))?;
        let shown = contents().filter(|it| !matches!(it, Content::LeafKey(_)));
        workshop
            .make_certificates(shown.flat_map(leaves_of))
            .await?;
        let mut made: Vec<(&Content, EntryKind)> = Vec::new();
        let mut wave = Wave {
            deployments: BTreeMap::new(),
            after: BTreeMap::new(),
            leaves: Vec::new(),
        };
        for set in sets {
            let mut files = BTreeMap::new();
            for (name, change) in &set.files {
                let entry = match &change.content {
                    None => None,
                    Some(content) => {
                        let known = made.iter().find(|(known, _)| *known == content);
                        let kind = match (kept_entry(&set.host, content, listings)?, known) {
                            (Some(kept), _) => kept.kind.clone(),
                            (None, Some((_, kind))) => kind.clone(),
                            (None, None) => {
                                let rendered = render(&workshop, content, None).await?;
                                wave.leaves.extend(rendered.leaves);
                                made.push((content, rendered.kind.clone()));
                                rendered.kind
                            }
                        };
                        let attributes = change.attributes.clone();
                        Some(Entry { kind, attributes })
                    }
                };
                let at = place(&set.host, &set.directory, name);
                wave.after.insert(at, found(entry.as_ref()));
                files.insert(name.clone(), entry);
            }
            let deployment = Deployment {
                directory: set.directory.clone(),
                keep: kept_at(&set.directory, &plan.id, step.number),
                files,
            };
            wave.deployments.insert(set.host.clone(), deployment);
        }
        Ok(wave)
    }

    /// Deploys to the hosts in `left`, and verifies all.
    async fn deploy(
        &self,
        journal: &mut Journal,
        step: &Step,
        machines: &Reached,
        wave: Wave,
        left: BTreeSet<String>,
    ) -> Result<Taken, StepError> {
        let Wave {
            deployments, after, ..
        } = &wave;
        let one = |(host, deployment): (String, &Deployment)| {
            let again = left.contains(&host);
            let machine = machines.get(&host).cloned();
            let deployment = deployment.clone();
            async move {
                let Some(machine) = machine else {
                    return Err(StepError::Host(super::hosts::never_reached(&host)));
                };
                if again {
                    machine.deploy(&deployment).await?;
                }
                let listing = machine.read_directory(&deployment.directory).await?;
                let listing = listing.unwrap_or_default();
                let verified = verify(&host, &deployment, &listing, after)?;
                Ok((host, verified, again))
            }
        };
        let hosts: Vec<(String, &Deployment)> = deployments
            .iter()
            .map(|(host, it)| (host.clone(), it))
            .collect();
        let mut work = stream::iter(hosts.into_iter().map(one)).buffer_unordered(AT_ONCE);
        let mut all = BTreeMap::new();
        let mut failure: Option<StepError> = None;
        while let Some(answer) = work.next().await {
            match answer {
                Ok((host, verified, deployed)) => {
                    if deployed {
                        let what = format!("deployed {}", files(verified.len()));
                        self.progress(journal, step, &host, &what)?;
                    }
                    all.extend(verified);
                }
                // The others are not cut short. What waiting does not mend is told first.
                Err(error) => match &failure {
                    Some(StepError::Host(first)) if is_away(first) => failure = Some(error),
                    Some(_) => {}
                    None => failure = Some(error),
                },
            }
        }
        drop(work);
        match failure {
            Some(error) => Err(error),
            None => self.done(journal, step, Found::Set(all)),
        }
    }

    /// Notes that part of a step is done.
    pub(super) fn progress(
        &self,
        journal: &mut Journal,
        step: &Step,
        host: &str,
        what: &str,
    ) -> Result<(), StepError> {
        self.observer.progress(step, host, what);
        let event = Event::Progress {
            step: step.number,
            host: host.to_owned(),
            what: what.to_owned(),
        };
        Ok(journal.append(self.now(), event)?)
    }
}

/// Reads what sets change and what they take from their hosts.
pub(super) async fn read(machines: &Reached, sets: &[FileSet]) -> Result<Listings, StepError> {
    let wanted = directories(sets).into_iter().chain(kept_directories(sets));
    let mut listings = Listings::new();
    let mut failure: Option<HostError> = None;
    for (place, read) in read_all(machines, wanted).await {
        match read {
            Ok(files) => drop(listings.insert(place, files)),
            Err(error) => failure = Some(super::hosts::worse(failure, error)),
        }
    }
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(listings),
    }
}

fn compare(set: &FileSet, now: &BTreeMap<String, Found>, replay: &Replay) -> Result<(), StepError> {
    for (name, change) in &set.files {
        let at = place(&set.host, &set.directory, name);
        let now = now.get(&at).unwrap_or(&Found::Absent);
        let detail = match wanted(&change.before, Some(replay), Some(&at)) {
            Ok(wanted) => wanted.and_then(|wanted| difference(&wanted, now, Care::Before)),
            Err(problem) => Some(problem),
        };
        if let Some(detail) = detail {
            let path = PathBuf::from(at);
            return Err(StepError::Changed { path, detail });
        }
    }
    Ok(())
}

/// What a host holds after a deployment, if it is what was deployed.
fn verify(
    host: &str,
    deployment: &Deployment,
    listing: &BTreeMap<String, Entry>,
    after: &BTreeMap<String, Found>,
) -> Result<BTreeMap<String, Found>, StepError> {
    let mut verified = BTreeMap::new();
    for name in deployment.files.keys() {
        let at = place(host, &deployment.directory, name);
        let now = found(listing.get(name));
        let wanted = after.get(&at).unwrap_or(&Found::Absent);
        if let Some(detail) = difference(wanted, &now, Care::After) {
            let path = PathBuf::from(at);
            return Err(StepError::Unverified { path, detail });
        }
        verified.insert(at, now);
    }
    Ok(verified)
}

/// The hosts that a step in flight has told to be done.
fn told(journal: &Journal, number: u32) -> BTreeSet<String> {
    let entries = journal.contents().entries.iter();
    let told = entries.filter_map(|entry| match &entry.event {
        Event::Progress { step, host, .. } if *step == number => Some(host.clone()),
        _ => None,
    });
    told.collect()
}

fn files(count: usize) -> String {
    match count {
        1 => "1 file".to_owned(),
        count => format!("{count} files"),
    }
}
