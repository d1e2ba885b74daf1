//! The accept loop: connections, limits, HTTP, graceful stop.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, LAST_MODIFIED};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Response, Version};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::LazyConfigAcceptor;
use zeroize::Zeroizing;

use crate::date;
use crate::head::{authorization, host_problem};
use crate::http::{self, told};
use crate::leaf::LARGEST_REQUEST;
use crate::node::NodeHeaders;
use crate::route::Endpoint;
use crate::service::{Request, Service};
use crate::status::{Answer, Refusal};
use crate::throttle::network;
use crate::tunnel::{self, Call};
use crate::wishes::Wishes;

/// What one client, or all together, may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time; more wait in the kernel's queue.
    pub connections: usize,
    /// Connections at a time from one address.
    pub connections_of_one: usize,
    /// Requests at a time; more get 429.
    pub requests: usize,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For a request's headers; on HTTP/1.1 also between two requests.
    pub headers: Duration,
    /// Without a request that was let in, for a connection of HTTP/2: its pings keep it no longer.
    pub idle: Duration,
    /// For a request's body.
    pub body: Duration,
    /// For what is open when the server is told to stop.
    pub stop: Duration,
    /// Bytes of the two bodies that carry CAs or tokens.
    pub large_body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_of_one: 1024,
            requests: 512,
            handshake: Duration::from_secs(10),
            headers: Duration::from_secs(15),
            idle: Duration::from_secs(60),
            body: Duration::from_secs(15),
            stop: Duration::from_secs(10),
            large_body: 1 << 20,
        }
    }
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    /// Who answers.
    pub service: Arc<Service>,
    /// Certificates, versions, suites.
    pub tls: Arc<ServerConfig>,
    /// What is taken.
    pub limits: Limits,
}

struct Shared {
    service: Arc<Service>,
    limits: Limits,
    requests: Semaphore,
    tunnels: Semaphore,
    stop: watch::Receiver<bool>,
}

impl Server {
    /// Serves `listener` until `stop` is done, then lets open requests end.
    ///
    /// # Errors
    ///
    /// When the listener is unusable. Connections that fail concern nobody else.
    pub async fn run(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let (stops, stopping) = watch::channel(false);
        let tls = self.tls;
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let shared = Arc::new(Shared {
            service: self.service,
            limits: self.limits,
            requests: Semaphore::new(self.limits.requests),
            tunnels: Semaphore::new(tunnel::MOST),
            stop: stopping,
        });
        let crowd = Crowd::default();
        let mut open = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let next = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (listener.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                () = &mut stop => break,
                Some(_) = open.join_next(), if !open.is_empty() => continue,
                next = next => next,
            };
            let (Ok((stream, peer)), Ok(place)) = (accepted, place) else {
                // Out of file descriptors, or the client was gone: others are waiting.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            // A socket for both families calls 192.0.2.1 ::ffff:192.0.2.1.
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            let Some(counted) = crowd.enter(peer, self.limits.connections_of_one) else {
                continue;
            };
            let (tls, shared) = (Arc::clone(&tls), Arc::clone(&shared));
            open.spawn(async move {
                let _held = (counted, shared.service.metrics.connected());
                let going_on = connection(tls, stream, peer, &shared).await;
                drop(place);
                if let (Some(upgrade), Ok(_place)) = (going_on, shared.tunnels.try_acquire()) {
                    let mut stop = shared.stop.clone();
                    tunnel::hold(upgrade, told(&mut stop)).await;
                }
            });
        }
        drop(listener);
        let _ = stops.send(true);
        let all = async { while open.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(self.limits.stop, all).await;
        Ok(())
    }
}

/// How many connections each [network](network) has.
#[derive(Default, Clone)]
struct Crowd(Arc<std::sync::Mutex<std::collections::HashMap<std::net::IpAddr, usize>>>);

struct Member(Crowd, std::net::IpAddr);

impl Crowd {
    fn enter(&self, peer: SocketAddr, most: usize) -> Option<Member> {
        let who = network(peer.ip());
        let mut all = self.0.lock().ok()?;
        let count = all.entry(who).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Member(self.clone(), who))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Ok(mut all) = self.0.0.lock()
            && let Some(count) = all.get_mut(&self.1)
        {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.1);
            }
        }
    }
}

/// One connection, from its handshake to its end, or to where it goes on as something else.
async fn connection(
    tls: Arc<ServerConfig>,
    stream: TcpStream,
    peer: SocketAddr,
    shared: &Arc<Shared>,
) -> Option<OnUpgrade> {
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().ok().map(|it| it.ip());
    let handshake = async {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let service = &shared.service;
        service.met(local, begun.client_hello().server_name()).await;
        begun.into_stream(tls).await
    };
    let handshake = tokio::time::timeout(shared.limits.handshake, handshake);
    let stream = handshake.await.ok()?.ok()?;
    let (_, session) = stream.get_ref();
    let is_h2 = session.alpn_protocol() == Some(b"h2");
    let certificates = session.peer_certificates().unwrap_or_default().iter();
    let certificates: Arc<[Vec<u8>]> = certificates.map(|der| der.to_vec()).collect();
    let io = TokioIo::new(stream);
    let going_on = tunnel::Place::default();
    let (used, last) = watch::channel(Instant::now());
    let used = Arc::new(used);
    let service = service_fn({
        let (shared, going_on) = (Arc::clone(shared), Arc::clone(&going_on));
        move |request| {
            let (shared, certificates) = (Arc::clone(&shared), Arc::clone(&certificates));
            let (used, going_on) = (Arc::clone(&used), Arc::clone(&going_on));
            async move {
                let response = respond(&shared, peer, &certificates, request, &going_on).await?;
                // HTTP/1.1 has a limit between two requests.
                if is_h2 && response.status().as_u16() < 400 {
                    used.send_replace(Instant::now());
                }
                Ok::<_, std::convert::Infallible>(response)
            }
        }
    });
    let stop = shared.stop.clone();
    match is_h2 {
        true => http::second(io, service, last, &shared.limits, stop).await,
        false => http::first(io, service, &shared.limits, stop).await,
    }
    going_on.lock().ok()?.take()
}

async fn respond(
    shared: &Shared,
    peer: SocketAddr,
    certificates: &[Vec<u8>],
    mut request: hyper::Request<Incoming>,
    going_on: &tunnel::Place,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let call = Call::of(&mut request);
    let version = request.version();
    let is_head = request.method() == hyper::Method::HEAD;
    let wishes = Wishes::of(request.headers());
    let mut answer = answer(shared, peer, certificates, request).await;
    if answer.code == 101 {
        match call {
            Some(call) => return Ok(call.answer(going_on)),
            None => answer = tunnel::no_call().answer(),
        }
    }
    let (answer, headers) = wishes.meet(answer);
    let mut response = response(answer, version, is_head);
    response.headers_mut().extend(headers);
    Ok(response)
}

async fn answer(
    shared: &Shared,
    peer: SocketAddr,
    certificates: &[Vec<u8>],
    request: hyper::Request<Incoming>,
) -> Answer {
    let (head, body) = request.into_parts();
    if shared.service.names.heeds_hosts()
        && let Some(host) = host(&head)
    {
        shared.service.met_host(host);
    }
    let mut ours = Request {
        peer,
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query(),
        is_form: text(&head.headers, "content-type").is_some_and(|it| is_form(&it)),
        authorization: authorization(&head.headers),
        certificates,
        node: NodeHeaders {
            name: text(&head.headers, "k3s-node-name"),
            password: text(&head.headers, "k3s-node-password").map(Zeroizing::new),
            addresses: text(&head.headers, "k3s-node-ip"),
        },
        body: Zeroizing::default(),
    };
    let service = &shared.service;
    let place = shared.requests.try_acquire();
    let admitted = match (&place, host_problem(head.version, &head.headers)) {
        (_, Some(problem)) => Err(Refusal::Bad(problem.to_owned())),
        (Ok(_), None) => service.admit(&ours).await,
        (Err(_), None) => Err(Refusal::TooMany),
    };
    let admitted = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            // Strangers take no places, and of what they send little is read.
            drop(place);
            let _ = within(shared, collect(body, 0, STRANGERS)).await;
            return service.answer(&ours, Err(refusal)).await;
        }
    };
    let limit = match Endpoint::of(ours.path) {
        Some(Endpoint::PutCaCerts | Endpoint::PutToken) => shared.limits.large_body,
        _ => LARGEST_REQUEST,
    };
    let body = within(shared, collect(body, limit, limit.saturating_add(DRAINED))).await;
    let admitted = body.map(|bytes| {
        ours.body = bytes;
        admitted
    });
    service.answer(&ours, admitted).await
}

/// Whom a request is for; `None` where a browser asks, or a proxy is wanted: those say what K3s
/// does not learn either.
fn host(head: &hyper::http::request::Parts) -> Option<&str> {
    let mut agents = head.headers.get_all(hyper::header::USER_AGENT).iter();
    let is_browser = agents.any(|agent| {
        let agent = agent.as_bytes().to_ascii_lowercase();
        agent.windows(7).any(|part| part == b"mozilla")
    });
    if is_browser || head.method == hyper::Method::CONNECT {
        return None;
    }
    match head.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => head.headers.get(hyper::header::HOST)?.to_str().ok(),
    }
}

/// Whether Go would read the body as a form, so that nothing is left of it for a handler.
fn is_form(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        || kind.eq_ignore_ascii_case("multipart/form-data")
}

/// Bytes that are read and forgotten when a body is refused: in HTTP/2 a client that is still
/// sending would see its stream broken off instead of the answer.
const DRAINED: usize = 4 << 20;
/// The same for callers that have not proved who they are.
const STRANGERS: usize = 64 << 10;

async fn within<T>(
    shared: &Shared,
    body: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let read = tokio::time::timeout(shared.limits.body, body).await;
    read.unwrap_or(Err(Refusal::TooSlow))
}

/// The body, if it has no more than `limit` bytes. Of a longer one no more than `drained` bytes
/// are read.
async fn collect(
    mut body: Incoming,
    limit: usize,
    drained: usize,
) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let mut kept = Zeroizing::new(Vec::new());
    let mut read = 0usize;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|_| Refusal::Bad("the request's body cannot be read".to_owned()))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        read = read.saturating_add(data.len());
        if read > drained {
            break;
        }
        if read <= limit {
            kept.extend_from_slice(data);
        }
    }
    match read > limit {
        true => Err(Refusal::TooLarge(limit)),
        false => Ok(kept),
    }
}

/// A header that is there once. Two of one name are as good as none: a program between client
/// and server may have read the other one.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    if all.next().is_some() {
        return None;
    }
    Some(String::from_utf8_lossy(first.as_bytes()).into_owned())
}

fn response(answer: Answer, version: Version, is_head: bool) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = hyper::StatusCode::from_u16(answer.code).unwrap_or_default();
    let headers = response.headers_mut();
    if !answer.content_type.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    }
    if let Some(modified) = answer.modified
        && let Ok(value) = HeaderValue::from_str(&date::write(modified))
    {
        headers.insert(LAST_MODIFIED, value);
    }
    // HTTP/2 knows no such header.
    if answer.code >= 400 && version < Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if is_head {
        headers.insert(hyper::header::CONTENT_LENGTH, answer.body.len().into());
    } else {
        *response.body_mut() = Full::new(Bytes::from(answer.body));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_as_guesses_are() {
        let crowd = Crowd::default();
        let enter = |text: &str| crowd.enter(SocketAddr::new(text.parse().unwrap(), 1), 2);
        let (one, two) = (enter("2001:db8::1"), enter("2001:db8::ffff"));
        assert!(one.is_some() && two.is_some() && enter("2001:db8::2").is_none());
        assert!(enter("2001:db8:0:1::1").is_some() && enter("192.0.2.1").is_some());
        drop(one);
        assert!(enter("2001:db8::2").is_some());
    }

    #[test]
    fn two_headers_of_one_name_are_none() {
        let mut headers = HeaderMap::new();
        headers.append("k3s-node-name", HeaderValue::from_static("a"));
        assert_eq!(text(&headers, "k3s-node-name").as_deref(), Some("a"));
        headers.append("k3s-node-name", HeaderValue::from_static("b"));
        assert_eq!(text(&headers, "k3s-node-name"), None);
    }
}
