//! Guesses of made tokens: each is reckoned with before the datastore is asked for it, so that whoever
//! guesses costs the datastore no more than the throttle lets through, however many ask at once.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Mutex;

use kubepki::token::made::Entry;
use pki::Digest;

use crate::access::Identity;
use crate::service::{Loaded, Request, Service};
use crate::status::Refusal;
use crate::throttle::Proof;

/// Tokens that are remembered as right.
const MOST: usize = 1024;

/// Tokens with an id that were right once, by the SHA-256 of the header that carried them: a site
/// behind one address that joins with one token guesses nothing. Whether they still are is asked
/// each time. Passwords that a person chose are none of them: who guesses those must wait whether
/// he is right or not.
#[derive(Debug, Default)]
pub struct Proven(Mutex<HashSet<Digest>>);

impl Proven {
    fn has(&self, header: &Digest) -> bool {
        self.0.lock().is_ok_and(|all| all.contains(header))
    }

    fn add(&self, header: Digest) {
        if let Ok(mut all) = self.0.lock() {
            if all.len() >= MOST {
                all.clear();
            }
            all.insert(header);
        }
    }

    fn remove(&self, header: &Digest) {
        if let Ok(mut all) = self.0.lock() {
            all.remove(header);
        }
    }
}

impl Service {
    /// Whether the caller shows a token with an id that was right before, from anywhere. It is
    /// asked for again, and whoever guesses beside it does not keep it waiting: there are 82 random
    /// bits in the shortest.
    pub(crate) fn has_proven(&self, request: &Request<'_>) -> bool {
        let header = request.authorization.map(pki::sha256);
        header.is_some_and(|it| self.proven.has(&it))
    }

    /// Who the caller is by a made token; whatever else it showed was wrong.
    ///
    /// # Errors
    ///
    /// As [`Self::by_token`], and 429 where too many were wrong before, or are being asked for,
    /// and this is none that [was right](Self::has_proven).
    pub(crate) async fn by_guess(
        &self,
        request: &Request<'_>,
        loaded: &Loaded,
        proof: Proof,
        is_proven: bool,
    ) -> Result<(Identity, Option<Entry>), Refusal> {
        let header = request.authorization.map(pki::sha256);
        let mut look = match is_proven {
            true => None,
            false => Some(Look::of(self, request.peer, proof).ok_or(Refusal::TooMany)?),
        };
        let found = self.by_token(request, loaded).await;
        match (&found, header) {
            (Err(Refusal::NotAuthorized), header) if is_proven => {
                self.was_wrong_by(request.peer, proof);
                header.inspect(|it| self.proven.remove(it));
            }
            (Err(Refusal::NotAuthorized), _) => {}
            (_, header) => {
                // It was no guess, or nobody knows.
                if let Some(look) = &mut look {
                    look.was_wrong = false;
                }
                if let (Ok(_), Some(header)) = (&found, header) {
                    self.proven.add(header);
                }
            }
        }
        found
    }
}

/// A token that is being looked up. Whoever hangs up before the answer counts as wrong: the
/// datastore was asked.
struct Look<'a> {
    service: &'a Service,
    peer: SocketAddr,
    proof: Proof,
    was_wrong: bool,
}

impl<'a> Look<'a> {
    /// `None` where too many were wrong before, or are being looked up.
    fn of(service: &'a Service, peer: SocketAddr, proof: Proof) -> Option<Self> {
        service.may_look(peer, proof).then_some(Self {
            service,
            peer,
            proof,
            was_wrong: true,
        })
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        let Self { peer, proof, .. } = *self;
        self.service.has_looked(peer, proof, self.was_wrong);
    }
}
