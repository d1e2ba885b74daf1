//! etcd's client URLs, as K3s takes them in `--datastore-endpoint`.

use std::fmt;

use zeroize::Zeroizing;

/// One member's URL. Display and Debug leave the password out.
#[derive(Clone)]
pub(super) struct MemberUrl {
    pub(super) https: bool,
    /// A name or an address, IPv6 without its brackets.
    host: String,
    port: u16,
    pub(super) login: Option<Login>,
}

/// A user of etcd's own authentication.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: Zeroizing<String>,
}

impl MemberUrl {
    /// Reads `http://` or `https://`, `[user:password@]host:port`.
    ///
    /// The error is what is wrong, without the URL: that may hold a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (https, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some((scheme, _)) => {
                return Err(format!(
                    "etcd is reached by http:// or https://, not {scheme}://"
                ));
            }
            None => return Err("it must begin with http:// or https://".to_owned()),
        };
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, path),
            None => (rest, ""),
        };
        if !path.is_empty() || authority.contains(['?', '#']) {
            return Err("nothing may follow the port of etcd's address".to_owned());
        }
        let (login, address) = match authority.rsplit_once('@') {
            Some((login, address)) => (Some(Login::parse(login)?), address),
            None => (None, authority),
        };
        let (host, port) = split_port(address)?;
        Ok(Self {
            https,
            host: host.to_owned(),
            port,
            login,
        })
    }

    /// The URL for the connection: no user, no password.
    pub(super) fn address(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        if self.host.contains(':') {
            format!("{scheme}://[{}]:{}", self.host, self.port)
        } else {
            format!("{scheme}://{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for MemberUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address();
        match (&self.login, address.split_once("://")) {
            (Some(login), Some((scheme, rest))) => {
                write!(f, "{scheme}://{}:***@{rest}", login.user)
            }
            _ => f.write_str(&address),
        }
    }
}

impl fmt::Debug for MemberUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Login {
    fn parse(text: &str) -> Result<Self, String> {
        let (user, password) = text
            .split_once(':')
            .ok_or("a user needs a password: https://user:password@host:port")?;
        if user.is_empty() || password.is_empty() {
            return Err("user and password must not be empty".to_owned());
        }
        Ok(Self {
            user: unescape(user)?,
            password: Zeroizing::new(unescape(password)?),
        })
    }
}

fn split_port(address: &str) -> Result<(&str, u16), String> {
    let no_port = "it has no port; etcd's is usually 2379";
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("a bracket is not closed")?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("what stands in brackets must be an IPv6 address".to_owned());
            }
            (host, rest.strip_prefix(':').ok_or(no_port)?)
        }
        None => {
            let (host, port) = address.rsplit_once(':').ok_or(no_port)?;
            if host.contains(':') {
                return Err("an IPv6 address stands in brackets: https://[::1]:2379".to_owned());
            }
            (host, port)
        }
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if host.is_empty() || !host.chars().all(plain) {
        return Err("its host is not a name or address".to_owned());
    }
    match port.parse() {
        Ok(port) if port > 0 => Ok((host, port)),
        _ => Err("its port is not a number from 1 to 65535".to_owned()),
    }
}

/// Percent-decoding (RFC 3986 section 2.1).
fn unescape(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let byte = after
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .ok_or("a % in user or password must be followed by two hex digits")?;
        bytes.push(byte);
        rest = after.get(2..).unwrap_or_default();
    }
    String::from_utf8(bytes).map_err(|_| "user and password must be UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_k3s_takes() {
        let cases = [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379"),
            (
                "https://etcd-1.example:2379/",
                "https://etcd-1.example:2379",
            ),
            (" https://[2001:db8::1]:2379", "https://[2001:db8::1]:2379"),
            ("https://root:s3cret@h:1", "https://root:***@h:1"),
            ("https://a%40b:s3%3Acret@h:1", "https://a@b:***@h:1"),
        ];
        for (text, shown) in cases {
            let url = MemberUrl::parse(text).unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
            assert!(!url.address().contains('@') && !url.address().contains("cret"));
        }
        let login = MemberUrl::parse("https://a%40b:s3%3Acret@h:1")
            .unwrap()
            .login
            .unwrap();
        assert_eq!(
            (login.user.as_str(), login.password.as_str()),
            ("a@b", "s3:cret")
        );
    }

    #[test]
    fn says_what_is_wrong_without_the_password() {
        let cases = [
            ("", "must begin with"),
            ("127.0.0.1:2379", "must begin with"),
            ("postgres://u:s3cret@h/db", "not postgres://"),
            ("https://h", "no port"),
            ("https://u:s3cret@h", "no port"),
            ("https://[::1]", "no port"),
            ("https://::1:2379", "brackets"),
            ("https://[::1:2379", "not closed"),
            ("https://[h]:2379", "IPv6"),
            ("https://h:0", "1 to 65535"),
            ("https://h:70000", "1 to 65535"),
            ("https://:2379", "not a name"),
            ("https://h h:2379", "not a name"),
            ("https://h:2379/db?x=s3cret", "nothing may follow"),
            ("https://u@h:1", "needs a password"),
            ("https://u:@h:1", "must not be empty"),
            ("https://u:s3cret%zz@h:1", "two hex digits"),
            ("https://u:s3cret%+1@h:1", "two hex digits"),
        ];
        for (text, wanted) in cases {
            let problem = MemberUrl::parse(text).unwrap_err();
            assert!(problem.contains(wanted), "{text}: {problem}");
            assert!(!problem.contains("s3cret"), "{problem}");
        }
    }
}
