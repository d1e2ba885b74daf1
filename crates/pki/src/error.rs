//! What can be wrong with a certificate or key.

use core::fmt;

/// A fact about an input, with its evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The text holds no PEM block of the kind that is looked for.
    NoPemBlock {
        /// The label that was looked for: `CERTIFICATE`, `PRIVATE KEY`.
        expected: &'static str,
    },
    /// Bytes that are not the DER of what they claim to be.
    Malformed {
        /// What was being read: "certificate", "subject alternative name".
        what: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// A key of a kind that is not supported.
    UnsupportedKey {
        /// What it is.
        detail: String,
    },
    /// An RSA key too short to sign with.
    KeyTooSmall {
        /// Modulus size.
        bits: usize,
    },
    /// A key encrypted in OpenSSL's legacy form (`Proc-Type: 4,ENCRYPTED`).
    LegacyEncryptedKey,
    /// An encrypted key, and no passphrase was given.
    PassphraseNeeded,
    /// The passphrase does not decrypt the key.
    WrongPassphrase,
    /// A certificate and a private key that do not belong together.
    KeyMismatch {
        /// Whose certificate.
        subject: String,
        /// SHA-256 of the certificate's SubjectPublicKeyInfo.
        certificate_spki: String,
        /// SHA-256 of the key's SubjectPublicKeyInfo.
        key_spki: String,
    },
    /// A signature algorithm that is unknown or no longer trusted.
    UnsupportedSignature {
        /// Its OID or name.
        algorithm: String,
    },
    /// The signature was not made by that key over these bytes.
    BadSignature,
    /// The certificate that should sign is not a CA, or may not sign certificates.
    NotACertificateAuthority {
        /// Its subject.
        subject: String,
        /// What is missing.
        detail: &'static str,
    },
    /// What was asked for cannot be issued.
    Unissuable {
        /// Why.
        detail: String,
    },
    /// The system's random generator failed.
    NoRandomness,
    /// The cryptographic library refused.
    Crypto {
        /// What was tried.
        what: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPemBlock { expected } => write!(f, "no {expected} PEM block found"),
            Self::Malformed { what, detail } => write!(f, "malformed {what}: {detail}"),
            Self::UnsupportedKey { detail } => write!(
                f,
                "unsupported key ({detail}); use ECDSA P-256, P-384, P-521, RSA or Ed25519"
            ),
            Self::KeyTooSmall { bits } => write!(
                f,
                "RSA key of {bits} bits is too short to sign with; 2048 bits are the least"
            ),
            Self::LegacyEncryptedKey => f.write_str(
                "the key is encrypted in OpenSSL's legacy form (DEK-Info); \
                 convert it with `openssl pkcs8 -topk8 -in OLD -out NEW`",
            ),
            Self::PassphraseNeeded => f.write_str("the key is encrypted and needs a passphrase"),
            Self::WrongPassphrase => f.write_str("the passphrase does not decrypt the key"),
            Self::KeyMismatch {
                subject,
                certificate_spki,
                key_spki,
            } => write!(
                f,
                "the private key (SPKI SHA-256 {key_spki}) does not belong to the certificate \
                 {subject} (SPKI SHA-256 {certificate_spki})"
            ),
            Self::UnsupportedSignature { algorithm } => {
                write!(f, "signature algorithm {algorithm} is not accepted")
            }
            Self::BadSignature => f.write_str("the signature does not verify"),
            Self::NotACertificateAuthority { subject, detail } => {
                write!(f, "{subject} cannot sign certificates: {detail}")
            }
            Self::Unissuable { detail } => f.write_str(detail),
            Self::NoRandomness => f.write_str("the system's random generator failed"),
            Self::Crypto { what } => write!(f, "the cryptographic library refused to {what}"),
        }
    }
}

impl core::error::Error for Error {}

impl Error {
    /// A [`Error::Malformed`] with a library's words.
    pub(crate) fn malformed(what: &'static str, detail: impl fmt::Display) -> Self {
        Self::Malformed {
            what,
            detail: detail.to_string(),
        }
    }
}
