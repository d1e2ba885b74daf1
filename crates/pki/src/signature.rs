//! Signature checks, by algorithm and key.

use aws_lc_rs::signature as alg;
use aws_lc_rs::signature::{UnparsedPublicKey, VerificationAlgorithm};
use const_oid::ObjectIdentifier;
use der::{Decode, Sequence};
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

use crate::public_key::rsa_bits;
use crate::{Error, oid};

/// Checks `signature` over `message` with the key `spki`.
///
/// SHA-1 and MD5 are refused, as Go's `crypto/x509` refuses them; RSA moduli from 1024 bits are
/// taken, as there, so that an old CA can still be looked at.
///
/// # Errors
///
/// [`Error::BadSignature`] or [`Error::UnsupportedSignature`].
pub(crate) fn verify(
    spki: &[u8],
    algorithm: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), Error> {
    let algorithm = AlgorithmIdentifierRef::from_der(algorithm)
        .map_err(|error| Error::malformed("signature algorithm", error))?;
    let info = SubjectPublicKeyInfoRef::from_der(spki)
        .map_err(|error| Error::malformed("public key", error))?;
    let method = method(&algorithm, &info)?;
    UnparsedPublicKey::new(method, info.subject_public_key.raw_bytes())
        .verify(message, signature)
        .map_err(|_| Error::BadSignature)
}

fn method(
    algorithm: &AlgorithmIdentifierRef<'_>,
    info: &SubjectPublicKeyInfoRef<'_>,
) -> Result<&'static dyn VerificationAlgorithm, Error> {
    let unsupported = |name: String| Err(Error::UnsupportedSignature { algorithm: name });
    let curve = info.algorithm.parameters_oid().ok();
    // aws-lc checks short keys with two of the hashes only; no new signature has one.
    let short =
        short_rsa(info).filter(|_| !matches!(algorithm.oid, oid::RSA_SHA256 | oid::RSA_SHA512));
    if let Some(bits) = short {
        let name = algorithm_name(algorithm.oid);
        return unsupported(format!("{name} by an RSA key of {bits} bits"));
    }
    let found: &'static dyn VerificationAlgorithm = match (info.algorithm.oid, algorithm.oid) {
        (oid::RSA_ENCRYPTION, oid::RSA_SHA256) => {
            &alg::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY
        }
        (oid::RSA_ENCRYPTION, oid::RSA_SHA384) => &alg::RSA_PKCS1_2048_8192_SHA384,
        (oid::RSA_ENCRYPTION, oid::RSA_SHA512) => {
            &alg::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY
        }
        (oid::RSA_ENCRYPTION, oid::RSA_PSS) => match pss_hash(algorithm)? {
            oid::SHA256 => &alg::RSA_PSS_2048_8192_SHA256,
            oid::SHA384 => &alg::RSA_PSS_2048_8192_SHA384,
            oid::SHA512 => &alg::RSA_PSS_2048_8192_SHA512,
            other => return unsupported(format!("RSASSA-PSS with {other}")),
        },
        (oid::EC_PUBLIC_KEY, hash) => match (curve, hash) {
            (Some(oid::CURVE_P256), oid::ECDSA_SHA256) => &alg::ECDSA_P256_SHA256_ASN1,
            (Some(oid::CURVE_P256), oid::ECDSA_SHA384) => &alg::ECDSA_P256_SHA384_ASN1,
            (Some(oid::CURVE_P256), oid::ECDSA_SHA512) => &alg::ECDSA_P256_SHA512_ASN1,
            (Some(oid::CURVE_P384), oid::ECDSA_SHA256) => &alg::ECDSA_P384_SHA256_ASN1,
            (Some(oid::CURVE_P384), oid::ECDSA_SHA384) => &alg::ECDSA_P384_SHA384_ASN1,
            (Some(oid::CURVE_P384), oid::ECDSA_SHA512) => &alg::ECDSA_P384_SHA512_ASN1,
            (Some(oid::CURVE_P521), oid::ECDSA_SHA256) => &alg::ECDSA_P521_SHA256_ASN1,
            (Some(oid::CURVE_P521), oid::ECDSA_SHA384) => &alg::ECDSA_P521_SHA384_ASN1,
            (Some(oid::CURVE_P521), oid::ECDSA_SHA512) => &alg::ECDSA_P521_SHA512_ASN1,
            (_, hash) => return unsupported(algorithm_name(hash)),
        },
        (oid::ED25519, oid::ED25519) => &alg::ED25519,
        (_, other) => return unsupported(algorithm_name(other)),
    };
    Ok(found)
}

/// [`algorithm_name`] of an AlgorithmIdentifier's DER.
pub(crate) fn name_of(algorithm: &[u8]) -> String {
    match AlgorithmIdentifierRef::from_der(algorithm) {
        Ok(algorithm) => algorithm_name(algorithm.oid),
        Err(_) => "unreadable".to_owned(),
    }
}

/// The bits of an RSA key under 2048.
fn short_rsa(info: &SubjectPublicKeyInfoRef<'_>) -> Option<u32> {
    match rsa_bits(info) {
        Some(bits) if bits < 2048 => Some(bits),
        _ => None,
    }
}

/// A readable name for a signature algorithm; the OID where we know none.
pub(crate) fn algorithm_name(found: ObjectIdentifier) -> String {
    let name = match found {
        oid::ECDSA_SHA1 => "ecdsa-with-SHA1",
        oid::ECDSA_SHA256 => "ecdsa-with-SHA256",
        oid::ECDSA_SHA384 => "ecdsa-with-SHA384",
        oid::ECDSA_SHA512 => "ecdsa-with-SHA512",
        oid::RSA_SHA1 => "sha1WithRSAEncryption",
        oid::RSA_SHA256 => "sha256WithRSAEncryption",
        oid::RSA_SHA384 => "sha384WithRSAEncryption",
        oid::RSA_SHA512 => "sha512WithRSAEncryption",
        oid::RSA_PSS => "rsassaPss",
        oid::ED25519 => "Ed25519",
        other => return other.to_string(),
    };
    name.to_owned()
}

/// RSASSA-PSS-params (RFC 4055 section 3.1), the hash only; absent means SHA-1.
#[derive(Sequence)]
struct PssParameters<'a> {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    hash: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    mask: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    salt: Option<u32>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    trailer: Option<u32>,
}

fn pss_hash(algorithm: &AlgorithmIdentifierRef<'_>) -> Result<ObjectIdentifier, Error> {
    algorithm
        .parameters
        .and_then(|parameters| parameters.decode_as::<PssParameters<'_>>().ok())
        .and_then(|parameters| parameters.hash)
        .map(|hash| hash.oid)
        .ok_or_else(|| Error::UnsupportedSignature {
            algorithm: "RSASSA-PSS with SHA-1".to_owned(),
        })
}
