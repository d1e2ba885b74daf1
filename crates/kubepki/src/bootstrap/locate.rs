//! Which of the datastore's bootstrap keys is the cluster's, and which token opens it (K3s
//! `pkg/cluster/storage.go`; reference sections 4.4, 4.5, 4.7).

use std::fmt::Write as _;

use super::seal::{KEY_PREFIX, is_lock, open};
use super::{Bundle, BundleError, Passphrase, SealError};
use crate::datastore::Record;
use crate::token::{Token, TokenError};

/// A passphrase that may open the data, and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// It opens what lies under the key that it names.
    pub passphrase: Passphrase,
    /// The server token's password; differs from [`Self::passphrase`] for the two former ways of
    /// naming the key, from which K3s moves the data to the one of the password.
    pub owner: Passphrase,
    /// Where the token was found: `--token-file /root/token`, `/etc/rancher/k3s/config.yaml:3`.
    pub origin: String,
    /// Whether the operator named it for this very purpose.
    pub named: bool,
}

/// Every passphrase that may open the data, the likeliest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates(Vec<Candidate>);

impl Candidates {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// A server token as a flag or file gives it: its password, and what K3s of old made of it:
    /// the whole text, and nothing at all (reference section 4.7).
    ///
    /// # Errors
    ///
    /// A text that is no server token.
    pub fn add_token(&mut self, text: &str, origin: &str) -> Result<(), TokenError> {
        let text = text.trim();
        let token = Token::parse(text)?;
        let owner = Passphrase::new(token.password()?.clone());
        let whole = Passphrase::new(text.to_owned());
        self.add(owner.clone(), owner.clone(), origin);
        self.add(whole, owner.clone(), origin);
        self.add(Passphrase::new(String::new()), owner, origin);
        Ok(())
    }

    /// A password alone, as `cred/passwd` holds it.
    pub fn add_password(&mut self, passphrase: Passphrase, origin: &str) {
        self.add(passphrase.clone(), passphrase, origin);
    }

    fn add(&mut self, passphrase: Passphrase, owner: Passphrase, origin: &str) {
        if self.0.iter().any(|known| known.passphrase == passphrase) {
            return;
        }
        let origin = origin.to_owned();
        self.0.push(Candidate {
            passphrase,
            owner,
            origin,
            named: false,
        });
    }

    /// A server token that the operator named: see [`Self::add_token`] and [`Self::passed_over`].
    ///
    /// # Errors
    ///
    /// A text that is no server token.
    pub fn add_named_token(&mut self, text: &str, origin: &str) -> Result<(), TokenError> {
        let first = self.0.len();
        self.add_token(text, origin)?;
        let added = self.0.iter_mut().skip(first);
        added.for_each(|candidate| candidate.named = true);
        Ok(())
    }

    /// Where the tokens came from that the operator named, if none of them is the one from
    /// `origin`, which opened the data.
    pub fn passed_over(&self, origin: &str) -> Vec<&str> {
        let named = self
            .0
            .iter()
            .filter(|it| it.named && it.passphrase == it.owner);
        let origins: Vec<&str> = named.map(|it| it.origin.as_str()).collect();
        match origins.contains(&origin) {
            true => Vec::new(),
            false => origins,
        }
    }

    /// Each, the likeliest first.
    pub fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one that names `key`.
    pub fn of_key(&self, key: &str) -> Option<&Candidate> {
        // A token's own key comes before what another token's former key would be called.
        let named = |it: &&Candidate| it.passphrase.key_name() == key;
        let own = self.0.iter().filter(|it| it.passphrase == it.owner);
        own.clone()
            .find(named)
            .or_else(|| self.0.iter().find(named))
    }

    /// The passphrase of the first token: the key that a new cluster's data get.
    pub fn first(&self) -> Option<&Candidate> {
        self.0.first()
    }
}

/// The cluster's bootstrap data, opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The key that holds them, at its revision.
    pub record: Record,
    /// What opened it.
    pub passphrase: Passphrase,
    /// The server token's password, under whose key the next write puts them.
    pub owner: Passphrase,
    /// Where the token was found.
    pub origin: String,
    /// The data.
    pub bundle: Bundle,
    /// Keys that K3s would delete the next time that it looks (reference section 4.7), and a
    /// write of ours with them.
    pub superseded: Vec<Record>,
    /// What the operator should know of them, a sentence each.
    pub notes: Vec<String>,
}

impl Opened {
    /// The key that the next write leaves them under.
    pub fn key(&self) -> String {
        self.owner.key_name()
    }

    /// Whether they lie under a former name and move with the next write.
    pub fn moves(&self) -> bool {
        self.record.key != self.key()
    }
}

/// A bootstrap key that is there, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub key: String,
    /// Where the token that names it was found; `None` for an unknown token's.
    pub origin: Option<String>,
    /// Whether it is K3s's lock.
    pub is_lock: bool,
}

/// Why the bootstrap data cannot be opened. Messages name tokens by place and key, never by value.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// The datastore holds none.
    #[error(
        "no bootstrap data found: the datastore has no key that begins with {KEY_PREFIX}; a \
         cluster that never started, or another datastore than the cluster's"
    )]
    NoData,
    /// No token is known.
    #[error(
        "the bootstrap data under {key} are encrypted with the server token, and none was found: \
         name a file that holds it with --token-file"
    )]
    NoToken {
        /// The key.
        key: String,
    },
    /// Encrypted with a token that is not at hand.
    #[error(
        "the bootstrap data are encrypted with a different token: they lie under {key}, and the \
         tokens at hand lead elsewhere:{}\nName a file that holds the cluster's present server \
         token with --token-file",
        tried(tokens)
    )]
    OtherToken {
        /// The key that is there.
        key: String,
        /// Where each token was found, and the key that it names.
        tokens: Vec<(String, String)>,
    },
    /// More than one key; K3s then refuses to save (`found multiple bootstrap keys in storage`).
    #[error(
        "found multiple bootstrap keys in storage:{}\nExactly one may be there. Delete those that \
         are not the cluster's (their names are the hashes of their tokens) and try again",
        keys(found)
    )]
    Several {
        /// Each.
        found: Vec<Found>,
    },
    /// A server is making the data, or died on the way.
    #[error(
        "{key} is locked (its value is empty): a K3s server is making the cluster's CAs right \
         now, or died while doing so. Wait until it is up; if none is at work, start one: it takes \
         the lock over after 25 s"
    )]
    Locked {
        /// The key.
        key: String,
    },
    /// It bears our token's name and does not open.
    #[error("{key} is named after the token from {origin} and cannot be opened with it")]
    Sealed {
        /// The key.
        key: String,
        /// Where the token was found.
        origin: String,
        /// What is wrong.
        #[source]
        source: SealError,
    },
    /// What was encrypted is not bootstrap data.
    #[error("{key} was opened with the token from {origin}, and cannot be read")]
    Bundle {
        /// The key.
        key: String,
        /// Where the token was found.
        origin: String,
        /// What is wrong.
        #[source]
        source: BundleError,
    },
}

fn tried(tokens: &[(String, String)]) -> String {
    tokens.iter().fold(String::new(), |mut text, (from, key)| {
        let _ = write!(text, "\n  the token from {from}: {key}");
        text
    })
}

fn keys(found: &[Found]) -> String {
    found.iter().fold(String::new(), |mut text, it| {
        let what = if it.is_lock { " (a lock)" } else { "" };
        let whose = match &it.origin {
            Some(origin) => format!("opens with the token from {origin}"),
            None => "of an unknown token".to_owned(),
        };
        let _ = write!(text, "\n  {}{what}: {whose}", it.key);
        text
    })
}

/// Finds and opens the cluster's data among the datastore's bootstrap keys.
///
/// `records` is everything under [`KEY_PREFIX`]. Data under one of K3s's former key names are
/// opened too; [`Opened::moves`] then says so.
///
/// # Errors
///
/// [`LocateError`], K3s's own cases.
pub fn locate(records: &[Record], candidates: &Candidates) -> Result<Opened, LocateError> {
    let live: Vec<&Record> = records
        .iter()
        .filter(|record| record.key.starts_with(KEY_PREFIX))
        .collect();
    let known = |record: &Record| candidates.of_key(&record.key);
    let own = |record: &Record| known(record).filter(|it| it.passphrase == it.owner);
    match live.as_slice() {
        [] => Err(LocateError::NoData),
        [only] => match known(only) {
            Some(candidate) => unseal(only, candidate, &[]),
            None => Err(stranger(only, candidates)),
        },
        several => {
            let mut ours = several.iter().filter_map(|it| Some((*it, own(it)?)));
            let (first, second) = (ours.next(), ours.next());
            if let (Some((record, candidate)), None) = (first, second) {
                let others: Vec<Record> = several
                    .iter()
                    .filter(|it| it.key != record.key)
                    .map(|it| (*it).clone())
                    .collect();
                let former = |it: &Record| {
                    known(it).is_some_and(|of| of.owner == candidate.owner) && own(it).is_none()
                };
                if others.iter().all(former) {
                    return unseal(record, candidate, &others);
                }
            }
            let found = several.iter().map(|record| Found {
                key: record.key.clone(),
                origin: known(record).map(|it| it.origin.clone()),
                is_lock: is_lock(&record.value),
            });
            Err(LocateError::Several {
                found: found.collect(),
            })
        }
    }
}

/// One key, which no token at hand names.
fn stranger(record: &Record, candidates: &Candidates) -> LocateError {
    let key = record.key.clone();
    if is_lock(&record.value) {
        return LocateError::Locked { key };
    }
    if candidates.is_empty() {
        return LocateError::NoToken { key };
    }
    let tokens = candidates
        .iter()
        .filter(|it| it.passphrase == it.owner)
        .map(|it| (it.origin.clone(), it.passphrase.key_name()))
        .collect();
    LocateError::OtherToken { key, tokens }
}

fn unseal(
    record: &Record,
    candidate: &Candidate,
    superseded: &[Record],
) -> Result<Opened, LocateError> {
    let (key, origin) = (record.key.clone(), candidate.origin.clone());
    if is_lock(&record.value) {
        return Err(LocateError::Locked { key });
    }
    let json = match open(&record.value, &candidate.passphrase) {
        Ok(json) => json,
        Err(source) => {
            return Err(LocateError::Sealed {
                key,
                origin,
                source,
            });
        }
    };
    let bundle = match Bundle::parse(&json) {
        Ok(bundle) => bundle,
        Err(source) => {
            return Err(LocateError::Bundle {
                key,
                origin,
                source,
            });
        }
    };
    let mut opened = Opened {
        record: record.clone(),
        passphrase: candidate.passphrase.clone(),
        owner: candidate.owner.clone(),
        origin,
        bundle,
        superseded: superseded.to_vec(),
        notes: Vec::new(),
    };
    opened.notes = notes(&opened);
    Ok(opened)
}

fn notes(opened: &Opened) -> Vec<String> {
    let mut notes = Vec::new();
    let own = opened.key();
    if opened.moves() {
        let former = match opened.passphrase.expose().is_empty() {
            true => "the empty token",
            false => "the whole text of the token",
        };
        notes.push(format!(
            "the data lie under {}, which K3s of old named after {former}; K3s's next start, or \
             the next write, moves them to {own}",
            opened.record.key
        ));
    }
    for other in &opened.superseded {
        notes.push(format!(
            "{} is a former key of the same token; K3s's next start, or the next write, deletes it",
            other.key
        ));
    }
    if opened.bundle.legacy {
        notes.push(
            "the data are in the form of K3s 1.21 and older, without times: to a newer K3s every \
             file on disk that differs counts as newer"
                .to_owned(),
        );
    }
    for name in opened.bundle.others.keys() {
        notes.push(format!("{name} is an entry that no known K3s writes; kept"));
    }
    notes
}
