//! One HTTPS exchange over a stream of its own, whatever it runs through.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use hyper::Request;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::handshake;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use kubepki::machine::Stream;
use reqwest::{Method, Url};
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::answer::{Answer, LONGEST, TIMEOUT};
use crate::docker::Cause;

/// What is sent.
pub(crate) struct Question<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a Url,
    /// JSON.
    pub(crate) body: Option<String>,
}

/// The host of a URL, bare, and its port.
pub(crate) fn target(url: &Url) -> (&str, u16) {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (host, url.port_or_known_default().unwrap_or(443))
}

/// Asks whoever is at the other end of `stream`, who must prove to be the URL's host.
pub(crate) async fn exchange(
    stream: Box<dyn Stream>,
    tls: &TlsConnector,
    question: Question<'_>,
) -> Result<Answer, Cause> {
    let done = timeout(TIMEOUT, ask(stream, tls, question)).await;
    done.unwrap_or_else(|_| Err(late(TIMEOUT)))
}

fn late(limit: Duration) -> Cause {
    format!("no whole answer within {} s", limit.as_secs()).into()
}

async fn ask(
    stream: Box<dyn Stream>,
    tls: &TlsConnector,
    question: Question<'_>,
) -> Result<Answer, Cause> {
    let Question { method, url, body } = question;
    let name = ServerName::try_from(target(url).0.to_owned())?;
    let stream = tls.connect(name, stream).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    // It ends with the answer, or with whoever waits for it.
    tokio::spawn(connection);
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, url.authority())
        .header(ACCEPT, "application/json");
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let response = sender.send_request(request.body(body.unwrap_or_default())?);
    let (head, mut incoming) = response.await?.into_parts();
    Ok(Answer {
        status: head.status,
        retry_after: None,
        body: read(&mut incoming).await?,
    })
}

async fn read(incoming: &mut Incoming) -> Result<Vec<u8>, Cause> {
    let mut body = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut *incoming).poll_frame(context)).await {
        let Ok(part) = frame?.into_data() else {
            continue;
        };
        if body.len() + part.len() > LONGEST {
            return Err("the answer does not end".into());
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}
