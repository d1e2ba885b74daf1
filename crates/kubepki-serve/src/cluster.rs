//! A server among others on one datastore: whether its CAs are the cluster's, and who else serves.
//!
//! Issuing stops whenever it is not known that the CA in force is the cluster's: while another set
//! is being taken up (requests wait for that), where it cannot be or waits for a restart, and
//! [`CONFIRMED`] after the datastore was last heard.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use kubepki::datastore::{Archive, Board, DatastoreError};
use pki::{San, UnixTime};
use tokio::sync::watch;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::reserved::name_of_server;
use crate::service::Loaded;
use crate::signs::{GOES, Seen, Twin, seen};
pub use crate::signs::{LEASE, Member, Sign};
use crate::status::Refusal;

/// Where servers' records lie.
pub const SERVERS: &str = "/kubepki/servers/";
/// How often a server renews its record.
pub const HEARTBEAT: Duration = Duration::from_secs(20);
/// How often it looks at the others'.
pub const ROUND: Duration = Duration::from_secs(3);
/// A record that stood still that long before our eyes goes: until then the server's names stay its
/// own. Its own clock, and ours, may be wrong by years.
pub const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Clocks that are further apart are not merely inexact, in seconds.
const APART: i64 = pki::DAY;
/// Between two looks at the bootstrap row.
pub const LOOK: Duration = Duration::from_secs(1);
/// For that long the CAs in force are taken for the cluster's without a word from the datastore.
pub const CONFIRMED: Duration = Duration::from_secs(15);
/// For that long a request for a certificate waits for new CAs.
pub const WAIT: Duration = Duration::from_secs(10);

/// Changes the cluster. A reason goes to the log, never to the client: it holds no secrets.
#[async_trait]
pub trait Control: Send + Sync {
    /// Puts a set of CAs in force: the body of K3s's `PUT /v1-k3s/cert/cacerts`, as a caller wants
    /// it who proved who it is under `admitted`.
    ///
    /// # Errors
    ///
    /// [`Undone`]; then nothing was changed.
    async fn put_authorities(
        &self,
        body: Zeroizing<Vec<u8>>,
        force: bool,
        admitted: &Arc<Loaded>,
    ) -> Result<(), Undone>;

    /// Replaces the servers' password by `new`, or by one that is made here where it is empty.
    ///
    /// # Errors
    ///
    /// [`Undone`]; then nothing was changed.
    async fn put_token(&self, new: Zeroizing<String>, admitted: &Arc<Loaded>)
    -> Result<(), Undone>;
}

/// Why the cluster was not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undone {
    /// CAs or users were replaced before the order's turn came: whoever gave it has to prove again
    /// who he is.
    Overtaken,
    /// The reason.
    Failed(String),
}

/// What a server knows of its cluster.
pub struct Cluster {
    /// Whether other CAs are being taken up.
    changing: watch::Sender<bool>,
    /// When the datastore told last; `None` while nobody asks it.
    heard: Mutex<Option<Instant>>,
    others: RwLock<BTreeMap<String, Seen>>,
    /// Keys under which something lies that is no server's record, and that are told of.
    unreadable: Mutex<BTreeSet<String>>,
    twin: Mutex<Twin>,
    /// How long a record that stands still is kept.
    kept: Duration,
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
            unreadable: Mutex::default(),
            twin: Mutex::default(),
            kept: KEPT,
            control: OnceLock::new(),
        }
    }
}

impl Cluster {
    /// One that keeps records which stand still for that long.
    pub fn keeping(kept: Duration) -> Self {
        Self {
            kept,
            ..Self::default()
        }
    }

    /// Says which run of this server this is, as its [`Member`] does.
    pub fn lives_as(&self, life: &str) {
        if let Ok(mut twin) = self.twin.lock() {
            twin.life = Some(life.to_owned());
        }
    }

    /// Where another process is reached that has this server's name and shows signs of life.
    pub fn twin(&self) -> Option<SocketAddr> {
        let (met, address) = self.twin.lock().ok()?.met?;
        (met.elapsed() < LEASE).then_some(address)
    }

    /// Why this machine's clock cannot be right, by what the living servers say: all of them are
    /// days away from it.
    pub fn clock_problem(&self, now: UnixTime) -> Option<String> {
        let apart: Vec<(String, i64)> = self.seen(|all| {
            let moving = all
                .values()
                .filter(|it| it.is_living() && it.is_seen_moving);
            let apart = moving.map(|it| {
                let seconds = now.as_secs().saturating_sub(it.member.heard);
                (it.member.node.clone(), seconds)
            });
            apart.collect()
        });
        let (first, seconds) = apart.first()?;
        let all_are = apart.iter().all(|it| it.1.saturating_abs() > APART);
        let way = if *seconds > 0 { "ahead of" } else { "behind" };
        all_are.then(|| {
            format!(
                "this machine's clock says {now}, which is days {way} all other servers' ({first}'s \
                 by {} s): set the clock",
                seconds.saturating_abs()
            )
        })
    }

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
            let mut own = all.values().filter(|it| it.reserved.is_of(node));
            own.any(|Seen { member, .. }| {
                let mut local = member
                    .local
                    .iter()
                    .filter_map(|it| it.parse::<IpAddr>().ok());
                !local.any(|it| it == peer)
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
        let mut refused = Ok(());
        self.seen(|all| {
            let mut others = all.values().map(|it| it.reserved.refuse(node, addresses));
            refused = others.find(Result::is_err).unwrap_or(Ok(()));
        });
        refused
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
            // Another process with this name: the next look tells.
            Ok(_) | Err(DatastoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Looks at the records of the servers other than `own`. Answers under which keys something
    /// lies that is none, and why; once for each.
    ///
    /// # Errors
    ///
    /// When the datastore cannot be asked.
    pub async fn look_around(
        &self,
        board: &dyn Board,
        own: &str,
        now: UnixTime,
    ) -> Result<Vec<(String, String)>, DatastoreError> {
        let key = format!("{SERVERS}{own}");
        let records = board.list(SERVERS).await?;
        let before = self.seen(BTreeMap::clone);
        let mut found = BTreeMap::new();
        let mut unreadable = BTreeMap::new();
        for record in &records {
            let sign = Sign::read(&record.value);
            if record.key == key {
                self.look_at_own(sign);
                continue;
            }
            let before = before.get(&record.key);
            let seen = match &sign {
                Sign::Of(member) => Some(seen(before, member.clone(), record.revision, now)),
                // Its names are its own until it is gone.
                Sign::Goes | Sign::Unreadable(_) => before.cloned(),
            };
            let has_stood = (before.zip(seen.as_ref()))
                .is_some_and(|(old, new)| old.stands == new.stands && new.has_stood(self.kept));
            let is_gone = match sign {
                // Whoever is faster.
                Sign::Goes => board.delete(&record.key, record.revision).await.is_ok(),
                Sign::Of(_) if has_stood => match board.rewrite(record, GOES).await {
                    Ok(revision) => board.delete(&record.key, revision).await.is_ok(),
                    Err(_) => false,
                },
                Sign::Of(_) => false,
                Sign::Unreadable(why) => {
                    unreadable.insert(record.key.clone(), why);
                    false
                }
            };
            if let Some(seen) = seen.filter(|_| !is_gone) {
                found.insert(record.key.clone(), seen);
            }
        }
        if let Ok(mut others) = self.others.write() {
            *others = found;
        }
        Ok(self.untold(unreadable))
    }

    /// What of that was not there at the last look.
    fn untold(&self, mut unreadable: BTreeMap<String, String>) -> Vec<(String, String)> {
        let Ok(mut told) = self.unreadable.lock() else {
            return Vec::new();
        };
        let before = std::mem::replace(&mut *told, unreadable.keys().cloned().collect());
        unreadable.retain(|key, _| !before.contains(key));
        unreadable.into_iter().collect()
    }

    /// What lies in this server's own place.
    fn look_at_own(&self, found: Sign) {
        let (Sign::Of(found), Ok(mut twin)) = (found, self.twin.lock()) else {
            return;
        };
        if found.life == twin.life {
            twin.was_own = true;
        } else if twin.was_own && !found.stopped && found.life.is_some() {
            twin.met = Some((Instant::now(), found.address));
        }
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
