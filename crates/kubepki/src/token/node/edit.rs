//! What is changed in a node's files, octet by octet.

use zeroize::Zeroizing;

use super::collect::{FileKind, NodeFile};
use super::scan::{Fate, Occurrence, SETTINGS, find, in_comment, line_of, setting_before};
use crate::init::Staged;
use crate::plan::Plan;
use crate::token::draft::{Draft, File, Head};
use crate::token::rotate::Edit;

/// A full token without its secret, with another hash.
pub fn masked(occurrence: &Occurrence, hash: &str) -> String {
    let user = &occurrence.user;
    match user.len() {
        0 => format!("K10{hash}::***"),
        6 if user != "server" => format!("K10{hash}::{user}.***"),
        _ => format!("K10{hash}::{user}:***"),
    }
}

/// The file with `wanted` in place of every hash that is to be rewritten; `None` if there is
/// none. Every other octet stays.
pub fn hash_edits(file: &NodeFile, found: &[Occurrence], wanted: &str) -> Option<Edit> {
    let mut bytes = Zeroizing::new(file.entry.bytes()?.to_vec());
    let mut places = Vec::new();
    for occurrence in found {
        if !matches!(occurrence.fate, Fate::Rewritten(_)) {
            continue;
        }
        bytes
            .get_mut(occurrence.hash_at.clone())
            .filter(|at| at.len() == wanted.len())?
            .copy_from_slice(wanted.as_bytes());
        places.push(place(occurrence.line, &occurrence.setting));
    }
    (!places.is_empty()).then(|| Edit {
        path: file.path.clone(),
        present: file.entry.clone(),
        bytes,
        what: places.join(", "),
    })
}

/// The file with the password `new` in place of `old` wherever it is a token, or the password of
/// a full one; `None` where it is nowhere. Every other octet stays, except that a bare password
/// in YAML is put in quotes.
///
/// `new` must read the same in all of these files: [`crate::token::NewPassword::is_plain`].
pub fn password_edits(file: &NodeFile, old: &str, new: &str) -> Option<Edit> {
    let present = file.entry.bytes()?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(present.len() + 64));
    let mut places = Vec::new();
    let (mut copied, mut from) = (0, 0);
    while let Some(at) = find(present, old.as_bytes(), from) {
        from = at + 1;
        let end = at + old.len();
        let Some(setting) = token_at(file, present, at, end) else {
            continue;
        };
        from = end;
        bytes.extend_from_slice(present.get(copied..at)?);
        let before = at.checked_sub(1).and_then(|at| present.get(at));
        // Without quotes YAML takes some words for numbers.
        let bare = file.kind == FileKind::Yaml && !matches!(before, Some(b'"' | b'\'' | b':'));
        if bare {
            bytes.push(b'"');
        }
        bytes.extend_from_slice(new.as_bytes());
        if bare {
            bytes.push(b'"');
        }
        copied = end;
        places.push(place(line_of(present, at), setting));
    }
    bytes.extend_from_slice(present.get(copied..)?);
    (!places.is_empty()).then(|| Edit {
        path: file.path.clone(),
        present: file.entry.clone(),
        bytes,
        what: places.join(", "),
    })
}

/// The setting whose token ends with the password between `at` and `end`, if it is one.
fn token_at(file: &NodeFile, bytes: &[u8], at: usize, end: usize) -> Option<&'static str> {
    let ends = match bytes.get(end) {
        None => true,
        Some(byte) => byte.is_ascii_whitespace() || b"\"'".contains(byte),
    };
    if !ends || in_comment(bytes, at, file.kind) {
        return None;
    }
    let start = token_start(bytes, at);
    if file.kind == FileKind::Token {
        let before = bytes.get(..start)?;
        let after = bytes.get(end..)?;
        let blank = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_whitespace);
        return (blank(before) && blank(after)).then_some("");
    }
    let separated = start
        .checked_sub(1)
        .and_then(|before| bytes.get(before))
        .is_some_and(|byte| byte.is_ascii_whitespace() || b"\"'=".contains(byte));
    let setting = setting_before(bytes, start);
    (separated && SETTINGS.contains(&setting)).then_some(setting)
}

/// Where the token begins whose password begins at `at`.
fn token_start(bytes: &[u8], at: usize) -> usize {
    let before = bytes.get(..at).unwrap_or_default();
    for user in ["server:", "node:", ":"] {
        let Some(rest) = before.strip_suffix(user.as_bytes()) else {
            continue;
        };
        let Some(rest) = rest.strip_suffix(b"::") else {
            continue;
        };
        let hex = rest.iter().rev().take_while(|it| it.is_ascii_hexdigit());
        // `K10` ends in digits too.
        let digits = hex.count();
        let start = match digits {
            66 => rest.len() - 67,
            2 => rest.len() - 3,
            _ => continue,
        };
        if rest.get(start..start + 3) == Some(b"K10") {
            return start;
        }
    }
    at
}

/// `token in line 3`.
fn place(line: usize, setting: &str) -> String {
    match setting {
        "" => format!("line {line}"),
        setting => format!("{setting} in line {line}"),
    }
}

/// Plans edits and nothing else.
pub fn plan_edits(head: &Head<'_>, title: &str, edits: &[Edit]) -> (Plan, Vec<Staged>) {
    let mut draft = Draft::default();
    draft.edit(edits, "");
    let note = "K3s reads these files when it starts; nothing needs a restart now";
    draft.notes.push(note.to_owned());
    draft.finish(head, title.to_owned())
}

impl Draft {
    /// Puts edited files in place: owner, mode and labels stay.
    pub(in crate::token) fn edit(&mut self, edits: &[Edit], reason: &str) {
        for (index, edit) in edits.iter().enumerate() {
            let file = File {
                path: edit.path.clone(),
                present: Some(&edit.present),
                mode: edit.present.attributes.mode,
                stamp: None,
                name: &format!("config-{}", index + 1),
                bytes: edit.bytes.clone(),
            };
            self.put(file, &format!("{reason}{}", edit.what));
        }
    }
}
