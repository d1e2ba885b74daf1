//! Strangers who talk to servers while things happen: each shakes hands again and again, or keeps
//! one connection, and every failure is counted.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;
use std::time::Duration;

use testkit::stacks::{Stack, Stacks};

use crate::server::until;

/// The libraries that clients of a cluster use.
pub const STACKS: [Stack; 4] = [Stack::OpenSsl, Stack::GnuTls, Stack::Rustls, Stack::Go];

/// The name by which servers are called.
const HOST: &str = "kubernetes";

/// Between two handshakes of one client.
const PAUSE: Duration = Duration::from_millis(10);

/// What became of one client's handshakes or requests.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub good: usize,
    pub failed: Vec<String>,
}

/// Clients by name: `OpenSSL with the old bundle`.
pub type Tallies = BTreeMap<String, Tally>;

/// Clients at work.
pub struct Crowd<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    stacks: &'env Stacks,
    ports: &'env [u16],
    shared: &'env Shared,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    tallies: Mutex<Tallies>,
}

/// Has clients work while `what` happens, and tells how they fared.
pub fn during(stacks: &Stacks, ports: &[u16], what: impl FnOnce(&Crowd<'_, '_>)) -> Tallies {
    let shared = Shared::default();
    std::thread::scope(|scope| {
        let crowd = Crowd {
            scope,
            stacks,
            ports,
            shared: &shared,
        };
        // The others must end when this one panics.
        let happened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| what(&crowd)));
        shared.over.store(true, Ordering::SeqCst);
        if let Err(panic) = happened {
            std::panic::resume_unwind(panic);
        }
    });
    shared.tallies.into_inner().unwrap()
}

impl Shared {
    fn count(&self, name: &str, port: u16, happened: Result<(), String>) {
        let mut tallies = self.tallies.lock().unwrap();
        let tally = tallies.entry(name.to_owned()).or_default();
        match happened {
            Ok(()) => tally.good += 1,
            Err(why) => tally.failed.push(format!("{port}: {why}")),
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

impl Crowd<'_, '_> {
    /// Adds a client of every library that trusts `trust` and shakes hands with each server in
    /// turn.
    pub fn join(&self, bundle: &str, trust: &str) {
        for stack in STACKS {
            let name = format!("{stack} with {bundle}");
            self.shared.enter(&name);
            let (stacks, ports, shared) = (self.stacks, self.ports, self.shared);
            let trust = trust.to_owned();
            self.scope.spawn(move || {
                for port in ports.iter().copied().cycle() {
                    if shared.is_over() {
                        break;
                    }
                    let happened = stacks.connect(stack, port, HOST, &trust, None);
                    shared.count(&name, port, happened);
                    std::thread::sleep(PAUSE);
                }
            });
        }
    }

    /// Adds a client of every library that keeps one connection to the first server.
    pub fn hold(&self, trust: &str) {
        for stack in STACKS {
            let name = format!("{stack} on one connection");
            self.shared.enter(&name);
            let (port, shared) = (self.ports[0], self.shared);
            let mut line = self.stacks.hold(stack, port, HOST, trust).unwrap();
            self.scope.spawn(move || {
                while !shared.is_over() {
                    let said = line.ask("/ping").and_then(|body| match body.as_slice() {
                        b"pong" => Ok(()),
                        other => Err(String::from_utf8_lossy(other).into_owned()),
                    });
                    let is_over = said.is_err();
                    shared.count(&name, port, said);
                    if is_over {
                        break;
                    }
                    std::thread::sleep(2 * PAUSE);
                }
            });
        }
    }

    /// Waits until everybody has done that many more rounds.
    #[track_caller]
    pub fn rounds(&self, count: usize) {
        let done = || -> BTreeMap<String, usize> {
            let tallies = self.shared.tallies.lock().unwrap();
            let done = |(name, tally): (&String, &Tally)| {
                // A connection that is lost stays so.
                let ended = name.ends_with("on one connection") && !tally.failed.is_empty();
                (!ended).then(|| (name.clone(), tally.good + tally.failed.len()))
            };
            tallies.iter().filter_map(done).collect()
        };
        let before = done();
        until("everybody goes on", || {
            let now = done();
            now.iter()
                .all(|(name, rounds)| *rounds >= before.get(name).unwrap_or(&0) + count)
        });
    }

    /// How everybody has fared so far.
    pub fn tallies(&self) -> Tallies {
        self.shared.tallies.lock().unwrap().clone()
    }
}

impl Shared {
    fn enter(&self, name: &str) {
        self.tallies
            .lock()
            .unwrap()
            .insert(name.to_owned(), Tally::default());
    }
}

/// Nobody failed once, and everybody was there.
#[track_caller]
pub fn assert_seamless(tallies: &Tallies) {
    let failed: Vec<_> = tallies
        .iter()
        .filter(|(_, tally)| tally.good == 0 || !tally.failed.is_empty())
        .map(|(name, tally)| {
            let (count, first) = (tally.failed.len(), tally.failed.first());
            format!(
                "{name}: {count} of {} failed, first {first:?}",
                tally.good + count
            )
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
