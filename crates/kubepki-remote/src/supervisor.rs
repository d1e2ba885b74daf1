//! K3s's supervisor, the HTTPS server on port 6443 (reference sections 3.2, 5.4 and 6).

use std::fmt;

use kubepki::apply::Witness;
use kubepki::token::{Token, authority_hash};
use pki::{Certificate, Digest, UnixTime};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, Method, Url};
use zeroize::Zeroizing;

use crate::answer::{Answer, Unreadable, client};
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
    /// The hash by K3s's rule.
    pub hash: Digest,
    /// Whether a token pinned it. Otherwise it was taken on trust, as the user allowed.
    pub pinned: bool,
}

/// A call to the supervisor failed. Messages never hold the password.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The URL is none of a supervisor.
    #[error("{url:?} is no URL of a K3s server: {problem}; write https://<server>:6443")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It does not answer, or its certificate does not stand under its own CA bundle.
    #[error("cannot reach the K3s server {url}")]
    Unreachable {
        /// Its URL.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Its CA is not the one in the token.
    #[error(
        "token CA hash does not match the Cluster CA certificate hash: {pinned} != {seen}: {url} \
         is another cluster's, or its CA was rotated since the token was written; nothing secret \
         was sent"
    )]
    OtherAuthority {
        /// Its URL.
        url: String,
        /// The hash in the token.
        pinned: String,
        /// The hash of what it shows.
        seen: String,
    },
    /// It shows no CA with a key that the token pins.
    #[error(
        "the token pins the CA keys {pinned}, and {url} shows {seen}: this is another cluster, or \
         its CA was replaced and the old one has left its bundle; nothing secret was sent"
    )]
    OtherKeys {
        /// Its URL.
        url: String,
        /// The keys in the token.
        pinned: String,
        /// The keys of what it shows.
        seen: String,
    },
    /// It shows a CA that the token pins, and has no certificate under it.
    #[error(
        "{url} shows a CA that the token pins, and cannot prove that it is its own: what it \
         showed does not lead to that CA; nothing secret was sent"
    )]
    Unproven {
        /// Its URL.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A token without a hash, and no leave to trust what is seen.
    #[error(
        "the token names no CA hash, so nothing tells whether {url} is the right server; it shows \
         {seen}: give the full token, or say --trust-on-first-use"
    )]
    Unpinned {
        /// Its URL.
        url: String,
        /// The hash of what it shows.
        seen: String,
    },
    /// What it shows as its CA bundle is none.
    #[error("what {url}/cacerts shows is no CA bundle")]
    Bundle {
        /// Its URL.
        url: String,
        /// Why.
        #[source]
        source: pki::Error,
    },
    /// A token that servers cannot use.
    #[error("the token cannot be used to reach {url}")]
    Token {
        /// Its URL.
        url: String,
        /// Why.
        #[source]
        source: kubepki::token::TokenError,
    },
    /// An answer that says no to a node.
    #[error("{url} answered {status} to {call}: {message}{}", node_advice(*status))]
    NodeRefused {
        /// Its URL.
        url: String,
        /// Method and path.
        call: String,
        /// The status code.
        status: u16,
        /// What it said.
        message: String,
    },
    /// An answer that says no.
    #[error("{url} answered {status} to {call}: {message}{}", advice(*status, message))]
    Refused {
        /// Its URL.
        url: String,
        /// Method and path.
        call: String,
        /// The status code.
        status: u16,
        /// What it said.
        message: String,
    },
}

fn advice(status: u16, message: &str) -> String {
    if let Some((_, id)) = message.split_once("error ID ") {
        return format!("; K3s wrote the reason to its own log, look there for {id}");
    }
    match status {
        401 => "; the password in the token is not this server's, or K3s is still starting",
        403 => "; the token is an agent's, a server's is needed",
        404 | 405 => "; this K3s is older than the call (rotate-ca came with v1.26.2)",
        503 => "; K3s is starting, try again in a moment",
        _ => "",
    }
    .to_owned()
}

fn node_advice(status: u16) -> &'static str {
    match status {
        400 => "; the node's name and its certificate must agree",
        401 => {
            "; the password in the token is not this server's, the token has ended, or the node's \
             certificate is of another cluster"
        }
        403 => {
            "; another node has this name and another password (choose --node-name, or delete the \
             Secret <node>.node-password.k3s in kube-system; at `kubepki serve`: `kubepki node \
             forget`), or the credential is no agent's"
        }
        404 | 405 => "; this is no K3s server, or an old one",
        429 | 503 => "; it is starting or busy, try again in a moment",
        _ => "",
    }
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
        let (client, seen) = pinned(&base, token, trust_on_first_use, now, refused).await?;
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
    trust_on_first_use: bool,
    now: UnixTime,
    refused: Refused,
) -> Result<(Client, Seen), SupervisorError> {
    let seen = look(base, token, trust_on_first_use, now).await?;
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

/// A server that cannot be reached the second time, with what the token pins as the only trust if
/// that is `by_key`.
fn proof(by_key: bool, error: SupervisorError) -> SupervisorError {
    match error {
        SupervisorError::Unreachable { url, source } if by_key => {
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
    trust_on_first_use: bool,
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
    match token.authority() {
        Some(pinned) if pinned != hash.to_string() => Err(SupervisorError::OtherAuthority {
            url: base.to_string(),
            pinned: pinned.to_owned(),
            seen: hash.to_string(),
        }),
        None if !trust_on_first_use => Err(SupervisorError::Unpinned {
            url: base.to_string(),
            seen: hash.to_string(),
        }),
        pinned => Ok(Seen {
            bundle,
            hash,
            pinned: pinned.is_some(),
        }),
    }
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
    }
}

/// The same, where a node was refused.
pub(crate) fn node_refused(base: &Url, call: &str, answer: &Answer) -> SupervisorError {
    SupervisorError::NodeRefused {
        url: base.to_string(),
        call: call.to_owned(),
        status: answer.status.as_u16(),
        message: said(answer),
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
