//! The certificate lifecycle of Kubernetes clusters.

pub mod edge;
pub mod host;
pub mod kubeconfig;
pub mod listener;
pub mod plan;
#[cfg(test)]
mod test_pki;
mod yaml;
