//! `service.key` as K3s and Kubernetes read it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pki::pem::{Block, blocks, encode};
use pki::{Certificate, KeyAlgorithm, PrivateKey, public_key_algorithm};
use zeroize::Zeroizing;

/// Longer files are not read: K3s's holds a few keys.
const LIMIT: usize = 1 << 20;

/// A key's name in tokens (`kid`) and in the API server's JWKS: base64url of the SHA-256 of its
/// SubjectPublicKeyInfo, without padding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub String);

impl KeyId {
    /// The name of the key with that SubjectPublicKeyInfo.
    pub fn of(spki_der: &[u8]) -> Self {
        Self(URL_SAFE_NO_PAD.encode(pki::sha256(spki_der).0))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What K3s does with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It signs new tokens, and verifies.
    Signs,
    /// It verifies tokens that it signed before.
    Verifies,
    /// K3s signs with it and the API server does not see it: every new token is refused.
    SignsUnseen,
    /// It does nothing, for that reason.
    Unseen(&'static str),
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signs => f.write_str("signs"),
            Self::Verifies => f.write_str("verifies"),
            Self::SignsUnseen => f.write_str("signs, but the API server does not see it"),
            Self::Unseen(why) => write!(f, "unused: {why}"),
        }
    }
}

/// One key of the file.
pub struct ServiceKey {
    /// Which block of the file it is, from 1.
    pub position: usize,
    /// The block's label: `RSA PRIVATE KEY`.
    pub label: String,
    /// Its kind and size; `None` for what cannot be read.
    pub algorithm: Option<KeyAlgorithm>,
    /// Its name; `None` for what cannot be read.
    pub id: Option<KeyId>,
    /// DER of its SubjectPublicKeyInfo; empty for what cannot be read.
    pub spki: Vec<u8>,
    /// What K3s does with it.
    pub standing: Standing,
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. {:?}: {}", self.position, self.id, self.standing)
    }
}

/// A `service.key`. Its keys are secret.
pub struct KeyFile {
    /// The keys, in their order. Blocks that are no keys (`EC PARAMETERS`) are none.
    pub keys: Vec<ServiceKey>,
    bytes: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.keys).finish()
    }
}

/// A `service.key` that K3s could not start with, or a change that would make it one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// Far too long.
    #[error("{bytes} bytes are no service.key; at most {LIMIT} are read")]
    TooLong {
        /// Its size.
        bytes: usize,
    },
    /// Nothing to sign with.
    #[error(
        "it holds no private key that K3s can sign with{}; K3s would not start",
        match first { Some(why) => format!(" (the first block: {why})"), None => String::new() }
    )]
    NoSigner {
        /// What is wrong with the first block, if there is one.
        first: Option<&'static str>,
    },
    /// A key that K3s cannot take for a signer.
    #[error(
        "its first key is {algorithm}, which K3s refuses (\"private key is not a recognized \
         type\"): RSA, or elliptic on P-256, P-384 or P-521"
    )]
    UnusableSigner {
        /// Its kind.
        algorithm: KeyAlgorithm,
    },
    /// A kind of key that is not made for tokens.
    #[error("{algorithm} cannot be a service-account key: K3s takes RSA and elliptic keys only")]
    Algorithm {
        /// The kind that was asked for.
        algorithm: KeyAlgorithm,
    },
    /// A name that no key has.
    #[error("there is no key {id} in it; `kubepki sa-key list` shows them")]
    NoSuchKey {
        /// The name.
        id: String,
    },
    /// A name that several keys begin with.
    #[error("{prefix} fits several keys: write more of the key's id")]
    Ambiguous {
        /// What was given.
        prefix: String,
    },
    /// The key in use.
    #[error("{id} signs new tokens: `kubepki sa-key rotate` first")]
    StillSigns {
        /// Its name.
        id: KeyId,
    },
    /// The cryptographic library failed.
    #[error("a key cannot be written")]
    Write(#[source] pki::Error),
}

impl KeyFile {
    /// Reads a `service.key`.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`] when K3s could not start with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyFileError> {
        if bytes.len() > LIMIT {
            let bytes = bytes.len();
            return Err(KeyFileError::TooLong { bytes });
        }
        let mut keys: Vec<ServiceKey> = Vec::new();
        for (block, position) in blocks(bytes).iter().zip(1..) {
            if block.label != "EC PARAMETERS" {
                keys.push(read(block, position));
            }
        }
        let signer = keys.iter_mut().find(|key| can_sign(key));
        let Some(signer) = signer else {
            let first = keys.first().map(|key| match key.standing {
                Standing::Unseen(why) => why,
                _ => "it is a public key",
            });
            return Err(KeyFileError::NoSigner { first });
        };
        if let Some(algorithm @ KeyAlgorithm::Ed25519) = signer.algorithm {
            return Err(KeyFileError::UnusableSigner { algorithm });
        }
        signer.standing = match signer.standing {
            Standing::Verifies => Standing::Signs,
            _ => Standing::SignsUnseen,
        };
        Ok(Self {
            keys,
            bytes: Zeroizing::new(bytes.to_vec()),
        })
    }

    /// The key that signs.
    pub fn signer(&self) -> Option<&ServiceKey> {
        let signs =
            |key: &&ServiceKey| matches!(key.standing, Standing::Signs | Standing::SignsUnseen);
        self.keys.iter().find(signs)
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &Zeroizing<Vec<u8>> {
        &self.bytes
    }

    /// The key whose id is, or begins with, `text`.
    ///
    /// # Errors
    ///
    /// [`KeyFileError::NoSuchKey`], [`KeyFileError::Ambiguous`].
    pub fn find(&self, text: &str) -> Result<&KeyId, KeyFileError> {
        let ids = self.keys.iter().filter_map(|key| key.id.as_ref());
        let mut fitting: Vec<&KeyId> = ids
            .filter(|id| !text.is_empty() && id.0.starts_with(text))
            .collect();
        fitting.dedup();
        match fitting.as_slice() {
            [id] => Ok(id),
            [] => Err(KeyFileError::NoSuchKey {
                id: text.to_owned(),
            }),
            _ => Err(KeyFileError::Ambiguous {
                prefix: text.to_owned(),
            }),
        }
    }

    /// The file with `key` in front: it signs from then on, and every key that was there
    /// verifies. What was there stays octet for octet.
    ///
    /// # Errors
    ///
    /// A kind of key that K3s cannot use.
    pub fn with_new(&self, key: &PrivateKey) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        let algorithm = key.algorithm();
        if algorithm == KeyAlgorithm::Ed25519 {
            return Err(KeyFileError::Algorithm { algorithm });
        }
        let pem = key.to_pem().map_err(KeyFileError::Write)?;
        let mut file = Zeroizing::new(Vec::with_capacity(pem.len() + self.bytes.len()));
        file.extend_from_slice(pem.as_bytes());
        file.extend_from_slice(&self.bytes);
        Ok(file)
    }

    /// The file without the keys of those ids, and what is left over between blocks.
    ///
    /// # Errors
    ///
    /// [`KeyFileError::StillSigns`].
    pub fn without(&self, ids: &[&KeyId]) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        let signer = self.signer().and_then(|key| key.id.as_ref());
        if let Some(id) = signer.filter(|id| ids.contains(id)) {
            return Err(KeyFileError::StillSigns { id: id.clone() });
        }
        let goes = |position| {
            let key = self.keys.iter().find(|key| key.position == position);
            key.is_none_or(|key| key.id.as_ref().is_some_and(|id| ids.contains(&id)))
        };
        let mut file = Zeroizing::new(Vec::with_capacity(self.bytes.len() + 128));
        for (block, position) in blocks(&self.bytes).iter().zip(1..) {
            // Whatever cannot be read may be somebody's last copy.
            if !goes(position) {
                file.extend_from_slice(encode(&block.label, &block.der).as_bytes());
            }
        }
        Ok(file)
    }

    /// What K3s writes to `service.current.key`: the signing key alone.
    ///
    /// # Errors
    ///
    /// When it cannot be encoded.
    pub fn current(&self) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        let signer = self.signer().map(|key| key.position);
        let all = blocks(&self.bytes);
        let block = signer.and_then(|position| all.get(position - 1));
        let key = block.and_then(|block| private(&block.label, &block.der));
        let key = key.ok_or(KeyFileError::NoSigner { first: None })?;
        let pem = key.to_pem().map_err(KeyFileError::Write)?;
        Ok(Zeroizing::new(pem.as_bytes().to_vec()))
    }
}

/// How `service.current.key` stands to `service.key`. K3s writes it at every start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Current {
    /// It is the signing key.
    InStep,
    /// It is another key: the signer until the next start.
    Other(KeyId),
    /// Not there: K3s before v1.26.2 has none, or has not started yet.
    Missing,
    /// No key.
    Unreadable,
}

/// Compares `service.current.key` with the signing key of `file`.
pub fn current(file: &KeyFile, bytes: Option<&[u8]>) -> Current {
    let Some(bytes) = bytes else {
        return Current::Missing;
    };
    let Ok(key) = PrivateKey::from_pem(bytes) else {
        return Current::Unreadable;
    };
    let id = KeyId::of(key.spki_der());
    match file.signer().and_then(|key| key.id.as_ref()) {
        Some(signer) if *signer == id => Current::InStep,
        _ => Current::Other(id),
    }
}

/// Whether K3s takes it for a signer: by label, as `keyutil.ParsePrivateKeyPEM` does.
fn can_sign(key: &ServiceKey) -> bool {
    let readable = key.algorithm.is_some();
    readable
        && matches!(
            key.label.as_str(),
            "EC PRIVATE KEY" | "RSA PRIVATE KEY" | "PRIVATE KEY"
        )
}

const ENCRYPTED: &str = "it is encrypted; decrypt it first";
const NOT_A_KEY: &str = "it is damaged, or of a kind that K3s cannot use";
const WRAPPED: &str = "an elliptic key in PKCS#8, which the API server passes over; as EC PRIVATE \
                       KEY (openssl ec) it is seen";
const EDWARDS: &str = "an Ed25519 key, which K3s cannot use";
const SMALL: &str = "an RSA key under 2048 bits";

fn read(block: &Block, position: usize) -> ServiceKey {
    let of = |found: Option<(KeyAlgorithm, Vec<u8>)>, standing| {
        let (algorithm, spki) = found.map_or((None, Vec::new()), |(a, s)| (Some(a), s));
        ServiceKey {
            position,
            label: block.label.clone(),
            algorithm,
            id: (!spki.is_empty()).then(|| KeyId::of(&spki)),
            spki,
            standing,
        }
    };
    let encrypted = block.headers.iter().any(|it| it.starts_with("DEK-Info"));
    if encrypted || block.label == "ENCRYPTED PRIVATE KEY" {
        return of(None, Standing::Unseen(ENCRYPTED));
    }
    // The API server does not look at labels.
    for label in ["RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY"] {
        match PrivateKey::from_pem(encode(label, &block.der).as_bytes()) {
            Ok(key) => {
                let algorithm = key.algorithm();
                let standing = match algorithm {
                    KeyAlgorithm::Rsa(_) => Standing::Verifies,
                    KeyAlgorithm::Ed25519 => Standing::Unseen(EDWARDS),
                    _ if is_sec1(&block.der) => Standing::Verifies,
                    _ => Standing::Unseen(WRAPPED),
                };
                return of(Some((algorithm, key.spki_der().to_vec())), standing);
            }
            Err(pki::Error::KeyTooSmall { .. }) => return of(None, Standing::Unseen(SMALL)),
            Err(_) => {}
        }
    }
    let spki = match Certificate::from_der(&block.der) {
        Ok(certificate) => certificate.spki_der().to_vec(),
        Err(_) => block.der.to_vec(),
    };
    match public_key_algorithm(&spki) {
        Some(KeyAlgorithm::Ed25519) | None => of(None, Standing::Unseen(NOT_A_KEY)),
        Some(algorithm) => of(Some((algorithm, spki)), Standing::Verifies),
    }
}

/// The private key of a block, by its label.
fn private(label: &str, der: &[u8]) -> Option<PrivateKey> {
    PrivateKey::from_pem(encode(label, der).as_bytes()).ok()
}

/// Whether DER is an ECPrivateKey (RFC 5915: version 1, then an OCTET STRING) rather than a
/// PrivateKeyInfo (RFC 5208: version 0, then a SEQUENCE). Both are sequences.
fn is_sec1(der: &[u8]) -> bool {
    let header = match der.get(1) {
        Some(length) if *length < 0x80 => 2,
        Some(length) => 2 + usize::from(length & 0x7f),
        None => return false,
    };
    der.get(header..)
        .is_some_and(|body| body.starts_with(&[2, 1, 1, 4]))
}
