//! From lines to where the plan stands: a pure function.

use std::collections::{BTreeMap, BTreeSet};

use super::{Entry, Event, Found, Intend, LeafRecord};
use crate::plan::LeafId;

/// Where a plan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No line says that it was begun.
    NotStarted,
    /// Steps before `next` are done or put off, no other is in doubt. `next` is one past the last
    /// step when only those that are put off and the end are missing.
    InProgress {
        /// The step to do now.
        next: u32,
    },
    /// `step` may or may not be done. If it is one that was put off before, all steps were passed.
    InFlight {
        /// The step in doubt.
        step: u32,
    },
    /// All steps are done.
    Finished,
    /// An undo took over, which takes back the steps that were done; or a later plan.
    Abandoned,
}

/// Everything that a journal's lines amount to.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// Where the plan stands.
    pub progress: Progress,
    /// Each step that was intended and not withdrawn.
    pub steps: BTreeMap<u32, StepRecord>,
    /// The leaves that were put in place or were about to be.
    pub leaves: BTreeMap<LeafId, LeafRecord>,
    /// Steps that are put off, and why.
    pub deferred: BTreeMap<u32, String>,
    /// Whether nothing else is left: the last step was passed, and none is in flight.
    pub only_deferred: bool,
    /// The last failure, if no later line made up for it.
    pub failure: Option<String>,
}

/// What is known of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRecord {
    /// Its condition and promise.
    pub intend: Intend,
    /// What was read back; `None` while it is in flight.
    pub after: Option<Found>,
}

/// A line that cannot follow the lines before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} says \"{event}\", which cannot follow {progress:?}")]
pub struct Misplaced {
    /// Its number, from 1.
    pub line: usize,
    /// What it says.
    pub event: String,
    /// What the lines before amount to.
    pub progress: Progress,
}

/// Replays a journal.
///
/// # Errors
///
/// The first line that the table in the [module's documentation](super) does not allow.
pub fn replay(entries: &[Entry]) -> Result<Replay, Misplaced> {
    let mut replay = Replay {
        progress: Progress::NotStarted,
        steps: BTreeMap::new(),
        leaves: BTreeMap::new(),
        deferred: BTreeMap::new(),
        only_deferred: false,
        failure: None,
    };
    let mut position = Position::default();
    for (index, entry) in entries.iter().enumerate() {
        let next = position.after(&entry.event);
        position = next.ok_or_else(|| position.refuse(index, &entry.event))?;
        replay.progress = position.progress;
        replay.note(&entry.event);
    }
    replay.only_deferred = position.only_deferred();
    Ok(replay)
}

/// Where a journal stands, as far as it decides which line may follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    progress: Progress,
    /// How many steps there are.
    total: u32,
    /// Steps that are put off; one of them may be in flight again.
    deferred: BTreeSet<u32>,
}

impl Default for Position {
    fn default() -> Self {
        Self {
            progress: Progress::NotStarted,
            total: 0,
            deferred: BTreeSet::new(),
        }
    }
}

impl Position {
    /// The table: where `event` leads; `None` where it may not stand.
    pub(super) fn after(&self, event: &Event) -> Option<Self> {
        use Progress::{Abandoned, Finished, InFlight, InProgress, NotStarted};

        let mut position = self.clone();
        position.progress = match (self.progress, event) {
            (NotStarted, Event::Begin(header)) => {
                position.total = header.steps;
                InProgress { next: 1 }
            }
            (InProgress { next }, Event::Intend(intend)) if self.may_take(next, intend.step) => {
                InFlight { step: intend.step }
            }
            (InProgress { next }, Event::Deferred { step, .. }) if self.may_take(next, *step) => {
                position.passed(*step, false)
            }
            (InProgress { next }, Event::Finished)
                if next == self.end() && self.deferred.is_empty() =>
            {
                Finished
            }
            (InProgress { .. }, Event::Abandoned { .. }) => Abandoned,
            (InProgress { .. }, Event::Superseded { .. }) if self.only_deferred() => Abandoned,
            (InFlight { step }, event) if event.step() == Some(step) => match event {
                Event::Intend(_)
                | Event::Failed { .. }
                | Event::Waiting { .. }
                | Event::Progress { .. } => self.progress,
                Event::Done { .. } => position.passed(step, true),
                Event::Deferred { .. } => position.passed(step, false),
                Event::Withdrawn { .. } => InProgress {
                    next: if self.deferred.contains(&step) {
                        self.end()
                    } else {
                        step
                    },
                },
                Event::Begin(_)
                | Event::Finished
                | Event::Abandoned { .. }
                | Event::Superseded { .. } => return None,
            },
            _ => return None,
        };
        Some(position)
    }

    /// Whether `step` may be begun or put off when `next` is the next: it is that, or all were
    /// passed and it is one of those put off.
    fn may_take(&self, next: u32, step: u32) -> bool {
        if next == self.end() {
            self.deferred.contains(&step)
        } else {
            next == step
        }
    }

    fn only_deferred(&self) -> bool {
        let end = Progress::InProgress { next: self.end() };
        self.progress == end && !self.deferred.is_empty()
    }

    /// One past the last step.
    fn end(&self) -> u32 {
        self.total.saturating_add(1)
    }

    /// Leaves `step` behind, done or put off.
    fn passed(&mut self, step: u32, done: bool) -> Progress {
        let again = self.deferred.contains(&step);
        if done {
            self.deferred.remove(&step);
        } else {
            self.deferred.insert(step);
        }
        let next = if again {
            self.end()
        } else {
            step.saturating_add(1)
        };
        Progress::InProgress { next }
    }

    pub(super) fn refuse(&self, index: usize, event: &Event) -> Misplaced {
        Misplaced {
            line: index + 1,
            event: event.to_string(),
            progress: self.progress,
        }
    }
}

impl Replay {
    fn note(&mut self, event: &Event) {
        // A step that failed and was not done is still to be done: why it failed still counts.
        if !matches!(event, Event::Withdrawn { .. }) {
            self.failure = None;
        }
        match event {
            Event::Intend(intend) => {
                for leaf in &intend.leaves {
                    let known = self
                        .leaves
                        .entry(leaf.leaf.clone())
                        .or_insert_with(|| leaf.clone());
                    // A step that puts only the key says nothing about the certificate.
                    let certificate = leaf.certificate.clone().or(known.certificate.take());
                    *known = LeafRecord {
                        certificate,
                        ..leaf.clone()
                    };
                }
                let record = StepRecord {
                    intend: intend.clone(),
                    after: None,
                };
                self.steps.insert(intend.step, record);
            }
            Event::Deferred { step, reason } => {
                self.deferred.insert(*step, reason.clone());
            }
            Event::Done { step, after } => {
                self.deferred.remove(step);
                if let Some(record) = self.steps.get_mut(step) {
                    record.after = Some(after.clone());
                }
            }
            Event::Withdrawn { step } => {
                self.steps.remove(step);
            }
            Event::Failed { error, .. } => self.failure = Some(error.clone()),
            Event::Begin(_)
            | Event::Waiting { .. }
            | Event::Progress { .. }
            | Event::Finished
            | Event::Abandoned { .. }
            | Event::Superseded { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use pki::UnixTime;
    use proptest::prelude::*;

    use super::*;
    use crate::journal::{FORMAT, Header};
    use crate::plan::PlanId;

    /// Any journal that a run of this program can leave, steered by `choices`: with failures,
    /// steps intended again, manual steps that wait, steps withdrawn or put off, and every end.
    fn legal(steps: u32, choices: &[u8]) -> Vec<Entry> {
        let header = Header {
            format: FORMAT,
            plan: PlanId("p".to_owned()),
            plan_sha256: String::new(),
            steps,
        };
        let mut position = Position::default();
        let mut events = vec![Event::Begin(header)];
        position = position.after(&events[0]).unwrap();
        for choice in choices {
            let event = match position.progress {
                Progress::InProgress { .. } if *choice > 245 => Event::Abandoned {
                    by: PlanId("u".to_owned()),
                },
                Progress::InProgress { next } if next > steps => {
                    let put_off: Vec<u32> = position.deferred.iter().copied().collect();
                    match put_off.get(usize::from(*choice) % put_off.len().max(1)) {
                        Some(_) if *choice > 240 => Event::Superseded {
                            by: PlanId("n".to_owned()),
                        },
                        Some(step) => begin_or_put_off(*step, *choice),
                        None => Event::Finished,
                    }
                }
                Progress::InProgress { next } => begin_or_put_off(next, *choice),
                Progress::InFlight { step } => in_flight(step, *choice),
                _ => break,
            };
            position = position.after(&event).unwrap();
            events.push(event);
        }
        let at = UnixTime::from_secs(0);
        events
            .into_iter()
            .map(|event| Entry { at, event })
            .collect()
    }

    fn begin_or_put_off(step: u32, choice: u8) -> Event {
        let reason = "away".to_owned();
        match choice {
            200.. => Event::Deferred { step, reason },
            _ => Event::Intend(intend(step)),
        }
    }

    fn intend(step: u32) -> Intend {
        Intend {
            step,
            before: Found::Absent,
            after: Found::Stateless,
            leaves: Vec::new(),
            holds_ca_key: false,
        }
    }

    fn in_flight(step: u32, choice: u8) -> Event {
        let text = || "no".to_owned();
        match choice {
            0..20 => Event::Intend(intend(step)),
            20..40 => Event::Failed {
                step,
                error: text(),
            },
            40..60 => Event::Waiting { step },
            60..80 => Event::Withdrawn { step },
            80..100 => Event::Progress {
                step,
                host: text(),
                what: text(),
            },
            100..130 => Event::Deferred {
                step,
                reason: text(),
            },
            _ => Event::Done {
                step,
                after: Found::Stateless,
            },
        }
    }

    proptest! {
        #[test]
        fn any_prefix_is_a_legal_state_from_which_the_rest_leads_to_the_same_end(
            steps in 0_u32..5,
            choices in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let entries = legal(steps, &choices);
            let end = replay(&entries).unwrap();
            for length in 0..=entries.len() {
                let (prefix, rest) = entries.split_at(length);
                let mut state = replay(prefix).unwrap();
                // Only the step in flight and those put off are in doubt.
                for (step, record) in &state.steps {
                    let open = matches!(state.progress, Progress::InFlight { step: open } if open == *step);
                    let in_doubt = open || state.deferred.contains_key(step);
                    prop_assert_eq!(record.after.is_none(), in_doubt);
                }
                // None is lost: each is done, put off, in flight, or still to come.
                let passed = match state.progress {
                    Progress::InProgress { next } => next,
                    Progress::InFlight { step } if state.deferred.contains_key(&step) => steps + 1,
                    Progress::InFlight { step } => step,
                    Progress::Finished => steps + 1,
                    Progress::NotStarted | Progress::Abandoned => 1,
                };
                for step in 1..passed {
                    let done = state.steps.get(&step).is_some_and(|it| it.after.is_some());
                    prop_assert!(done != state.deferred.contains_key(&step));
                }
                prop_assert!(state.progress != Progress::Finished || state.deferred.is_empty());
                let mut position = Position::default();
                for entry in prefix {
                    position = position.after(&entry.event).unwrap();
                }
                for entry in rest {
                    position = position.after(&entry.event).unwrap();
                    state.progress = position.progress;
                    state.note(&entry.event);
                }
                state.only_deferred = position.only_deferred();
                prop_assert_eq!(&state, &end);
            }
        }

        #[test]
        fn a_line_out_of_place_is_refused(
            steps in 1_u32..4,
            choices in prop::collection::vec(any::<u8>(), 1..30),
            position in any::<prop::sample::Index>(),
        ) {
            // Taking away a "done" or "begin" always leaves a line without its cause, unless
            // nothing follows, or the plan was given up, which may be at any time but in flight.
            let entries = legal(steps, &choices);
            let position = position.index(entries.len());
            let removable = matches!(entries[position].event, Event::Begin(_) | Event::Done { .. });
            prop_assume!(removable && position + 1 < entries.len());
            let mut broken = entries;
            broken.remove(position);
            prop_assert!(replay(&broken).is_err());
        }

        #[test]
        fn what_is_put_off_stays_open_until_it_is_done(
            steps in 1_u32..5,
            which in prop::collection::btree_set(1_u32..5, 1..4),
        ) {
            let mut events = vec![legal(steps, &[])[0].event.clone()];
            let reason = || "away".to_owned();
            let put_off: Vec<u32> = which.into_iter().filter(|step| *step <= steps).collect();
            let done = |step| Event::Done { step, after: Found::Stateless };
            for step in 1..=steps {
                match put_off.contains(&step) {
                    true => events.push(Event::Deferred { step, reason: reason() }),
                    false => events.extend([Event::Intend(intend(step)), done(step)]),
                }
            }
            let entries = |events: &[Event]| -> Vec<Entry> {
                let at = UnixTime::from_secs(0);
                events.iter().cloned().map(|event| Entry { at, event }).collect()
            };
            for step in &put_off {
                let mut early = events.clone();
                early.push(Event::Finished);
                prop_assert!(replay(&entries(&early)).is_err());
                events.extend([Event::Intend(intend(*step)), done(*step)]);
            }
            events.push(Event::Finished);
            let end = replay(&entries(&events)).unwrap();
            prop_assert_eq!(end.progress, Progress::Finished);
            prop_assert!(end.deferred.is_empty());
        }
    }
}
