//! One host of a cluster: connected to when needed, and again when the connection broke.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kubepki::host::{Entry, HostError};
use kubepki::machine::{ContainerState, Containers, Deployment, Machine, Stream};
use kubepki::plan::PlanId;
use kubepki::rke::config::{host_prefix, refuse_windows};
use tokio::sync::{Mutex, Semaphore};

use super::files::{Desk, Files, remove_readers};
use super::set::{Set, under};
use super::{HostSpec, Link, Notice, Notify};
use crate::docker::{DockerError, Engine, Helper};

/// A host of [`super::RemoteMachines`].
pub struct RemoteMachine {
    spec: HostSpec,
    gate: Arc<Semaphore>,
    notify: Notify,
    connected: Mutex<Option<Arc<Connected>>>,
    held: Mutex<Option<Held>>,
}

/// The host's lock, as far as this very program took it.
#[derive(Clone, Debug)]
struct Held {
    owner: String,
    helper: Helper,
    /// Whether a deployment failed since: what it started may still run there.
    doubtful: bool,
}

struct Connected {
    link: Arc<dyn Link>,
    engine: Engine,
    files: Files,
    /// What comes before `/etc/kubernetes` there.
    prefix: PathBuf,
}

impl fmt::Debug for RemoteMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoteMachine")
            .field(&self.spec.name)
            .finish()
    }
}

/// Does `$body` with the host's connection; once more with a new one if it broke meanwhile. Every
/// operation may be repeated.
macro_rules! on_host {
    ($self:ident, |$connected:ident| $body:expr) => {{
        let $connected = $self.connection().await?;
        let first = $body;
        if first.is_err() && $connected.link.is_broken().await {
            ($self.notify)(&$self.spec.name, &Notice::Reconnecting);
            let $connected = $self.connection().await?;
            $body
        } else {
            first
        }
    }};
}

impl RemoteMachine {
    pub(super) fn new(spec: HostSpec, gate: Arc<Semaphore>, notify: Notify) -> Self {
        Self {
            spec,
            gate,
            notify,
            connected: Mutex::new(None),
            held: Mutex::new(None),
        }
    }

    /// Its name in plans.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Connects now, if that has not happened yet.
    ///
    /// # Errors
    ///
    /// [`HostError::Unreachable`] or, from a host that answers, [`HostError::Remote`].
    pub async fn connect(&self) -> Result<(), HostError> {
        self.connection().await.map(drop)
    }

    /// Its Docker.
    ///
    /// # Errors
    ///
    /// Those of [`Self::connect`].
    pub async fn docker(&self) -> Result<Engine, HostError> {
        Ok(self.connection().await?.engine.clone())
    }

    async fn connection(&self) -> Result<Arc<Connected>, HostError> {
        let mut connected = self.connected.lock().await;
        if let Some(present) = &*connected
            && !present.link.is_closed()
        {
            return Ok(Arc::clone(present));
        }
        // A gate that is closed would let everybody through; it never is.
        let _turn = self.gate.acquire().await;
        let fresh = Arc::new(self.reach().await?);
        *connected = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    async fn reach(&self) -> Result<Connected, HostError> {
        let name = &self.spec.name;
        let link = self.spec.reach.connect(name).await?;
        for news in link.news() {
            (self.notify)(name, &Notice::Connected { news: &news });
        }
        let docker = async {
            let engine = Engine::connect(link.socket(&self.spec.docker_socket)).await?;
            let system = engine.system().await?;
            Ok((engine, system))
        };
        // Each asks the host several times.
        let (docker, files) = tokio::join!(docker, link.files());
        let docker = docker.map_err(|error: DockerError| error.on_connecting(name));
        let (engine, system) = docker?;
        refuse_windows(name, &system.kind).map_err(|error| HostError::Remote {
            host: name.clone(),
            message: "it cannot be managed".to_owned(),
            source: Some(Box::new(error)),
        })?;
        // An empty prefix would make relative paths.
        let prefix = host_prefix(&self.spec.prefix_path, &system.name);
        let prefix = PathBuf::from(format!("{prefix}/"));
        let base = under(&prefix, Path::new("/etc/kubernetes"));
        let files = match files?.filter(|_| link.may_write(&base)) {
            Some(host) => {
                (self.notify)(name, &Notice::FilesDirect);
                Files::Direct(host)
            }
            None => {
                remove_readers(&engine, &system).await;
                Files::Docker
            }
        };
        Ok(Connected {
            link,
            engine,
            files,
            prefix,
        })
    }

    fn desk<'a>(&'a self, connected: &'a Connected) -> Desk<'a> {
        Desk {
            spec: &self.spec,
            link: &*connected.link,
            engine: &connected.engine,
            files: &connected.files,
            prefix: &connected.prefix,
            notify: &self.notify,
        }
    }
}

#[async_trait]
impl Containers for RemoteMachine {
    async fn container(&self, name: &str) -> Result<Option<ContainerState>, HostError> {
        on_host!(self, |connected| {
            let found = connected.engine.container(name).await;
            found.map_err(|error| error.at(&self.spec.name))
        })
    }

    async fn restart(&self, name: &str, grace: Duration) -> Result<(), HostError> {
        on_host!(self, |connected| {
            let host = &self.spec.name;
            let notify = |attempt, failed: Option<&DockerError>| {
                if let Some(error) = failed {
                    let error = error.to_string();
                    let container = name;
                    (self.notify)(host, &Notice::RestartFailed { container, error });
                }
                let container = name;
                (self.notify)(host, &Notice::Restarting { container, attempt });
            };
            let done = connected.engine.restart(name, grace, notify).await;
            done.map_err(|error| error.at(host))
        })
    }
}

#[async_trait]
impl Machine for RemoteMachine {
    async fn read_directory(
        &self,
        directory: &Path,
    ) -> Result<Option<BTreeMap<String, Entry>>, HostError> {
        let held = self.held.try_lock().ok();
        let held = held.and_then(|it| it.as_ref().map(|it| it.helper.clone()));
        on_host!(self, |connected| self
            .desk(&connected)
            .read_directory(directory, held.as_ref())
            .await)
    }

    async fn deploy(&self, deployment: &Deployment) -> Result<(), HostError> {
        let set = Set::new(deployment).map_err(|message| HostError::Remote {
            host: self.spec.name.clone(),
            message,
            source: None,
        })?;
        // A deployment that nobody locked the host for locks it for itself.
        let mut held = self.held.lock().await;
        let alone = held.is_none();
        let done = on_host!(self, |connected| {
            let desk = self.desk(&connected);
            deploy(&desk, &set, &mut held).await
        });
        if alone && let Some(lock) = held.take() {
            let freed = on_host!(self, |connected| self
                .desk(&connected)
                .unlock(&lock.owner)
                .await);
            return done.and(freed);
        }
        done
    }

    async fn forget(&self, plan: &PlanId) -> Result<(), HostError> {
        on_host!(self, |connected| self.desk(&connected).forget(plan).await)
    }

    async fn dial(&self, address: &str) -> Result<Box<dyn Stream>, HostError> {
        on_host!(self, |connected| connected.link.open_tcp(address).await)
    }

    async fn lock(&self, owner: &str) -> Result<(), HostError> {
        let mut held = self.held.lock().await;
        on_host!(self, |connected| {
            let desk = self.desk(&connected);
            take(&desk, owner, &mut held).await.map(drop)
        })
    }

    async fn unlock(&self, owner: &str) -> Result<(), HostError> {
        let mut held = self.held.lock().await;
        on_host!(self, |connected| self.desk(&connected).unlock(owner).await)?;
        *held = None;
        Ok(())
    }
}

/// Takes the host's lock, unless this program has it already and nothing is in doubt.
async fn take(desk: &Desk<'_>, owner: &str, held: &mut Option<Held>) -> Result<Helper, HostError> {
    if let Some(lock) = held
        && lock.owner == owner
        && !lock.doubtful
    {
        return Ok(lock.helper.clone());
    }
    let helper = desk.lock(owner).await?;
    *held = Some(Held {
        owner: owner.to_owned(),
        helper: helper.clone(),
        doubtful: false,
    });
    Ok(helper)
}

async fn deploy(desk: &Desk<'_>, set: &Set<'_>, held: &mut Option<Held>) -> Result<(), HostError> {
    let owner = held
        .as_ref()
        .map_or_else(|| set.plan(), |it| it.owner.clone());
    let helper = take(desk, &owner, held).await?;
    let done = desk.deploy(set, &helper).await;
    if let Some(lock) = held {
        lock.doubtful = done.is_err();
    }
    done
}
