//! RKE's hosts: the machines that plans deploy to, each through its Docker and its files.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use kubepki::host::{Host, HostError, Output};
use kubepki::machine::{Machine, Machines, Stream};
use tokio::sync::Semaphore;

use crate::docker::Dial;

mod archive;
mod files;
mod local;
mod remote;
mod set;
mod ssh;
mod upkeep;

pub use local::LocalReach;
pub use remote::RemoteMachine;
pub use ssh::SshReach;

/// What must be known of a host before it is reached. Plain data: the command line builds it from
/// cluster.yml.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// Its name in plans: its address in cluster.yml.
    pub name: String,
    /// The path of its Docker's socket.
    pub docker_socket: String,
    /// `prefix_path` of cluster.yml, which says what comes before `/etc/kubernetes` on this host;
    /// `/` leaves it to the system that Docker names.
    pub prefix_path: String,
    /// Whether `/etc/kubernetes` is bound with `:z`, as RKE does before Kubernetes 1.22.
    pub relabel: bool,
    /// Images to make the helper container from, first choice first, where the host has them:
    /// `system_images.cert_downloader` and `system_images.alpine`.
    pub images: Vec<String>,
    /// The way there.
    pub reach: Arc<dyn Reach>,
}

/// A way to a machine.
#[async_trait]
pub trait Reach: Send + Sync + fmt::Debug {
    /// Connects to `host`, anew each time.
    ///
    /// # Errors
    ///
    /// [`HostError::Unreachable`] when it does not answer, [`HostError::Remote`] when it refuses.
    async fn connect(&self, host: &str) -> Result<Arc<dyn Link>, HostError>;
}

/// A connection to a machine.
#[async_trait]
pub trait Link: Send + Sync + fmt::Debug {
    /// Whether it broke: another must be made.
    fn is_closed(&self) -> bool;

    /// The same, asked after a request failed: a connection takes a moment to end.
    async fn is_broken(&self) -> bool;

    /// What the operator should know of how it was made, host keys recorded at first use for one.
    fn news(&self) -> Vec<String>;

    /// The way to a Unix socket of the machine.
    fn socket(&self, path: &str) -> Arc<dyn Dial>;

    /// Connects to `host:port` as the machine itself would.
    async fn open_tcp(&self, address: &str) -> Result<Box<dyn Stream>, HostError>;

    /// The machine's files and commands, if our user may write what is root's; `None` if files
    /// must go another way.
    async fn files(&self) -> Result<Option<Arc<dyn Host>>, HostError>;

    /// Whether whoever has [`Self::files`] can write `directory`, or the nearest folder above that
    /// exists, as far as that is known beforehand.
    fn may_write(&self, _directory: &Path) -> bool {
        true
    }

    /// Runs a command that reads `input`, as the user who writes the files; `None` if that is no
    /// shorter way than writing each file.
    async fn feed(&self, _argv: &[String], _input: &[u8]) -> Option<Result<Output, HostError>> {
        None
    }
}

/// What happens on hosts, for a log.
#[derive(Debug)]
pub enum Notice<'a> {
    /// How the connection was made: a host key recorded at first use.
    Connected {
        /// What to say.
        news: &'a str,
    },
    /// Files are read and written directly: the user may.
    FilesDirect,
    /// Files go through Docker, by a container that is made from this image.
    FilesByDocker {
        /// The image.
        image: &'a str,
    },
    /// A container is restarted: `Restarting container [%s] on host [%s], try #%d`.
    Restarting {
        /// Its name.
        container: &'a str,
        /// 1 for the first.
        attempt: u32,
    },
    /// A try failed: `Can't restart Docker container [%s] for host [%s]: %v`.
    RestartFailed {
        /// Its name.
        container: &'a str,
        /// Why.
        error: String,
    },
    /// The Kubernetes API is asked through this host, for the usual road does not lead there.
    ApiByHost {
        /// Its `address:port`.
        target: &'a str,
        /// What befell on the usual road.
        why: &'a str,
    },
    /// The connection had broken and is made anew.
    Reconnecting,
}

/// Hears what happens; the host's name comes first.
pub type Notify = Arc<dyn Fn(&str, &Notice<'_>) + Send + Sync>;

/// The hosts of a cluster, connected to when they are first needed, one connection each.
pub struct RemoteMachines(BTreeMap<String, Arc<RemoteMachine>>);

impl RemoteMachines {
    /// `limit` connections are made at the same time at most; `notify` hears what happens.
    pub fn new(hosts: impl IntoIterator<Item = HostSpec>, limit: usize, notify: Notify) -> Self {
        let gate = Arc::new(Semaphore::new(limit.max(1)));
        let machine = |spec: HostSpec| {
            let name = spec.name.clone();
            let machine = RemoteMachine::new(spec, Arc::clone(&gate), Arc::clone(&notify));
            (name, Arc::new(machine))
        };
        Self(hosts.into_iter().map(machine).collect())
    }

    /// The machine, not necessarily connected; `None` if there is none of that name.
    pub fn get(&self, host: &str) -> Option<Arc<RemoteMachine>> {
        self.0.get(host).map(Arc::clone)
    }
}

impl fmt::Debug for RemoteMachines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

#[async_trait]
impl Machines for RemoteMachines {
    async fn machine(&self, host: &str) -> Result<Arc<dyn Machine>, HostError> {
        let Some(machine) = self.get(host) else {
            return Err(HostError::Remote {
                host: host.to_owned(),
                message: "it is not a node of cluster.yml".to_owned(),
                source: None,
            });
        };
        machine.connect().await?;
        Ok(machine)
    }
}
