//! K3s's supervisor, the HTTPS server on port 6443 (reference sections 3.2, 5.4 and 6).

use std::fmt;

use kubepki::apply::Witness;
use kubepki::token::{Token, authority_hash};
use pki::{Certificate, Digest, UnixTime};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, Method, Url};
use zeroize::Zeroizing;

use crate::answer::{Answer, Unreadable, client};
use crate::fault::SupervisorError;
use crate::tls::{anchored, trusting};

/// A supervisor that has shown the CA which the token pins, and the password for it.
pub struct Supervisor {
    base: Url,
    client: Client,
    authorization: Zeroizing<String>,
    seen: Seen,
}

/// The CA bundle that a supervisor shows before anybody logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The bytes of `/cacerts`: `server-ca.crt` as it was when K3s first needed it.
    pub bundle: Vec<u8>,
    /// The hash by K3s's rule; by its old one where the token pins that.
    pub hash: Digest,
    /// Whether a token pinned it. Otherwise it was taken on trust, as the user allowed.
    pub pinned: bool,
}

/// What a token without a hash or keys is held to.
#[derive(Clone, Copy, Debug)]
pub enum FirstUse {
    /// Nothing was said: it is refused.
    Refused,
    /// Whatever CA the server shows, as the user allowed.
    Trusted,
    /// The CA with this hash, which another server showed before.
    HeldTo(Digest),
}

impl Supervisor {
    /// Looks at `/cacerts`, holds what is there to the hash or keys in `token`, and looks again with that
    /// bundle as the only trust. Only then will the password be sent.
    ///
    /// `base` is `https://host:port`; `trust_on_first_use` allows a token without a hash.
    ///
    /// # Errors
    ///
    /// [`SupervisorError`]; then nothing secret was sent.
    pub async fn connect(
        base: &str,
        token: &Token,
        trust_on_first_use: bool,
        now: UnixTime,
    ) -> Result<Self, SupervisorError> {
        let base = parse(base)?;
        let url = base.to_string();
        // A bootstrap token is an agent's with K3s; what pins keys says its role in its record.
        if token.pins().is_empty() {
            token.password().map_err(|source| SupervisorError::Token {
                url: url.clone(),
                source,
            })?;
        }
        let first_use = match trust_on_first_use {
            true => FirstUse::Trusted,
            false => FirstUse::Refused,
        };
        let (client, seen) = pinned(&base, token, first_use, now, refused).await?;
        Ok(Self {
            base,
            client,
            authorization: token.authorization("server"),
            seen,
        })
    }

    /// What it showed as its CA.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Sends `body` as user `server`, without a Content-Type: K3s would read a form where one is
    /// named (reference section 3.2). `path` begins with a slash and may have a query.
    ///
    /// # Errors
    ///
    /// [`SupervisorError::Refused`] for every answer but 2xx, [`SupervisorError::Unreachable`]
    /// where it is not known whether the call took effect.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<Vec<u8>, SupervisorError> {
        let verb = Method::from_bytes(method.as_bytes())
            .map_err(|error| unreachable(&self.base, error))?;
        let request = self
            .client
            .request(verb, at(&self.base, path)?)
            .header(AUTHORIZATION, sensitive(&self.base, &self.authorization)?)
            .body(body.to_vec());
        let call = format!("{method} {path}");
        answered(&self.base, &call, request, refused).await
    }

    /// Path and query of a URL at this server; `None` for another server's.
    pub(crate) fn path_of(&self, url: &str) -> Option<String> {
        let url: Url = url.parse().ok()?;
        let same = url.origin() == self.base.origin();
        let query = url.query().map(|query| format!("?{query}"));
        same.then(|| format!("{}{}", url.path(), query.unwrap_or_default()))
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Supervisor({})", self.base)
    }
}

/// How an answer that says no is told: to a server's operator or to a node's.
pub(crate) type Refused = fn(&Url, &str, &Answer) -> SupervisorError;

/// A client that trusts nothing but what the server at `base` showed as its CA, and that. The
/// token's hash decides what may be shown; nothing secret is sent.
pub(crate) async fn pinned(
    base: &Url,
    token: &Token,
    first_use: FirstUse,
    now: UnixTime,
    refused: Refused,
) -> Result<(Client, Seen), SupervisorError> {
    let seen = look(base, token, first_use, now).await?;
    let bundle =
        Certificate::all_from_pem(&seen.bundle).map_err(|source| SupervisorError::Bundle {
            url: base.to_string(),
            source,
        })?;
    // The hash of a file with several certificates is that of the root which the first one leads
    // to: anybody may have put another CA beside it, so that root alone proves something.
    let root = |it: &Certificate| seen.pinned && it.fingerprint() == seen.hash;
    let by_root = bundle.len() > 1 && bundle.iter().any(root);
    let tls = match token.pins() {
        [] if by_root => anchored(&bundle, root, now),
        [] => trusting(&bundle, now, None),
        _ => anchored(&bundle, |it| token.pins_key_of(it), now),
    };
    let tls = tls.map_err(|error| unreachable(base, error))?;
    let client = client(tls).map_err(|error| unreachable(base, error))?;
    // The second look: it holds the key of a certificate under the bundle, with its name.
    let request = client.get(at(base, "/cacerts")?);
    let again = answered(base, "GET /cacerts", request, refused).await;
    let by_key = by_root || !token.pins().is_empty();
    if again.map_err(|error| proof(by_key, error))? != seen.bundle {
        return Err(unreachable(
            base,
            std::io::Error::other("it showed two different CA bundles one after the other"),
        ));
    }
    Ok((client, seen))
}

/// A server whose certificate fails the second time, with what the token pins as the only trust if
/// that is `by_key`.
fn proof(by_key: bool, error: SupervisorError) -> SupervisorError {
    let is_away = error.passing().is_some();
    match error {
        SupervisorError::Unreachable { url, source } if by_key && !is_away => {
            SupervisorError::Unproven { url, source }
        }
        error => error,
    }
}

/// The keys of a bundle, or of a token, for people.
fn keys(keys: impl IntoIterator<Item = Digest>) -> String {
    let texts: Vec<String> = keys.into_iter().map(|key| key.to_string()).collect();
    texts.join(", ")
}

/// A header's value that is not shown.
pub(crate) fn sensitive(base: &Url, text: &str) -> Result<HeaderValue, SupervisorError> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| unreachable(base, std::io::Error::other(UNSPEAKABLE)))?;
    value.set_sensitive(true);
    Ok(value)
}

const UNSPEAKABLE: &str = "the password holds characters that HTTP cannot carry";

/// The first look: any certificate is taken, for nothing is sent and the hash decides.
async fn look(
    base: &Url,
    token: &Token,
    first_use: FirstUse,
    now: UnixTime,
) -> Result<Seen, SupervisorError> {
    let (tls, _) = Witness::client().map_err(|error| unreachable(base, error))?;
    let client = client(tls).map_err(|error| unreachable(base, error))?;
    let request = client.get(at(base, "/cacerts")?);
    let bundle = answered(base, "GET /cacerts", request, refused).await?;
    let hash = authority_hash(&bundle, now).map_err(|source| SupervisorError::Bundle {
        url: base.to_string(),
        source,
    })?;
    if !token.pins().is_empty() {
        let shown = Certificate::all_from_pem(&bundle).unwrap_or_default();
        return match shown.iter().any(|it| token.pins_key_of(it)) {
            true => Ok(Seen {
                bundle,
                hash,
                pinned: true,
            }),
            false => Err(SupervisorError::OtherKeys {
                url: base.to_string(),
                pinned: keys(token.pins().iter().copied()),
                seen: keys(shown.iter().map(Certificate::spki_sha256)),
            }),
        };
    }
    let (url, seen) = (base.to_string(), hash.to_string());
    let known = match (token.authority(), first_use) {
        // Servers before v1.26.2 know another rule, which pins the file whole.
        (Some(pinned), _) if pinned == pki::sha256(&bundle).to_string() => {
            (pki::sha256(&bundle), true)
        }
        (Some(pinned), _) if pinned != seen => {
            let pinned = pinned.to_owned();
            return Err(SupervisorError::OtherAuthority { url, pinned, seen });
        }
        (Some(_), _) => (hash, true),
        (None, FirstUse::HeldTo(held)) if held != hash => {
            let held = held.to_string();
            return Err(SupervisorError::OtherThanFirst { url, seen, held });
        }
        (None, FirstUse::HeldTo(_)) => (hash, true),
        (None, FirstUse::Trusted) => (hash, false),
        (None, FirstUse::Refused) => return Err(SupervisorError::Unpinned { url, seen }),
    };
    let (hash, pinned) = known;
    Ok(Seen {
        bundle,
        hash,
        pinned,
    })
}

/// `path` at the server.
pub(crate) fn at(base: &Url, path: &str) -> Result<Url, SupervisorError> {
    base.join(path).map_err(|error| SupervisorError::Url {
        url: path.to_owned(),
        problem: error.to_string(),
    })
}

/// The body of a 2xx answer; any other is told by `refused`.
pub(crate) async fn answered(
    base: &Url,
    call: &str,
    request: reqwest::RequestBuilder,
    refused: Refused,
) -> Result<Vec<u8>, SupervisorError> {
    let answer = send(base, request).await?;
    match answer.status.is_success() {
        true => Ok(answer.body),
        false => Err(refused(base, call, &answer)),
    }
}

async fn send(base: &Url, request: reqwest::RequestBuilder) -> Result<Answer, SupervisorError> {
    let response = request
        .send()
        .await
        .map_err(|error| unreachable(base, error.without_url()))?;
    Answer::read(response).await.map_err(|error| match error {
        Unreadable::Broken(error) => unreachable(base, error.without_url()),
        Unreadable::TooLong => unreachable(base, std::io::Error::other("the answer does not end")),
    })
}

fn refused(base: &Url, call: &str, answer: &Answer) -> SupervisorError {
    SupervisorError::Refused {
        url: base.to_string(),
        call: call.to_owned(),
        status: answer.status.as_u16(),
        message: said(answer),
        retry_after: answer.retry_after,
    }
}

/// The same, where a node was refused.
pub(crate) fn node_refused(base: &Url, call: &str, answer: &Answer) -> SupervisorError {
    SupervisorError::NodeRefused {
        url: base.to_string(),
        call: call.to_owned(),
        status: answer.status.as_u16(),
        message: said(answer),
        retry_after: answer.retry_after,
    }
}

fn said(answer: &Answer) -> String {
    let reason = || answer.status.canonical_reason().unwrap_or("no message");
    match answer.message() {
        message if message.is_empty() => reason().to_owned(),
        message => message,
    }
}

pub(crate) fn unreachable(
    base: &Url,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> SupervisorError {
    SupervisorError::Unreachable {
        url: base.to_string(),
        source: source.into(),
    }
}

pub(crate) fn parse(text: &str) -> Result<Url, SupervisorError> {
    let wrong = |problem: String| SupervisorError::Url {
        url: redacted(text),
        problem,
    };
    let url: Url = text
        .trim_end_matches('/')
        .parse()
        .map_err(|error: <Url as std::str::FromStr>::Err| wrong(error.to_string()))?;
    if url.scheme() != "https" {
        return Err(wrong("only https:// URLs are supported".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it must hold no user and no password".to_owned()));
    }
    if url.host_str().is_none() || url.path() != "/" || url.query().is_some() {
        return Err(wrong("it must be a host and a port alone".to_owned()));
    }
    Ok(url)
}

/// A URL that may hold a password, for a message.
fn redacted(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, host)) => format!("***@{host}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_and_a_port_are_taken() {
        for good in [
            "https://127.0.0.1:6443",
            "https://server:6443/",
            "https://[::1]:6443",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "http://127.0.0.1:6443",
            "127.0.0.1:6443",
            "",
            "https://",
            "https://user:hunter2@server:6443",
            "https://server:6443/v1-k3s",
            "https://server:6443?x=1",
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
