//! Certificates as they are: parsed facts beside the exact bytes.

use core::fmt;

use der::asn1::{AnyRef, BitStringRef};
use der::{Decode, Reader, SliceReader, Tag, TagNumber, Tagged};
use spki::AlgorithmIdentifierRef;

use crate::extension::Extensions;
use crate::public_key::check_public_key;
use crate::{
    BasicConstraints, Digest, Error, KeyUsage, Name, NameConstraints, Purpose, San, Serial,
    UnixTime, Validity, oid, pem, sha256,
};

/// An X.509 certificate (RFC 5280 section 4.1).
///
/// Reading accepts what Go's `crypto/x509` accepts and Kubernetes therefore runs with: serial
/// number zero, missing extensions, any extension order. The bytes are kept, so writing a
/// certificate back never changes it.
#[derive(Clone)]
pub struct Certificate {
    pub(crate) der: Vec<u8>,
    pub(crate) tbs: core::ops::Range<usize>,
    pub(crate) version: u8,
    pub(crate) serial: Serial,
    pub(crate) signature_algorithm: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    pub(crate) issuer: Name,
    pub(crate) subject: Name,
    pub(crate) validity: Validity,
    pub(crate) spki: Vec<u8>,
    pub(crate) extensions: Extensions,
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({}, serial {})", self.subject, self.serial)
    }
}

impl Certificate {
    /// Reads one certificate.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] with what is wrong.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let bad = |error: der::Error| Error::malformed("certificate", error);
        let whole = AnyRef::from_der(der).map_err(bad)?;
        whole.tag().assert_eq(Tag::Sequence).map_err(bad)?;
        let mut outer = SliceReader::new(whole.value()).map_err(bad)?;
        let tbs_der = outer.tlv_bytes().map_err(bad)?;
        let algorithm = outer.tlv_bytes().map_err(bad)?;
        let signature = BitStringRef::decode(&mut outer).map_err(bad)?;
        outer.finish().map_err(bad)?;
        let signature = signature
            .as_bytes()
            .ok_or_else(|| Error::malformed("certificate", "signature is not whole octets"))?;
        let fields = TbsFields::from_der(tbs_der)?;
        if fields.algorithm != algorithm {
            return Err(Error::malformed(
                "certificate",
                "inner and outer signature algorithms differ",
            ));
        }
        AlgorithmIdentifierRef::from_der(algorithm)
            .and_then(|algorithm| oid::checked(algorithm.oid))
            .map_err(|error| Error::malformed("signature algorithm", error))?;
        // The TBS is the first element, so it begins right after the outer header.
        let start = der.len() - whole.value().len();
        Ok(Self {
            der: der.to_vec(),
            tbs: start..start + tbs_der.len(),
            version: fields.version,
            serial: fields.serial,
            signature_algorithm: algorithm.to_vec(),
            signature: signature.to_vec(),
            issuer: fields.issuer,
            subject: fields.subject,
            validity: fields.validity,
            spki: fields.spki,
            extensions: fields.extensions,
        })
    }

    /// Every certificate of a PEM text, in order; other blocks, and `CERTIFICATE` blocks with
    /// headers, are skipped as dynamiclistener and client-go do.
    ///
    /// # Errors
    ///
    /// When a certificate block does not parse, or [`Error::NoPemBlock`] when there is none.
    pub fn all_from_pem(text: &[u8]) -> Result<Vec<Self>, Error> {
        let certificates: Vec<Self> = pem::blocks(text)
            .iter()
            .filter(|block| block.label == "CERTIFICATE" && block.headers.is_empty())
            .map(|block| Self::from_der(&block.der))
            .collect::<Result<_, _>>()?;
        if certificates.is_empty() {
            return Err(Error::NoPemBlock {
                expected: "CERTIFICATE",
            });
        }
        Ok(certificates)
    }

    /// Canonical PEM with the final LF.
    pub fn to_pem(&self) -> String {
        pem::encode_public("CERTIFICATE", &self.der)
    }

    /// The exact bytes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The to-be-signed part (section 4.1.1.1).
    pub fn tbs_der(&self) -> &[u8] {
        self.der.get(self.tbs.clone()).unwrap_or_default()
    }

    /// Whose it is.
    pub fn subject(&self) -> &Name {
        &self.subject
    }

    /// Who signed it.
    pub fn issuer(&self) -> &Name {
        &self.issuer
    }

    /// Its number at that issuer.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// From when to when.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Subject alternative names, in order.
    pub fn sans(&self) -> &[San] {
        &self.extensions.sans
    }

    /// Extended key usage, in order; empty when the extension is absent.
    pub fn purposes(&self) -> &[Purpose] {
        &self.extensions.purposes
    }

    /// Key usage, if the extension is there.
    pub fn key_usage(&self) -> Option<KeyUsage> {
        self.extensions.key_usage
    }

    /// Basic constraints, if the extension is there.
    pub fn basic_constraints(&self) -> Option<BasicConstraints> {
        self.extensions.basic_constraints
    }

    /// Whether it says that it is a CA.
    pub fn is_ca(&self) -> bool {
        self.extensions
            .basic_constraints
            .is_some_and(|constraints| constraints.ca)
    }

    /// Name constraints, if the extension is there.
    pub fn name_constraints(&self) -> Option<&NameConstraints> {
        self.extensions.name_constraints.as_ref()
    }

    /// Critical extensions that this library does not evaluate, as OIDs.
    pub fn unknown_critical(&self) -> &[String] {
        &self.extensions.unknown_critical
    }

    /// Whether there is a subject alternative name extension, even an empty one.
    pub fn has_sans(&self) -> bool {
        self.extensions.sans_der.is_some()
    }

    /// The content of the subject alternative name extension: a GeneralNames SEQUENCE.
    pub fn sans_der(&self) -> Option<&[u8]> {
        self.extensions.sans_der.as_deref()
    }

    /// 1, 2 or 3; extensions exist in version 3 only.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// The subject key identifier's octets, opaque.
    pub fn subject_key_identifier(&self) -> Option<&[u8]> {
        self.extensions.subject_key_identifier.as_deref()
    }

    /// The authority key identifier's octets, opaque.
    pub fn authority_key_identifier(&self) -> Option<&[u8]> {
        self.extensions.authority_key_identifier.as_deref()
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of [`Self::spki_der`].
    pub fn spki_sha256(&self) -> Digest {
        sha256(&self.spki)
    }

    /// SHA-256 of the whole certificate.
    pub fn fingerprint(&self) -> Digest {
        sha256(&self.der)
    }

    /// Whether subject and issuer are the same name, octet for octet (section 3.2).
    pub fn is_self_issued(&self) -> bool {
        self.subject.der() == self.issuer.der()
    }

    /// Whether it was signed with its own key: [`Self::is_self_issued`] and the signature
    /// verifies.
    pub fn is_self_signed(&self) -> bool {
        self.is_self_issued() && self.verify_signature(&self.spki).is_ok()
    }

    /// DER of the signature's AlgorithmIdentifier.
    pub fn signature_algorithm_der(&self) -> &[u8] {
        &self.signature_algorithm
    }

    /// Name of the signature's algorithm: `ecdsa-with-SHA256`; the OID where there is none.
    pub fn signature_algorithm(&self) -> String {
        crate::signature::name_of(&self.signature_algorithm)
    }

    /// Checks that the key `issuer_spki` signed this certificate. Names, dates and usages are
    /// not looked at.
    ///
    /// # Errors
    ///
    /// [`Error::BadSignature`], or [`Error::UnsupportedSignature`] for SHA-1 and what is unknown.
    pub fn verify_signature(&self, issuer_spki: &[u8]) -> Result<(), Error> {
        crate::signature::verify(
            issuer_spki,
            &self.signature_algorithm,
            self.tbs_der(),
            &self.signature,
        )
    }
}

struct TbsFields<'a> {
    version: u8,
    serial: Serial,
    algorithm: &'a [u8],
    issuer: Name,
    subject: Name,
    validity: Validity,
    spki: Vec<u8>,
    extensions: Extensions,
}

impl<'a> TbsFields<'a> {
    fn from_der(der: &'a [u8]) -> Result<Self, Error> {
        let bad = |error: der::Error| Error::malformed("certificate", error);
        let tbs = AnyRef::from_der(der).map_err(bad)?;
        tbs.tag().assert_eq(Tag::Sequence).map_err(bad)?;
        let mut fields = SliceReader::new(tbs.value()).map_err(bad)?;
        let version = version(&mut fields).map_err(bad)?;
        if !(1..=3).contains(&version) {
            return Err(Error::malformed("certificate", "no such version"));
        }
        let serial = serial(AnyRef::decode(&mut fields).map_err(bad)?)?;
        let algorithm = fields.tlv_bytes().map_err(bad)?;
        let issuer = fields.tlv_bytes().map_err(bad)?;
        let times: (AnyRef<'_>, AnyRef<'_>) = fields
            .sequence(|period| Ok((AnyRef::decode(period)?, AnyRef::decode(period)?)))
            .map_err(bad)?;
        let subject = fields.tlv_bytes().map_err(bad)?;
        let spki = fields.tlv_bytes().map_err(bad)?;
        let mut extensions = None;
        let mut last = 0;
        while !fields.is_finished() {
            // Unique identifiers (tags 1 and 2) are obsolete; extensions belong to version 3.
            let field = AnyRef::decode(&mut fields).map_err(bad)?;
            match field.tag() {
                Tag::ContextSpecific {
                    number,
                    constructed,
                } if (last + 1..=3).contains(&number.value())
                    && constructed == (number.value() == 3) =>
                {
                    last = number.value();
                }
                tag => return Err(Error::malformed("certificate", format!("unexpected {tag}"))),
            }
            if last == 3 && version == 3 {
                extensions = Some(field.value());
            }
        }
        check_public_key(spki)?;
        Ok(Self {
            version,
            serial,
            algorithm,
            issuer: Name::from_der(issuer)?,
            subject: Name::from_der(subject)?,
            validity: Validity {
                not_before: time_of(times.0)?,
                not_after: time_of(times.1)?,
            },
            spki: spki.to_vec(),
            extensions: extensions
                .map(Extensions::from_der)
                .transpose()?
                .unwrap_or_default(),
        })
    }
}

/// The version as people count it; version 1 is left out in DER.
fn version(fields: &mut SliceReader<'_>) -> Result<u8, der::Error> {
    if !is_context(Tag::peek(fields)?, 0) {
        return Ok(1);
    }
    let number = AnyRef::decode(fields)?;
    Ok(u8::from_der(number.value())?.saturating_add(1))
}

/// A serial number; negative ones are refused, as in Go since 1.23. K3s's own CAs have zero.
fn serial(value: AnyRef<'_>) -> Result<Serial, Error> {
    let bad = |detail| Error::malformed("serial number", detail);
    match (value.tag(), value.value()) {
        (Tag::Integer, [] | [0, 0..=0x7f, ..]) => Err(bad("not the shortest form")),
        (Tag::Integer, [0x80..=0xff, ..]) => Err(bad("negative")),
        (Tag::Integer, octets) => Ok(Serial::from_octets(octets)),
        _ => Err(bad("not an INTEGER")),
    }
}

fn is_context(tag: Tag, wanted: u32) -> bool {
    matches!(tag, Tag::ContextSpecific { number: TagNumber(number), constructed: true } if number == wanted)
}

/// UTCTime (two digits of year, 1950 to 2049) or GeneralizedTime, both in whole seconds of UTC
/// (section 4.1.2.5).
fn time_of(value: AnyRef<'_>) -> Result<UnixTime, Error> {
    let text = core::str::from_utf8(value.value())
        .map_err(|_| Error::malformed("validity", "time is not ASCII"))?;
    let bad = || Error::malformed("validity", format!("{text:?} is not a time in UTC"));
    if text
        .bytes()
        .rev()
        .skip(1)
        .any(|byte| !byte.is_ascii_digit())
    {
        return Err(bad());
    }
    let (year, rest) = match value.tag() {
        Tag::UtcTime => {
            let (year, rest) = text.split_at_checked(2).ok_or_else(bad)?;
            let year: i64 = year.parse().map_err(|_| bad())?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        Tag::GeneralizedTime => {
            let (year, rest) = text.split_at_checked(4).ok_or_else(bad)?;
            (year.parse().map_err(|_| bad())?, rest)
        }
        _ => return Err(bad()),
    };
    let digits = rest.strip_suffix('Z').ok_or_else(bad)?;
    if digits.len() != 10 {
        return Err(bad());
    }
    let field = |index: usize| -> Result<i64, Error> {
        digits
            .get(index * 2..index * 2 + 2)
            .and_then(|t| t.parse().ok())
            .ok_or_else(bad)
    };
    let parts = [field(0)?, field(1)?, field(2)?, field(3)?, field(4)?];
    UnixTime::from_civil(year, parts).ok_or_else(bad)
}
