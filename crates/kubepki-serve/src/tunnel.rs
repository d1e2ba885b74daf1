//! The websocket that every agent keeps open to every server, `/v1-k3s/connect` (reference
//! sections 6.1 and 13.13).
//!
//! K3s's servers reach the kubelets through it. There is no API server here that would, so nothing
//! is ever sent; but an agent that finds the door shut waits for it, and knocks each second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use crate::status::Refusal;

/// Open at a time, beside the connections that ask.
pub(crate) const MOST: usize = 16 << 10;
/// Agents of every version say something every five seconds.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest message that is read to its end, to be thrown away.
const LONGEST: usize = 64 << 10;

const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");
const ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// A request to go on as a websocket (RFC 6455 section 4.2.1).
pub(crate) struct Call {
    accept: HeaderValue,
    upgrade: OnUpgrade,
}

/// Where a connection finds what it goes on as.
pub(crate) type Place = Arc<Mutex<Option<OnUpgrade>>>;

impl Call {
    /// The request's, if it is one.
    pub(crate) fn of(request: &mut hyper::Request<Incoming>) -> Option<Self> {
        let headers = request.headers();
        let is_call = has(headers, &UPGRADE, "websocket")
            && has(headers, &CONNECTION, "upgrade")
            && has(headers, &VERSION, "13");
        if !is_call {
            return None;
        }
        let accept = derive_accept_key(headers.get(KEY)?.as_bytes());
        let accept = HeaderValue::try_from(accept).ok()?;
        let upgrade = hyper::upgrade::on(request);
        Some(Self { accept, upgrade })
    }

    /// The answer after which the connection goes on as a websocket.
    pub(crate) fn answer(self, place: &Place) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(ACCEPT, self.accept);
        *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.upgrade);
        response
    }
}

/// What an agent is told that asks otherwise.
pub(crate) fn no_call() -> Refusal {
    Refusal::Bad("this is a websocket: Upgrade, Sec-WebSocket-Key and version 13".to_owned())
}

/// Whether a list in a header has `word` in it.
fn has(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let texts = headers.get_all(name).iter();
    texts
        .filter_map(|text| text.to_str().ok())
        .flat_map(|text| text.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(word))
}

/// Keeps a websocket open until the agent ends it or falls silent, or `stop`: pings are answered,
/// all else is read and forgotten.
pub(crate) async fn hold(upgrade: OnUpgrade, stop: impl Future<Output = ()>) {
    let Ok(stream) = upgrade.await else {
        return;
    };
    let config = WebSocketConfig::default()
        .max_message_size(Some(LONGEST))
        .max_frame_size(Some(LONGEST))
        .read_buffer_size(1 << 10);
    let stream = TokioIo::new(stream);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let mut stop = std::pin::pin!(stop);
    loop {
        let heard = tokio::select! {
            () = &mut stop => {
                let frame = CloseFrame {
                    code: CloseCode::Away,
                    reason: "the server stops".into(),
                };
                let _ = tokio::time::timeout(Duration::from_secs(1), socket.close(Some(frame))).await;
                return;
            }
            heard = tokio::time::timeout(SILENCE, socket.next()) => heard,
        };
        if !matches!(heard, Ok(Some(Ok(_)))) {
            return;
        }
    }
}
