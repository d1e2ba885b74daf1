//! Certificates out of PKCS#7: the form in which company CAs often answer (`.p7b`, `.p7c`).

use const_oid::ObjectIdentifier;
use der::asn1::AnyRef;
use der::{Decode, Reader, SliceReader, Tag, TagNumber, Tagged};

use crate::{Certificate, Error, oid};

/// The certificates of a SignedData (RFC 5652 section 5.1), in its order.
///
/// Such a bundle signs nothing and proves nothing: whether its certificates hold is told by
/// [`crate::verify`]. Content, signers and revocation lists are passed over.
///
/// # Errors
///
/// [`Error::Malformed`] when it is something else, is not DER (some programs write indefinite
/// lengths), or one of the certificates cannot be read.
pub fn certificates_from_pkcs7(der: &[u8]) -> Result<Vec<Certificate>, Error> {
    let bad = |error: der::Error| Error::malformed("PKCS#7 bundle", error);
    if der.get(1) == Some(&0x80) {
        return Err(Error::malformed(
            "PKCS#7 bundle",
            "it has indefinite lengths (BER); `openssl pkcs7 -print_certs` makes PEM of it",
        ));
    }
    let mut outer = SliceReader::new(der).map_err(bad)?;
    let (id, content) = outer
        .sequence(|info| Ok::<_, der::Error>((oid::read(info)?, AnyRef::decode(info)?)))
        .map_err(bad)?;
    outer.finish().map_err(bad)?;
    if id != SIGNED_DATA {
        let detail = format!("its content is {id}, not signed data");
        return Err(Error::malformed("PKCS#7 bundle", detail));
    }
    context(&content, 0).map_err(bad)?;
    let mut reader = SliceReader::new(content.value()).map_err(bad)?;
    let certificates = reader
        .sequence(|fields| {
            // Version, digest algorithms, what was signed.
            for wanted in [Tag::Integer, Tag::Set, Tag::Sequence] {
                AnyRef::decode(fields)?.tag().assert_eq(wanted)?;
            }
            let mut certificates = None;
            while !fields.is_finished() {
                let field = AnyRef::decode(fields)?;
                if certificates.is_none() && context(&field, 0).is_ok() {
                    certificates = Some(field.value());
                }
            }
            Ok::<_, der::Error>(certificates.unwrap_or_default())
        })
        .map_err(bad)?;
    reader.finish().map_err(bad)?;
    let mut found = Vec::new();
    let mut list = SliceReader::new(certificates).map_err(bad)?;
    while !list.is_finished() {
        let one = list.tlv_bytes().map_err(bad)?;
        // Attribute certificates and the like have tags of their own.
        if one.first() == Some(&0x30) {
            found.push(Certificate::from_der(one)?);
        }
    }
    if found.is_empty() {
        return Err(Error::malformed("PKCS#7 bundle", "it holds no certificate"));
    }
    Ok(found)
}

fn context(value: &AnyRef<'_>, wanted: u32) -> Result<(), der::Error> {
    match value.tag() {
        Tag::ContextSpecific {
            number: TagNumber(number),
            constructed: true,
        } if number == wanted => Ok(()),
        other => Err(other.value_error().into()),
    }
}

/// `id-signedData` (RFC 5652 section 5.1).
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_bundle() {
        for der in [
            &b""[..],
            b"0",
            b"\x30\x80\x06\x09",
            b"\x30\x03\x02\x01\x00",
            b"-----BEGIN PKCS7-----",
        ] {
            assert!(matches!(
                certificates_from_pkcs7(der),
                Err(Error::Malformed { .. })
            ));
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = certificates_from_pkcs7(&bytes);
        }
    }
}
