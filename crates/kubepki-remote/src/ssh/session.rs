//! A connection to a host.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kubepki::host::Output;
use russh::client::{Config, Handle, Msg};
use russh::{Channel, ChannelOpenFailure, Preferred};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::{Client, Failure, News};
use super::credentials::said;
use super::{
    Accepted, Endpoint, HostKeys, SftpHost, SocketFault, SshError, Stream, Timeouts, auth, client,
    exec,
};

/// A connection to one host, logged in. Clones share it; it is closed when the last clone and the
/// last [`Stream`] on it are gone.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    handle: Handle<Client>,
    host: String,
    user: String,
    timeouts: Timeouts,
    news: Arc<News>,
    /// The connection that this one runs through.
    bastion: Option<Session>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("user", &self.inner.user)
            .field("host", &self.inner.host)
            .field("open", &!self.inner.handle.is_closed())
            .finish_non_exhaustive()
    }
}

/// What a connection runs on.
trait Line: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Line for T {}

/// Messages that wait for a channel's reader before the connection's other channels wait too.
const WAITING_MESSAGES: usize = 1024;

impl Session {
    /// Connects and logs in, through the bastion if there is one. The host's key is held to
    /// `host_keys` before anything is sent, the bastion's too.
    ///
    /// # Errors
    ///
    /// [`SshError`]; the credentials are looked at first, so that a wrong key file is told without
    /// a host.
    pub async fn connect(
        endpoint: &Endpoint,
        host_keys: &HostKeys,
        timeouts: Timeouts,
    ) -> Result<Self, SshError> {
        let host = endpoint.name();
        let limit = timeouts.connect;
        let ready = timeout(limit, auth::prepare(&endpoint.keys, &host)).await;
        let ready = ready.map_err(|_| late(&host, "asking ssh-agent", limit))??;
        let known = host_keys.look_up(&endpoint.address, endpoint.port)?;
        let (line, bastion) = dial(endpoint, host_keys, timeouts).await?;
        let news = Arc::new(News::default());
        let config = Arc::new(config(known.algorithms(), timeouts));
        let client = Client {
            known,
            news: news.clone(),
        };
        let shake = async {
            let handle = russh::client::connect_stream(config, line, client).await;
            let mut handle = handle.map_err(|failure| refused(&host, &bastion, failure))?;
            auth::log_in(&mut handle, endpoint, ready).await?;
            Ok::<_, SshError>(handle)
        };
        let handle = timeout(limit, shake).await;
        let handle = handle.map_err(|_| late(&host, "ssh: handshake", limit))??;
        Ok(Self {
            inner: Arc::new(Inner {
                handle,
                host,
                user: endpoint.user.clone(),
                timeouts,
                news,
                bastion,
            }),
        })
    }

    /// The host's `address:port`.
    pub fn host(&self) -> &str {
        &self.inner.host
    }

    /// Whom we are logged in as.
    pub fn user(&self) -> &str {
        &self.inner.user
    }

    /// The keys that were recorded at first use on the way, the bastion's first. The caller says
    /// them to the operator.
    pub fn accepted(&self) -> Vec<Accepted> {
        let bastion = self.inner.bastion.as_ref();
        let mut all = bastion.map(Self::accepted).unwrap_or_default();
        all.extend(self.inner.news.accepted());
        all
    }

    /// A stream to the Unix socket at `path` on the host (`direct-streamlocal@openssh.com`).
    ///
    /// # Errors
    ///
    /// [`SshError::Socket`] with what a look at the host found out; that the connection broke.
    pub async fn open_unix(&self, path: &str) -> Result<Stream, SshError> {
        let opening = self.inner.handle.channel_open_direct_streamlocal(path);
        let failure = match self.open(opening).await? {
            Ok(channel) => return Ok(Stream::new(channel.into_stream(), self.clone())),
            Err(failure) => failure,
        };
        let fault = match failure {
            ChannelOpenFailure::ConnectFailed => exec::look_at_socket(self, path).await,
            ChannelOpenFailure::AdministrativelyProhibited => SocketFault::Prohibited {
                said: "administratively prohibited",
            },
            ChannelOpenFailure::UnknownChannelType => SocketFault::Prohibited {
                said: "unknown channel type",
            },
            other => SocketFault::Other(rejected(&other)),
        };
        Err(SshError::Socket {
            host: self.inner.host.clone(),
            socket: path.to_owned(),
            fault,
        })
    }

    /// A stream to a TCP port as the host sees it (`direct-tcpip`).
    ///
    /// # Errors
    ///
    /// [`SshError::Tcp`]; that the connection broke.
    pub async fn open_tcp(&self, host: &str, port: u16) -> Result<Stream, SshError> {
        let handle = &self.inner.handle;
        let opening = handle.channel_open_direct_tcpip(host, u32::from(port), "127.0.0.1", 0);
        match self.open(opening).await? {
            Ok(channel) => Ok(Stream::new(channel.into_stream(), self.clone())),
            Err(failure) => Err(SshError::Tcp {
                host: self.inner.host.clone(),
                target: format!("{host}:{port}"),
                reason: rejected(&failure),
            }),
        }
    }

    /// Runs `argv` on the host and waits for its end. The words reach the program as they are
    /// ([`super::quote`]), through the user's shell, which must be of Bourne's kind. They are seen
    /// by everybody on the host: what is secret goes into `stdin`.
    ///
    /// # Errors
    ///
    /// When it cannot be started or does not end in time. A program that does not exist is no
    /// error here: the shell exits with 127.
    pub async fn exec(
        &self,
        argv: &[String],
        stdin: &[u8],
        limit: Duration,
    ) -> Result<Output, SshError> {
        exec::run(self, argv, stdin, limit).await
    }

    /// The host's files.
    ///
    /// # Errors
    ///
    /// [`SshError::Sftp`] when the host has no SFTP, or one that cannot replace files whole.
    pub async fn sftp(&self) -> Result<SftpHost, SshError> {
        SftpHost::open(self.clone()).await
    }

    /// Closes the connection now, streams on it too.
    pub async fn close(&self) {
        let reason = russh::Disconnect::ByApplication;
        let goodbye = self.inner.handle.disconnect(reason, "", "en");
        // It may be broken already.
        let _ = timeout(self.inner.timeouts.request, goodbye).await;
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.inner.handle.is_closed()
    }

    /// Whether the connection has ended or is just ending: for a caller whose request failed.
    pub async fn is_broken(&self) -> bool {
        self.is_closed() || self.broken_soon().await.is_some()
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        self.inner.timeouts
    }

    /// A channel for a command or a subsystem.
    pub(super) async fn channel(&self) -> Result<Channel<Msg>, SshError> {
        match self.open(self.inner.handle.channel_open_session()).await? {
            Ok(channel) => Ok(channel),
            Err(failure) => Err(SshError::Dial {
                host: self.inner.host.clone(),
                reason: format!("{}; see MaxSessions in sshd_config", rejected(&failure)),
            }),
        }
    }

    async fn open(
        &self,
        opening: impl Future<Output = Result<Channel<Msg>, russh::Error>>,
    ) -> Result<Result<Channel<Msg>, ChannelOpenFailure>, SshError> {
        match self.bounded("opening a channel", opening).await? {
            Ok(channel) => Ok(Ok(channel)),
            Err(russh::Error::ChannelOpenFailure(failure)) => Ok(Err(failure)),
            Err(error) => Err(self.broken(&error).await),
        }
    }

    /// Runs a request of russh within its time.
    pub(super) async fn bounded<T>(
        &self,
        what: &'static str,
        request: impl Future<Output = T>,
    ) -> Result<T, SshError> {
        let limit = self.inner.timeouts.request;
        let done = timeout(limit, request).await;
        done.map_err(|_| late(&self.inner.host, what, limit))
    }

    /// The error for a request that failed because the connection did.
    pub(super) async fn broken(&self, error: &russh::Error) -> SshError {
        self.broken_soon()
            .await
            .unwrap_or_else(|| SshError::Broken {
                host: self.inner.host.clone(),
                reason: client::said(error),
            })
    }

    /// The reason why the connection ended, if it has or is about to: its task closes the channels
    /// first and tells the reason after that.
    pub(super) async fn broken_soon(&self) -> Option<SshError> {
        for _ in 0..20 {
            if let Some(error) = self.broken_now() {
                return Some(error);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        None
    }

    /// The error for every call on a connection that has ended; `None` while it lives, or in the
    /// moment before its reason is known.
    pub(super) fn broken_now(&self) -> Option<SshError> {
        Some(SshError::Broken {
            host: self.inner.host.clone(),
            reason: self.inner.news.ended()?,
        })
    }
}

fn config(kinds: Vec<russh::keys::Algorithm>, timeouts: Timeouts) -> Config {
    Config {
        preferred: Preferred {
            key: kinds.into(),
            ..Preferred::DEFAULT
        },
        keepalive_interval: Some(timeouts.keep_alive),
        keepalive_max: 3,
        // Keep-alives are not sent while a write is stuck; this ends that.
        inactivity_timeout: Some(timeouts.keep_alive.saturating_mul(5)),
        channel_buffer_size: WAITING_MESSAGES,
        nodelay: true,
        ..Config::default()
    }
}

/// TCP to the host, or a channel to it through its bastion.
async fn dial(
    endpoint: &Endpoint,
    host_keys: &HostKeys,
    timeouts: Timeouts,
) -> Result<(Box<dyn Line>, Option<Session>), SshError> {
    let host = endpoint.name();
    let Some(bastion) = &endpoint.bastion else {
        let to = (endpoint.address.as_str(), endpoint.port);
        let connected = timeout(timeouts.connect, TcpStream::connect(to)).await;
        let connected = connected.map_err(|_| late(&host, "dial tcp", timeouts.connect))?;
        let stream = connected.map_err(|error| unreached(&host, &error))?;
        // Keystrokes are not sent here, but small requests of SFTP are.
        let _ = stream.set_nodelay(true);
        return Ok((Box::new(stream), None));
    };
    let session = Box::pin(Session::connect(bastion, host_keys, timeouts)).await;
    let session = session.map_err(|error| SshError::Bastion {
        bastion: bastion.name(),
        reason: Box::new(error),
    })?;
    match session.open_tcp(&endpoint.address, endpoint.port).await {
        Ok(stream) => Ok((Box::new(stream), Some(session))),
        Err(SshError::Tcp { reason, .. }) => Err(SshError::BehindBastion {
            host,
            bastion: bastion.name(),
            reason,
        }),
        Err(error) => Err(SshError::Bastion {
            bastion: bastion.name(),
            reason: Box::new(error),
        }),
    }
}

fn unreached(host: &str, error: &std::io::Error) -> SshError {
    if error.kind() == std::io::ErrorKind::TimedOut {
        return SshError::TimedOut {
            host: host.to_owned(),
            what: "dial tcp",
            seconds: 0,
        };
    }
    SshError::Dial {
        host: host.to_owned(),
        reason: format!("dial tcp {host}: connect: {}", said(error)),
    }
}

fn late(host: &str, what: &'static str, limit: Duration) -> SshError {
    SshError::TimedOut {
        host: host.to_owned(),
        what,
        seconds: limit.as_secs(),
    }
}

fn refused(host: &str, bastion: &Option<Session>, failure: Failure) -> SshError {
    let error = match failure {
        Failure::HostKey(error) => return error.into(),
        Failure::Ssh(error) => error,
    };
    let reason = format!("ssh: handshake failed: {}", client::said(&error));
    let reason = match bastion {
        // RKE's words for this one.
        Some(_) => format!("Failed to establish new ssh client conn [{host}]: {reason}"),
        None => reason,
    };
    SshError::Dial {
        host: host.to_owned(),
        reason,
    }
}

/// A refusal in Go's words, as RKE prints them.
fn rejected(failure: &ChannelOpenFailure) -> String {
    let said = match failure {
        ChannelOpenFailure::AdministrativelyProhibited => "administratively prohibited",
        ChannelOpenFailure::ConnectFailed => "connect failed",
        ChannelOpenFailure::UnknownChannelType => "unknown channel type",
        ChannelOpenFailure::ResourceShortage => "resource shortage",
        ChannelOpenFailure::Other { code, .. } => return format!("ssh: rejected: reason {code}"),
    };
    format!("ssh: rejected: {said} (open failed)")
}
