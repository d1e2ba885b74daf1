//! Where full tokens stand in a file.

use std::fmt;
use std::ops::Range;

use super::collect::{FileKind, NodeFile};
use crate::token::{Known, Whose};

/// What becomes of a full token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It pins a hash of this cluster and gets the wanted one.
    Rewritten(Whose),
    /// It pins the wanted hash.
    Right,
    /// It stands in a comment.
    Comment,
    /// It pins a hash that nothing ties to this cluster.
    Stranger,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rewritten(whose) => write!(f, "pins {whose}"),
            Self::Right => f.write_str("is right already"),
            Self::Comment => f.write_str("stands in a comment; left alone"),
            Self::Stranger => f.write_str(
                "pins a CA that is not known to be this cluster's; left alone (name its hash with \
                 --from-hash if it is)",
            ),
        }
    }
}

/// A full token in a file. Its secret is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// The bytes of its hash.
    pub hash_at: Range<usize>,
    /// Its line, from 1.
    pub line: usize,
    /// The setting that it is given to: `token`, `K3S_TOKEN`, `--token`; empty where none stands
    /// before it.
    pub setting: String,
    /// Its hash, as written.
    pub hash: String,
    /// Its user, or the id of a bootstrap token.
    pub user: String,
    /// What becomes of it.
    pub fate: Fate,
}

/// Settings that hold a token.
pub(super) const SETTINGS: [&str; 12] = [
    "token",
    "agent-token",
    "token+",
    "agent-token+",
    "--token",
    "-t",
    "--agent-token",
    "K3S_TOKEN",
    "K3S_AGENT_TOKEN",
    "--cluster-secret",
    "cluster-secret",
    "K3S_CLUSTER_SECRET",
];

const HASH: usize = 64;

/// Every full token of a file: `K10`, 64 hex digits, `::`, however it is quoted.
///
/// `wanted` is the hash that tokens shall pin.
pub fn occurrences(file: &NodeFile, known: &Known, wanted: &str) -> Vec<Occurrence> {
    let bytes = file.entry.bytes().unwrap_or_default();
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = find(bytes, b"K10", from) {
        from = at + 3;
        let hash_at = from..from + HASH;
        let Some(hash) = hash_in(bytes, &hash_at) else {
            continue;
        };
        from = hash_at.end;
        let lower = hash.to_ascii_lowercase();
        let fate = match known.whose(&lower) {
            _ if in_comment(bytes, at, file.kind) => Fate::Comment,
            _ if hash == wanted => Fate::Right,
            // K3s compares letter by letter, so capitals are never right.
            Some(whose) => Fate::Rewritten(whose.clone()),
            None if lower == wanted => Fate::Rewritten(Whose::Present),
            None => Fate::Stranger,
        };
        found.push(Occurrence {
            line: line_of(bytes, at),
            setting: setting_before(bytes, at).to_owned(),
            hash,
            user: user_after(bytes, hash_at.end + 2),
            fate,
            hash_at,
        });
    }
    found
}

/// The hash in that place, if it is one and `::` follows.
fn hash_in(bytes: &[u8], at: &Range<usize>) -> Option<String> {
    let hash = bytes.get(at.clone())?;
    let follows = bytes.get(at.end..)?.starts_with(b"::");
    let hex = hash.iter().all(u8::is_ascii_hexdigit);
    (follows && hex).then(|| String::from_utf8_lossy(hash).into_owned())
}

/// What stands before the secret: `server`, `node`, or a bootstrap token's id.
fn user_after(bytes: &[u8], at: usize) -> String {
    let rest = bytes.get(at..).unwrap_or_default();
    let end = rest
        .iter()
        .position(|byte| !byte.is_ascii_alphanumeric())
        .unwrap_or(rest.len());
    let user = rest.get(..end).unwrap_or_default();
    // Anything else might be a part of the secret.
    match rest.get(end) {
        Some(b':') if matches!(user, b"" | b"server" | b"node") => text(user),
        Some(b'.') if user.len() == 6 => text(user),
        _ => String::new(),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The setting to which the value at `at` is given, of those that hold tokens. Looks past quotes,
/// equals signs, colons, blanks and a continued line.
pub(super) fn setting_before(bytes: &[u8], at: usize) -> &'static str {
    let before = bytes.get(..at).unwrap_or_default();
    let between = |byte: &&u8| !b"\"'=: \t\r\n\\".contains(byte);
    let end = before.iter().rev().position(|byte| between(&byte));
    let end = end.map_or(0, |back| before.len() - back);
    let before = before.get(..end).unwrap_or_default();
    let in_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_+".contains(byte);
    let start = before.iter().rev().position(|byte| !in_name(byte));
    let start = start.map_or(0, |back| before.len() - back);
    let name = before.get(start..).unwrap_or_default();
    SETTINGS
        .into_iter()
        .find(|setting| setting.as_bytes() == name)
        .unwrap_or_default()
}

/// Whether the place lies in a comment: a line that begins with `#` or `;`, or in YAML what
/// follows ` #` outside of quotes.
pub(super) fn in_comment(bytes: &[u8], at: usize, kind: FileKind) -> bool {
    let start = bytes
        .get(..at)
        .and_then(|before| before.iter().rposition(|byte| *byte == b'\n'))
        .map_or(0, |newline| newline + 1);
    let line = bytes.get(start..at).unwrap_or_default();
    let first = line.iter().find(|byte| !b" \t".contains(byte));
    match kind {
        FileKind::Token => false,
        FileKind::Words => matches!(first, Some(b'#' | b';')),
        FileKind::Yaml => {
            let mut quote = None;
            let mut previous = b' ';
            for byte in line.iter().copied() {
                match (byte, quote) {
                    (b'#', None) if b" \t".contains(&previous) => return true,
                    (b'"' | b'\'', None) => quote = Some(byte),
                    (_, Some(open)) if byte == open => quote = None,
                    _ => {}
                }
                previous = byte;
            }
            false
        }
    }
}

pub(super) fn line_of(bytes: &[u8], at: usize) -> usize {
    let before = bytes.get(..at).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

pub(super) fn find(bytes: &[u8], wanted: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    let at = rest.windows(wanted.len()).position(|it| it == wanted)?;
    Some(from + at)
}
