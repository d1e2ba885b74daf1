//! HTTP over one connection: how long it may stay, and how it ends.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::HttpService;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use crate::accept::Limits;

/// A connection of the client, decrypted.
pub(crate) type Io = TokioIo<TlsStream<TcpStream>>;

/// HTTP/1.1, to its end or to where it goes on as something else.
pub(crate) async fn first<S>(io: Io, service: S, limits: &Limits, mut stop: watch::Receiver<bool>)
where
    S: HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // A client that says at once that it will ask no more is answered, as by Go.
        .half_close(true)
        .header_read_timeout(limits.headers)
        .max_buf_size(32 << 10)
        .serve_connection(io, service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = &mut connection => {}
        () = told(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// HTTP/2, to its end, or until `last` was long ago.
pub(crate) async fn second<S>(
    io: Io,
    service: S,
    mut last: watch::Receiver<Instant>,
    limits: &Limits,
    mut stop: watch::Receiver<bool>,
) where
    S: HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(64)
        .max_header_list_size(16 << 10)
        .keep_alive_interval(limits.headers)
        .keep_alive_timeout(limits.headers)
        .serve_connection(io, service);
    let mut connection = std::pin::pin!(connection);
    let is_idle = tokio::select! {
        _ = &mut connection => return,
        () = told(&mut stop) => false,
        () = idle(&mut last, limits.idle) => true,
    };
    connection.as_mut().graceful_shutdown();
    match is_idle {
        // What is being answered has that long; who never reads is not waited for.
        true => drop(tokio::time::timeout(limits.stop, connection).await),
        false => drop(connection.await),
    }
}

/// Returns when `last` lies `limit` back.
async fn idle(last: &mut watch::Receiver<Instant>, limit: Duration) {
    loop {
        let until = *last.borrow_and_update() + limit;
        let Ok(Ok(())) = tokio::time::timeout_at(until, last.changed()).await else {
            return;
        };
    }
}

/// Returns when `stop` says so.
pub(crate) async fn told(stop: &mut watch::Receiver<bool>) {
    // An error means that the server itself is gone.
    let _ = stop.wait_for(|stop| *stop).await.map(|it| *it);
}
