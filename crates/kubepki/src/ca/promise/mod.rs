//! Who connects to whom while CAs change, said before anything is done.
//!
//! ```text
//! what a server has loaded ─┐
//! what a client has loaded ─┼─> connects -> Promise
//! the library each uses ────┘
//!
//! old set, new set ─> promise_for ─> one Line for each moment, client and library
//!                                      └─> blast_radius ─> sentences for a plan
//! ```
//!
//! Every TLS library is right when all it needs is one path. After a rotation there are several,
//! some of which end in a root that the reader does not have; then it matters who goes back and
//! tries another one. `tests/matrix` holds every promise to the five libraries themselves.

mod lines;
mod stack;
mod world;

use std::fmt;

use pki::verify::VerifyError;
use pki::{Certificate, Purpose, UnixTime};

pub use lines::{Line, Moment, Pace, Rotation, Served, Who, blast_radius, promise_for};
pub use stack::accepts;
pub use world::PromiseError;

/// A TLS library, as it builds paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stack {
    /// `crypto/tls`: kubectl, kubelet, K3s, etcd. Finds every path.
    Go,
    /// rustls: finds every path, and does not look at a root's dates.
    Rustls,
    /// OpenSSL 3 in its defaults: `s_client`, Python, Ruby, PHP, nginx, git. Looks into the trust
    /// bundle first, then takes the first issuer by name from what is served; never goes back.
    OpenSsl,
    /// GnuTLS 3.7: sorts what is served, and looks for an issuer of its end only.
    GnuTls,
    /// JSSE of Java 17: finds every path.
    Java,
}

impl Stack {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Go,
        Self::Rustls,
        Self::OpenSsl,
        Self::GnuTls,
        Self::Java,
    ];
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Go => "Go",
            Self::Rustls => "rustls",
            Self::OpenSsl => "OpenSSL",
            Self::GnuTls => "GnuTLS",
            Self::Java => "Java",
        })
    }
}

/// One end of a connection: what its process has loaded, not what lies on its disk.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Its library.
    pub stack: Stack,
    /// Its certificate and what it sends behind it, leaf first; empty for none.
    pub presents: &'a [Certificate],
    /// Its trust bundle. A server that asks for no certificates has an empty one.
    pub trusts: &'a [Certificate],
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It called.
    Client,
    /// It was called.
    Server,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// Whether two ends connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Both accept.
    Connects,
    /// One of them refuses.
    Fails(Refusal),
}

impl Promise {
    /// Whether both accept.
    pub fn connects(&self) -> bool {
        matches!(self, Self::Connects)
    }
}

/// Who refuses, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The end that refuses.
    pub by: Side,
    /// Its library.
    pub stack: Stack,
    /// Why.
    pub reason: Refused,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} refuses: {}", self.by, self.reason)
    }
}

/// Why a library does not accept what is presented to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A server wants a certificate and gets none.
    #[error("no certificate is presented")]
    Nothing,
    /// There is no path, whichever library looks.
    #[error("{0}")]
    NoPath(VerifyError),
    /// There is a path, and this library does not find it: it ended elsewhere.
    #[error(
        "{stack} follows the certificates as they are served to {end}, which is {problem}, and \
         tries no other path"
    )]
    Astray {
        /// The library.
        stack: Stack,
        /// Where its search ended.
        end: String,
        /// What is wrong with that end.
        problem: &'static str,
    },
}

/// Whether `client` and `server` connect at the moment `at`, when the client calls it `host`.
///
/// The server's verdict on the client counts only if the client got so far, as in the handshake.
pub fn connects(server: &End<'_>, client: &End<'_>, host: &str, at: UnixTime) -> Promise {
    let refusal = |by, stack| move |reason| Promise::Fails(Refusal { by, stack, reason });
    let judged = accepts(
        client.stack,
        server.presents,
        client.trusts,
        &pki::verify::Options::at(at)
            .purposes(&[Purpose::ServerAuth])
            .host(host),
    );
    if let Err(reason) = judged {
        return refusal(Side::Client, client.stack)(reason);
    }
    if server.trusts.is_empty() {
        return Promise::Connects;
    }
    let options = pki::verify::Options::at(at).purposes(&[Purpose::ClientAuth]);
    match accepts(server.stack, client.presents, server.trusts, &options) {
        Ok(()) => Promise::Connects,
        Err(reason) => refusal(Side::Server, server.stack)(reason),
    }
}
