//! Distinguished names, kept as the bytes they came in.

use core::fmt;

use const_oid::ObjectIdentifier;
use der::asn1::AnyRef;
use der::{Decode, Encode, Reader, SliceReader, Tag, Tagged};

use crate::encode::{nest, write};
use crate::{Error, oid};

/// A distinguished name (RFC 5280 section 4.1.2.4): its exact DER and its attributes.
///
/// Issuers are matched by these bytes, so a name that was read is never encoded again.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name {
    der: Vec<u8>,
    attributes: Vec<Attribute>,
}

/// One attribute of a name: type and value.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Attribute {
    oid: ObjectIdentifier,
    value: String,
}

/// Attribute types that Go's `pkix.Name` prints by name (RFC 4519), in its order, and whether it
/// keeps one value only.
const PRINT_ORDER: [(ObjectIdentifier, &str, bool); 9] = [
    (
        ObjectIdentifier::new_unwrap("2.5.4.5"),
        "SERIALNUMBER",
        true,
    ),
    (oid::COMMON_NAME, "CN", true),
    (ObjectIdentifier::new_unwrap("2.5.4.11"), "OU", false),
    (oid::ORGANIZATION, "O", false),
    (
        ObjectIdentifier::new_unwrap("2.5.4.17"),
        "POSTALCODE",
        false,
    ),
    (ObjectIdentifier::new_unwrap("2.5.4.9"), "STREET", false),
    (ObjectIdentifier::new_unwrap("2.5.4.7"), "L", false),
    (ObjectIdentifier::new_unwrap("2.5.4.8"), "ST", false),
    (ObjectIdentifier::new_unwrap("2.5.4.6"), "C", false),
];

impl Name {
    /// Reads a name; `der` is kept octet for octet.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] when it is not an RDNSequence.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let bad = |error: der::Error| Error::malformed("distinguished name", error);
        let mut attributes = Vec::new();
        let mut reader = SliceReader::new(der).map_err(bad)?;
        reader
            .sequence(|rdns| {
                while !rdns.is_finished() {
                    let set = AnyRef::decode(rdns)?;
                    set.tag().assert_eq(Tag::Set)?;
                    let mut members = SliceReader::new(set.value())?;
                    while !members.is_finished() {
                        members.sequence(|member| {
                            let oid = oid::read(member)?;
                            let value = text_of(AnyRef::decode(member)?)?;
                            attributes.push(Attribute { oid, value });
                            Ok::<_, der::Error>(())
                        })?;
                    }
                }
                Ok::<_, der::Error>(())
            })
            .map_err(bad)?;
        reader.finish().map_err(bad)?;
        Ok(Self {
            der: der.to_vec(),
            attributes,
        })
    }

    /// Builds `O=…, O=…, CN=…`, each attribute an RDN of its own, in that order, as Go does for
    /// what K3s signs: PrintableString where the text allows, else UTF8String.
    ///
    /// # Errors
    ///
    /// [`Error::Unissuable`] when `common_name` is empty: Kubernetes takes it as the user.
    pub fn new(organizations: &[String], common_name: &str) -> Result<Self, Error> {
        if common_name.is_empty() {
            return Err(Error::Unissuable {
                detail: "a certificate without a common name has no user in Kubernetes".to_owned(),
            });
        }
        let pairs = organizations
            .iter()
            .map(|value| (oid::ORGANIZATION, value.as_str()))
            .chain([(oid::COMMON_NAME, common_name)]);
        let mut attributes = Vec::with_capacity(organizations.len() + 1);
        let mut der = Vec::with_capacity(96);
        nest(&mut der, Tag::Sequence, |rdns| {
            for (oid, value) in pairs {
                let tag = if is_printable(value) {
                    Tag::PrintableString
                } else {
                    Tag::Utf8String
                };
                nest(rdns, Tag::Set, |set| {
                    nest(set, Tag::Sequence, |pair| {
                        write(pair, Tag::ObjectIdentifier, &[oid.as_bytes()])?;
                        write(pair, tag, &[value.as_bytes()])
                    })
                })?;
                let value = value.to_owned();
                attributes.push(Attribute { oid, value });
            }
            Ok(())
        })?;
        Ok(Self { der, attributes })
    }

    /// The exact bytes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The last `CN`: Kubernetes' user name.
    pub fn common_name(&self) -> Option<&str> {
        self.values(oid::COMMON_NAME).last()
    }

    /// Every `O`, in order: Kubernetes' groups.
    pub fn organizations(&self) -> Vec<&str> {
        self.values(oid::ORGANIZATION).collect()
    }

    /// Whether the name has no attributes.
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty()
    }

    fn values(&self, oid: ObjectIdentifier) -> impl Iterator<Item = &str> {
        self.attributes
            .iter()
            .filter(move |a| a.oid == oid)
            .map(|a| a.value.as_str())
    }
}

impl fmt::Display for Name {
    /// As Go's `pkix.Name` prints, and K3s therefore shows and logs: the known types in a fixed
    /// order, the last first, equal ones joined by `+`: `CN=system:admin,O=system:masters`; then
    /// what has no name there, the value as hex. Only control characters differ.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (oid, short, single) in PRINT_ORDER {
            let values: Vec<&str> = self.values(oid).collect();
            let values = match values.as_slice() {
                // Go keeps the last of those that a name should have once.
                [.., last] if single => core::slice::from_ref(last),
                values => values,
            };
            for value in values.iter().filter(|value| !single || !value.is_empty()) {
                write!(f, "{separator}{short}=")?;
                write_escaped(f, value)?;
                separator = "+";
            }
            if separator == "+" {
                separator = ",";
            }
        }
        let is_known = |oid| PRINT_ORDER.iter().any(|(known, ..)| *known == oid);
        for attribute in self.attributes.iter().rev().filter(|a| !is_known(a.oid)) {
            let printable = is_printable(&attribute.value);
            let tag = if printable {
                Tag::PrintableString
            } else {
                Tag::Utf8String
            };
            let value = AnyRef::new(tag, attribute.value.as_bytes())
                .and_then(|any| any.to_der())
                .map_err(|_| fmt::Error)?;
            let oid = attribute.oid;
            write!(f, "{separator}{oid}=#{}", crate::hex(&value))?;
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// RFC 2253 section 2.4; control characters are shown by number so that a hostile name cannot
/// drive a terminal.
fn write_escaped(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    use fmt::Write;
    let last = value.chars().count().saturating_sub(1);
    for (index, c) in value.chars().enumerate() {
        let special = matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (c == ' ' && (index == 0 || index == last))
            || (c == '#' && index == 0);
        if special {
            f.write_char('\\')?;
            f.write_char(c)?;
        } else if c.is_control() {
            write!(f, "\\u{{{:x}}}", u32::from(c))?;
        } else {
            f.write_char(c)?;
        }
    }
    Ok(())
}

/// The text of any of the string types that Go reads names in.
fn text_of(value: AnyRef<'_>) -> Result<String, der::Error> {
    let bytes = value.value();
    let tag = value.tag();
    let ascii = |fits: fn(&u8) -> bool| match core::str::from_utf8(bytes) {
        Ok(text) if bytes.iter().all(fits) => Ok(text.to_owned()),
        _ => Err(tag.value_error().into()),
    };
    match tag {
        Tag::PrintableString => ascii(|byte| is_printable_byte(*byte) || b"*&".contains(byte)),
        Tag::Ia5String => ascii(u8::is_ascii),
        Tag::NumericString => ascii(|byte| byte.is_ascii_digit() || *byte == b' '),
        Tag::Utf8String => ascii(|_| true),
        // T.61 was never implemented by anyone; all read it as Latin-1.
        Tag::TeletexString => Ok(bytes.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString => bmp_text(bytes).ok_or_else(|| tag.value_error().into()),
        _ => Err(tag.value_error().into()),
    }
}

/// UCS-2: no surrogates, none of the code points that are no characters. A final NUL is dropped.
fn bmp_text(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.strip_suffix(&[0, 0]).unwrap_or(bytes);
    let (pairs, []) = bytes.as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|pair| match u32::from(u16::from_be_bytes(*pair)) {
            0xfdd0..=0xfdef | 0xfffe | 0xffff => None,
            point => char::from_u32(point),
        })
        .collect()
}

/// X.680's PrintableString; Go adds `*` and `&` when reading only.
fn is_printable(text: &str) -> bool {
    text.bytes().all(is_printable_byte)
}

fn is_printable_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prints_as_go_does() {
        let name = Name::new(&["system:masters".to_owned()], "system:admin").unwrap();
        assert_eq!(name.to_string(), "CN=system:admin,O=system:masters");
        assert_eq!(name.common_name(), Some("system:admin"));
        assert_eq!(name.organizations(), ["system:masters"]);
    }

    #[test]
    fn keeps_every_group() {
        let groups = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let name = Name::new(&groups, "x@y").unwrap();
        assert_eq!(name.organizations(), ["a", "b", "c"]);
        assert_eq!(name.to_string(), "CN=x@y,O=a+O=b+O=c");
        // `@` is not in PrintableString, so the CN is a UTF8String (tag 12).
        assert!(
            name.der()
                .windows(5)
                .any(|w| w == [12, 3, b'x', b'@', b'y'])
        );
    }

    #[test]
    fn an_empty_common_name_is_refused() {
        assert!(matches!(Name::new(&[], ""), Err(Error::Unissuable { .. })));
    }

    proptest! {
        #[test]
        fn round_trips(groups in proptest::collection::vec("\\PC{1,20}", 0..4), cn in "\\PC{1,30}") {
            let name = Name::new(&groups, &cn).unwrap();
            let again = Name::from_der(name.der()).unwrap();
            prop_assert_eq!(again.common_name(), Some(cn.as_str()));
            prop_assert_eq!(again.organizations(), groups);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Name::from_der(&bytes);
        }
    }
}
