//! `v1.Secret` as kube-apiserver keeps it: protocol buffers, or JSON.
//!
//! Field numbers are those of Kubernetes' `generated.proto` files: `runtime.Unknown` (typeMeta 1,
//! raw 2), `TypeMeta` (apiVersion 1, kind 2), `core.v1.Secret` (metadata 1, data 2, type 3),
//! `ObjectMeta` (name 1, namespace 3, deletionTimestamp 9).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::wire::{Torn, Value, fields};

/// How a stored object in protocol buffers begins.
const MAGIC: &[u8] = b"k8s\0";

/// Why a Secret in the datastore cannot be read. Never tells a part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Encrypted by a provider or key that the configuration has not.
    #[error("it is encrypted with {by}, and such a key is none of cred/encryption-config.json")]
    NoKey {
        /// Provider, version and key name.
        by: String,
    },
    /// Encrypted, and the configuration tells no keys.
    #[error("it is encrypted with {by}, and cred/encryption-config.json cannot be used: {problem}")]
    NoKeys {
        /// Provider, version and key name.
        by: String,
        /// What is wrong with the file.
        problem: String,
    },
    /// Encrypted by another key of that name, or damaged.
    #[error("it does not open with the key {by} of cred/encryption-config.json")]
    WrongKey {
        /// Provider, version and key name.
        by: String,
    },
    /// No Secret.
    #[error("it is no Secret of version v1: {problem}")]
    Malformed {
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// What is looked at of a Secret.
#[derive(Default)]
pub(super) struct Secret {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) kind: String,
    /// Somebody deleted it, and finalizers keep it.
    pub(super) is_deleted: bool,
    pub(super) data: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

impl Secret {
    /// Reads a stored value that is not encrypted.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Unreadable> {
        match bytes.strip_prefix(MAGIC) {
            Some(message) => protobuf(message),
            None if bytes.first() == Some(&b'{') => json(bytes),
            None => Err(wrong("it is neither protocol buffers nor JSON")),
        }
    }

    /// A member of its data as text.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.data.get(key)?).ok()
    }
}

fn wrong(problem: &'static str) -> Unreadable {
    Unreadable::Malformed { problem }
}

impl From<Torn> for Unreadable {
    fn from(_: Torn) -> Self {
        wrong("its message is torn")
    }
}

fn text(bytes: &[u8]) -> Result<String, Unreadable> {
    let text = std::str::from_utf8(bytes);
    Ok(text
        .map_err(|_| wrong("a text in it is not UTF-8"))?
        .to_owned())
}

fn protobuf(bytes: &[u8]) -> Result<Secret, Unreadable> {
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in fields(bytes) {
        match field? {
            (1, Value::Bytes(message)) => {
                for field in fields(message) {
                    match field? {
                        (1, Value::Bytes(bytes)) => version = text(bytes)?,
                        (2, Value::Bytes(bytes)) => kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Value::Bytes(bytes)) => raw = bytes,
            (3, Value::Bytes(encoding)) if !encoding.is_empty() => {
                return Err(wrong("its content is encoded"));
            }
            _ => {}
        }
    }
    is_secret(&version, &kind)?;
    let mut secret = Secret::default();
    for field in fields(raw) {
        match field? {
            (1, Value::Bytes(message)) => secret.metadata(message)?,
            (2, Value::Bytes(message)) => secret.entry(message)?,
            (3, Value::Bytes(bytes)) => secret.kind = text(bytes)?,
            _ => {}
        }
    }
    Ok(secret)
}

impl Secret {
    fn metadata(&mut self, message: &[u8]) -> Result<(), Unreadable> {
        for field in fields(message) {
            match field? {
                (1, Value::Bytes(bytes)) => self.name = text(bytes)?,
                (3, Value::Bytes(bytes)) => self.namespace = text(bytes)?,
                (9, Value::Bytes(_)) => self.is_deleted = true,
                _ => {}
            }
        }
        Ok(())
    }

    /// One entry of `map<string, bytes>`.
    fn entry(&mut self, message: &[u8]) -> Result<(), Unreadable> {
        let (mut key, mut value) = (String::new(), Zeroizing::default());
        for field in fields(message) {
            match field? {
                (1, Value::Bytes(bytes)) => key = text(bytes)?,
                (2, Value::Bytes(bytes)) => value = Zeroizing::new(bytes.to_vec()),
                _ => {}
            }
        }
        self.data.insert(key, value);
        Ok(())
    }
}

fn is_secret(version: &str, kind: &str) -> Result<(), Unreadable> {
    match (version, kind) {
        ("v1", "Secret") => Ok(()),
        _ => Err(wrong("its kind or version is another")),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default, rename = "type")]
    secret_type: String,
    #[serde(default)]
    data: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    deletion_timestamp: Option<String>,
}

fn json(bytes: &[u8]) -> Result<Secret, Unreadable> {
    // serde's error would quote the value.
    let written: Written =
        serde_json::from_slice(bytes).map_err(|_| wrong("its JSON cannot be read"))?;
    is_secret(&written.api_version, &written.kind)?;
    let mut secret = Secret {
        namespace: written.metadata.namespace,
        name: written.metadata.name,
        kind: written.secret_type,
        is_deleted: written.metadata.deletion_timestamp.is_some(),
        data: BTreeMap::new(),
    };
    for (key, value) in written.data.into_iter().flatten() {
        let value = Zeroizing::new(value.unwrap_or_default());
        let bytes = STANDARD.decode(value.as_bytes());
        let bytes = bytes.map_err(|_| wrong("a value in its data is not base64"))?;
        secret.data.insert(key, Zeroizing::new(bytes));
    }
    Ok(secret)
}
