//! The machines of a cluster, and the way to its API.

use std::sync::Arc;

use async_trait::async_trait;
use kubepki::host::HostError;
use kubepki::machine::{Machine, Machines};
use kubepki_remote::ApiRoute;
use kubepki_remote::machine::RemoteMachines;

/// What is reached over the network.
#[derive(Debug)]
pub struct Hosts {
    /// By address in cluster.yml.
    pub machines: RemoteMachines,
    /// The Kubernetes API.
    pub route: Arc<ApiRoute>,
}

#[async_trait]
impl Machines for Hosts {
    async fn machine(&self, host: &str) -> Result<Arc<dyn Machine>, HostError> {
        self.machines.machine(host).await
    }
}
