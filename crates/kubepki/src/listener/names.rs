//! SANs as keys of annotations.

use super::NAME_PREFIX;

/// The annotation that asks for a SAN: `listener.cattle.io/cn-` and the name. Kubernetes allows 63
/// letters after the slash and neither `:` nor `*`, so longer or odd ones are cut to 56 octets with
/// `_` for both, and told apart by the start of the SHA-256 of the whole key.
pub fn annotation_key(name: &str) -> String {
    let key = format!("{NAME_PREFIX}{name}");
    if key.len() < 64 && !key.contains([':', '*']) {
        return key;
    }
    let digest = pki::sha256(key.as_bytes()).to_string();
    let mut end = key.len().min(56);
    while !key.is_char_boundary(end) {
        end -= 1;
    }
    let head = key.get(..end).unwrap_or_default().replace([':', '*'], "_");
    format!("{head}-{}", digest.get(..6).unwrap_or_default())
}

/// Whether K3s takes a name: letters, digits, `-_.:`, with a letter, digit or `:` at both ends, and
/// `*.` at most in front.
pub fn is_listener_name(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    let end = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b':';
    name.as_bytes().first().is_some_and(end)
        && name.as_bytes().last().is_some_and(end)
        && name
            .bytes()
            .all(|byte| end(&byte) || b"-_.".contains(&byte))
}
