//! What is in a file, in words: certificates, keys, requests, bundles, kubeconfigs, the listener's
//! Secret.
//!
//! Input is hostile: nothing in it is trusted, text from it is escaped before it is shown, and
//! sizes are limited. A private key is named by its public half and never shown.

use pki::UnixTime;
use serde::Serialize;

use crate::kubeconfig::KubeconfigError;
use crate::listener::ListenerError;

mod bundle;
mod certificate;
mod container;
mod detect;
mod plain;
mod text;

pub use bundle::Bundle;
pub use certificate::{CertificateReport, Standing};
pub use container::{AuthorityReport, ClusterReport, KubeconfigReport, ListenerReport, UserReport};
pub use plain::duration_words;

/// The largest input, in bytes.
pub const LIMIT: usize = 8 << 20;

/// How many PEM blocks of one input are looked into.
const MOST_ITEMS: usize = 1000;

/// Everything that was found in one input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The moment for which it was judged, RFC 3339.
    pub at: String,
    /// What it holds, in its order.
    pub items: Vec<Item>,
    /// How the certificates hang together, if there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Bundle>,
    /// What else is worth knowing, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One thing in the input. Texts that come from it are escaped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Item {
    /// A certificate.
    Certificate(Box<CertificateReport>),
    /// A private key; only its public half is told.
    PrivateKey(KeyReport),
    /// A public key.
    PublicKey(KeyReport),
    /// A private key that needs a passphrase.
    EncryptedKey {
        /// Which form, and what to do about it.
        form: String,
    },
    /// A certificate request (PKCS#10) whose own signature verifies.
    Request {
        /// Subject.
        subject: String,
        /// Subject alternative names.
        sans: Vec<String>,
        /// Its key.
        key: KeyReport,
    },
    /// A kubeconfig.
    Kubeconfig(KubeconfigReport),
    /// K3s's `dynamic-cert.json`, or another Secret of type `kubernetes.io/tls`.
    ListenerSecret(ListenerReport),
    /// Something that is not what its label says, or of a kind that is not looked into.
    Other {
        /// The PEM label.
        label: String,
        /// What is wrong or why it is left alone.
        detail: String,
    },
}

/// A key without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyReport {
    /// `p256`, `rsa2048`; `unknown` for kinds without a name here.
    pub algorithm: String,
    /// SHA-256 of the SubjectPublicKeyInfo, hex.
    pub spki_sha256: String,
    /// Number (from 1) of the first certificate of the input that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub belongs_to: Option<usize>,
}

/// Looks into `bytes`, judging dates by `now`.
///
/// # Errors
///
/// [`InspectError`] when the input as a whole is nothing that is known. Single PEM blocks that
/// cannot be read are items of the result.
pub fn inspect(bytes: &[u8], now: UnixTime) -> Result<Inspection, InspectError> {
    detect::inspect(bytes, now)
}

impl Inspection {
    /// The result in words, for a person.
    pub fn to_text(&self) -> String {
        text::render(self)
    }
}

/// The input is not something that can be looked into.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// Nothing there.
    #[error("the input is empty")]
    Empty,
    /// More than is read.
    #[error("the input has {size} bytes; at most {LIMIT} are read")]
    TooLarge {
        /// Its size.
        size: usize,
    },
    /// None of the known forms.
    #[error(
        "neither PEM, nor DER of a certificate, request or key, nor a kubeconfig, nor a Secret{detail}"
    )]
    Unknown {
        /// What the nearest reader said, after a colon; may be empty.
        detail: String,
    },
    /// It looks like a kubeconfig but is none.
    #[error("a damaged kubeconfig")]
    Kubeconfig(#[source] KubeconfigError),
    /// It looks like a Secret but is none.
    #[error("a damaged Secret")]
    Secret(#[source] ListenerError),
}

#[cfg(test)]
mod tests;
