//! Public keys: SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7).

use aws_lc_rs::signature as alg;
use der::Decode;
use spki::SubjectPublicKeyInfoRef;

use crate::key::KeyAlgorithm;
use crate::{Error, oid};

/// DER of a BIT STRING's content in a SubjectPublicKeyInfo: what key identifiers are made of.
pub(crate) fn public_key_bits(spki: &[u8]) -> Result<Vec<u8>, Error> {
    let info = SubjectPublicKeyInfoRef::from_der(spki)
        .map_err(|error| Error::malformed("public key", error))?;
    Ok(info.subject_public_key.raw_bytes().to_vec())
}

/// The algorithm of a SubjectPublicKeyInfo, for reports; `None` for kinds we cannot name.
pub fn public_key_algorithm(spki: &[u8]) -> Option<KeyAlgorithm> {
    let info = SubjectPublicKeyInfoRef::from_der(spki).ok()?;
    match info.algorithm.oid {
        oid::ED25519 => Some(KeyAlgorithm::Ed25519),
        oid::EC_PUBLIC_KEY => match info.algorithm.parameters_oid().ok()? {
            oid::CURVE_P256 => Some(KeyAlgorithm::P256),
            oid::CURVE_P384 => Some(KeyAlgorithm::P384),
            oid::CURVE_P521 => Some(KeyAlgorithm::P521),
            _ => None,
        },
        oid::RSA_ENCRYPTION => rsa_bits(&info).map(KeyAlgorithm::Rsa),
        _ => None,
    }
}

/// The size of an RSA key's modulus; `None` for other keys.
pub(crate) fn rsa_bits(info: &SubjectPublicKeyInfoRef<'_>) -> Option<u32> {
    if info.algorithm.oid != oid::RSA_ENCRYPTION {
        return None;
    }
    let key = RsaPublicKey::from_der(info.subject_public_key.raw_bytes()).ok()?;
    let octets = key.modulus.as_bytes();
    let leading = octets.first().map_or(0, |byte| byte.leading_zeros());
    u32::try_from(octets.len() * 8).ok()?.checked_sub(leading)
}

/// Refuses the SubjectPublicKeyInfo that Go's `crypto/x509` refuses to read: a wrong form of a
/// known kind. Unknown kinds pass; they can sign nothing.
///
/// # Errors
///
/// [`Error::Malformed`].
pub(crate) fn check_public_key(spki: &[u8]) -> Result<(), Error> {
    let bad = |detail: &'static str| Err(Error::malformed("public key", detail));
    let info = SubjectPublicKeyInfoRef::from_der(spki)
        .map_err(|error| Error::malformed("public key", error))?;
    oid::checked(info.algorithm.oid).map_err(|error| Error::malformed("public key", error))?;
    let Some(bits) = info.subject_public_key.as_bytes() else {
        return bad("not whole octets");
    };
    let parameters = info.algorithm.parameters;
    match info.algorithm.oid {
        oid::RSA_ENCRYPTION if !parameters.is_some_and(|any| any.is_null()) => {
            bad("RSA without NULL parameters")
        }
        oid::RSA_ENCRYPTION => match RsaPublicKey::from_der(bits) {
            Ok(key) if key.modulus.as_bytes() != [0] && key.exponent.as_bytes() != [0] => Ok(()),
            _ => bad("not an RSA key"),
        },
        oid::EC_PUBLIC_KEY => {
            let curve: &alg::EcdsaVerificationAlgorithm = match info.algorithm.parameters_oid() {
                // aws-lc has no signatures on this one; its form will do.
                Ok(oid::CURVE_P224) if matches!(bits, [4, point @ ..] if point.len() == 56) => {
                    return Ok(());
                }
                Ok(oid::CURVE_P256) => &alg::ECDSA_P256_SHA256_ASN1,
                Ok(oid::CURVE_P384) => &alg::ECDSA_P384_SHA384_ASN1,
                Ok(oid::CURVE_P521) => &alg::ECDSA_P521_SHA512_ASN1,
                _ => return bad("not on a named curve of NIST"),
            };
            match alg::ParsedPublicKey::new(curve, bits) {
                Ok(_) if bits.first() == Some(&4) => Ok(()),
                _ => bad("not an uncompressed point of its curve"),
            }
        }
        oid::ED25519 if parameters.is_some() || bits.len() != 32 => bad("not an Ed25519 key"),
        _ => Ok(()),
    }
}

/// RFC 8017 appendix A.1.1.
#[derive(der::Sequence)]
struct RsaPublicKey<'a> {
    modulus: der::asn1::UintRef<'a>,
    exponent: der::asn1::UintRef<'a>,
}
