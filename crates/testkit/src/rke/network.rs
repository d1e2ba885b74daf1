//! The switch between machines.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::guard::{self, Guarded, must, wait_for};

/// Where the recorded cluster `rke-1.6-live` lives.
const RECORDED: (u8, u8) = (99, 0);

/// Lives in a network namespace of its own, so that the bridge and all links to it go with it.
const SWITCH: &str = "ip link set lo up
ip link add br0 type bridge
ip link set br0 up
: >\"$1/ready\"
exec sleep infinity";

/// A network `10.x.y.0/24` of this test alone; the test's own address in it is `10.x.y.254`.
///
/// It lives as long as its last clone and the last machine in it.
#[derive(Clone, Debug)]
pub struct Network(Arc<Switch>);

#[derive(Debug)]
struct Switch {
    process: Guarded,
    folder: PathBuf,
    /// Second and third byte of its addresses.
    net: (u8, u8),
}

impl Network {
    /// One that nobody else uses.
    pub fn start() -> Self {
        // No number twice in one process: what had it may be looked for.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let nets = (0..u16::MAX).map(|_| {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = (std::process::id() as u16)
                .wrapping_mul(251)
                .wrapping_add(step);
            let [low, high] = number.to_le_bytes();
            // 10.192.0.0 to 10.255.255.0.
            (192 | high & 63, low)
        });
        Self::claim(nets)
    }

    /// The one of fixture `rke-1.6-live`: `10.99.0.0/24`. Tests that want it wait for each other.
    pub fn recorded() -> Self {
        let start = std::time::Instant::now();
        // Whoever has it may well keep it for a whole rotation.
        let tries = std::iter::from_fn(|| {
            let wait = std::time::Duration::from_millis(100);
            std::thread::sleep(wait);
            (start.elapsed() < 10 * guard::PATIENCE).then_some(RECORDED)
        });
        Self::claim(std::iter::once(RECORDED).chain(tries))
    }

    /// The first that is free: two devices cannot have one name.
    fn claim(nets: impl Iterator<Item = (u8, u8)>) -> Self {
        let folder = guard::folder();
        let shown = folder.to_string_lossy().into_owned();
        let process = Guarded::spawn(
            &folder,
            "switch",
            false,
            &["unshare", "--net", "sh", "-ec", SWITCH, "sh", &shown],
        );
        process.wait("the switch", || folder.join("ready").exists().then_some(()));
        let pid = process.pid().to_string();
        let mut last = String::new();
        for net in nets {
            let device = device(net);
            let add = [
                "link", "add", &device, "type", "veth", "peer", "name", "uplink", "netns", &pid,
            ];
            let run = crate::run("ip", &add, b"");
            if run.success() {
                must(
                    "nsenter",
                    &[
                        "-t", &pid, "-n", "ip", "link", "set", "uplink", "master", "br0", "up",
                    ],
                );
                let own = format!("10.{}.{}.254/24", net.0, net.1);
                must("ip", &["addr", "add", &own, "dev", &device]);
                must("ip", &["link", "set", &device, "up"]);
                let switch = Switch {
                    process,
                    folder,
                    net,
                };
                switch.make_key();
                return Self(Arc::new(switch));
            }
            last = run.text();
            assert!(last.contains("exists"), "ip {}: {last}", add.join(" "));
        }
        panic!("no network is free: {last}");
    }

    /// `10.x.y.LAST`.
    pub fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.0.net.0, self.0.net.1, last)
    }

    /// The operator's private key, OpenSSH format, no passphrase: root and [`USER`](super::USER)
    /// of every machine let it in.
    pub fn ssh_key(&self) -> PathBuf {
        self.0.folder.join("id")
    }

    /// Its public key, one line.
    pub(super) fn ssh_public_key(&self) -> String {
        let path = self.0.folder.join("id.pub");
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The process whose network namespace holds the bridge.
    pub(super) fn pid(&self) -> u32 {
        self.0.process.pid()
    }
}

impl Switch {
    fn make_key(&self) {
        let key = self.folder.join("id");
        make_key(&key, "operator");
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // The kernel takes namespaces down in its own time; the next of our tests may want the
        // very same addresses.
        let _ = crate::run("ip", &["link", "del", &device(self.net)], b"");
    }
}

/// The device on this machine; its name is the claim on the network.
fn device(net: (u8, u8)) -> String {
    format!("kpk-{}-{}", net.0, net.1)
}

/// An Ed25519 key pair in `path` and `path.pub`.
pub(super) fn make_key(path: &Path, comment: &str) {
    let shown = path.to_string_lossy();
    must(
        "ssh-keygen",
        &["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", &shown],
    );
    wait_for("ssh-keygen", || path.exists().then_some(()));
}
