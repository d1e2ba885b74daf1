//! Certificate requests (RFC 2986).

use const_oid::ObjectIdentifier;
use der::asn1::{AnyRef, BitStringRef};
use der::{Decode, Reader, SliceReader, Tag};

use crate::encode::{ExtensionWriter, context, element, nest, write};
use crate::extension::Extensions;
use crate::issue::AUTHORITY_USAGE;
use crate::key::PrivateKey;
use crate::public_key::public_key_bits;
use crate::{BasicConstraints, Digest, Error, Name, Purpose, San, oid, pem, sha1, sha256};

/// A PKCS#10 request whose own signature has been checked: whoever made it holds the key.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    der: Vec<u8>,
    subject: Name,
    spki: Vec<u8>,
    extensions: Extensions,
}

impl CertificateRequest {
    /// Reads a request and checks its self-signature.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`]; [`Error::BadSignature`] when the sender does not hold the key.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let parts = Parts::read(der)?;
        crate::signature::verify(parts.spki, parts.algorithm, parts.info, parts.signature)?;
        Ok(Self {
            der: der.to_vec(),
            subject: Name::from_der(parts.subject)?,
            spki: parts.spki.to_vec(),
            extensions: parts
                .requested
                .map(|value| Extensions::from_der(&value))
                .transpose()?
                .unwrap_or_default(),
        })
    }

    /// The key that a request names (SubjectPublicKeyInfo), with nothing checked: who sent it
    /// need not hold the key. K3s signs on no more than this.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`].
    pub fn unverified_key(der: &[u8]) -> Result<Vec<u8>, Error> {
        Parts::read(der).map(|parts| parts.spki.to_vec())
    }

    /// The first request of a PEM text (`CERTIFICATE REQUEST`, or `NEW CERTIFICATE REQUEST` as
    /// older tools write it).
    ///
    /// # Errors
    ///
    /// As [`Self::from_der`], or [`Error::NoPemBlock`].
    pub fn from_pem(text: &[u8]) -> Result<Self, Error> {
        pem::blocks(text)
            .iter()
            .find(|block| block.label.ends_with("CERTIFICATE REQUEST"))
            .ok_or(Error::NoPemBlock {
                expected: "CERTIFICATE REQUEST",
            })
            .and_then(|block| Self::from_der(&block.der))
    }

    /// Makes a request for `key`.
    ///
    /// # Errors
    ///
    /// When a name cannot be encoded or the key cannot sign.
    pub fn new(subject: &Name, sans: &[San], key: &PrivateKey) -> Result<Self, Error> {
        let mut extensions = ExtensionWriter::default();
        if !sans.is_empty() {
            extensions.sans(sans)?;
        }
        Self::with(subject, &extensions, key)
    }

    /// Makes a request that says, after the names, what the certificate is for: not critical, and
    /// without key usage, as RKE asks (`pki/util.go`).
    ///
    /// # Errors
    ///
    /// As [`Self::new`], and [`Error::Malformed`] for a purpose that is no OID.
    pub fn with_purposes(
        subject: &Name,
        sans: &[San],
        purposes: &[Purpose],
        key: &PrivateKey,
    ) -> Result<Self, Error> {
        let mut extensions = ExtensionWriter::default();
        if !sans.is_empty() {
            extensions.sans(sans)?;
        }
        if !purposes.is_empty() {
            extensions.purposes(purposes)?;
        }
        Self::with(subject, &extensions, key)
    }

    /// Makes a request for a CA's certificate: it asks for basic constraints, key usage and
    /// subject key identifier as [`crate::Authority::issue_authority`] gives them.
    ///
    /// # Errors
    ///
    /// When the key cannot sign.
    pub fn for_authority(subject: &Name, key: &PrivateKey) -> Result<Self, Error> {
        let mut extensions = ExtensionWriter::default();
        extensions.key_usage(AUTHORITY_USAGE)?;
        extensions.basic_constraints(BasicConstraints {
            ca: true,
            path_len: None,
        })?;
        extensions.subject_key_identifier(&sha1(&public_key_bits(key.spki_der())?))?;
        Self::with(subject, &extensions, key)
    }

    fn with(subject: &Name, extensions: &ExtensionWriter, key: &PrivateKey) -> Result<Self, Error> {
        let mut info = Vec::with_capacity(512);
        nest(&mut info, Tag::Sequence, |info| {
            for part in [VERSION_1, subject.der(), key.spki_der()] {
                info.extend_from_slice(part);
            }
            nest(info, context(0, true), |attributes| {
                if extensions.der.is_empty() {
                    return Ok(());
                }
                nest(attributes, Tag::Sequence, |attribute| {
                    let id = oid::EXTENSION_REQUEST.as_bytes();
                    write(attribute, Tag::ObjectIdentifier, &[id])?;
                    nest(attribute, Tag::Set, |values| {
                        write(values, Tag::Sequence, &[&extensions.der])
                    })
                })
            })
        })?;
        let bits = element(Tag::BitString, &[&[0], &key.sign(&info)?])?;
        let der = element(Tag::Sequence, &[&info, key.signature_algorithm(), &bits])?;
        Self::from_der(&der)
    }

    /// The exact bytes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Canonical PEM.
    pub fn to_pem(&self) -> String {
        pem::encode_public("CERTIFICATE REQUEST", &self.der)
    }

    /// Who asks; K3s's agents leave it empty.
    pub fn subject(&self) -> &Name {
        &self.subject
    }

    /// The names asked for.
    pub fn sans(&self) -> &[San] {
        &self.extensions.sans
    }

    /// What the certificate shall be for (extended key usage), in order.
    pub fn purposes(&self) -> &[Purpose] {
        &self.extensions.purposes
    }

    /// The key, a SubjectPublicKeyInfo.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of [`Self::spki_der`].
    pub fn spki_sha256(&self) -> Digest {
        sha256(&self.spki)
    }
}

/// A request taken apart, nothing checked.
struct Parts<'a> {
    info: &'a [u8],
    subject: &'a [u8],
    spki: &'a [u8],
    requested: Option<Vec<u8>>,
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(der: &'a [u8]) -> Result<Self, Error> {
        let bad = |error: der::Error| Error::malformed("certificate request", error);
        let mut outer = SliceReader::new(der).map_err(bad)?;
        let (info, algorithm, signature) = outer
            .sequence(|fields| {
                let info = fields.tlv_bytes()?;
                let algorithm = fields.tlv_bytes()?;
                let signature = BitStringRef::decode(fields)?;
                let octets = signature.as_bytes().ok_or(Tag::BitString.value_error())?;
                Ok::<_, der::Error>((info, algorithm, octets))
            })
            .map_err(bad)?;
        outer.finish().map_err(bad)?;

        let mut reader = SliceReader::new(info).map_err(bad)?;
        let (subject, spki, requested) = reader
            .sequence(|fields| {
                u8::decode(fields)?;
                let subject = fields.tlv_bytes()?;
                let spki = fields.tlv_bytes()?;
                let attributes = if fields.is_finished() {
                    None
                } else {
                    requested_extensions(AnyRef::decode(fields)?)?
                };
                Ok::<_, der::Error>((subject, spki, attributes))
            })
            .map_err(bad)?;
        Ok(Self {
            info,
            subject,
            spki,
            requested,
            algorithm,
            signature,
        })
    }
}

/// DER of the extension list in the `extensionRequest` attribute (RFC 2985 section 5.4.2).
fn requested_extensions(attributes: AnyRef<'_>) -> Result<Option<Vec<u8>>, der::Error> {
    let mut reader = SliceReader::new(attributes.value())?;
    while !reader.is_finished() {
        let found = reader.sequence(|attribute| {
            let id = ObjectIdentifier::decode(attribute)?;
            let values = AnyRef::decode(attribute)?;
            Ok::<_, der::Error>((id == oid::EXTENSION_REQUEST).then(|| values.value().to_vec()))
        })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// `INTEGER 0`: the only version there is.
const VERSION_1: &[u8] = &[2, 1, 0];
