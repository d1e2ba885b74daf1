//! What former tokens can still decrypt: nothing is gone from a datastore because a newer value
//! stands over it.

use serde::Serialize;

use super::{Bundle, Candidates, Field, is_lock, open};
use crate::datastore::Former;

/// A former value that a token at hand still opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exposure {
    /// Where it lies: `row 207 of table kine, column old_value`.
    pub place: String,
    /// The key that it belonged to.
    pub key: String,
    /// The revision that wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// Where the token was found.
    pub token: String,
    /// Whether a CA key or service-account key in it is in force today.
    pub in_force: bool,
}

/// Every one of `former` that one of `candidates` opens; `today` is what is in force.
pub fn still_open(former: &[Former], candidates: &Candidates, today: &Bundle) -> Vec<Exposure> {
    let exposed = |it: &Former| {
        let candidate = candidates.of_key(&it.key)?;
        if is_lock(&it.value) {
            return None;
        }
        let json = open(&it.value, &candidate.passphrase).ok()?;
        Some(Exposure {
            place: it.place.clone(),
            key: it.key.clone(),
            revision: it.revision,
            token: candidate.origin.clone(),
            in_force: Bundle::parse(&json).is_ok_and(|then| shares_keys(&then, today)),
        })
    };
    former.iter().filter_map(exposed).collect()
}

/// Whether a private key of `then` is one of `today`.
fn shares_keys(then: &Bundle, today: &Bundle) -> bool {
    let secret = Field::ALL
        .into_iter()
        .filter(|field| field.is_rotatable() && field.is_secret());
    secret
        .map(|field| (then.content(field), today.content(field)))
        .any(|(then, today)| then.is_some_and(|it| !it.is_empty()) && then == today)
}
