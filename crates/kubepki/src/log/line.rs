//! One line: the record between its number and its hash.

use std::fmt;

use pki::{Digest, hex, sha256};
use serde::Deserialize;

use super::{Issued, Place};

/// A record as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1.
    pub seq: u64,
    /// The hash of the record before.
    pub prev: Digest,
    /// Its own.
    pub hash: Digest,
    /// What it says.
    pub issued: Issued,
    /// Where it stands.
    pub place: Place,
    /// The line, exactly, without its end.
    pub text: String,
}

/// What is wrong with one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It does not have the form of a line.
    Form,
    /// Its hash is not that of its bytes.
    Hash,
    /// Number or predecessor are not what must follow.
    Sequence,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "the line does not have the form of a record",
            Self::Hash => "the line's bytes do not have the hash that stands at its end",
            Self::Sequence => "the record does not follow the one before it",
        })
    }
}

/// What a line says of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) prev: Digest,
    pub(super) hash: Digest,
}

/// Written forms: `{"seq":N,"prev":"H",` … `,"hash":"H"}`.
const BEFORE_SEQ: &str = "{\"seq\":";
const BEFORE_PREV: &str = ",\"prev\":\"";
const BEFORE_HASH: &str = ",\"hash\":\"";
const END: &str = "\"}";
const HEX: usize = 64;
/// Room for a record as most are.
const ROOM: usize = 1024;
const TAIL: usize = BEFORE_HASH.len() + HEX + END.len();

/// The bytes of a record that do not depend on its place: the object without its first brace and
/// its last.
pub(super) fn body(issued: &Issued) -> Result<Vec<u8>, serde_json::Error> {
    let mut text = Vec::with_capacity(ROOM);
    serde_json::to_writer(&mut text, issued)?;
    text.pop();
    if !text.is_empty() {
        text.remove(0);
    }
    Ok(text)
}

/// Adds the line of `body` as record `seq` after `prev` to `buffer`; answers its hash.
pub(super) fn render(buffer: &mut Vec<u8>, seq: u64, prev: &Digest, body: &[u8]) -> Digest {
    let begin = buffer.len();
    let head = format!("{BEFORE_SEQ}{seq}{BEFORE_PREV}{prev}\",");
    buffer.extend_from_slice(head.as_bytes());
    buffer.extend_from_slice(body);
    let hash = sha256(buffer.get(begin..).unwrap_or_default());
    buffer.extend_from_slice(BEFORE_HASH.as_bytes());
    buffer.extend_from_slice(hex(&hash.0).as_bytes());
    buffer.extend_from_slice(END.as_bytes());
    buffer.push(b'\n');
    hash
}

/// What `line` (without its end) says of the chain, once its own hash has been checked.
pub(super) fn link(line: &[u8]) -> Result<Link, Damage> {
    let (content, stored) = split(line).ok_or(Damage::Form)?;
    let hash = sha256(content);
    if hex(&hash.0).as_bytes() != stored {
        return Err(Damage::Hash);
    }
    let text = str::from_utf8(content).map_err(|_| Damage::Form)?;
    let after = text.strip_prefix(BEFORE_SEQ).ok_or(Damage::Form)?;
    let (seq, after) = after.split_once(BEFORE_PREV).ok_or(Damage::Form)?;
    let (prev, _) = after.split_once("\",").ok_or(Damage::Form)?;
    Ok(Link {
        seq: seq.parse().map_err(|_| Damage::Form)?,
        prev: digest(prev.as_bytes()).ok_or(Damage::Form)?,
        hash,
    })
}

/// The serial number in a line, as it is written; whether the line is a record is not looked at. No
/// name can stand for it: quotes in names are escaped.
pub(super) fn serial(line: &[u8]) -> Option<&str> {
    named(line, "\"serial\":\"")
}

/// The same of the hash of the public key.
pub(super) fn spki(line: &[u8]) -> Option<&str> {
    named(line, "\"spki\":\"")
}

fn named<'a>(line: &'a [u8], before: &str) -> Option<&'a str> {
    let (_, after) = str::from_utf8(line).ok()?.split_once(before)?;
    after.split_once('"').map(|(text, _)| text)
}

/// Whether a damaged line still looks like one.
pub(super) fn begins(line: &[u8]) -> bool {
    line.starts_with(BEFORE_SEQ.as_bytes())
}

/// The line as a record.
pub(super) fn entry(line: &[u8], place: Place) -> Result<Entry, Damage> {
    #[derive(Deserialize)]
    struct Whole {
        #[serde(flatten)]
        issued: Issued,
    }
    let link = link(line)?;
    if super::anew::broken(line).is_some() {
        return super::anew::entry(line, link, place);
    }
    let Link { seq, prev, hash } = link;
    let whole: Whole = serde_json::from_slice(line).map_err(|_| Damage::Form)?;
    Ok(Entry {
        seq,
        prev,
        hash,
        issued: whole.issued,
        place,
        text: String::from_utf8_lossy(line).into_owned(),
    })
}

/// The bytes that are hashed, and the hash as it is written.
fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (content, tail) = line.split_at_checked(line.len().checked_sub(TAIL)?)?;
    let stored = tail
        .strip_prefix(BEFORE_HASH.as_bytes())?
        .strip_suffix(END.as_bytes())?;
    Some((content, stored))
}

/// A hash of 64 lower-case digits.
pub(super) fn digest(text: &[u8]) -> Option<Digest> {
    let lower = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    if text.len() != HEX || !text.iter().all(lower) {
        return None;
    }
    let octets = pki::unhex(str::from_utf8(text).ok()?)?;
    Some(Digest(octets.try_into().ok()?))
}
