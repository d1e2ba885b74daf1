//! Real database servers of a test's own: on loopback, on a free port, in a folder under `/tmp`,
//! without fsync, as the user that the distribution made for them.
//!
//! A server ends with its value, and with the test program however that ends: it runs under a
//! shell that waits for our end of a pipe to close, stops the server and removes its folder.

mod certificates;
mod etcd;
mod mariadb;
mod postgres;
mod sshd;
mod wire;

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub use certificates::Certificates;
pub use etcd::{Etcd, EtcdMember, TlsFiles};
pub use mariadb::MariaDb;
pub use postgres::Postgres;
pub use sshd::{SshKey, SshKeyType, Sshd, SshdOptions};
pub use wire::Wire;

use crate::opinion::Run;

/// The account that servers know.
pub const USER: &str = "kine";

/// Its password, with the letters that endpoints must escape.
pub const PASSWORD: &str = "p@ss:w/r?d";

/// The password as a URL holds it.
pub const PASSWORD_IN_URL: &str = "p%40ss%3Aw%2Fr%3Fd";

/// How a server treats TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// It has none.
    Off,
    /// It has a certificate and takes plain connections too.
    Offered,
    /// It takes connections with TLS only.
    Required,
    /// The same, and clients need a certificate.
    Mutual,
}

/// How long a server may take to answer; machines that test are busy.
const PATIENCE: Duration = Duration::from_secs(90);

/// A user that servers run as.
#[derive(Clone, Debug)]
struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// The first of `names` that the system knows; ourselves where the test is not root's.
    fn find(names: &[&str]) -> Option<Self> {
        let us = fs::metadata("/proc/self").map(|it| it.uid());
        if us.is_ok_and(|uid| uid != 0) {
            return None;
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let of = |name: &&str| {
            let line = users
                .lines()
                .find(|it| it.split(':').next() == Some(*name))?;
            let mut fields = line.split(':').skip(2);
            let uid = fields.next()?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Self { uid, gid })
        };
        let found = names.iter().find_map(of);
        assert!(found.is_some(), "none of the users {names:?} exists");
        found
    }
}

/// A folder with a short path (sockets have 108 bytes) that belongs to `account`.
fn folder(name: &str, account: Option<&Account>) -> PathBuf {
    let folder = tempfile::Builder::new()
        .prefix(&format!("kubepki-{name}-"))
        .tempdir_in("/tmp")
        .unwrap_or_else(|error| panic!("no temporary folder: {error}"))
        .keep();
    own(&folder, account);
    folder
}

/// Gives a file to `account`, for itself alone.
fn own(path: &Path, account: Option<&Account>) {
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    let done =
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).and_then(|()| match account {
            Some(it) => std::os::unix::fs::chown(path, Some(it.uid), Some(it.gid)),
            None => Ok(()),
        });
    done.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// `program` as `account`.
#[expect(
    clippy::disallowed_methods,
    reason = "a door of the tests to other programs"
)]
fn command(program: &str, account: Option<&Account>) -> Command {
    let mut command = match account {
        Some(Account { uid, gid }) => {
            let mut command = Command::new("setpriv");
            command
                .arg(format!("--reuid={uid}"))
                .arg(format!("--regid={gid}"))
                .args(["--clear-groups", "--"])
                .arg(program);
            command
        }
        None => Command::new(program),
    };
    command.env("LC_ALL", "C").current_dir("/tmp");
    command
}

/// A data folder that is made once and copied for every server.
fn template(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let cache = crate::cache("servers");
    let whole = cache.join(name);
    if whole.is_dir() {
        return whole;
    }
    let scratch = tempfile::Builder::new()
        .prefix("new-")
        .tempdir_in(&cache)
        .unwrap_or_else(|error| panic!("no temporary folder: {error}"));
    let fresh = scratch.path().join("data");
    make(&fresh);
    // Whoever is second finds it there.
    let _ = rename(&fresh, &whole);
    whole
}

#[expect(clippy::disallowed_methods, reason = "a folder in a cache")]
fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::rename(from, to)
}

#[expect(clippy::disallowed_methods, reason = "a temporary folder of our own")]
fn remove(folder: &Path) {
    let _ = fs::remove_dir_all(folder);
}

/// Copies a folder with modes and owners.
fn copy(from: &Path, to: &Path) {
    let run = crate::run("cp", &["-a", text(from), text(to)], b"");
    assert!(run.success(), "cp -a {}: {}", from.display(), run.text());
}

fn text(path: &Path) -> &str {
    path.to_str()
        .unwrap_or_else(|| panic!("{} is not UTF-8", path.display()))
}

/// A port that nobody listens on, below those that the system gives to connections and to listeners
/// that name none: who is restarted finds its own free, as a rule.
///
/// # Panics
///
/// When there is none.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id().wrapping_mul(97) % u32::from(COUNT);
    let start = u16::try_from(start).unwrap_or_default();
    for _ in 0..COUNT {
        let offset = NEXT.fetch_add(1, Ordering::SeqCst) % COUNT;
        let port = FIRST + (start + offset) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("every port from {FIRST} on is in use");
}

/// A server process under its shell.
#[derive(Debug)]
struct Process {
    shell: Child,
    /// Closing it ends the server.
    pipe: Option<ChildStdin>,
    folder: PathBuf,
}

/// Runs what follows, keeps its process id, and ends it when standard input closes, or when the
/// whole group is asked to end. A server that was killed from outside stays so, and its folder
/// stays until the end.
const SHELL: &str = r#"
folder=$1; shift
trap : INT TERM HUP
"$@" >"$folder/log" 2>&1 &
echo $! >"$folder/new-pid"
mv "$folder/new-pid" "$folder/pid"
read -r line
kill -KILL "$(cat "$folder/pid")" 2>/dev/null
wait
[ "$line" = keep ] || rm -rf "$folder"
"#;

impl Process {
    /// Starts `program`; `folder` goes with it in the end.
    fn spawn(
        program: &str,
        arguments: &[OsString],
        folder: &Path,
        account: Option<&Account>,
    ) -> Self {
        let _ = fs::remove_file(folder.join("pid"));
        let mut shell = command("sh", account);
        shell
            .args(["-c", SHELL, "sh", text(folder), program])
            .args(arguments);
        let mut shell = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
        Self {
            pipe: shell.stdin.take(),
            shell,
            folder: folder.to_owned(),
        }
    }

    fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.folder.join("pid"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Whether the server still runs; a process that ended and was not waited for does not.
    fn runs(&self) -> bool {
        let Some(pid) = self.pid() else {
            return true;
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().unwrap_or_default().chars().next();
        !matches!(state, None | Some('Z' | 'X'))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Waits until `answers`; `false` if the server ended instead.
    fn wait(&self, answers: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if answers() {
                return true;
            }
            if !self.runs() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("the server does not answer: {}", self.log());
    }

    /// `kill -9`, and until it is gone.
    fn kill(&self) {
        if let Some(pid) = self.pid() {
            let run = crate::run("kill", &["-KILL", &pid.to_string()], b"");
            assert!(run.success(), "kill: {}", run.text());
        }
        while self.runs() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it and leaves the folder for another one.
    fn end_and_keep(mut self) {
        use std::io::Write as _;

        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(b"keep\n");
        }
        let _ = self.shell.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.shell.wait();
    }
}

/// A server and its children that do nothing (SIGSTOP); they go on when it is dropped.
#[derive(Debug)]
pub struct Frozen(Vec<String>);

impl Frozen {
    fn new(pid: Option<u32>) -> Self {
        let pid = pid.map_or_else(|| panic!("the server does not run"), |it| it.to_string());
        let mut frozen = Self(Vec::new());
        // The one that makes others first.
        frozen.stop(pid.clone());
        for child in children(&pid) {
            frozen.stop(child);
        }
        frozen
    }

    fn stop(&mut self, pid: String) {
        // A child may have ended meanwhile.
        if crate::run("kill", &["-STOP", &pid], b"").success() {
            self.0.push(pid);
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = crate::run("kill", &["-CONT", pid], b"");
        }
    }
}

/// The processes that `parent` has started and that still run.
fn children(parent: &str) -> Vec<String> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = all.filter_map(|it| it.file_name().into_string().ok());
    let is_child = |pid: &String| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        fields.split(' ').nth(1) == Some(parent)
    };
    names.filter(is_child).collect()
}

/// Runs a client to its end and fails the test unless it is content.
#[track_caller]
fn client(program: &str, arguments: &[&str], stdin: &[u8]) -> String {
    let run: Run = crate::run(program, arguments, stdin);
    assert!(
        run.success(),
        "{program} {}: {}",
        arguments.join(" "),
        run.text()
    );
    String::from_utf8_lossy(&run.stdout).into_owned()
}
