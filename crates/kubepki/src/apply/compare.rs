//! What is there, against what should be.

use crate::host::{Attributes, Entry};
use crate::journal::Found;
use crate::plan::{Before, Fingerprint, FingerprintKind};

/// What a read answered, without the bytes.
pub fn found(entry: Option<&Entry>) -> Found {
    match entry {
        Some(entry) => Found::Present(Fingerprint::of(entry)),
        None => Found::Absent,
    }
}

/// What a condition asks for; `None` when it asks for nothing.
pub(super) fn required(before: &Before) -> Option<Found> {
    match before {
        Before::Absent => Some(Found::Absent),
        Before::Present(fingerprint) => Some(Found::Present(fingerprint.clone())),
        Before::Revision(revision) => Some(Found::Revision(*revision)),
        Before::RevisionOfStep(_) | Before::LeftBy(_) | Before::Any => None,
    }
}

/// What counts in a comparison besides kind, content, mode and owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// Is this still what the plan was made for? ACL and label too; not the time, which K3s
    /// changes by writing the same bytes again.
    Before,
    /// Is this what the step was to leave? The time too, if the step sets one (directories
    /// excepted: their time moves with their content); not the ACL, which the mode may narrow.
    After,
}

/// How `found` differs from `expected`, in words; `None` when it does not. Attributes of
/// `expected` that are `None` are not compared, except that no ACL means none.
pub(super) fn difference(expected: &Found, found: &Found, care: Care) -> Option<String> {
    match (expected, found) {
        (Found::Present(expected), Found::Present(found)) => {
            kind_difference(&expected.kind, &found.kind).or_else(|| {
                let is_directory = found.kind == FingerprintKind::Directory;
                attribute_difference(&expected.attributes, &found.attributes, care, is_directory)
            })
        }
        (expected, found) if expected == found => None,
        (expected, found) => Some(format!(
            "expected {}, found {}",
            describe(expected),
            describe(found)
        )),
    }
}

fn kind_difference(expected: &FingerprintKind, found: &FingerprintKind) -> Option<String> {
    (expected != found).then(|| {
        format!(
            "expected {}, found {}",
            describe_kind(expected),
            describe_kind(found)
        )
    })
}

fn attribute_difference(
    expected: &Attributes,
    found: &Attributes,
    care: Care,
    is_directory: bool,
) -> Option<String> {
    if expected.mode != found.mode {
        return Some(format!(
            "expected mode {:04o}, found {:04o}",
            expected.mode, found.mode
        ));
    }
    let other = |wanted: Option<u32>, found: Option<u32>| wanted.is_some() && wanted != found;
    if other(expected.uid, found.uid) || other(expected.gid, found.gid) {
        let owner = |attributes: &Attributes| {
            let id = |id: Option<u32>| id.map_or_else(|| "any".to_owned(), |id| id.to_string());
            format!("{}:{}", id(attributes.uid), id(attributes.gid))
        };
        return Some(format!(
            "expected owner {}, found {}",
            owner(expected),
            owner(found)
        ));
    }
    match care {
        Care::Before if expected.acl != found.acl => Some("its access control list changed".into()),
        Care::Before if expected.label.is_some() && expected.label != found.label => {
            Some("its SELinux label changed".into())
        }
        Care::After if !is_directory => time_difference(expected.mtime, found.mtime),
        _ => None,
    }
}

/// Whole seconds only: some file systems keep no more.
fn time_difference(expected: Option<(i64, u32)>, found: Option<(i64, u32)>) -> Option<String> {
    let ((expected, _), (found, _)) = (expected?, found?);
    (expected != found).then(|| {
        let time = pki::UnixTime::from_secs;
        format!(
            "expected modification time {}, found {}",
            time(expected),
            time(found)
        )
    })
}

pub(super) fn describe(found: &Found) -> String {
    match found {
        Found::Absent => "nothing".to_owned(),
        Found::Present(fingerprint) => describe_kind(&fingerprint.kind),
        Found::Revision(revision) => format!("revision {revision}"),
        Found::Value { revision, sha256 } => match revision {
            Some(revision) => format!("revision {revision}"),
            None => format!("a value with SHA-256 {sha256}"),
        },
        Found::Set(files) => format!("{} files", files.len()),
        Found::Stateless => "no state".to_owned(),
    }
}

fn describe_kind(kind: &FingerprintKind) -> String {
    match kind {
        FingerprintKind::File(sha256) => format!("a file with SHA-256 {sha256}"),
        FingerprintKind::Directory => "a directory".to_owned(),
        FingerprintKind::Link(target) => format!("a link to {}", target.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str, change: impl FnOnce(&mut Attributes)) -> Found {
        let mut attributes = Attributes {
            uid: Some(0),
            gid: Some(0),
            mtime: Some((1_700_000_000, 7)),
            ..Attributes::new(0o600)
        };
        change(&mut attributes);
        Found::Present(Fingerprint {
            kind: FingerprintKind::File(content.to_owned()),
            attributes,
        })
    }

    #[test]
    fn what_counts_depends_on_the_question() {
        let same = file("a", |_| ());
        let cases: [(Found, bool, bool); 9] = [
            (same.clone(), false, false),
            (Found::Absent, true, true),
            (file("b", |_| ()), true, true),
            (file("a", |it| it.mode = 0o644), true, true),
            (file("a", |it| it.uid = Some(1)), true, true),
            (file("a", |it| it.gid = Some(1)), true, true),
            (file("a", |it| it.acl = Some("x".to_owned())), true, false),
            (
                file("a", |it| it.mtime = Some((1_700_000_001, 0))),
                false,
                true,
            ),
            (
                file("a", |it| it.mtime = Some((1_700_000_000, 0))),
                false,
                false,
            ),
        ];
        for (found, before, after) in cases {
            assert_eq!(
                difference(&same, &found, Care::Before).is_some(),
                before,
                "{found:?}"
            );
            assert_eq!(
                difference(&same, &found, Care::After).is_some(),
                after,
                "{found:?}"
            );
        }
    }

    #[test]
    fn what_is_not_asked_for_is_not_compared() {
        let attributes = Attributes::new(0o600);
        let kind = FingerprintKind::File("a".to_owned());
        let asked = Found::Present(Fingerprint { kind, attributes });
        assert_eq!(difference(&asked, &file("a", |_| ()), Care::After), None);
        let labelled = file("a", |it| it.label = Some("x".to_owned()));
        assert_eq!(difference(&asked, &labelled, Care::Before), None);
        assert!(difference(&labelled, &file("a", |_| ()), Care::Before).is_some());
    }
}
