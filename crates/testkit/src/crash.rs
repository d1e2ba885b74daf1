//! Killing a program, or failing it, at every system call that changes something, with strace.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// A program to be killed, and how it is run.
#[derive(Clone, Debug)]
pub struct Victim {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    alone: bool,
    watch: Watch,
}

/// Which of a program's calls are looked at.
#[derive(Clone, Debug)]
enum Watch {
    /// Those of its main thread that change something.
    MainThread,
    /// Those of all its threads that change one of these files.
    Files(Vec<PathBuf>),
    /// What its main thread sends over TCP or receives.
    Network,
    /// Both of its main thread, in the order in which they come.
    FilesAndNetwork,
}

impl Watch {
    /// Which system calls are traced.
    fn calls(&self) -> Vec<&'static str> {
        match self {
            Self::MainThread | Self::Files(_) => CALLS.to_vec(),
            Self::Network => NETWORK.to_vec(),
            Self::FilesAndNetwork => [CALLS, NETWORK].concat(),
        }
    }
}

/// A moment: the `nth` time (from 1) that the program's main thread enters `call`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashPoint {
    /// The system call's name.
    pub call: String,
    /// Which of its calls.
    pub nth: usize,
    /// Its arguments in the run that was looked at, as strace shows them.
    pub seen: String,
}

impl Victim {
    /// `program` run with `arguments`.
    pub fn new<A: Into<OsString>>(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Self {
            program: program.into(),
            arguments,
            environment: Vec::new(),
            alone: false,
            watch: Watch::MainThread,
        }
    }

    /// Looks at changes of these files alone, whichever thread makes them. Threads count their
    /// calls each for itself, so there should be one that writes. Opening a file by a relative name
    /// is not seen.
    pub fn at_files<P: Into<PathBuf>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.watch = Watch::Files(paths.into_iter().map(Into::into).collect());
        self
    }

    /// Looks at what goes over TCP instead of what changes files.
    pub fn at_network(mut self) -> Self {
        self.watch = Watch::Network;
        self
    }

    /// Looks at what goes over TCP as well as at what changes files.
    pub fn at_files_and_network(mut self) -> Self {
        self.watch = Watch::FilesAndNetwork;
        self
    }

    /// Where the machine allows it, lets the program see no process but itself and strace: one
    /// that looks through `/proc` makes as many calls as there are processes, and the `nth` call
    /// of two runs is the same only if that number stands still.
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Runs the program to its end, which must be good, and lists its system calls that change
    /// something: opening to create, writing (except to standard output and error), syncing,
    /// renaming, removing, changing mode, owner, time, size or attributes, making directories and
    /// links. A crash before each of these leaves every state that a crash can leave.
    pub fn crash_points(&self) -> Vec<CrashPoint> {
        let log = tempfile::NamedTempFile::new()
            .unwrap_or_else(|error| panic!("no temporary file: {error}"));
        let calls = self.watch.calls();
        let filter = calls
            .iter()
            .map(|call| format!("?{call}"))
            .collect::<Vec<_>>()
            .join(",");
        let options = [
            "-qq",
            "-s",
            "0",
            "-yy",
            "-e",
            "signal=none",
            "-e",
            &format!("trace={filter}"),
        ];
        let output = self.strace(&options, log.path());
        assert!(
            output.status.success(),
            "the run without a crash failed: {}",
            words(&output)
        );
        let text = std::fs::read(log.path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&text);
        match self.watch {
            Watch::MainThread => points(&log, &calls, changes),
            Watch::Files(_) => points_of_threads(&log),
            Watch::Network => points(&log, &calls, over_tcp),
            Watch::FilesAndNetwork => points(&log, &calls, |call, arguments| {
                over_tcp(call, arguments) || CALLS.contains(&call) && changes(call, arguments)
            }),
        }
    }

    /// Runs the program until `point`, where it is killed before the call does anything.
    ///
    /// Fails the test if the program ends by itself.
    pub fn crash_at(&self, point: &CrashPoint) {
        let CrashPoint { call, nth, seen } = point;
        if let Some(output) = self.crash(point) {
            panic!(
                "not killed at {call} number {nth} ({seen}): {}",
                words(&output)
            );
        }
    }

    /// The same where it is chance how many such calls there are: `false` if the program came to
    /// its good end without that one.
    pub fn crash_if_reached(&self, point: &CrashPoint) -> bool {
        match self.crash(point) {
            None => true,
            Some(output) => {
                assert!(output.status.success(), "{}", words(&output));
                false
            }
        }
    }

    /// The same where the program may also end badly: `false` if it came to any end of its own.
    pub fn kill_within(&self, point: &CrashPoint) -> bool {
        self.crash(point).is_none()
    }

    /// `None` if it was killed.
    fn crash(&self, point: &CrashPoint) -> Option<Output> {
        let CrashPoint { call, nth, .. } = point;
        let inject = format!("inject={call}:signal=KILL:when={nth}");
        let output = self.strace(
            &["-qq", "-e", &format!("trace={call}"), "-e", &inject],
            Path::new("/dev/null"),
        );
        let killed = output.status.signal() == Some(9) || output.status.code() == Some(128 + 9);
        (!killed).then_some(output)
    }

    /// Runs the program to its end, with `error` (`ENOSPC`, `EIO`) as the answer to the call at
    /// `point`, which does nothing. The program decides how to end.
    pub fn fail_at(&self, point: &CrashPoint, error: &str) -> Output {
        let CrashPoint { call, nth, .. } = point;
        let inject = format!("inject={call}:error={error}:when={nth}");
        self.strace(
            &["-qq", "-e", &format!("trace={call}"), "-e", &inject],
            Path::new("/dev/null"),
        )
    }

    /// Runs the program to its end, but stops it (SIGSTOP) right after the call at `point`, and
    /// lets it go on once `meanwhile` is over. `None` if it came to its end without that call.
    pub fn stop_at(&self, point: &CrashPoint, meanwhile: impl FnOnce()) -> Option<Output> {
        let CrashPoint { call, nth, .. } = point;
        let inject = format!("inject={call}:signal=STOP:when={nth}");
        let log = tempfile::NamedTempFile::new()
            .unwrap_or_else(|error| panic!("no temporary file: {error}"));
        let options = ["-q", "-f", "-e", &format!("trace={call}"), "-e", &inject];
        let mut command = self.command(&options, log.path());
        let running = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = running
            .spawn()
            .unwrap_or_else(|error| panic!("strace does not run: {error}"));
        let stopped = loop {
            let text = std::fs::read_to_string(log.path()).unwrap_or_default();
            // Threads stop one by one; the first word of each line is whose it is.
            if let Some(line) = text.lines().find(|it| it.contains("stopped by SIGSTOP")) {
                break line.split_whitespace().next().map(str::to_owned);
            }
            if running.try_wait().is_ok_and(|ended| ended.is_some()) {
                break None;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        if let Some(pid) = &stopped {
            meanwhile();
            let run = crate::run("kill", &["-CONT", pid.as_str()], b"");
            assert!(run.success(), "kill: {}", run.text());
        }
        let output = running
            .wait_with_output()
            .unwrap_or_else(|error| panic!("strace does not end: {error}"));
        stopped.map(|_| output)
    }

    /// Kills the program at each of its [`crash_points`](Self::crash_points). Before each run
    /// `prepare` puts everything back to the beginning; after it `check` sees what was left.
    /// Returns how many times it was killed.
    pub fn crash_everywhere(
        &self,
        mut prepare: impl FnMut(),
        mut check: impl FnMut(&CrashPoint),
    ) -> usize {
        prepare();
        let points = self.crash_points();
        for point in &points {
            prepare();
            self.crash_at(point);
            check(point);
        }
        points.len()
    }

    fn strace(&self, options: &[&str], log: &Path) -> Output {
        self.command(options, log).output().unwrap_or_else(|error| {
            panic!("strace (Debian package strace) is needed and does not run: {error}")
        })
    }

    #[expect(clippy::disallowed_methods, reason = "a test runs strace")]
    fn command(&self, options: &[&str], log: &Path) -> Command {
        let namespace = if self.alone { namespace() } else { &[] };
        let mut words = namespace.iter().copied().chain(["strace"]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).args(options);
        if let Watch::Files(paths) = &self.watch {
            // Twice would mean a log for each thread.
            if !options.contains(&"-f") {
                command.arg("-f");
            }
            for path in paths {
                command.arg("-P").arg(path);
            }
        }
        command.arg("-o").arg(log).arg("--").arg(&self.program);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null());
        command
    }
}

/// What has to stand before a command so that it gets process numbers of its own; nothing where
/// that is not allowed.
fn namespace() -> &'static [&'static str] {
    static ALLOWED: OnceLock<&[&str]> = OnceLock::new();
    const AS_ROOT: &[&str] = &["unshare", "--pid", "--fork", "--mount-proc"];
    const AS_USER: &[&str] = &[
        "unshare",
        "--user",
        "--map-root-user",
        "--pid",
        "--fork",
        "--mount-proc",
    ];
    ALLOWED.get_or_init(|| {
        [AS_ROOT, AS_USER]
            .into_iter()
            .find(|words| {
                let run = crate::run(
                    words.first().copied().unwrap_or_default(),
                    &[words.get(1..).unwrap_or_default(), &["true"]].concat(),
                    b"",
                );
                run.success()
            })
            .unwrap_or_default()
    })
}

/// Reads strace's log: counts every one of `calls`, and picks those that `count`.
fn points(log: &str, calls: &[&str], count: impl Fn(&str, &str) -> bool) -> Vec<CrashPoint> {
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    let mut points = Vec::new();
    for line in log.lines() {
        let Some((call, arguments)) = line.split_once('(') else {
            continue;
        };
        if !calls.contains(&call) {
            continue;
        }
        let nth = seen.entry(call).or_default();
        *nth += 1;
        if count(call, arguments) {
            let point = CrashPoint {
                call: call.to_owned(),
                nth: *nth,
                seen: arguments.to_owned(),
            };
            points.push(point);
        }
    }
    points
}

/// The same for a log in which each line begins with its thread, which counts for itself.
fn points_of_threads(log: &str) -> Vec<CrashPoint> {
    let mut threads = std::collections::BTreeMap::<&str, String>::new();
    for line in log.lines() {
        // A call that another thread interrupts stands in two lines, the first with its name.
        let Some((thread, call)) = line.split_once(' ') else {
            continue;
        };
        let of_thread = threads.entry(thread).or_default();
        of_thread.push_str(call.trim_start());
        of_thread.push('\n');
    }
    let mut all: Vec<CrashPoint> = Vec::new();
    for point in threads.values().flat_map(|log| points(log, CALLS, changes)) {
        let known = |it: &CrashPoint| it.call == point.call && it.nth == point.nth;
        if !all.iter().any(known) {
            all.push(point);
        }
    }
    all
}

/// Whether a call changes something that outlives the program.
fn changes(call: &str, arguments: &str) -> bool {
    // Standard output and error of a test are pipes.
    let to_reader = call.contains("write")
        && arguments.split(',').next().is_some_and(|file| {
            [
                "<pipe:",
                "<socket:",
                "<TCP",
                "<UNIX",
                "</dev/null",
                "</dev/pts",
                "</dev/tty",
            ]
            .iter()
            .any(|to| file.contains(to))
        });
    let opens_to_read = call.starts_with("open") && !arguments.contains("O_CREAT");
    // Tokio wakes itself through an event descriptor.
    let to_itself = arguments.contains("anon_inode:");
    !to_reader && !opens_to_read && !to_itself
}

/// Whether a call sends over TCP or receives.
fn over_tcp(_: &str, arguments: &str) -> bool {
    arguments.contains("<TCP")
}

fn words(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    format!(
        "{}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    )
}

/// System calls that change files, on the machines that we know; those that a machine lacks are
/// passed over.
const CALLS: &[&str] = &[
    "open",
    "openat",
    "openat2",
    "creat",
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "sendfile",
    "copy_file_range",
    "fsync",
    "fdatasync",
    "truncate",
    "ftruncate",
    "fallocate",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "rmdir",
    "mkdir",
    "mkdirat",
    "symlink",
    "symlinkat",
    "link",
    "linkat",
    "chmod",
    "fchmod",
    "fchmodat",
    "chown",
    "fchown",
    "fchownat",
    "lchown",
    "utimensat",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "removexattr",
    "fremovexattr",
];

/// System calls that send or receive.
const NETWORK: &[&str] = &[
    "write", "writev", "sendto", "sendmsg", "read", "readv", "recvfrom", "recvmsg",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_change_and_kills_before_it() {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let path = |name: &str| folder.path().join(name);
        let script = format!(
            "cd {} && echo x > a && mv a b && echo seen",
            folder.path().display()
        );
        let victim = Victim::new("/bin/sh", ["-c", &script]);
        let points = victim.crash_points();
        let calls: Vec<&str> = points.iter().map(|point| point.call.as_str()).collect();
        // `mv` is another process, which is not looked at.
        assert_eq!(calls, ["openat", "write"]);
        std::fs::remove_file(path("b")).unwrap_or_else(|error| panic!("{error}"));
        let mut left = Vec::new();
        for point in &points {
            victim.crash_at(point);
            left.push((path("a").exists(), path("b").exists()));
        }
        assert_eq!(left, [(false, false), (true, false)]);
    }
    #[test]
    fn looks_at_the_files_that_are_named_alone() {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let path = |name: &str| folder.path().join(name);
        let script = format!(
            "echo x > {} && echo y > {}",
            path("a").display(),
            path("b").display()
        );
        let victim = Victim::new("/bin/sh", ["-c", &script]).at_files([path("b")]);
        let points = victim.crash_points();
        let seen: Vec<(&str, usize)> = points
            .iter()
            .map(|point| (point.call.as_str(), point.nth))
            .collect();
        assert_eq!(seen, [("openat", 1), ("write", 1)]);
        for point in &points {
            let _ = std::fs::remove_file(path("a"));
            let _ = std::fs::remove_file(path("b"));
            victim.crash_at(point);
            assert!(path("a").exists());
            let left = std::fs::read(path("b")).unwrap_or_default();
            assert!(left.is_empty(), "{point:?}");
        }
    }
}
