//! What went wrong between us and a Docker.

use bollard::errors::Error;
use kubepki::host::HostError;

use super::transport::{Cause, DialError};

/// A Docker that could not be asked, or that said no.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// The machine is out of reach, or went out of it in the middle.
    #[error("the connection to the host broke")]
    Unreachable(#[source] Cause),
    /// The user may not open the socket. RKE's own words.
    #[error(
        "Unable to access the Docker socket ({socket}). Please check if the configured user can \
         execute `docker ps` on the node, and if the SSH server version is at least version 6.7 or \
         higher. If you are using RedHat/CentOS, you can't use the user `root`. Please refer to \
         the documentation for more instructions."
    )]
    Denied {
        /// Its path.
        socket: String,
        /// What the system or the SSH server said.
        #[source]
        source: Cause,
    },
    /// Nobody listens there. RKE's own words.
    #[error("Unable to access the service on {socket}. The service might be still starting up.")]
    NotServing {
        /// Its path.
        socket: String,
        /// What the system or the SSH server said.
        #[source]
        source: Cause,
    },
    /// The socket did not open, and the way there says it in its own words.
    #[error("{text}")]
    NoSocket {
        /// What, where and what to do.
        text: String,
        /// Whether it may pass by itself.
        passing: bool,
    },
    /// A Docker from before 2016.
    #[error(
        "Docker {version} speaks API {api}; at least 1.24 (Docker 1.12) is needed: upgrade Docker \
         on this host"
    )]
    TooOld {
        /// The daemon's version.
        version: String,
        /// The newest API that it speaks.
        api: String,
    },
    /// Docker answered with an error.
    #[error("cannot {action}: Docker says ({status}): {message}")]
    Refused {
        /// What was asked.
        action: String,
        /// HTTP status.
        status: u16,
        /// Docker's words.
        message: String,
    },
    /// A former life of the container, which Docker lost sight of when it was killed, is in the
    /// way. Docker does not get past it by itself, not even when it or containerd is restarted;
    /// the end of the shim lets containerd clear it away. (The pattern does not match the shell or
    /// `sudo` that the command is given to.)
    #[error(
        "cannot {action}: Docker says: {message}; it was killed while it stopped or started this \
         container, and containerd holds the remains: as root on the host run `pkill -KILL -f \
         '[c]ontainerd-shim.*{id}'`, or reboot it"
    )]
    Leftover {
        /// What was asked.
        action: String,
        /// Docker's words.
        message: String,
        /// The container's.
        id: String,
    },
    /// Docker went away in the middle of an answer.
    #[error("cannot {action}: the connection to Docker broke; look whether it runs")]
    Broken {
        /// What was asked.
        action: String,
        /// What the connection said.
        #[source]
        source: Cause,
    },
    /// No answer.
    #[error("cannot {action}: Docker did not answer in time")]
    Silent {
        /// What was asked.
        action: String,
    },
    /// An answer that makes no sense.
    #[error("cannot {action}: Docker's answer is not understood: {problem}")]
    Strange {
        /// What was asked.
        action: String,
        /// Why.
        problem: String,
    },
    /// Something else stands in the way; the text says what to do.
    #[error("{0}")]
    Hindered(String),
}

impl DockerError {
    /// Sorts what the client library says about `action`.
    pub(crate) fn of(action: impl Into<String>, socket: &str, error: Error) -> Self {
        let action = action.into();
        match error {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => Self::Refused {
                action,
                status: status_code,
                message: one_line(&message),
            },
            Error::RequestTimeoutError => Self::Silent { action },
            Error::IOError { err } => match err.downcast::<DialError>() {
                Ok(error) => Self::dial(error, socket),
                Err(error) => Self::Broken {
                    action,
                    source: Box::new(error),
                },
            },
            error @ (Error::HyperResponseError { .. } | Error::DockerStreamError { .. }) => {
                Self::Broken {
                    action,
                    source: Box::new(error),
                }
            }
            error => Self::Strange {
                action,
                problem: error.to_string(),
            },
        }
    }

    fn dial(error: DialError, socket: &str) -> Self {
        let socket = socket.to_owned();
        match error {
            DialError::Unreachable(source) => Self::Unreachable(source),
            DialError::Denied(source) => Self::Denied { socket, source },
            DialError::NotServing(source) => Self::NotServing { socket, source },
            DialError::Said { text, passing } => Self::NoSocket { text, passing },
        }
    }

    /// Whether Docker knows nothing of what was asked for.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether a former life of the container is in the way, by containerd's words, which Docker
    /// passes on: its record is still there, a task without one, or a task's directory alone.
    pub(crate) fn is_leftover(&self) -> bool {
        let Self::Refused { message, .. } = self else {
            return false;
        };
        let task = message.contains("task ") && message.ends_with("already exists");
        let directory = message.contains("failed to start shim: mkdir ");
        task || message.contains("id already in use")
            || (directory && message.contains(": file exists"))
    }

    /// Whether the same request may succeed once Docker has started.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::NotServing { .. }
                | Self::NoSocket { passing: true, .. }
                | Self::Broken { .. }
                | Self::Silent { .. }
        )
    }

    /// The same, from a Docker that was never reached: whatever may pass by itself leaves the host
    /// out of reach, for without its Docker nothing can be done there.
    pub fn on_connecting(self, host: &str) -> HostError {
        match self.is_passing() {
            true => HostError::Unreachable {
                host: host.to_owned(),
                source: Box::new(self),
            },
            false => self.at(host),
        }
    }

    /// The same, as a plan's executor reads it.
    pub fn at(self, host: &str) -> HostError {
        let message = self.to_string();
        let host = host.to_owned();
        let source = match self {
            Self::Unreachable(source) => return HostError::Unreachable { host, source },
            Self::Denied { source, .. }
            | Self::NotServing { source, .. }
            | Self::Broken { source, .. } => Some(source),
            _ => None,
        };
        HostError::Remote {
            host,
            message,
            source,
        }
    }
}

/// Docker's messages, of bounded length, in one line.
pub(crate) fn one_line(text: &str) -> String {
    const LIMIT: usize = 600;
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(LIMIT) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: &str) -> DockerError {
        DockerError::Refused {
            action: "start it".to_owned(),
            status: 500,
            message: message.to_owned(),
        }
    }

    #[test]
    fn a_leftover_is_told_from_what_is_in_use_otherwise() {
        for message in [
            "Cannot restart container etcd: id already in use",
            "Cannot restart container etcd: task 0e8ca495: already exists",
            "failed to start shim: mkdir /run/containerd/0e8c: file exists: unknown",
        ] {
            assert!(refused(message).is_leftover(), "{message}");
        }
        for message in [
            "driver failed programming external connectivity: Bind for 0.0.0.0:80 failed: port is already allocated",
            "listen tcp 0.0.0.0:80: bind: address already in use",
            "failed to start shim: mkdir /run/containerd/0e8c: no space left on device: unknown",
        ] {
            assert!(!refused(message).is_leftover(), "{message}");
        }
    }
}
