//! Our end of a connection: what the host may ask of it is nothing.

use std::sync::{Arc, Mutex, PoisonError};

use russh::client::{ChannelOpenHandle, DisconnectReason, Handler, Msg, Session};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, Error};

use super::host_keys::{Accepted, HostKeyError, Known};

/// What the connection's task tells those who use it.
#[derive(Debug, Default)]
pub(super) struct News {
    accepted: Mutex<Option<Accepted>>,
    ended: Mutex<Option<String>>,
}

impl News {
    pub(super) fn accepted(&self) -> Option<Accepted> {
        let accepted = self.accepted.lock();
        accepted.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the connection ended, if it did and that is known.
    pub(super) fn ended(&self) -> Option<String> {
        let ended = self.ended.lock();
        ended.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn end(&self, reason: String) {
        let ended = self.ended.lock();
        ended
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(reason);
    }
}

/// russh's callbacks.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) known: Known,
    pub(super) news: Arc<News>,
}

/// Why a connection did not come about.
#[derive(Debug)]
pub(super) enum Failure {
    HostKey(HostKeyError),
    Ssh(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Ssh(error)
    }
}

/// An answer without a handle's `accept` is a refusal.
macro_rules! refuse {
    ($($name:ident($($argument:ty),*);)*) => {$(
        async fn $name(
            &mut self,
            _: Channel<Msg>,
            $(_: $argument,)*
            _: ChannelOpenHandle,
            _: &mut Session,
        ) -> Result<(), Failure> {
            Ok(())
        }
    )*};
}

impl Handler for Client {
    type Error = Failure;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Failure> {
        if shown.certificate().is_some() {
            // None was asked for.
            return Ok(false);
        }
        let accepted = self.known.check(&shown.public_key());
        let accepted = accepted.map_err(Failure::HostKey)?;
        let place = self.news.accepted.lock();
        *place.unwrap_or_else(PoisonError::into_inner) = accepted;
        Ok(true)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Failure>) -> Result<(), Failure> {
        self.news.end(match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                format!("the host hung up: {}", info.message)
            }
            DisconnectReason::Error(Failure::HostKey(error)) => error.to_string(),
            DisconnectReason::Error(Failure::Ssh(error)) => said(&error),
        });
        Ok(())
    }

    refuse! {
        server_channel_open_forwarded_tcpip(&str, u32, &str, u32);
        server_channel_open_forwarded_streamlocal(&str);
        server_channel_open_agent_forward();
        server_channel_open_session();
        server_channel_open_direct_tcpip(&str, u32, &str, u32);
        server_channel_open_direct_streamlocal(&str);
        server_channel_open_x11(&str, u32);
    }
}

/// russh's errors in words that say what happened.
pub(super) fn said(error: &Error) -> String {
    match error {
        Error::Disconnect | Error::HUP => "the host closed the connection".to_owned(),
        Error::KeepaliveTimeout | Error::InactivityTimeout => {
            "the host does not answer any more".to_owned()
        }
        Error::IO(error) => super::credentials::said(error),
        Error::NoCommonAlgo { kind, theirs, .. } => format!(
            "no common {kind:?} algorithm; the host has only {}",
            theirs.join(", ")
        ),
        other => other.to_string(),
    }
}
