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
    let bad = |error: der::Error| Error::malformed("DER to write", error);
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let length = Length::try_from(length).map_err(bad)?;
    Header::new(tag, length).encode(into).map_err(bad)?;
    for part in parts {
        into.extend_from_slice(part);
    }
    Ok(())
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

/// Extensions being written: their DER, end to end, and what a reader will find in them.
#[derive(Default)]
pub(crate) struct ExtensionWriter {
    pub(crate) der: Vec<u8>,
    pub(crate) facts: Extensions,
}

impl ExtensionWriter {
    fn add(&mut self, id: ObjectIdentifier, critical: bool, value: &[u8]) -> Result<(), Error> {
        let id = element(Tag::ObjectIdentifier, &[id.as_bytes()])?;
        // FALSE is the default, which DER leaves out.
        let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
        let value = element(Tag::OctetString, &[value])?;
        write(&mut self.der, Tag::Sequence, &[&id, critical, &value])
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
        let value = element(Tag::BitString, &[&[unused], octets])?;
        self.facts.key_usage = Some(usage);
        self.add(oid::KEY_USAGE, true, &value)
    }

    pub(crate) fn purposes(&mut self, purposes: &[Purpose]) -> Result<(), Error> {
        let mut list = Vec::new();
        for purpose in purposes {
            let id = purpose.to_oid()?;
            write(&mut list, Tag::ObjectIdentifier, &[id.as_bytes()])?;
        }
        let value = element(Tag::Sequence, &[&list])?;
        self.facts.purposes = purposes.to_vec();
        self.add(oid::EXTENDED_KEY_USAGE, false, &value)
    }

    pub(crate) fn basic_constraints(&mut self, wanted: BasicConstraints) -> Result<(), Error> {
        let ca: &[u8] = if wanted.ca { &[1, 1, 0xff] } else { &[] };
        let path_len = match wanted.path_len {
            Some(path_len) => path_len
                .to_der()
                .map_err(|error| Error::malformed("basic constraints", error))?,
            None => Vec::new(),
        };
        let value = element(Tag::Sequence, &[ca, &path_len])?;
        self.facts.basic_constraints = Some(wanted);
        self.add(oid::BASIC_CONSTRAINTS, true, &value)
    }

    pub(crate) fn subject_key_identifier(&mut self, octets: &[u8]) -> Result<(), Error> {
        let value = element(Tag::OctetString, &[octets])?;
        self.facts.subject_key_identifier = Some(octets.to_vec());
        self.add(oid::SUBJECT_KEY_IDENTIFIER, false, &value)
    }

    pub(crate) fn authority_key_identifier(&mut self, octets: &[u8]) -> Result<(), Error> {
        let identifier = element(context(0, false), &[octets])?;
        let value = element(Tag::Sequence, &[&identifier])?;
        self.facts.authority_key_identifier = Some(octets.to_vec());
        self.add(oid::AUTHORITY_KEY_IDENTIFIER, false, &value)
    }

    /// DNS names and the like before addresses, as Go writes them.
    pub(crate) fn sans(&mut self, sans: &[San]) -> Result<(), Error> {
        let mut ordered = sans.to_vec();
        ordered.sort_by_key(|san| matches!(san, San::Ip(_)));
        let value = San::all_to_der(&ordered)?;
        self.add(oid::SUBJECT_ALT_NAME, false, &value)?;
        self.facts.sans = ordered;
        self.facts.sans_der = Some(value);
        Ok(())
    }
}
