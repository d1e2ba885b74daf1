//! A connection to one member of an etcd cluster, and the way to the next one.

use std::fmt;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kubepki::datastore::DatastoreError;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::error::{Kind, RpcError, not_connected, problem};
use super::message::{AuthenticateRequest, AuthenticateResponse, StatusRequest, StatusResponse};
use super::url::{Login, MemberUrl};
use crate::endpoint::Tls;

/// How long one member may take until it is connected and has told its state.
const CONNECT: Duration = Duration::from_secs(10);
/// How long one question or write may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Far above etcd's own limit of 1.5 MiB a value.
const MESSAGE_LIMIT: usize = 64 << 20;

/// The members of a cluster, asked in turn, and the connection in use.
pub(super) struct Client {
    members: Vec<MemberUrl>,
    tls: Tls,
    link: Mutex<Option<Link>>,
}

/// A connected member.
#[derive(Clone)]
pub(super) struct Link {
    channel: Channel,
    /// Its URL, without the password.
    pub(super) member: String,
    token: Option<MetadataValue<Ascii>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Client {
    pub(super) fn new(urls: &[String], tls: &Tls) -> Result<Self, DatastoreError> {
        let mut members = Vec::with_capacity(urls.len());
        for (index, url) in urls.iter().enumerate() {
            members.push(MemberUrl::parse(url).map_err(|problem| {
                // The text itself may hold a password, so it is named by its place.
                DatastoreError::Endpoint {
                    endpoint: format!("number {} (etcd)", index + 1),
                    problem,
                }
            })?);
        }
        let client = Self {
            members,
            tls: tls.clone(),
            link: Mutex::new(None),
        };
        if client.members.is_empty() {
            return Err(DatastoreError::Endpoint {
                endpoint: "of etcd".to_owned(),
                problem: "no address is given".to_owned(),
            });
        }
        // Files that are given beside http:// are left alone, as Go's client leaves them.
        if client.members.iter().any(|member| member.https) {
            client.tls.load(&client.shown())?;
        }
        Ok(client)
    }

    /// Every URL, without passwords.
    pub(super) fn shown(&self) -> String {
        let shown: Vec<String> = self.members.iter().map(ToString::to_string).collect();
        shown.join(",")
    }

    /// The connection in use, or a new one to the first member that can be used.
    pub(super) async fn link(&self) -> Result<Link, DatastoreError> {
        if let Some(link) = self.slot().clone() {
            return Ok(link);
        }
        let mut problems: Vec<String> = Vec::new();
        for member in &self.members {
            match tokio::time::timeout(CONNECT, self.connect(member)).await {
                Ok(Ok(link)) => {
                    *self.slot() = Some(link.clone());
                    return Ok(link);
                }
                Ok(Err(ConnectError::Files(error))) => return Err(error),
                Ok(Err(ConnectError::Member(text))) => problems.push(format!("{member}: {text}")),
                Err(_) => problems.push(format!("{member}: no answer within 10 s")),
            }
        }
        let problem = match &problems[..] {
            [one] => one
                .strip_prefix(&format!("{}: ", self.shown()))
                .unwrap_or(one)
                .to_owned(),
            several => several.join("; "),
        };
        Err(DatastoreError::Unreachable {
            endpoint: self.shown(),
            problem,
            source: None,
        })
    }

    /// Forgets `link`, so that the next question looks for a member anew.
    pub(super) fn forget(&self, link: &Link) {
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(|it| it.member == link.member) {
            *slot = None;
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, member: &MemberUrl) -> Result<Link, ConnectError> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            ConnectError::Member(problem(error).unwrap_or_else(|| error.to_string()))
        };
        let mut endpoint = Endpoint::from_shared(member.address())
            .map_err(|error| failed(&error))?
            .connect_timeout(CONNECT)
            .timeout(ANSWER);
        if member.https {
            let config = self
                .tls
                .load(&member.to_string())
                .map_err(ConnectError::Files)?;
            endpoint = endpoint
                .tls_config(config)
                .map_err(|error| failed(&error))?;
        }
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| ConnectError::Member(not_connected(&error, member.https)))?;
        let mut link = Link {
            channel,
            member: member.to_string(),
            token: None,
        };
        let refuse = |error: RpcError| {
            ConnectError::Member(if member.https {
                error.words_after_handshake()
            } else {
                error.words()
            })
        };
        if let Some(login) = &member.login {
            link.token = Some(authenticate(&link, login).await.map_err(refuse)?);
        }
        let status: StatusResponse = link.unary(STATUS, StatusRequest {}).await.map_err(refuse)?;
        let unusable = if status.is_learner {
            "it is a learner that has not joined the cluster yet: ask a voting member"
        } else if status.leader == 0 {
            "its cluster has no leader: more than half of the members must be up"
        } else {
            return Ok(link);
        };
        Err(ConnectError::Member(unusable.to_owned()))
    }
}

enum ConnectError {
    /// The files for TLS: the same for every member.
    Files(DatastoreError),
    /// This member cannot be used, another one perhaps.
    Member(String),
}

const STATUS: &str = "/etcdserverpb.Maintenance/Status";
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

async fn authenticate(link: &Link, login: &Login) -> Result<MetadataValue<Ascii>, RpcError> {
    let request = AuthenticateRequest {
        name: login.user.clone(),
        password: login.password.to_string(),
    };
    let answer: AuthenticateResponse = link.unary(AUTHENTICATE, request).await?;
    let mut token = MetadataValue::try_from(answer.token.as_str())
        .map_err(|_| link.nonsense("to the user and password is not a token"))?;
    token.set_sensitive(true);
    Ok(token)
}

impl Link {
    /// One question, one answer.
    pub(super) async fn unary<Q, A>(&self, path: &'static str, question: Q) -> Result<A, RpcError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        let path = Uri::from_static(path).path_and_query().cloned();
        let path = path.ok_or_else(|| self.nonsense("has no method"))?;
        let asked = grpc.unary(self.request(question), path, codec);
        match within(ANSWER, asked).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(RpcError::from_status(&self.member, &status)),
        }
    }

    /// One question, many answers.
    pub(super) async fn stream<Q, A>(
        &self,
        path: &'static str,
        question: Q,
    ) -> Result<Streaming<A>, RpcError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        let path = Uri::from_static(path).path_and_query().cloned();
        let path = path.ok_or_else(|| self.nonsense("has no method"))?;
        let asked = grpc.server_streaming(self.request(question), path, codec);
        match within(ANSWER, asked).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(RpcError::from_status(&self.member, &status)),
        }
    }

    /// An error for an answer that etcd cannot have meant.
    pub(super) fn nonsense(&self, what: &'static str) -> RpcError {
        RpcError {
            member: self.member.clone(),
            kind: Kind::Nonsense(what),
        }
    }

    /// An error for a question that etcd stopped answering, in its own words.
    pub(super) fn refused(&self, words: String) -> RpcError {
        RpcError {
            member: self.member.clone(),
            kind: Kind::Refused(tonic::Code::Aborted, words),
        }
    }

    async fn ready(&self) -> Result<Grpc<Channel>, RpcError> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT);
        grpc.ready().await.map_err(|error| RpcError {
            member: self.member.clone(),
            kind: Kind::Broken(problem(&error).unwrap_or_else(|| error.to_string())),
        })?;
        Ok(grpc)
    }

    fn request<Q>(&self, question: Q) -> Request<Q> {
        let mut request = Request::new(question);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(Status::deadline_exceeded("no answer within 10 s")),
    }
}
