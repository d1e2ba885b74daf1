//! HTTP over whatever stream reaches Docker's socket.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue};
use hyper::{Response, Uri};
use hyper_util::rt::TokioIo;
use kubepki::machine::Stream;

/// A way to open the socket of one machine's Docker. Every request opens it anew.
#[async_trait]
pub trait Dial: Send + Sync + fmt::Debug {
    /// The socket's path on that machine, for messages.
    fn socket(&self) -> String;

    /// Opens it.
    async fn dial(&self) -> Result<Box<dyn Stream>, DialError>;
}

/// Docker's socket did not open. Its source says why.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The machine is out of reach.
    #[error("the machine cannot be reached")]
    Unreachable(#[source] Cause),
    /// The machine answers; its user may not open the socket, or the SSH server forwards none.
    #[error("the socket is denied")]
    Denied(#[source] Cause),
    /// There is no socket, or nobody listens.
    #[error("nobody serves the socket")]
    NotServing(#[source] Cause),
    /// Something that the way itself explains best.
    #[error("{text}")]
    Said {
        /// What, where and what to do.
        text: String,
        /// Whether it may pass by itself.
        passing: bool,
    },
}

/// What another library said.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The socket of the Docker of this machine.
#[derive(Clone, Debug)]
pub struct LocalSocket(pub PathBuf);

#[async_trait]
impl Dial for LocalSocket {
    fn socket(&self) -> String {
        self.0.display().to_string()
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        match tokio::net::UnixStream::connect(&self.0).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(DialError::Denied(Box::new(error)))
            }
            Err(error) => Err(DialError::NotServing(Box::new(error))),
        }
    }
}

/// Docker's client over `dial`, not connected yet. `patience` in seconds for one answer's head.
pub(super) fn client(dial: Arc<dyn Dial>, patience: u64) -> Result<Docker, Error> {
    let transport = move |request: BollardRequest| {
        let dial = Arc::clone(&dial);
        async move { send(&*dial, request).await }
    };
    Docker::connect_with_custom_transport(
        transport,
        Some("http://docker"),
        patience,
        API_DEFAULT_VERSION,
    )
}

async fn send(dial: &dyn Dial, mut request: BollardRequest) -> Result<Response<Incoming>, Error> {
    let stream = dial.dial().await.map_err(|error| Error::IOError {
        err: io::Error::other(error),
    })?;
    // Upon a stream of its own a request names its path alone, and the host beside it.
    let path = request.uri().path_and_query().map_or("/", |it| it.as_str());
    // Before a version is agreed upon, none may be named: daemons refuse those they do not know.
    let path = if path.ends_with("/version") {
        "/version"
    } else {
        path
    };
    let uri: Uri = path.parse().map_err(io::Error::other)?;
    *request.uri_mut() = uri;
    request
        .headers_mut()
        .insert(HOST, HeaderValue::from_static("docker"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer, or with the stream that an answer was upgraded to.
    tokio::spawn(connection.with_upgrades());
    Ok(sender.send_request(request).await?)
}
