//! A machine behind SSH.

use std::sync::Arc;

use async_trait::async_trait;
use kubepki::host::{Host, HostError, Output};
use kubepki::machine::Stream;

use super::files::SCRIPT_PATIENCE;
use super::{Link, Reach};
use crate::docker::{Dial, DialError};
use crate::ssh::{Endpoint, HostKeys, Session, SocketFault, SshError, Timeouts};

/// Reaches a machine by SSH: Docker's socket and ports through channels; files over SFTP when the
/// user is root, since only root may give files to their owners.
#[derive(Clone, Debug)]
pub struct SshReach {
    /// Where, and as whom.
    pub endpoint: Endpoint,
    /// Whose host keys are believed.
    pub host_keys: HostKeys,
    /// How long each thing may take.
    pub timeouts: Timeouts,
}

#[async_trait]
impl Reach for SshReach {
    async fn connect(&self, host: &str) -> Result<Arc<dyn Link>, HostError> {
        let session = Session::connect(&self.endpoint, &self.host_keys, self.timeouts).await;
        let session = session.map_err(|error| at(host, error))?;
        Ok(Arc::new(SshLink {
            host: host.to_owned(),
            session,
        }))
    }
}

#[derive(Debug)]
struct SshLink {
    host: String,
    session: Session,
}

#[async_trait]
impl Link for SshLink {
    fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    async fn is_broken(&self) -> bool {
        self.session.is_broken().await
    }

    fn news(&self) -> Vec<String> {
        let accepted = self.session.accepted();
        accepted.iter().map(ToString::to_string).collect()
    }

    fn socket(&self, path: &str) -> Arc<dyn Dial> {
        Arc::new(ForwardedSocket {
            session: self.session.clone(),
            path: path.to_owned(),
        })
    }

    async fn open_tcp(&self, address: &str) -> Result<Box<dyn Stream>, HostError> {
        let parts = address.rsplit_once(':').and_then(|(host, port)| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Some((host, port.parse().ok()?))
        });
        let Some((target, port)) = parts else {
            return Err(HostError::Remote {
                host: self.host.clone(),
                message: format!("{address:?} is not an address with a port"),
                source: None,
            });
        };
        match self.session.open_tcp(target, port).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(at(&self.host, error)),
        }
    }

    async fn files(&self) -> Result<Option<Arc<dyn Host>>, HostError> {
        if self.session.user() != "root" {
            return Ok(None);
        }
        match self.session.sftp().await {
            Ok(files) => Ok(Some(Arc::new(files))),
            // No SFTP there: Docker does it too.
            Err(SshError::Sftp { .. }) => Ok(None),
            Err(error) => Err(at(&self.host, error)),
        }
    }

    async fn feed(&self, argv: &[String], input: &[u8]) -> Option<Result<Output, HostError>> {
        let ended = self.session.exec(argv, input, SCRIPT_PATIENCE).await;
        Some(ended.map_err(|error| at(&self.host, error)))
    }
}

/// The socket of a Docker, forwarded by the SSH server.
#[derive(Debug)]
struct ForwardedSocket {
    session: Session,
    path: String,
}

#[async_trait]
impl Dial for ForwardedSocket {
    fn socket(&self) -> String {
        self.path.clone()
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        let error = match self.session.open_unix(&self.path).await {
            Ok(stream) => return Ok(Box::new(stream)),
            Err(error) => error,
        };
        if error.is_unreachable() {
            return Err(DialError::Unreachable(Box::new(error)));
        }
        let passing = matches!(
            &error,
            SshError::Socket {
                fault: SocketFault::ConnectFailed
                    | SocketFault::Missing
                    | SocketFault::NotListening,
                ..
            }
        );
        Err(DialError::Said {
            text: error.to_string(),
            passing,
        })
    }
}

fn at(host: &str, error: SshError) -> HostError {
    let host = host.to_owned();
    if error.is_unreachable() {
        return HostError::Unreachable {
            host,
            source: Box::new(error),
        };
    }
    HostError::Remote {
        host,
        message: error.to_string(),
        source: None,
    }
}
