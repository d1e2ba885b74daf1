//! Names that the listener's certificate learns from connections, as K3s's does (reference
//! section 8.3), under a filter and up to a limit.
//!
//! ```text
//! connection -- its local address, SNI, Host --> shown already?  -> go on (no lock is waited for)
//!                                                filter, limit   -> refused: nothing changes
//!                                                learnt          -> one signature for all that wait
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use kubepki::edge::FreshKeys;
use kubepki::error_chain;
use kubepki::state::StateDir;
use pki::{Certificate, San};
use tokio::sync::{Notify, watch};

use crate::listener::PortError;
use crate::renewal::{AGAIN, look};
use crate::reserved::Carried;
use crate::service::{Line, Service};
use crate::tls::Listened;

mod filter;
mod share;

pub use filter::{Filter, Source};
use filter::{address_of, is_fit};
pub use share::SHARED;

/// Nothing more is learnt by a certificate that carries so many names: it goes over the wire in
/// every handshake, and who makes names up must not make it grow, nor the server sign, for ever.
pub const MOST: usize = 128;
/// The listener's certificate is not signed more often than that for names.
pub const PAUSE: Duration = Duration::from_secs(1);
/// For that long a connection waits for a certificate with its name.
const WAIT: Duration = Duration::from_secs(2);
/// Refused names that are said; then it goes without saying.
const SAID: usize = 64;

#[derive(Debug, Default)]
struct Learning {
    /// By this server or another one, with the round of signing after which it is shown.
    learnt: BTreeMap<San, u64>,
    /// Refused, and said so.
    said: BTreeSet<String>,
}

impl Learning {
    /// The round in which a learnt name is signed for, unless it is over.
    fn round_of(&self, name: &San, ended: u64) -> Option<u64> {
        let round = self.learnt.get(name).copied();
        round.filter(|round| ended < *round)
    }
}

/// The names of the listener's certificate. Without a [`Filter`] none are learnt.
#[derive(Debug, Default)]
pub struct Names {
    shown: RwLock<Carried>,
    learning: Mutex<Learning>,
    /// Addresses of this machine, whether the certificate learnt them or not: its node's own, and
    /// where connections arrived.
    local: RwLock<BTreeSet<IpAddr>>,
    filter: OnceLock<Filter>,
    /// There is something to sign for.
    asked: Notify,
    /// Rounds of signing that have begun, and the last one that has ended.
    begun: AtomicU64,
    ended: watch::Sender<u64>,
    /// That names are not shared is said.
    unshared: AtomicBool,
    /// Held while the certificate's file is changed.
    pub(crate) hand: Mutex<()>,
}

impl Names {
    /// From now on names are learnt. Those that the certificate has beside `own` were learnt
    /// before, by K3s or by us.
    pub fn begin(&self, filter: Filter, own: &[San]) {
        if let (Ok(shown), Ok(mut learning)) = (self.shown.read(), self.learning.lock()) {
            let new = shown
                .single()
                .filter(|it| !own.contains(it))
                .map(|it| (it, 0));
            learning.learnt.extend(new);
        }
        let _ = self.filter.set(filter);
    }

    /// New connections are shown that leaf.
    pub fn shows(&self, leaf: &Certificate) {
        if let Ok(mut shown) = self.shown.write() {
            *shown = Carried::of(leaf);
        }
    }

    /// What was learnt and must be in the certificate.
    pub fn learnt(&self) -> Vec<San> {
        let learning = self.learning.lock();
        learning.map_or_else(|_| Vec::new(), |it| it.learnt.keys().cloned().collect())
    }

    /// Addresses of this machine, beside those that every machine has: its node's own, and those
    /// at which connections arrived. No other node may have them in its certificate, and who comes
    /// from one of them is the server's own node.
    pub fn local(&self) -> BTreeSet<IpAddr> {
        self.local.read().map(|it| it.clone()).unwrap_or_default()
    }

    /// Whether it is one of [`Self::local`].
    pub(crate) fn is_local(&self, address: &IpAddr) -> bool {
        self.local.read().is_ok_and(|it| it.contains(address))
    }

    /// A connection arrived at that address, or it is the node's own.
    pub fn arrived(&self, address: IpAddr) {
        if self.is_local(&address) || address.is_loopback() || !is_fit(address) {
            return;
        }
        if let Ok(mut local) = self.local.write()
            && local.len() < MOST
        {
            local.insert(address);
        }
    }

    /// The certificate lacks a name: whoever [learns](Service::learns) signs for it.
    pub fn ask(&self) {
        self.asked.notify_one();
    }

    /// Whether everything that was learnt is shown.
    fn are_shown(&self) -> bool {
        let (shown, learning) = (self.shown.read(), self.learning.lock());
        match (shown, learning) {
            (Ok(shown), Ok(learning)) => learning.learnt.keys().all(|it| shown.has(it)),
            _ => true,
        }
    }

    /// Whether names are shared; answers whether it is to be said that they are not. That does not
    /// go among the names that strangers make up, which are said only so often.
    pub fn are_shared(&self, are: bool) -> bool {
        !self.unshared.swap(!are, Ordering::SeqCst) && !are
    }

    /// Whether that was not said before, and is worth it.
    fn is_unsaid(&self, text: &str) -> bool {
        let learning = self.learning.lock();
        learning.is_ok_and(|mut it| it.said.len() < SAID && it.said.insert(text.to_owned()))
    }

    /// Whether hosts of requests are looked at.
    pub(crate) fn heeds_hosts(&self) -> bool {
        self.filter.get().is_some_and(|filter| !filter.is_secure)
    }
}

impl Service {
    /// A connection has come: to that address of this machine, for that name. Waits for the
    /// certificate that has both, if they are new and may be learnt, but not for long.
    pub(crate) async fn met(&self, local: Option<IpAddr>, name: Option<&str>) {
        let names = &self.names;
        let local = local.map(|it| it.to_canonical());
        if let Some(local) = local {
            names.arrived(local);
        }
        {
            let Ok(shown) = names.shown.read() else {
                return;
            };
            let is_known = local.is_none_or(|it| shown.has_address(&it));
            if is_known && name.is_none_or(|it| shown.has_name(it)) {
                return;
            }
        }
        let local = local.map(|it| (Source::Local, San::Ip(it)));
        let name = name.map(|it| (Source::Sni, San::from_text(&it.to_ascii_lowercase())));
        let rounds = [local, name].into_iter().flatten();
        let round = rounds
            .filter_map(|(source, name)| self.learn(source, name))
            .max();
        if let Some(round) = round {
            let mut ended = names.ended.subscribe();
            let _ = tokio::time::timeout(WAIT, ended.wait_for(|it| *it >= round)).await;
        }
    }

    /// A request was for that authority: only addresses are learnt from there.
    pub(crate) fn met_host(&self, authority: &str) {
        if let Some(address) = address_of(authority) {
            self.learn(Source::Host, San::Ip(address.to_canonical()));
        }
    }

    /// Learns a name; answers the round of signing after which it is shown, if it is new.
    fn learn(&self, source: Source, name: San) -> Option<u64> {
        let names = &self.names;
        let filter = names.filter.get()?;
        let (Ok(shown), Ok(mut learning)) = (names.shown.read(), names.learning.lock()) else {
            return None;
        };
        if shown.has(&name) {
            return None;
        }
        // Who comes beside the first one waits for the same round.
        if learning.learnt.contains_key(&name) {
            return learning.round_of(&name, *names.ended.borrow());
        }
        let waiting = learning.learnt.keys().filter(|it| !shown.has(it)).count();
        let refusal = if !filter.admits(source, &name) {
            Some("--tls-san-security lets no such name in: give --tls-san where it is meant")
        } else if shown.count().saturating_add(waiting) >= MOST {
            Some(
                "the certificate has as many names as it may learn: give --tls-san where it is meant",
            )
        } else {
            None
        };
        drop(shown);
        let text = name.to_string();
        let mut fields = vec![("name", text.clone()), ("from", source.word().to_owned())];
        if let Some(refusal) = refusal {
            drop(learning);
            if names.is_unsaid(&text) {
                fields.push(("reason", refusal.to_owned()));
                let message = "the listener's certificate did not learn a name";
                (self.journal)(&Line { message, fields });
            }
            return None;
        }
        // What begins after this sees it.
        let round = names.begun.load(Ordering::SeqCst).saturating_add(1);
        learning.learnt.insert(name, round);
        drop(learning);
        names.ask();
        let message = "the listener's certificate learns a name";
        (self.journal)(&Line { message, fields });
        Some(round)
    }

    /// Signs for what is learnt, until it is told to stop; once a [`PAUSE`] at most. Only while
    /// `turn` is held: a plan that is being carried out knows what was in the listener's file. So
    /// does one of `plans`, which somebody else carries out.
    pub async fn learns(
        self: Arc<Self>,
        listened: Arc<Listened>,
        (turn, plans): (Arc<tokio::sync::Mutex<()>>, Vec<StateDir>),
        mut stop: watch::Receiver<bool>,
    ) {
        let mut is_open = false;
        loop {
            tokio::select! {
                () = self.names.asked.notified() => {}
                () = tokio::time::sleep(AGAIN), if is_open => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let held = tokio::select! {
                held = turn.lock() => held,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let begun = self
                .names
                .begun
                .fetch_add(1, Ordering::SeqCst)
                .saturating_add(1);
            let (service, listened) = (Arc::clone(&self), Arc::clone(&listened));
            let plans = plans.clone();
            let looked =
                tokio::task::spawn_blocking(move || look(&service, &listened, &FreshKeys, &plans));
            let looked = looked.await;
            drop(held);
            is_open = match looked {
                Ok(Err(PortError::AtWork)) => {
                    self.names.ask();
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => continue,
                        _ = stop.wait_for(|stop| *stop) => return,
                    }
                }
                // Somebody may be putting CAs in place: nothing is signed meanwhile.
                Ok(Ok(_)) => !self.names.are_shown(),
                Ok(Err(error)) => {
                    let reason = error_chain(&error);
                    let message = "the listener's certificate stays as it is";
                    let fields = vec![("reason", reason)];
                    (self.journal)(&Line { message, fields });
                    true
                }
                Err(_) => true,
            };
            self.names.ended.send_replace(begun);
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_names_are_not_shared_is_said_whatever_strangers_say() {
        let names = Names::default();
        let said = (0..100).filter(|it| names.is_unsaid(&it.to_string()));
        assert_eq!(said.count(), SAID);
        assert!(!names.are_shared(true));
        assert!(names.are_shared(false) && !names.are_shared(false));
        assert!(!names.are_shared(true) && names.are_shared(false));
    }

    #[test]
    fn who_comes_beside_the_first_one_waits_too() {
        let mut learning = Learning::default();
        let (new, shared) = (San::from_text("a.example"), San::from_text("b.example"));
        learning.learnt.insert(new.clone(), 3);
        learning.learnt.insert(shared.clone(), 0);
        assert_eq!(learning.round_of(&new, 2), Some(3));
        assert_eq!(learning.round_of(&new, 3), None);
        assert_eq!(learning.round_of(&shared, 0), None);
    }

    #[test]
    fn only_addresses_of_one_machine_are_its_own() {
        let names = Names::default();
        for text in [
            "127.0.0.1",
            "::1",
            "fe80::1",
            "169.254.0.1",
            "10.9.9.9",
            "fd00::9",
        ] {
            names.arrived(text.parse().unwrap());
        }
        let local: Vec<String> = names.local().iter().map(ToString::to_string).collect();
        assert_eq!(local, ["10.9.9.9", "fd00::9"]);
    }
}
