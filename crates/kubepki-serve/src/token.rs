//! Callers with a token that has a record in the datastore: one that `kubepki token create` made
//! ([`kubepki::token::made`]), or a bootstrap token of Kubernetes, whose record is a Secret
//! ([`kubepki::token::kubernetes`]).
//!
//! The datastore is asked for every request with such a token, so that what any server, `kubepki
//! token revoke` or the Kubernetes API wrote is in force with the next one.

use kubepki::datastore::DatastoreError;
use kubepki::error_chain;
use kubepki::token::kubernetes;
use kubepki::token::made::{self, Denied, Entry, MadeError, Role, SHORT, Secret};

use crate::access::{BOOTSTRAPPERS, DEFAULT_NODE_TOKEN, Identity, SERVER, basic};
use crate::issuance::Credential;
use crate::quiet::with_unsaid;
use crate::service::{Line, Loaded, Request, Service};
use crate::status::Refusal;

/// The user that K3s's agents log in as.
const AGENT_USER: &str = "node";
/// The user that servers log in as.
const SERVER_USER: &str = "server";

/// A token with an id that a caller shows. It proves nothing yet.
#[derive(Debug)]
pub struct Claim {
    secret: Secret,
    /// The user beside it, where it stands in the place of a password.
    user: Option<String>,
}

impl Claim {
    /// Reads an `Authorization` header: `Bearer <id>.<secret>`, as kubeadm's and K3s's bootstrap
    /// tokens come (reference section 5.4), or Basic with `<id>.<secret>` as the password. `None`
    /// for everything else.
    pub fn read(header: &[u8]) -> Option<Self> {
        if let Some((user, password)) = basic(header) {
            let secret = Secret::parse(&password)?;
            let user = Some(user);
            return Some(Self { secret, user });
        }
        let (scheme, value) = header.split_at_checked(7)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return None;
        }
        let secret = Secret::parse(std::str::from_utf8(value).ok()?.trim_ascii())?;
        Some(Self { secret, user: None })
    }

    /// Whether it is shown as bootstrap tokens of Kubernetes are, and has their shape.
    fn is_bootstrap(&self) -> bool {
        self.user.is_none() && self.secret.expose().len() == SHORT
    }

    /// Whether it may be shown in that way: a password's user is the role's.
    fn fits(&self, role: Role) -> bool {
        let own = match role {
            Role::Agent => AGENT_USER,
            Role::Server => SERVER_USER,
        };
        self.user.as_deref().is_none_or(|user| user == own)
    }
}

/// Who holds that token: K3s's user and group of bootstrap tokens (reference section 5.5), and for
/// servers theirs.
fn identity(entry: &Entry) -> Identity {
    let (user, groups) = match entry.made.role {
        Role::Agent => ("system:bootstrap", &[BOOTSTRAPPERS, DEFAULT_NODE_TOKEN][..]),
        Role::Server => ("kubepki:server-token", &[SERVER][..]),
    };
    Identity {
        user: format!("{user}:{}", entry.id),
        groups: groups.iter().map(|&group| group.to_owned()).collect(),
        credential: Credential::BootstrapToken,
    }
}

impl Service {
    /// Who the caller is by a token with an id, and the record of a made one.
    ///
    /// # Errors
    ///
    /// K3s's 401 for what proves nothing, whatever the reason: the log says it. 503 while the
    /// datastore cannot be asked.
    pub(crate) async fn by_token(
        &self,
        request: &Request<'_>,
        loaded: &Loaded,
    ) -> Result<(Identity, Option<Entry>), Refusal> {
        let claim = request.authorization.and_then(Claim::read);
        let claim = claim.ok_or(Refusal::NotAuthorized)?;
        let id = claim.secret.id();
        let found = made::find(self.datastore.as_ref(), id).await;
        let found = found.map_err(|error| self.unusable(request, id, &error))?;
        // The id says which record it is; only the secret says anything of the caller.
        let refused = |why: &str| {
            self.say_unfit(request, "a token was refused", id, why.to_owned());
            Refusal::NotAuthorized
        };
        let entry = match found {
            Some(entry) if entry.made.is_of(&claim.secret) => entry,
            found => {
                if let Some(identity) = self.by_secret(request, loaded, &claim).await? {
                    return Ok((identity, None));
                }
                return Err(refused(match found {
                    Some(_) => "its secret is wrong",
                    None => "no token has that id",
                }));
            }
        };
        if let Err(end) = entry.made.admits(self.clock.now()) {
            return Err(refused(&format!("it {end}")));
        }
        if !claim.fits(entry.made.role) {
            return Err(refused("it came with the user of another role"));
        }
        Ok((identity(&entry), Some(entry)))
    }

    /// Who the caller is by a bootstrap token of Kubernetes; `None` where there is none of that id.
    /// Its groups are for agents' endpoints only (reference section 5.5).
    async fn by_secret(
        &self,
        request: &Request<'_>,
        loaded: &Loaded,
        claim: &Claim,
    ) -> Result<Option<Identity>, Refusal> {
        if !claim.is_bootstrap() {
            return Ok(None);
        }
        let id = claim.secret.id();
        let encryption = &loaded.tree.encryption;
        let found = kubernetes::find(self.datastore.as_ref(), encryption, id).await;
        let found = found.map_err(|error| self.away(request, id, &error))?;
        let Some(found) = found else {
            return Ok(None);
        };
        let refused = |message: &str, why: String| {
            self.say_unfit(request, message, id, why);
            Refusal::NotAuthorized
        };
        let token = found.token.map_err(|error| {
            self.metrics.ignored_secret();
            let why = format!("Secret kube-system/bootstrap-token-{id}: {error}");
            refused("a bootstrap token's Secret was ignored", why)
        })?;
        let groups = token.admits(&claim.secret, self.clock.now());
        let groups = groups.map_err(|unfit| {
            let why = format!("Kubernetes' bootstrap token {unfit}");
            refused("a token was refused", why)
        })?;
        Ok(Some(Identity {
            user: format!("system:bootstrap:{id}"),
            groups,
            credential: Credential::BootstrapToken,
        }))
    }

    /// The datastore cannot be asked.
    fn away(&self, request: &Request<'_>, id: &str, error: &DatastoreError) -> Refusal {
        let why = error_chain(error);
        self.say_unfit(request, "a token could not be checked", id, why);
        Refusal::Unavailable("the datastore cannot be asked for the token".to_owned())
    }

    /// Refuses a node that the token would not let in, before anything is written of it.
    pub(crate) fn token_permits(
        &self,
        request: &Request<'_>,
        entry: &Entry,
        node: &str,
    ) -> Result<(), Refusal> {
        let permitted = entry.made.permits(node, self.clock.now());
        let denied = |denied| self.denied(request, entry, node, &denied);
        permitted.map(drop).map_err(denied)
    }

    /// Spends a use of the token for that node, if it is the node's first time. Durable before
    /// anything is issued: a server that dies in between has cost the node nothing, for it is let
    /// in from then on.
    pub(crate) async fn spend(
        &self,
        request: &Request<'_>,
        entry: &Entry,
        node: &str,
    ) -> Result<(), Refusal> {
        let now = self.clock.now();
        let spent = made::spend(self.datastore.as_ref(), entry, node, now).await;
        let spent = spent.map_err(|error| self.unusable(request, &entry.id, &error))?;
        match spent {
            Ok(None) => Ok(()),
            Ok(Some(spent)) => {
                let of = spent.made.uses.unwrap_or_default();
                let used = spent.made.nodes.len();
                let what = format!("node {node}, use {used} of {of}");
                self.say_token(request, "a token let a node in", &entry.id, what);
                Ok(())
            }
            Err(denied) => Err(self.denied(request, entry, node, &denied)),
        }
    }

    fn denied(&self, request: &Request<'_>, entry: &Entry, node: &str, denied: &Denied) -> Refusal {
        let (why, refusal) = match denied {
            Denied::Ended(end) => {
                self.was_wrong(request.peer);
                (format!("it {end}"), Refusal::NotAuthorized)
            }
            Denied::OtherNode => (
                "it is for another node".to_owned(),
                Refusal::ForbiddenFor(format!("the token is for another node than {node}")),
            ),
        };
        let why = format!("{why}; node {node}");
        self.say_token(request, "a token was refused", &entry.id, why);
        refusal
    }

    /// The client is told that, not what; the log says the rest.
    fn unusable(&self, request: &Request<'_>, id: &str, error: &MadeError) -> Refusal {
        let why = error_chain(error);
        self.say_unfit(request, "a token could not be checked", id, why);
        match error {
            MadeError::Malformed { .. } => {
                Refusal::Internal("the token's record cannot be read".to_owned())
            }
            // Deleted since it was admitted.
            MadeError::Unknown { .. } => Refusal::NotAuthorized,
            MadeError::Datastore(_) | MadeError::Busy { .. } => {
                Refusal::Unavailable("the datastore cannot be asked for the token".to_owned())
            }
        }
    }

    /// The same of what a stranger shows: there may be any number.
    fn say_unfit(&self, request: &Request<'_>, message: &str, id: &str, why: String) {
        let Some(unsaid) = self.quiet.stranger(self.clock.steady()) else {
            return;
        };
        self.say_token(request, message, id, with_unsaid(why, unsaid));
    }

    fn say_token(&self, request: &Request<'_>, message: &str, id: &str, why: String) {
        (self.journal)(&Line {
            message,
            fields: vec![
                ("token", id.to_owned()),
                ("path", request.shown_path()),
                ("peer", request.peer.to_string()),
                ("reason", why),
            ],
        });
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "abc123.0123456789abcdef";

    fn basic_header(text: &str) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(text)).into_bytes()
    }

    #[test]
    fn tokens_come_as_bearers_and_as_passwords() {
        for (header, user) in [
            (format!("Bearer {GOOD}").into_bytes(), None),
            (format!("bearer {GOOD}").into_bytes(), None),
            (basic_header(&format!("node:{GOOD}")), Some("node")),
            (basic_header(&format!("server:{GOOD}")), Some("server")),
        ] {
            let claim = Claim::read(&header).unwrap();
            assert_eq!((claim.secret.id(), claim.user.as_deref()), ("abc123", user));
            assert!(!format!("{claim:?}").contains("0123456789abcdef"));
            assert_eq!(claim.fits(Role::Agent), user != Some("server"));
            assert_eq!(claim.fits(Role::Server), user != Some("node"));
        }
    }

    #[test]
    fn other_headers_are_none() {
        for header in [
            &b""[..],
            b"Bearer",
            b"Bearer ",
            b"Bearer \xff\xff",
            b"Token abc123.0123456789abcdef",
            b"Bearer abc123.0123456789abcdef x",
            b"Bearer K10::abc123.0123456789abcdef",
        ] {
            assert!(Claim::read(header).is_none(), "{header:?}");
        }
        assert!(Claim::read(&basic_header("node:password")).is_none());
        assert!(Claim::read(&basic_header(GOOD)).is_none());
    }

    proptest! {
        #[test]
        fn any_header_is_answered(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(Claim::read(&bytes).is_none());
        }
    }
}
