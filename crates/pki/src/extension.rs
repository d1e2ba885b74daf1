//! The extensions that decide what a certificate may be used for.

use core::fmt;

use const_oid::ObjectIdentifier;
use der::asn1::{AnyRef, BitStringRef, OctetStringRef};
use der::{Decode, Reader, SliceReader, Tag, TagNumber, Tagged};

use crate::name_form::{Mailbox, domain_is_valid};
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
    pub(crate) sans_der: Option<Vec<u8>>,
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
        let mut list = content(der, "extensions")?;
        while !list.is_finished() {
            let (oid, critical, value) = list
                .sequence(|extension| {
                    let oid = oid::read(extension)?;
                    let critical = match Tag::peek(extension)? {
                        Tag::Boolean => bool::decode(extension)?,
                        _ => false,
                    };
                    Ok((oid, critical, <&OctetStringRef>::decode(extension)?))
                })
                .map_err(bad)?;
            if seen.contains(&oid) {
                return Err(Error::malformed(
                    "extensions",
                    format!("{oid} stands twice"),
                ));
            }
            seen.push(oid);
            found.take(oid, critical, value.as_bytes())?;
        }
        Ok(found)
    }

    fn take(&mut self, oid: ObjectIdentifier, critical: bool, value: &[u8]) -> Result<(), Error> {
        let mut understood = true;
        match oid {
            oid::SUBJECT_KEY_IDENTIFIER
            | oid::AUTHORITY_KEY_IDENTIFIER
            | oid::AUTHORITY_INFO_ACCESS
                if critical =>
            {
                // RFC 5280 forbids it, and Go refuses such a certificate altogether.
                return Err(Error::malformed(
                    "extensions",
                    format!("{oid} must not be critical"),
                ));
            }
            oid::SUBJECT_KEY_IDENTIFIER => {
                let octets = <&OctetStringRef>::from_der(value)
                    .map_err(|error| Error::malformed("subject key identifier", error))?;
                self.subject_key_identifier = Some(octets.as_bytes().to_vec());
            }
            oid::AUTHORITY_KEY_IDENTIFIER => self.authority_key_identifier = key_id(value)?,
            oid::KEY_USAGE => self.key_usage = Some(key_usage(value)?),
            oid::BASIC_CONSTRAINTS => self.basic_constraints = Some(basic_constraints(value)?),
            oid::EXTENDED_KEY_USAGE => {
                let mut list = content(value, "extended key usage")?;
                while !list.is_finished() {
                    let oid = oid::read(&mut list)
                        .map_err(|error| Error::malformed("extended key usage", error))?;
                    self.purposes.push(Purpose::from_oid(oid));
                }
            }
            oid::SUBJECT_ALT_NAME => {
                self.sans = San::all_from_der(value)?;
                self.sans_der = Some(value.to_vec());
                // Go leaves a SAN of unknown kinds alone unhandled.
                understood = !self.sans.iter().all(|san| matches!(san, San::Other(..)));
            }
            oid::NAME_CONSTRAINTS => {
                let constraints = name_constraints(value)?;
                understood = !constraints
                    .permitted
                    .iter()
                    .chain(&constraints.excluded)
                    .any(|subtree| matches!(subtree, Subtree::Unsupported(_)));
                self.name_constraints = Some(constraints);
            }
            // Nothing in Kubernetes looks at them, and none of them narrows what a path allows.
            oid::CRL_DISTRIBUTION_POINTS
            | oid::CERTIFICATE_POLICIES
            | oid::INHIBIT_ANY_POLICY
            | oid::AUTHORITY_INFO_ACCESS => {}
            // This one narrows it whether critical or not.
            oid::POLICY_CONSTRAINTS => self.unknown_critical.push(oid.to_string()),
            _ => understood = false,
        }
        if critical && !understood {
            self.unknown_critical.push(oid.to_string());
        }
        Ok(())
    }
}

/// A reader over the content of the SEQUENCE that `der` is.
fn content<'a>(der: &'a [u8], what: &'static str) -> Result<SliceReader<'a>, Error> {
    let bad = |error: der::Error| Error::malformed(what, error);
    let whole = AnyRef::from_der(der).map_err(bad)?;
    whole.tag().assert_eq(Tag::Sequence).map_err(bad)?;
    SliceReader::new(whole.value()).map_err(bad)
}

fn key_id(value: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let mut fields = content(value, "authority key identifier")?;
    while !fields.is_finished() {
        let field = AnyRef::decode(&mut fields)
            .map_err(|error| Error::malformed("authority key identifier", error))?;
        if let Tag::ContextSpecific {
            number: TagNumber(0),
            constructed: false,
        } = field.tag()
        {
            return Ok(Some(field.value().to_vec()));
        }
    }
    Ok(None)
}

/// DER wants the unused bits of a BIT STRING to be zero (X.690 section 11.2.1).
pub(crate) fn no_stray_bits(bits: BitStringRef<'_>) -> Result<BitStringRef<'_>, der::Error> {
    let unused = (1_u8 << bits.unused_bits()) - 1;
    match bits.raw_bytes().last() {
        Some(last) if last & unused != 0 => Err(Tag::BitString.value_error().into()),
        _ => Ok(bits),
    }
}

fn key_usage(value: &[u8]) -> Result<KeyUsage, Error> {
    let bits = BitStringRef::from_der(value)
        .and_then(no_stray_bits)
        .map_err(|error| Error::malformed("key usage", error))?;
    let octets = bits.raw_bytes();
    let octet = |index: usize| u16::from(octets.get(index).copied().unwrap_or(0));
    // Nine bits have a meaning; what stands after them has none.
    Ok(KeyUsage((octet(0) << 8 | octet(1)) & 0xff80))
}

fn basic_constraints(value: &[u8]) -> Result<BasicConstraints, Error> {
    let bad = |error: der::Error| Error::malformed("basic constraints", error);
    let mut fields = content(value, "basic constraints")?;
    let mut constraints = BasicConstraints {
        ca: false,
        path_len: None,
    };
    if !fields.is_finished() && Tag::peek(&fields).map_err(bad)? == Tag::Boolean {
        constraints.ca = bool::decode(&mut fields).map_err(bad)?;
    }
    if !fields.is_finished() && Tag::peek(&fields).map_err(bad)? == Tag::Integer {
        let number = u64::decode(&mut fields).map_err(bad)?;
        // No path is that long, so the largest number stands for every larger one.
        constraints.path_len = Some(u32::try_from(number).unwrap_or(u32::MAX));
    }
    Ok(constraints)
}

/// At least one subtree, of valid form: a constraint that nobody can read must not be skipped.
fn name_constraints(value: &[u8]) -> Result<NameConstraints, Error> {
    let bad = |error: der::Error| Error::malformed("name constraints", error);
    let mut fields = content(value, "name constraints")?;
    let mut constraints = NameConstraints::default();
    let mut last = None;
    while !fields.is_finished() {
        let list = AnyRef::decode(&mut fields).map_err(bad)?;
        let into = match list.tag() {
            Tag::ContextSpecific {
                number: TagNumber(number @ (0 | 1)),
                constructed: true,
            } if last.is_none_or(|last| last < number) => {
                last = Some(number);
                if number == 0 {
                    &mut constraints.permitted
                } else {
                    &mut constraints.excluded
                }
            }
            other => {
                return Err(Error::malformed(
                    "name constraints",
                    format!("unexpected {other}"),
                ));
            }
        };
        let mut subtrees = SliceReader::new(list.value()).map_err(bad)?;
        while !subtrees.is_finished() {
            let subtree = subtrees.tlv_bytes().map_err(bad)?;
            let mut parts = content(subtree, "name constraints")?;
            into.push(Subtree::from_base(
                AnyRef::decode(&mut parts).map_err(bad)?,
            )?);
        }
    }
    if constraints.permitted.is_empty() && constraints.excluded.is_empty() {
        return Err(Error::malformed("name constraints", "no subtree"));
    }
    Ok(constraints)
}

impl Subtree {
    fn from_base(base: AnyRef<'_>) -> Result<Self, Error> {
        let bad = |detail: String| Error::malformed("name constraints", detail);
        // An address stands with its mask here (section 4.2.1.10): twice an iPAddress's octets,
        // so the 16 of an IPv6 address make no subtree of either family.
        let is_address = matches!(
            base.tag(),
            Tag::ContextSpecific {
                number: TagNumber(7),
                constructed: false
            }
        );
        if is_address {
            let octets = base.value();
            let (address, mask) = octets.split_at(octets.len() / 2);
            let ones = mask.iter().take_while(|octet| **octet == 0xff).count();
            let prefix_only = match mask.get(ones..).unwrap_or_default() {
                [] => true,
                [border, zeros @ ..] => {
                    border.leading_ones() + border.trailing_zeros() == 8
                        && zeros.iter().all(|octet| *octet == 0)
                }
            };
            if !matches!(octets.len(), 8 | 32) || !prefix_only {
                return Err(bad(format!("{} is no network", crate::hex(octets))));
            }
            return Ok(Self::Ip(address.to_vec(), mask.to_vec()));
        }
        let valid = |text: &str| domain_is_valid(text, true);
        match San::from_any(base)? {
            San::Dns(text) if valid(&text) => Ok(Self::Dns(text)),
            San::Email(text)
                if valid(&text) && !text.contains('@') || Mailbox::parse(&text).is_some() =>
            {
                Ok(Self::Email(text))
            }
            San::Uri(text) if valid(&text) && text.parse::<core::net::IpAddr>().is_err() => {
                Ok(Self::Uri(text))
            }
            San::Dns(text) | San::Email(text) | San::Uri(text) => {
                Err(bad(format!("{text:?} is no subtree of its kind")))
            }
            other => Ok(Self::Unsupported(other.to_string())),
        }
    }
}

impl fmt::Display for Subtree {
    /// As configuration files have them: `.example.com`, `10.0.0.0/8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(text) | Self::Email(text) | Self::Uri(text) | Self::Unsupported(text) => {
                f.write_str(text)
            }
            Self::Ip(address, mask) => {
                let bits: u32 = mask.iter().map(|octet| octet.count_ones()).sum();
                let v4 = <[u8; 4]>::try_from(address.as_slice()).map(core::net::IpAddr::from);
                let v6 = <[u8; 16]>::try_from(address.as_slice()).map(core::net::IpAddr::from);
                match v4.or(v6) {
                    Ok(address) => write!(f, "{address}/{bits}"),
                    Err(_) => write!(f, "{}/{bits}", crate::hex(address)),
                }
            }
        }
    }
}
