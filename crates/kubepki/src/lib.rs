//! The certificate lifecycle of Kubernetes clusters.

pub mod catalogue;
pub mod dropin;
pub mod edge;
pub mod host;
pub mod plan;
