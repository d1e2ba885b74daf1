//! What shows that a change has taken hold.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::LeafId;

/// Something that can be looked at to see that a change has taken hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// The address completes a TLS handshake and serves the leaf of this plan.
    Serves {
        /// `host:port`.
        address: String,
        /// The leaf.
        leaf: LeafId,
    },
    /// The address serves a certificate whose SHA-256 is not this one.
    ServesOther {
        /// `host:port`.
        address: String,
        /// SHA-256 of the certificate served before, hex.
        sha256: String,
    },
    /// The address accepts connections.
    Listens {
        /// `host:port`.
        address: String,
    },
    /// The address completes a TLS handshake with a certificate that this CA signed.
    ServesUnder {
        /// `host:port`.
        address: String,
        /// PEM of the CA that issues what is served: the one certificate, not its bundle.
        authority: String,
    },
    /// `systemctl is-active` says so.
    Active {
        /// The unit.
        unit: String,
    },
    /// A file exists and holds a certificate that is not this one.
    FileRenewed {
        /// Where.
        path: PathBuf,
        /// SHA-256 of the certificate before, hex; `None` if there was none.
        sha256: Option<String>,
    },
    /// A file holds exactly these bytes.
    Holds {
        /// Where.
        path: PathBuf,
        /// SHA-256 of them, hex.
        sha256: String,
    },
}
