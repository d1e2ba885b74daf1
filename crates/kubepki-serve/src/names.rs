//! Names that the listener's certificate learns from connections, as K3s's does (reference
//! section 8.3), under a filter and up to a limit.
//!
//! ```text
//! connection -- its local address, SNI, Host --> shown already?  -> go on (no lock is waited for)
//!                                                filter, limit   -> refused: nothing changes
//!                                                learnt          -> one signature for all that wait
//! ```

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use kubepki::datastore::{Datastore, DatastoreError};
use kubepki::edge::FreshKeys;
use kubepki::error_chain;
use kubepki::listener::is_listener_name;
use kubepki::plan::can_be_carried;
use pki::{Certificate, San};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::renewal::{AGAIN, look};
use crate::service::{Line, Service};
use crate::tls::Listened;

/// Nothing more is learnt by a certificate that carries so many names: it goes over the wire in
/// every handshake, and who makes names up must not make it grow, nor the server sign, for ever.
pub const MOST: usize = 128;
/// The listener's certificate is not signed more often than that for names.
pub const PAUSE: Duration = Duration::from_secs(1);
/// For that long a connection waits for a certificate with its name.
const WAIT: Duration = Duration::from_secs(2);
/// Refused names that are said; then it goes without saying.
const SAID: usize = 64;
/// Where servers share what they learnt.
pub const SHARED: &str = "/kubepki/listener";
/// Somebody else may write at the same time, so often.
const ATTEMPTS: usize = 8;

/// Where a name was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The address at which a connection arrived.
    Local,
    /// The name that a client says in its handshake.
    Sni,
    /// The address that a request says it is for.
    Host,
}

impl Source {
    fn word(self) -> &'static str {
        match self {
            Self::Local => "the address of a connection",
            Self::Sni => "the server name of a handshake",
            Self::Host => "the host of a request",
        }
    }
}

/// What may be learnt: K3s's `--tls-san-security`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Whether only addresses of this machine are learnt. Configured names and those of the other
    /// servers are in the certificate anyway.
    pub is_secure: bool,
    /// Networks of services, whose addresses belong to no machine though one may carry them all.
    pub services: Vec<(IpAddr, u8)>,
}

impl Filter {
    /// Whether a name may be learnt. What the kernel let a connection arrive at is an address of
    /// this machine; what clients say of names and hosts is theirs to choose.
    pub fn admits(&self, source: Source, name: &San) -> bool {
        let is_fit = match name {
            San::Ip(address) => is_fit(*address),
            San::Dns(text) => !text.contains('*') && text.len() <= 253,
            _ => false,
        };
        let text = name.to_string();
        if !is_fit || !is_listener_name(&text) || !can_be_carried(name) {
            return false;
        }
        match (self.is_secure, source, name) {
            (false, ..) => true,
            (true, Source::Local, San::Ip(address)) => {
                !self.services.iter().any(|it| contains(*it, *address))
            }
            (true, ..) => false,
        }
    }
}

/// Whether an address can be one server's: neither everybody's nor good on one wire only.
fn is_fit(address: IpAddr) -> bool {
    let is_of_link = match address {
        IpAddr::V4(it) => it.is_link_local() || it.is_broadcast(),
        IpAddr::V6(it) => it.is_unicast_link_local(),
    };
    !(address.is_unspecified() || address.is_multicast() || is_of_link)
}

/// The address in `192.0.2.1:6443`, `[2001:db8::1]:6443` or without a port.
fn address_of(authority: &str) -> Option<IpAddr> {
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if is_port(port) && (host.ends_with(']') || !host.contains(':')) => host,
        _ => authority,
    };
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}

fn contains((network, length): (IpAddr, u8), address: IpAddr) -> bool {
    let same = |all: u32, network: u128, address: u128| {
        let ignored = all.saturating_sub(u32::from(length));
        let cut = |bits: u128| bits.checked_shr(ignored).unwrap_or(0);
        cut(network) == cut(address)
    };
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            same(32, network.to_bits().into(), address.to_bits().into())
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            same(128, network.to_bits(), address.to_bits())
        }
        _ => false,
    }
}

/// What a certificate answers to.
#[derive(Debug, Default)]
struct Shown {
    names: HashSet<String>,
    /// Behind `*.`.
    wildcards: HashSet<String>,
    addresses: HashSet<IpAddr>,
}

impl Shown {
    fn of(leaf: &Certificate) -> Self {
        let mut shown = Self::default();
        for san in leaf.sans() {
            match san {
                San::Ip(address) => drop(shown.addresses.insert(*address)),
                San::Dns(name) => {
                    let name = name.to_ascii_lowercase();
                    match name.strip_prefix("*.") {
                        Some(rest) => shown.wildcards.insert(rest.to_owned()),
                        None => shown.names.insert(name),
                    };
                }
                _ => {}
            }
        }
        shown
    }

    /// A wildcard stands for one label (RFC 9525 section 6.3).
    fn has_name(&self, name: &str) -> bool {
        let is_below = || {
            let rest = name.split_once('.').map(|(_, rest)| rest);
            rest.is_some_and(|rest| self.wildcards.contains(rest))
        };
        self.names.contains(name) || is_below()
    }

    fn has(&self, name: &San) -> bool {
        match name {
            San::Ip(address) => self.addresses.contains(address),
            San::Dns(name) => self.has_name(&name.to_ascii_lowercase()),
            _ => false,
        }
    }

    fn count(&self) -> usize {
        self.names.len() + self.wildcards.len() + self.addresses.len()
    }
}

#[derive(Debug, Default)]
struct Learning {
    /// By this server or another one.
    learnt: BTreeSet<San>,
    /// Refused, and said so.
    said: BTreeSet<String>,
}

/// The names of the listener's certificate. Without a [`Filter`] none are learnt.
#[derive(Debug, Default)]
pub struct Names {
    shown: RwLock<Shown>,
    learning: Mutex<Learning>,
    filter: OnceLock<Filter>,
    /// There is something to sign for.
    asked: Notify,
    /// Rounds of signing that have begun, and the last one that has ended.
    begun: AtomicU64,
    ended: watch::Sender<u64>,
    /// Held while the certificate's file is changed.
    pub(crate) hand: Mutex<()>,
}

/// The record that servers share, as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Shared {
    /// The form's version: 1.
    version: u32,
    /// Names and addresses as text.
    names: BTreeSet<String>,
}

impl Names {
    /// From now on names are learnt. Those that the certificate has beside `own` were learnt
    /// before, by K3s or by us.
    pub fn begin(&self, filter: Filter, own: &[San]) {
        if let (Ok(shown), Ok(mut learning)) = (self.shown.read(), self.learning.lock()) {
            let names = shown.names.iter().cloned().map(San::Dns);
            let all = names.chain(shown.addresses.iter().copied().map(San::Ip));
            learning.learnt.extend(all.filter(|it| !own.contains(it)));
        }
        let _ = self.filter.set(filter);
    }

    /// New connections are shown that leaf.
    pub fn shows(&self, leaf: &Certificate) {
        if let Ok(mut shown) = self.shown.write() {
            *shown = Shown::of(leaf);
        }
    }

    /// What was learnt and must be in the certificate.
    pub fn learnt(&self) -> Vec<San> {
        let learning = self.learning.lock();
        learning.map_or_else(|_| Vec::new(), |it| it.learnt.iter().cloned().collect())
    }

    /// Whether that was not said before, and is worth it.
    pub fn is_unsaid(&self, text: &str) -> bool {
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
        {
            let Ok(shown) = names.shown.read() else {
                return;
            };
            let is_known = local.is_none_or(|it| shown.addresses.contains(&it));
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
        if shown.has(&name) || learning.learnt.contains(&name) {
            return None;
        }
        let waiting = learning.learnt.iter().filter(|it| !shown.has(it)).count();
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
        learning.learnt.insert(name);
        // What begins after this sees it.
        let round = names.begun.load(Ordering::SeqCst).saturating_add(1);
        drop(learning);
        names.asked.notify_one();
        let message = "the listener's certificate learns a name";
        (self.journal)(&Line { message, fields });
        Some(round)
    }

    /// Signs for what is learnt, until it is told to stop; once a [`PAUSE`] at most.
    pub async fn learns(self: Arc<Self>, listened: Arc<Listened>, mut stop: watch::Receiver<bool>) {
        let mut is_open = false;
        loop {
            tokio::select! {
                () = self.names.asked.notified() => {}
                () = tokio::time::sleep(AGAIN), if is_open => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let begun = self
                .names
                .begun
                .fetch_add(1, Ordering::SeqCst)
                .saturating_add(1);
            let (service, listened) = (Arc::clone(&self), Arc::clone(&listened));
            let looked = tokio::task::spawn_blocking(move || {
                look(&service, &listened, &FreshKeys).map_err(|error| error_chain(&error))
            });
            is_open = match looked.await {
                Ok(Ok(_)) => false,
                Ok(Err(reason)) => {
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

impl Names {
    /// Puts what was learnt here beside what other servers learnt, and takes that up. Answers
    /// whether there is anything that the certificate lacks.
    ///
    /// # Errors
    ///
    /// When the datastore cannot be asked, or holds a record that is not ours to overwrite.
    pub async fn share(&self, datastore: &dyn Datastore) -> Result<bool, DatastoreError> {
        for _ in 0..ATTEMPTS {
            let record = datastore.get(SHARED).await?;
            let mut shared = match &record {
                Some(record) => shared(&record.value)?,
                None => BTreeSet::new(),
            };
            let is_new = self.take(&shared);
            let own = self.learnt().into_iter().map(|it| it.to_string());
            let missing: Vec<String> = own.filter(|it| !shared.contains(it)).collect();
            let room = MOST.saturating_sub(shared.len());
            if missing.is_empty() || room == 0 {
                return Ok(is_new);
            }
            shared.extend(missing.into_iter().take(room));
            let value = serde_json::to_vec(&Shared {
                version: 1,
                names: shared,
            })
            .map_err(|error| malformed(&error.to_string()))?;
            let written = match record {
                Some(record) => datastore.update(SHARED, record.revision, &value).await,
                None => datastore.create(SHARED, &value).await,
            };
            match written {
                Ok(_) => return Ok(is_new),
                Err(DatastoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        // So many others write that the next time will do.
        Ok(false)
    }

    /// Answers whether the certificate lacks any of them.
    fn take(&self, shared: &BTreeSet<String>) -> bool {
        let (Ok(shown), Ok(mut learning)) = (self.shown.read(), self.learning.lock()) else {
            return false;
        };
        let names = shared.iter().filter(|it| is_listener_name(it)).take(MOST);
        let names: Vec<San> = names
            .map(|it| San::from_text(it))
            .filter(can_be_carried)
            .collect();
        let is_new = names.iter().any(|it| !shown.has(it));
        learning.learnt.extend(names);
        is_new
    }
}

fn shared(value: &[u8]) -> Result<BTreeSet<String>, DatastoreError> {
    let shared: Shared =
        serde_json::from_slice(value).map_err(|error| malformed(&error.to_string()))?;
    match shared.version {
        1 => Ok(shared.names),
        other => Err(malformed(&format!("its version is {other}, not 1"))),
    }
}

fn malformed(problem: &str) -> DatastoreError {
    DatastoreError::Malformed {
        place: SHARED.to_owned(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPEN: Filter = Filter {
        is_secure: false,
        services: Vec::new(),
    };

    fn filter() -> Filter {
        Filter {
            is_secure: true,
            services: vec![
                ("10.43.0.0".parse().unwrap(), 16),
                ("fd43::".parse().unwrap(), 112),
            ],
        }
    }

    #[test]
    fn the_filter_lets_in_what_a_machine_has_and_nothing_that_is_said() {
        for (name, wanted) in [
            ("192.0.2.1", true),
            ("10.42.0.1", true),
            ("10.43.0.1", false),
            ("10.43.255.255", false),
            ("10.44.0.0", true),
            ("fd43::7", false),
            ("fd43::1:0", true),
            ("127.0.0.2", true),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("169.254.1.1", false),
            ("255.255.255.255", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("::", false),
            ("name.example", false),
        ] {
            let san = San::from_text(name);
            assert_eq!(filter().admits(Source::Local, &san), wanted, "{name}");
            assert!(!filter().admits(Source::Sni, &san), "{name}");
            assert!(!filter().admits(Source::Host, &san), "{name}");
        }
        for (name, wanted) in [
            ("name.example", true),
            ("s1", true),
            ("10.43.0.1", true),
            ("*.example", false),
            ("a.*.example", false),
            ("-a", false),
            ("a b", false),
            ("", false),
            ("fe80::1", false),
        ] {
            let san = San::from_text(name);
            assert_eq!(OPEN.admits(Source::Sni, &san), wanted, "{name}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let mut shown = Shown::default();
        shown.names.insert("example.com".to_owned());
        shown.wildcards.insert("example.com".to_owned());
        for (name, wanted) in [
            ("example.com", true),
            ("a.example.com", true),
            ("b.a.example.com", false),
            ("xexample.com", false),
            ("com", false),
        ] {
            assert_eq!(shown.has_name(name), wanted, "{name}");
        }
    }

    #[test]
    fn addresses_of_hosts_are_read_as_urls_have_them() {
        for (authority, wanted) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:6443", Some("192.0.2.1")),
            ("[2001:db8::1]:6443", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("192.0.2.1:", None),
            ("192.0.2.1:port", None),
            ("[192.0.2.1]", None),
            ("[2001:db8::1", None),
            ("[fe80::1%25eth0]:6443", None),
            ("192.0.2.1.", None),
            ("name.example:6443", None),
            ("", None),
        ] {
            let wanted = wanted.map(|it| it.parse::<IpAddr>().unwrap());
            assert_eq!(address_of(authority), wanted, "{authority}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_said_makes_no_wildcard(text in "\\PC{0,40}|[*.a-z]{1,12}") {
            let _ = address_of(&text);
            let name = San::from_text(&text);
            if OPEN.admits(Source::Sni, &name) {
                prop_assert!(is_listener_name(&text) && !text.contains('*'));
            }
            prop_assert!(!filter().admits(Source::Sni, &name));
        }
    }
}
