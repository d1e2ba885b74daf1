//! One GET over a stream that is there already: HTTP/1.1, with or without TLS.
//!
//! A health check of RKE goes through the host that it is about, and takes any certificate; what
//! is shown to the server is what matters. Answers are small, and limited.

use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::witness::Witness;
use crate::machine::Stream;

/// A URL, as far as a health check has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url<'a> {
    pub(super) tls: bool,
    /// Without brackets.
    pub(super) host: &'a str,
    /// `host:port`, as it is dialled.
    pub(super) address: String,
    path: &'a str,
}

impl<'a> Url<'a> {
    /// Reads `https://host:port/path`; without a port, the scheme's.
    ///
    /// # Errors
    ///
    /// What is wrong with it, without the URL.
    pub(super) fn parse(url: &'a str) -> Result<Self, &'static str> {
        let (tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err("it begins neither with https:// nor with http://"),
        };
        let end = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain(rest) || authority.contains(['@', '?', '#']) || path.contains('#') {
            return Err("it has letters that it should not");
        }
        let bracketed = authority.starts_with('[');
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !bracketed || host.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let port = match port {
            Some(port) => port.parse::<u16>().map_err(|_| "its port is no number")?,
            None if tls => 443,
            None => 80,
        };
        let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        if bare.unwrap_or(host).is_empty() {
            return Err("it names no host");
        }
        Ok(Self {
            tls,
            host: bare.unwrap_or(host),
            address: format!("{host}:{port}"),
            path: if path.is_empty() { "/" } else { path },
        })
    }
}

/// A client certificate with what follows it, and its key, both PEM.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) chain: Vec<u8>,
    pub(super) key: Zeroizing<Vec<u8>>,
}

/// What a server answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Completes a TLS handshake, taking any certificate whose key the server proves to have.
///
/// # Errors
///
/// What the handshake failed of; the witness has seen the certificate perhaps.
pub(super) async fn secure(
    stream: Box<dyn Stream>,
    host: &str,
    client: Option<&Identity>,
) -> (Option<Vec<u8>>, io::Result<Box<dyn Stream>>) {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
    let name = match ServerName::try_from(host.to_owned()) {
        Ok(name) => name,
        Err(error) => return (None, Err(invalid(error.to_string()))),
    };
    let made = match client {
        None => Witness::client(),
        Some(identity) => {
            let chain: Result<Vec<_>, _> =
                CertificateDer::pem_slice_iter(&identity.chain).collect();
            let key = PrivateKeyDer::from_pem_slice(&identity.key);
            match (chain, key) {
                (Ok(chain), Ok(key)) => Witness::client_with(chain, key),
                _ => {
                    return (
                        None,
                        Err(invalid("the client certificate is no PEM".to_owned())),
                    );
                }
            }
        }
    };
    let (config, witness) = match made {
        Ok(made) => made,
        Err(error) => return (None, Err(io::Error::other(error))),
    };
    let connected = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await;
    let seen = witness.proven();
    (
        seen,
        connected.map(|stream| Box::new(stream) as Box<dyn Stream>),
    )
}

/// Asks for `url` over `stream`, which leads to its address. Nothing secret may be asked for.
///
/// # Errors
///
/// When the handshake fails, or what comes back is not HTTP or too long.
pub(super) async fn get(
    stream: Box<dyn Stream>,
    url: &Url<'_>,
    client: Option<&Identity>,
) -> io::Result<Answer> {
    let mut stream = match url.tls {
        true => secure(stream, url.host, client).await.1?,
        false => stream,
    };
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: kubepki\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n",
        url.path, url.address
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut received = Vec::new();
    loop {
        if let Some(answer) = parse(&received, false)? {
            return Ok(answer);
        }
        if received.len() > LONGEST {
            return Err(bad("the answer is too long"));
        }
        let mut chunk = [0; 4096];
        let length = match stream.read(&mut chunk).await {
            Ok(length) => length,
            // Servers that do not close TLS properly have still answered.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error),
        };
        if length == 0 {
            let ended = parse(&received, true)?;
            return ended.ok_or_else(|| bad("the connection ended before the answer"));
        }
        received.extend(chunk.get(..length).unwrap_or_default());
    }
}

/// Status and body of what `url` answers over `stream`, for looks without a plan. `client` is a
/// certificate with what follows it, and its key, both PEM.
///
/// # Errors
///
/// In words: no URL, no handshake, no HTTP.
pub(crate) async fn ask(
    stream: Box<dyn Stream>,
    url: &str,
    client: Option<(&str, &str)>,
) -> Result<(u16, Vec<u8>), String> {
    let url = Url::parse(url).map_err(|why| format!("{url:?} is no URL: {why}"))?;
    let identity = client.map(|(chain, key)| Identity {
        chain: chain.as_bytes().to_vec(),
        key: Zeroizing::new(key.as_bytes().to_vec()),
    });
    let answer = get(stream, &url, identity.as_ref()).await;
    let answer = answer.map_err(|error| error.to_string())?;
    Ok((answer.status, answer.body))
}

/// The answer in what was received, once it is whole; `ended` if nothing more comes.
fn parse(received: &[u8], ended: bool) -> io::Result<Option<Answer>> {
    let Some(end) = find(received, b"\r\n\r\n") else {
        return Ok(None);
    };
    let (head, rest) = received.split_at(end);
    let rest = rest.get(4..).unwrap_or_default();
    let head = std::str::from_utf8(head).map_err(|_| bad("the answer is not HTTP"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| {
        let (version, rest) = line.split_once(' ')?;
        let code = rest.split(' ').next()?;
        let known = version.starts_with("HTTP/1.") && code.len() == 3;
        known.then(|| code.parse::<u16>().ok()).flatten()
    });
    let status = status.ok_or_else(|| bad("the answer is not HTTP"))?;
    let header = |wanted: &str| {
        head.split("\r\n").skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    let body = |body: Vec<u8>| Ok(Some(Answer { status, body }));
    if (100..200).contains(&status) {
        return parse(rest, ended);
    }
    if matches!(status, 204 | 304) {
        return body(Vec::new());
    }
    if header("Transfer-Encoding").is_some_and(|it| it.eq_ignore_ascii_case("chunked")) {
        return match unchunk(rest)? {
            Some(whole) => body(whole),
            None => Ok(None),
        };
    }
    match header("Content-Length") {
        Some(length) => {
            let length: usize = length
                .parse()
                .map_err(|_| bad("the answer has no length"))?;
            if length > LONGEST {
                return Err(bad("the answer is too long"));
            }
            match rest.get(..length) {
                Some(whole) => body(whole.to_vec()),
                None => Ok(None),
            }
        }
        None if ended => body(rest.to_vec()),
        None => Ok(None),
    }
}

/// A body in chunks (RFC 9112, section 7.1), once its last one is there.
fn unchunk(mut rest: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let Some(end) = find(rest, b"\r\n") else {
            return Ok(None);
        };
        let (line, after) = rest.split_at(end);
        let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let size = std::str::from_utf8(size).ok().map(str::trim);
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size
            .filter(|size| *size <= LONGEST)
            .ok_or_else(|| bad("a chunk has no size"))?;
        if size == 0 {
            return Ok(Some(body));
        }
        let after = after.get(2..).unwrap_or_default();
        let (Some(chunk), Some(next)) = (after.get(..size), after.get(size + 2..)) else {
            return Ok(None);
        };
        body.extend(chunk);
        rest = next;
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len())
        .position(|window| window == wanted)
}

fn bad(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Bytes of an answer that are read at most: etcd's health is 20, an API server's list of failed
/// checks some thousand.
const LONGEST: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Option<(bool, &str, String, &str)> {
        let url = Url::parse(text).ok()?;
        Some((url.tls, url.host, url.address, url.path))
    }

    #[test]
    fn urls_are_read() {
        let https = |host, address: &str, path| Some((true, host, address.to_owned(), path));
        assert_eq!(
            url("https://127.0.0.1:6443/healthz"),
            https("127.0.0.1", "127.0.0.1:6443", "/healthz")
        );
        assert_eq!(url("https://a"), https("a", "a:443", "/"));
        assert_eq!(
            url("https://[::1]:2379/health"),
            https("::1", "[::1]:2379", "/health")
        );
        assert_eq!(url("https://[::1]"), https("::1", "[::1]:443", "/"));
        assert_eq!(
            url("http://localhost:10248/healthz?verbose"),
            Some((
                false,
                "localhost",
                "localhost:10248".to_owned(),
                "/healthz?verbose"
            ))
        );
        for bad in [
            "",
            "https://",
            "ftp://a",
            "https://a:b/",
            "https://a:70000/",
            "https://u@a/",
            "https://:1/",
            "https://a /",
            "https://a/\r\nX: y",
            "https://[]:1/",
            "https://a/#b",
        ] {
            assert_eq!(url(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_answer_is_whole_when_its_length_says_so() {
        let whole = |text: &str, ended| {
            let answer = parse(text.as_bytes(), ended).ok().flatten();
            answer.map(|it| (it.status, String::from_utf8_lossy(&it.body).into_owned()))
        };
        let answer = |status, body: &str| Some((status, body.to_owned()));
        let sized = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok\r\n";
        for cut in 0..sized.len() {
            assert_eq!(whole(&sized[..cut], true), None, "{cut}");
        }
        assert_eq!(whole(sized, false), answer(200, "ok\r\n"));
        let chunked = "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(whole(chunked, false), answer(503, "abcd"));
        let closed = "HTTP/1.0 401 No\r\n\r\nbye";
        assert_eq!(whole(closed, false), None);
        assert_eq!(whole(closed, true), answer(401, "bye"));
        assert_eq!(
            whole(&format!("HTTP/1.1 100 Go on\r\n\r\n{sized}"), false),
            answer(200, "ok\r\n")
        );
        assert_eq!(whole("HTTP/1.1 204 None\r\n\r\n", false), answer(204, ""));
        for bad in [
            "SSH-2.0-x\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 2000 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        ] {
            assert!(parse(bad.as_bytes(), true).is_err(), "{bad:?}");
        }
    }
}
