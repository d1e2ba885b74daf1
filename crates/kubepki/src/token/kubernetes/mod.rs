//! Bootstrap tokens that Kubernetes keeps: Secrets `kube-system/bootstrap-token-<id>`, as
//! `k3s token create` makes them (reference section 5.7).
//!
//! They are Kubernetes' own: read from the datastore, never written. What makes one good is what
//! kube-apiserver's authenticator for bootstrap tokens asks.
//!
//! ```text
//! row     /registry/secrets/kube-system/bootstrap-token-<id>
//!   -> what kube-apiserver had encrypted                              (sealed)
//!   -> protocol buffers (wire) or JSON -> v1.Secret                   (secret)
//!   -> id, secret, expiration, usages, groups -> good, or why not     (here)
//! ```

mod node;
mod sealed;
mod secret;
mod wire;

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use pki::UnixTime;
use zeroize::Zeroizing;

use super::made;
use crate::datastore::{Datastore, DatastoreError, Record};
use secret::Secret;

pub use node::{node_password, node_password_key};
pub use sealed::Encryption;
pub use secret::Unreadable;

/// Where Kubernetes keeps them, in kine and etcd alike.
pub const PREFIX: &str = "/registry/secrets/kube-system/bootstrap-token-";
/// The group that every bootstrap token has.
pub const GROUP: &str = "system:bootstrappers";
const KIND: &str = "bootstrap.kubernetes.io/token";
const USAGE: &str = "usage-bootstrap-";
/// Octets of an extra group's last part.
const LONGEST_GROUP: usize = 256;

/// A bootstrap token of Kubernetes. Shows its secret to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    /// The id by which it was looked up.
    pub id: String,
    /// `usage-bootstrap-<usage>: "true"`, in order.
    pub usages: Vec<String>,
    /// When it ends.
    pub expiration: Expiration,
    /// `auth-extra-groups`, as written.
    pub extra_groups: Vec<String>,
    /// For people.
    pub description: Option<String>,
    flaw: Option<Unfit>,
    secret: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootstrapToken({}.***)", self.id)
    }
}

/// When a bootstrap token ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiration {
    /// It does not.
    Never,
    /// From then on it is good for nothing.
    At(UnixTime),
    /// Its `expiration` is no time of RFC 3339: Kubernetes takes it for one that has ended.
    Unreadable,
}

/// Why Kubernetes takes a bootstrap token for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Somebody deleted it, and finalizers keep it.
    Deleted,
    /// The Secret's type is another.
    OtherType,
    /// `token-secret` is not what was shown.
    WrongSecret,
    /// `token-id` is not the one in the Secret's name.
    OtherId,
    /// Its time is over, since then.
    Expired(UnixTime),
    /// Its `expiration` cannot be read.
    UnreadableExpiration,
    /// `usage-bootstrap-authentication` is not "true".
    NotForAuthentication,
    /// `auth-extra-groups` holds something else than `system:bootstrappers:…`.
    BadGroups,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deleted => f.write_str("is deleted and awaits its removal"),
            Self::OtherType => write!(f, "has another type than {KIND}"),
            Self::WrongSecret => f.write_str("has another secret"),
            Self::OtherId => f.write_str("has another token-id than its name says"),
            Self::Expired(at) => write!(f, "expired at {at}"),
            Self::UnreadableExpiration => f.write_str("has an expiration that is no time"),
            Self::NotForAuthentication => {
                f.write_str("is not for authentication (usage-bootstrap-authentication)")
            }
            Self::BadGroups => {
                f.write_str("has auth-extra-groups that do not begin with system:bootstrappers:")
            }
        }
    }
}

/// A Secret under [`PREFIX`], read or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The id in its name.
    pub id: String,
    /// The token, or why it cannot be read.
    pub token: Result<BootstrapToken, Unreadable>,
}

impl Found {
    fn of(record: &Record, encryption: &Encryption) -> Self {
        let id = record.key.strip_prefix(PREFIX).unwrap_or_default();
        let plain = encryption.open(&record.value);
        let secret = plain.and_then(|plain| Secret::parse(&plain));
        Self {
            id: id.to_owned(),
            token: secret.and_then(|secret| BootstrapToken::of(id, &secret)),
        }
    }
}

/// The bootstrap token `id`; `None` if there is no such Secret. The datastore is asked each time.
///
/// # Errors
///
/// When the datastore cannot be asked.
pub async fn find(
    store: &dyn Datastore,
    encryption: &Encryption,
    id: &str,
) -> Result<Option<Found>, DatastoreError> {
    // Whatever a stranger sends, no other key is asked for.
    if !made::is_id(id) {
        return Ok(None);
    }
    let record = store.get(&format!("{PREFIX}{id}")).await?;
    Ok(record.map(|record| Found::of(&record, encryption)))
}

/// Every bootstrap token, by id; those that cannot be read among them.
///
/// # Errors
///
/// When the datastore cannot be asked.
pub async fn list(
    store: &dyn Datastore,
    encryption: &Encryption,
) -> Result<Vec<Found>, DatastoreError> {
    let records = store.list(PREFIX).await?;
    let found = records.iter().map(|record| Found::of(record, encryption));
    Ok(found.collect())
}

impl BootstrapToken {
    fn of(id: &str, secret: &Secret) -> Result<Self, Unreadable> {
        let name = format!("bootstrap-token-{id}");
        if secret.namespace != "kube-system" || secret.name != name {
            return Err(Unreadable::Malformed {
                problem: "it names itself otherwise than its key does",
            });
        }
        let usages = secret
            .data
            .iter()
            .filter(|(_, it)| it.as_slice() == b"true");
        let usages = usages.filter_map(|(key, _)| key.strip_prefix(USAGE));
        let groups = secret.text("auth-extra-groups").filter(|it| !it.is_empty());
        let extra_groups: Vec<String> = groups
            .into_iter()
            .flat_map(|it| it.split(','))
            .map(str::to_owned)
            .collect();
        let groups_are_text = groups.is_some()
            || secret
                .data
                .get("auth-extra-groups")
                .is_none_or(|it| it.is_empty());
        let expiration = match secret.data.get("expiration") {
            Some(bytes) if !bytes.is_empty() => time(bytes),
            _ => Expiration::Never,
        };
        let flaw = if secret.is_deleted {
            Some(Unfit::Deleted)
        } else if secret.kind != KIND {
            Some(Unfit::OtherType)
        } else if secret.text("token-id") != Some(id) {
            Some(Unfit::OtherId)
        } else if !groups_are_text || !extra_groups.iter().all(|it| is_group(it)) {
            Some(Unfit::BadGroups)
        } else {
            None
        };
        Ok(Self {
            id: id.to_owned(),
            usages: usages.map(str::to_owned).collect(),
            expiration,
            extra_groups,
            description: secret.text("description").map(str::to_owned),
            flaw,
            secret: secret.data.get("token-secret").cloned().unwrap_or_default(),
        })
    }

    /// The groups of whoever shows that secret.
    ///
    /// # Errors
    ///
    /// [`Unfit`].
    pub fn admits(&self, shown: &made::Secret, now: UnixTime) -> Result<Vec<String>, Unfit> {
        // Of a secret that is not theirs strangers learn nothing more.
        if !self.is_of(shown) {
            return Err(Unfit::WrongSecret);
        }
        match self.unfit(now) {
            Some(unfit) => Err(unfit),
            None => {
                let own = std::iter::once(GROUP.to_owned());
                Ok(own.chain(self.extra_groups.iter().cloned()).collect())
            }
        }
    }

    /// Whether `secret` is this token's, in a time that tells nothing of it.
    pub fn is_of(&self, secret: &made::Secret) -> bool {
        let same = verify_slices_are_equal(&self.secret, secret.expose().as_bytes()).is_ok();
        same && self.id == secret.id()
    }

    /// Why Kubernetes takes it for none, whoever shows it.
    pub fn unfit(&self, now: UnixTime) -> Option<Unfit> {
        let ended = match self.expiration {
            Expiration::At(at) if now >= at => Some(Unfit::Expired(at)),
            Expiration::Unreadable => Some(Unfit::UnreadableExpiration),
            Expiration::At(_) | Expiration::Never => None,
        };
        let authenticates = self.usages.iter().any(|it| it == "authentication");
        let usage = (!authenticates).then_some(Unfit::NotForAuthentication);
        self.flaw.or(ended).or(usage)
    }
}

/// `system:bootstrappers:` and up to 256 of `a-z0-9:-`, the last one a letter or digit
/// (kube-apiserver's expression).
fn is_group(name: &str) -> bool {
    let Some(own) = name.strip_prefix("system:bootstrappers:") else {
        return false;
    };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let last = own.bytes().last().is_some_and(plain);
    let all = own.bytes().all(|byte| plain(byte) || b":-".contains(&byte));
    last && all && own.len() <= LONGEST_GROUP
}

/// A time as Go reads RFC 3339; a shape that Go would refuse has ended.
fn time(bytes: &[u8]) -> Expiration {
    let text = std::str::from_utf8(bytes).ok();
    let text = text.filter(|text| is_rfc3339(text.as_bytes()));
    let read = text.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    read.map_or(Expiration::Unreadable, |it| {
        Expiration::At(UnixTime::from_secs(it.as_second()))
    })
}

/// `2006-01-02T15:04:05`, a fraction or none, `Z` or `+07:00`.
fn is_rfc3339(text: &[u8]) -> bool {
    let fits = |text: &[u8], shape: &[u8]| {
        let fit = |(byte, shape): (&u8, &u8)| match shape {
            b'0' => byte.is_ascii_digit(),
            b'5' => (b'0'..=b'5').contains(byte),
            b'+' => b"+-".contains(byte),
            other => byte == other,
        };
        text.len() == shape.len() && text.iter().zip(shape).all(fit)
    };
    let shape = b"0000-00-00T00:50:50";
    let Some((moment, rest)) = text.split_at_checked(shape.len()) else {
        return false;
    };
    let zone = match rest.strip_prefix(b".") {
        None => rest,
        Some(fraction) => {
            let digits = fraction.iter().take_while(|it| it.is_ascii_digit()).count();
            match (digits, fraction.get(digits..)) {
                (1..=9, Some(zone)) => zone,
                _ => return false,
            }
        }
    };
    fits(moment, shape) && (zone == b"Z" || fits(zone, b"+00:50"))
}

#[cfg(test)]
mod tests;
