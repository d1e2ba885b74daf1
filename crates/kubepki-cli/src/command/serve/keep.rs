//! While it serves: what changes on the disk is taken up, what is due is renewed, CAs that end are
//! told of, a clock that is set is noticed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kubepki::apply::unfinished;
use kubepki::edge::{FreshKeys, SystemEntropy};
use kubepki::error_chain;
use kubepki::state::StateDir;
use kubepki_serve::ending::{Jumps, unbegun};
use kubepki_serve::health::{Part, State};
use kubepki_serve::issuance::LAST_DAYS;
use kubepki_serve::listener::PortError;
use kubepki_serve::renewal::{AGAIN, EVERY, RELOAD, changed, jittered, look, put_in_force};
use kubepki_serve::service::{Line, Service};
use kubepki_serve::tls::Listened;
use pki::{Certificate, UnixTime};
use tokio::signal::unix::Signal;
use tokio::sync::watch;

use super::ServeArgs;
use super::commons::Commons;
use super::hooks::Hooks;
use super::loops::on_a_thread;
use super::records::Records;
use super::renew::{self, Renewal, Trouble, renewed};
use crate::error::CliError;
use crate::serving::Alone;
use crate::world::World;

/// Keeps a server's files, leaves and listener fresh. CAs are never touched.
pub(super) struct Keeper {
    pub world: World,
    pub args: ServeArgs,
    pub service: Arc<Service>,
    pub listened: Arc<Listened>,
    /// The time since some moment, whatever the clock is set to.
    pub steady: Steady,
    jumps: Jumps,
    /// When leaves are looked at next, by `steady`.
    next: Duration,
    /// When each ending CA was told of last.
    pub(super) said: HashMap<String, UnixTime>,
    /// Held while the node's files are changed: CAs that are taken up change them too.
    pub turn: Arc<tokio::sync::Mutex<()>>,
    /// What is issued here is recorded there.
    pub records: Arc<Records>,
    /// What is run after a renewal.
    pub hooks: Arc<Hooks>,
    /// When what of it is open is tried again, by `steady`.
    hooks_next: Duration,
    /// One server for a data directory.
    alone: Option<Alone>,
    /// Who knows what the cluster's files are.
    pub commons: Option<Arc<Commons>>,
    /// Counts what was taken up: its leaves are others then.
    pub woken: watch::Receiver<u64>,
    /// Where plans of this node lie.
    state: Option<StateDir>,
    /// Whether the listener's certificate waits for the end of a plan.
    is_put_off: bool,
    /// The CAs that sign, as they were seen last, and those above them.
    pub(super) authorities: Vec<Certificate>,
}

/// See [`Keeper::steady`].
pub(super) type Steady = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The machine's own.
pub(super) fn monotonic() -> Steady {
    let began = Instant::now();
    Arc::new(move || began.elapsed())
}

/// Files on the disk beside the cluster's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Same,
    /// In force here; the cluster has others by now.
    Behind,
    /// Somebody else's, or nobody knows whose.
    Foreign,
}

impl Keeper {
    pub(super) fn new(
        (world, steady): (World, Steady),
        args: ServeArgs,
        service: Arc<Service>,
        listened: Arc<Listened>,
        (hooks, records): (Arc<Hooks>, Arc<Records>),
    ) -> Self {
        let jumps = Jumps::new(world.now(), steady());
        let next = steady().saturating_add(jittered(EVERY, &SystemEntropy));
        Self {
            world,
            args,
            service,
            listened,
            steady,
            jumps,
            next,
            said: HashMap::new(),
            turn: Arc::default(),
            records,
            hooks,
            hooks_next: Duration::ZERO,
            alone: None,
            commons: None,
            woken: watch::Sender::new(0).subscribe(),
            state: None,
            is_put_off: false,
            authorities: Vec::new(),
        }
    }

    /// What the start came to. The lock on the data directory is held from now on.
    pub(super) fn begin(&mut self, renewal: &Renewal, alone: Alone) {
        self.alone = Some(alone);
        self.state = Some(renewal.node.state.clone());
        if !self.tell(renewal) {
            self.next = (self.steady)().saturating_add(jittered(AGAIN, &SystemEntropy));
        }
        self.clock_fits(self.world.now());
    }

    /// [Runs](Self::run) on a thread of its own: the datastore and the other servers are heard while
    /// it waits for a disk.
    ///
    /// # Errors
    ///
    /// When there is no thread to be had.
    pub(super) fn on_its_thread(
        self,
        hangup: Signal,
        stop: watch::Receiver<bool>,
    ) -> std::io::Result<impl Future<Output = ()>> {
        on_a_thread("keeper", move || self.run(hangup, stop))
    }

    /// Until it is told to stop: a tick every half minute and whenever something was taken up, and a
    /// whole round with SIGHUP. A round that has begun is ended.
    async fn run(mut self, mut hangup: Signal, mut stop: watch::Receiver<bool>) {
        let mut woken = self.woken.clone();
        self.hooks(true).await;
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(RELOAD) => false,
                Some(()) = hangup.recv() => true,
                Ok(()) = woken.changed() => false,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            self.tick(asked).await;
        }
    }

    /// One look. Leaves are looked at every six hours, after a failure sooner, when the clock was
    /// set, and when that is `asked` for.
    pub(super) async fn tick(&mut self, asked: bool) {
        let now = self.world.now();
        self.record_late();
        let jump = self.jumps.look(now, (self.steady)());
        if let Some(seconds) = jump {
            self.clock_was_set(seconds);
        }
        let is_woken = self.woken.has_changed().unwrap_or(false);
        self.woken.mark_unchanged();
        let is_settled = self.plans().await;
        let is_time = (self.steady)() >= self.next;
        let due = asked || is_settled || jump.is_some() || is_time;
        let taken_up = self.files().await;
        self.clock_fits(now);
        if !due && !taken_up {
            if self.is_put_off {
                self.listener().await;
            }
            match is_woken {
                true => self.recount().await,
                false => self.warn(),
            }
            return self.hooks(is_woken).await;
        }
        let mut fine = true;
        match due {
            true => fine = self.leaves().await,
            false => self.recount().await,
        }
        fine &= self.listener().await;
        if due {
            let pause = if fine { EVERY } else { AGAIN };
            self.next = (self.steady)().saturating_add(jittered(pause, &SystemEntropy));
        }
        self.hooks(due || is_woken).await;
    }

    /// Whether somebody left a plan half done here. Answers whether one that was told of no longer
    /// is.
    async fn plans(&self) -> bool {
        let past = self.state.as_ref().map(unfinished);
        let was_told = self.service.health.is_troubled(Part::Plan);
        match past {
            Some(Ok(None)) if was_told => {
                self.service.note(Part::Plan, State::Fine);
                true
            }
            Some(Ok(Some(_))) => {
                if let Ok(node) = renew::look(&self.world, &self.args).await
                    && let Some(trouble) = renew::left_by_others(&node)
                {
                    self.service.note(trouble.part, trouble.state);
                }
                false
            }
            // What cannot be read is told of with the leaves.
            _ => false,
        }
    }

    /// Looks at the listener's certificate; answers whether it is as it should be. Plans know what
    /// was in its file: none is carried out meanwhile, and the next tick looks again after one.
    async fn listener(&mut self) -> bool {
        let plans = self.commons.as_ref().map(|it| it.plans());
        let plans = plans.unwrap_or_default();
        let looked = {
            let _held = self.turn.lock().await;
            look(&self.service, &self.listened, &FreshKeys, &plans)
        };
        self.is_put_off = matches!(looked, Err(PortError::AtWork));
        match looked {
            Ok(_) | Err(PortError::AtWork) => true,
            Err(error) => {
                let message = "the listener's certificate stays as it is";
                self.say(message, error_chain(&error));
                false
            }
        }
    }

    /// Takes up what was changed on the disk, if it is the cluster's. Answers whether anything was,
    /// or is as it should be again.
    async fn files(&self) -> bool {
        // Whoever takes CAs up is not looked at half-way.
        let turn = Arc::clone(&self.turn);
        let _held = turn.lock().await;
        let found = match changed(&self.service) {
            Ok(found) => found,
            Err(error) => {
                // In the middle of a rotation, as a rule: the next look finds them whole.
                let why = format!("they do not fit together: {}", error_chain(&error));
                self.service.note(Part::Files, State::Warning(why));
                return false;
            }
        };
        let Some(tree) = found else {
            let was_told = self.service.health.is_troubled(Part::Files);
            if was_told && self.fit(false).await == Fit::Foreign {
                return false;
            }
            self.service.note(Part::Files, State::Fine);
            // What waited for that is looked at.
            return was_told;
        };
        if self.fit(true).await != Fit::Same {
            return false;
        }
        // Somebody may have gone on while the datastore was asked.
        match changed(&self.service) {
            Ok(Some(now)) if now.is_same_as(&tree) => {
                self.service.note(Part::Files, State::Fine);
                put_in_force(&self.service, now)
            }
            _ => false,
        }
    }

    /// How the files on the disk, which are others than those in force if that `is_changed`, and
    /// the cluster's fit. Nothing is signed by what is foreign, and what is in force stays.
    async fn fit(&self, is_changed: bool) -> Fit {
        let Some(commons) = &self.commons else {
            return Fit::Same;
        };
        let why = match commons.foreign().await {
            Ok(None) => return Fit::Same,
            // Not the files were changed but the cluster's: who takes those up tells of it.
            Ok(Some(_)) if !is_changed && self.service.health.is_troubled(Part::Cluster) => {
                return Fit::Behind;
            }
            Ok(Some(differing)) => format!(
                "{differing}. The cluster's stay in force: `kubepki reconcile --keep datastore` \
                 puts them back, `kubepki rotate-ca --path DIR` changes the cluster's"
            ),
            // The datastore's silence is told of elsewhere.
            Err(_) if !is_changed => return Fit::Same,
            Err(error) => format!(
                "CAs or passwords were changed on the disk, and whether they are the cluster's is \
                 not known: {}",
                CliError::from(error).message
            ),
        };
        self.service.note(Part::Files, State::Warning(why));
        Fit::Foreign
    }

    /// Whether a leaf of this node ends so soon that it cannot wait for the cluster's CAs.
    async fn end_soon(&self) -> bool {
        let now = self.world.now();
        let Ok(node) = renew::look(&self.world, &self.args).await else {
            return false;
        };
        let rows = node.inventory.rows.iter();
        let leaves = rows.filter(|row| !row.row.is_authority());
        leaves
            .filter_map(|row| row.file.first_certificate())
            .any(|leaf| leaf.validity().remaining(now) <= LAST_DAYS)
    }

    /// Records the leaves that could not wait for the log.
    fn record_late(&self) {
        let state = match self.records.catch_up() {
            Ok(0) => return,
            Ok(_) => State::Fine,
            Err(error) => State::Warning(format!(
                "leaves of this node are not recorded yet: {}",
                error.reason
            )),
        };
        self.service.note(Part::Log, state);
    }

    /// Runs what a renewal left open, and what failed before when its time has come.
    async fn hooks(&mut self, at_once: bool) {
        if !self.hooks.are_open() {
            // What failed may have been struck from the command line.
            return self.service.note(Part::Hooks, State::Fine);
        }
        if !at_once && (self.steady)() < self.hooks_next {
            return;
        }
        let mut failures = Vec::new();
        for ran in self.hooks.run(&self.world.host).await {
            let mut fields = vec![("what", ran.what.clone())];
            if !ran.output.is_empty() {
                fields.push(("output", ran.output));
            }
            if let Some(failure) = ran.failure {
                failures.push(format!("{}: {failure}", ran.what));
                fields.push(("reason", failure));
            }
            (self.service.journal)(&Line {
                message: "told of renewed leaves",
                fields,
            });
        }
        let state = match failures.is_empty() {
            true => State::Fine,
            false => State::Warning(format!(
                "not told of renewed leaves, and tried again: {}",
                failures.join("; ")
            )),
        };
        self.service.note(Part::Hooks, state);
        self.hooks_next = (self.steady)().saturating_add(AGAIN);
    }

    /// Renews what is due; answers whether all went well.
    async fn leaves(&mut self) -> bool {
        match self.renewal().await {
            Some(renewal) => {
                // What people renewed on this node meanwhile.
                self.records.find(&renewal.node.inventory);
                self.tell(&renewal)
            }
            None => {
                self.recount().await;
                false
            }
        }
    }

    /// What a look at the leaves came to; `None` where that could not be, or must not.
    async fn renewal(&self) -> Option<Renewal> {
        let turn = Arc::clone(&self.turn);
        let _held = turn.lock().await;
        if self.service.health.is_troubled(Part::Files) {
            return None;
        }
        match self.fit(false).await {
            Fit::Same => {}
            Fit::Foreign => return None,
            // They are issued anew with the cluster's CAs.
            Fit::Behind if !self.end_soon().await => return None,
            Fit::Behind => {}
        }
        let foretold = |services: &_| self.hooks.foretold(services);
        match renewed(&self.world, &self.args, &self.records, &foretold).await {
            Ok(renewal) => Some(renewal),
            Err(error) => {
                let why = format!("not renewed, and tried again: {}", error.message);
                self.service.note(Part::Leaves, State::Warning(why));
                None
            }
        }
    }

    /// Counts and says what a renewal came to; answers whether it went well.
    pub(super) fn tell(&mut self, renewal: &Renewal) -> bool {
        let service = Arc::clone(&self.service);
        for leaf in &renewal.renewed {
            (service.journal)(&Line {
                message: "a leaf of this node was renewed",
                fields: vec![
                    ("subject", leaf.subject().to_string()),
                    ("serial", leaf.serial().to_string()),
                    ("not_after", leaf.validity().not_after.to_string()),
                ],
            });
        }
        service.metrics.renewed(renewal.renewed.len());
        let trouble = renewal.trouble.as_ref();
        for part in [Part::Leaves, Part::Plan] {
            let state = trouble.filter(|it| it.part == part);
            let state = state.map_or(State::Fine, |Trouble { state, .. }| state.clone());
            service.note(part, state);
        }
        self.count(&renewal.node);
        renewal.trouble.is_none()
    }

    fn clock_was_set(&self, seconds: i64) {
        let way = if seconds > 0 { "forwards" } else { "back" };
        let text = format!(
            "by {} seconds {way}, or this machine stood still: leaves are looked at now",
            seconds.unsigned_abs()
        );
        self.say("this machine's clock was set", text);
    }

    /// A CA that is not valid yet issues nothing: the clock is wrong.
    fn clock_fits(&self, now: UnixTime) {
        let Ok(loaded) = self.service.loaded() else {
            return;
        };
        let issuers = [&loaded.tree.client.issuer, &loaded.tree.server.issuer];
        let authorities = issuers.map(|issuer| issuer.authority.certificate());
        // Who is wrong is not certain there: leaves that are too new harm nobody.
        let state = match (
            unbegun(authorities, now),
            self.service.cluster.clock_problem(now),
        ) {
            (Some(why), _) => State::Down(why),
            (None, Some(why)) => State::Warning(why),
            (None, None) => State::Fine,
        };
        self.service.note(Part::Clock, state);
    }

    pub(super) fn say(&self, message: &str, reason: String) {
        (self.service.journal)(&Line {
            message,
            fields: vec![("reason", reason)],
        });
    }
}
