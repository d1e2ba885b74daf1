//! What a made token allows, and what it has been used for. Pure.

use std::fmt;

use pki::{Digest, UnixTime};
use serde::{Deserialize, Serialize};

use super::Secret;

/// Nodes that a token with a limit may let in: their names stand in its record.
pub const MOST_USES: u32 = 1000;
/// Bytes of a description.
pub const LONGEST_DESCRIPTION: usize = 200;
/// Seconds for which a token whose uses are spent still answers the nodes that it let in: a node
/// asks several times to join once, and again where an answer was lost.
pub const RETRY: i64 = 600;
/// The form's version.
const VERSION: u32 = 1;

/// What a made token's holder may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Join as a node: what K3s's agent token and bootstrap tokens allow.
    Agent,
    /// What K3s's server token allows: the bootstrap data, new CAs, new tokens.
    Server,
}

/// How a made token is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// `K10P1.<pins>::<id>.<secret>`.
    Pins,
    /// `K10<CA hash>::<id>.<secret>`, as kubeadm and K3s have bootstrap tokens.
    Bootstrap,
    /// `K10<CA hash>::<user>:<id>.<secret>`: what K3s's agents send as user and password.
    K10,
}

/// What a token shall allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// To whom.
    pub role: Role,
    /// How it is written.
    pub shape: Shape,
    /// When it is made.
    pub now: UnixTime,
    /// From when on it is good for nothing.
    pub expires: Option<UnixTime>,
    /// How many nodes it lets in; any number without.
    pub uses: Option<u32>,
    /// The one node that it lets in, in lower case.
    pub node: Option<String>,
    /// For people.
    pub description: Option<String>,
}

/// A made token's record: JSON in the datastore. It holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    version: u32,
    /// To whom.
    pub role: Role,
    /// How it is written.
    pub form: Shape,
    /// SHA-256 of `<id>.<secret>`, hex.
    hash: String,
    /// When it was made, in seconds since 1970.
    created: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<i64>,
    /// How many nodes it lets in; any number without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// The one node that it lets in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked: Option<i64>,
    /// The nodes that it has let in, where their number is limited; in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Use>,
}

/// One node that a token has let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Use {
    /// Its name.
    pub node: String,
    /// When it came, in seconds since 1970.
    pub at: i64,
}

/// Why a token is good for nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its time is over, since then.
    Expired(UnixTime),
    /// Somebody took it back, then.
    Revoked(UnixTime),
    /// It has let in as many nodes as it may, the last one then.
    UsedUp(UnixTime),
}

impl End {
    /// Since when.
    pub fn since(self) -> UnixTime {
        match self {
            Self::Expired(at) | Self::Revoked(at) | Self::UsedUp(at) => at,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired(at) => write!(f, "expired at {at}"),
            Self::Revoked(at) => write!(f, "was revoked at {at}"),
            Self::UsedUp(at) => write!(f, "has no uses left since {at}"),
        }
    }
}

/// Why a token does not let a node in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It has ended.
    Ended(End),
    /// It is for another node.
    OtherNode,
}

/// A record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record is damaged, or of a later version of this program: {problem}")]
pub struct Malformed {
    /// What is wrong with it.
    pub problem: String,
}

impl Made {
    /// A new token's record.
    pub fn new(secret: &Secret, wanted: &Wanted) -> Self {
        Self {
            version: VERSION,
            role: wanted.role,
            form: wanted.shape,
            hash: secret.hash().to_string(),
            created: wanted.now.as_secs(),
            expires: wanted.expires.map(UnixTime::as_secs),
            uses: wanted.uses,
            node: wanted.node.clone(),
            description: wanted.description.clone(),
            revoked: None,
            nodes: Vec::new(),
        }
    }

    /// Reads a datastore's value.
    ///
    /// # Errors
    ///
    /// [`Malformed`]: then the token is good for nothing.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let wrong = |problem: &str| Malformed {
            problem: problem.to_owned(),
        };
        let made: Self =
            serde_json::from_slice(bytes).map_err(|error| wrong(&error.to_string()))?;
        if made.version != VERSION {
            return Err(wrong("its version is not 1"));
        }
        made.hash().ok_or_else(|| wrong("its hash is none"))?;
        Ok(made)
    }

    /// A datastore's value.
    ///
    /// # Errors
    ///
    /// Never, as far as is known: JSON can hold every record.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Malformed> {
        serde_json::to_vec(self).map_err(|error| Malformed {
            problem: error.to_string(),
        })
    }

    /// When it was made.
    pub fn created(&self) -> UnixTime {
        UnixTime::from_secs(self.created)
    }

    /// From when on it is good for nothing.
    pub fn expires(&self) -> Option<UnixTime> {
        self.expires.map(UnixTime::from_secs)
    }

    /// Whether `secret` is this token's.
    pub fn is_of(&self, secret: &Secret) -> bool {
        self.hash().is_some_and(|hash| secret.is(hash))
    }

    /// Why it has ended; what happened first is told.
    pub fn end(&self, now: UnixTime) -> Option<End> {
        let revoked = self.revoked.map(UnixTime::from_secs).map(End::Revoked);
        let expired = self.expires().filter(|at| now >= *at).map(End::Expired);
        let ends = [revoked, expired, self.used_up().map(End::UsedUp)];
        ends.into_iter().flatten().min_by_key(|end| end.since())
    }

    /// Whether its holder may still ask for anything at all.
    ///
    /// # Errors
    ///
    /// The end. One whose uses are spent goes on for [`RETRY`] seconds, for the nodes that it let
    /// in.
    pub fn admits(&self, now: UnixTime) -> Result<(), End> {
        match self.hard_end(now) {
            Some(end) => Err(end),
            None => match self.used_up() {
                Some(at) if now.since(at) >= RETRY => Err(End::UsedUp(at)),
                _ => Ok(()),
            },
        }
    }

    /// Whether it lets `node` in, and whether that spends a use: a node that it has let in comes
    /// again for nothing.
    ///
    /// # Errors
    ///
    /// [`Denied`].
    pub fn permits(&self, node: &str, now: UnixTime) -> Result<bool, Denied> {
        self.admits(now).map_err(Denied::Ended)?;
        if self.node.as_deref().is_some_and(|own| own != node) {
            return Err(Denied::OtherNode);
        }
        if self.uses.is_none() || self.nodes.iter().any(|it| it.node == node) {
            return Ok(false);
        }
        match self.used_up() {
            Some(at) => Err(Denied::Ended(End::UsedUp(at))),
            None => Ok(true),
        }
    }

    /// The same token with that node let in.
    pub fn with_use(&self, node: &str, now: UnixTime) -> Self {
        let mut made = self.clone();
        made.nodes.push(Use {
            node: node.to_owned(),
            at: now.as_secs(),
        });
        made
    }

    /// The same token, taken back.
    pub fn with_revocation(&self, now: UnixTime) -> Self {
        let revoked = self.revoked.or(Some(now.as_secs()));
        Self {
            revoked,
            ..self.clone()
        }
    }

    /// Whether it must know the node: it is for one alone, or for so many.
    pub fn is_bound(&self) -> bool {
        self.node.is_some() || self.uses.is_some()
    }

    fn hash(&self) -> Option<Digest> {
        let bytes = pki::unhex(&self.hash)?;
        Some(Digest(bytes.try_into().ok()?))
    }

    fn hard_end(&self, now: UnixTime) -> Option<End> {
        let revoked = self.revoked.map(UnixTime::from_secs).map(End::Revoked);
        revoked.or(self.expires().filter(|at| now >= *at).map(End::Expired))
    }

    /// When the last use was spent.
    fn used_up(&self) -> Option<UnixTime> {
        let uses = usize::try_from(self.uses?).unwrap_or(usize::MAX);
        if self.nodes.len() < uses {
            return None;
        }
        let last = self.nodes.iter().map(|it| it.at).max();
        Some(UnixTime::from_secs(last.unwrap_or(self.created)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn secret() -> Secret {
        Secret::parse("abc123.0123456789abcdef").unwrap()
    }

    fn made(uses: Option<u32>, node: Option<&str>) -> Made {
        let wanted = Wanted {
            role: Role::Agent,
            shape: Shape::Pins,
            now: START,
            expires: Some(START.plus(3600)),
            uses,
            node: node.map(str::to_owned),
            description: None,
        };
        Made::new(&secret(), &wanted)
    }

    #[test]
    fn a_record_reads_as_it_was_written_and_holds_no_secret() {
        let made = made(Some(2), Some("a")).with_use("a", START);
        let bytes = made.to_bytes().unwrap();
        assert_eq!(Made::parse(&bytes), Ok(made.clone()));
        assert!(
            !String::from_utf8(bytes)
                .unwrap()
                .contains("0123456789abcdef\"")
        );
        assert!(made.is_of(&secret()));
        let other = Secret::parse("abc123.0123456789abcdee").unwrap();
        let of_another_id = Secret::parse("abc124.0123456789abcdef").unwrap();
        assert!(!made.is_of(&other) && !made.is_of(&of_another_id));
    }

    #[test]
    fn damaged_records_are_told() {
        let good = String::from_utf8(made(None, None).to_bytes().unwrap()).unwrap();
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("\"version\":1", "\"version\":-1"),
            ("\"role\":\"agent\"", "\"role\":\"admin\""),
            ("\"hash\":\"", "\"hash\":\"zz"),
            ("\"created\"", "\"more\":1,\"created\""),
            ("}", ""),
        ] {
            assert!(good.contains(from), "{good}");
            assert!(
                Made::parse(good.replace(from, to).as_bytes()).is_err(),
                "{to}"
            );
        }
        for text in ["", "null", "[]", "{}", "\u{0}"] {
            assert!(Made::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_ends_with_its_time() {
        let made = made(None, None);
        let last = START.plus(3599);
        assert_eq!((made.end(last), made.admits(last)), (None, Ok(())));
        let end = End::Expired(START.plus(3600));
        let then = START.plus(3600);
        assert_eq!((made.end(then), made.admits(then)), (Some(end), Err(end)));
        assert_eq!(made.permits("a", then), Err(Denied::Ended(end)));
    }

    #[test]
    fn one_node_is_one_use_however_often_it_asks() {
        let fresh = made(Some(2), None);
        assert_eq!(fresh.permits("a", START), Ok(true));
        let one = fresh.with_use("a", START);
        assert_eq!(one.permits("a", START), Ok(false));
        assert_eq!(one.permits("b", START), Ok(true));
        let two = one.with_use("b", START.plus(5));
        let end = End::UsedUp(START.plus(5));
        assert_eq!(two.permits("b", START.plus(6)), Ok(false));
        let third = two.permits("c", START.plus(6));
        assert_eq!(third, Err(Denied::Ended(end)));
        assert_eq!(two.end(START.plus(6)), Some(end));
        // Who lost the last answer asks again; later the token is worth nothing.
        assert_eq!(two.admits(START.plus(5 + RETRY - 1)), Ok(()));
        assert_eq!(two.admits(START.plus(5 + RETRY)), Err(end));
        let late = two.permits("a", START.plus(5 + RETRY));
        assert_eq!(late, Err(Denied::Ended(end)));
    }

    #[test]
    fn a_token_for_one_node_is_no_other_nodes() {
        let made = made(None, Some("a"));
        assert_eq!(made.permits("a", START), Ok(false));
        assert_eq!(made.permits("b", START), Err(Denied::OtherNode));
        assert!(made.is_bound());
    }

    #[test]
    fn what_is_revoked_stays_so() {
        let revoked = made(Some(1), None).with_revocation(START.plus(1));
        let end = End::Revoked(START.plus(1));
        assert_eq!(revoked.admits(START.plus(1)), Err(end));
        let again = revoked.with_revocation(START.plus(9));
        assert_eq!(again.end(START.plus(9999)), Some(end));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Made::parse(&bytes).is_err());
        }

        #[test]
        fn never_more_nodes_than_uses(uses in 1u32..6, asks in proptest::collection::vec(0u8..9, 0..40)) {
            let mut made = made(Some(uses), None);
            for ask in asks {
                let node = format!("n{ask}");
                if made.permits(&node, START) == Ok(true) {
                    made = made.with_use(&node, START);
                }
            }
            prop_assert!(made.nodes.len() <= usize::try_from(uses).unwrap());
        }
    }
}
