//! Where tokens that pin a CA stand in a file.

use std::fmt;
use std::ops::Range;

use pki::{Certificate, Digest, UnixTime};

use super::collect::{FileKind, NodeFile};
use super::pinned::pin_set;
use crate::token::pins::{keys_led_to, pins_of};
use crate::token::{Known, Whose};

/// What tokens shall pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinning {
    /// The CA's hash, for full tokens.
    pub hash: String,
    /// The same CA's keys, for pin sets; none where only the hash is known.
    pub keys: Option<PinnedKeys>,
}

/// Keys of a CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedKeys {
    /// What a pin set gets that has none of the others.
    pub own: Vec<Digest>,
    /// By any of these a client believes a server of that CA.
    pub led_to: Vec<Digest>,
    /// The keys of all certificates in the CA's file, if it is in force: pins of former CAs' keys
    /// go. `None` for one that is still to come: until then what is pinned stays pinned.
    pub in_force: Option<Vec<Digest>>,
}

impl PinnedKeys {
    /// Of a server CA's file that is to be put in force.
    ///
    /// # Errors
    ///
    /// When it holds no certificates.
    pub fn to_come(file: &[u8], now: UnixTime) -> Result<Self, pki::Error> {
        let certificates = Certificate::all_from_pem(file)?;
        Ok(Self {
            own: pins_of(&certificates, now),
            led_to: keys_led_to(&certificates, now),
            in_force: None,
        })
    }

    /// Of the server CA's file in force.
    ///
    /// # Errors
    ///
    /// When it holds no certificates.
    pub fn in_force(file: &[u8], now: UnixTime) -> Result<Self, pki::Error> {
        let certificates = Certificate::all_from_pem(file)?;
        let keys = certificates.iter().map(Certificate::spki_sha256);
        Ok(Self {
            in_force: Some(keys.collect()),
            ..Self::to_come(file, now)?
        })
    }
}

/// What becomes of a token.
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
    /// A pin set that has a key which leads to the CA.
    Holds,
    /// A pin set with a key of this cluster, but none that leads to the CA: the CA's is added.
    Extended,
    /// A pin set with keys of former CAs: they go, for whoever has such a key could pass for the
    /// cluster, and the CA's stay or come.
    Replaced,
    /// A pin set that is left alone, and is not known to be good: why, and what to do.
    Kept(&'static str),
}

impl Fate {
    /// Whether the token is left as it is although it may be useless.
    pub fn is_doubtful(&self) -> bool {
        matches!(self, Self::Stranger | Self::Kept(_))
    }

    /// Whether the file changes.
    pub fn is_edit(&self) -> bool {
        matches!(self, Self::Rewritten(_) | Self::Extended | Self::Replaced)
    }
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
            Self::Holds => f.write_str("pins a key that leads to the CA; good as it is"),
            Self::Extended => {
                f.write_str("pins other keys of this cluster only; the CA's is added")
            }
            Self::Replaced => f.write_str("pins keys of former CAs; only the CA's are left"),
            Self::Kept(why) => write!(f, "is a pin set {why}; left alone"),
        }
    }
}

/// A token in a file. Its secret is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// The bytes between `K10` and `::`.
    pub at: Range<usize>,
    /// Its line, from 1.
    pub line: usize,
    /// The setting that it is given to: `token`, `K3S_TOKEN`, `--token`; empty where none stands
    /// before it.
    pub setting: String,
    /// Its hash or pin set, as written.
    pub pinned: String,
    /// What shall stand there: the same, unless its fate is an edit.
    pub becomes: String,
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

/// Every token of a file that pins a CA: `K10`, 64 hex digits or a pin set, `::`, however it is
/// quoted.
pub fn occurrences(file: &NodeFile, known: &Known, wanted: &Pinning) -> Vec<Occurrence> {
    let bytes = file.entry.bytes().unwrap_or_default();
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = find(bytes, b"K10", from) {
        from = at + 3;
        let Some((end, pinned, fate, becomes)) = full(bytes, from, known, wanted)
            .or_else(|| pin_set(bytes, from, known, wanted.keys.as_ref()))
        else {
            continue;
        };
        let (fate, becomes) = match in_comment(bytes, at, file.kind) {
            true => (Fate::Comment, pinned.clone()),
            false => (fate, becomes),
        };
        found.push(Occurrence {
            at: from..end,
            line: line_of(bytes, at),
            setting: setting_before(bytes, at).to_owned(),
            pinned,
            becomes,
            user: user_after(bytes, end + 2),
            fate,
        });
        from = end;
    }
    found
}

/// Where it ends, what stands there, what becomes of it, and what shall stand there.
pub(super) type Seen = (usize, String, Fate, String);

/// A full token, whose hash begins at `from`.
fn full(bytes: &[u8], from: usize, known: &Known, wanted: &Pinning) -> Option<Seen> {
    let at = from..from + HASH;
    let hash = hash_in(bytes, &at)?;
    let lower = hash.to_ascii_lowercase();
    let fate = match known.whose(&lower) {
        _ if hash == wanted.hash => Fate::Right,
        // K3s compares letter by letter, so capitals are never right.
        Some(whose) => Fate::Rewritten(whose.clone()),
        None if lower == wanted.hash => Fate::Rewritten(Whose::Present),
        None => Fate::Stranger,
    };
    let becomes = if fate.is_edit() { &wanted.hash } else { &hash };
    let becomes = becomes.clone();
    Some((at.end, hash, fate, becomes))
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
