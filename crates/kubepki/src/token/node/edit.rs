//! What is changed in a node's files, octet by octet.

use zeroize::Zeroizing;

use super::collect::{FileKind, NodeFile};
use super::scan::{Occurrence, SETTINGS, find, in_comment, line_of, setting_before};
use crate::init::Staged;
use crate::plan::Plan;
use crate::token::draft::{Draft, File, Head};
use crate::token::rotate::Edit;

/// A token without its secret, that pins `hash` or those keys.
pub fn masked(occurrence: &Occurrence, hash: &str) -> String {
    let user = &occurrence.user;
    match user.len() {
        0 => format!("K10{hash}::***"),
        6 if user != "server" => format!("K10{hash}::{user}.***"),
        _ => format!("K10{hash}::{user}:***"),
    }
}

/// The file with what tokens shall pin in the place of what they pin, where that changes; `None` if
/// it does nowhere. Every other octet stays.
pub fn pin_edits(file: &NodeFile, found: &[Occurrence]) -> Option<Edit> {
    let present = file.entry.bytes()?;
    let edited = || found.iter().filter(|it| it.fate.is_edit());
    // A buffer that grows leaves its secrets behind.
    let more: usize = edited().map(|it| it.becomes.len()).sum();
    let mut bytes = Zeroizing::new(Vec::with_capacity(present.len() + more));
    let mut places = Vec::new();
    let mut copied = 0;
    for occurrence in edited() {
        bytes.extend_from_slice(present.get(copied..occurrence.at.start)?);
        bytes.extend_from_slice(occurrence.becomes.as_bytes());
        copied = occurrence.at.end;
        places.push(place(occurrence.line, &occurrence.setting));
    }
    bytes.extend_from_slice(present.get(copied..)?);
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
    pub(crate) fn edit(&mut self, edits: &[Edit], reason: &str) {
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::host::{Attributes, Entry, EntryKind};
    use crate::token::node::Fate;
    use crate::token::{Known, PinnedKeys, Pinning, Rule, occurrences};

    fn by_hash(hash: &str) -> Pinning {
        Pinning {
            hash: hash.to_owned(),
            keys: None,
        }
    }

    const OLD: &str = "fixture-token-0123456789abcdef";
    const NEW: &str = "1e10";

    fn file(kind: FileKind, text: &str) -> NodeFile {
        let path = PathBuf::from("/x");
        NodeFile {
            shown: path.clone(),
            path,
            entry: Entry {
                kind: EntryKind::File(text.as_bytes().to_vec().into()),
                attributes: Attributes::new(0o600),
            },
            kind,
        }
    }

    fn replaced(kind: FileKind, text: &str) -> Option<String> {
        let edit = password_edits(&file(kind, text), OLD, NEW)?;
        Some(String::from_utf8(edit.bytes.to_vec()).unwrap())
    }

    #[test]
    fn passwords_are_replaced_where_they_are_tokens_and_nowhere_else() {
        let hash = "0".repeat(64);
        let full = |user: &str, password: &str| format!("K10{hash}::{user}{password}");
        let yaml = |text: &str| replaced(FileKind::Yaml, text);
        let words = |text: &str| replaced(FileKind::Words, text);
        let cases = [
            // Without quotes it would be the number 10000000000.
            (
                yaml(&format!("a: 1\ntoken: {OLD} # x\n")),
                Some(format!("a: 1\ntoken: \"{NEW}\" # x\n")),
            ),
            (
                yaml(&format!("'token': '{OLD}'\r\n")),
                Some(format!("'token': '{NEW}'\r\n")),
            ),
            (
                yaml(&format!("token: {}", full("server:", OLD))),
                Some(format!("token: {}", full("server:", NEW))),
            ),
            (
                yaml(&format!("token: \"{}\"", full(":", OLD))),
                Some(format!("token: \"{}\"", full(":", NEW))),
            ),
            (
                yaml(&format!(
                    "#token: {OLD}\nnode-name: {OLD}\ntoken: x # {OLD}"
                )),
                None,
            ),
            (yaml(&format!("token: x{OLD}\ntoken: {OLD}x\n")), None),
            (
                words(&format!("K3S_TOKEN={OLD}\nX={OLD}")),
                Some(format!("K3S_TOKEN={NEW}\nX={OLD}")),
            ),
            (
                words(&format!("k3s server --token {OLD} -t={OLD}")),
                Some(format!("k3s server --token {NEW} -t={NEW}")),
            ),
            (
                words(&format!("\t'--token' \\\n\t'{OLD}' \\")),
                Some(format!("\t'--token' \\\n\t'{NEW}' \\")),
            ),
            (
                words(&format!(
                    "Environment=\"K3S_TOKEN={}\"",
                    full("server:", OLD)
                )),
                Some(format!(
                    "Environment=\"K3S_TOKEN={}\"",
                    full("server:", NEW)
                )),
            ),
            (words(&format!("; K3S_TOKEN={OLD}")), None),
            (
                replaced(FileKind::Token, &format!("\n{OLD}\r\n")),
                Some(format!("\n{NEW}\r\n")),
            ),
            (
                replaced(FileKind::Token, &full("server:", OLD)),
                Some(full("server:", NEW)),
            ),
            (replaced(FileKind::Token, &format!("{OLD} {OLD}")), None),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_stranger_and_a_comment_are_seen_and_left() {
        let pem = crate::test_pki::authority("k3s-server-ca@1")
            .certificate()
            .to_pem();
        let known = Known::of(pem.as_bytes(), Rule::Root, crate::test_pki::START).unwrap();
        let (own, wanted, strange) = (known.present().to_string(), "a".repeat(64), "5".repeat(64));
        let text = format!(
            "# K10{own}::server:{OLD}\ntoken: K10{strange}::server:{OLD}\nagent-token: \
             K10{}::abc123.0123456789abcdef\n",
            own.to_uppercase()
        );
        let file = file(FileKind::Yaml, &text);
        let found = occurrences(&file, &known, &by_hash(&wanted));
        let fates: Vec<(usize, &str, &str, &Fate)> = found
            .iter()
            .map(|it| (it.line, it.setting.as_str(), it.user.as_str(), &it.fate))
            .collect();
        let present = Fate::Rewritten(crate::token::Whose::Present);
        assert_eq!(
            fates,
            [
                (1, "", "server", &Fate::Comment),
                (2, "token", "server", &Fate::Stranger),
                (3, "agent-token", "abc123", &present),
            ]
        );
        let edit = pin_edits(&file, &found).unwrap();
        let expected = text.replace(&own.to_uppercase(), &wanted);
        assert_eq!(edit.bytes.as_slice(), expected.as_bytes());
        assert_eq!(
            masked(&found[2], &wanted),
            format!("K10{wanted}::abc123.***")
        );
        assert_eq!(
            masked(&found[1], &strange),
            format!("K10{strange}::server:***")
        );
    }

    #[test]
    fn a_pin_set_gets_the_new_key_where_it_has_none_that_leads_there() {
        use crate::test_pki::{START, authority};
        use pki::Digest;

        let (new, old) = (authority("new"), authority("k3s-server-ca@1"));
        let (new, old) = (new.certificate(), old.certificate());
        let (new_key, old_key) = (new.spki_sha256(), old.spki_sha256());
        let mut known = Known::of(new.to_pem().as_bytes(), Rule::Root, START).unwrap();
        let keys = PinnedKeys::to_come(new.to_pem().as_bytes(), START).unwrap();
        let wanted = Pinning {
            hash: known.present().to_string(),
            keys: Some(keys),
        };
        let strange = Digest([5; 32]);
        let secret = "abc123.0123456789abcdef0123456789abcdef";
        let many: Vec<String> = (1..8).map(|it| Digest([it; 32]).to_string()).collect();
        let full = format!("{old_key}+{}", many.join("+"));
        let text = format!(
            "# K10P1.{old_key}::{secret}\ntoken: 'K10P1.{strange}+{new_key}::{secret}'\n\
             token: K10P1.{old_key}::{secret} # x\ntoken: K10P1.{strange}::{secret}\n\
             token: K10P2.{old_key}::{secret}\ntoken: K10P1.{full}::{secret}\n\
             token: K10P1.{old_key}\ntoken: K10Pool::{secret}\n"
        );
        let file = file(FileKind::Yaml, &text);
        // Of the old key nothing is known yet.
        let unknown = [
            "comment",
            "good as it is",
            "--from",
            "--from",
            "later version",
            "--from",
        ];
        says(&file, &known, &wanted, unknown);
        known
            .add_former(old.to_pem().as_bytes(), "before", START)
            .unwrap();
        let words = [
            "comment",
            "good as it is",
            "is added",
            "--from",
            "later version",
            "no room",
        ];
        says(&file, &known, &wanted, words);
        let found = occurrences(&file, &known, &wanted);
        let edit = pin_edits(&file, &found).unwrap();
        let expected = text.replace(
            &format!("token: K10P1.{old_key}::"),
            &format!("token: K10P1.{old_key}+{new_key}::"),
        );
        assert_eq!(String::from_utf8(edit.bytes.to_vec()).unwrap(), expected);
        assert_eq!(edit.what, "token in line 3");
        let line = expected.lines().nth(2).unwrap();
        let token = line.split(' ').nth(1).unwrap();
        let token = crate::token::Token::parse(token).unwrap();
        assert_eq!(token.pins(), [old_key, new_key]);
        let shown = masked(&found[2], &found[2].becomes);
        assert_eq!(shown, format!("K10P1.{old_key}+{new_key}::abc123.***"));
        // A hash alone tells no key.
        let found = occurrences(&file, &known, &by_hash(&wanted.hash));
        assert!(found[1].fate.to_string().contains("--path"));
    }

    #[test]
    fn a_former_key_goes_from_a_pin_set_once_the_new_one_is_in_force() {
        use crate::test_pki::{START, authority};
        use pki::Digest;

        let (new, old) = (authority("new"), authority("k3s-server-ca@1"));
        let (new, old) = (new.certificate(), old.certificate());
        let (new_key, old_key) = (new.spki_sha256(), old.spki_sha256());
        let mut known = Known::of(new.to_pem().as_bytes(), Rule::Root, START).unwrap();
        let wanted = Pinning {
            hash: known.present().to_string(),
            keys: Some(PinnedKeys::in_force(new.to_pem().as_bytes(), START).unwrap()),
        };
        let strange = Digest([5; 32]);
        let secret = "abc123.0123456789abcdef0123456789abcdef";
        let text = format!(
            "token: K10P1.{old_key}+{new_key}::{secret}\ntoken: K10P1.{old_key}::{secret}\n\
             token: K10P1.{new_key}::{secret}\ntoken: K10P1.{strange}+{new_key}::{secret}\n\
             token: K10P1.{strange}+{old_key}::{secret}\ntoken: K10P1.{strange}::{secret}\n"
        );
        let file = file(FileKind::Yaml, &text);
        let (good, keep) = ("good as it is", "does not hold");
        // Whose the old key is nobody has said: what pins it is not good.
        says(
            &file,
            &known,
            &wanted,
            [keep, "--from", good, keep, "--from", "--from"],
        );
        let found = occurrences(&file, &known, &wanted);
        assert!(found[0].fate.is_doubtful() && pin_edits(&file, &found).is_none());
        known
            .add_former(old.to_pem().as_bytes(), "before", START)
            .unwrap();
        let former = "former CAs; only";
        says(
            &file,
            &known,
            &wanted,
            [former, former, good, keep, keep, "--from"],
        );
        let found = occurrences(&file, &known, &wanted);
        let edit = pin_edits(&file, &found).unwrap();
        let expected = text
            .replace(
                &format!("P1.{old_key}+{new_key}::"),
                &format!("P1.{new_key}::"),
            )
            .replace(&format!("P1.{old_key}::"), &format!("P1.{new_key}::"));
        assert_eq!(String::from_utf8(edit.bytes.to_vec()).unwrap(), expected);
        // An old root that is in the file in force is believed, and stays.
        let both = new.to_pem() + &old.to_pem();
        let wanted = Pinning {
            keys: Some(PinnedKeys::in_force(both.as_bytes(), START).unwrap()),
            ..wanted
        };
        let more = "is added";
        says(
            &file,
            &known,
            &wanted,
            [good, more, good, keep, keep, "--from"],
        );
    }

    /// One token in each line, and what becomes of it.
    fn says(file: &NodeFile, known: &Known, wanted: &Pinning, words: [&str; 6]) {
        let found = occurrences(file, known, wanted);
        assert_eq!(found.len(), words.len(), "{found:?}");
        for ((at, word), occurrence) in words.iter().enumerate().zip(&found) {
            let fate = occurrence.fate.to_string();
            assert!(fate.contains(word), "{fate} {word}");
            assert_eq!(occurrence.line, at + 1);
        }
    }

    proptest! {
        /// Whatever stands around them, edits change nothing but tokens and stay in their place.
        #[test]
        fn everything_else_stays(text in "[ -~\n\t\r]{0,200}", more in "[ -~\n]{0,100}", yaml in any::<bool>()) {
            let kind = if yaml { FileKind::Yaml } else { FileKind::Words };
            let pem = crate::test_pki::authority("k3s-server-ca@1").certificate().to_pem();
            let known = Known::of(pem.as_bytes(), Rule::Root, crate::test_pki::START).unwrap();
            let own = known.present().to_string();
            let wanted = "a".repeat(64);
            let whole = format!("{text}K10{own}::server:pw{more}");
            let file = file(kind, &whole);
            let found = occurrences(&file, &known, &by_hash(&wanted));
            prop_assert!(!found.is_empty());
            match pin_edits(&file, &found) {
                Some(edit) => {
                    let edited = String::from_utf8(edit.bytes.to_vec()).unwrap();
                    prop_assert_eq!(edited.len(), whole.len());
                    prop_assert_eq!(edited.replace(&wanted, &own), whole);
                }
                None => prop_assert!(found.iter().all(|it| it.fate == Fate::Comment)),
            }
        }
    }
}
