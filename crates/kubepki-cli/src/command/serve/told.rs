//! What a server tells and is told: signals, systemd, how it went with the head of its log.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kubepki::log::HeadError;
use kubepki_serve::health::{Part, State};
use kubepki_serve::notify::notify;
use kubepki_serve::service::{Line, Service};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Opened;
use super::talk::say;
use crate::error::CliError;
use crate::output;

/// True when the process has been told to end.
pub(super) fn stopped() -> Result<watch::Receiver<bool>, CliError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (ended, told) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tell_systemd("STOPPING=1");
        tell("stopping", Vec::new());
        let _ = ended.send(true);
    });
    Ok(told)
}

pub(super) fn tell_systemd(state: &str) {
    let socket: Option<OsString> = std::env::var_os("NOTIFY_SOCKET");
    if let Err(error) = notify(socket.as_deref(), state) {
        output::talk(&format!("Note: systemd was not told {state}: {error}"));
    }
}

/// The same in parts.
pub(super) fn tell(message: &str, fields: Vec<(&str, String)>) {
    say(&Line { message, fields });
}

/// Notes how it went with the head. Two logs of one name must not both go on; that the datastore is
/// away is told of elsewhere, and of the head only where nothing else says so.
pub(super) fn published(service: &Arc<Service>) -> impl Fn(Result<(), &HeadError>) + Send + use<> {
    let service = Arc::clone(service);
    let failed = AtomicU32::new(0);
    move |done| {
        let Err(error) = done else {
            failed.store(0, Ordering::Relaxed);
            return service.note(Part::Head, State::Fine);
        };
        let why = kubepki::error_chain(error);
        let state = match error {
            HeadError::Other { .. } => State::Down(why),
            // Tries count from when the datastore is back.
            HeadError::Datastore(_) if service.health.is_troubled(Part::Datastore) => {
                return failed.store(0, Ordering::Relaxed);
            }
            HeadError::Datastore(_) if failed.fetch_add(1, Ordering::Relaxed) < HEAD_TRIES => {
                return;
            }
            _ => State::Warning(why),
        };
        service.note(Part::Head, state);
    }
}

/// So often the head may be late before that is told of.
const HEAD_TRIES: u32 = 3;

/// Says where it serves.
pub(super) fn announce(opened: &Opened) {
    let service = &opened.server.service;
    if let Some(why) = opened.issued {
        tell(
            "the listener's certificate was issued",
            vec![("because", why.to_owned())],
        );
    }
    let address = opened.listener.local_addr().map(|it| it.to_string());
    tell(
        "serving",
        vec![
            ("address", address.unwrap_or_default()),
            ("node", service.settings.node_name.clone()),
            ("rules", format!("{:?}", service.strictness)),
        ],
    );
}
