//! Adding records: one thread writes, whoever waits shares its fsync.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pki::Digest;
use tokio::sync::{mpsc, oneshot, watch};

use super::open::{self, End, Mended};
use super::segment::{self, Segment};
use super::{Head, Issued, LogError, line};
use crate::edge::file;

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where: `<directory>/<server>/` holds the chain.
    pub directory: PathBuf,
    /// Whose chain: the server's node name.
    pub server: String,
    /// From how many bytes on a segment is followed by the next. A group of records is never
    /// split, so a segment can be a group longer.
    pub segment_bytes: u64,
    /// How many records share an fsync at most.
    pub group: usize,
}

impl Options {
    /// Segments of 16 MiB (some 30,000 records: read in whole at every start), groups as large as
    /// they come.
    pub fn new(directory: impl Into<PathBuf>, server: impl Into<String>) -> Self {
        Self {
            directory: directory.into(),
            server: server.into(),
            segment_bytes: 16 << 20,
            group: 4096,
        }
    }
}

/// A record is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its number, from 1.
    pub seq: u64,
    /// Its hash.
    pub hash: Digest,
}

/// A server's log, open for adding. Clones are the same log.
#[derive(Clone, Debug)]
pub struct Log {
    server: Arc<str>,
    directory: Arc<Path>,
    requests: mpsc::Sender<Request>,
    head: watch::Receiver<Head>,
    writing: Writing,
}

/// Since when the disk has been given what is written to it now.
type Writing = Arc<Mutex<Option<Instant>>>;

/// Where a writer of a record hears of it.
type Answer = oneshot::Receiver<Result<Receipt, LogError>>;

#[derive(Debug)]
enum Request {
    Append {
        body: Vec<u8>,
        answer: oneshot::Sender<Result<Receipt, LogError>>,
    },
    /// One after the other, all or none; at least one.
    Group {
        bodies: Vec<Vec<u8>>,
        answer: oneshot::Sender<Result<Receipt, LogError>>,
    },
    Close(oneshot::Sender<()>),
}

/// A line that is longer than this was not meant as one: names in certificates are short.
const LONGEST: usize = 256 << 10;

/// So long the disk may take for what it is given; K3s's agents wait ten seconds for an answer.
const PATIENCE: Duration = Duration::from_secs(8);

/// How many callers can wait for room; more wait for that.
const QUEUE: usize = 8192;

impl Log {
    /// Opens or begins a server's chain. `known` is the head that the datastore holds
    /// ([`super::stored_head`]); a log that lacks what it names is not opened.
    ///
    /// # Errors
    ///
    /// [`LogError`]; nothing was changed then, a new directory and lock apart.
    pub fn open(
        options: &Options,
        known: Option<&Head>,
    ) -> Result<(Self, Option<Mended>), LogError> {
        super::checked(&options.server)?;
        let directory = options.directory.join(&options.server);
        let mut end = open::open(&directory, &options.server, known)?;
        let mended = end.mended.take();
        let (requests, incoming) = mpsc::channel(QUEUE);
        let (published, head) = watch::channel(end.head.clone());
        let writing = Writing::default();
        let writer = Writer {
            writing: Arc::clone(&writing),
            directory: directory.clone(),
            limit: options.segment_bytes,
            group: options.group.max(1),
            end,
            published,
            poisoned: false,
        };
        std::thread::Builder::new()
            .name("issuance-log".to_owned())
            .spawn(move || writer.run(incoming))
            .map_err(|error| {
                LogError::file("start the thread that writes to", &directory, error)
            })?;
        let log = Self {
            server: options.server.as_str().into(),
            directory: directory.into(),
            requests,
            head,
            writing,
        };
        Ok((log, mended))
    }

    /// Adds a record and returns once it is on the disk. Its `server` is this log's, whatever it
    /// says. When the future is dropped, the record may be in the log or not.
    ///
    /// # Errors
    ///
    /// [`LogError`]: the certificate must not leave.
    ///
    /// # Panics
    ///
    /// On a Tokio runtime without timers.
    pub async fn append(&self, issued: Issued) -> Result<Receipt, LogError> {
        let (request, done) = self.request(issued)?;
        self.hand_in(request, done).await
    }

    /// What waits for a disk that hangs is not waited for, and of what could not be written then
    /// nothing is written later, but for the one write that hangs.
    async fn hand_in(&self, request: Request, done: Answer) -> Result<Receipt, LogError> {
        if self.hangs() {
            return Err(self.hung());
        }
        let handed = async {
            let sent = self.requests.send(request).await;
            sent.map_err(|_| LogError::Closed)?;
            done.await.map_err(|_| LogError::Closed)?
        };
        match tokio::time::timeout(PATIENCE, handed).await {
            Ok(answer) => answer,
            Err(_) => Err(self.hung()),
        }
    }

    /// Whether the disk has been silent for long about what it was given: then nobody waits for it.
    pub fn hangs(&self) -> bool {
        let writing = self.writing.lock();
        let since = *writing.unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|it| it.elapsed() >= PATIENCE)
    }

    fn hung(&self) -> LogError {
        LogError::Hangs {
            directory: self.directory.to_path_buf(),
        }
    }

    /// Adds records and returns once all are on the disk; the thread that calls waits, whether a
    /// runtime works on it or not.
    ///
    /// # Errors
    ///
    /// [`LogError`]: none of their certificates must be used, and none of the records is there. Only
    /// a crash may leave some of them, and a disk that [hangs](LogError::Hangs) all.
    pub fn append_now(&self, records: Vec<Issued>) -> Result<(), LogError> {
        let bodies: Result<Vec<_>, _> = records.into_iter().map(|it| self.body(it)).collect();
        let bodies = bodies?;
        if bodies.is_empty() {
            return Ok(());
        }
        let (answer, done) = oneshot::channel();
        let failed =
            |error| LogError::file("start a thread that waits for", &*self.directory, error);
        let add = || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().build().map_err(failed)?;
            let handed = self.hand_in(Request::Group { bodies, answer }, done);
            runtime.block_on(handed).map(drop)
        };
        // A thread of a runtime may not wait itself.
        std::thread::scope(|scope| {
            let waits = std::thread::Builder::new()
                .name("issuance-log-own".to_owned())
                .spawn_scoped(scope, add)
                .map_err(failed)?;
            waits.join().unwrap_or(Err(LogError::Closed))
        })
    }

    fn request(&self, issued: Issued) -> Result<(Request, Answer), LogError> {
        let body = self.body(issued)?;
        let (answer, done) = oneshot::channel();
        Ok((Request::Append { body, answer }, done))
    }

    fn body(&self, mut issued: Issued) -> Result<Vec<u8>, LogError> {
        issued.server = (*self.server).to_owned();
        let body = line::body(&issued)
            .map_err(|error| LogError::file("write a record to", &*self.server, error))?;
        if body.len() > LONGEST {
            return Err(LogError::TooLong {
                bytes: body.len(),
                limit: LONGEST,
            });
        }
        Ok(body)
    }

    /// Where its segments lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The last record that is on the disk.
    pub fn head(&self) -> Head {
        self.head.borrow().clone()
    }

    /// Tells of every new head; ends when the log is closed.
    pub fn heads(&self) -> watch::Receiver<Head> {
        self.head.clone()
    }

    /// Whose chain it is.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Finishes what was asked for until now, then lets go of the directory. Later records are
    /// refused with [`LogError::Closed`].
    pub async fn close(&self) {
        let (answer, done) = oneshot::channel();
        if self.requests.send(Request::Close(answer)).await.is_ok() {
            // The thread has ended if it does not answer.
            let _ = done.await;
        }
    }
}

/// Everything that the thread owns.
struct Writer {
    directory: PathBuf,
    limit: u64,
    group: usize,
    end: End,
    published: watch::Sender<Head>,
    poisoned: bool,
    writing: Writing,
}

/// Who waits, with what to tell him once the group is on the disk.
type Waiting = Vec<(oneshot::Sender<Result<Receipt, LogError>>, Receipt)>;

impl Writer {
    fn run(mut self, mut incoming: mpsc::Receiver<Request>) {
        let mut closing = Vec::new();
        let mut buffer = Vec::new();
        let mut last = 0;
        while let Some(first) = incoming.blocking_recv() {
            if let Some(time) = gathering(last) {
                std::thread::sleep(time);
            }
            let mut next = Some(first);
            let mut waiting = Waiting::new();
            let mut head = self.end.head.clone();
            buffer.clear();
            while let Some(request) = next {
                match request {
                    // Nobody has the certificate, nor will have it.
                    Request::Append { answer, .. } | Request::Group { answer, .. }
                        if answer.is_closed() => {}
                    Request::Append { body, answer } => {
                        waiting.push((answer, add(&mut buffer, &mut head, &body)));
                    }
                    Request::Group { bodies, answer } => {
                        let receipts = bodies.iter().map(|it| add(&mut buffer, &mut head, it));
                        waiting.extend(receipts.last().map(|it| (answer, it)));
                    }
                    Request::Close(answer) => {
                        // What others have already handed in is still taken.
                        incoming.close();
                        closing.push(answer);
                    }
                }
                next = match waiting.len() < self.group && buffer.len() < MOST_BYTES {
                    true => incoming.try_recv().ok(),
                    false => None,
                };
            }
            last = waiting.len();
            if !waiting.is_empty() {
                self.commit(&buffer, head, waiting);
            }
        }
        let Self { end, published, .. } = self;
        drop((end.file, end.lock, published));
        for answer in closing {
            let _ = answer.send(());
        }
    }

    /// Writes a group, waits for the disk, and tells everybody.
    fn commit(&mut self, lines: &[u8], head: Head, waiting: Waiting) {
        self.begins(Some(Instant::now()));
        let written = self.write(lines, &head);
        self.begins(None);
        match written {
            Ok(()) => {
                self.end.length += lines.len() as u64;
                self.end.head = head.clone();
                let _ = self.published.send(head);
                for (answer, receipt) in waiting {
                    let _ = answer.send(Ok(receipt));
                }
            }
            Err(error) => {
                for (answer, _) in waiting {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    fn begins(&self, at: Option<Instant>) {
        *self.writing.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn write(&mut self, lines: &[u8], head: &Head) -> Result<(), LogError> {
        self.is_in_place()?;
        if self.poisoned {
            self.cut_off()?;
        }
        if self.end.length >= self.limit {
            self.rotate()?;
        }
        debug_assert!(head.records > self.end.head.records);
        let path = &self.end.segment.path;
        if let Err(error) = file::append(&mut self.end.file, lines) {
            let error = LogError::file("write to", path, error);
            // What is there of the group goes, so that the next one stands behind the last. Whether
            // that reached the disk must be sure too: else nothing more is taken before it has.
            self.poisoned = true;
            let _ = self.cut_off();
            return Err(error);
        }
        Ok(())
    }

    /// Somebody may have moved or deleted the file, or put another disk in its place: what is
    /// written would go where nobody finds it.
    fn is_in_place(&self) -> Result<(), LogError> {
        let path = &self.end.segment.path;
        let (there, own) = (std::fs::symlink_metadata(path), self.end.file.metadata());
        let which = |it: std::fs::Metadata| (it.dev(), it.ino());
        match (there.map(which), own.map(which)) {
            (Ok(there), Ok(own)) if there == own => Ok(()),
            _ => Err(LogError::Replaced { path: path.clone() }),
        }
    }

    /// Takes away what a failed write left behind the last record that callers know of. The pages
    /// that the disk did not take are gone with it, so that what follows is not built on them.
    fn cut_off(&mut self) -> Result<(), LogError> {
        let cut = self.is_whole().and_then(|()| {
            self.end.file.set_len(self.end.length)?;
            self.end.file.sync_data()
        });
        cut.map_err(|source| LogError::Poisoned {
            directory: self.directory.clone(),
            source: Arc::new(source),
        })?;
        self.poisoned = false;
        Ok(())
    }

    /// Whether the last record is still there, as it was: lengthening would only hide that.
    fn is_whole(&self) -> io::Result<()> {
        let length = self.end.length;
        if length == 0 {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let mut file = File::open(&self.end.segment.path)?;
        let begin = length.saturating_sub(2 * LONGEST as u64);
        file.seek(SeekFrom::Start(begin))?;
        file.take(length - begin).read_to_end(&mut bytes)?;
        let last = bytes.strip_suffix(b"\n").unwrap_or_default();
        let last = last
            .rsplit(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default();
        let head = &self.end.head;
        match line::link(last) {
            Ok(link) if (link.seq, link.hash) == (head.records, head.hash) => Ok(()),
            _ => Err(io::Error::other(format!(
                "record {} is not at its end any more",
                head.records
            ))),
        }
    }

    fn rotate(&mut self) -> Result<(), LogError> {
        let segment: Segment = segment::after(&self.directory, &self.end.head);
        let file: File = open::create(&segment)?;
        self.end.file = file;
        self.end.segment = segment;
        self.end.length = 0;
        Ok(())
    }
}

/// Writes a record behind `head`, which moves on.
fn add(lines: &mut Vec<u8>, head: &mut Head, body: &[u8]) -> Receipt {
    head.records += 1;
    head.hash = line::render(lines, head.records, &head.hash, body);
    Receipt {
        seq: head.records,
        hash: head.hash,
    }
}

/// How long a group is open for others after one of `last` records: each group costs a flush of the
/// disk and the changes between threads that go with it. A record that comes alone waits for nobody.
fn gathering(last: usize) -> Option<Duration> {
    let records = u32::try_from(last).unwrap_or(u32::MAX);
    let time = GATHER_EACH.saturating_mul(records).min(GATHER_MOST);
    (records > 1).then_some(time)
}

const GATHER_EACH: Duration = Duration::from_micros(70);
const GATHER_MOST: Duration = Duration::from_millis(3);

/// A group that is this long does not get longer.
const MOST_BYTES: usize = 4 << 20;
