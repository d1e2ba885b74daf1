//! The supervisor as the executor knows it.

use async_trait::async_trait;
use kubepki::apply::{CallError, Caller};

use crate::{Supervisor, SupervisorError};

#[async_trait]
impl Caller for Supervisor {
    async fn call(&self, method: &str, url: &str, body: &[u8]) -> Result<(), CallError> {
        // The plan names the server; this connection was proved for one only.
        let path = self.path_of(url).ok_or_else(|| CallError {
            message: format!("{url} is not at the K3s server that was connected to, {self:?}"),
            source: None,
        })?;
        match self.send(method, &path, body).await {
            Ok(_) => Ok(()),
            Err(error) => Err(CallError {
                message: error.to_string(),
                source: match error {
                    SupervisorError::Unreachable { source, .. } => Some(source),
                    _ => None,
                },
            }),
        }
    }
}
