//! The supervisor as the executor knows it.

use async_trait::async_trait;
use kubepki::apply::{CallError, Caller};

use crate::{Supervisor, SupervisorError};

#[async_trait]
impl Caller for Supervisor {
    async fn call(&self, method: &str, url: &str, body: &[u8]) -> Result<(), CallError> {
        // The plan names the server; this connection was proved for one only.
        let path = self.path_of(url).ok_or_else(|| {
            CallError::refused(format!(
                "{url} is not at the K3s server that was connected to, {self:?}"
            ))
        })?;
        match self.send(method, &path, body).await {
            Ok(_) => Ok(()),
            Err(error) => Err(CallError {
                message: error.to_string(),
                not_done: changed_nothing(&error, &path),
                source: match error {
                    SupervisorError::Unreachable { source, .. } => Some(source),
                    _ => None,
                },
            }),
        }
    }
}

/// Whether K3s has said that it did nothing. A 500 says so of CAs, which are checked before the one
/// write; a rotation of the token can stop half-way. What a proxy says instead of K3s says nothing.
fn changed_nothing(error: &SupervisorError, path: &str) -> bool {
    match error {
        SupervisorError::Refused { status: 500, .. } => path.starts_with("/v1-k3s/cert/cacerts"),
        SupervisorError::Refused { status, .. } => *status < 500,
        SupervisorError::Unreachable { .. } => false,
        _ => true,
    }
}
