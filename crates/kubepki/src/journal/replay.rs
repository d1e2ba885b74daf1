//! From lines to where the plan stands: a pure function.

use std::collections::BTreeMap;

use super::{Entry, Event, Found, Intend, LeafRecord};
use crate::plan::LeafId;

/// Where a plan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No line says that it was begun.
    NotStarted,
    /// Steps before `next` are done, none is in doubt. `next` is one past the last step when all
    /// are done and only the end is missing.
    InProgress {
        /// The step to do now.
        next: u32,
    },
    /// Steps before `step` are done, `step` may or may not be.
    InFlight {
        /// The step in doubt.
        step: u32,
    },
    /// All steps are done.
    Finished,
    /// An undo took over; its done steps are those that the undo takes back.
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
        failure: None,
    };
    let mut total = 0;
    for (index, entry) in entries.iter().enumerate() {
        let progress = next(replay.progress, &entry.event, &mut total).ok_or_else(|| {
            let event = entry.event.to_string();
            Misplaced {
                line: index + 1,
                event,
                progress: replay.progress,
            }
        })?;
        replay.progress = progress;
        replay.note(&entry.event);
    }
    Ok(replay)
}

/// The table: where `event` leads from `progress`; `None` where it may not stand.
fn next(progress: Progress, event: &Event, total: &mut u32) -> Option<Progress> {
    use Progress::{Abandoned, Finished, InFlight, InProgress, NotStarted};

    match (progress, event) {
        (NotStarted, Event::Begin(header)) => {
            *total = header.steps;
            Some(InProgress { next: 1 })
        }
        (InProgress { next }, Event::Intend(intend)) if intend.step == next && next <= *total => {
            Some(InFlight { step: next })
        }
        (InProgress { next }, Event::Finished) if next == total.saturating_add(1) => Some(Finished),
        (InProgress { .. }, Event::Abandoned { .. }) => Some(Abandoned),
        (InFlight { step }, event) if event.step() == Some(step) => match event {
            Event::Intend(_)
            | Event::Failed { .. }
            | Event::Waiting { .. }
            | Event::Progress { .. }
            | Event::Deferred { .. } => Some(progress),
            Event::Done { .. } => Some(InProgress {
                next: step.saturating_add(1),
            }),
            Event::Withdrawn { .. } => Some(InProgress { next: step }),
            Event::Begin(_) | Event::Finished | Event::Abandoned { .. } => None,
        },
        _ => None,
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
            Event::Done { step, after } => {
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
            | Event::Deferred { .. }
            | Event::Finished
            | Event::Abandoned { .. } => {}
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
    /// steps intended again, manual steps that wait, steps withdrawn, and every end.
    fn legal(steps: u32, choices: &[u8]) -> Vec<Entry> {
        let header = Header {
            format: FORMAT,
            plan: PlanId("p".to_owned()),
            plan_sha256: String::new(),
            steps,
        };
        let mut events = vec![Event::Begin(header)];
        let mut progress = Progress::InProgress { next: 1 };
        for choice in choices {
            let event = match progress {
                Progress::InProgress { next } if *choice > 240 || next > steps => {
                    if next > steps && *choice > 120 {
                        Event::Finished
                    } else {
                        Event::Abandoned {
                            by: PlanId("u".to_owned()),
                        }
                    }
                }
                Progress::InProgress { next: step } | Progress::InFlight { step } => {
                    in_flight(step, progress, *choice)
                }
                _ => break,
            };
            progress = next(progress, &event, &mut steps.clone()).unwrap();
            events.push(event);
        }
        let at = UnixTime::from_secs(0);
        events
            .into_iter()
            .map(|event| Entry { at, event })
            .collect()
    }

    fn in_flight(step: u32, progress: Progress, choice: u8) -> Event {
        let intend = Intend {
            step,
            before: Found::Absent,
            after: Found::Stateless,
            leaves: Vec::new(),
            holds_ca_key: false,
        };
        match (progress, choice) {
            (Progress::InProgress { .. }, _) | (_, 0..20) => Event::Intend(intend),
            (_, 20..40) => Event::Failed {
                step,
                error: "no".to_owned(),
            },
            (_, 40..60) => Event::Waiting { step },
            (_, 60..80) => Event::Withdrawn { step },
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
            choices in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let entries = legal(steps, &choices);
            let end = replay(&entries).unwrap();
            for length in 0..=entries.len() {
                let (prefix, rest) = entries.split_at(length);
                let mut state = replay(prefix).unwrap();
                for step in state.steps.keys() {
                    let done = state.steps[step].after.is_some();
                    match state.progress {
                        Progress::InFlight { step: open } => prop_assert_eq!(done, *step < open),
                        _ => prop_assert!(done),
                    }
                }
                let mut total = steps;
                for entry in rest {
                    state.progress = next(state.progress, &entry.event, &mut total).unwrap();
                    state.note(&entry.event);
                }
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
            // nothing follows.
            let entries = legal(steps, &choices);
            let position = position.index(entries.len());
            let removable = matches!(entries[position].event, Event::Begin(_) | Event::Done { .. });
            prop_assume!(removable && position + 1 < entries.len());
            let mut broken = entries;
            broken.remove(position);
            prop_assert!(replay(&broken).is_err());
        }
    }
}
