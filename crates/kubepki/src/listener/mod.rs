//! `dynamic-cert.json`: the certificate of K3s's listener on 6443, kept as a Kubernetes Secret.
//!
//! K3s (rancher/dynamiclistener) writes the Secret as Go's JSON with a line end after it. Its
//! *annotations*, not the certificate, say which SANs are wanted: one `listener.cattle.io/cn-…`
//! each. K3s keeps a certificate that it finds there as long as the SANs are covered and it is
//! not due, so what is written here is what is served after the next start.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pki::{Certificate, PrivateKey};
use serde_json::{Map, Value, json};
use zeroize::{Zeroize, Zeroizing};

mod names;
mod reissue;

pub use names::{annotation_key, is_listener_name};
pub use reissue::reissue;

const FINGERPRINT: &str = "listener.cattle.io/fingerprint";
const STATIC: &str = "listener.cattle.io/static";
const NAME_PREFIX: &str = "listener.cattle.io/cn-";
const LIMIT: usize = 8 << 20;

/// What the file holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Listener {
    /// Wanted SANs from the annotations, byte-sorted, as K3s uses them; addresses and names mixed.
    pub sans: Vec<String>,
    /// Annotated names that K3s passes over because of their characters.
    pub invalid_sans: Vec<String>,
    /// The fingerprint annotation: `SHA1=` and upper-case hex.
    pub fingerprint: Option<String>,
    /// `listener.cattle.io/static` is `true`: K3s never changes it.
    pub is_static: bool,
    /// PEM of leaf and chain.
    pub certificate: Vec<u8>,
    /// PEM of the private key.
    pub key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("sans", &self.sans)
            .field("fingerprint", &self.fingerprint)
            .field("is_static", &self.is_static)
            .finish_non_exhaustive()
    }
}

impl Listener {
    /// Reads `dynamic-cert.json`.
    ///
    /// # Errors
    ///
    /// [`ListenerError::Empty`] for an empty file, which K3s takes for none; otherwise what is
    /// wrong with the Secret. Whether certificate and key are sound is not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, ListenerError> {
        let secret = Secret::parse(bytes)?;
        let (mut sans, mut invalid_sans) = (Vec::new(), Vec::new());
        for (key, value) in secret.annotations()?.into_iter().flatten() {
            if let (true, Some(name)) = (key.starts_with(NAME_PREFIX), value.as_str()) {
                if is_listener_name(name) {
                    &mut sans
                } else {
                    &mut invalid_sans
                }
                .push(name.to_owned());
            }
        }
        sans.sort();
        sans.dedup();
        Ok(Self {
            sans,
            invalid_sans,
            fingerprint: secret.annotation(FINGERPRINT)?.map(str::to_owned),
            is_static: secret.annotation(STATIC)? == Some("true"),
            certificate: secret.data("tls.crt")?.to_vec(),
            key: secret.data("tls.key")?,
        })
    }

    /// Leaf and chain.
    ///
    /// # Errors
    ///
    /// When they do not parse.
    pub fn certificates(&self) -> Result<Vec<Certificate>, pki::Error> {
        Certificate::all_from_pem(&self.certificate)
    }
}

/// The file with certificate chain (PEM, leaf first), key (PEM) and fingerprint annotation
/// replaced; order of members, other annotations, API metadata and what follows the JSON stay.
/// White space inside the JSON becomes Go's, as K3s's own next write would make it.
///
/// # Errors
///
/// A Secret that is not one or is marked static; a certificate and key that do not parse or do
/// not belong together.
pub fn replace(
    bytes: &[u8],
    certificate_chain: &str,
    key: &str,
) -> Result<Zeroizing<Vec<u8>>, ListenerError> {
    let leaf = check_material(certificate_chain, key)?;
    let mut secret = Secret::parse(bytes)?;
    if secret.annotation(STATIC)? == Some("true") {
        return Err(ListenerError::Static);
    }
    // Both must be there: a Secret without them is not the listener's.
    secret.data("tls.crt")?;
    secret.data("tls.key")?;
    secret.set_data("tls.crt", certificate_chain)?;
    secret.set_data("tls.key", key)?;
    secret.annotate(FINGERPRINT, Some(&fingerprint(&leaf)))?;
    Ok(secret.to_bytes())
}

/// The file with SANs added and dropped in the annotations. The certificate is left alone: issue
/// one for the new [`Listener::sans`] and [`replace`] it.
///
/// # Errors
///
/// A Secret that is not one or is marked static; a name to add that K3s would pass over.
pub fn edit_sans(
    bytes: &[u8],
    add: &[String],
    drop: &[String],
) -> Result<Zeroizing<Vec<u8>>, ListenerError> {
    let mut secret = Secret::parse(bytes)?;
    if secret.annotation(STATIC)? == Some("true") {
        return Err(ListenerError::Static);
    }
    for name in drop {
        let held: Vec<String> = secret
            .annotations()?
            .into_iter()
            .flatten()
            .filter(|(key, value)| key.starts_with(NAME_PREFIX) && value.as_str() == Some(name))
            .map(|(key, _)| key.clone())
            .collect();
        for key in held {
            secret.annotate(&key, None)?;
        }
    }
    for name in add {
        if !is_listener_name(name) {
            return Err(ListenerError::InvalidName { name: name.clone() });
        }
        secret.annotate(&annotation_key(name), Some(name))?;
    }
    Ok(secret.to_bytes())
}

/// A new file as K3s (v1.36) writes it at its first start, before the API server holds the
/// Secret: annotations sorted by key, no name, no metadata of the API.
///
/// # Errors
///
/// A certificate and key that do not parse or do not belong together; a SAN that K3s would pass
/// over.
pub fn render(
    certificate_chain: &str,
    key: &str,
    sans: &[String],
) -> Result<Zeroizing<Vec<u8>>, ListenerError> {
    let leaf = check_material(certificate_chain, key)?;
    let mut annotations = Map::new();
    for name in sans {
        if !is_listener_name(name) {
            return Err(ListenerError::InvalidName { name: name.clone() });
        }
        annotations.insert(annotation_key(name), name.as_str().into());
    }
    annotations.insert(FINGERPRINT.to_owned(), fingerprint(&leaf).into());
    annotations.sort_keys();
    let mut secret = Secret {
        value: json!({
            "metadata": { "annotations": annotations },
            "data": { "tls.crt": "", "tls.key": "" },
            "type": "kubernetes.io/tls",
        }),
        tail: b"\n".to_vec(),
    };
    secret.set_data("tls.crt", certificate_chain)?;
    secret.set_data("tls.key", key)?;
    Ok(secret.to_bytes())
}

/// The annotation that K3s puts beside a certificate: `SHA1=` and the upper-case hex of the SHA-1
/// of its DER. It identifies, it protects nothing.
pub fn fingerprint(leaf: &Certificate) -> String {
    format!(
        "SHA1={}",
        pki::hex(&pki::sha1(leaf.der())).to_ascii_uppercase()
    )
}

fn check_material(certificate_chain: &str, key: &str) -> Result<Certificate, ListenerError> {
    let bad = |what| move |source| ListenerError::Material { what, source };
    let chain =
        Certificate::all_from_pem(certificate_chain.as_bytes()).map_err(bad("certificate"))?;
    let key = PrivateKey::from_pem(key.as_bytes()).map_err(bad("private key"))?;
    let leaf = chain
        .into_iter()
        .next()
        .ok_or(pki::Error::NoPemBlock {
            expected: "CERTIFICATE",
        })
        .map_err(bad("certificate"))?;
    if leaf.spki_der() != key.spki_der() {
        return Err(bad("private key")(pki::Error::KeyMismatch {
            subject: leaf.subject().to_string(),
            certificate_spki: leaf.spki_sha256().to_string(),
            key_spki: key.spki_sha256().to_string(),
        }));
    }
    Ok(leaf)
}

/// The Secret as JSON; its data is wiped after use.
struct Secret {
    value: Value,
    /// What follows the JSON in the file.
    tail: Vec<u8>,
}

impl Drop for Secret {
    fn drop(&mut self) {
        if let Some(Value::Object(data)) = self.value.get_mut("data") {
            for value in data.values_mut() {
                wipe(value);
            }
        }
    }
}

fn wipe(value: &mut Value) {
    if let Value::String(text) = value {
        text.zeroize();
    }
}

impl Secret {
    fn parse(bytes: &[u8]) -> Result<Self, ListenerError> {
        if bytes.len() > LIMIT {
            return Err(ListenerError::TooLarge {
                size: bytes.len(),
                limit: LIMIT,
            });
        }
        let json = bytes.trim_ascii_end();
        if json.is_empty() {
            return Err(ListenerError::Empty);
        }
        let value: Value =
            serde_json::from_slice(json).map_err(|error| ListenerError::NotJson {
                line: error.line(),
                column: error.column(),
            })?;
        let tail = bytes.get(json.len()..).unwrap_or_default().to_vec();
        let secret = Self { value, tail };
        if !secret.value.is_object() {
            return Err(ListenerError::NotSecret {
                detail: "the JSON is not an object".to_owned(),
            });
        }
        if let Some(kind) = secret.value.get("kind").filter(|kind| *kind != "Secret") {
            return Err(ListenerError::NotSecret {
                detail: format!("its kind is {kind}"),
            });
        }
        Ok(secret)
    }

    fn annotations(&self) -> Result<Option<&Map<String, Value>>, ListenerError> {
        match self
            .value
            .get("metadata")
            .and_then(|it| it.get("annotations"))
        {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(annotations)) => Ok(Some(annotations)),
            Some(_) => Err(ListenerError::NotSecret {
                detail: "metadata.annotations is not an object".to_owned(),
            }),
        }
    }

    fn annotation(&self, key: &str) -> Result<Option<&str>, ListenerError> {
        Ok(self
            .annotations()?
            .and_then(|all| all.get(key))
            .and_then(Value::as_str))
    }

    /// Sets an annotation in its place, a new one where Go's sorted order has it; `None` removes.
    fn annotate(&mut self, key: &str, value: Option<&str>) -> Result<(), ListenerError> {
        let not_object = |what: &str| ListenerError::NotSecret {
            detail: format!("{what} is not an object"),
        };
        let Value::Object(root) = &mut self.value else {
            return Err(not_object("the JSON"));
        };
        let metadata = root.entry("metadata").or_insert_with(|| json!({}));
        let Value::Object(metadata) = metadata else {
            return Err(not_object("metadata"));
        };
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if annotations.is_null() {
            *annotations = json!({});
        }
        let Value::Object(annotations) = annotations else {
            return Err(not_object("metadata.annotations"));
        };
        let Some(value) = value else {
            annotations.shift_remove(key);
            return Ok(());
        };
        let sorted = annotations.keys().is_sorted();
        annotations.insert(key.to_owned(), value.into());
        if sorted {
            annotations.sort_keys();
        }
        Ok(())
    }

    fn data(&self, field: &'static str) -> Result<Zeroizing<Vec<u8>>, ListenerError> {
        let text = self
            .value
            .get("data")
            .and_then(|data| data.get(field))
            .and_then(Value::as_str);
        let text = text.ok_or(ListenerError::Missing { field })?;
        // Go's decoder skips line ends.
        // Room from the start: growing would leave copies of the key behind.
        let mut packed = Zeroizing::new(Vec::with_capacity(text.len()));
        packed.extend(text.bytes().filter(|byte| !matches!(byte, b'\n' | b'\r')));
        let bytes = STANDARD
            .decode(&*packed)
            .map_err(|_| ListenerError::NotBase64 { field })?;
        Ok(Zeroizing::new(bytes))
    }

    fn set_data(&mut self, field: &'static str, pem: &str) -> Result<(), ListenerError> {
        match self
            .value
            .get_mut("data")
            .and_then(|data| data.get_mut(field))
        {
            Some(value) => {
                wipe(value);
                *value = Value::String(STANDARD.encode(pem));
                Ok(())
            }
            None => Err(ListenerError::Missing { field }),
        }
    }

    /// Go's JSON: compact, with `<`, `>`, `&` and the line separators of Unicode escaped.
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let plain = Zeroizing::new(self.value.to_string());
        let mut bytes = Zeroizing::new(Vec::with_capacity(plain.len() * 6 / 5 + self.tail.len()));
        for letter in plain.chars() {
            match letter {
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    bytes.extend_from_slice(format!("\\u{:04x}", u32::from(letter)).as_bytes());
                }
                _ => bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        bytes.extend_from_slice(&self.tail);
        bytes
    }
}

/// `dynamic-cert.json` could not be read or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenerError {
    /// Nothing in it; K3s makes a new certificate at its next start.
    #[error("the file is empty; K3s makes a new certificate at its next start")]
    Empty,
    /// Larger than any Secret can be.
    #[error("{size} bytes; at most {limit} are read")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Not JSON, perhaps cut short.
    #[error(
        "not JSON from line {line}, column {column} on; remove the file and K3s makes a new one at \
         its next start"
    )]
    NotJson {
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// JSON, but no Secret.
    #[error("not a Kubernetes Secret: {detail}")]
    NotSecret {
        /// Why.
        detail: String,
    },
    /// A Secret without certificate or key.
    #[error("the Secret has no {field}")]
    Missing {
        /// `tls.crt` or `tls.key`.
        field: &'static str,
    },
    /// Data that does not decode.
    #[error("{field} is not base64")]
    NotBase64 {
        /// `tls.crt` or `tls.key`.
        field: &'static str,
    },
    /// Somebody forbade changes.
    #[error(
        "the certificate is marked static; remove the annotation listener.cattle.io/static to have \
         it replaced"
    )]
    Static,
    /// A name that K3s would pass over.
    #[error(
        "{name:?} cannot be a SAN of the listener: letters, digits and -_.: are allowed, with a letter, \
         digit or : at both ends and *. in front of it at most"
    )]
    InvalidName {
        /// The name.
        name: String,
    },
    /// The certificate or key to put in is no good.
    #[error("the new {what} cannot be used")]
    Material {
        /// "certificate" or "private key".
        what: &'static str,
        /// Why.
        #[source]
        source: pki::Error,
    },
}

#[cfg(test)]
mod tests;
