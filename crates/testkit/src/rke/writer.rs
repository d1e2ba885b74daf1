//! A client that writes into etcd all the time.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::cluster::Cluster;
use super::images;
use super::layout::Role;
use super::members::{self, Log};
use crate::TlsFiles;

/// Writes ten times a second, each write to whichever member takes it, until it is asked what
/// became of them.
#[derive(Debug)]
pub struct Writer {
    child: Child,
    /// Closing it asks.
    pipe: Option<ChildStdin>,
    members: Vec<Log>,
    folder: tempfile::TempDir,
}

/// What became of all writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// How many etcd acknowledged.
    pub acknowledged: usize,
    /// Those of them that were not there in the end.
    pub lost: Vec<usize>,
    /// The longest time from one acknowledgement to the next; a tenth of a second if all is well.
    pub longest_pause: Duration,
    /// How many members were away at one moment: from when they begin to stop, by their own log, to
    /// when they serve again; one that is killed is away from when it begins again.
    pub most_away: usize,
    /// What single members answered on the way: `connection …` where there was none,
    /// `certificate …` where one side refused the other's, `status …`.
    pub errors: Vec<String>,
}

impl Cluster {
    /// Starts a client that presents and trusts `files`, read once.
    pub fn writer(&self, files: &TlsFiles) -> Writer {
        self.start_writer(files, false)
    }

    /// Starts a client that presents and trusts what is in `files` at each handshake.
    pub fn reloading_writer(&self, files: &TlsFiles) -> Writer {
        self.start_writer(files, true)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a door of the tests to other programs"
    )]
    fn start_writer(&self, files: &TlsFiles, reload: bool) -> Writer {
        let folder =
            tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let log = |name: &str| {
            let path = folder.path().join(name);
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        // What another one wrote would hide what this one lost.
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let members = self.hosts.iter().zip(self.nodes());
        let members = members.filter(|(_, node)| node.has(Role::Etcd));
        let members = members.map(|(host, _)| Log::from_now(host)).collect();
        let trusted = files.trusted.as_ref();
        let trusted = trusted.unwrap_or_else(|| panic!("the writer trusts nobody"));
        let mut child = Command::new(images::components())
            .arg0("etcd-writer")
            .arg(format!("--endpoints={}", self.endpoints()))
            .arg(format!("--cert={}", files.cert.display()))
            .arg(format!("--key={}", files.key.display()))
            .arg(format!("--cacert={}", trusted.display()))
            .arg(format!("--prefix=/writer-{}-{number}/", std::process::id()))
            .arg(format!("--reload={reload}"))
            .stdin(Stdio::piped())
            .stdout(log("out"))
            .stderr(log("err"))
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run the writer: {error}"));
        Writer {
            pipe: child.stdin.take(),
            child,
            members,
            folder,
        }
    }
}

impl Writer {
    /// How many are acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.said("out")
            .lines()
            .filter(|it| it.starts_with("write "))
            .count()
    }

    /// Stops, reads everything back and tells.
    #[track_caller]
    pub fn finish(mut self) -> Writes {
        drop(self.pipe.take());
        let end = self.child.wait();
        let (said, complaint) = (self.said("out"), self.said("err"));
        let well = end.as_ref().is_ok_and(std::process::ExitStatus::success);
        assert!(well, "the writer ended with {end:?}: {complaint}");
        let mut writes = Writes {
            most_away: members::most_away(&self.members),
            ..Writes::default()
        };
        let mut before = 0;
        for line in said.lines() {
            let mut words = line.splitn(5, ' ');
            let kind = words.next().unwrap_or_default();
            let mut number = || words.next().and_then(|it| it.parse::<u64>().ok());
            let first = number().unwrap_or_default();
            match kind {
                "write" => {
                    let (_, end) = (number(), number().unwrap_or_default());
                    let pause = Duration::from_millis(end.saturating_sub(before));
                    writes.longest_pause = writes.longest_pause.max(pause);
                    before = end;
                    let errors = words.next().unwrap_or_default().split("; ");
                    let errors = errors.filter(|it| !it.is_empty()).map(str::to_owned);
                    writes.errors.extend(errors);
                }
                "lost" => writes.lost.push(first as usize),
                "acknowledged" => writes.acknowledged = first as usize,
                _ => panic!("the writer said {line}"),
            }
        }
        writes
    }

    fn said(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
