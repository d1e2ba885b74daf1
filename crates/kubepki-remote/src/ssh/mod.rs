//! Hosts over SSH: one connection to each, on which everything else is a channel.
//!
//! RKE opens a connection for every HTTP connection and checks no host key. Here a host's key must
//! be in `known_hosts` ([`HostKeys`]), a bastion's too, and a [`Session`] is shared: Docker's
//! socket, TCP ports, commands and files go through it side by side. Every operation ends within a
//! time that the caller set ([`Timeouts`]); a connection that broke says so at every later call,
//! and connecting anew is the caller's business.

use std::fmt;
use std::time::Duration;

mod auth;
mod client;
mod credentials;
mod error;
mod exec;
mod files;
mod host_keys;
mod known_hosts;
mod session;
mod sftp;
mod short_scalar;
mod stream;

pub use credentials::{Credentials, PrivateKey};
pub use error::{SocketFault, SshError};
pub use exec::quote;
pub use files::SftpHost;
pub use host_keys::{Accepted, HostKeyError, HostKeys};
pub use session::Session;
pub use stream::Stream;

/// A machine to be reached, as a node of cluster.yml describes it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Host name or IP address, without brackets.
    pub address: String,
    /// SSH's port, 22 as a rule.
    pub port: u16,
    /// Whom to log in as.
    pub user: String,
    /// What to prove it with.
    pub keys: Credentials,
    /// The machine that stands between, with its own user and keys. One level, as in RKE, or more.
    pub bastion: Option<Box<Endpoint>>,
}

impl Endpoint {
    /// `address:port`, as RKE's messages name a host; an IPv6 address in brackets.
    pub fn name(&self) -> String {
        if self.address.contains(':') {
            format!("[{}]:{}", self.address, self.port)
        } else {
            format!("{}:{}", self.address, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.user, self.name())
    }
}

/// How long each thing may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, key exchange and login together, for each machine on the way.
    pub connect: Duration,
    /// Opening a channel, and each request of SFTP.
    pub request: Duration,
    /// Silence after which the host is asked whether it lives. After three questions without an
    /// answer the connection counts as broken.
    pub keep_alive: Duration,
}

impl Default for Timeouts {
    /// 30 s to connect (sshd may look up names first), 30 s for a request, 15 s of silence. RKE
    /// has none for connecting and 50 s for the parts of an HTTP call.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            request: Duration::from_secs(30),
            keep_alive: Duration::from_secs(15),
        }
    }
}
