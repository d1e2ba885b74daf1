//! The extensions that decide what a certificate may be used for.

use core::fmt;

use const_oid::ObjectIdentifier;
use der::asn1::{AnyRef, BitStringRef, OctetStringRef};
use der::{Decode, Reader, SliceReader, Tag, TagNumber, Tagged};

use crate::{Error, San, oid};

/// What a key may be used for (RFC 5280 section 4.2.1.3), as the first two octets of the bits:
/// bit 0 of the standard is `0x8000`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyUsage(pub u16);

impl KeyUsage {
    /// `digitalSignature`.
    pub const DIGITAL_SIGNATURE: Self = Self(0x8000);
    /// `keyEncipherment`: RSA key exchange; without meaning for EC keys.
    pub const KEY_ENCIPHERMENT: Self = Self(0x2000);
    /// `keyCertSign`.
    pub const KEY_CERT_SIGN: Self = Self(0x0400);
    /// `cRLSign`.
    pub const CRL_SIGN: Self = Self(0x0200);

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every bit of `other` is set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The standard's names, first bit first.
const USAGE_NAMES: [&str; 9] = [
    "digitalSignature",
    "nonRepudiation",
    "keyEncipherment",
    "dataEncipherment",
    "keyAgreement",
    "keyCertSign",
    "cRLSign",
    "encipherOnly",
    "decipherOnly",
];

impl fmt::Display for KeyUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (bit, name) in USAGE_NAMES.iter().enumerate() {
            if self.0 & (0x8000 >> bit) != 0 {
                write!(f, "{separator}{name}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

impl fmt::Debug for KeyUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A purpose of extended key usage (RFC 5280 section 4.2.1.12).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// `serverAuth`.
    ServerAuth,
    /// `clientAuth`.
    ClientAuth,
    /// `anyExtendedKeyUsage`.
    Any,
    /// Any other, as a dotted OID.
    Other(String),
}

impl Purpose {
    fn from_oid(oid: ObjectIdentifier) -> Self {
        match oid {
            oid::SERVER_AUTH => Self::ServerAuth,
            oid::CLIENT_AUTH => Self::ClientAuth,
            oid::ANY_PURPOSE => Self::Any,
            other => Self::Other(other.to_string()),
        }
    }

    pub(crate) fn to_oid(&self) -> Result<ObjectIdentifier, Error> {
        match self {
            Self::ServerAuth => Ok(oid::SERVER_AUTH),
            Self::ClientAuth => Ok(oid::CLIENT_AUTH),
            Self::Any => Ok(oid::ANY_PURPOSE),
            Self::Other(text) => ObjectIdentifier::new(text)
                .map_err(|error| Error::malformed("extended key usage", error)),
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServerAuth => f.write_str("serverAuth"),
            Self::ClientAuth => f.write_str("clientAuth"),
            Self::Any => f.write_str("anyExtendedKeyUsage"),
            Self::Other(oid) => f.write_str(oid),
        }
    }
}

/// Whether a certificate is a CA, and how many CAs may follow below it (section 4.2.1.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BasicConstraints {
    /// `cA`.
    pub ca: bool,
    /// `pathLenConstraint`.
    pub path_len: Option<u32>,
}

/// Subtrees that limit the names below a CA (section 4.2.1.10).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameConstraints {
    /// If any of a kind is here, names of that kind must match one.
    pub permitted: Vec<Subtree>,
    /// Names that match one of these are refused.
    pub excluded: Vec<Subtree>,
}

/// One subtree of [`NameConstraints`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subtree {
    /// A DNS domain; a leading dot asks for at least one label more.
    Dns(String),
    /// Address and mask of equal length, 4 or 16 octets each.
    Ip(Vec<u8>, Vec<u8>),
    /// A mailbox, a host, or a domain with a leading dot.
    Email(String),
    /// A host or domain of URIs.
    Uri(String),
    /// A kind that is not evaluated.
    Unsupported(String),
}

/// Everything read from a certificate's extensions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extensions {
    pub(crate) subject_key_identifier: Option<Vec<u8>>,
    pub(crate) authority_key_identifier: Option<Vec<u8>>,
    pub(crate) key_usage: Option<KeyUsage>,
    pub(crate) basic_constraints: Option<BasicConstraints>,
    pub(crate) purposes: Vec<Purpose>,
    pub(crate) sans: Vec<San>,
    pub(crate) has_sans: bool,
    pub(crate) name_constraints: Option<NameConstraints>,
    pub(crate) unknown_critical: Vec<String>,
}

impl Extensions {
    /// Reads the SEQUENCE of extensions.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`], also for an extension that stands twice (RFC 5280 section 4.2).
    pub(crate) fn from_der(der: &[u8]) -> Result<Self, Error> {
        let bad = |error: der::Error| Error::malformed("extensions", error);
        let mut found = Self::default();
        let mut seen = Vec::new();
        let mut reader = SliceReader::new(der).map_err(bad)?;
        let mut raw = Vec::new();
        reader
            .sequence(|list| {
                while !list.is_finished() {
                    list.sequence(|extension| {
                        let oid = ObjectIdentifier::decode(extension)?;
                        let critical = match Tag::peek(extension)? {
                            Tag::Boolean => bool::decode(extension)?,
                            _ => false,
                        };
                        let value = <&OctetStringRef>::decode(extension)?.as_bytes().to_vec();
                        raw.push((oid, critical, value));
                        Ok::<_, der::Error>(())
                    })?;
                }
                Ok::<_, der::Error>(())
            })
            .map_err(bad)?;
        reader.finish().map_err(bad)?;
        for (oid, critical, value) in raw {
            if seen.contains(&oid) {
                return Err(Error::malformed(
                    "extensions",
                    format!("{oid} stands twice"),
                ));
            }
            seen.push(oid);
            found.take(oid, critical, &value)?;
        }
        Ok(found)
    }

    fn take(&mut self, oid: ObjectIdentifier, critical: bool, value: &[u8]) -> Result<(), Error> {
        match oid {
            oid::SUBJECT_KEY_IDENTIFIER => {
                let octets = <&OctetStringRef>::from_der(value)
                    .map_err(|error| Error::malformed("subject key identifier", error))?;
                self.subject_key_identifier = Some(octets.as_bytes().to_vec());
            }
            oid::AUTHORITY_KEY_IDENTIFIER => self.authority_key_identifier = key_id(value)?,
            oid::KEY_USAGE => self.key_usage = Some(key_usage(value)?),
            oid::BASIC_CONSTRAINTS => self.basic_constraints = Some(basic_constraints(value)?),
            oid::EXTENDED_KEY_USAGE => {
                let oids = Vec::<ObjectIdentifier>::from_der(value)
                    .map_err(|error| Error::malformed("extended key usage", error))?;
                self.purposes = oids.into_iter().map(Purpose::from_oid).collect();
            }
            oid::SUBJECT_ALT_NAME => {
                self.sans = San::all_from_der(value)?;
                self.has_sans = true;
                // Go leaves a critical SAN of unknown kinds alone unhandled.
                if critical && self.sans.iter().all(|san| matches!(san, San::Other(..))) {
                    self.unknown_critical.push(oid.to_string());
                }
            }
            oid::NAME_CONSTRAINTS => {
                let constraints = name_constraints(value)?;
                let unsupported = constraints
                    .permitted
                    .iter()
                    .chain(&constraints.excluded)
                    .any(|subtree| matches!(subtree, Subtree::Unsupported(_)));
                if critical && unsupported {
                    self.unknown_critical.push(oid.to_string());
                }
                self.name_constraints = Some(constraints);
            }
            other if critical => self.unknown_critical.push(other.to_string()),
            _ => {}
        }
        Ok(())
    }
}

fn key_id(value: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let bad = |error: der::Error| Error::malformed("authority key identifier", error);
    let mut reader = SliceReader::new(value).map_err(bad)?;
    let mut id = None;
    reader
        .sequence(|fields| {
            while !fields.is_finished() {
                let field = AnyRef::decode(fields)?;
                if let Tag::ContextSpecific {
                    number: TagNumber(0),
                    ..
                } = field.tag()
                {
                    id = Some(field.value().to_vec());
                }
            }
            Ok::<_, der::Error>(())
        })
        .map_err(bad)?;
    Ok(id)
}

fn key_usage(value: &[u8]) -> Result<KeyUsage, Error> {
    let bits =
        BitStringRef::from_der(value).map_err(|error| Error::malformed("key usage", error))?;
    let octets = bits.raw_bytes();
    let octet = |index: usize| u16::from(octets.get(index).copied().unwrap_or(0));
    Ok(KeyUsage(octet(0) << 8 | octet(1)))
}

fn basic_constraints(value: &[u8]) -> Result<BasicConstraints, Error> {
    let bad = |error: der::Error| Error::malformed("basic constraints", error);
    let mut reader = SliceReader::new(value).map_err(bad)?;
    let mut constraints = BasicConstraints {
        ca: false,
        path_len: None,
    };
    reader
        .sequence(|fields| {
            if !fields.is_finished() && Tag::peek(fields)? == Tag::Boolean {
                constraints.ca = bool::decode(fields)?;
            }
            if !fields.is_finished() {
                constraints.path_len = Some(u32::decode(fields)?);
            }
            Ok::<_, der::Error>(())
        })
        .map_err(bad)?;
    Ok(constraints)
}

fn name_constraints(value: &[u8]) -> Result<NameConstraints, Error> {
    let bad = |error: der::Error| Error::malformed("name constraints", error);
    let mut reader = SliceReader::new(value).map_err(bad)?;
    let mut constraints = NameConstraints::default();
    reader
        .sequence(|fields| {
            while !fields.is_finished() {
                let list = AnyRef::decode(fields)?;
                let into = match list.tag() {
                    Tag::ContextSpecific {
                        number: TagNumber(0),
                        ..
                    } => &mut constraints.permitted,
                    _ => &mut constraints.excluded,
                };
                let mut subtrees = SliceReader::new(list.value())?;
                while !subtrees.is_finished() {
                    let subtree = AnyRef::decode(&mut subtrees)?;
                    let mut fields = SliceReader::new(subtree.value())?;
                    into.push(Subtree::from_san(San::from_any(AnyRef::decode(
                        &mut fields,
                    )?)));
                }
            }
            Ok::<_, der::Error>(())
        })
        .map_err(bad)?;
    Ok(constraints)
}

impl Subtree {
    fn from_san(base: San) -> Self {
        match base {
            San::Dns(text) => Self::Dns(text),
            San::Email(text) => Self::Email(text),
            San::Uri(text) => Self::Uri(text),
            // In a constraint an iPAddress is address and mask (section 4.2.1.10), so the 8
            // octets of an IPv4 subtree do not fit San::Ip; the 16 of IPv4-length would.
            San::Other(7, octets) if matches!(octets.len(), 8 | 32) => {
                let (address, mask) = octets.split_at(octets.len() / 2);
                Self::Ip(address.to_vec(), mask.to_vec())
            }
            other => Self::Unsupported(other.to_string()),
        }
    }
}
