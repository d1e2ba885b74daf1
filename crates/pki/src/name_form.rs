//! The forms that DNS names, mailboxes and URIs take in alternative names and name constraints:
//! what Go's `crypto/x509` insists on when it reads a certificate, and compares later.

/// Whether `text` is a domain as far as Go insists: labels of printable ASCII that are not
/// empty, no final dot. Nothing at all is a domain, too; a constraint may begin with a dot.
pub(crate) fn domain_is_valid(text: &str, is_constraint: bool) -> bool {
    if text.is_empty() {
        return true;
    }
    let labels = match text.strip_prefix('.') {
        Some("") => return false,
        Some(rest) if is_constraint => rest,
        _ => text,
    };
    labels
        .split('.')
        .all(|label| !label.is_empty() && label.bytes().all(|byte| (33..=126).contains(&byte)))
}

/// An rfc822Name (RFC 2821 section 4.1.2): the part before the `@` unquoted, the domain in lower
/// case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mailbox {
    pub(crate) local: Vec<u8>,
    pub(crate) domain: String,
}

impl Mailbox {
    /// `None` unless `text` is a mailbox.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (local, rest) = match text.strip_prefix('"') {
            Some(quoted) => quoted_local(quoted)?,
            None => plain_local(text)?,
        };
        let domain = rest.strip_prefix('@')?;
        let labels_are_fine = domain.is_empty()
            || domain
                .split('.')
                .all(|label| !label.is_empty() && label.bytes().all(|b| (33..=126).contains(&b)));
        labels_are_fine.then(|| Self {
            local,
            domain: domain.to_ascii_lowercase(),
        })
    }
}

/// A quoted string after its first quote: its text and what follows the last quote.
fn quoted_local(text: &str) -> Option<(Vec<u8>, &str)> {
    let mut local = Vec::new();
    let mut bytes = text.bytes().enumerate();
    loop {
        let (index, byte) = bytes.next()?;
        match byte {
            b'"' => return Some((local, text.get(index + 1..)?)),
            b'\\' => match bytes.next()?.1 {
                escaped @ (1..=9 | 11 | 12 | 14..=127) => local.push(escaped),
                _ => return None,
            },
            1..=8 | 11 | 12 | 14..=33 | 35..=127 => local.push(byte),
            _ => return None,
        }
    }
}

/// Atoms with dots between them (RFC 2822 section 3.2.4), and backslash escapes, which RFC 3696
/// shows outside quotes.
fn plain_local(text: &str) -> Option<(Vec<u8>, &str)> {
    let mut local = Vec::new();
    let mut bytes = text.bytes().enumerate().peekable();
    let mut end = 0;
    while let Some((index, byte)) = bytes.next() {
        let escaped = byte == b'\\';
        let byte = if escaped { bytes.next()?.1 } else { byte };
        let is_atom = byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&byte);
        if !escaped && !is_atom {
            break;
        }
        local.push(byte);
        end = index + 1 + usize::from(escaped);
    }
    let doubled = local.windows(2).any(|pair| pair == b"..");
    if local.is_empty() || local.starts_with(b".") || local.ends_with(b".") || doubled {
        return None;
    }
    Some((local, text.get(end..)?))
}

/// The host of a URI with its port, if it has an authority part (RFC 3986 section 3.2).
pub(crate) fn uri_host(uri: &str) -> Option<&str> {
    let without_fragment = uri.split('#').next()?;
    let after_scheme = match without_fragment.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => rest,
        _ => without_fragment,
    };
    let authority = after_scheme
        .strip_prefix("//")?
        .split(['/', '?'])
        .next()
        .unwrap_or_default();
    Some(
        authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host),
    )
}

fn is_scheme(text: &str) -> bool {
    text.bytes()
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mailboxes_are_taken_apart() {
        let parts = |text| Mailbox::parse(text).map(|m| (m.local, m.domain));
        assert_eq!(
            parts("a.b@Example.COM"),
            Some((b"a.b".to_vec(), "example.com".to_owned()))
        );
        assert_eq!(
            parts("\"a @\\\"b\"@x"),
            Some((b"a @\"b".to_vec(), "x".to_owned()))
        );
        for bad in [
            "", "a", "@x", ".a@x", "a.@x", "a..b@x", "a@x.", "a@x..y", "\"a@x",
        ] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    #[test]
    fn hosts_of_uris() {
        for (uri, host) in [
            ("spiffe://cluster.local/ns/x", Some("cluster.local")),
            ("https://user@a.example:8443/?q#f", Some("a.example:8443")),
            ("urn:uuid:1", None),
            ("//a", Some("a")),
            ("a/b", None),
        ] {
            assert_eq!(uri_host(uri), host, "{uri}");
        }
    }
}
