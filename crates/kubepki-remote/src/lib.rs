//! What kubepki asks of others over the network: K3s's supervisor and the Kubernetes API.
//!
//! Nobody is believed before he has proved himself: the supervisor's CA is held to the hash in
//! the token before a password is sent, the Kubernetes API's to the bundle in the kubeconfig. The
//! system's trust store plays no part, and neither does a proxy.

mod agent;
mod answer;
mod api_route;
mod caller;
pub mod docker;
mod exchange;
mod fault;
mod kubernetes;
pub mod machine;
mod rke_api;
pub mod ssh;
mod supervisor;
mod tls;

pub use agent::{AgentConnection, NodeProof};
pub use api_route::{ApiRoute, NoRoute};
pub use fault::SupervisorError;
pub use kubernetes::{Kubernetes, KubernetesError};
pub use rke_api::RkeApi;
pub use supervisor::{FirstUse, Seen, Supervisor};
