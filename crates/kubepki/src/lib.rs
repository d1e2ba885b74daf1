//! The certificate lifecycle of Kubernetes clusters.

pub mod apply;
pub mod edge;
pub mod host;
pub mod journal;
pub mod plan;
pub mod state;
