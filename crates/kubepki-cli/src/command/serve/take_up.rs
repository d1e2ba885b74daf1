//! CAs that another server, or `kubepki rotate-ca`, put into the datastore, taken up while this
//! one serves.
//!
//! ```text
//! rows of the datastore, every second: as they were   -> fine
//!                                      others         -> issuing stops, requests wait
//!    plan of `reconcile` -> files, leaves -> CAs and users swapped -> listener's certificate swapped
//! ```
//!
//! The new bundle is trusted before anything under the new CAs is shown, and connections go on.
//! The datastore that does not answer stops issuing after a while: nobody knows then whether the
//! CAs are still the cluster's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kubepki::datastore::DatastoreError;
use kubepki::edge::{FreshKeys, SystemEntropy};
use kubepki::error_chain;
use kubepki_serve::cluster::{
    Cluster, Forgetting, HEARTBEAT, LOOK, Member, REMEMBERED, ROUND, WAIT,
};
use kubepki_serve::health::{Part, State};
use kubepki_serve::listener::PortError;
use kubepki_serve::names::Filter;
use kubepki_serve::renewal::{jittered, look, reload};
use kubepki_serve::service::Service;
use kubepki_serve::tls::Listened;
use pki::San;
use tokio::sync::{mpsc, watch};

use super::changes::{Hands, Order};
use super::commons::{Commons, Followed, Rows};
use super::keep::Steady;
use super::unfollowed::Unfollowed;
use super::{TakeUpMode, tell};
use crate::datastore::Kind;
use crate::error::CliError;

/// After so many looks what could not be taken up is tried again.
const AGAIN: u32 = 10;

/// What concerns the other servers only may take that long: nothing else is seen meanwhile. As long
/// as a question after the CAs, for a datastore that is slow and does answer; a sign of life takes
/// several, and who gives none is dead to the others.
const SHORT: Duration = Duration::from_secs(5);
const GREETING: Duration = Duration::from_secs(10);

/// Follows the datastore for one server.
pub(super) struct TakeUp {
    pub(super) commons: Arc<Commons>,
    pub(super) service: Arc<Service>,
    listened: Arc<Listened>,
    pub(super) mode: TakeUpMode,
    /// What is in force.
    pub(super) taken: Taken,
    rounds: Rounds,
    /// The time since some moment, whatever the clock is set to: a look may take long.
    steady: Steady,
    /// Wakes the keeper: leaves that were issued anew have readers.
    pub(super) wakes: watch::Sender<u64>,
    /// How far etcd's history is needed.
    forgetting: Forgetting,
    /// What callers want to be changed.
    orders: mpsc::Receiver<Order>,
    /// Whom the other servers hear of, and commands on this machine.
    pub(super) life: Option<String>,
    /// Held while the node's files are changed: the keeper changes them too.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
}

/// Rows that are in force, and rows that could not be put in force.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub rows: Rows,
    refused: Option<Rows>,
    looks: u32,
}

/// What does not come with every look.
#[derive(Debug)]
struct Rounds {
    greeting: Round,
    others: Round,
    forgetting: Round,
    /// Addresses of this machine of which the others were told.
    local: usize,
}

impl Rounds {
    fn new(now: Duration) -> Self {
        Self {
            greeting: Round::new(HEARTBEAT, now),
            others: Round::new(ROUND, now),
            forgetting: Round::new(REMEMBERED, now),
            local: 0,
        }
    }
}

#[derive(Debug)]
struct Round {
    every: Duration,
    next: Duration,
}

impl Round {
    fn new(every: Duration, now: Duration) -> Self {
        let next = now.saturating_add(every);
        Self { every, next }
    }

    fn is_due(&self, now: Duration) -> bool {
        now >= self.next
    }

    /// The next one comes in its time; one that went wrong is made up for sooner.
    fn ended(&mut self, now: Duration, went_well: bool) {
        let pause = match went_well {
            true => self.every,
            false => self.every.min(ROUND),
        };
        self.next = now.saturating_add(pause);
    }
}

impl TakeUp {
    pub(super) fn new(
        commons: Commons,
        followed: Followed,
        (service, listened): (Arc<Service>, Arc<Listened>),
        steady: Steady,
    ) -> Self {
        let mode = commons.args.take_up;
        let taken = Taken {
            rows: followed.rows,
            ..Taken::default()
        };
        let (hands, orders) = Hands::new();
        service.cluster.controlled_by(Arc::new(hands));
        Self {
            commons: Arc::new(commons),
            service,
            listened,
            mode,
            taken,
            rounds: Rounds::new(steady()),
            steady,
            wakes: watch::Sender::new(0),
            forgetting: Forgetting::default(),
            orders,
            life: None,
            turn: Arc::default(),
        }
    }

    /// Looks every second or so, and changes what callers want to be changed, one after the other,
    /// until it is told to stop. What has begun is ended.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        self.service.cluster.heard();
        loop {
            let pause = jittered(LOOK, &SystemEntropy);
            // Nothing of the channel is held while one of them is at work.
            let order = tokio::select! {
                () = tokio::time::sleep(pause) => None,
                Some(order) = self.orders.recv() => Some(order),
                _ = stop.wait_for(|stop| *stop) => break,
            };
            match order {
                Some(order) => self.carry_out(order).await,
                None => self.go_on().await,
            }
        }
        if self.is_one_of_many() {
            let _ = tokio::time::timeout(SHORT, self.greet(true)).await;
        }
    }

    /// What is to be done now.
    pub(super) async fn go_on(&mut self) {
        let is_heard = self.tick().await;
        // Whoever is cut off has nobody to greet, and must go on looking at the time.
        if !is_heard || !self.is_one_of_many() {
            return;
        }
        // The others must know of an address before they learn it as a name.
        let local = self.service.names.local().len();
        let now = (self.steady)();
        if self.rounds.greeting.is_due(now) || self.rounds.local != local {
            let greeted = tokio::time::timeout(GREETING, self.greet(false)).await;
            let went_well = greeted.unwrap_or(false);
            self.rounds.greeting.ended((self.steady)(), went_well);
            if !went_well {
                return;
            }
            self.rounds.local = local;
        }
        let now = (self.steady)();
        if self.rounds.others.is_due(now) {
            let looked = tokio::time::timeout(SHORT, self.look_around()).await;
            self.rounds.others.ended((self.steady)(), looked.is_ok());
        }
        let now = (self.steady)();
        if self.rounds.forgetting.is_due(now) {
            let forgot = tokio::time::timeout(SHORT, self.forget()).await;
            self.rounds
                .forgetting
                .ended((self.steady)(), forgot.is_ok());
        }
    }

    /// One look; answers whether the datastore did.
    pub(super) async fn tick(&mut self) -> bool {
        match self.commons.rows().await {
            Ok(rows) => {
                self.compare(rows).await;
                true
            }
            Err(error) => {
                self.unheard(&error);
                false
            }
        }
    }

    async fn compare(&mut self, rows: Rows) {
        // Before anybody hears that the datastore answers again: nothing leaves in between.
        if rows != self.taken.rows && self.taken.refused.as_ref() != Some(&rows) {
            self.service.cluster.changing(true);
        }
        self.service.note(Part::Datastore, State::Fine);
        self.service.cluster.heard();
        if rows == self.taken.rows {
            self.taken.refused = None;
            return self.settle(State::Fine);
        }
        self.taken.looks = self.taken.looks.saturating_add(1);
        if self.taken.refused.as_ref() == Some(&rows) && self.taken.looks < AGAIN {
            return;
        }
        self.taken.looks = 0;
        self.taken.refused = Some(rows);
        let state = match self.mode {
            TakeUpMode::Live => self.take_up().await,
            TakeUpMode::Restart => self.ask_for_restart().await,
        };
        self.settle(state);
    }

    fn settle(&self, state: State) {
        self.service.note(Part::Cluster, state);
        self.service.cluster.changing(false);
    }

    /// A moment of silence says nothing; a long one stops issuing.
    fn unheard(&self, error: &CliError) {
        let why = format!(
            "{}: it does not tell whether the CAs are still the cluster's",
            error.message
        );
        let state = match self.service.cluster.is_deaf() {
            true => State::Down(why),
            false => State::Warning(why),
        };
        self.service.note(Part::Datastore, state);
    }

    async fn take_up(&mut self) -> State {
        let turn = Arc::clone(&self.turn);
        let _held = turn.lock().await;
        self.service.cluster.changing(true);
        match self.follow().await {
            Ok(followed) => match self.put_in_force() {
                Ok(is_new) => {
                    self.taken.rows = followed.rows;
                    // The keeper may have seen the files already.
                    if is_new || followed.changed {
                        self.service.metrics.taken_up();
                        tell("the cluster's CAs or tokens were taken up", Vec::new());
                    }
                    State::Fine
                }
                Err(why) => State::Down(why),
            },
            Err(error) => State::Down(behind(error)),
        }
    }

    /// Says so where it takes longer than callers wait.
    async fn follow(&self) -> Result<Followed, Unfollowed> {
        let mut following = std::pin::pin!(self.commons.follow());
        match tokio::time::timeout(WAIT, &mut following).await {
            Ok(followed) => followed,
            Err(_) => {
                let why = "the cluster's CAs or tokens were changed, and taking them up takes long";
                self.service
                    .note(Part::Cluster, State::Down(why.to_owned()));
                following.await
            }
        }
    }

    /// Trust and issuers first, in one; then what new connections are shown. Answers whether
    /// anything is new.
    pub(super) fn put_in_force(&self) -> Result<bool, String> {
        let is_new = reload(&self.service).map_err(|error| error_chain(&error))?;
        // What is on the disk is what the datastore holds.
        self.service.note(Part::Files, State::Fine);
        // Whatever plan is at work: what is shown now is by the former CAs.
        let looked = look(&self.service, &self.listened, &FreshKeys, &[]);
        self.wakes
            .send_modify(|times| *times = times.wrapping_add(1));
        match looked {
            // Other CAs do not wait for the log, and by them is what is shown.
            Ok(_) | Err(PortError::Unrecorded(_)) => Ok(is_new),
            Err(error) => Err(error_chain(&error)),
        }
    }

    pub(super) async fn ask_for_restart(&mut self) -> State {
        match self.commons.same().await {
            Ok(Some(rows)) => {
                self.taken.rows = rows;
                State::Fine
            }
            Ok(None) => State::Down(
                "the cluster's CAs or tokens were changed: restart this server, which takes them \
                 up then (--take-up restart)"
                    .to_owned(),
            ),
            Err(error) => State::Down(behind(error)),
        }
    }

    /// Renews this server's record, and looks at the others'.
    pub(super) async fn meet(&self) {
        if self.is_one_of_many() {
            self.greet(false).await;
            self.look_around().await;
        }
    }

    /// What cannot be forgotten now is the next time.
    async fn forget(&mut self) {
        let store = self.commons.connected.store.as_ref();
        if let Err(error) = self.forgetting.look(store).await {
            let fields = vec![("reason", error_chain(&error))];
            tell("the datastore's history was not compacted", fields);
        }
    }

    /// A file has one server.
    fn is_one_of_many(&self) -> bool {
        self.commons.connected.kind == Kind::Server
    }

    /// From now on the listener's certificate learns names.
    pub(super) fn learn(&self) {
        let settings = &self.service.settings;
        let filter = Filter {
            is_secure: settings.san_security,
            services: settings.service_cidrs.clone(),
        };
        let others = self.service.cluster.sans();
        let own = [settings.sans.as_slice(), &others].concat();
        self.service.names.begin(filter, &own);
    }

    /// Signs for names that are learnt, until it is told to stop.
    pub(super) fn learning(&self, stop: watch::Receiver<bool>) -> impl Future<Output = ()> + use<> {
        let turn = (Arc::clone(&self.turn), self.commons.plans());
        Arc::clone(&self.service).learns(Arc::clone(&self.listened), turn, stop)
    }

    /// Servers that are new are known by the listener's certificate too, and what others learnt.
    async fn look_around(&self) {
        let cluster = &self.service.cluster;
        let before = cluster.sans();
        let (store, now) = (
            self.commons.connected.store.as_ref(),
            self.service.clock.now(),
        );
        let own = &self.service.settings.node_name;
        // That the datastore is away shows elsewhere.
        let Ok(unreadable) = cluster.look_around(store, own, now).await else {
            return;
        };
        for (key, why) in unreadable {
            let message = "a record of a server cannot be read, and is passed over";
            tell(message, vec![("key", key), ("reason", why)]);
        }
        let state = cluster.twin().map_or(State::Fine, |address| {
            State::Warning(format!(
                "another server at {address} has this one's name, {own}: give one of them another \
                 with --node-name"
            ))
        });
        self.service.note(Part::Name, state);
        let names = &self.service.names;
        if cluster.sans() != before {
            names.ask();
        }
        match names.share(store).await {
            Ok(is_new) => {
                names.are_shared(true);
                if is_new {
                    names.ask();
                }
            }
            // What no server of ours wrote stays as it is.
            Err(error @ DatastoreError::Malformed { .. }) => {
                if names.are_shared(false) {
                    let fields = vec![("reason", error_chain(&error))];
                    tell("names that were learnt are not shared", fields);
                }
            }
            Err(_) => {}
        }
    }

    /// Answers whether they were told.
    async fn greet(&self, stopped: bool) -> bool {
        let settings = &self.service.settings;
        let mut sans: Vec<String> = settings.sans.iter().map(ToString::to_string).collect();
        // Nor shall other servers give them to a node.
        let local = self.service.names.local().into_iter();
        let local: Vec<String> = local.map(|it| it.to_string()).collect();
        let is_new = |it: &&String| !settings.sans.contains(&San::from_text(it));
        sans.extend(local.iter().filter(is_new).cloned());
        let own = Member {
            version: 1,
            node: settings.node_name.clone(),
            address: SocketAddr::new(settings.advertise_ip, settings.port),
            sans,
            local,
            heard: self.service.clock.now().as_secs(),
            stopped,
            life: self.life.clone(),
        };
        if let Err(error) = Cluster::greet(self.commons.connected.store.as_ref(), &own).await {
            let fields = vec![("reason", error_chain(&error))];
            tell("the other servers were not told of this one", fields);
            return false;
        }
        true
    }
}

pub(super) fn behind(error: Unfollowed) -> String {
    let error = CliError::from(error);
    let hint = error.hint.map(|hint| format!("; {hint}"));
    format!(
        "what the datastore holds is not taken up, and tried again: {}{}",
        error.message,
        hint.unwrap_or_default()
    )
}
