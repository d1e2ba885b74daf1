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
use crate::node::{NodeHeaders, Reserved, Strictness};
use crate::password::NodePasswords;
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

/// Everything that a server needs to answer.
pub struct Service {
    /// Names, addresses, networks.
    pub settings: Settings,
    /// Ours or K3s's rules.
    pub strictness: Strictness,
    /// A leaf's lifetime in seconds.
    pub leaf_lifetime: i64,
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
            reserved: Reserved {
                server: settings.node_name.clone(),
                sans: settings.sans.iter().cloned().collect(),
            },
            tree,
        }
    }
}

/// A request that may be answered.
#[derive(Debug)]
pub struct Admitted {
    endpoint: Endpoint,
    /// `None` where anybody may.
    identity: Option<Identity>,
    /// The made token that proved it.
    token: Option<Entry>,
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
        let answer = match admitted {
            Ok(admitted) => self.route(request, admitted).await,
            Err(refusal) => Err(refusal),
        };
        let answer = answer.unwrap_or_else(|refusal| {
            self.say_refusal(request, &refusal);
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
        let loaded = self.loaded()?;
        let offered = Offered {
            authorization: request.authorization,
            certificates: request.certificates,
        };
        let proof = match (offered.authorization, offered.certificates) {
            (Some(_), _) => Some(Proof::Secret),
            (None, []) => None,
            (None, _) => Some(Proof::Certificate),
        };
        if proof.is_some_and(|proof| !self.may_try(request.peer, proof)) {
            return Err(Refusal::TooMany);
        }
        let authorities = &loaded.tree.client.certificates;
        let mut identity = identify(&offered, &loaded.users, authorities, self.clock.now());
        let mut token = None;
        if let (Err(Refusal::NotAuthorized), Some(proof)) = (&identity, proof) {
            let guessed = self.by_guess(request, &loaded, proof).await;
            identity = guessed.map(|shown| {
                token = shown.1;
                shown.0
            });
        }
        let Some(endpoint) = Endpoint::of(request.path) else {
            // K3s hands everything else to kube-apiserver, which knows no passwords.
            let known = identity.is_ok_and(|it| it.credential == Credential::Certificate);
            return Err(match known {
                true => Refusal::Unavailable("apiserver disabled".to_owned()),
                false => Refusal::Unauthorized,
            });
        };
        if endpoint.groups().is_empty() {
            return Ok(Admitted {
                endpoint,
                identity: None,
                token: None,
            });
        }
        let identity = identity?;
        may(&identity, endpoint)?;
        Ok(Admitted {
            endpoint,
            identity: Some(identity),
            token,
        })
    }

    async fn route(&self, request: &Request<'_>, admitted: Admitted) -> Result<Answer, Refusal> {
        let Admitted {
            endpoint,
            identity,
            token,
        } = admitted;
        let loaded = self.loaded()?;
        let tree = &loaded.tree;
        match (endpoint, identity) {
            (Endpoint::CaCerts, _) => Ok(Answer::ok(PLAIN, tree.server.bytes.clone())),
            (Endpoint::Ping, _) => Ok(Answer::ok(TEXT, "pong")),
            (Endpoint::Healthz, _) => Ok(Answer::ok(TEXT, "ok")),
            (Endpoint::Readyz, _) => match self.health.why_not() {
                Some(_) => Err(Refusal::Unavailable(self.health.to_string())),
                None => Ok(Answer::ok(TEXT, self.health.to_string())),
            },
            (Endpoint::Metrics, _) => self.metrics.render(),
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
            (Endpoint::PutCaCerts, _) => self.put_authorities(request).await,
            (Endpoint::PutToken, _) => self.put_token(request).await,
            (Endpoint::Leaf(kind), Some(identity)) => {
                let who = (&identity, token.as_ref());
                self.leaf(request, kind, who).await
            }
            (Endpoint::Leaf(_), None) => Err(Refusal::Forbidden),
        }
    }

    fn may_try(&self, peer: SocketAddr, proof: Proof) -> bool {
        let throttle = self.throttle.lock();
        throttle.is_ok_and(|it| it.allows(peer.ip(), proof, self.clock.now()))
    }

    pub(crate) fn was_wrong(&self, peer: SocketAddr) {
        self.was_wrong_by(peer, Proof::Secret);
    }

    /// Whether a proof that may turn out to be wrong is looked up now; then [`Self::has_looked`]
    /// must follow.
    pub(crate) fn may_look(&self, peer: SocketAddr, proof: Proof) -> bool {
        let (peer, now) = (peer.ip(), self.clock.now());
        let throttle = self.throttle.lock();
        throttle.is_ok_and(|mut it| it.begins(peer, proof, now))
    }

    /// It was looked up, and was wrong or not.
    pub(crate) fn has_looked(&self, peer: SocketAddr, proof: Proof, was_wrong: bool) {
        if let Ok(mut throttle) = self.throttle.lock() {
            if was_wrong {
                throttle.failed(peer.ip(), proof, self.clock.now());
            }
            throttle.ended(peer.ip(), proof);
        }
    }

    pub(crate) fn was_wrong_by(&self, peer: SocketAddr, proof: Proof) {
        if let Ok(mut throttle) = self.throttle.lock() {
            throttle.failed(peer.ip(), proof, self.clock.now());
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
                // Anybody may ask for anything, and it stands in the log as long as he likes.
                ("path", request.path.chars().take(LONGEST_PATH).collect()),
                ("peer", request.peer.to_string()),
                ("reason", why),
            ],
        });
    }

    fn say_refusal(&self, request: &Request<'_>, refusal: &Refusal) {
        self.metrics.refused(refusal.code());
        self.say(
            "refused",
            request,
            format!("{}: {}", refusal.code(), refusal.message()),
        );
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
