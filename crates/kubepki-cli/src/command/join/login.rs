//! What a node logs in with.

use std::path::PathBuf;

use kubepki::token::Token;
use kubepki_remote::{AgentConnection, FirstUse, SupervisorError};
use pki::{Certificate, Digest, PrivateKey};

use super::turn::Failure;
use crate::world::World;

/// What a node logs in with.
pub enum Login<'a> {
    /// A token that pins the CA, or the leave to believe what the first server shows.
    Token {
        token: &'a Token,
        trust_on_first_use: bool,
    },
    /// A token that pins nothing, on a node that knows its cluster's CA from before.
    Known {
        token: &'a Token,
        bundle: &'a [Certificate],
        file: PathBuf,
    },
    /// The certificate that it has.
    Certificate {
        bundle: &'a [Certificate],
        chain: &'a [Certificate],
        key: &'a PrivateKey,
        file: PathBuf,
    },
}

impl Login<'_> {
    /// What is done with it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Token { .. } | Self::Known { .. } => "join",
            Self::Certificate { .. } => "node-renew",
        }
    }

    /// Whether the node is a member already.
    pub fn is_renewal(&self) -> bool {
        matches!(self, Self::Certificate { .. })
    }

    /// A connection to `server`, which is held to the hash of what a server showed before.
    ///
    /// # Errors
    ///
    /// [`SupervisorError`]; nothing secret was sent.
    pub async fn connect(
        &self,
        server: &str,
        world: &World,
        held: Option<Digest>,
    ) -> Result<AgentConnection, SupervisorError> {
        let now = world.now();
        match self {
            Self::Token {
                token,
                trust_on_first_use,
            } => {
                let first_use = match (trust_on_first_use, held) {
                    (false, _) => FirstUse::Refused,
                    (true, None) => FirstUse::Trusted,
                    (true, Some(hash)) => FirstUse::HeldTo(hash),
                };
                AgentConnection::with_token(server, token, first_use, now).await
            }
            Self::Known { token, bundle, .. } => {
                AgentConnection::with_bundle(server, bundle, token, now)
            }
            Self::Certificate {
                bundle, chain, key, ..
            } => AgentConnection::with_certificate(server, bundle, chain, key, now),
        }
    }

    /// A failure with what to do about it.
    pub fn failure(&self, error: &SupervisorError) -> Failure {
        let mut failure = Failure::of(error);
        if !matches!(error, SupervisorError::OtherIssuer { .. }) {
            return failure;
        }
        failure.error.hint = match self {
            Self::Token { .. } => None,
            Self::Known { file, .. } => Some(format!(
                "this node knows its cluster by {}: give the full token (K10…) of the cluster that \
                 it is to join",
                file.display()
            )),
            Self::Certificate { file, .. } => Some(format!(
                "it is not the CA in {}: `kubepki join` with the cluster's new token brings the \
                 new one",
                file.display()
            )),
        };
        failure
    }
}
