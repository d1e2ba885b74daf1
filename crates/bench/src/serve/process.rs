//! A server as a process of its own, and what it takes.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::measure::{Failure, kubepki, program};

/// A `kubepki serve` that is ready. It ends with this value.
pub struct Serving {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// Holds its token.
    pub data_dir: PathBuf,
    /// Seconds from the start of the process until it said that it is ready.
    pub ready: f64,
}

/// User and system time in seconds, and memory in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    pub cpu: f64,
    pub resident: u64,
    pub peak: u64,
}

/// For a server to say that it is ready.
const PATIENCE: Duration = Duration::from_secs(60);

impl Serving {
    /// Starts one in `folder` on a free port of loopback; `more` are further arguments.
    pub fn start(folder: &Path, name: &str, more: &[String]) -> Result<Self, Failure> {
        let data_dir = folder.join(name);
        let socket = folder.join(format!("{name}.notify"));
        let _ = std::fs::remove_file(&socket);
        let notified = UnixDatagram::bind(&socket)?;
        notified.set_read_timeout(Some(PATIENCE))?;
        let log = folder.join(format!("{name}.log"));
        let said = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(&log)?;
        let mut command = program(kubepki()?);
        command
            .args(["serve", "--node-name", name, "--node-ip", "127.0.0.1"])
            .args(["--bind-address", "127.0.0.1", "--https-listen-port", "0"])
            .arg("--data-dir")
            .arg(&data_dir)
            .args(more)
            .env("NOTIFY_SOCKET", &socket)
            .stderr(said);
        let begin = Instant::now();
        let child = command.spawn()?;
        let mut serving = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            data_dir,
            ready: 0.0,
        };
        let mut heard = [0; 64];
        notified
            .recv(&mut heard)
            .map_err(|error| format!("the server is not ready ({error}): see {}", log.display()))?;
        serving.ready = begin.elapsed().as_secs_f64();
        serving.address = address(&std::fs::read_to_string(&log)?)
            .ok_or_else(|| format!("{} tells no address", log.display()))?;
        Ok(serving)
    }

    /// What it took until now.
    pub fn taken(&self) -> Result<Taken, Failure> {
        let folder = Path::new("/proc").join(self.child.id().to_string());
        let status = std::fs::read_to_string(folder.join("status"))?;
        let size = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
            Some(kibibytes * 1024)
        };
        // The name in the second field may hold blanks; user and system time are the 14th and
        // 15th, in hundredths of a second.
        let stat = std::fs::read_to_string(folder.join("stat"))?;
        let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
        let ticks = after.split(' ').skip(11).take(2);
        let ticks: f64 = ticks.filter_map(|it| it.parse::<f64>().ok()).sum();
        Ok(Taken {
            cpu: ticks / 100.0,
            resident: size("VmRSS:").unwrap_or_default(),
            peak: size("VmHWM:").unwrap_or_default(),
        })
    }

    /// Tells it to look at its files now.
    pub fn hang_up(&self) -> Result<(), Failure> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::HUP)?)
    }

    /// Stops it as systemd does, and waits.
    pub fn stop(mut self) -> Result<(), Failure> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let ended = self.child.wait()?;
        match ended.success() {
            true => Ok(()),
            false => Err(format!("the server ended with {ended}").into()),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in the line that says `serving`.
fn address(log: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains("\"serving\""))?;
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    line.get("address")?.as_str()?.parse().ok()
}
