//! A set of CAs in words.

use std::fmt::Write as _;
use std::path::PathBuf;

use kubepki::bootstrap::Field;
use kubepki::ca::{CaName, Places, StagedSet};
use pki::Certificate;

/// What was made, what it changes, and what to do next. No secrets.
pub fn text(set: &StagedSet, places: &Places<'_>, safe: &[PathBuf], next: &str) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "Made ({}): {}",
        set.kind,
        places.out.join("tls").display()
    );
    for ca in CaName::ALL {
        let Some(file) = set.bundle.content(ca.field()) else {
            continue;
        };
        let file = Certificate::all_from_pem(file).unwrap_or_default();
        let Some(first) = file.first() else { continue };
        let _ = writeln!(
            text,
            "  {:<15} {}, until {}",
            ca.label(),
            first.subject(),
            first.validity().not_after
        );
        for (index, other) in file.iter().enumerate().skip(1) {
            let served = set
                .served
                .get(&ca)
                .is_some_and(|chain| chain.contains(other));
            let role = match (
                other.is_self_issued(),
                set.cross.iter().any(|it| it.certificate == *other),
            ) {
                (_, true) => format!("cross-certificate by {}", other.issuer()),
                (true, _) => "root".to_owned(),
                (false, _) => "intermediate".to_owned(),
            };
            let served = if served { "" } else { ", not served" };
            let _ = writeln!(
                text,
                "  {:<15} {index}. {}, {role}{served}",
                "",
                other.subject()
            );
        }
    }
    if let Some(keys) = set.bundle.content(Field::ServiceKey) {
        let keys = pki::PrivateKey::all_from_pem(keys).map_or(0, |keys| keys.len());
        let others = match keys.saturating_sub(1) {
            0 => "no other is accepted".to_owned(),
            1 => "the one before it stays valid".to_owned(),
            more => format!("the {more} before it stay valid"),
        };
        let _ = writeln!(text, "  service.key     a new key signs; {others}");
    }
    hash(set, &mut text);
    for note in &set.notes {
        let _ = writeln!(text, "Note: {note}");
    }
    if !safe.is_empty() {
        text.push_str("Back these up, and keep them off every node:\n");
        for path in safe {
            let _ = writeln!(text, "  {}", path.display());
        }
    }
    let _ = writeln!(text, "{next}");
    text
}

fn hash(set: &StagedSet, text: &mut String) {
    let after = set.hash.after;
    let _ = match set.hash.before {
        Some(before) if before == after => {
            writeln!(text, "Tokens stay as they are (CA hash {after}).")
        }
        Some(before) => writeln!(
            text,
            "Tokens that pin the CA change: hash {before}\n                            \
             becomes {after}"
        ),
        None => writeln!(text, "Tokens will pin the CA hash {after}."),
    };
}
