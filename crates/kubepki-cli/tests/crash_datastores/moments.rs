//! Which moments a command is killed at, and at which of a plan's it was.

use std::collections::BTreeSet;

use kubepki::apply::found;
use kubepki::host::{Host as _, LocalHost};
use kubepki::journal::{Found, Progress, replay};
use kubepki::plan::{PlanId, Target};
use kubepki_datastore::Access;
use testkit::CrashPoint;

use crate::place::connect;
use crate::scene::Scene;

/// Where a kill left a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Left {
    /// Nothing says that it was begun.
    Unbegun,
    /// Nothing says that this step was begun; it may be one more than there are.
    Before(u32),
    /// Its intention is written down, and its target untouched.
    Intended(u32),
    /// Its target holds what it should, and nothing says so.
    Done(u32),
    /// All of it is done.
    Finished,
}

impl Left {
    /// Looks at the plan that was not there before.
    pub fn of(scene: &Scene, known: &[PlanId]) -> Self {
        let state = scene.state();
        let plans = state.plans().unwrap();
        let Some(id) = plans.iter().find(|id| !known.contains(id)) else {
            return Self::Unbegun;
        };
        let replay = replay(&state.journal(id).unwrap().entries).unwrap();
        match replay.progress {
            Progress::NotStarted => Self::Unbegun,
            Progress::InProgress { next } => Self::Before(next),
            Progress::Finished => Self::Finished,
            Progress::Abandoned => panic!("{id:?} is abandoned"),
            Progress::InFlight { step } => {
                let plan = state.load_plan(id).unwrap();
                let target = &plan.steps[usize::try_from(step).unwrap() - 1].target;
                match digest(&look(scene, target)) == digest(&replay.steps[&step].intend.after) {
                    true => Self::Done(step),
                    false => Self::Intended(step),
                }
            }
        }
    }

    /// Every one that a plan of `steps` can be left at.
    pub fn all(steps: u32) -> BTreeSet<Self> {
        let each = (1..=steps).flat_map(|step| {
            let begun = [Self::Before(step), Self::Intended(step), Self::Done(step)];
            begun.into_iter()
        });
        let ends = [Self::Unbegun, Self::Before(steps + 1), Self::Finished];
        each.chain(ends).collect()
    }
}

/// What a step's target holds now.
fn look(scene: &Scene, target: &Target) -> Found {
    let (runtime, store) = connect(scene, Access::Read);
    match target {
        Target::File { path, .. } => {
            found(runtime.block_on(LocalHost.read(path)).unwrap().as_ref())
        }
        Target::DatastoreKey { key } => match runtime.block_on(store.get(key)).unwrap() {
            Some(record) => Found::Value {
                revision: None,
                sha256: pki::sha256(&record.value).to_string(),
            },
            None => Found::Absent,
        },
        other => panic!("{other:?}"),
    }
}

/// What tells one content from another.
fn digest(found: &Found) -> String {
    match found {
        Found::Present(fingerprint) => format!("{:?}", fingerprint.kind),
        Found::Value { sha256, .. } => sha256.clone(),
        other => format!("{other:?}"),
    }
}

/// Points of a run, in groups: what comes before its journal begins, then a group for each line of
/// the journal with all that follows until the next one.
fn groups(points: &[CrashPoint]) -> Vec<Vec<&CrashPoint>> {
    let mut groups: Vec<Vec<&CrashPoint>> = vec![Vec::new()];
    for point in points {
        if point.call == "write" && point.seen.contains("/kubepki/journal/") {
            groups.push(Vec::new());
        }
        groups.last_mut().unwrap().push(point);
    }
    groups
}

/// The moments that differ for the plan: those at the journal, at the targets, and of what is sent
/// and received between a step's first line and its last; of everything before the plan and of
/// each group's preparations the last one. `wanted` picks groups: number 0 is what comes before
/// the journal, 1 its first line, 2 and 3 the first step's intention and end, and so on.
pub fn moments(points: &[CrashPoint], wanted: impl Fn(usize, usize) -> bool) -> Vec<CrashPoint> {
    let groups = groups(points);
    let mut chosen: Vec<CrashPoint> = Vec::new();
    for (number, group) in groups.iter().enumerate() {
        if !wanted(number, groups.len()) {
            continue;
        }
        // A step's intention is followed by what it does.
        let acts = number > 0 && number % 2 == 0;
        let before = chosen.len();
        let mut asked = false;
        for point in group {
            let journal = point.seen.contains("/kubepki/journal/");
            let network = point.seen.contains("<TCP");
            // Of the looks for an answer, the first after each question.
            let receives = network && RECEIVE.contains(&point.call.as_str());
            let sent = network && (!receives || asked);
            if network {
                asked = !receives;
            }
            let target = !point.seen.contains("/kubepki/") && !network;
            let lasting = point.call.starts_with("rename") || point.call.starts_with("fsync");
            if journal || acts && (sent || target && lasting) {
                chosen.push((*point).clone());
            }
        }
        let last = group.last().map(|it| (*it).clone());
        if !acts && chosen.last() != last.as_ref() || chosen.len() == before {
            chosen.extend(last);
        }
    }
    chosen
}

/// Of each step that puts a file two moments: before its temporary file is renamed, and right after.
pub fn around_targets(points: &[CrashPoint]) -> Vec<(Left, CrashPoint)> {
    let mut around = Vec::new();
    let intentions = groups(points).into_iter().skip(2).step_by(2);
    for (step, group) in (1..).zip(intentions) {
        let is_target = |point: &CrashPoint| !point.seen.contains("/kubepki/");
        let mut rest = group.into_iter();
        let renames = |it: &&CrashPoint| it.call.starts_with("rename") && is_target(it);
        let Some(rename) = rest.find(renames) else {
            continue;
        };
        around.push((Left::Intended(step), rename.clone()));
        let synced = rest.find(|it| it.call == "fsync" && is_target(it));
        around.extend(synced.map(|it| (Left::Done(step), it.clone())));
    }
    around
}

/// The point before a line of the plan's journal: number 2 is the first step's intention.
pub fn line(points: &[CrashPoint], number: u32) -> Option<CrashPoint> {
    let groups = groups(points);
    let group = groups.get(usize::try_from(number).unwrap())?;
    group.first().map(|it| (*it).clone())
}

const RECEIVE: [&str; 4] = ["read", "readv", "recvfrom", "recvmsg"];
