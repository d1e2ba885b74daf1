//! One request in, one answer out: every endpoint, without sockets.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, RwLock};

use kubepki::datastore::Datastore;
use kubepki::edge::{Clock, Entropy};
use kubepki::token::made::Entry;
use serde_json::json;
use zeroize::Zeroizing;

use crate::access::{Identity, Offered, Users, identify, may};
use crate::cluster::Cluster;
use crate::config::{Settings, config};
use crate::guess::Proven;
use crate::health::Health;
use crate::issuance::{Credential, IssuanceLog, OwnRecords};
use crate::metrics::Metrics;
use crate::names::Names;
use crate::node::{NodeHeaders, Strictness};
use crate::password::NodePasswords;
use crate::quiet::{Quiet, with_unsaid};
use crate::reserved::Reserved;
use crate::route::Endpoint;
use crate::status::{Answer, PLAIN, Refusal, TEXT};
use crate::throttle::{Proof, Throttle};
use crate::tree::{AuthorityFile, Tree};

/// Characters of a path that go into the log.
const LONGEST_PATH: usize = 200;

/// A request, as far as any endpoint looks at it.
pub struct Request<'a> {
    /// Where the connection came from.
    pub peer: SocketAddr,
    /// `GET`, `POST`, in upper case.
    pub method: &'a str,
    /// The path without its query.
    pub path: &'a str,
    /// The query, without its question mark.
    pub query: Option<&'a str>,
    /// Whether Go would take the body for a form.
    pub is_form: bool,
    /// `Authorization`.
    pub authorization: Option<&'a [u8]>,
    /// The client certificate of the connection, leaf first.
    pub certificates: &'a [Vec<u8>],
    /// What it says of its node.
    pub node: NodeHeaders,
    /// The body.
    pub body: Zeroizing<Vec<u8>>,
}

impl Request<'_> {
    /// As much of the path as goes into the log: anybody may ask for anything.
    pub(crate) fn shown_path(&self) -> String {
        self.path.chars().take(LONGEST_PATH).collect()
    }
}

/// Everything that a server needs to answer.
pub struct Service {
    /// Names, addresses, networks.
    pub settings: Settings,
    /// Ours or K3s's rules.
    pub strictness: Strictness,
    /// A leaf's lifetime in seconds.
    pub leaf_lifetime: i64,
    /// Seconds before its end from which the listener's certificate is renewed.
    pub leaf_window: i64,
    /// CAs and secrets, replaced as a whole.
    pub tree: RwLock<Arc<Loaded>>,
    /// Who has guessed too often.
    pub throttle: Mutex<Throttle>,
    /// Node passwords.
    pub passwords: NodePasswords,
    /// Where records of nodes lie.
    pub datastore: Arc<dyn Datastore>,
    /// What is written before a certificate leaves.
    pub log: Arc<dyn IssuanceLog>,
    /// What is written before the server uses a leaf of its own.
    pub own: Arc<dyn OwnRecords>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Serial numbers, salts, error IDs.
    pub entropy: Arc<dyn Entropy>,
    /// Where the server says what it did.
    pub journal: Arc<dyn Fn(&Line<'_>) + Send + Sync>,
    /// What is counted.
    pub metrics: Metrics,
    /// What is in order and what is not.
    pub health: Health,
    /// The other servers, and whether other CAs are being taken up.
    pub cluster: Arc<Cluster>,
    /// What the listener is known by.
    pub names: Names,
    /// Made tokens that were right.
    pub proven: Proven,
    /// What strangers had said of them.
    pub quiet: Quiet,
}

/// The tree and what follows from it.
#[derive(Debug)]
pub struct Loaded {
    /// The files.
    pub tree: Tree,
    /// Who may log in.
    pub users: Users,
    /// What no other node may have.
    pub reserved: Reserved,
}

impl Loaded {
    /// Users and reserved names from the tree. `key` is random and lives as long as the process.
    pub fn new(tree: Tree, settings: &Settings, key: &[u8; 32]) -> Self {
        Self {
            users: Users::new(&tree.passwd, key),
            reserved: Reserved::new(&settings.node_name, &settings.sans),
            tree,
        }
    }
}

/// A request that may be answered.
#[derive(Debug)]
pub struct Admitted {
    endpoint: Endpoint,
    /// `None` where anybody may.
    caller: Option<Caller>,
}

/// Who asks, by what was in force then.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) identity: Identity,
    /// The made token that proved it.
    pub(crate) token: Option<Entry>,
    /// CAs and users under which it was proved: under others it has to be proved anew.
    pub(crate) loaded: Arc<Loaded>,
}

impl Caller {
    /// Whether it is the same one, and proved it by the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let id = |of: &Self| of.token.as_ref().map(|it| it.id.clone());
        self.identity == other.identity && id(self) == id(other)
    }
}

/// One line for the log. It holds no secrets.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    /// What happened, in a few words.
    pub message: &'a str,
    /// The rest, in order.
    pub fields: Vec<(&'a str, String)>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({})", self.settings.node_name)
    }
}

impl Service {
    /// Answers a request that was [admitted](Self::admit), or was not. Never fails: refusals are
    /// answers too.
    pub async fn answer(
        &self,
        request: &Request<'_>,
        admitted: Result<Admitted, Refusal>,
    ) -> Answer {
        let is_known = matches!(&admitted, Ok(admitted) if admitted.caller.is_some());
        let answer = match admitted {
            Ok(admitted) => self.route(request, admitted).await,
            Err(refusal) => Err(refusal),
        };
        let answer = answer.unwrap_or_else(|refusal| {
            self.say_refusal(request, &refusal, is_known);
            refusal.answer()
        });
        self.metrics.answered(request.path, answer.code);
        answer
    }

    /// Who asks for what, and whether it may: known before the body is read, so that strangers
    /// cannot have megabytes read.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub async fn admit(&self, request: &Request<'_>) -> Result<Admitted, Refusal> {
        let endpoint = Endpoint::of(request.path);
        if let Some(endpoint) = endpoint
            && endpoint.groups().is_empty()
        {
            let caller = None;
            return Ok(Admitted { endpoint, caller });
        }
        let loaded = self.loaded()?;
        let shown = self.identified(request, &loaded).await;
        let Some(endpoint) = endpoint else {
            // K3s hands everything else to kube-apiserver, which knows no passwords.
            return Err(match shown {
                Ok((it, _)) if it.credential == Credential::Certificate => Refusal::NoApiServer,
                Err(Refusal::TooMany) => Refusal::TooMany,
                _ => Refusal::Unauthorized,
            });
        };
        let (identity, token) = shown?;
        may(&identity, endpoint)?;
        let caller = Some(Caller {
            identity,
            token,
            loaded,
        });
        Ok(Admitted { endpoint, caller })
    }

    /// Who asks. What nobody can have guessed is let through whoever guesses beside it, behind the
    /// same address too; of all else nothing is told to who was wrong too often, not even whether
    /// it is right.
    async fn identified(
        &self,
        request: &Request<'_>,
        loaded: &Loaded,
    ) -> Result<(Identity, Option<Entry>), Refusal> {
        let offered = Offered {
            authorization: request.authorization,
            certificates: request.certificates,
        };
        let proof = match (offered.authorization, offered.certificates) {
            (Some(_), _) => Proof::Secret,
            (None, []) => return Err(Refusal::Forbidden),
            (None, _) => Proof::Certificate,
        };
        let authorities = &loaded.tree.client.certificates;
        let known = match identify(&offered, &loaded.users, authorities, self.clock.now()) {
            Ok(known) if known.is_beyond_guessing => return Ok((known.identity, None)),
            known => known,
        };
        let is_proven = self.has_proven(request);
        if !is_proven && !self.may_try(request.peer, proof) {
            return Err(Refusal::TooMany);
        }
        match known {
            Ok(known) => Ok((known.identity, None)),
            Err(Refusal::NotAuthorized) => self.by_guess(request, loaded, proof, is_proven).await,
            Err(refusal) => Err(refusal),
        }
    }

    /// The same caller by what is in force now: whoever was admitted by a CA or password that was
    /// replaced since has to prove again who he is.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub(crate) async fn anew(&self, request: &Request<'_>) -> Result<Caller, Refusal> {
        self.admit(request).await?.caller.ok_or(Refusal::Forbidden)
    }

    async fn route(&self, request: &Request<'_>, admitted: Admitted) -> Result<Answer, Refusal> {
        let Admitted { endpoint, caller } = admitted;
        let loaded = self.loaded()?;
        let caller = match caller {
            // The body may have taken its time.
            Some(caller) if !Arc::ptr_eq(&caller.loaded, &loaded) => {
                Some(self.anew(request).await?)
            }
            caller => caller,
        };
        let tree = &loaded.tree;
        match (endpoint, caller) {
            (Endpoint::CaCerts, _) => Ok(Answer::ok(PLAIN, tree.server.bytes.clone())),
            (Endpoint::Ping, _) => Ok(Answer::ok(TEXT, "pong")),
            (Endpoint::Healthz, _) => Ok(Answer::ok(TEXT, "ok")),
            (Endpoint::Readyz, _) => match self.health.why_not() {
                Some(_) => Err(Refusal::Unavailable(self.health.to_string())),
                None => Ok(Answer::ok(TEXT, self.health.to_string())),
            },
            (Endpoint::ReadyzOpen, _) => match self.health.why_not() {
                Some(_) => Err(Refusal::Unavailable(self.health.names())),
                None => Ok(Answer::ok(TEXT, self.health.names())),
            },
            (Endpoint::Metrics, _) => self.metrics.render(self.clock.now()),
            (Endpoint::ClientCa, _) => file(request, &tree.client),
            (Endpoint::ServerCa, _) => file(request, &tree.server),
            (Endpoint::Config, _) => Ok(Answer::json(&config(&self.settings, tree))),
            (Endpoint::ApiServers, _) => {
                let own = SocketAddr::new(self.settings.advertise_ip, self.settings.port);
                let others = self.cluster.addresses();
                let all = std::iter::once(own).chain(others);
                let all: Vec<String> = all.map(|it| it.to_string()).collect();
                Ok(Answer::json(&json!(all)))
            }
            (Endpoint::ServerBootstrap, _) => Err(Refusal::Bad("etcd disabled".to_owned())),
            (Endpoint::PutCaCerts, Some(caller)) => self.put_authorities(request, caller).await,
            (Endpoint::PutToken, Some(caller)) => self.put_token(request, caller).await,
            (Endpoint::Connect, Some(_)) => match request.method {
                "GET" => Ok(Answer::going_on()),
                _ => Err(Refusal::Method(request.path.to_owned())),
            },
            (Endpoint::Leaf(kind), Some(caller)) => self.leaf(request, kind, caller).await,
            (_, None) => Err(Refusal::Forbidden),
        }
    }

    pub(crate) fn may_try(&self, peer: SocketAddr, proof: Proof) -> bool {
        let throttle = self.throttle.lock();
        throttle.is_ok_and(|it| it.allows(peer.ip(), proof, self.clock.steady()))
    }

    pub(crate) fn was_wrong(&self, peer: SocketAddr) {
        self.was_wrong_by(peer, Proof::Secret);
    }

    /// Whether a proof that may turn out to be wrong is looked up now; then [`Self::has_looked`]
    /// must follow.
    pub(crate) fn may_look(&self, peer: SocketAddr, proof: Proof) -> bool {
        let (peer, now) = (peer.ip(), self.clock.steady());
        let throttle = self.throttle.lock();
        throttle.is_ok_and(|mut it| it.begins(peer, proof, now))
    }

    /// It was looked up, and was wrong or not.
    pub(crate) fn has_looked(&self, peer: SocketAddr, proof: Proof, was_wrong: bool) {
        if let Ok(mut throttle) = self.throttle.lock() {
            if was_wrong {
                throttle.failed(peer.ip(), proof, self.clock.steady());
            }
            throttle.ended(peer.ip(), proof);
        }
    }

    pub(crate) fn was_wrong_by(&self, peer: SocketAddr, proof: Proof) {
        if let Ok(mut throttle) = self.throttle.lock() {
            throttle.failed(peer.ip(), proof, self.clock.steady());
        }
    }

    pub(crate) fn internal(&self, request: &Request<'_>, error: &dyn std::error::Error) -> Refusal {
        self.with_id(request, "certificate", &kubepki::error_chain(error))
    }

    /// As K3s hides details: the client gets a number, the log the reason under it.
    pub(crate) fn with_id(&self, request: &Request<'_>, component: &str, why: &str) -> Refusal {
        let mut bytes = [0; 4];
        // Without random bytes the number is 00000: it only helps to find the line.
        let _ = self.entropy.fill(&mut bytes);
        let id = format!(
            "{component} error ID {:05}",
            u32::from_be_bytes(bytes) % 100_000
        );
        self.say(&id, request, why.to_owned());
        Refusal::Internal(id)
    }

    /// The tree in force.
    ///
    /// # Errors
    ///
    /// 500 after a panic elsewhere.
    pub fn loaded(&self) -> Result<Arc<Loaded>, Refusal> {
        let guard = self.tree.read();
        let guard = guard.map_err(|_| Refusal::Internal("the server must restart".to_owned()))?;
        Ok(Arc::clone(&guard))
    }

    pub(crate) fn say(&self, message: &str, request: &Request<'_>, why: String) {
        (self.journal)(&Line {
            message,
            fields: vec![
                ("path", request.shown_path()),
                ("peer", request.peer.to_string()),
                ("reason", why),
            ],
        });
    }

    /// Every one is counted. Those of strangers, of whom there may be any number, and of agents
    /// that ask every second for what only kube-apiserver has, are not all said.
    fn say_refusal(&self, request: &Request<'_>, refusal: &Refusal, is_known: bool) {
        self.metrics.refused(refusal.code());
        let now = self.clock.steady();
        let unsaid = match (refusal, request.certificates.first()) {
            (Refusal::NoApiServer, Some(leaf)) => self.quiet.caller(pki::sha256(leaf), now),
            _ if is_known => Some(0),
            _ => self.quiet.stranger(now),
        };
        let Some(unsaid) = unsaid else {
            return;
        };
        let why = format!("{}: {}", refusal.code(), refusal.message());
        self.say("refused", request, with_unsaid(why, unsaid));
    }
}

/// A CA's file, for reading only.
fn file(request: &Request<'_>, authority: &AuthorityFile) -> Result<Answer, Refusal> {
    match request.method {
        "GET" | "HEAD" => Ok(Answer {
            modified: Some(authority.modified),
            ..Answer::ok(PLAIN, authority.bytes.clone())
        }),
        _ => Err(Refusal::Method(request.path.to_owned())),
    }
}
