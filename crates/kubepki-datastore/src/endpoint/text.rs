//! Pieces of endpoint texts: escapes, and what may be shown.

use std::fmt;
use std::path::PathBuf;

/// What an endpoint that cannot be understood is called: nobody knows where its password is.
pub(super) fn veiled(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, _)) if is_word(scheme) => format!("{scheme}://***"),
        None if is_word(text) && text.len() <= 12 => text.to_owned(),
        _ => "***".to_owned(),
    }
}

fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    !text.is_empty() && text.len() <= 32 && text.chars().all(plain)
}

/// A URL without what stands between `//` and `@`, and without its query.
pub(super) fn without_user(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    // First the account: a password may hold the letters that end a host.
    let (account, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("***@", rest),
        None => ("", rest),
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    format!("{scheme}://{account}{host}")
}

/// Undoes `%41`; in a query `+` is a blank too. `None` for broken escapes and what is not UTF-8.
pub(super) fn unescape(text: &str, query: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' if query => b' ',
            other => other,
        });
    }
    let text = String::from_utf8(bytes).ok()?;
    // A NUL ends strings in every protocol that these texts go into.
    (!text.chars().any(char::is_control)).then_some(text)
}

/// The pairs of a query, unescaped.
pub(super) fn query_pairs(query: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (unescape(name, true), unescape(value, true)) {
            (Some(name), Some(value)) => pairs.push((name, value)),
            _ => return Err("an option after ? has a broken %-escape".to_owned()),
        }
    }
    Ok(pairs)
}

/// Where a database server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// Host name or IP address (IPv6 without brackets), and port.
    Tcp(String, u16),
    /// A socket; of PostgreSQL its directory, whose file is named by the port.
    Unix(PathBuf, u16),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path, _) => path.display().fmt(f),
        }
    }
}

/// Reads `host`, `host:port`, `[::1]` or `[::1]:port`.
///
/// A problem never repeats the text: a password with an unescaped `/` or `?` ends up here.
pub(super) fn host_and_port(text: &str, default_port: u16) -> Result<(String, u16), &'static str> {
    const PORT: &str = "the port is not a number from 1 to 65535; if the password holds one of \
                        / ? # @ : write it with %-escapes where the endpoint is a URL";
    let (host, rest) = match text.strip_prefix('[') {
        Some(inner) => {
            let (host, rest) = inner.split_once(']').ok_or("an IPv6 address lacks its ]")?;
            host.parse::<std::net::Ipv6Addr>()
                .map_err(|_| "what stands between [ and ] is not an IPv6 address")?;
            (host, rest)
        }
        None => {
            let colon = text.find(':').unwrap_or(text.len());
            let (host, rest) = text.split_at_checked(colon).unwrap_or((text, ""));
            if rest.matches(':').count() > 1 {
                return Err("an IPv6 address needs brackets: [::1]:5432");
            }
            let plain = |c: char| c.is_alphanumeric() || "-._".contains(c);
            if !host.chars().all(plain) {
                return Err("the host name holds a character that none may have");
            }
            (host, rest)
        }
    };
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => default_port,
        None => return Err(PORT),
        Some("") => default_port,
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(PORT)?,
    };
    Ok((host.to_owned(), port))
}
