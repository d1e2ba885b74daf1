//! X.509 certificates and keys for Kubernetes.
//!
//! Pure: no file system, no clock, no network. Time is a parameter, keys come from aws-lc.
//!
//! **Parsed**: every certificate that Go's `crypto/x509` reads, byte for byte; keys in SEC1,
//! PKCS#1, PKCS#8 and PBES2-encrypted PKCS#8; PKCS#10 requests;
//! the certificates of PKCS#7 bundles.
//! **Issued**: self-signed and cross-signed CAs, leaves for TLS servers and clients, with the
//! profile of RFC 5280 that Kubernetes expects.
//! **Checked**: certification paths, with the answers of Go's `crypto/x509` ([`verify`]).
//! **Not supported, on purpose**: CRLs and OCSP (no Kubernetes component looks at them), SHA-1
//! signatures, OpenSSL's legacy key encryption, DSA.

mod certificate;
mod digest;
mod encode;
mod error;
mod extension;
mod issue;
mod key;
mod name;
mod name_form;
mod oid;
pub mod pem;
mod pkcs7;
mod public_key;
mod request;
mod san;
mod serial;
mod signature;
mod time;
pub mod verify;

pub use certificate::Certificate;
pub use digest::{Digest, hex, random, sha1, sha256, unhex};
pub use error::Error;
pub use extension::{BasicConstraints, KeyUsage, NameConstraints, Purpose, Subtree};
pub use issue::{Authority, AuthorityRequest, LeafRequest};
pub use key::{KeyAlgorithm, PrivateKey};
pub use name::Name;
pub use pkcs7::certificates_from_pkcs7;
pub use public_key::public_key_algorithm;
pub use request::CertificateRequest;
pub use san::San;
pub use serial::Serial;
pub use time::{BACKDATE, DAY, UnixTime, Validity};
