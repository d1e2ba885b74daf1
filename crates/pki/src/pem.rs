//! PEM as Go reads it and as K3s writes it.
//!
//! Kubernetes reads every PEM file with Go's `encoding/pem`: text between blocks is ignored,
//! blocks that do not decode are skipped, and a file may mix labels. A stricter reader would
//! call files broken that every component accepts, so this one follows that rule. What is
//! written is canonical (RFC 7468): 64 columns, LF, no headers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
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

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// Every well-formed block of `text`, in order; anything else is skipped.
pub fn blocks(text: &[u8]) -> Vec<Block> {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines();
    let mut found = Vec::new();
    let mut pending: Option<&str> = None;
    loop {
        let Some(line) = pending.take().or_else(|| lines.next()) else {
            return found;
        };
        let Some(label) = label_of(line, BEGIN) else {
            continue;
        };
        let mut headers = Vec::new();
        let mut data = Zeroizing::new(String::new());
        for line in lines.by_ref() {
            if let Some(end) = label_of(line, END) {
                if end == label
                    && let Ok(der) = STANDARD.decode(data.as_bytes())
                {
                    let der = Zeroizing::new(der);
                    found.push(Block {
                        label: label.to_owned(),
                        headers,
                        der,
                    });
                }
                break;
            }
            if label_of(line, BEGIN).is_some() {
                pending = Some(line);
                break;
            }
            if data.is_empty() && line.contains(':') {
                headers.push(line.trim().to_owned());
            } else {
                data.extend(line.chars().filter(|c| !c.is_ascii_whitespace()));
            }
        }
    }
}

/// The label of a `BEGIN` or `END` line.
fn label_of<'a>(line: &'a str, marker: &str) -> Option<&'a str> {
    line.trim_end().strip_prefix(marker)?.strip_suffix(DASHES)
}

/// One block in canonical form, with the final LF.
pub fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 64));
    text.push_str(BEGIN);
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str(END);
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
