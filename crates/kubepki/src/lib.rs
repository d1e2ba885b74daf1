//! The certificate lifecycle of Kubernetes clusters.

pub mod agent;
pub mod apply;
pub mod bootstrap;
pub mod ca;
pub mod catalogue;
pub mod check;
pub mod cluster;
pub mod datastore;
pub mod dropin;
pub mod edge;
pub mod fleet;
pub mod host;
pub mod init;
pub mod inspect;
pub mod inventory;
pub mod journal;
pub mod k3s;
pub mod kubeconfig;
pub mod listener;
pub mod log;
pub mod machine;
pub mod plan;
pub mod reconcile;
pub mod report;
pub mod rke;
pub mod service_account;
pub mod state;
#[cfg(test)]
mod test_pki;
pub mod token;
mod yaml;

/// An error and everything below it, on one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(below) = source {
        text.push_str(": ");
        text.push_str(&below.to_string());
        source = below.source();
    }
    text
}
