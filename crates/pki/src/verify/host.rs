//! Whether a leaf is for a host (RFC 6125, as Go reads it).

use core::net::IpAddr;

use crate::verify::{Identity, VerifyError};
use crate::{Certificate, San};

/// Checks that `certificate` is for `host`: an address matches an iPAddress only, a name a
/// dNSName only, and the common name never counts. A wildcard stands for one whole first label.
///
/// # Errors
///
/// [`VerifyError::Host`].
pub fn check_host(certificate: &Certificate, host: &str) -> Result<(), VerifyError> {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .filter(|inside| !inside.is_empty())
        .unwrap_or(host);
    let address: Option<IpAddr> = bare.parse().ok();
    let matches = |san: &San| match (san, address) {
        (San::Ip(own), Some(wanted)) => own.to_canonical() == wanted.to_canonical(),
        (San::Dns(pattern), None) => name_matches(pattern, host),
        _ => false,
    };
    if certificate.sans().iter().any(matches) {
        return Ok(());
    }
    let same_kind = |san: &&San| match san {
        San::Ip(_) => address.is_some(),
        San::Dns(_) => address.is_none(),
        _ => false,
    };
    Err(VerifyError::Host {
        certificate: Identity::of(certificate),
        wanted: host.to_owned(),
        names: certificate
            .sans()
            .iter()
            .filter(same_kind)
            .cloned()
            .collect(),
    })
}

/// Wildcards and the final dot count in well-formed names only; odd ones match themselves.
fn name_matches(pattern: &str, host: &str) -> bool {
    let dotless = host.strip_suffix('.').unwrap_or(host);
    if !(is_host_name(dotless, false) && is_host_name(pattern, true)) {
        return !matches!(pattern, "" | ".")
            && !matches!(host, "" | ".")
            && pattern.eq_ignore_ascii_case(host);
    }
    let mut own = pattern.split('.');
    let mut wanted = dotless.split('.');
    let mut first = true;
    loop {
        match (own.next(), wanted.next()) {
            (None, None) => return true,
            (Some("*"), Some(_)) if first => {}
            (Some(label), Some(other)) if label.eq_ignore_ascii_case(other) => {}
            _ => return false,
        }
        first = false;
    }
}

/// Letters, digits, hyphens not in front, and underscores, which deployments have.
fn is_host_name(text: &str, is_pattern: bool) -> bool {
    let label_is_fine = |(index, label): (usize, &str)| {
        if is_pattern && index == 0 && label == "*" {
            return true;
        }
        !label.is_empty()
            && !label.starts_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text != "*" && text.split('.').enumerate().all(label_is_fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_one_first_label() {
        for (pattern, host, expected) in [
            ("a.example", "a.example", true),
            ("A.example", "a.EXAMPLE", true),
            ("a.example", "a.example.", true),
            ("a.example.", "a.example", false),
            ("*.example", "a.example", true),
            ("*.example", "b.a.example", false),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("*", "example", false),
            ("*", "*", true),
            ("a*.example", "ab.example", false),
            ("a.*.example", "a.b.example", false),
            ("a_b.example", "a_b.example", true),
            ("-a.example", "-a.example", true),
            ("", "", false),
            (".", ".", false),
            ("a..b", "a..b", true),
        ] {
            assert_eq!(name_matches(pattern, host), expected, "{pattern} {host}");
        }
    }
}
