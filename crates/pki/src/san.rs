//! Subject alternative names: the identities that a server is checked for.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use der::asn1::AnyRef;
use der::{Decode, Reader, SliceReader, Tag, Tagged};

use crate::Error;
use crate::encode::{context, element, write};

/// One subject alternative name (RFC 5280 section 4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum San {
    /// dNSName.
    Dns(String),
    /// iPAddress of 4 or 16 octets.
    Ip(IpAddr),
    /// rfc822Name.
    Email(String),
    /// uniformResourceIdentifier.
    Uri(String),
    /// Any other kind, or an iPAddress of a wrong length: tag number and content.
    Other(u32, Vec<u8>),
}

impl San {
    /// An address if `text` is one, else a DNS name: the rule of K3s and of Go's callers.
    pub fn from_text(text: &str) -> Self {
        match text.parse() {
            Ok(address) => Self::Ip(address),
            Err(_) => Self::Dns(text.to_owned()),
        }
    }

    /// Reads a GeneralNames SEQUENCE.
    pub(crate) fn all_from_der(der: &[u8]) -> Result<Vec<Self>, Error> {
        let bad = |error: der::Error| Error::malformed("subject alternative name", error);
        let list = AnyRef::from_der(der).map_err(bad)?;
        list.tag().assert_eq(Tag::Sequence).map_err(bad)?;
        let mut reader = SliceReader::new(list.value()).map_err(bad)?;
        let mut names = Vec::new();
        while !reader.is_finished() {
            let name = Self::from_any(AnyRef::decode(&mut reader).map_err(bad)?)?;
            if let Self::Other(7, octets) = &name {
                return Err(Error::malformed(
                    "subject alternative name",
                    format!("address of {} octets", octets.len()),
                ));
            }
            names.push(name);
        }
        Ok(names)
    }

    /// One GeneralName; text must be ASCII (IA5String).
    pub(crate) fn from_any(any: AnyRef<'_>) -> Result<Self, Error> {
        let value = any.value();
        let text = || match core::str::from_utf8(value) {
            Ok(text) if text.is_ascii() => Ok(text.to_owned()),
            _ => Err(Error::malformed("general name", "text is not ASCII")),
        };
        Ok(match any.tag() {
            Tag::ContextSpecific {
                number,
                constructed: false,
            } => match number.value() {
                1 => Self::Email(text()?),
                2 => Self::Dns(text()?),
                6 => Self::Uri(text()?),
                7 => match (<[u8; 4]>::try_from(value), <[u8; 16]>::try_from(value)) {
                    (Ok(v4), _) => Self::Ip(IpAddr::V4(Ipv4Addr::from(v4))),
                    (_, Ok(v6)) => Self::Ip(IpAddr::V6(Ipv6Addr::from(v6))),
                    _ => Self::Other(7, value.to_vec()),
                },
                other => Self::Other(other, value.to_vec()),
            },
            Tag::ContextSpecific { number, .. } => match number.value() {
                // A constructed form of a primitive name is no name at all.
                1 | 2 | 6 | 7 => Self::Other(u32::MAX, value.to_vec()),
                other => Self::Other(other, value.to_vec()),
            },
            _ => Self::Other(u32::MAX, value.to_vec()),
        })
    }

    /// DER of a GeneralNames SEQUENCE, in the given order.
    ///
    /// # Errors
    ///
    /// [`Error::Unissuable`] for a name that is empty, not ASCII, or of a kind that is not issued.
    pub(crate) fn all_to_der(names: &[Self]) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        for name in names {
            let (number, value) = name.parts()?;
            write(&mut body, context(number, false), &[&value])?;
        }
        element(Tag::Sequence, &[&body])
    }

    fn parts(&self) -> Result<(u32, Vec<u8>), Error> {
        let ascii = |number: u32, text: &str| {
            if text.is_empty() || !text.is_ascii() {
                return Err(Error::Unissuable {
                    detail: format!(
                        "subject alternative name {text:?} must be ASCII and not empty; \
                         write international domain names in their xn-- form"
                    ),
                });
            }
            Ok((number, text.as_bytes().to_vec()))
        };
        match self {
            Self::Email(text) => ascii(1, text),
            Self::Dns(text) => ascii(2, text),
            Self::Uri(text) => ascii(6, text),
            Self::Ip(IpAddr::V4(address)) => Ok((7, address.octets().to_vec())),
            Self::Ip(IpAddr::V6(address)) => Ok((7, address.octets().to_vec())),
            Self::Other(number, _) => Err(Error::Unissuable {
                detail: format!("general names of kind {number} are not issued"),
            }),
        }
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(text) | Self::Email(text) | Self::Uri(text) => f.write_str(text),
            Self::Ip(address) => write!(f, "{address}"),
            Self::Other(number, bytes) => {
                write!(f, "[{number}]:{}", crate::hex(bytes))
            }
        }
    }
}
