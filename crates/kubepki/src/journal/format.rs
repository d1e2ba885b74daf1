//! Lines to entries and back.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Entry, Event, FORMAT, Header};

/// What a journal's bytes say.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    /// The first line; `None` when not even that is whole.
    pub header: Option<Header>,
    /// All whole lines, the first included.
    pub entries: Vec<Entry>,
    /// What a crash left of the line after them.
    pub torn: Option<Torn>,
    /// Where the next line belongs, in bytes from the start.
    pub(super) end: u64,
    /// The last whole line's sum.
    pub(super) sum: String,
}

impl Contents {
    /// A journal without a line.
    pub fn empty() -> Self {
        Self {
            header: None,
            entries: Vec::new(),
            torn: None,
            end: 0,
            sum: START.to_owned(),
        }
    }
}

/// A last line that was not written to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Its number, from 1.
    pub line: usize,
    /// How many bytes of it there are.
    pub bytes: usize,
}

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A newer program wrote it.
    #[error(
        "the journal has format {found}, this program knows up to {FORMAT}; \
         use the newer kubepki that began the plan"
    )]
    Newer {
        /// Its format.
        found: u64,
    },
    /// A line that is not the last does not fit its checksum, or does not parse.
    #[error(
        "line {line} of the journal is damaged ({detail}); compare the files with the backups \
         beside it by hand, no step can be trusted to have been done or not"
    )]
    Damaged {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        detail: String,
    },
    /// The lines are whole, and no run of this program writes them in this order.
    #[error("the journal's lines contradict each other")]
    Contradiction(#[source] super::Misplaced),
    /// The file cannot be read or written.
    #[error("cannot {action} the journal {}", path.display())]
    File {
        /// "read", "open", "append to".
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An earlier line could not be written whole; the file has to be opened again.
    #[error("an earlier line could not be written; run the command again")]
    Poisoned,
}

/// Reads a journal.
///
/// # Errors
///
/// [`JournalError::Newer`] and [`JournalError::Damaged`]; a torn last line is none.
pub fn parse(bytes: &[u8]) -> Result<Contents, JournalError> {
    let mut contents = Contents::empty();
    let mut rest = bytes;
    while !rest.is_empty() {
        let line = contents.entries.len() + 1;
        let (text, after) = match rest.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                let (text, after) = rest.split_at(end);
                (Ok(text), after.get(1..).unwrap_or_default())
            }
            None => (Err("it does not end".to_owned()), &[][..]),
        };
        match text.and_then(|text| parse_line(&contents.sum, line, text)) {
            Ok((sum, entry)) => contents.push(sum, entry, rest.len() - after.len()),
            Err(detail) => {
                refuse_newer(line, rest)?;
                if !after.is_empty() {
                    return Err(JournalError::Damaged { line, detail });
                }
                contents.torn = Some(Torn {
                    line,
                    bytes: rest.len(),
                });
            }
        }
        rest = after;
    }
    if let Some(header) = &contents.header
        && header.format > FORMAT
    {
        return Err(JournalError::Newer {
            found: header.format.into(),
        });
    }
    Ok(contents)
}

impl Contents {
    fn push(&mut self, sum: String, entry: Entry, length: usize) {
        if let (true, Event::Begin(header)) = (self.entries.is_empty(), &entry.event) {
            self.header = Some(header.clone());
        }
        self.entries.push(entry);
        self.sum = sum;
        self.end += length as u64;
    }
}

/// The line for `entry` after a line with the sum `previous`, and its own sum.
pub(super) fn render_line(
    previous: &str,
    number: usize,
    entry: &Entry,
) -> Result<(String, String), serde_json::Error> {
    let numbered = serde_json::to_string(&Numbered {
        line: number,
        entry,
    })?;
    // All of the object but its opening brace.
    let rest = numbered.get(1..).unwrap_or_default();
    let sum = chain(previous, rest.as_bytes());
    Ok((format!("{PREFIX}{sum}{SEPARATOR}{rest}\n"), sum))
}

fn parse_line(previous: &str, number: usize, line: &[u8]) -> Result<(String, Entry), String> {
    let line = std::str::from_utf8(line).map_err(|_| "it is not UTF-8")?;
    let (sum, rest) = line
        .strip_prefix(PREFIX)
        .and_then(|line| line.split_once(SEPARATOR))
        .ok_or("it does not begin with a checksum")?;
    if sum != chain(previous, rest.as_bytes()) {
        return Err("its checksum does not fit".to_owned());
    }
    let parsed: Parsed = serde_json::from_str(&format!("{{{rest}"))
        .map_err(|error| format!("it is whole and not understood: {error}"))?;
    if parsed.line != number {
        return Err(format!("it says that it is line {}", parsed.line));
    }
    Ok((sum.to_owned(), parsed.entry))
}

/// A line that this program does not understand may come from a newer one, which says so in its
/// first line in a place that never moves.
fn refuse_newer(line: usize, text: &[u8]) -> Result<(), JournalError> {
    if line != 1 {
        return Ok(());
    }
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let value: serde_json::Value = serde_json::from_slice(first).unwrap_or_default();
    match value
        .pointer("/entry/event/begin/format")
        .and_then(serde_json::Value::as_u64)
    {
        Some(found) if found > u64::from(FORMAT) => Err(JournalError::Newer { found }),
        _ => Ok(()),
    }
}

fn chain(previous: &str, rest: &[u8]) -> String {
    pki::sha256(&[previous.as_bytes(), rest].concat()).to_string()
}

#[derive(Serialize)]
struct Numbered<'a> {
    line: usize,
    entry: &'a Entry,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parsed {
    line: usize,
    entry: Entry,
}

const PREFIX: &str = "{\"sum\":\"";
const SEPARATOR: &str = "\",";
/// What stands for the sum of the line before the first.
const START: &str = "kubepki journal";

#[cfg(test)]
mod tests {
    use pki::UnixTime;

    use super::*;
    use crate::plan::PlanId;

    fn journal(events: &[Event]) -> (Vec<u8>, Vec<Entry>) {
        let mut bytes = Vec::new();
        let mut sum = START.to_owned();
        let mut entries = Vec::new();
        for (index, event) in events.iter().enumerate() {
            let entry = Entry {
                at: UnixTime::from_secs(1_800_000_000),
                event: event.clone(),
            };
            let (line, next) = render_line(&sum, index + 1, &entry).unwrap();
            bytes.extend(line.into_bytes());
            sum = next;
            entries.push(entry);
        }
        (bytes, entries)
    }

    fn example() -> (Vec<u8>, Vec<Entry>) {
        let plan = PlanId("p".to_owned());
        let header = Header {
            format: FORMAT,
            plan,
            plan_sha256: "00".to_owned(),
            steps: 1,
        };
        journal(&[
            Event::Begin(header),
            Event::Failed {
                step: 1,
                error: "no\nspace".to_owned(),
            },
            Event::Finished,
        ])
    }

    #[test]
    fn every_cut_is_a_shorter_journal_with_a_torn_line() {
        let (bytes, entries) = example();
        for length in 0..=bytes.len() {
            let contents = parse(&bytes[..length]).unwrap();
            let whole = bytes[..length]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            assert_eq!(contents.entries, entries[..whole]);
            let end = usize::try_from(contents.end).unwrap();
            let torn = (end < length).then_some(Torn {
                line: whole + 1,
                bytes: length - end,
            });
            assert_eq!(contents.torn, torn);
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let (bytes, entries) = example();
        let last = bytes[..bytes.len() - 1]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .unwrap();
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1;
            match parse(&damaged) {
                Err(JournalError::Damaged { .. } | JournalError::Newer { .. }) => {
                    assert!(position <= last, "the last line at {position}");
                }
                Err(other) => panic!("{other}"),
                Ok(contents) => {
                    // In the last line, damage and a torn write cannot be told apart.
                    assert!(position >= last, "the middle at {position}");
                    assert!(contents.torn.is_some());
                    assert!(contents.entries.len() < entries.len());
                }
            }
        }
    }

    #[test]
    fn lines_cannot_be_dropped_swapped_or_doubled() {
        let (bytes, _) = example();
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        for order in [[0, 2, 1], [1, 0, 2], [0, 0, 1], [1, 2, 2]] {
            let shuffled = order.map(|index| lines[index]).concat();
            let error = parse(&shuffled).unwrap_err();
            assert!(
                matches!(error, JournalError::Damaged { .. }),
                "{order:?}: {error}"
            );
        }
    }

    #[test]
    fn a_newer_journal_is_refused_even_if_its_lines_are_not_understood() {
        let line = r#"{"v2":1,"entry":{"event":{"begin":{"format":2,"shape":[]}}}}"#;
        let error = parse(format!("{line}\n{line}\n").as_bytes()).unwrap_err();
        assert!(matches!(error, JournalError::Newer { found: 2 }), "{error}");
    }

    #[test]
    fn what_a_line_looks_like() {
        let (bytes, _) = example();
        let text = String::from_utf8(bytes).unwrap();
        let (sum, rest) = text.lines().next().unwrap().split_once(',').unwrap();
        assert_eq!(sum.len(), "{\"sum\":\"\"".len() + 64);
        assert_eq!(
            rest,
            "\"line\":1,\"entry\":{\"at\":\"2027-01-15T08:00:00Z\",\"event\":{\"begin\":\
             {\"format\":1,\"plan\":\"p\",\"plan_sha256\":\"00\",\"steps\":1}}}}"
        );
    }
}
