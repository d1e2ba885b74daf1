//! What two programs between client and server could read in two ways.

use hyper::header::{AUTHORIZATION, HOST};
use hyper::{HeaderMap, Version};

/// Two of them prove nothing: a program between client and server may have believed the other.
pub(crate) fn authorization(headers: &HeaderMap) -> Option<&[u8]> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let first = all.next()?;
    Some(all.next().map_or(first.as_bytes(), |_| &[]))
}

/// What RFC 9112 section 3.2 wants refused, in Go's words.
pub(crate) fn host_problem(version: Version, headers: &HeaderMap) -> Option<&'static str> {
    match headers.get_all(HOST).iter().count() {
        0 if version == Version::HTTP_11 => Some("missing required Host header"),
        0 | 1 => None,
        _ => Some("too many Host headers"),
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn two_proofs_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(authorization(&headers), None);
        headers.append(AUTHORIZATION, HeaderValue::from_static("Basic eDp5"));
        assert_eq!(authorization(&headers), Some(&b"Basic eDp5"[..]));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Basic eDp5"));
        assert_eq!(authorization(&headers), Some(&b""[..]));
    }

    #[test]
    fn a_request_names_one_host() {
        let mut headers = HeaderMap::new();
        assert!(host_problem(Version::HTTP_11, &headers).is_some());
        assert!(host_problem(Version::HTTP_10, &headers).is_none());
        assert!(host_problem(Version::HTTP_2, &headers).is_none());
        headers.append(HOST, HeaderValue::from_static("a"));
        assert!(host_problem(Version::HTTP_11, &headers).is_none());
        headers.append(HOST, HeaderValue::from_static("a"));
        assert!(host_problem(Version::HTTP_11, &headers).is_some());
    }
}
