//! Node passwords: a node that has come once is held to its password.
//!
//! K3s keeps them as Secrets of the Kubernetes API. Here each is a key of the datastore,
//! `/kubepki/nodes/<name>`, made only if it is absent, so that of two that come at once one
//! wins, whichever server they ask.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use kubepki::datastore::{Datastore, DatastoreError};
use kubepki::edge::Entropy;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::forgotten::Forgotten;
use crate::status::Refusal;

/// Where the records lie.
pub const PREFIX: &str = "/kubepki/nodes/";
/// Longer passwords are not looked at.
const LONGEST: usize = 1024;
/// Seconds for which a record that was read is believed without another look: a node that joins
/// asks three times at once. What is changed or removed in the datastore holds that much later.
pub(crate) const FRESH: i64 = 2;
/// Records that are looked at ahead of time at once; those that must wait for a look are not to
/// stand behind many that need not.
const AHEAD: usize = 4;
/// scrypt's cost in K3s's hashes (reference section 5.8): N = 2^15, r = 8, p = 1.
const COST: (u8, u32, u32) = (15, 8, 1);

/// One node's record, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The form's version: 1.
    pub version: u32,
    /// Which hash it is, and the hash: `$1:…` (K3s's scrypt) or `$sha256:…`.
    pub hash: String,
    /// When the node came first, in seconds since 1970.
    pub created: i64,
}

/// What a hash text is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verifier {
    /// K3s's form, `$1:<salt>:15:8:1:<base64>`: scrypt, for passwords that a person may have
    /// chosen.
    Slow { salt: Vec<u8>, hash: Vec<u8> },
    /// `$sha256:<salt>:<hex>`: for passwords of 128 random bits and more, as K3s's agents make
    /// them; no slowness makes those harder to guess.
    Fast { salt: Vec<u8>, hash: Vec<u8> },
}

impl Verifier {
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.split(':').collect();
        match fields.as_slice() {
            ["$1", salt, "15", "8", "1", hash] => {
                let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
                Some(Self::Slow {
                    salt: pki::unhex(salt)?,
                    hash: base64::Engine::decode(&engine, hash).ok()?,
                })
            }
            ["$sha256", salt, hash] => Some(Self::Fast {
                salt: pki::unhex(salt)?,
                hash: pki::unhex(hash)?,
            }),
            _ => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Slow { salt, hash } => {
                let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
                let hash = base64::Engine::encode(&engine, hash);
                let (n, r, p) = COST;
                format!("$1:{}:{n}:{r}:{p}:{hash}", pki::hex(salt))
            }
            Self::Fast { salt, hash } => {
                format!("$sha256:{}:{}", pki::hex(salt), pki::hex(hash))
            }
        }
    }

    /// Hashes a new password.
    fn make(password: &str, salt: Vec<u8>) -> Option<Self> {
        if is_random(password) {
            let hash = fast(password, &salt);
            Some(Self::Fast { salt, hash })
        } else {
            let hash = slow(password, &salt)?;
            Some(Self::Slow { salt, hash })
        }
    }

    fn matches(&self, password: &str) -> bool {
        let (found, expected) = match self {
            Self::Slow { salt, hash } => (slow(password, salt), hash),
            Self::Fast { salt, hash } => (Some(fast(password, salt)), hash),
        };
        found.is_some_and(|found| {
            aws_lc_rs::constant_time::verify_slices_are_equal(&found, expected).is_ok()
        })
    }
}

/// Whether a password looks like K3s's own: 32 hex digits or more, with at least eight different
/// ones, which a person's choice has not by chance.
fn is_random(password: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let mut different: Vec<u8> = password.bytes().collect();
    different.sort_unstable();
    different.dedup();
    password.len() >= 32 && password.bytes().all(hex) && different.len() >= 8
}

fn fast(password: &str, salt: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, salt);
    hmac::sign(&key, password.as_bytes()).as_ref().to_vec()
}

fn slow(password: &str, salt: &[u8]) -> Option<Vec<u8>> {
    let (n, r, p) = COST;
    let parameters = scrypt::Params::new(n, r, p).ok()?;
    let mut hash = vec![0; 64];
    scrypt::scrypt(password.as_bytes(), salt, &parameters, &mut hash).ok()?;
    Some(hash)
}

/// Checks node passwords against the datastore.
pub struct NodePasswords {
    key: hmac::Key,
    /// Passwords that were found good.
    known: Arc<Mutex<HashMap<String, Known>>>,
    /// Records that are looked at before they must be.
    ahead: Arc<tokio::sync::Semaphore>,
    /// One slow hash at a time: each takes 32 MiB.
    slow: tokio::sync::Semaphore,
    /// Nodes that were removed.
    pub(crate) forgotten: Forgotten,
}

/// A password that was found good.
struct Known {
    /// A keyed hash of it, which leaves this process never.
    tag: hmac::Tag,
    /// Of the record that it was held to.
    revision: i64,
    /// When that record was last looked at.
    looked: pki::UnixTime,
}

impl fmt::Debug for NodePasswords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodePasswords(..)")
    }
}

impl NodePasswords {
    /// With a random `key` that lives as long as the process.
    pub fn new(key: &[u8; 32]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            known: Arc::default(),
            ahead: Arc::new(tokio::sync::Semaphore::new(AHEAD)),
            slow: tokio::sync::Semaphore::new(1),
            forgotten: Forgotten::default(),
        }
    }

    /// Holds `node` to its password; the first one that comes is its password from then on.
    ///
    /// # Errors
    ///
    /// 403 in K3s's words for another password, 503 while the datastore cannot be asked: nothing
    /// is issued without the check.
    pub async fn check(
        &self,
        datastore: &Arc<dyn Datastore>,
        entropy: &dyn Entropy,
        node: &str,
        password: &Zeroizing<String>,
        now: pki::UnixTime,
    ) -> Result<(), Refusal> {
        if password.len() > LONGEST {
            return Err(Refusal::Bad("the node password is too long".to_owned()));
        }
        if self.is_known(node, password, now, None) {
            self.look_ahead(datastore, node, now);
            return Ok(());
        }
        let datastore = datastore.as_ref();
        let key = format!("{PREFIX}{node}");
        let present = datastore.get(&key).await.map_err(away)?;
        let (record, revision) = match present {
            Some(record) => (record.value, record.revision),
            None => match self
                .register(datastore, entropy, &key, password, now)
                .await?
            {
                None => return Ok(()),
                Some(other) => other,
            },
        };
        if self.is_known(node, password, now, Some(revision)) {
            return Ok(());
        }
        let read: Option<NodeRecord> = serde_json::from_slice(&record).ok();
        let verifier = read
            .filter(|read| read.version == 1)
            .and_then(|read| Verifier::parse(&read.hash));
        let verifier = verifier.ok_or_else(|| {
            Refusal::Internal(format!("the record {key} in the datastore cannot be read"))
        })?;
        let secret = password.clone();
        let good = match verifier {
            Verifier::Fast { .. } => verifier.matches(&secret),
            Verifier::Slow { .. } => self.slowly(move || verifier.matches(&secret)).await?,
        };
        if !good {
            // K3s's words, which its agents show.
            return Err(Refusal::ForbiddenFor(format!(
                "unable to verify password for node {node}: hash does not match"
            )));
        }
        self.remember(node, revision, password, now);
        Ok(())
    }

    /// Writes a new node's record. Answers the record of another that was faster.
    async fn register(
        &self,
        datastore: &dyn Datastore,
        entropy: &dyn Entropy,
        key: &str,
        password: &Zeroizing<String>,
        now: pki::UnixTime,
    ) -> Result<Option<(Zeroizing<Vec<u8>>, i64)>, Refusal> {
        let internal = |text: &str| Refusal::Internal(text.to_owned());
        let mut salt = vec![0; if is_random(password) { 16 } else { 8 }];
        entropy
            .fill(&mut salt)
            .map_err(|_| internal("no random bytes"))?;
        let secret = password.clone();
        let made = match is_random(password) {
            true => Verifier::make(&secret, salt),
            false => self.slowly(move || Verifier::make(&secret, salt)).await?,
        };
        let verifier = made.ok_or_else(|| internal("the node password cannot be hashed"))?;
        let record = NodeRecord {
            version: 1,
            hash: verifier.text(),
            created: now.as_secs(),
        };
        let value = serde_json::to_vec(&record).map_err(|_| internal("no JSON"))?;
        match datastore.create(key, &value).await {
            Ok(revision) => {
                let node = key.strip_prefix(PREFIX).unwrap_or(key);
                self.remember(node, revision, password, now);
                Ok(None)
            }
            Err(DatastoreError::Conflict { .. }) => {
                let other = datastore.get(key).await.map_err(away)?;
                let other = other.ok_or_else(|| internal("the node's record came and went"))?;
                Ok(Some((other.value, other.revision)))
            }
            Err(error) => Err(away(error)),
        }
    }

    async fn slowly<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let stopped = || Refusal::Unavailable("the server is stopping".to_owned());
        let _one = self.slow.acquire().await.map_err(|_| stopped())?;
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| stopped())
    }

    /// Whether `password` was found good for `node`: against the record of that `revision`, which
    /// was looked at just now; without one, not longer than [`FRESH`] ago.
    fn is_known(
        &self,
        node: &str,
        password: &str,
        now: pki::UnixTime,
        revision: Option<i64>,
    ) -> bool {
        let Ok(mut known) = self.known.lock() else {
            return false;
        };
        let Some(known) = known.get_mut(node) else {
            return false;
        };
        let counts = match revision {
            Some(revision) => known.revision == revision,
            // A clock that went back makes nothing fresh.
            None => (0..FRESH).contains(&now.since(known.looked)),
        };
        let good =
            counts && hmac::verify(&self.key, password.as_bytes(), known.tag.as_ref()).is_ok();
        if good && revision.is_some() {
            known.looked = now;
        }
        good
    }

    /// Looks at a record again that will not be believed much longer, beside the answers: where
    /// thousands of nodes come again and again, the answers of a second would all wait for it.
    fn look_ahead(&self, datastore: &Arc<dyn Datastore>, node: &str, now: pki::UnixTime) {
        let is_aging = |known: &Known| known.looked < now;
        let held = self.known.lock().ok();
        let revision = held.and_then(|all| {
            all.get(node)
                .filter(|it| is_aging(it))
                .map(|it| it.revision)
        });
        let (Some(revision), Ok(place)) = (revision, Arc::clone(&self.ahead).try_acquire_owned())
        else {
            return;
        };
        let (known, datastore) = (Arc::clone(&self.known), Arc::clone(datastore));
        let node = node.to_owned();
        tokio::spawn(async move {
            let _place = place;
            let found = datastore.get(&format!("{PREFIX}{node}")).await;
            // A datastore that is silent is noticed by the next request that must ask it.
            let (Ok(found), Ok(mut all)) = (found, known.lock()) else {
                return;
            };
            match (found.map(|it| it.revision), all.get_mut(&node)) {
                (Some(same), Some(known)) if same == revision && known.revision == same => {
                    known.looked = known.looked.max(now);
                }
                (_, Some(known)) if known.revision == revision => {
                    all.remove(&node);
                }
                _ => {}
            }
        });
    }

    fn remember(&self, node: &str, revision: i64, password: &str, now: pki::UnixTime) {
        let tag = hmac::sign(&self.key, password.as_bytes());
        let looked = now;
        if let Ok(mut known) = self.known.lock() {
            let found = Known {
                tag,
                revision,
                looked,
            };
            known.insert(node.to_owned(), found);
        }
    }
}

/// The client is told that, not what; the log says the rest.
fn away(_: DatastoreError) -> Refusal {
    Refusal::Unavailable("the datastore cannot be asked for the node's password".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_k3s_does() {
        // Reference section 5.8, from K3s's own code.
        let expected = "$1:0011223344556677:15:8:1:Vjp30ZvY2GxNnMhwo9BZ+xFojekXCeIv+B5D4OMP/\
                        FmdF8c7+26wGpiLpCdyHX27kkGwS/H1fFGkAqvwmukklg";
        let salt = pki::unhex("0011223344556677").unwrap();
        let made = Verifier::make("nodepass", salt).unwrap();
        assert_eq!(made.text(), expected);
        let read = Verifier::parse(expected).unwrap();
        assert!(read.matches("nodepass") && !read.matches("nodepas"));
    }

    #[test]
    fn a_record_is_looked_at_again_after_two_seconds() {
        let at = pki::UnixTime::from_secs;
        let passwords = NodePasswords::new(&[7; 32]);
        passwords.remember("a", 5, "right", at(100));
        let known = |text: &str, now, revision| passwords.is_known("a", text, at(now), revision);
        assert!(known("right", 100, None) && known("right", 101, None));
        assert!(!known("wrong", 100, None) && !passwords.is_known("b", "right", at(100), None));
        // Later the record must be the same, and a clock that went back proves nothing.
        assert!(!known("right", 102, None) && !known("right", 99, None));
        assert!(!known("right", 102, Some(6)) && !known("wrong", 102, Some(5)));
        assert!(!known("right", 102, None));
        assert!(known("right", 102, Some(5)) && known("right", 103, None));
    }

    #[test]
    fn only_what_looks_random_is_hashed_fast() {
        let random = "8f0d6c1b7e2a4953c4d1e0f2a3b5968d";
        let made = Verifier::make(random, vec![1; 16]).unwrap();
        assert!(made.text().starts_with("$sha256:") && !made.text().contains(random));
        let read = Verifier::parse(&made.text()).unwrap();
        assert!(read == made && read.matches(random) && !read.matches("x"));
        for weak in [
            "hunter2",
            "00000000000000000000000000000000",
            "8F0D6C1B7E2A4953C4D1E0F2A3B5968D",
        ] {
            assert!(!is_random(weak), "{weak}");
        }
        for odd in [
            "",
            "$1",
            "$1:zz:15:8:1:AA",
            "$1:00:16:8:1:AA",
            "$2:00:00",
            "$sha256:0:1",
        ] {
            assert_eq!(Verifier::parse(odd), None, "{odd}");
        }
    }
}
