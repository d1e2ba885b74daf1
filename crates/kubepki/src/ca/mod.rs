//! The cluster's CAs: made, requested, imported, and what comes after them.
//!
//! ```text
//! input    files and passphrases -> certificates and keys
//! create   root -> intermediate -> five CAs                   }
//! request  CSRs for a company's CA; import takes its answer   } -> StagedSet
//! stage    what follows the CAs that are in force             }
//! output   StagedSet -> a directory with tls/, and one that belongs offline
//! live     no live tls is ever written to
//! ```
//!
//! Nothing here changes a cluster: a [`StagedSet`] is a proposal on disk, which `rotate-ca` puts
//! in force. All of it but `input`, `output` and `live` is pure.
//!
//! What is made follows one profile: positive serial numbers of 127 bits, `keyCertSign`,
//! `cRLSign` and `digitalSignature`, from one hour back but never before the issuer, never beyond
//! the issuer, the issuer's subject key identifier octet for octet.

mod create;
mod error;
mod import;
mod live;
mod outer;
mod output;
mod pool;
mod profile;
pub mod promise;
mod request;
pub mod rotate;
pub mod script;
mod service_key;
mod stage;
pub mod verify;

use std::collections::BTreeMap;
use std::fmt;

use pki::{Certificate, Digest, UnixTime};
use zeroize::Zeroizing;

use crate::bootstrap::{Bundle, Field};
use crate::edge::{Entropy, KeySource};

pub use create::{CreateRequest, create};
pub use error::CaError;
pub use import::{ImportRequest, certificates_in, import};
pub use live::refuse_live;
pub use outer::{Outer, faults_of};
pub use output::{NOTE, Places, StagedNote, check_places, read_note, write};
pub use pool::Pool;
pub use profile::Algorithms;
pub use request::{Requested, Requests, csr_name, read_request_keys, request};
pub use service_key::{SERVICE_KEY, service_key_file};
pub use stage::{Change, CrossRoots, StageRequest, stage};

/// One of the five CAs of a K3s cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CaName {
    /// Signs clients of the API server.
    Client,
    /// Signs servers; tokens pin it.
    Server,
    /// Signs the aggregation layer's client.
    RequestHeader,
    /// Signs members of etcd towards each other.
    EtcdPeer,
    /// Signs etcd's servers and clients.
    EtcdServer,
}

impl CaName {
    /// All five, in the order of K3s's scripts.
    pub const ALL: [Self; 5] = [
        Self::Client,
        Self::Server,
        Self::RequestHeader,
        Self::EtcdPeer,
        Self::EtcdServer,
    ];

    /// Its name in K3s's scripts, which is its file's up to `-ca.crt`: `etcd/peer`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::RequestHeader => "request-header",
            Self::EtcdPeer => "etcd/peer",
            Self::EtcdServer => "etcd/server",
        }
    }

    /// The same without a directory: `etcd-peer`.
    pub const fn flat(self) -> &'static str {
        match self {
            Self::EtcdPeer => "etcd-peer",
            Self::EtcdServer => "etcd-server",
            other => other.label(),
        }
    }

    /// The field of its certificates.
    pub const fn field(self) -> Field {
        match self {
            Self::Client => Field::ClientCa,
            Self::Server => Field::ServerCa,
            Self::RequestHeader => Field::RequestHeaderCa,
            Self::EtcdPeer => Field::EtcdPeerCa,
            Self::EtcdServer => Field::EtcdServerCa,
        }
    }

    /// The field of its key.
    pub const fn key_field(self) -> Field {
        match self {
            Self::Client => Field::ClientCaKey,
            Self::Server => Field::ServerCaKey,
            Self::RequestHeader => Field::RequestHeaderCaKey,
            Self::EtcdPeer => Field::EtcdPeerCaKey,
            Self::EtcdServer => Field::EtcdServerCaKey,
        }
    }
}

impl fmt::Display for CaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// How a set relates to the CAs that are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For a cluster that has none yet.
    First,
    /// New CAs under the roots that are trusted already: nobody has to join again.
    SameRoot,
    /// New roots that nobody trusts yet.
    NewRoot,
    /// New roots that the present CAs vouch for.
    CrossSigned,
    /// The CAs stay as they are, octet for octet; `service.key` has a new first key.
    ServiceKeyOnly,
    /// New roots, new service-account keys, and nothing of the old ones is kept.
    Compromised,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "first CAs",
            Self::SameRoot => "same root",
            Self::NewRoot => "new root",
            Self::CrossSigned => "cross-signed",
            Self::ServiceKeyOnly => "service-account keys only",
            Self::Compromised => "new root after a compromise",
        })
    }
}

/// CA files that are ready and not yet in force.
#[derive(Debug)]
pub struct StagedSet {
    /// What was done.
    pub kind: Kind,
    /// The files for the servers, [`Field::is_rotatable`] ones only, all with the time of making.
    pub bundle: Bundle,
    /// For each CA the certificates that its leaves should be followed by: the CA itself first,
    /// nothing self-signed where there is a cross-certificate (reference section 13.2).
    pub served: BTreeMap<CaName, Vec<Certificate>>,
    /// The cross-certificates, one entry for each CA that has one.
    pub cross: Vec<Cross>,
    /// What belongs offline and on no server.
    pub offline: Vec<OfflineFile>,
    /// The hash that tokens pin, before and after.
    pub hash: TokenHash,
    /// What the operator should know, whole sentences.
    pub notes: Vec<String>,
}

/// A cross-certificate: an old CA's word for a new root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cross {
    /// Whose file it is in.
    pub ca: CaName,
    /// The certificate: the new root's name and key, signed by `signer`.
    pub certificate: Certificate,
    /// The CA that signed it: the old root, or a CA below it whose key was at hand.
    pub signer: Certificate,
    /// The old root that it leads to.
    pub old_root: Certificate,
    /// The new root.
    pub new_root: Certificate,
    /// The last second in which the old root, through it, vouches for the new one.
    pub until: UnixTime,
    /// Whether that is before the new issuing CA ends: then clients that trust only the old root
    /// are shut out before their time.
    pub ends_early: bool,
}

/// A file for the safe.
pub struct OfflineFile {
    /// Its path in the offline directory.
    pub name: String,
    /// Its bytes.
    pub content: Zeroizing<Vec<u8>>,
    /// Whether it is a private key.
    pub secret: bool,
}

impl fmt::Debug for OfflineFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "OfflineFile({}, {} bytes)",
            self.name,
            self.content.len()
        )
    }
}

/// The hash that join tokens pin ([`crate::token::authority_hash`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenHash {
    /// Of the CAs in force; `None` where there are none, or they cannot be read.
    pub before: Option<Digest>,
    /// Of this set.
    pub after: Digest,
}

impl TokenHash {
    /// Whether tokens with a hash have to be replaced.
    pub fn changes(self) -> bool {
        self.before.is_some_and(|before| before != self.after)
    }
}

/// Where time, serial numbers and keys come from.
#[derive(Clone, Copy, Debug)]
pub struct Make<'a> {
    /// Now.
    pub now: UnixTime,
    /// Serial numbers.
    pub entropy: &'a dyn Entropy,
    /// Keys.
    pub keys: &'a dyn KeySource,
}

/// Whether K3s takes CAs under other CAs: since v1.26.2, v1.25.7, v1.24.11 and v1.23.17, which
/// also have `rotate-ca` (reference section 10.1). The same releases keep `*.nochain.crt`.
pub fn outer_authorities(release: crate::catalogue::Release) -> bool {
    crate::init::outer_authorities(release)
}
