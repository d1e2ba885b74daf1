//! What shows that a change has taken hold.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::LeafId;

/// A client certificate and its key, by reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Credential {
    /// A leaf of this plan, if it was made already, with its chain.
    Leaf(LeafId),
    /// An entry of `currentState` in RKE's state file, as it is when it is needed.
    RkeState {
        /// The `.rkestate`.
        path: PathBuf,
        /// The bundle key.
        entry: String,
    },
    /// The same entry of `desiredState`: what is being put in place, and its key is nowhere else.
    RkeDesired {
        /// The `.rkestate`.
        path: PathBuf,
        /// The bundle key.
        entry: String,
    },
}

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
    /// The address refuses connections.
    Silent {
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
    /// As [`Self::Serves`], seen from a host: the address may be one that only it reaches.
    ServesAt {
        /// The host's name.
        host: String,
        /// `host:port`, dialled by the host.
        address: String,
        /// The leaf.
        leaf: LeafId,
    },
    /// As [`Self::ServesOther`], seen from a host.
    ServesOtherAt {
        /// The host's name.
        host: String,
        /// `host:port`, dialled by the host.
        address: String,
        /// SHA-256 of the certificate served before, hex.
        sha256: String,
    },
    /// The address serves, seen from a host, the one certificate that this plan brings there:
    /// from elsewhere, so that it is known beforehand.
    ServesExactly {
        /// The host's name.
        host: String,
        /// `host:port`, dialled by the host.
        address: String,
        /// SHA-256 of the certificate, in DER, hex.
        sha256: String,
        /// Whether the host had it already when the plan was made: then taking the plan back
        /// leaves it there.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        kept: bool,
    },
    /// A URL answers a GET with status 200 when a host asks for it. Whom it trusts is not the
    /// question, as in RKE's own health checks.
    Healthy {
        /// The host's name.
        host: String,
        /// `https://…` or `http://…`.
        url: String,
        /// The client certificate that is shown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<Credential>,
        /// A JSON member and the value that it must have: etcd's `health` is `true`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        member: Option<(String, String)>,
    },
    /// A server takes a client certificate: the TLS handshake holds, and a GET of the URL is not
    /// answered with 401.
    Accepts {
        /// The host's name.
        host: String,
        /// `https://…`.
        url: String,
        /// What is shown.
        client: Credential,
    },
    /// At least `needed` of the members of an etcd cluster say that they are healthy.
    Quorum {
        /// Each member: the host from which it is asked, and its `https://…/health`.
        members: Vec<(String, String)>,
        /// How many must be.
        needed: u32,
        /// What is shown to them.
        client: Credential,
    },
    /// A file holds exactly these bytes.
    Holds {
        /// Where.
        path: PathBuf,
        /// SHA-256 of them, hex.
        sha256: String,
    },
}
