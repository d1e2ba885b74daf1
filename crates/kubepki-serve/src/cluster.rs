//! A server among others on one datastore: whether its CAs are the cluster's, and who else serves.
//!
//! Issuing stops whenever it is not known that the CA in force is the cluster's: while another set
//! is being taken up (requests wait for that), where it cannot be or waits for a restart, and
//! [`CONFIRMED`] after the datastore was last heard.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use kubepki::datastore::{Archive, Board, DatastoreError};
use pki::{San, UnixTime};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::status::Refusal;

/// Where servers' records lie.
pub const SERVERS: &str = "/kubepki/servers/";
/// How often a server renews its record.
pub const HEARTBEAT: Duration = Duration::from_secs(20);
/// How often it looks at the others'.
pub const ROUND: Duration = Duration::from_secs(3);
/// A server whose record stood still that long is taken to be dead.
pub const LEASE: Duration = Duration::from_secs(60);
/// A record that stood still that long goes: until then the server's names stay its own.
const KEPT: i64 = 7 * pki::DAY;
/// A record that is about to go. One whose value was written over keeps its revision, so that a
/// deletion alone could take a record that its server has just renewed.
const GOES: &[u8] = b"gone";
/// Between two looks at the bootstrap row.
pub const LOOK: Duration = Duration::from_secs(1);
/// For that long the CAs in force are taken for the cluster's without a word from the datastore.
pub const CONFIRMED: Duration = Duration::from_secs(15);
/// For that long a request for a certificate waits for new CAs.
pub const WAIT: Duration = Duration::from_secs(10);

/// Changes the cluster. A reason goes to the log, never to the client: it holds no secrets.
#[async_trait]
pub trait Control: Send + Sync {
    /// Puts a set of CAs in force: the body of K3s's `PUT /v1-k3s/cert/cacerts`.
    ///
    /// # Errors
    ///
    /// The reason; then nothing was changed.
    async fn put_authorities(&self, body: Zeroizing<Vec<u8>>, force: bool) -> Result<(), String>;

    /// Replaces the servers' password by `new`, or by one that is made here where it is empty.
    ///
    /// # Errors
    ///
    /// The reason; then nothing was changed.
    async fn put_token(&self, new: Zeroizing<String>) -> Result<(), String>;
}

/// A server's record, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The form's version: 1.
    pub version: u32,
    /// Its node name.
    pub node: String,
    /// Where agents reach it.
    pub address: SocketAddr,
    /// Names and addresses that its certificates carry, as text.
    pub sans: Vec<String>,
    /// When it was last heard, by its own clock, in seconds since 1970.
    pub heard: i64,
    /// Whether it ended in good order.
    pub stopped: bool,
}

/// Another server as this one has seen it.
#[derive(Debug, Clone)]
struct Seen {
    member: Member,
    revision: i64,
    /// When its record moved last, by our clock.
    moved: Instant,
}

impl Seen {
    fn is_living(&self) -> bool {
        !self.member.stopped && self.moved.elapsed() < LEASE
    }
}

/// What a server knows of its cluster.
pub struct Cluster {
    /// Whether other CAs are being taken up.
    changing: watch::Sender<bool>,
    /// When the datastore told last; `None` while nobody asks it.
    heard: Mutex<Option<Instant>>,
    others: RwLock<BTreeMap<String, Seen>>,
    control: OnceLock<Arc<dyn Control>>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            changing: watch::Sender::new(false),
            heard: Mutex::default(),
            others: RwLock::default(),
            control: OnceLock::new(),
        }
    }
}

impl Cluster {
    /// Other CAs are being taken up, or no longer: requests for certificates wait meanwhile.
    pub fn changing(&self, is_changing: bool) {
        self.changing.send_replace(is_changing);
    }

    /// The datastore told which CAs are the cluster's.
    pub fn heard(&self) {
        if let Ok(mut heard) = self.heard.lock() {
            *heard = Some(Instant::now());
        }
    }

    /// Whether that is too long ago for the CAs in force to be taken for the cluster's.
    pub fn is_deaf(&self) -> bool {
        let heard = self.heard.lock();
        heard.map_or(true, |it| it.is_some_and(|it| it.elapsed() >= CONFIRMED))
    }

    /// Waits while other CAs are being taken up. They must be looked up afterwards.
    ///
    /// # Errors
    ///
    /// 503 when that takes too long.
    pub async fn settled(&self) -> Result<(), Refusal> {
        if !*self.changing.borrow() {
            return Ok(());
        }
        let mut changing = self.changing.subscribe();
        let settled = tokio::time::timeout(WAIT, changing.wait_for(|it| !it)).await;
        match settled {
            Ok(Ok(_)) => Ok(()),
            _ => {
                let why = "new CAs are being taken up";
                Err(Refusal::Unavailable(why.to_owned()))
            }
        }
    }

    /// Names the one who changes the cluster; once.
    pub fn controlled_by(&self, control: Arc<dyn Control>) {
        let _ = self.control.set(control);
    }

    /// Who changes the cluster; `None` for a server that takes no changes.
    pub fn control(&self) -> Option<Arc<dyn Control>> {
        self.control.get().cloned()
    }

    /// Where agents reach the other living servers.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.seen(|all| {
            let living = all.values().filter(|it| it.is_living());
            living.map(|it| it.member.address).collect()
        })
    }

    /// The other servers' names and addresses, dead ones' too.
    pub fn sans(&self) -> Vec<San> {
        self.seen(|all| {
            let sans = all.values().flat_map(|it| &it.member.sans);
            sans.map(|it| San::from_text(it)).collect()
        })
    }

    /// Whether `node` is another server, and asked for from elsewhere than that server: its name in
    /// a certificate could pass for the API server.
    ///
    /// # Errors
    ///
    /// 403 with the reason.
    pub fn refuse_name_of_server(&self, node: &str, peer: IpAddr) -> Result<(), Refusal> {
        let is_elsewhere = self.seen(|all| {
            all.values().any(|Seen { member, .. }| {
                let at_home =
                    member.address.ip() == peer || member.sans.contains(&peer.to_string());
                member.node == node && !at_home
            })
        });
        match is_elsewhere {
            true => Err(name_of_server(node)),
            false => Ok(()),
        }
    }

    /// Whether another server's name or address is asked for by `node`, which is not that server.
    ///
    /// # Errors
    ///
    /// 403 with the reason.
    pub fn refuse_others(&self, node: &str, addresses: &[IpAddr]) -> Result<(), Refusal> {
        let others: Vec<Member> = self.seen(|all| {
            let others = all.values().filter(|it| it.member.node != node);
            others.map(|it| it.member.clone()).collect()
        });
        for other in others {
            if other.sans.iter().any(|it| it == node) {
                return Err(name_of_server(node));
            }
            let address = addresses.iter().find(|address| {
                let text = address.to_string();
                !address.is_loopback()
                    && (other.sans.contains(&text) || other.address.ip() == **address)
            });
            if let Some(address) = address {
                return Err(Refusal::ForbiddenFor(format!(
                    "{address} belongs to the servers: node {node} cannot have it in its \
                     certificate"
                )));
            }
        }
        Ok(())
    }

    fn seen<T: Default>(&self, look: impl FnOnce(&BTreeMap<String, Seen>) -> T) -> T {
        self.others.read().map(|all| look(&all)).unwrap_or_default()
    }

    /// Renews this server's own record, in its place: signs of life do not fill a datastore.
    ///
    /// # Errors
    ///
    /// When the datastore cannot be asked.
    pub async fn greet(board: &dyn Board, own: &Member) -> Result<(), DatastoreError> {
        let key = format!("{SERVERS}{}", own.node);
        let value = serde_json::to_vec(own).map_err(|error| DatastoreError::Malformed {
            place: key.clone(),
            problem: error.to_string(),
        })?;
        let written = match board.get(&key).await? {
            Some(record) if *record.value == value => return Ok(()),
            // A new revision: whoever found the old record too old does not delete this one.
            Some(record) if *record.value == GOES => {
                board.update(&key, record.revision, &value).await
            }
            Some(record) => board.rewrite(&record, &value).await,
            None => board.create(&key, &value).await,
        };
        match written {
            // Another process with this name: the next time tells.
            Ok(_) | Err(DatastoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Looks at the records of the servers other than `own`.
    ///
    /// # Errors
    ///
    /// When the datastore cannot be asked.
    pub async fn look_around(
        &self,
        board: &dyn Board,
        own: &str,
        now: UnixTime,
    ) -> Result<(), DatastoreError> {
        let key = format!("{SERVERS}{own}");
        let records = board.list(SERVERS).await?;
        let mut found = BTreeMap::new();
        for record in records.iter().filter(|it| it.key != key) {
            if *record.value == GOES {
                // Whoever is faster.
                let _ = board.delete(&record.key, record.revision).await;
                continue;
            }
            let Ok(member) = serde_json::from_slice::<Member>(&record.value) else {
                continue;
            };
            if now.as_secs().saturating_sub(member.heard) > KEPT {
                if let Ok(revision) = board.rewrite(record, GOES).await {
                    let _ = board.delete(&record.key, revision).await;
                }
                continue;
            }
            found.insert(record.key.clone(), (member, record.revision));
        }
        if let Ok(mut others) = self.others.write() {
            let before = std::mem::take(&mut *others);
            *others = found
                .into_iter()
                .map(|(key, (member, revision))| {
                    let seen = seen(before.get(&key), member, revision, now);
                    (key, seen)
                })
                .collect();
        }
        Ok(())
    }
}

/// How long etcd remembers what was replaced, where nobody else uses it: twice as long as with an
/// API server.
pub const REMEMBERED: Duration = Duration::from_secs(600);

/// Has etcd forget its history where it serves this cluster alone: else the signs of life fill it.
#[derive(Debug, Default)]
pub struct Forgetting {
    /// The newest revision at the last look.
    last: Option<i64>,
}

impl Forgetting {
    /// To be called every [`REMEMBERED`]: forgets what was replaced before the last call, unless
    /// others keep something in the same datastore ([`Board::forget`]). Answers whether it did.
    ///
    /// # Errors
    ///
    /// When the datastore cannot be asked, or does not forget.
    pub async fn look<S: Archive + Board + ?Sized>(
        &mut self,
        store: &S,
    ) -> Result<bool, DatastoreError> {
        let newest = store.newest_revision().await?;
        match self.last.replace(newest) {
            Some(then) if then > 0 => store.forget(then).await,
            _ => Ok(false),
        }
    }
}

/// A record that moved is alive now; one that is seen for the first time is as old as it says.
fn seen(before: Option<&Seen>, member: Member, revision: i64, now: UnixTime) -> Seen {
    let moved = match before {
        Some(before) if before.revision == revision && before.member == member => before.moved,
        Some(_) => Instant::now(),
        None => {
            let age = now.as_secs().saturating_sub(member.heard);
            let age = Duration::from_secs(u64::try_from(age).unwrap_or(0));
            Instant::now().checked_sub(age).unwrap_or_else(Instant::now)
        }
    };
    Seen {
        member,
        revision,
        moved,
    }
}

/// The name is a server's.
pub(crate) fn name_of_server(node: &str) -> Refusal {
    Refusal::ForbiddenFor(format!(
        "{node} is a name of the servers: only the server itself may ask for its certificates"
    ))
}
