//! Logging in.

use std::path::Path;
use std::sync::Arc;

use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::signature::Signer as _;
use russh::keys::ssh_encoding::Encode as _;
use russh::keys::{Algorithm, HashAlg, PrivateKeyWithHashAlg, PublicKey};
use tokio::net::UnixStream;

use super::client::Client;
use super::credentials::{Usable, said};
use super::{Credentials, Endpoint, SshError};

/// Credentials that were looked at: what can be wrong with them is known before anybody is called.
pub(super) enum Ready {
    Key(Box<Usable>),
    Agent(AgentClient<UnixStream>, Vec<AgentIdentity>),
}

pub(super) async fn prepare(keys: &Credentials, host: &str) -> Result<Ready, SshError> {
    if let Some(socket) = &keys.agent {
        return ask_agent(socket).await;
    }
    match &keys.key {
        Some(key) => Ok(Ready::Key(Box::new(key.open(host)?))),
        None => Err(SshError::NoKey {
            host: host.to_owned(),
            origin: "the configuration".to_owned(),
            detail: ": neither ssh_key nor ssh_key_path is set, and ssh-agent is not asked"
                .to_owned(),
        }),
    }
}

async fn ask_agent(socket: &Path) -> Result<Ready, SshError> {
    let failed = |reason: String| SshError::Agent {
        socket: socket.to_owned(),
        reason,
    };
    let stream = UnixStream::connect(socket).await.map_err(|error| {
        let path = socket.display();
        failed(format!("dial unix {path}: connect: {}", said(&error)))
    })?;
    let mut agent = AgentClient::connect(stream);
    let identities = agent.request_identities().await;
    let identities = identities
        .map_err(|error| failed(format!("it does not tell which keys it holds: {error}")))?;
    if identities.is_empty() {
        let text = "the agent holds no key; add one with ssh-add";
        return Err(failed(text.to_owned()));
    }
    Ok(Ready::Agent(agent, identities))
}

/// Shows the host what we have until it takes something.
pub(super) async fn log_in(
    handle: &mut Handle<Client>,
    endpoint: &Endpoint,
    ready: Ready,
) -> Result<(), SshError> {
    let mut tried = Vec::new();
    let taken = match ready {
        Ready::Key(usable) => with_key(handle, endpoint, &usable, &mut tried).await?,
        Ready::Agent(mut agent, identities) => {
            if let Some(binding) = handle.agent_session_binding().cloned() {
                // An agent that knows nothing of bindings says so, and that is all.
                let _ = agent.bind_session(&binding, false).await;
            }
            with_agent(handle, endpoint, &mut agent, identities, &mut tried).await?
        }
    };
    if taken {
        return Ok(());
    }
    if handle.is_closed() && tried.len() > 1 {
        tried.push("and was hung up on".to_owned());
    }
    Err(SshError::Refused {
        host: endpoint.name(),
        user: endpoint.user.clone(),
        tried: tried.join(", "),
    })
}

async fn with_key(
    handle: &mut Handle<Client>,
    endpoint: &Endpoint,
    usable: &Usable,
    tried: &mut Vec<String>,
) -> Result<bool, SshError> {
    let user = &endpoint.user;
    let public = usable.key.public_key();
    if let Some(certificate) = &usable.certificate {
        tried.push(format!("a certificate for {}", shown(public)));
        let hash = is_rsa(public).then_some(HashAlg::Sha512);
        let mut signer = Local(usable.key.clone());
        let result = handle
            .authenticate_certificate_with(user, certificate.clone(), hash, &mut signer)
            .await;
        let result = result.map_err(|error| failed(endpoint, error.0))?;
        if taken(&result, tried) {
            return Ok(true);
        }
    }
    tried.push(shown(public));
    let hash = rsa_hash(handle, public).await;
    let key = PrivateKeyWithHashAlg::new(usable.key.clone(), hash);
    let result = handle.authenticate_publickey(user, key).await;
    let result = result.map_err(|error| failed(endpoint, error))?;
    Ok(taken(&result, tried))
}

async fn with_agent(
    handle: &mut Handle<Client>,
    endpoint: &Endpoint,
    agent: &mut AgentClient<UnixStream>,
    identities: Vec<AgentIdentity>,
    tried: &mut Vec<String>,
) -> Result<bool, SshError> {
    let user = &endpoint.user;
    for identity in identities {
        if handle.is_closed() {
            break;
        }
        let public = identity.public_key().into_owned();
        let hash = rsa_hash(handle, &public).await;
        let result = match identity {
            AgentIdentity::PublicKey { key, .. } => {
                tried.push(shown(&public));
                handle
                    .authenticate_publickey_with(user, key, hash, agent)
                    .await
            }
            AgentIdentity::Certificate { certificate, .. } => {
                tried.push(format!("a certificate for {}", shown(&public)));
                handle
                    .authenticate_certificate_with(user, certificate, hash, agent)
                    .await
            }
        };
        match result {
            Ok(result) if taken(&result, tried) => return Ok(true),
            Ok(_) => {}
            // The next key may be one that the agent likes to sign with.
            Err(error) => tried.push(format!("(the agent does not sign with it: {error})")),
        }
    }
    Ok(false)
}

/// SHA-2 always: SHA-512, or SHA-256 where the host says that it knows only that.
async fn rsa_hash(handle: &Handle<Client>, key: &PublicKey) -> Option<HashAlg> {
    if !is_rsa(key) {
        return None;
    }
    match handle.best_supported_rsa_hash().await {
        Ok(Some(Some(hash))) => Some(hash),
        _ => Some(HashAlg::Sha512),
    }
}

fn is_rsa(key: &PublicKey) -> bool {
    matches!(key.algorithm(), Algorithm::Rsa { .. })
}

fn taken(result: &AuthResult, tried: &mut Vec<String>) -> bool {
    match result {
        AuthResult::Success => true,
        AuthResult::Failure {
            partial_success, ..
        } => {
            if *partial_success {
                let text = "(taken, but the host wants a second proof, which is not supported)";
                tried.push(text.to_owned());
            }
            false
        }
    }
}

fn shown(key: &PublicKey) -> String {
    let fingerprint = key.fingerprint(HashAlg::Sha256);
    format!("{} {fingerprint}", key.algorithm().as_str())
}

fn failed(endpoint: &Endpoint, error: russh::Error) -> SshError {
    SshError::Dial {
        host: endpoint.name(),
        reason: format!("ssh: handshake failed: {error}"),
    }
}

/// Signs for a certificate with a key at hand. With RSA russh's own way would be SHA-1.
struct Local(Arc<russh::keys::PrivateKey>);

/// What russh wants to wrap.
struct SignError(russh::Error);

impl From<russh::SendError> for SignError {
    fn from(_: russh::SendError) -> Self {
        Self(russh::Error::SendError)
    }
}

impl russh::Signer for Local {
    type Error = SignError;

    async fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        _: Option<HashAlg>,
        mut to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, SignError> {
        let signature = self.0.try_sign(&to_sign);
        let signature = signature.map_err(|error| SignError(error.into()))?;
        signature
            .encode_prefixed(&mut to_sign)
            .map_err(|error| SignError(error.into()))?;
        Ok(to_sign)
    }
}
