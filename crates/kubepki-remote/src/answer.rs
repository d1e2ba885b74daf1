//! Answers over HTTPS: read with a limit, errors in Kubernetes' form turned into words.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Response, StatusCode};
use rustls::ClientConfig;
use serde::Deserialize;

/// K3s's own limit for one exchange (`pkg/clientaccess/token.go`).
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// No answer that is asked for here is anywhere near as long.
pub(crate) const LONGEST: usize = 64 * 1024 * 1024;

/// A client that follows no redirects, uses no proxy and knows no other trust than `tls`.
pub(crate) fn client(tls: ClientConfig) -> Result<Client, reqwest::Error> {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(TIMEOUT)
        .timeout(TIMEOUT)
        .build()
}

/// What a server answered.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// How long it asks to be left alone (RFC 9110 section 10.2.3; the form in seconds).
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Vec<u8>,
}

/// An answer was cut off, or is too long.
pub(crate) enum Unreadable {
    Broken(reqwest::Error),
    TooLong,
}

impl Answer {
    pub(crate) async fn read(mut response: Response) -> Result<Self, Unreadable> {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER);
        let retry_after = retry_after
            .and_then(|it| it.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(Unreadable::Broken)? {
            if body.len() + part.len() > LONGEST {
                return Err(Unreadable::TooLong);
            }
            body.extend_from_slice(&part);
        }
        Ok(Self {
            status,
            retry_after,
            body,
        })
    }

    /// The message of a Kubernetes `Status`, or the beginning of whatever came instead; control
    /// characters left out.
    pub(crate) fn message(&self) -> String {
        #[derive(Deserialize)]
        struct Status {
            message: String,
        }
        let text = match serde_json::from_slice::<Status>(&self.body) {
            Ok(status) => status.message,
            Err(_) => String::from_utf8_lossy(&self.body).into_owned(),
        };
        let harmless = text.chars().filter(|it| !it.is_control());
        harmless.take(MESSAGE_CHARACTERS).collect()
    }
}

const MESSAGE_CHARACTERS: usize = 300;
