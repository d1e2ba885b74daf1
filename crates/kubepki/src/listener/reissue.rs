//! A new certificate whose names the annotations follow.

use pki::Certificate;
use zeroize::Zeroizing;

use super::{Listener, ListenerError, edit_sans, replace};

/// As [`replace`], and the names in the annotations become those of the leaf.
///
/// K3s takes the names that it asks for from the annotations, so a name that the leaf no longer
/// carries would come back with K3s's own next renewal.
///
/// # Errors
///
/// As [`replace`] and [`edit_sans`].
pub fn reissue(
    bytes: &[u8],
    certificate_chain: &str,
    key: &str,
) -> Result<Zeroizing<Vec<u8>>, ListenerError> {
    let replaced = replace(bytes, certificate_chain, key)?;
    let annotated = Listener::parse(&replaced)?.sans;
    let carried: Vec<String> = Certificate::all_from_pem(certificate_chain.as_bytes())
        .unwrap_or_default()
        .first()
        .map(|leaf| leaf.sans().iter().map(ToString::to_string).collect())
        .unwrap_or_default();
    let missing = |from: &[String], than: &[String]| -> Vec<String> {
        from.iter()
            .filter(|name| !than.contains(name))
            .cloned()
            .collect()
    };
    let (add, drop) = (missing(&carried, &annotated), missing(&annotated, &carried));
    if add.is_empty() && drop.is_empty() {
        return Ok(replaced);
    }
    edit_sans(&replaced, &add, &drop)
}
