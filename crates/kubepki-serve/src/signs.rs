//! Signs of life that servers leave in the datastore, and what they come to. Pure.

use std::net::SocketAddr;
use std::time::Duration;

use pki::{San, UnixTime};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::reserved::Reserved;

/// A server whose record stood still that long is taken to be dead.
pub const LEASE: Duration = Duration::from_secs(60);
/// A record that is about to go. One whose value was written over keeps its revision, so that a
/// deletion alone could take a record that its server has just renewed.
pub(crate) const GOES: &[u8] = b"gone";

/// A server's record, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The form's version: 1.
    pub version: u32,
    /// Its node name.
    pub node: String,
    /// Where agents reach it.
    pub address: SocketAddr,
    /// Names and addresses that its certificates carry, as text.
    pub sans: Vec<String>,
    /// Addresses of its machine, as text: whoever comes from there is its own node. Names and
    /// addresses in `sans` may be a load balancer's, from which anybody comes.
    #[serde(default)]
    pub local: Vec<String>,
    /// When it was last heard, by its own clock, in seconds since 1970.
    pub heard: i64,
    /// Whether it ended in good order.
    pub stopped: bool,
    /// Which run of it: another one each time it is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<String>,
}

/// What lies where servers' records do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// A server's record.
    Of(Member),
    /// One that is about to go.
    Goes,
    /// Something else: why it is none.
    Unreadable(String),
}

impl Sign {
    /// Reads a record.
    pub fn read(value: &[u8]) -> Self {
        match serde_json::from_slice(value) {
            _ if value == GOES => Self::Goes,
            Ok(member) => Self::Of(member),
            Err(error) => Self::Unreadable(error.to_string()),
        }
    }
}

/// Another server as this one has seen it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) member: Member,
    /// Its names and addresses.
    pub(crate) reserved: Reserved,
    pub(crate) revision: i64,
    /// When its record moved last, by our clock; before we looked, by its own.
    pub(crate) moved: Instant,
    /// Since when it is as it is, before our eyes.
    pub(crate) stands: Instant,
    /// Whether we saw it move.
    pub(crate) is_seen_moving: bool,
}

impl Seen {
    pub(crate) fn is_living(&self) -> bool {
        !self.member.stopped && self.moved.elapsed() < LEASE
    }

    pub(crate) fn has_stood(&self, long: Duration) -> bool {
        self.stands.elapsed() > long
    }
}

/// Whether another process says that it is this server.
#[derive(Debug, Default)]
pub(crate) struct Twin {
    /// Which run of the server we are; `None` until we said so.
    pub(crate) life: Option<String>,
    /// Whether our own sign of life was in our place once: what lies there at first is left from
    /// before.
    pub(crate) was_own: bool,
    /// When the other's was, and where agents reach it.
    pub(crate) met: Option<(Instant, SocketAddr)>,
}

/// A record that moved is alive now; one that is seen for the first time is as old as it says.
pub(crate) fn seen(before: Option<&Seen>, member: Member, revision: i64, now: UnixTime) -> Seen {
    let present = Instant::now();
    let (moved, stands, is_seen_moving) = match before {
        Some(before) if before.revision == revision && before.member == member => {
            return before.clone();
        }
        Some(_) => (present, present, true),
        None => {
            let age = now.as_secs().saturating_sub(member.heard);
            let age = Duration::from_secs(u64::try_from(age).unwrap_or(0));
            // A machine that runs for a shorter time knows no such moment: it is dead all the same.
            let moved = present.checked_sub(age.min(LEASE)).unwrap_or(present);
            (moved, present, false)
        }
    };
    let mut sans: Vec<San> = member.sans.iter().map(|it| San::from_text(it)).collect();
    sans.push(San::Ip(member.address.ip()));
    Seen {
        reserved: Reserved::new(&member.node, &sans),
        member,
        revision,
        moved,
        stands,
        is_seen_moving,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(heard: i64) -> Member {
        Member {
            version: 1,
            node: "one".to_owned(),
            address: "10.9.9.1:6443".parse().unwrap(),
            sans: Vec::new(),
            local: Vec::new(),
            heard,
            stopped: false,
            life: None,
        }
    }

    #[test]
    fn a_server_is_dead_once_its_record_has_stood_still_for_a_lease() {
        let at = UnixTime::from_secs(1000);
        let first = seen(None, member(1000), 7, at);
        assert!(first.is_living());
        let since = |time: Duration| Seen {
            moved: Instant::now().checked_sub(time).unwrap(),
            ..first.clone()
        };
        let fresh = since(LEASE - Duration::from_secs(30));
        assert!(seen(Some(&fresh), member(1000), 7, at).is_living());
        let old = since(LEASE);
        assert!(!seen(Some(&old), member(1000), 7, at).is_living());
        // Whatever its clock says, it moved: in its place, or as another revision.
        assert!(seen(Some(&old), member(990), 7, at).is_living());
        assert!(seen(Some(&old), member(1000), 8, at).is_living());
        let stopped = Member {
            stopped: true,
            ..member(1001)
        };
        assert!(!seen(Some(&old), stopped, 8, at).is_living());
        // Seen for the first time it is as old as it says.
        assert!(!seen(None, member(1000), 7, at.plus(60)).is_living());
        assert!(seen(None, member(2000), 7, at).is_living());
    }

    #[test]
    fn records_of_before_and_after_are_read() {
        let text = r#"{"version":1,"node":"one","address":"10.9.9.1:6443","sans":[],"heard":5,"stopped":false"#;
        assert_eq!(
            Sign::read(format!("{text}}}").as_bytes()),
            Sign::Of(member(5))
        );
        let newer = format!(r#"{text},"life":"x","more":[1]}}"#);
        let Sign::Of(newer) = Sign::read(newer.as_bytes()) else {
            panic!("{newer}");
        };
        assert_eq!(newer.life.as_deref(), Some("x"));
        assert_eq!(Sign::read(b"gone"), Sign::Goes);
        assert!(matches!(Sign::read(text.as_bytes()), Sign::Unreadable(_)));
    }
}
