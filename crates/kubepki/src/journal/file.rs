//! A journal's file, open for adding lines.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use pki::UnixTime;
use rustix::fs::{Mode, OFlags};

use super::format::{Contents, JournalError, parse, render_line};
use super::replay::Position;
use super::{Entry, Event, Replay, replay};
use crate::edge::file;

/// A journal that lines can be added to. Whoever holds it holds the state directory's lock.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    contents: Contents,
    /// Which line may follow.
    position: Position,
    poisoned: bool,
}

impl Journal {
    /// Opens or makes the journal at `path`, 0600. A torn last line is still there until the
    /// first [`Self::append`].
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or its lines cannot be used.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |source| JournalError::File {
            action: "open",
            path: path.to_owned(),
            source,
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
        let mut opened = File::from(opened.map_err(|error| failed(error.into()))?);
        let mut bytes = Vec::new();
        opened.read_to_end(&mut bytes).map_err(failed)?;
        file::sync_parent(path).map_err(failed)?;
        let contents = parse(&bytes)?;
        // A journal whose lines contradict each other can be read; nothing is added to it.
        let mut position = Some(Position::default());
        for entry in &contents.entries {
            position = position.and_then(|position| position.after(&entry.event));
        }
        Ok(Self {
            path: path.to_owned(),
            file: opened,
            contents,
            poisoned: position.is_none(),
            position: position.unwrap_or_default(),
        })
    }

    /// What the lines say.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// What the lines amount to.
    ///
    /// # Errors
    ///
    /// [`JournalError::Contradiction`].
    pub fn replay(&self) -> Result<Replay, JournalError> {
        replay(&self.contents.entries).map_err(JournalError::Contradiction)
    }

    /// Cuts off a torn line, adds one for `event`, and returns once it is on the disk.
    ///
    /// # Errors
    ///
    /// [`JournalError::Contradiction`] when the line may not follow, and nothing is written; else
    /// when writing fails, after which this value refuses further lines.
    pub fn append(&mut self, at: UnixTime, event: Event) -> Result<(), JournalError> {
        if self.poisoned {
            // What contradicts itself is told as that.
            self.replay()?;
            return Err(JournalError::Poisoned);
        }
        let index = self.contents.entries.len();
        let refused = || JournalError::Contradiction(self.position.refuse(index, &event));
        let position = self.position.after(&event).ok_or_else(refused)?;
        let entry = Entry { at, event };

        self.poisoned = true;
        let (line, sum) = render_line(&self.contents.sum, index + 1, &entry)
            .map_err(|error| self.failed(error.into()))?;
        self.write(line.as_bytes())
            .map_err(|error| self.failed(error))?;
        self.poisoned = false;

        if let (None, Event::Begin(header)) = (&self.contents.header, &entry.event) {
            self.contents.header = Some(header.clone());
        }
        self.contents.entries.push(entry);
        self.position = position;
        self.contents.torn = None;
        self.contents.end += line.len() as u64;
        self.contents.sum = sum;
        Ok(())
    }

    fn write(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self.contents.torn.is_some() {
            self.file.set_len(self.contents.end)?;
        }
        self.file.seek(SeekFrom::Start(self.contents.end))?;
        file::append(&mut self.file, line)
    }

    fn failed(&self, source: std::io::Error) -> JournalError {
        JournalError::File {
            action: "append to",
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::journal::{FORMAT, Found, Header, Intend, Progress};
    use crate::plan::PlanId;

    fn begin() -> Event {
        let plan = PlanId("p".to_owned());
        Event::Begin(Header {
            format: FORMAT,
            plan,
            plan_sha256: String::new(),
            steps: 1,
        })
    }

    fn intend() -> Event {
        Event::Intend(Intend {
            step: 1,
            before: Found::Absent,
            after: Found::Absent,
            leaves: Vec::new(),
            holds_ca_key: false,
        })
    }

    #[test]
    fn a_torn_line_is_reported_and_cut_off_by_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.jsonl");
        let at = UnixTime::from_secs(0);
        let mut journal = Journal::open(&path).unwrap();
        journal.append(at, begin()).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);

        let mut tail = std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap();
        tail.write_all(b"{\"sum\":\"half of a li").unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(
            journal.contents().torn.map(|torn| (torn.line, torn.bytes)),
            Some((2, 20))
        );
        assert_eq!(
            journal.replay().unwrap().progress,
            Progress::InProgress { next: 1 }
        );
        journal.append(at, intend()).unwrap();

        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.contents().torn, None);
        assert_eq!(
            journal.replay().unwrap().progress,
            Progress::InFlight { step: 1 }
        );
    }

    #[test]
    fn an_event_that_may_not_follow_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.jsonl");
        let at = UnixTime::from_secs(0);
        let mut journal = Journal::open(&path).unwrap();
        journal.append(at, begin()).unwrap();
        let error = journal.append(at, Event::Finished).unwrap_err();
        assert!(matches!(error, JournalError::Contradiction(_)), "{error}");
        assert_eq!(Journal::open(&path).unwrap().contents().entries.len(), 1);
        journal.append(at, intend()).unwrap();
    }
}
