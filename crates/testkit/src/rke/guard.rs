//! Processes that end with us.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take to start; machines that test are busy.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// Runs what follows, keeps its process id, and kills it when standard input closes; the folder
/// goes with it if it is to. Being killed itself kills the process too.
const SHELL: &str = r#"
folder=$1; name=$2; keep=$3; shift 3
trap : INT TERM HUP
setpriv --pdeathsig KILL -- "$@" </dev/null >"$folder/$name.log" 2>&1 &
echo $! >"$folder/$name.new"
mv "$folder/$name.new" "$folder/$name.pid"
read -r line
kill -KILL "$(cat "$folder/$name.pid")" 2>/dev/null
wait
[ "$keep" = keep ] && exit
# What is below may still be at its end.
for try in 1 2 3 4 5 6 7 8 9 10; do
    left=
    for group in /sys/fs/cgroup/"${folder##*/}" /sys/fs/cgroup/*/"${folder##*/}"; do
        [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + || left=1
    done
    rm -rf "$folder" && [ ! "$left" ] && exit
    sleep 0.2
done
"#;

/// A process under a shell that waits for our end of a pipe to close.
#[derive(Debug)]
pub(super) struct Guarded {
    shell: Child,
    pipe: Option<ChildStdin>,
    pid: u32,
    log: PathBuf,
}

impl Guarded {
    /// Starts `command`; `NAME.pid` and `NAME.log` lie in `folder`, which is removed in the end
    /// unless it is to be kept.
    #[expect(
        clippy::disallowed_methods,
        reason = "a door of the tests to other programs"
    )]
    pub(super) fn spawn(folder: &Path, name: &str, keep: bool, command: &[&str]) -> Self {
        let _ = fs::remove_file(folder.join(format!("{name}.pid")));
        let keep = if keep { "keep" } else { "remove" };
        let mut shell = Command::new("sh")
            .args(["-c", SHELL, "sh"])
            .arg(folder)
            .args([name, keep])
            .args(command)
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run sh: {error}"));
        let pipe = shell.stdin.take();
        let file = folder.join(format!("{name}.pid"));
        let read = || fs::read_to_string(&file).ok()?.trim().parse().ok();
        let pid = wait_for(&format!("the process id of {name}"), read);
        Self {
            shell,
            pipe,
            pid,
            log: folder.join(format!("{name}.log")),
        }
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// What it said.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for `ready`, and fails the test if the process ends first.
    pub(super) fn wait<T>(&self, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
        wait_for(what, || {
            let ready = ready();
            let gone = ready.is_none() && !Path::new(&format!("/proc/{}", self.pid)).exists();
            assert!(!gone, "{what}: the process ended: {}", self.log());
            ready
        })
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.shell.wait();
    }
}

/// Asks again and again until there is an answer.
pub(super) fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(it) = ready() {
            return it;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{what}: nothing after {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A folder under `/tmp`, which whoever is given it removes.
pub(super) fn folder() -> PathBuf {
    tempfile::Builder::new()
        .prefix("kubepki-rke-")
        .tempdir_in("/tmp")
        .unwrap_or_else(|error| panic!("no temporary folder: {error}"))
        .keep()
}

/// Runs a program and fails the test unless it exits with 0; what it said.
#[track_caller]
pub(super) fn must(program: &str, arguments: &[&str]) -> String {
    let run = crate::run(program, arguments, b"");
    assert!(
        run.success(),
        "{program} {}: {}",
        arguments.join(" "),
        run.text()
    );
    String::from_utf8_lossy(&run.stdout).into_owned()
}

/// A process of this machine: id, parent's id, first 15 letters of its name.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) name: String,
}

/// All that run now.
pub(super) fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").unwrap_or_else(|error| panic!("/proc: {error}"));
    let pids = entries.filter_map(|it| it.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, tail) = stat.rsplit_once(") ")?;
        let mut fields = tail.split(' ');
        let ended = matches!(fields.next(), Some("Z" | "X"));
        (!ended).then_some(Process {
            pid,
            parent: fields.next()?.parse().ok()?,
            name: head.split_once('(')?.1.to_owned(),
        })
    })
    .collect()
}
