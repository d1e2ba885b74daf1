//! TLS peers: the libraries that clients of a cluster use, each as client and as server.
//!
//! Go and Java run as one process each and take jobs; rustls runs in this process; OpenSSL and
//! GnuTLS are their own command-line programs, a process for each connection. A connection counts
//! when the server's answer has come back: in TLS 1.3 a client hears only then that its
//! certificate was refused. What is missing on this machine fails the test.

mod helper;
mod line;
mod programs;
mod within;

use std::fmt;
use std::sync::LazyLock;

use tempfile::TempDir;

use helper::Helper;

pub use line::Line;

/// A TLS library, or a program with ways of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stack {
    /// `crypto/tls`.
    Go,
    /// rustls with aws-lc.
    Rustls,
    /// `openssl s_client` and `s_server`.
    OpenSsl,
    /// curl with OpenSSL, client only; unlike OpenSSL itself it takes any certificate of the
    /// trust bundle for the end of a path.
    Curl,
    /// `gnutls-cli` and `gnutls-serv`.
    GnuTls,
    /// JSSE.
    Java,
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Go => "Go",
            Self::Rustls => "rustls",
            Self::OpenSsl => "OpenSSL",
            Self::Curl => "curl",
            Self::GnuTls => "GnuTLS",
            Self::Java => "Java",
        })
    }
}

/// What a peer shows: a chain, leaf first, and the leaf's P-256 key in SEC1 form, both PEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// Certificates.
    pub chain: &'a str,
    /// Key.
    pub key: &'a str,
}

/// The peers of one test; their processes end with it.
pub struct Stacks {
    go: Helper,
    /// Started when it is first needed: few tests are about Java.
    java: LazyLock<Helper>,
    folder: TempDir,
}

/// A server on 127.0.0.1 until it is dropped.
#[derive(Debug)]
pub struct Server<'a> {
    port: u16,
    /// Ends it.
    _running: Running<'a>,
}

impl Server<'_> {
    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

#[derive(Debug)]
enum Running<'a> {
    Helper(#[expect(dead_code, reason = "dropping stops it")] helper::Serving<'a>),
    Process(#[expect(dead_code, reason = "dropping stops it")] programs::Serving),
    Within(#[expect(dead_code, reason = "dropping stops it")] within::Serving),
}

impl Stacks {
    /// Starts the long-lived processes; compiles their programs the first time.
    pub fn start() -> Self {
        let folder = TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        Self {
            go: Helper::go(),
            java: LazyLock::new(Helper::java),
            folder,
        }
    }

    /// A server that shows `identity` and, with `clients`, asks for certificates that this bundle
    /// vouches for.
    pub fn serve(&self, stack: Stack, identity: Identity<'_>, clients: Option<&str>) -> Server<'_> {
        let (port, running) = match stack {
            Stack::Go | Stack::Java => {
                let (port, serving) = self.helper(stack).serve(identity, clients);
                (port, Running::Helper(serving))
            }
            Stack::Rustls => {
                let (port, serving) = within::serve(identity, clients);
                (port, Running::Within(serving))
            }
            Stack::OpenSsl | Stack::GnuTls => {
                let (port, serving) = programs::serve(stack, self.folder.path(), identity, clients);
                (port, Running::Process(serving))
            }
            Stack::Curl => panic!("curl serves nothing"),
        };
        Server {
            port,
            _running: running,
        }
    }

    /// Connects to `port` of 127.0.0.1 as if it were called `name`, trusting `trust`, and asks for
    /// `/ping`.
    ///
    /// # Errors
    ///
    /// What the client says when either end refuses.
    pub fn connect(
        &self,
        stack: Stack,
        port: u16,
        name: &str,
        trust: &str,
        identity: Option<Identity<'_>>,
    ) -> Result<(), String> {
        match stack {
            Stack::Go | Stack::Java => self.helper(stack).connect(port, name, trust, identity),
            Stack::Rustls => within::connect(port, name, trust, identity),
            Stack::OpenSsl | Stack::Curl | Stack::GnuTls => {
                programs::connect(stack, self.folder.path(), port, name, trust, identity)
            }
        }
    }

    /// Connects likewise, and keeps the connection for as many requests as are wanted. Go,
    /// rustls, OpenSSL and GnuTLS.
    ///
    /// # Errors
    ///
    /// What the client says when it does not trust the server.
    pub fn hold(
        &self,
        stack: Stack,
        port: u16,
        name: &str,
        trust: &str,
    ) -> Result<Line<'_>, String> {
        match stack {
            Stack::Go => self.go.hold(port, name, trust).map(Line::of),
            Stack::Rustls => within::hold(port, name, trust).map(Line::of),
            Stack::OpenSsl | Stack::GnuTls => {
                programs::hold(stack, self.folder.path(), port, name, trust).map(Line::of)
            }
            Stack::Curl | Stack::Java => panic!("{stack} holds no connection here"),
        }
    }

    fn helper(&self, stack: Stack) -> &Helper {
        match stack {
            Stack::Java => &self.java,
            _ => &self.go,
        }
    }
}

const REQUEST: &[u8] = b"GET /ping HTTP/1.0\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.0 200 ok\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";

/// Whether a server's answer is among what a client printed.
fn answered(said: &[u8]) -> bool {
    let text = String::from_utf8_lossy(said).to_lowercase();
    text.contains(" 200 ok") || text.contains("http/1.1 200")
}
