//! Private keys: read in every form that Kubernetes components accept, written as K3s writes.

use core::fmt;
use core::str::FromStr;

use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use der::asn1::OctetStringRef;
use der::{Decode, Encode, Tag};
use pkcs8::pkcs5::pbes2::Parameters;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};
use zeroize::Zeroizing;

use crate::encode::{nest, write};
use crate::pem::{self, Block};
use crate::{Digest, Error, oid, random, sha256};

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

/// What OWASP asks of PBKDF2 with HMAC-SHA-256.
const PBKDF2_ROUNDS: u32 = 600_000;

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
        Self::on_some_curve(der, || {
            "an EC PRIVATE KEY that is damaged or on another curve".to_owned()
        })
    }

    /// A SEC1 or PKCS#8 key on any of the three curves; aws-lc wants to be told which.
    fn on_some_curve(der: &[u8], otherwise: impl FnOnce() -> String) -> Result<Self, Error> {
        CURVES
            .into_iter()
            .find_map(|(curve, name)| {
                let pair = EcdsaKeyPair::from_private_key_der(curve, der).ok()?;
                Some(Inner::Ecdsa(pair, name))
            })
            .ok_or_else(|| Error::UnsupportedKey {
                detail: otherwise(),
            })
            .and_then(Self::new)
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
        Self::on_some_curve(der, || {
            format!("PKCS#8 with algorithm {}", info.algorithm.oid)
        })
    }

    fn from_encrypted_pkcs8(der: &[u8], passphrase: Option<&[u8]>) -> Result<Self, Error> {
        let passphrase = passphrase.ok_or(Error::PassphraseNeeded)?;
        let encrypted = EncryptedPrivateKeyInfoRef::from_der(der)
            .map_err(|error| encryption_rejected(der, &error))?;
        let plain = encrypted
            .decrypt(passphrase)
            .map_err(|_| Error::WrongPassphrase)?;
        Self::from_pkcs8(plain.as_bytes())
    }

    fn new(inner: Inner) -> Result<Self, Error> {
        let spki = match &inner {
            // The same as `as_der` writes, at a tenth of its cost.
            Inner::Ecdsa(pair, curve) => ec_spki(*curve, pair.public_key().as_ref())?,
            Inner::Rsa(pair) => public_der(pair.public_key())?,
            Inner::Ed25519(pair) => public_der(pair.public_key())?,
        };
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

    /// The key as PKCS#8 encrypted with `passphrase` (PBES2, RFC 8018): AES-256-CBC under
    /// PBKDF2 with HMAC-SHA-256, which OpenSSL, GnuTLS and Java read without options.
    ///
    /// Takes a good part of a second on purpose.
    ///
    /// # Errors
    ///
    /// [`Error::PassphraseNeeded`] when it is empty, [`Error::NoRandomness`], or
    /// [`Error::Crypto`].
    pub fn to_encrypted_pem(&self, passphrase: &[u8]) -> Result<Zeroizing<String>, Error> {
        if passphrase.is_empty() {
            return Err(Error::PassphraseNeeded);
        }
        let failed = || Error::Crypto {
            what: "encrypt a private key",
        };
        let plain = self.to_pkcs8().ok_or_else(failed)?;
        let (mut salt, mut iv) = ([0; 16], [0; 16]);
        random(&mut salt)?;
        random(&mut iv)?;
        let scheme = Parameters::generate_pbkdf2_sha256_aes256cbc(PBKDF2_ROUNDS, &salt, iv)
            .map_err(|_| failed())?;
        let secret = scheme.encrypt(passphrase, &plain).map_err(|_| failed())?;
        let info = EncryptedPrivateKeyInfoRef {
            encryption_algorithm: scheme.into(),
            encrypted_data: OctetStringRef::new(&secret).map_err(|_| failed())?,
        };
        let der = info.to_der().map_err(|_| failed())?;
        Ok(pem::encode("ENCRYPTED PRIVATE KEY", &der))
    }

    fn to_pkcs8(&self) -> Option<Zeroizing<Vec<u8>>> {
        Some(Zeroizing::new(match &self.inner {
            Inner::Ecdsa(pair, _) => pair.to_pkcs8v1().ok()?.as_ref().to_vec(),
            Inner::Rsa(pair) => AsDer::<Pkcs8V1Der<'_>>::as_der(pair)
                .ok()?
                .as_ref()
                .to_vec(),
            Inner::Ed25519(pair) => pair.to_pkcs8v1().ok()?.as_ref().to_vec(),
        }))
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

fn public_der(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Result<Vec<u8>, Error> {
    let der = key.as_der().map_err(|_| Error::Crypto {
        what: "encode a public key",
    })?;
    Ok(der.as_ref().to_vec())
}

/// SubjectPublicKeyInfo of a point on a named curve (RFC 5480 section 2).
fn ec_spki(curve: KeyAlgorithm, point: &[u8]) -> Result<Vec<u8>, Error> {
    let curve = match curve {
        KeyAlgorithm::P384 => oid::CURVE_P384,
        KeyAlgorithm::P521 => oid::CURVE_P521,
        _ => oid::CURVE_P256,
    };
    let mut spki = Vec::with_capacity(160);
    nest(&mut spki, Tag::Sequence, |spki| {
        nest(spki, Tag::Sequence, |algorithm| {
            for id in [oid::EC_PUBLIC_KEY, curve] {
                write(algorithm, Tag::ObjectIdentifier, &[id.as_bytes()])?;
            }
            Ok(())
        })?;
        write(spki, Tag::BitString, &[&[0], point])
    })?;
    Ok(spki)
}

/// `openssl req` still encrypts new keys with triple DES unless told otherwise.
fn encryption_rejected(der: &[u8], rejected: &impl fmt::Display) -> Error {
    // The OBJECT IDENTIFIER des-EDE3-CBC (RFC 8018 appendix B.2.2).
    const TRIPLE_DES: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 3, 7];
    let what = "encrypted PKCS#8 private key";
    match der.windows(TRIPLE_DES.len()).any(|it| it == TRIPLE_DES) {
        true => Error::malformed(
            what,
            "triple DES is not supported; `openssl pkcs8 -topk8 -in OLD -out NEW` encrypts it anew",
        ),
        false => Error::malformed(what, rejected),
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
