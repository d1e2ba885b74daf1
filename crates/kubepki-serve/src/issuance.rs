//! What is written down before a certificate leaves.

use kubepki::log::Issued;
use pki::{Certificate, DAY, UnixTime};

/// The kind of proof that a caller gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// User and password: a server or agent token.
    Token,
    /// A bootstrap token.
    BootstrapToken,
    /// A client certificate under the cluster's client CA.
    Certificate,
}

impl Credential {
    /// The word in logs: `token`, `bootstrap-token` or `certificate`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::BootstrapToken => "bootstrap-token",
            Self::Certificate => "certificate",
        }
    }
}

/// Where in the log a record stands; the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub u64);

/// The record could not be made durable: the certificate must not leave.
#[derive(Debug, thiserror::Error)]
#[error("the issuance log did not take the record: {reason}")]
pub struct LogError {
    /// What failed, in words.
    pub reason: String,
}

/// Keeps records of what was issued.
#[async_trait::async_trait]
pub trait IssuanceLog: Send + Sync {
    /// Appends one record, and returns once it is durable.
    ///
    /// # Errors
    ///
    /// When the record is not durable: then its certificate must not leave.
    async fn append(&self, record: Issued) -> Result<Position, LogError>;
}

/// Keeps records of what a server issues to its own node.
pub trait OwnRecords: Send + Sync + std::fmt::Debug {
    /// Records a leaf before anybody has it. `name` says what it is for: `dynamic-listener`.
    ///
    /// # Errors
    ///
    /// When the record is not durable and the leaf [`Need::CanWait`]: then it is not used. One that
    /// is [`Need::Urgent`] is used all the same, and recorded as soon as that can be.
    fn issued(&self, name: &str, leaf: &Certificate, need: Need) -> Result<Entered, LogError>;
}

/// What became of the record of a leaf that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// It is durable.
    Now,
    /// The log takes none: it follows.
    Later,
}

/// Whether the node can do without a leaf for now. A log that takes no records (a full disk, as a
/// rule) must not end a cluster whose leaves end, nor keep it on CAs that were replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The one in place will do for some days: it stays.
    CanWait,
    /// There is none that will do.
    Urgent,
}

/// A leaf that ends within that time does not wait for the log.
pub const LAST_DAYS: i64 = 7 * DAY;

impl Need {
    /// What a node needs whose leaf `present` should be by `issuer`.
    pub fn of(present: Option<&Certificate>, issuer: &Certificate, now: UnixTime) -> Self {
        let will_do = present.is_some_and(|leaf| {
            leaf.validity().contains(now)
                && leaf.validity().remaining(now) > LAST_DAYS
                && leaf.verify_signature(issuer.spki_der()).is_ok()
        });
        match will_do {
            true => Self::CanWait,
            false => Self::Urgent,
        }
    }
}
