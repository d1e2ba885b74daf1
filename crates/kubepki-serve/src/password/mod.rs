//! Node passwords: a node that has come once is held to its password.
//!
//! K3s keeps them as Secrets of the Kubernetes API. Here each is a key of the datastore,
//! `/kubepki/nodes/<name>`, made only if it is absent, so that of two that come at once one
//! wins, whichever server they ask. Where there is none, and K3s has a Secret of the node in the same
//! datastore, that one holds; what matched it is recorded here.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use kubepki::datastore::{Datastore, DatastoreError, Record};
use kubepki::edge::Entropy;
use kubepki::error_chain;
use kubepki::token::kubernetes::{Encryption, node_password, node_password_key};
use pki::Certificate;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::access::is_random;
use crate::forgotten::{self, Forgotten};
use crate::lookups::{Lookups, Silent};
use crate::node::name_problem;
use crate::status::Refusal;
use hash::Verifier;

mod hash;

/// Where the records lie.
pub const PREFIX: &str = "/kubepki/nodes/";
/// Longer passwords are not looked at.
const LONGEST: usize = 1024;
/// Seconds for which a record that was read is believed without another look: a node that joins
/// asks three times at once. What is changed or removed in the datastore holds that much later.
pub(crate) const FRESH: i64 = 2;
/// Records that are looked at ahead of time at once: more would only wait for those that must.
const AHEAD: usize = 64;
/// Passwords that are remembered; what is remembered of one is 200 bytes.
const MOST: usize = 65_536;

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

/// A node, and what it shows.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// Where records of nodes lie.
    pub datastore: &'a Arc<dyn Datastore>,
    /// Salts.
    pub entropy: &'a dyn Entropy,
    /// What opens Secrets of Kubernetes.
    pub encryption: &'a Encryption,
    /// The certificate that proved who the node is, and the CAs of which one issued it; `None` for
    /// a caller with a token, who may be a forgotten node that comes anew.
    pub certificate: Option<(&'a [u8], &'a [Certificate])>,
    /// Its name, in lower case.
    pub node: &'a str,
    /// Its password.
    pub password: &'a Zeroizing<String>,
    /// The time.
    pub now: pki::UnixTime,
}

/// What is known of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has a record, and its password is right.
    Held,
    /// It has none yet: [`NodePasswords::register`] writes it.
    New,
}

/// Why a node is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// What the caller is told.
    #[error("{}", .0.message())]
    Refused(Refusal),
    /// What K3s has of the node cannot be used: nobody can tell whether it is this one.
    #[error("the Secret {secret} cannot be used: {why}")]
    Unusable {
        /// Namespace and name.
        secret: String,
        /// Why. Never tells a part of it.
        why: String,
    },
}

impl From<Refusal> for PasswordError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Checks node passwords against the datastore.
pub struct NodePasswords {
    key: hmac::Key,
    /// Passwords that were found good.
    known: Arc<Mutex<HashMap<String, Known>>>,
    lookups: Lookups,
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
            lookups: Lookups::default(),
            ahead: Arc::new(tokio::sync::Semaphore::new(AHEAD)),
            slow: tokio::sync::Semaphore::new(1),
            forgotten: Forgotten::default(),
        }
    }

    /// Holds a node to its password, where one is recorded: here, or by K3s. Where none is, the node
    /// is [`Standing::New`], and the password becomes its own with [`Self::register`].
    ///
    /// # Errors
    ///
    /// 403 in K3s's words for another password, 503 while the datastore cannot be asked: nothing
    /// is issued without the check.
    pub async fn check(&self, question: &Question<'_>) -> Result<Standing, PasswordError> {
        let Question {
            datastore,
            node,
            password,
            now,
            ..
        } = *question;
        if password.len() > LONGEST {
            return Err(Refusal::Bad("the node password is too long".to_owned()).into());
        }
        if self.is_known(node, password, now, None) {
            self.look_ahead(datastore, node, now);
            return Ok(Standing::Held);
        }
        let present = self.lookups.get(datastore, key(node)).await;
        match present.map_err(|Silent| away())? {
            Some(record) => {
                self.hold(question, &record).await?;
                Ok(Standing::Held)
            }
            None => {
                self.hold_to_k3s(question).await?;
                Ok(Standing::New)
            }
        }
    }

    /// Whether a password was found good a moment ago, so that it is no guess.
    pub(crate) fn is_fresh(&self, node: &str, password: &str, now: pki::UnixTime) -> bool {
        self.is_known(node, password, now, None)
    }

    /// Holds the node to its record.
    async fn hold(&self, question: &Question<'_>, record: &Record) -> Result<(), PasswordError> {
        let Question {
            node,
            password,
            now,
            ..
        } = *question;
        if self.is_known(node, password, now, Some(record.revision)) {
            return Ok(());
        }
        let read: Option<NodeRecord> = serde_json::from_slice(&record.value).ok();
        let verifier = read
            .filter(|read| read.version == 1)
            .and_then(|read| Verifier::parse(&read.hash));
        let verifier = verifier.ok_or_else(|| {
            let key = &record.key;
            Refusal::Internal(format!("the record {key} in the datastore cannot be read"))
        })?;
        self.verify(question, verifier).await?;
        self.remember(node, record.revision, password, now);
        Ok(())
    }

    /// Holds a node that never came here to what K3s has of it, unless it was forgotten here. A
    /// certificate from before that proves nothing: what was found a moment ago may be older.
    async fn hold_to_k3s(&self, question: &Question<'_>) -> Result<(), PasswordError> {
        let Question {
            datastore, node, ..
        } = *question;
        let looked = async {
            match name_problem(node) {
                None => self.lookups.get(datastore, node_password_key(node)).await,
                // No Secret can be called so.
                Some(_) => Ok(None),
            }
        };
        let (forgotten, secret) = tokio::join!(self.forgotten_at(question), looked);
        let (forgotten, secret) = (forgotten?, secret.map_err(|Silent| away())?);
        let (None, Some(secret)) = (forgotten, secret) else {
            return Ok(());
        };
        let unusable = |why: String| PasswordError::Unusable {
            secret: format!("kube-system/{node}.node-password.k3s"),
            why,
        };
        let hash = node_password(&secret.value, question.encryption, node);
        let hash = hash.map_err(|error| unusable(error_chain(&error)))?;
        let verifier = Verifier::parse(&hash);
        let verifier =
            verifier.ok_or_else(|| unusable("its hash has a form that is not known".to_owned()))?;
        self.verify(question, verifier).await
    }

    /// When the node was forgotten, by a look at the datastore that begins now.
    async fn forgotten_at(&self, question: &Question<'_>) -> Result<Option<i64>, PasswordError> {
        let key = forgotten::key(question.node);
        let found = self.lookups.get(question.datastore, key).await;
        let at = found
            .map_err(|Silent| away())?
            .map(|it| forgotten::at(&it.value));
        if let (Some((shown, authorities)), Some(at)) = (question.certificate, at) {
            forgotten::is_from_since(shown, authorities, at)?;
        }
        Ok(at)
    }

    async fn verify(
        &self,
        question: &Question<'_>,
        verifier: Verifier,
    ) -> Result<(), PasswordError> {
        let secret = question.password.clone();
        let good = match verifier {
            Verifier::Fast { .. } => verifier.matches(&secret),
            Verifier::Slow { .. } => self.slowly(move || verifier.matches(&secret)).await?,
        };
        match good {
            true => Ok(()),
            // K3s's words, which its agents show.
            false => Err(PasswordError::Refused(Refusal::ForbiddenFor(format!(
                "unable to verify password for node {}: hash does not match",
                question.node
            )))),
        }
    }

    /// Writes a new node's record, so that the password is its own from then on. Where another was
    /// faster, that one's holds.
    ///
    /// # Errors
    ///
    /// As [`Self::check`]; 401 for a node that is being forgotten and shows a certificate from
    /// before: then no record stays.
    pub async fn register(&self, question: &Question<'_>) -> Result<(), PasswordError> {
        let Question {
            datastore,
            node,
            password,
            now,
            ..
        } = *question;
        let value = self.record(question).await?;
        let key = key(node);
        let revision = match datastore.create(&key, &value).await {
            Ok(revision) => revision,
            Err(DatastoreError::Conflict { .. }) => {
                let other = datastore.get(&key).await.map_err(|_| away())?;
                let gone = || Refusal::Internal("the node's record came and went".to_owned());
                return self.hold(question, &other.ok_or_else(gone)?).await;
            }
            Err(_) => return Err(away().into()),
        };
        // Whoever forgets the node writes that first, and removes its record then: one of the two
        // sees what the other wrote.
        if question.certificate.is_some()
            && let Err(refused) = self.forgotten_at(question).await
        {
            // Whoever forgets it may be faster.
            let _ = datastore.delete(&key, revision).await;
            return Err(refused);
        }
        self.remember(node, revision, password, now);
        Ok(())
    }

    /// A new node's record.
    async fn record(&self, question: &Question<'_>) -> Result<Vec<u8>, Refusal> {
        let internal = |text: &str| Refusal::Internal(text.to_owned());
        let is_random = is_random(question.password);
        let mut salt = vec![0; if is_random { 16 } else { 8 }];
        let filled = question.entropy.fill(&mut salt);
        filled.map_err(|_| internal("no random bytes"))?;
        let secret = question.password.clone();
        let made = match is_random {
            true => Verifier::make(&secret, salt),
            false => self.slowly(move || Verifier::make(&secret, salt)).await?,
        };
        let verifier = made.ok_or_else(|| internal("the node password cannot be hashed"))?;
        let record = NodeRecord {
            version: 1,
            hash: verifier.text(),
            created: question.now.as_secs(),
        };
        serde_json::to_vec(&record).map_err(|_| internal("no JSON"))
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
        let (node, lookups) = (node.to_owned(), self.lookups.clone());
        tokio::spawn(async move {
            let _place = place;
            let found = lookups.look_ahead(&datastore, key(&node)).await;
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
            if known.len() >= MOST && !known.contains_key(node) {
                known.retain(|_, it| (0..FRESH).contains(&now.since(it.looked)));
                if known.len() >= MOST {
                    known.clear();
                }
            }
            known.insert(node.to_owned(), found);
        }
    }
}

/// The record of a node.
fn key(node: &str) -> String {
    format!("{PREFIX}{node}")
}

/// The client is told that, not what; the log says the rest.
fn away() -> Refusal {
    Refusal::Unavailable("the datastore cannot be asked for the node's password".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_is_remembered_has_an_end() {
        let at = pki::UnixTime::from_secs;
        let passwords = NodePasswords::new(&[7; 32]);
        for number in 0..MOST {
            passwords.remember(&number.to_string(), 5, "right", at(100));
        }
        passwords.remember("0", 6, "right", at(200));
        assert_eq!(passwords.known.lock().unwrap().len(), MOST);
        passwords.remember("a", 5, "right", at(200));
        assert_eq!(passwords.known.lock().unwrap().len(), 2);
    }
}
