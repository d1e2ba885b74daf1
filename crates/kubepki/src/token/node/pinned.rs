//! Pin sets in a node's files: which still lead to the CA, and which get its key.

use super::scan::{Fate, PinnedKeys, Seen};
use crate::token::Known;
use crate::token::pins::Pins;

/// Longer than any pin set of this version: `P1.`, eight pins, seven signs between them.
const LONGEST: usize = 1024;

/// A pin set that begins at `from`, behind `K10`; `None` where none does.
///
/// One of this cluster that has no key which leads to the CA gets the CA's keys behind its own: what
/// it pins stays pinned, as a rotation that goes back may need it.
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
    if pins.keys().iter().any(|key| wanted.led_to.contains(key)) {
        return (Fate::Holds, None);
    }
    if !pins.keys().iter().any(|key| known.has_had(*key)) {
        let why = "whose keys are not known to be this cluster's: name the former CA with --from, \
                   or make another with `kubepki token create --role`";
        return (Fate::Kept(why), None);
    }
    let new = wanted.own.iter().filter(|key| !pins.keys().contains(key));
    let all: Vec<_> = pins.keys().iter().chain(new).copied().collect();
    match Pins::new(&all) {
        Ok(all) => (Fate::Extended, Some(all.to_string())),
        Err(_) => {
            let why = "with no room for the CA's key: make another with `kubepki token create \
                       --role`";
            (Fate::Kept(why), None)
        }
    }
}
