//! The machines of a cluster whose components run as containers, seen from the operator's own.
//!
//! RKE's nodes are reached by SSH, Docker through it. What a plan asks of one is little, and
//! comes as whole sets: read a directory, deploy a set of files, restart a container, connect to
//! a port that only the machine itself reaches.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pki::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::apply::CallError;
use crate::host::{Entry, HostError};
use crate::plan::PlanId;

/// The machines of a cluster, by the names that plans use: [`crate::plan::FileSet::host`].
#[async_trait]
pub trait Machines: Send + Sync + fmt::Debug {
    /// Reaches a machine, or finds it reached. Many may be asked for at once.
    ///
    /// # Errors
    ///
    /// [`HostError::Unreachable`] when it does not answer; a machine that was never heard of, or
    /// that answers and refuses us, is another error, for waiting would not help.
    async fn machine(&self, host: &str) -> Result<Arc<dyn Machine>, HostError>;
}

/// One machine: its files and ports.
#[async_trait]
pub trait Machine: Containers {
    /// Every regular file that lies directly in `directory`, by name; `None` if there is no such
    /// directory.
    async fn read_directory(
        &self,
        directory: &Path,
    ) -> Result<Option<BTreeMap<String, Entry>>, HostError>;

    /// Puts a whole set of files in place: see [`Deployment`]. It may be repeated after a crash at
    /// any point, and ends the same.
    async fn deploy(&self, deployment: &Deployment) -> Result<(), HostError>;

    /// Removes what deployments of a plan have kept ([`Deployment::keep`]), old keys for the most
    /// part. That there is nothing is success. The machine should be locked.
    async fn forget(&self, plan: &PlanId) -> Result<(), HostError>;

    /// Connects to `host:port` as the machine itself would.
    async fn dial(&self, address: &str) -> Result<Box<dyn Stream>, HostError>;

    /// Keeps other operators' programs away from this machine until [`Self::unlock`]. `owner` is
    /// the operator's state directory ([`crate::state::Locked::owner`]): the same owner may come
    /// again after a crash.
    ///
    /// # Errors
    ///
    /// [`HostError::Remote`] that names the other owner.
    async fn lock(&self, owner: &str) -> Result<(), HostError>;

    /// Gives the machine free again. That it was free is success.
    async fn unlock(&self, owner: &str) -> Result<(), HostError>;
}

/// The containers of one machine.
#[async_trait]
pub trait Containers: Send + Sync + fmt::Debug {
    /// What is known of a container; `None` if there is none of that name.
    async fn container(&self, name: &str) -> Result<Option<ContainerState>, HostError>;

    /// Restarts a container; one that does not stop within `grace` is killed.
    async fn restart(&self, name: &str, grace: Duration) -> Result<(), HostError>;
}

/// A set of files for one directory.
///
/// New files are written whole beside their place and flushed to the disk before the first of
/// them is moved in place, each by a rename; what was there is kept in [`Self::keep`], once, also
/// when the deployment is repeated.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Where the files belong. Made with mode 0755 if it is missing.
    pub directory: PathBuf,
    /// Where the former files are kept, on the same file system; 0700.
    pub keep: PathBuf,
    /// By name: what shall be there, or `None` to remove it.
    pub files: BTreeMap<String, Option<Entry>>,
}

/// What Docker says of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerState {
    /// Whether it runs.
    pub running: bool,
    /// When it was started last, by the machine's clock, in nanoseconds too: two starts differ.
    pub started: (UnixTime, u32),
    /// The image that it was made from.
    pub image: String,
    /// Its command line, without its environment.
    pub arguments: Vec<String>,
}

/// A byte stream in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The Kubernetes API of an RKE cluster, as far as a rotation changes something there.
#[async_trait]
pub trait ClusterApi: Send + Sync + fmt::Debug {
    /// Stores the state, JSON on one line, as Secret `full-cluster-state` in `kube-system`, and deletes
    /// the ConfigMap of that name, as RKE since 1.6.0.
    async fn save_state(&self, state: &[u8]) -> Result<(), CallError>;

    /// Deletes the pods that the selectors (`label=value`, all namespaces) name, and returns
    /// `namespace/name` of each. One that is gone already is success.
    async fn delete_pods(&self, selectors: &[String]) -> Result<Vec<String>, CallError>;
}
