//! PEM as Go reads it and as K3s writes it.
//!
//! Kubernetes reads every PEM file with Go's `encoding/pem`: text between blocks is ignored,
//! blocks that do not decode are skipped, and a file may mix labels. A stricter reader would
//! call files broken that every component accepts, so this one follows that rule. What is
//! written is canonical (RFC 7468): 64 columns, LF, no headers.

use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use zeroize::Zeroizing;

/// One PEM block.
pub struct Block {
    /// The text after `BEGIN`: `CERTIFICATE`.
    pub label: String,
    /// Whether RFC 1421 headers stand before the data (`Proc-Type`, `DEK-Info`).
    pub headers: Vec<String>,
    /// The decoded bytes; they may be a key.
    pub der: Zeroizing<Vec<u8>>,
}

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"\n-----END ";
const DASHES: &[u8] = b"-----";

/// Go's decoder does not look at the bits that padding leaves over.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Every well-formed block of `text`, in order; anything else is skipped.
///
/// A block reaches from an `END` line back to the last `BEGIN` line before it, so a block that
/// was cut off does not swallow the next one.
pub fn blocks(text: &[u8]) -> Vec<Block> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(end) = text.get(from..).and_then(|rest| find(rest, END)) {
        let end = from + end;
        let trailer = end + END.len();
        from = match block_between(text, from, end) {
            Attempt::Found(block, next) => {
                found.push(block);
                next
            }
            Attempt::Nothing { read_to } if read_to <= trailer => trailer,
            // A line that looks like a header went past the `END`: Go gives up here.
            Attempt::Nothing { .. } => return found,
        };
    }
    found
}

enum Attempt {
    /// A block, and where to go on.
    Found(Block, usize),
    /// No block, and how far lines were read.
    Nothing { read_to: usize },
}

/// The block that ends with the line feed at `end`, if it begins after `from`.
fn block_between(text: &[u8], from: usize, end: usize) -> Attempt {
    let nothing = Attempt::Nothing { read_to: from };
    let head = text.get(from..end).unwrap_or_default();
    let Some(begin) = head.windows(BEGIN.len()).rposition(|w| w == BEGIN) else {
        return nothing;
    };
    let starts_line = begin == 0 || head.get(begin - 1) == Some(&b'\n');
    let (line, mut at) = line_at(text, from + begin + BEGIN.len());
    let Some(label) = line.strip_suffix(DASHES).filter(|_| starts_line) else {
        return nothing;
    };
    let mut headers = Vec::new();
    loop {
        let (line, next) = line_at(text, at);
        if !line.contains(&b':') {
            break;
        }
        headers.push(String::from_utf8_lossy(line).trim().to_owned());
        at = next;
    }
    let nothing = Attempt::Nothing { read_to: at };
    if !headers.is_empty() && end < at {
        return nothing;
    }
    let (last, next) = line_at(text, end + END.len());
    if last.strip_suffix(DASHES) != Some(label) {
        return nothing;
    }
    let body = text.get(at..end).unwrap_or_default();
    match decode(body) {
        None => nothing,
        Some(der) => Attempt::Found(
            Block {
                label: String::from_utf8_lossy(label).into_owned(),
                headers,
                der,
            },
            next,
        ),
    }
}

fn decode(body: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut data = Zeroizing::new(Vec::with_capacity(body.len()));
    data.extend(body.iter().filter(|byte| !b" \t\r\n".contains(byte)));
    LENIENT.decode(data.as_slice()).ok().map(Zeroizing::new)
}

/// The line that begins at `at`, without what is blank at its end, and where the next one begins.
fn line_at(text: &[u8], at: usize) -> (&[u8], usize) {
    let rest = text.get(at..).unwrap_or_default();
    // A carriage return belongs to the line feed after it; alone it is text.
    let (mut line, next) = match rest.iter().position(|byte| *byte == b'\n') {
        Some(feed) => {
            let line = rest.get(..feed).unwrap_or_default();
            (line.strip_suffix(b"\r").unwrap_or(line), feed + 1)
        }
        None => (rest, rest.len()),
    };
    while let [shorter @ .., b' ' | b'\t'] = line {
        line = shorter;
    }
    (line, at + next)
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len())
        .position(|window| window == wanted)
}

/// One block in canonical form, with the final LF.
pub fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    Zeroizing::new(framed(label, &body))
}

/// The same for what is no secret, so that nothing has to be wiped.
pub(crate) fn encode_public(label: &str, der: &[u8]) -> String {
    framed(label, &STANDARD.encode(der))
}

fn framed(label: &str, body: &str) -> String {
    // All at once: a buffer that moved would leave a copy of a key behind.
    let frame = "-----BEGIN -----\n-----END -----\n".len() + 2 * label.len();
    let mut text = String::with_capacity(frame + body.len() + body.len().div_ceil(64));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body;
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn skips_what_is_not_a_block() {
        let good = encode("CERTIFICATE", b"abc");
        let text = format!(
            "subject=CN = x\n-----BEGIN JUNK-----\n!!!\n-----END JUNK-----\n{}trailing\n\
             -----BEGIN CUT-----\nYWJj\n{}",
            *good, *good
        );
        let labels: Vec<_> = blocks(text.as_bytes())
            .into_iter()
            .map(|b| b.label)
            .collect();
        assert_eq!(labels, ["CERTIFICATE", "CERTIFICATE"]);
    }

    #[test]
    fn keeps_headers_apart() {
        let text = "-----BEGIN RSA PRIVATE KEY-----\r\nProc-Type: 4,ENCRYPTED\r\n\
                    DEK-Info: AES-256-CBC,00\r\n\r\nYWJj\r\n-----END RSA PRIVATE KEY-----\r\n";
        let found = blocks(text.as_bytes());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].headers.len(), 2);
        assert_eq!(found[0].der.as_slice(), b"abc");
    }

    proptest! {
        #[test]
        fn round_trips(label in "[A-Z][A-Z0-9 ]{0,20}[A-Z]", der in proptest::collection::vec(any::<u8>(), 0..500)) {
            let text = encode(&label, &der);
            prop_assert_eq!(text.as_str(), encode_public(&label, &der));
            prop_assert_eq!(text.len(), text.capacity());
            prop_assert!(text.lines().all(|line| line.len() <= 64 || line.starts_with("-----")));
            let found = blocks(text.as_bytes());
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(&found[0].label, &label);
            prop_assert_eq!(found[0].der.as_slice(), der.as_slice());
        }

        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = blocks(&text);
        }
    }
}
