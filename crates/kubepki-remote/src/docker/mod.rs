//! Docker's API (1.24 and later), over a local socket or one that SSH forwards.
//!
//! What is asked of Docker is little: look at containers, restart one, and keep one helper
//! container that holds the host's lock and moves files for users who are not root. Nothing that
//! is secret is ever an argument, an environment variable, a label or a line of a log.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use pki::UnixTime;

mod clock;
mod containers;
mod error;
mod helper;
mod transport;

pub use error::DockerError;
pub(crate) use error::one_line;
pub use helper::{Bind, Helper, LOCK_NAME, OWNER_LABEL};
pub use transport::{Cause, Dial, DialError, LocalSocket};

/// A Docker whose API version is settled.
#[derive(Clone)]
pub struct Engine {
    client: Docker,
    dial: Arc<dyn Dial>,
    version: String,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("dial", &self.dial)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What a Docker says of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// `linux` or `windows`.
    pub kind: String,
    /// `Flatcar Container Linux by Kinvolk 3975.2.0 (Oklo)`, for instance.
    pub name: String,
    /// Its time.
    pub now: Option<UnixTime>,
}

/// How long Docker may take to begin an answer.
const PATIENCE: u64 = 60;

impl Engine {
    /// Asks the Docker behind `dial` for its version, and agrees on one of the API.
    ///
    /// # Errors
    ///
    /// [`DockerError::Denied`], [`DockerError::NotServing`], [`DockerError::TooOld`], and what
    /// can befall any request.
    pub async fn connect(dial: Arc<dyn Dial>) -> Result<Self, DockerError> {
        let socket = dial.socket();
        let failed = |error| DockerError::of("ask for Docker's version", &socket, error);
        let client = transport::client(Arc::clone(&dial), PATIENCE).map_err(failed)?;
        let client = client.negotiate_version().await.map_err(failed)?;
        let said = client.version().await.map_err(failed)?;
        let version = said.version.unwrap_or_default();
        let api = client.client_version();
        if !is_supported((api.major_version, api.minor_version)) {
            return Err(DockerError::TooOld {
                version,
                api: api.to_string(),
            });
        }
        Ok(Self {
            client,
            dial,
            version,
        })
    }

    /// What the daemon says of its host.
    ///
    /// # Errors
    ///
    /// When Docker cannot be asked.
    pub async fn system(&self) -> Result<System, DockerError> {
        let info = self.client.info().await;
        let info = info.map_err(self.failed("ask Docker for its system"))?;
        Ok(System {
            kind: info.os_type.unwrap_or_default(),
            name: info.operating_system.unwrap_or_default(),
            now: info
                .system_time
                .as_deref()
                .and_then(clock::parse)
                .map(|it| it.0),
        })
    }

    /// The daemon's own version, `20.10.24` for instance.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The version of the API that both sides speak.
    pub fn api(&self) -> String {
        self.client.client_version().to_string()
    }

    /// The same Docker, given longer to answer.
    fn patient(&self, extra: Duration) -> Docker {
        let client = self.client.clone();
        client.with_timeout(Duration::from_secs(PATIENCE).saturating_add(extra))
    }

    fn failed(&self, action: impl Into<String>) -> impl FnOnce(Error) -> DockerError {
        let action = action.into();
        move |error| DockerError::of(action, &self.dial.socket(), error)
    }
}

/// RKE was pinned to 1.24 up to its version 1.2; what is asked here exists since then.
fn is_supported(api: (usize, usize)) -> bool {
    api >= (1, 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(is_supported((1, 24)));
        assert!(is_supported((1, 100)));
        assert!(is_supported((2, 0)));
        assert!(!is_supported((1, 23)));
        assert!(!is_supported((1, 9)));
    }
}
