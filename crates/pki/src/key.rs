//! Private keys: read in every form that Kubernetes components accept, written as K3s writes.

use core::fmt;
use core::str::FromStr;

use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature as alg;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use der::Decode;
use der::asn1::OctetStringRef;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};
use zeroize::Zeroizing;

use crate::pem::{self, Block};
use crate::{Digest, Error, oid, sha256};

/// The kind and size of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// ECDSA on NIST P-256, K3s's choice for everything but service-account keys.
    P256,
    /// ECDSA on NIST P-384.
    P384,
    /// ECDSA on NIST P-521.
    P521,
    /// RSA with a modulus of that many bits.
    Rsa(u32),
    /// Ed25519 (RFC 8032).
    Ed25519,
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::P256 => f.write_str("p256"),
            Self::P384 => f.write_str("p384"),
            Self::P521 => f.write_str("p521"),
            Self::Rsa(bits) => write!(f, "rsa{bits}"),
            Self::Ed25519 => f.write_str("ed25519"),
        }
    }
}

impl FromStr for KeyAlgorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "p256" => Ok(Self::P256),
            "p384" => Ok(Self::P384),
            "p521" => Ok(Self::P521),
            "ed25519" => Ok(Self::Ed25519),
            _ => text
                .strip_prefix("rsa")
                .and_then(|bits| bits.parse().ok())
                .map(Self::Rsa)
                .ok_or_else(|| Error::UnsupportedKey {
                    detail: format!("{text:?}"),
                }),
        }
    }
}

/// A private key that can sign. It has no `Debug` and is never serialised by accident.
pub struct PrivateKey {
    inner: Inner,
    spki: Vec<u8>,
}

enum Inner {
    Ecdsa(EcdsaKeyPair, KeyAlgorithm),
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

const CURVES: [(&EcdsaSigningAlgorithm, KeyAlgorithm); 3] = [
    (&ECDSA_P256_SHA256_ASN1_SIGNING, KeyAlgorithm::P256),
    (&ECDSA_P384_SHA384_ASN1_SIGNING, KeyAlgorithm::P384),
    (&ECDSA_P521_SHA512_ASN1_SIGNING, KeyAlgorithm::P521),
];

impl PrivateKey {
    /// Makes a new key.
    ///
    /// # Errors
    ///
    /// [`Error::UnsupportedKey`] for an RSA size other than 2048, 3072, 4096 and 8192 bits.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, Error> {
        use aws_lc_rs::rsa::KeySize;

        let failed = |_| Error::Crypto {
            what: "generate a key",
        };
        let inner = match algorithm {
            KeyAlgorithm::Rsa(bits) => {
                let size = match bits {
                    2048 => KeySize::Rsa2048,
                    3072 => KeySize::Rsa3072,
                    4096 => KeySize::Rsa4096,
                    8192 => KeySize::Rsa8192,
                    _ => {
                        return Err(Error::UnsupportedKey {
                            detail: format!("RSA of {bits} bits cannot be generated"),
                        });
                    }
                };
                Inner::Rsa(RsaKeyPair::generate(size).map_err(failed)?)
            }
            KeyAlgorithm::Ed25519 => Inner::Ed25519(Ed25519KeyPair::generate().map_err(failed)?),
            KeyAlgorithm::P256 | KeyAlgorithm::P384 | KeyAlgorithm::P521 => {
                let (curve, _) = CURVES
                    .into_iter()
                    .find(|(_, named)| *named == algorithm)
                    .ok_or(Error::Crypto {
                        what: "find the curve",
                    })?;
                Inner::Ecdsa(EcdsaKeyPair::generate(curve).map_err(failed)?, algorithm)
            }
        };
        Self::new(inner)
    }

    /// The first key in `text` that can be read: SEC1, PKCS#1 or unencrypted PKCS#8.
    ///
    /// Other blocks are skipped, `EC PARAMETERS` in front too, as K3s does
    /// (dynamiclistener `cert/pem.go`).
    ///
    /// # Errors
    ///
    /// What is wrong with the first key block, or [`Error::NoPemBlock`].
    pub fn from_pem(text: &[u8]) -> Result<Self, Error> {
        let mut first_error = None;
        for block in pem::blocks(text) {
            match Self::from_block(&block, None) {
                Some(Ok(key)) => return Ok(key),
                Some(Err(error)) => first_error = first_error.or(Some(error)),
                None => {}
            }
        }
        Err(first_error.unwrap_or(Error::NoPemBlock {
            expected: "PRIVATE KEY",
        }))
    }

    /// Every private key in `text`, in order. `service.key` holds several: the first signs.
    ///
    /// # Errors
    ///
    /// When a key block cannot be read, or [`Error::NoPemBlock`] when there is none.
    pub fn all_from_pem(text: &[u8]) -> Result<Vec<Self>, Error> {
        let keys: Vec<Self> = pem::blocks(text)
            .iter()
            .filter_map(|block| Self::from_block(block, None))
            .collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(Error::NoPemBlock {
                expected: "PRIVATE KEY",
            });
        }
        Ok(keys)
    }

    /// The first key in `text`, PBES2-encrypted PKCS#8 (RFC 8018) among the accepted forms.
    ///
    /// # Errors
    ///
    /// [`Error::WrongPassphrase`], or as [`PrivateKey::from_pem`].
    pub fn from_encrypted_pem(text: &[u8], passphrase: &[u8]) -> Result<Self, Error> {
        pem::blocks(text)
            .iter()
            .find_map(|block| Self::from_block(block, Some(passphrase)))
            .unwrap_or(Err(Error::NoPemBlock {
                expected: "PRIVATE KEY",
            }))
    }

    /// `None` when the block is not a private key.
    fn from_block(block: &Block, passphrase: Option<&[u8]>) -> Option<Result<Self, Error>> {
        if !block.label.ends_with("PRIVATE KEY") {
            return None;
        }
        if block
            .headers
            .iter()
            .any(|header| header.starts_with("DEK-Info"))
        {
            return Some(Err(Error::LegacyEncryptedKey));
        }
        Some(match block.label.as_str() {
            "EC PRIVATE KEY" => Self::from_sec1(&block.der),
            "RSA PRIVATE KEY" => Self::from_pkcs1(&block.der),
            "PRIVATE KEY" => Self::from_pkcs8(&block.der),
            "ENCRYPTED PRIVATE KEY" => Self::from_encrypted_pkcs8(&block.der, passphrase),
            other => Err(Error::UnsupportedKey {
                detail: format!("PEM label {other:?}"),
            }),
        })
    }

    fn from_sec1(der: &[u8]) -> Result<Self, Error> {
        CURVES
            .into_iter()
            .find_map(|(curve, name)| {
                EcdsaKeyPair::from_private_key_der(curve, der)
                    .ok()
                    .map(|pair| (pair, name))
            })
            .ok_or_else(|| Error::UnsupportedKey {
                detail: "an EC PRIVATE KEY that is damaged or on another curve".to_owned(),
            })
            .and_then(|(pair, name)| Self::new(Inner::Ecdsa(pair, name)))
    }

    fn from_pkcs1(der: &[u8]) -> Result<Self, Error> {
        match RsaKeyPair::from_der(der) {
            Ok(pair) => Self::new(Inner::Rsa(pair)),
            Err(rejected) => Err(rsa_rejected(der, &rejected)),
        }
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, Error> {
        let info = PrivateKeyInfoRef::from_der(der)
            .map_err(|error| Error::malformed("PKCS#8 private key", error))?;
        if info.algorithm.oid == oid::RSA_ENCRYPTION {
            return Self::from_pkcs1(info.private_key.as_bytes());
        }
        if info.algorithm.oid == oid::ED25519 {
            // PKCS#8 of Ed25519 comes with and without the public half (RFC 8410).
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|error| {
                Error::UnsupportedKey {
                    detail: format!("Ed25519 key rejected: {error}"),
                }
            })?;
            return Self::new(Inner::Ed25519(pair));
        }
        CURVES
            .into_iter()
            .find_map(|(curve, name)| {
                EcdsaKeyPair::from_private_key_der(curve, der)
                    .ok()
                    .map(|pair| (pair, name))
            })
            .ok_or_else(|| Error::UnsupportedKey {
                detail: format!("PKCS#8 with algorithm {}", info.algorithm.oid),
            })
            .and_then(|(pair, name)| Self::new(Inner::Ecdsa(pair, name)))
    }

    fn from_encrypted_pkcs8(der: &[u8], passphrase: Option<&[u8]>) -> Result<Self, Error> {
        let passphrase = passphrase.ok_or(Error::PassphraseNeeded)?;
        let encrypted = EncryptedPrivateKeyInfoRef::from_der(der)
            .map_err(|error| Error::malformed("encrypted PKCS#8 private key", error))?;
        let plain = encrypted
            .decrypt(passphrase)
            .map_err(|_| Error::WrongPassphrase)?;
        Self::from_pkcs8(plain.as_bytes())
    }

    fn new(inner: Inner) -> Result<Self, Error> {
        let failed = |_| Error::Crypto {
            what: "encode a public key",
        };
        let spki: PublicKeyX509Der<'_> = match &inner {
            Inner::Ecdsa(pair, _) => pair.public_key().as_der(),
            Inner::Rsa(pair) => pair.public_key().as_der(),
            Inner::Ed25519(pair) => pair.public_key().as_der(),
        }
        .map_err(failed)?;
        let spki = spki.as_ref().to_vec();
        Ok(Self { inner, spki })
    }

    /// The key in the form K3s writes: SEC1 for EC, PKCS#1 for RSA, PKCS#8 for Ed25519.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`] if the library cannot encode its own key.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, Error> {
        let failed = |_| Error::Crypto {
            what: "encode a private key",
        };
        match &self.inner {
            Inner::Ecdsa(pair, _) => {
                let der: EcPrivateKeyRfc5915Der<'_> =
                    pair.private_key().as_der().map_err(failed)?;
                Ok(pem::encode("EC PRIVATE KEY", der.as_ref()))
            }
            Inner::Rsa(pair) => {
                let pkcs8: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
                let info = PrivateKeyInfoRef::from_der(pkcs8.as_ref())
                    .map_err(|error| Error::malformed("PKCS#8 private key", error))?;
                let pkcs1: &OctetStringRef = info.private_key;
                Ok(pem::encode("RSA PRIVATE KEY", pkcs1.as_bytes()))
            }
            Inner::Ed25519(pair) => {
                let pkcs8: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
                Ok(pem::encode("PRIVATE KEY", pkcs8.as_ref()))
            }
        }
    }

    /// The SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7), DER.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of [`Self::spki_der`]: how plans and journals name a key.
    pub fn spki_sha256(&self) -> Digest {
        sha256(&self.spki)
    }

    /// Kind and size.
    pub fn algorithm(&self) -> KeyAlgorithm {
        match &self.inner {
            Inner::Ecdsa(_, curve) => *curve,
            Inner::Rsa(pair) => {
                KeyAlgorithm::Rsa(u32::try_from(pair.public_modulus_len() * 8).unwrap_or(u32::MAX))
            }
            Inner::Ed25519(_) => KeyAlgorithm::Ed25519,
        }
    }

    /// Signs `message` with the algorithm that Go chooses for this key: ECDSA with the curve's
    /// SHA-2, RSA PKCS#1 v1.5 with SHA-256, Ed25519.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = |_| Error::Crypto { what: "sign" };
        let rng = SystemRandom::new();
        match &self.inner {
            Inner::Ecdsa(pair, _) => pair
                .sign(&rng, message)
                .map(|s| s.as_ref().to_vec())
                .map_err(failed),
            Inner::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &rng, message, &mut signature)
                    .map_err(failed)?;
                Ok(signature)
            }
            Inner::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }

    /// DER of the AlgorithmIdentifier that [`Self::sign`] uses.
    pub(crate) fn signature_algorithm(&self) -> &'static [u8] {
        match self.algorithm() {
            KeyAlgorithm::P256 => oid::ALGORITHM_ECDSA_SHA256,
            KeyAlgorithm::P384 => oid::ALGORITHM_ECDSA_SHA384,
            KeyAlgorithm::P521 => oid::ALGORITHM_ECDSA_SHA512,
            KeyAlgorithm::Rsa(_) => oid::ALGORITHM_RSA_SHA256,
            KeyAlgorithm::Ed25519 => oid::ALGORITHM_ED25519,
        }
    }
}

/// aws-lc refuses moduli under 2048 bits; everything else it refuses is damage.
fn rsa_rejected(der: &[u8], rejected: &impl fmt::Display) -> Error {
    struct Pkcs1Head {
        modulus_bits: usize,
    }
    fn head(der: &[u8]) -> Option<Pkcs1Head> {
        use der::{Reader, SliceReader, asn1::UintRef};
        let mut reader = SliceReader::new(der).ok()?;
        let header = der::Header::decode(&mut reader).ok()?;
        (header.tag() == der::Tag::Sequence).then_some(())?;
        let _version = reader.decode::<UintRef<'_>>().ok()?;
        let modulus = reader.decode::<UintRef<'_>>().ok()?;
        Some(Pkcs1Head {
            modulus_bits: modulus.as_bytes().len() * 8,
        })
    }
    match head(der) {
        Some(Pkcs1Head { modulus_bits }) if modulus_bits < 2048 => {
            Error::KeyTooSmall { bits: modulus_bits }
        }
        _ => Error::UnsupportedKey {
            detail: format!("RSA PRIVATE KEY rejected: {rejected}"),
        },
    }
}

/// DER of a BIT STRING's content in a SubjectPublicKeyInfo: what key identifiers are made of.
pub(crate) fn public_key_bits(spki: &[u8]) -> Result<Vec<u8>, Error> {
    let info = spki::SubjectPublicKeyInfoRef::from_der(spki)
        .map_err(|error| Error::malformed("public key", error))?;
    Ok(info.subject_public_key.raw_bytes().to_vec())
}

/// The algorithm of a SubjectPublicKeyInfo, for reports; `None` for kinds we cannot name.
pub fn public_key_algorithm(spki: &[u8]) -> Option<KeyAlgorithm> {
    let info = spki::SubjectPublicKeyInfoRef::from_der(spki).ok()?;
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
pub(crate) fn rsa_bits(info: &spki::SubjectPublicKeyInfoRef<'_>) -> Option<u32> {
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
    let info = spki::SubjectPublicKeyInfoRef::from_der(spki)
        .map_err(|error| Error::malformed("public key", error))?;
    oid::shortest(info.algorithm.oid).map_err(|error| Error::malformed("public key", error))?;
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
