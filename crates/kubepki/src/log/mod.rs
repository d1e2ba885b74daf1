//! The issuance log: every certificate that a server issued, in a chain of hashes.
//!
//! ```text
//! Issued --Log::append--> line in a segment, fsync --> answer --> the certificate may leave
//!                              |
//!                              `--> Head --publish--> /kubepki/log/<server> in the datastore
//! directory + Head --verify--> Verified: what was changed, removed, moved, cut off, and where
//! ```
//!
//! One directory holds one server's chain: `<first number>.jsonl`, one JSON object a line. A line
//! ends in `,"hash":"<64 hex>"}`; the hash is SHA-256 of all bytes of the line before that, among
//! them `prev`, the hash of the line before. So nothing but `sha256sum` is needed to check a line:
//!
//! ```text
//! {"seq":2,"prev":"<hash of record 1>","time":…,"server":…,…,"hash":"<SHA-256 of what stands before>"}
//! ```
//!
//! Numbers begin with 1; record 1 names [`Head::start`]'s hash. It lives in this crate and not
//! with the server, because it needs no network: what verifies a log need not be able to serve.

mod anew;
mod export;
mod head;
mod line;
mod open;
mod read;
mod segment;
mod verify;
mod writer;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use pki::{Certificate, Digest, Serial, UnixTime, sha256};
use serde::{Deserialize, Serialize};

use crate::plan::unix_time;

pub use anew::{Anchor, Anew, Break, KnownBreak, begin_anew};
pub use export::{CSV_HEADER, csv_line, table};
pub use head::{HEAD_PREFIX, HeadError, head_key, keep_published, publish, stored_head};
pub use line::{Damage, Entry};
pub use open::Mended;
pub use read::{Filter, Reading, chains, entries, unrecorded};
pub use verify::{Finding, Place, Verified, verify};
pub use writer::{Log, Options, Receipt};

/// One certificate that was issued: to whom, from where, which. Never a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// When.
    #[serde(with = "unix_time")]
    pub time: UnixTime,
    /// The server that issued it.
    pub server: String,
    /// What was asked, for instance `/v1-k3s/client-kubelet.crt`; the name of the leaf where a
    /// server issued it to its own node, for instance `client-admin`.
    pub endpoint: String,
    /// Who asked: `node`, `system:node:a`; `server` where it issued to its own node, `found in place`
    /// where nobody recorded that.
    pub user: String,
    /// How that was proved: `token`, `bootstrap-token`, `certificate`; `local` where nothing
    /// had to be.
    pub credential: String,
    /// Where the connection came from; `None` for what the server issued to itself.
    pub peer: Option<SocketAddr>,
    /// The node that it is for; `None` where the endpoint knows none.
    pub node: Option<String>,
    /// Its subject, as Go prints it.
    pub subject: String,
    /// The names and addresses in it.
    pub sans: Vec<String>,
    /// SHA-256 of its SubjectPublicKeyInfo, hex.
    pub spki: String,
    /// Its serial number, hex.
    pub serial: String,
    /// When it ends.
    #[serde(with = "unix_time")]
    pub not_after: UnixTime,
}

/// The credential of a server that issues to its own node: it needs none.
const OWN: &str = "local";
/// In place of who asked, where that is not known.
const FOUND: &str = "found in place";

impl Issued {
    /// A record of a leaf that `server` issued to its own node: asked for by nobody, from nowhere
    /// else. `name` says what it is for, as the catalogue has it: `client-admin`.
    pub fn own(certificate: &Certificate, server: &str, name: &str, time: UnixTime) -> Self {
        Self {
            credential: OWN.to_owned(),
            node: Some(server.to_lowercase()),
            ..Self::of(certificate, server, name, time)
        }
    }

    /// A record of a leaf that lies on the node of `server` and that its log does not know: it was
    /// made by K3s or by a person, or used before it could be recorded. `time` is when it was found.
    pub fn found(certificate: &Certificate, server: &str, name: &str, time: UnixTime) -> Self {
        Self {
            user: FOUND.to_owned(),
            ..Self::own(certificate, server, name, time)
        }
    }

    /// Whether it was [found](Self::found) in its place.
    pub fn is_found(&self) -> bool {
        self.is_own() && self.user == FOUND
    }

    /// Whether it is a leaf of the server's own node.
    pub fn is_own(&self) -> bool {
        self.credential == OWN && self.peer.is_none()
    }

    /// A record of `certificate`, issued by `server` to itself: no peer, no node, user `server`,
    /// credential `none`. The caller fills in what is otherwise.
    pub fn of(certificate: &Certificate, server: &str, endpoint: &str, time: UnixTime) -> Self {
        Self {
            time,
            server: server.to_owned(),
            endpoint: endpoint.to_owned(),
            user: "server".to_owned(),
            credential: "none".to_owned(),
            peer: None,
            node: None,
            subject: certificate.subject().to_string(),
            sans: certificate.sans().iter().map(ToString::to_string).collect(),
            spki: certificate.spki_sha256().to_string(),
            serial: certificate.serial().to_string(),
            not_after: certificate.validity().not_after,
        }
    }

    /// Whether this is the certificate with `serial`; leading zeros and case play no part.
    pub fn has_serial(&self, serial: &Serial) -> bool {
        Serial::from_hex(&self.serial).is_ok_and(|own| own == *serial)
    }
}

/// Where a chain ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose chain.
    pub server: String,
    /// How many records there are, which is the number of the last.
    pub records: u64,
    /// The hash of the last, or of the start.
    pub hash: Digest,
}

impl Head {
    /// The chain of `server` before its first record: two servers' first records differ.
    pub fn start(server: &str) -> Self {
        Self {
            server: server.to_owned(),
            records: 0,
            hash: sha256(format!("kubepki issuance log of {server}\n").as_bytes()),
        }
    }
}

/// The log cannot be used, or did not take a record: then its certificate must not leave.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// A file operation failed. Of a record it is sure that it is not in the log.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why; shared, because many records wait for the same write.
        #[source]
        source: Arc<io::Error>,
    },
    /// A former write failed, and what it left behind the last record cannot be cut off.
    #[error(
        "the issuance log in {} takes no records until what a failed write left at its end can be \
         cut off; that is tried again with each record",
        directory.display()
    )]
    Poisoned {
        /// Where.
        directory: PathBuf,
        /// Why not; shared, because many records wait for the same write.
        #[source]
        source: Arc<io::Error>,
    },
    /// Another file, or none, lies where the log was opened: what is written now would be lost.
    #[error(
        "{} is not the file any more that the server writes its issuance log to: put that one \
         back, or start the server anew",
        path.display()
    )]
    Replaced {
        /// Where.
        path: PathBuf,
    },
    /// The disk says nothing: whether the record will be in the log is not known.
    #[error(
        "the disk does not take what is written to the issuance log in {}, nor does it fail: it \
         hangs",
        directory.display()
    )]
    Hangs {
        /// Where.
        directory: PathBuf,
    },
    /// The log was closed.
    #[error("the issuance log is closed: the server is going down")]
    Closed,
    /// Another process holds it.
    #[error(
        "the issuance log in {} is held by another process: two servers must not share a name and \
         a directory",
        directory.display()
    )]
    Locked {
        /// Where.
        directory: PathBuf,
    },
    /// A name that cannot be a directory and a key.
    #[error(
        "{name:?} cannot be the name of an issuance log: write up to 253 letters, digits, dots, \
         dashes and underscores, not beginning with a dot"
    )]
    Name {
        /// It.
        name: String,
    },
    /// Something in the log is not as it was written.
    #[error(
        "the issuance log is damaged at {place}: {damage}; nothing is added to it. `kubepki log \
         verify` shows all; put the file in {} back from a copy, or go on behind it with `kubepki log \
         begin-anew`",
        directory.display()
    )]
    Damaged {
        /// Segment, line and offset.
        place: Place,
        /// What is wrong.
        damage: Damage,
        /// The log's directory.
        directory: PathBuf,
    },
    /// The datastore knows of records that are not there, or of others.
    #[error(
        "the issuance log in {} ends at record {found}, and the datastore knows that there were \
         {known}{}: its end was cut off or rewritten, or another directory was used; put the files \
         back, `kubepki log verify` shows what is missing; if they are lost, `kubepki log begin-anew` \
         goes on and writes that down",
        directory.display(),
        if found >= known { " and that the last of those was another" } else { "" }
    )]
    CutOff {
        /// Where.
        directory: PathBuf,
        /// How many are there.
        found: u64,
        /// How many there were.
        known: u64,
    },
    /// A log that lacks nothing is not begun anew.
    #[error(
        "the issuance log in {} is as it was written, and the datastore knows of no more: nothing \
         is begun anew",
        directory.display()
    )]
    Whole {
        /// Where.
        directory: PathBuf,
    },
    /// A record that no line can hold.
    #[error("the record has {bytes} bytes, and a line of the issuance log holds {limit} at most")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

impl LogError {
    fn file(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::File {
            action,
            path: path.into(),
            source: Arc::new(source.into()),
        }
    }
}

/// Refuses a name that is no plain file name.
fn checked(name: &str) -> Result<(), LogError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match (1..=253).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain) {
        true => Ok(()),
        false => Err(LogError::Name {
            name: name.chars().take(300).collect(),
        }),
    }
}
