//! What lies beyond this machine: the cluster's datastore, and servers that are called.

use std::fmt;

use async_trait::async_trait;

use crate::bootstrap::Passphrase;
use crate::datastore::Datastore;

/// The datastore of the cluster, for plans that write to it.
#[derive(Clone, Copy, Debug)]
pub struct Cluster<'a> {
    /// The datastore itself.
    pub store: &'a dyn Datastore,
    /// What [`crate::plan::Plan::datastore`] must say: the endpoint without credentials.
    pub description: &'a str,
    /// The tokens that may have sealed what lies in it. An undo needs the one that sealed what it
    /// brings back; tokens that lie in the backups of its plan are found without being named here.
    pub passphrases: &'a [Passphrase],
}

/// Makes the HTTP calls of a plan: it knows the server's CA and the credentials, which plans do
/// not hold.
#[async_trait]
pub trait Caller: Send + Sync + fmt::Debug {
    /// Sends `body` to `url`, and returns once the server has answered that it is done.
    async fn call(&self, method: &str, url: &str, body: &[u8]) -> Result<(), CallError>;
}

/// A call that was not answered, or not with success.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// Who answered what, and what to do; no credentials, nothing of what was sent.
    pub message: String,
    /// Whether it is certain that the call changed nothing: the server said so, or was never
    /// reached. Else the call is taken for done when it has to be taken back.
    pub not_done: bool,
    /// The client library's own error.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl CallError {
    /// The server's answer that it did nothing, and why.
    pub fn refused(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            not_done: true,
            source: None,
        }
    }
}
