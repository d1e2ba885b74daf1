//! RKE clusters: `cluster.yml`, the state file, which certificates there are, where they go.
//!
//! Everything here is text in, values or text out: no file, host or clock is touched. Facts are
//! those of RKE v1 (`rancher/rke`, releases 0.2 to 1.8); where ours differs on purpose, the item
//! says so and why.

pub mod catalogue;
pub mod cert_dir;
pub mod check;
pub mod config;
pub mod csr;
pub mod custom;
pub mod entry;
pub mod generate;
pub mod init;
pub mod json;
pub mod kubeconfig;
pub mod local;
pub mod log;
pub mod names;
pub mod placement;
pub mod rebuild;
pub mod rotate;
mod san;
mod secret;
pub mod state;
pub mod survey;

pub use config::{ClusterConfig, ConfigError, Node, Role};
pub use entry::{Bundle, Entry};
pub use generate::{LeafSpec, Rotation, Service, Wanted, first, renewed};
pub use json::Json;
pub use san::{SanError, etcd_sans, kube_apiserver_sans, kubelet_sans, service_addresses};
pub use secret::Secret;
pub use state::{Files, Half, State, StateFileError};
