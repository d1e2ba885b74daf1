//! Protocol buffers' wire format, as far as stored Kubernetes objects need it: varints,
//! fixed-width numbers and length-delimited fields. Groups, which Kubernetes never writes, are an
//! error.

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Torn;

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A varint or a fixed-width number: none of them is looked at.
    Number,
    /// A text, octets or a message.
    Bytes(&'a [u8]),
}

/// The fields of a message, in order; ends after the first that is torn.
pub(super) fn fields(bytes: &[u8]) -> impl Iterator<Item = Result<(u64, Value<'_>), Torn>> {
    let mut left = bytes;
    std::iter::from_fn(move || {
        if left.is_empty() {
            return None;
        }
        match field(left) {
            Some((number, value, rest)) => {
                left = rest;
                Some(Ok((number, value)))
            }
            None => {
                left = &[];
                Some(Err(Torn))
            }
        }
    })
}

fn field(bytes: &[u8]) -> Option<(u64, Value<'_>, &[u8])> {
    let (key, rest) = varint(bytes)?;
    let number = key >> 3;
    if number == 0 {
        return None;
    }
    let (value, rest) = match key & 7 {
        0 => (Value::Number, varint(rest)?.1),
        1 => (Value::Number, rest.get(8..)?),
        5 => (Value::Number, rest.get(4..)?),
        2 => {
            let (length, rest) = varint(rest)?;
            let length = usize::try_from(length).ok()?;
            let (value, rest) = rest.split_at_checked(length)?;
            (Value::Bytes(value), rest)
        }
        _ => return None,
    };
    Some((number, value, rest))
}

/// At most ten octets, and no more than 64 bits.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number: u64 = 0;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        let part = u64::from(byte & 0x7f);
        if at == 9 && part > 1 {
            return None;
        }
        number |= part << (7 * at);
        if byte & 0x80 == 0 {
            return Some((number, bytes.get(at + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_kind_of_field_is_passed_over() {
        // 1: varint 300; 2: "ab"; 3: eight octets; 4: four octets; 16: empty.
        let bytes = [
            0x08, 0xac, 0x02, 0x12, 2, b'a', b'b', 0x19, 0, 0, 0, 0, 0, 0, 0, 0, 0x25, 0, 0, 0, 0,
            0x82, 0x01, 0,
        ];
        let read: Result<Vec<_>, Torn> = fields(&bytes).collect();
        let expected = [
            (1, Value::Number),
            (2, Value::Bytes(b"ab")),
            (3, Value::Number),
            (4, Value::Number),
            (16, Value::Bytes(b"")),
        ];
        assert_eq!(read.unwrap(), expected);
    }

    #[test]
    fn torn_messages_are_told() {
        for bytes in [
            &[0x08][..],
            &[0x12, 3, b'a', b'b'],
            &[0x19, 0, 0],
            &[0x25, 0],
            &[0x0b, 0x0c],
            &[0x00, 0x00],
            &[0xff; 11],
            &[
                0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
            ],
        ] {
            let read: Result<Vec<_>, Torn> = fields(bytes).collect();
            assert_eq!(read, Err(Torn), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(fields(&bytes).count() <= bytes.len());
        }
    }
}
