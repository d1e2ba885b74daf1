//! Writing DER from parts that are DER already, and the extensions that we issue.

use const_oid::ObjectIdentifier;
use der::{Encode, Header, Length, Tag, TagNumber};

use crate::extension::Extensions;
use crate::{BasicConstraints, Error, KeyUsage, Purpose, San, oid};

/// Appends one element whose content is `parts`, end to end.
///
/// # Errors
///
/// [`Error::Malformed`] for lengths beyond DER's reach here (256 MiB).
pub(crate) fn write(into: &mut Vec<u8>, tag: Tag, parts: &[&[u8]]) -> Result<(), Error> {
    write_header(into, tag, parts.iter().map(|part| part.len()).sum())?;
    for part in parts {
        into.extend_from_slice(part);
    }
    Ok(())
}

/// Appends one element whose content is what `content` appends: what is nested needs no memory of
/// its own.
///
/// # Errors
///
/// As [`write`], and those of `content`.
pub(crate) fn nest(
    into: &mut Vec<u8>,
    tag: Tag,
    content: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    let begin = into.len();
    content(into)?;
    let length = into.len() - begin;
    // Only now is it known how long the header is, which then goes before the content.
    write_header(into, tag, length)?;
    if let Some(element) = into.get_mut(begin..) {
        element.rotate_left(length);
    }
    Ok(())
}

fn write_header(into: &mut Vec<u8>, tag: Tag, length: usize) -> Result<(), Error> {
    let bad = |error: der::Error| Error::malformed("DER to write", error);
    let length = Length::try_from(length).map_err(bad)?;
    Header::new(tag, length).encode(into).map_err(bad)
}

/// One element whose content is `parts`, end to end.
///
/// # Errors
///
/// As [`write`].
pub(crate) fn element(tag: Tag, parts: &[&[u8]]) -> Result<Vec<u8>, Error> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut der = Vec::with_capacity(length + 6);
    write(&mut der, tag, parts)?;
    Ok(der)
}

/// A context-specific tag.
pub(crate) const fn context(number: u32, constructed: bool) -> Tag {
    Tag::ContextSpecific {
        number: TagNumber(number),
        constructed,
    }
}

/// `BOOLEAN TRUE`.
const TRUE: &[u8] = &[1, 1, 0xff];

/// Extensions being written: their DER, end to end, and what a reader will find in them.
#[derive(Default)]
pub(crate) struct ExtensionWriter {
    pub(crate) der: Vec<u8>,
    pub(crate) facts: Extensions,
}

impl ExtensionWriter {
    fn add(
        &mut self,
        id: ObjectIdentifier,
        critical: bool,
        value: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        nest(&mut self.der, Tag::Sequence, |extension| {
            write(extension, Tag::ObjectIdentifier, &[id.as_bytes()])?;
            // FALSE is the default, which DER leaves out.
            if critical {
                extension.extend_from_slice(TRUE);
            }
            nest(extension, Tag::OctetString, value)
        })
    }

    pub(crate) fn key_usage(&mut self, usage: KeyUsage) -> Result<(), Error> {
        let octets = usage.0.to_be_bytes();
        // Named bit lists drop trailing zero bits (X.690 section 11.2.2).
        let octets: &[u8] = match &octets {
            [first, 0] => core::slice::from_ref(first),
            both => both,
        };
        let unused = octets
            .last()
            .map_or(0, |last| last.trailing_zeros().min(7) as u8);
        self.facts.key_usage = Some(usage);
        self.add(oid::KEY_USAGE, true, |value| {
            write(value, Tag::BitString, &[&[unused], octets])
        })
    }

    pub(crate) fn purposes(&mut self, purposes: &[Purpose]) -> Result<(), Error> {
        self.facts.purposes = purposes.to_vec();
        self.add(oid::EXTENDED_KEY_USAGE, false, |value| {
            nest(value, Tag::Sequence, |list| {
                for purpose in purposes {
                    let id = purpose.to_oid()?;
                    write(list, Tag::ObjectIdentifier, &[id.as_bytes()])?;
                }
                Ok(())
            })
        })
    }

    pub(crate) fn basic_constraints(&mut self, wanted: BasicConstraints) -> Result<(), Error> {
        let ca = if wanted.ca { TRUE } else { &[] };
        let path_len = match wanted.path_len {
            Some(path_len) => path_len
                .to_der()
                .map_err(|error| Error::malformed("basic constraints", error))?,
            None => Vec::new(),
        };
        self.facts.basic_constraints = Some(wanted);
        self.add(oid::BASIC_CONSTRAINTS, true, |value| {
            write(value, Tag::Sequence, &[ca, &path_len])
        })
    }

    pub(crate) fn subject_key_identifier(&mut self, octets: &[u8]) -> Result<(), Error> {
        self.facts.subject_key_identifier = Some(octets.to_vec());
        self.add(oid::SUBJECT_KEY_IDENTIFIER, false, |value| {
            write(value, Tag::OctetString, &[octets])
        })
    }

    pub(crate) fn authority_key_identifier(&mut self, octets: &[u8]) -> Result<(), Error> {
        self.facts.authority_key_identifier = Some(octets.to_vec());
        self.add(oid::AUTHORITY_KEY_IDENTIFIER, false, |value| {
            nest(value, Tag::Sequence, |identifier| {
                write(identifier, context(0, false), &[octets])
            })
        })
    }

    /// DNS names and the like before addresses, as Go writes them.
    pub(crate) fn sans(&mut self, sans: &[San]) -> Result<(), Error> {
        let mut ordered = sans.to_vec();
        ordered.sort_by_key(|san| matches!(san, San::Ip(_)));
        let value = San::all_to_der(&ordered)?;
        self.add(oid::SUBJECT_ALT_NAME, false, |into| {
            into.extend_from_slice(&value);
            Ok(())
        })?;
        self.facts.sans = ordered;
        self.facts.sans_der = Some(value);
        Ok(())
    }
}
