//! One machine.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::docker::Docker;
use super::guard::{self, Guarded, must, processes, wait_for};
use super::images;
use super::network::{Network, make_key};
use crate::Run;

/// The user that is not root and is in group `docker`.
pub const USER: &str = "rke";

/// Gives the machine its own file system and network device; lives until the machine is scrapped.
/// What must survive a loss of power is mounted here.
const HARDWARE: &str = include_str!("hardware.sh");

/// The first process of the machine's own process namespace: takes in orphans.
const INIT: &str = "mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/sshd
: >/run/up
while :; do sleep 3600 & wait; done";

/// Starts the OpenSSH server and lets go of it.
const SSHD: &str = "/usr/sbin/sshd -D -e </dev/null >>/var/log/sshd.log 2>&1 &";

/// Starts containerd and lets go of it. It is nobody's child, as on machines that systemd runs, and
/// outlives Docker's end; one that dockerd starts dies with it, which leaves containers behind that
/// cannot be started again.
const CONTAINERD: &str = r#"mkdir -p /run/containerd
echo 'disabled_plugins = ["io.containerd.grpc.v1.cri"]
version = 2' >/run/containerd/config.toml
containerd --config /run/containerd/config.toml </dev/null >>/var/log/containerd.log 2>&1 &"#;

/// Starts the Docker engine and lets go of it; `$1` is the group of its containers, `$2` how it
/// keeps their files.
const DOCKERD: &str = "rm -f /var/run/docker.pid
dockerd --containerd=/run/containerd/containerd.sock --group docker --iptables=false --ip6tables=false --bridge=none --storage-driver=$2 \
--exec-opt native.cgroupdriver=cgroupfs --cgroup-parent=\"/$1\" </dev/null >>/var/log/dockerd.log 2>&1 &";

/// A machine with an address, an OpenSSH server on port 22 and a Docker engine at
/// `/var/run/docker.sock`, gone when the value goes.
#[derive(Debug)]
pub struct Host {
    name: String,
    last: u8,
    /// Before the hardware: what runs goes first.
    pub(super) power: Arc<Power>,
    hardware: Guarded,
    folder: PathBuf,
    network: Network,
}

/// What runs, if anything does.
pub(super) type Power = Mutex<Option<Powered>>;

/// What a loss of power ends.
#[derive(Debug)]
pub(super) struct Powered {
    init: u32,
    /// Killing it kills the first process, and that all others.
    _process: Guarded,
}

impl Host {
    /// Starts a machine called `name` with address `10.x.y.LAST`, with RKE's images and no
    /// container.
    pub fn start(network: &Network, name: &str, last: u8) -> Self {
        Self::assemble(network, name, last, Some(&images::store()))
    }

    /// Several at once.
    pub fn start_all(network: &Network, machines: &[(&str, u8)]) -> Vec<Self> {
        // Once, not once for each.
        let _ = images::store();
        std::thread::scope(|scope| {
            let started: Vec<_> = machines
                .iter()
                .map(|(name, last)| scope.spawn(|| Self::start(network, name, *last)))
                .collect();
            let joined = started.into_iter().map(std::thread::ScopedJoinHandle::join);
            joined
                .map(|it| it.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        })
    }

    /// A machine whose engine begins with a copy of `store`, or with nothing.
    pub(super) fn assemble(
        network: &Network,
        name: &str,
        last: u8,
        store: Option<&std::path::Path>,
    ) -> Self {
        let folder = guard::folder();
        let ssh = folder.join("ssh");
        fs::create_dir(&ssh).unwrap_or_else(|error| panic!("{}: {error}", ssh.display()));
        make_key(&ssh.join("host_key"), name);
        let address = network.address(last).to_string();
        let gateway = network.address(254).to_string();
        let (shown, switch) = (folder.to_string_lossy(), network.pid().to_string());
        let (store, public) = (
            store.map(|it| it.to_string_lossy()),
            network.ssh_public_key(),
        );
        let command = [
            "unshare",
            "--mount",
            "--net",
            "--uts",
            "--ipc",
            "sh",
            "-ec",
            HARDWARE,
            "sh",
            &shown,
            name,
            &switch,
            &address,
            &gateway,
            store.as_deref().unwrap_or_default(),
            public.trim(),
            USER,
        ];
        let hardware = Guarded::spawn(&folder, "hardware", false, &command);
        hardware.wait(name, || folder.join("ready").exists().then_some(()));
        let host = Self {
            name: name.to_owned(),
            last,
            power: Arc::new(Mutex::new(None)),
            hardware,
            folder,
            network: network.clone(),
        };
        host.power_on();
        host
    }

    /// Its name, which it has as host name too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address: reachable from this machine and from all others of its network.
    pub fn address(&self) -> Ipv4Addr {
        self.network.address(self.last)
    }

    /// The network that it is in.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// A file of the machine (absolute there) by a path that the test can use, also when the
    /// power is off. Not for `/run`, and links with absolute targets lead out of it.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.hardware.pid()))
    }

    /// The engine.
    pub fn docker(&self) -> Docker {
        Docker::at(socket(&self.power))
    }

    /// Runs a program as root of the machine.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Run {
        let init = self.init().to_string();
        let mut all = vec!["-t", &init, "-m", "-n", "-u", "-i", "-p", "--", program];
        all.extend(arguments);
        crate::run("nsenter", &all, b"")
    }

    /// The same, and fails the test unless it exits with 0; what it said on standard output.
    #[track_caller]
    pub fn must(&self, program: &str, arguments: &[&str]) -> String {
        let run = self.run(program, arguments);
        assert!(
            run.success(),
            "{}: {program} {}: {}",
            self.name,
            arguments.join(" "),
            run.text()
        );
        String::from_utf8_lossy(&run.stdout).into_owned()
    }

    /// The line that OpenSSH's `known_hosts` would hold for it.
    pub fn known_hosts_line(&self) -> String {
        let path = self.folder.join("ssh/host_key.pub");
        let key =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let words: Vec<_> = key.split(' ').take(2).collect();
        format!("{} {}\n", self.address(), words.join(" "))
    }

    /// The server gets another host key and is started again: what a reinstalled machine, or
    /// another one in its place, looks like.
    pub fn change_host_key(&self) {
        for name in ["ssh/host_key", "ssh/host_key.pub"] {
            let _ = fs::remove_file(self.folder.join(name));
        }
        let fresh = self.folder.join("ssh/host_key");
        make_key(&fresh, &self.name);
        self.kill_sshd();
        self.start_sshd();
    }

    /// Kills the OpenSSH server and its connections (SIGKILL).
    pub fn kill_sshd(&self) {
        self.kill_all("sshd");
    }

    /// Starts it again.
    pub fn start_sshd(&self) {
        self.must("sh", &["-c", SSHD]);
        let address = std::net::SocketAddr::from((self.address(), 22));
        wait_for(&format!("sshd of {}", self.name), || {
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()
        });
    }

    /// Kills the Docker engine (SIGKILL); containers run on until it is started again.
    pub fn kill_dockerd(&self) {
        self.kill_all("dockerd");
        // Its first thread may be gone a moment before those that hold the socket.
        wait_for("the end of Docker's socket", || {
            UnixStream::connect(socket(&self.power)).err()
        });
    }

    /// Starts it again; it starts the containers that are to run always anew, except for one that
    /// it was just restarting when it was killed: that may stay down until it is asked for.
    pub fn start_dockerd(&self) {
        let group = self.folder.file_name().unwrap_or_default();
        let group = group.to_string_lossy();
        self.must("sh", &["-c", DOCKERD, "sh", &group, images::storage()]);
        let docker = self.docker();
        let start = std::time::Instant::now();
        while !docker.answers() {
            assert!(start.elapsed() < guard::PATIENCE, "{}", self.engine_log(80));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The last lines that the Docker engine and containerd said.
    pub(super) fn engine_log(&self, lines: usize) -> String {
        let mut said = String::new();
        for program in ["dockerd", "containerd"] {
            let path = self.path(&format!("/var/log/{program}.log"));
            let log = fs::read_to_string(&path).unwrap_or_default();
            let log: Vec<_> = log.lines().collect();
            let tail = log.get(log.len().saturating_sub(lines)..);
            let tail = tail.unwrap_or_default().join("\n");
            said.push_str(&format!("{program} of {}:\n{tail}\n", self.name));
        }
        said
    }

    /// Stops the engine in good order, its containers with it.
    pub(super) fn stop_dockerd(&self) {
        for process in self.inside("dockerd") {
            must("kill", &["-TERM", &process.to_string()]);
        }
        wait_for("the end of dockerd", || {
            self.inside("dockerd").is_empty().then_some(())
        });
    }

    /// Kills a container's processes (SIGKILL); Docker starts it again by itself, as RKE's
    /// containers ask for.
    #[track_caller]
    pub fn kill_container(&self, name: &str) {
        let pid = self.docker().pid(name);
        let pid = pid.unwrap_or_else(|| panic!("{name} does not run on {}", self.name));
        // By process id of the machine: `docker kill` would count as stopped by hand.
        self.must("sh", &["-c", &format!("kill -KILL {pid}")]);
    }

    /// Takes the machine off the network: packets to it vanish, nothing is refused.
    pub fn cut_network(&self) {
        self.must("ip", &["link", "set", "eth0", "down"]);
    }

    /// Puts it on the network again.
    pub fn join_network(&self) {
        self.must("ip", &["link", "set", "eth0", "up"]);
    }

    /// Leaves `free` bytes (of whole pages of 4096) on the file system of `/etc/kubernetes`.
    pub fn limit_disk(&self, free: u64) {
        let used = self.must("df", &["--output=used", "-B1", "/etc/kubernetes"]);
        let used: u64 = used
            .lines()
            .nth(1)
            .and_then(|it| it.trim().parse().ok())
            .unwrap_or_else(|| panic!("df said {used}"));
        // A size of 0 would be none.
        self.size_disk(&(used + free).max(4096).to_string());
    }

    /// As much room again as there was.
    pub fn unlimit_disk(&self) {
        self.size_disk("64m");
    }

    fn size_disk(&self, size: &str) {
        self.must(
            "mount",
            &["-o", &format!("remount,size={size}"), "/etc/kubernetes"],
        );
    }

    /// Everything on the machine ends this instant; files stay.
    pub fn power_off(&self) {
        let init = self.init();
        drop(lock(&self.power).take());
        // The kernel ends the first process last.
        wait_for(&format!("the end of {}", self.name), || {
            let runs = processes().iter().any(|it| it.pid == init);
            (!runs).then_some(())
        });
    }

    /// Starts the machine: OpenSSH server, Docker engine, and the containers that run always.
    pub fn power_on(&self) {
        let target = self.hardware.pid().to_string();
        let process = Guarded::spawn(
            &self.folder,
            "power",
            true,
            &[
                "nsenter",
                "-t",
                &target,
                "-m",
                "-n",
                "-u",
                "-i",
                "--",
                "unshare",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "sh",
                "-ec",
                INIT,
            ],
        );
        let outer = process.pid();
        let init = process.wait(&self.name, || {
            let all = processes();
            all.iter().find(|it| it.parent == outer).map(|it| it.pid)
        });
        let up = format!("/proc/{init}/root/run/up");
        process.wait(&self.name, || {
            fs::exists(&up).unwrap_or_default().then_some(())
        });
        *lock(&self.power) = Some(Powered {
            init,
            _process: process,
        });
        self.start_sshd();
        self.start_containerd();
        self.start_dockerd();
    }

    fn start_containerd(&self) {
        self.must("sh", &["-c", CONTAINERD]);
        let socket = format!("/proc/{}/root/run/containerd/containerd.sock", self.init());
        wait_for(&format!("containerd of {}", self.name), || {
            UnixStream::connect(&socket).ok()
        });
    }

    fn init(&self) -> u32 {
        lock(&self.power).as_ref().map_or(0, |it| it.init)
    }

    /// Processes of that name on the machine itself, not in containers.
    fn inside(&self, name: &str) -> Vec<u32> {
        let space = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let ours = space(self.init());
        let all = processes().into_iter();
        all.filter(|it| it.name.starts_with(name) && ours.is_some() && space(it.pid) == ours)
            .map(|it| it.pid)
            .collect()
    }

    fn kill_all(&self, name: &str) {
        wait_for(&format!("the end of {name}"), || {
            let found = self.inside(name);
            for pid in &found {
                let _ = crate::run("kill", &["-KILL", &pid.to_string()], b"");
            }
            found.is_empty().then_some(())
        });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.power_off();
    }
}

fn lock(power: &Power) -> MutexGuard<'_, Option<Powered>> {
    power.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The engine's socket by a path that the test can use, while it has power.
pub(super) fn socket(power: &Power) -> PathBuf {
    let init = lock(power).as_ref().map_or(0, |it| it.init);
    PathBuf::from(format!("/proc/{init}/root/run/docker.sock"))
}
