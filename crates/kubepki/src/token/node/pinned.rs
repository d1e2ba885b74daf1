//! Pin sets in a node's files: which still lead to the CA, and which get its key.

use pki::Digest;

use super::scan::{Fate, PinnedKeys, Seen};
use crate::token::Known;
use crate::token::pins::Pins;

/// Longer than any pin set of this version: `P1.`, eight pins, seven signs between them.
const LONGEST: usize = 1024;

/// A pin set that begins at `from`, behind `K10`; `None` where none does.
///
/// One of this cluster that has no key which leads to the CA gets the CA's keys behind its own. Once
/// the CA is in force a former one's keys go: one of them may be the reason for the rotation.
pub(super) fn pin_set(
    bytes: &[u8],
    from: usize,
    known: &Known,
    wanted: Option<&PinnedKeys>,
) -> Option<Seen> {
    let rest = bytes.get(from..)?;
    let window = rest.get(..LONGEST.min(rest.len()))?;
    let length = window.windows(2).position(|it| it == b"::")?;
    let text = std::str::from_utf8(window.get(..length)?).ok()?;
    let plain = |it: char| it.is_ascii_alphanumeric() || ".+".contains(it);
    if !text.chars().all(plain) {
        return None;
    }
    let (fate, becomes) = match Pins::parse(text)? {
        Ok(pins) => fate(&pins, known, wanted),
        Err(_) => (
            Fate::Kept("that cannot be read, or of a later version of this program"),
            None,
        ),
    };
    let pinned = text.to_owned();
    let becomes = becomes.unwrap_or_else(|| pinned.clone());
    Some((from + length, pinned, fate, becomes))
}

fn fate(pins: &Pins, known: &Known, wanted: Option<&PinnedKeys>) -> (Fate, Option<String>) {
    let Some(wanted) = wanted else {
        let why = "and a hash tells no key: name the CA's files with --path";
        return (Fate::Kept(why), None);
    };
    let goes = |key: &Digest| {
        wanted
            .in_force
            .as_ref()
            .is_some_and(|all| !all.contains(key))
    };
    let (gone, stay): (Vec<Digest>, Vec<Digest>) = pins.keys().iter().partition(|key| goes(key));
    let leads = stay.iter().any(|key| wanted.led_to.contains(key));
    if leads && gone.is_empty() {
        return (Fate::Holds, None);
    }
    if !leads && !pins.keys().iter().any(|key| known.has_had(*key)) {
        let why = "whose keys are not known to be this cluster's: name the former CA with --from, \
                   or make another with `kubepki token create --role`";
        return (Fate::Kept(why), None);
    }
    if !gone.iter().all(|key| known.has_had(*key)) {
        let why = "with a key that the CA's file does not hold: if it is a former CA's, name that \
                   with --from, for whoever has its key could pass for the cluster; if it is of a \
                   CA to come, nothing is to be done";
        return (Fate::Kept(why), None);
    }
    let new = wanted
        .own
        .iter()
        .filter(|key| !leads && !stay.contains(key));
    let all: Vec<_> = stay.iter().chain(new).copied().collect();
    match Pins::new(&all) {
        Ok(all) if gone.is_empty() => (Fate::Extended, Some(all.to_string())),
        Ok(all) => (Fate::Replaced, Some(all.to_string())),
        Err(_) => {
            let why = "with no room for the CA's key: make another with `kubepki token create \
                       --role`";
            (Fate::Kept(why), None)
        }
    }
}
