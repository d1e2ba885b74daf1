//! Guessing is slow: each address may be wrong so often, then it waits. Pure; times are those of a
//! clock that nobody sets ([`Clock::steady`](kubepki::edge::Clock::steady)).

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::bucket::{Bucket, ONE_LEAKS_AFTER};

/// Wrong credentials that an address may show at once.
pub const BURST: u32 = 64;
/// Until one more is forgiven.
pub const FORGIVEN_AFTER: Duration = ONE_LEAKS_AFTER;
/// Addresses that are remembered; what is remembered of one is 80 bytes.
const ADDRESSES: usize = 65_536;

/// What a caller shows. After a rotation to a new root the certificates of a whole site are wrong
/// at once, and nobody guesses: that must not keep a token from the same address waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proof {
    /// An `Authorization` header, whatever else there is.
    Secret,
    /// A client certificate alone.
    Certificate,
    /// The password of a node, by a hash of its name: who guesses one keeps no other node waiting.
    Node(u64),
}

impl Proof {
    /// The password of that node.
    pub fn of_node(name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self::Node(hasher.finish())
    }
}

/// What each address has got wrong.
#[derive(Debug, Default)]
pub struct Throttle {
    failures: HashMap<(IpAddr, Proof), Failures>,
    /// When those who are forgiven were last forgotten: a look at all of them for each that
    /// comes would be work that strangers can ask for.
    swept: Option<Duration>,
}

#[derive(Debug, Default)]
struct Failures {
    wrong: Bucket<BURST>,
    /// Proofs that are being looked up and may turn out to be failures.
    pending: u32,
}

impl Throttle {
    /// Whether a proof of that kind from `peer` is looked at now. Those who show none are not held
    /// up.
    pub fn allows(&self, peer: IpAddr, proof: Proof, now: Duration) -> bool {
        let failures = self.failures.get(&(network(peer), proof));
        failures.is_none_or(|failures| !failures.wrong.is_full(now))
    }

    /// Whether a proof of `peer` may be looked up now; then [`Self::ended`] must follow. Those that
    /// are being looked up count as failures for the next one here, and for nobody else: whoever
    /// waits behind the same address has shown nothing wrong.
    pub fn begins(&mut self, peer: IpAddr, proof: Proof, now: Duration) -> bool {
        let who = (network(peer), proof);
        let Some(failures) = self.failures.get_mut(&who) else {
            if !self.is_full(now) {
                let wrong = Bucket::default();
                self.failures.insert(who, Failures { wrong, pending: 1 });
            }
            return true;
        };
        let is_allowed = failures.wrong.left(now).saturating_add(failures.pending) < BURST;
        if is_allowed {
            failures.pending += 1;
        }
        is_allowed
    }

    /// What began was looked up. Whether it was wrong is for [`Self::failed`].
    pub fn ended(&mut self, peer: IpAddr, proof: Proof) {
        let who = (network(peer), proof);
        if let Some(failures) = self.failures.get_mut(&who) {
            failures.pending = failures.pending.saturating_sub(1);
            if failures.pending == 0 && failures.wrong.is_unused() {
                self.failures.remove(&who);
            }
        }
    }

    /// `peer` was wrong.
    pub fn failed(&mut self, peer: IpAddr, proof: Proof, now: Duration) {
        let who = (network(peer), proof);
        // More addresses than that at once is no guessing of ours to stop.
        if self.is_full(now) && !self.failures.contains_key(&who) {
            return;
        }
        self.failures.entry(who).or_default().wrong.add(now);
    }

    /// Whether there is no room for another address, those who are forgiven forgotten.
    fn is_full(&mut self, now: Duration) -> bool {
        if self.failures.len() >= ADDRESSES && self.swept != Some(now) {
            self.swept = Some(now);
            self.failures
                .retain(|_, it| it.wrong.left(now) > 0 || it.pending > 0);
        }
        self.failures.len() >= ADDRESSES
    }
}

/// Who has one IPv6 address has the 2^64 beside it.
pub(crate) fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1_000);
    const LATER: Duration = Duration::from_secs(1_500);

    #[test]
    fn who_is_wrong_too_often_waits_and_nobody_else() {
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let other: IpAddr = "192.0.2.2".parse().unwrap();
        let mut throttle = Throttle::default();
        for _ in 0..BURST {
            assert!(throttle.allows(peer, Proof::Secret, START));
            throttle.failed(peer, Proof::Secret, START);
        }
        assert!(!throttle.allows(peer, Proof::Secret, START));
        assert!(throttle.allows(other, Proof::Secret, START));
        assert!(throttle.allows(peer, Proof::Certificate, START));
        assert!(!throttle.allows(peer, Proof::Secret, Duration::from_secs(500)));
        assert!(throttle.allows(peer, Proof::Secret, START + FORGIVEN_AFTER));
        throttle.failed(peer, Proof::Secret, START + FORGIVEN_AFTER);
        assert!(!throttle.allows(peer, Proof::Secret, START + FORGIVEN_AFTER));
    }

    #[test]
    fn what_is_being_looked_up_keeps_nobody_else_waiting() {
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let mut throttle = Throttle::default();
        for _ in 0..BURST {
            assert!(throttle.begins(peer, Proof::Secret, START));
        }
        assert!(!throttle.begins(peer, Proof::Secret, START));
        assert!(!throttle.begins(peer, Proof::Secret, LATER));
        assert!(throttle.allows(peer, Proof::Secret, START));
        throttle.ended(peer, Proof::Secret);
        assert!(throttle.begins(peer, Proof::Secret, START));
        for _ in 0..BURST {
            throttle.failed(peer, Proof::Secret, START);
            throttle.ended(peer, Proof::Secret);
        }
        assert!(!throttle.allows(peer, Proof::Secret, START));
        assert!(!throttle.begins(peer, Proof::Secret, START));
        assert!(throttle.begins(peer, Proof::Secret, START + FORGIVEN_AFTER));
        let other: IpAddr = "192.0.2.2".parse().unwrap();
        assert!(throttle.begins(other, Proof::Secret, START));
        throttle.ended(other, Proof::Secret);
        assert_eq!(throttle.failures.len(), 1);
    }

    #[test]
    fn the_neighbours_of_an_ipv6_address_are_itself() {
        let mut throttle = Throttle::default();
        for last in 0..BURST {
            let peer = format!("2001:db8::{last:x}").parse().unwrap();
            throttle.failed(peer, Proof::Secret, START);
        }
        assert!(!throttle.allows("2001:db8::ffff".parse().unwrap(), Proof::Secret, START));
        assert!(throttle.allows("2001:db8:0:1::1".parse().unwrap(), Proof::Secret, START));
    }

    #[test]
    fn what_is_remembered_has_an_end() {
        let mut throttle = Throttle::default();
        for number in 0..100_000u32 {
            throttle.failed(IpAddr::V4(number.into()), Proof::Secret, START);
        }
        assert_eq!(throttle.failures.len(), ADDRESSES);
        throttle.failed(
            "192.0.2.1".parse().unwrap(),
            Proof::Secret,
            START + 10 * FORGIVEN_AFTER,
        );
        assert_eq!(throttle.failures.len(), 1);
    }

    #[test]
    fn who_is_never_quite_a_period_late_is_forgiven_too() {
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let mut throttle = Throttle::default();
        for _ in 0..BURST {
            throttle.failed(peer, Proof::Secret, START);
        }
        let mut tried = 0;
        for tenth in 0..100 {
            let now = START + FORGIVEN_AFTER * tenth / 10;
            if throttle.allows(peer, Proof::Secret, now) {
                throttle.failed(peer, Proof::Secret, now);
                tried += 1;
            }
        }
        assert_eq!(tried, 9);
    }

    #[test]
    fn a_nodes_password_is_counted_for_that_node() {
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let mut throttle = Throttle::default();
        let (one, other) = (Proof::of_node("one"), Proof::of_node("other"));
        for _ in 0..BURST {
            throttle.failed(peer, one, START);
        }
        assert!(!throttle.allows(peer, one, START));
        assert!(throttle.allows(peer, other, START));
        assert!(throttle.allows(peer, Proof::Secret, START));
    }
}
