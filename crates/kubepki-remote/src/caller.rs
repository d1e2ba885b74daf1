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
                // A connection that broke may have carried the call, and K3s answers 500 where
                // its own datastore left it in doubt.
                not_done: matches!(error, SupervisorError::Refused { status: ..500, .. }),
                source: match error {
                    SupervisorError::Unreachable { source, .. } => Some(source),
                    _ => None,
                },
            }),
        }
    }
}
