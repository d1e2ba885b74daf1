//! The issuance log, for what a server issues to its own node: its leaves, the listener's
//! certificate, what it reissues when other CAs are in force.
//!
//! ```text
//! leaf, signed --> record, fsync --> files
//!                     |
//!                     `-- the log takes none:  the leaf in place will do for days -> it stays
//!                                              else -> used, said, recorded when the log takes it
//!
//! leaves that lie on the node, at the start and at each renewal: in no record -> recorded as found
//! ```
//!
//! Other CAs are taken up whatever the log does: a full disk must not keep a server on CAs that
//! were replaced. Issuing to others stops meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kubepki::apply::{Observer, Register};
use kubepki::catalogue::Kind;
use kubepki::edge::Clock;
use kubepki::error_chain;
use kubepki::inventory::Inventory;
use kubepki::log::{Issued, Log, LogError as Refused, unrecorded};
use kubepki::plan::{LeafId, Step, headline};
use kubepki_serve::issuance::{Entered, LogError, Need, OwnRecords};
use pki::Certificate;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::tell;

/// One server's records of its own leaves.
#[derive(Debug)]
pub(super) struct Records {
    clock: Arc<dyn Clock>,
    log: Mutex<Option<Log>>,
    /// Of leaves that are used, and not in the log yet.
    late: Mutex<Vec<Issued>>,
    /// What the log has: it is not read for that again.
    known: Mutex<BTreeSet<Told>>,
    /// The disk hung: what is late may be in the log all the same.
    unsure: AtomicBool,
}

/// A leaf in the log: serial number and hash of the public key.
type Told = (String, String);

fn told(record: &Issued) -> Told {
    (record.serial.clone(), record.spki.clone())
}

impl Records {
    /// Before the log is open: what is issued then is recorded when it is.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            log: Mutex::default(),
            late: Mutex::default(),
            known: Mutex::default(),
            unsure: AtomicBool::new(false),
        })
    }

    /// From now on records go into `log`.
    pub(super) fn keep_in(&self, log: Log) {
        *held(&self.log) = Some(log);
        // What keeps it from that is said by the keeper.
        let _ = self.catch_up();
    }

    /// A start that failed is tried again: its log is open no longer.
    pub(super) async fn let_go(&self) {
        let open = held(&self.log).take();
        if let Some(log) = open {
            log.close().await;
        }
    }

    fn log(&self) -> Option<Log> {
        held(&self.log).clone()
    }

    /// Records what could not be recorded before; answers how much that was.
    ///
    /// # Errors
    ///
    /// Why that is not possible yet; then it is tried again with the next call.
    pub(super) fn catch_up(&self) -> Result<usize, LogError> {
        // Nobody who uses a leaf meanwhile waits for the disk.
        let mut records = std::mem::take(&mut *held(&self.late));
        if records.is_empty() {
            return Ok(0);
        }
        let count = records.len();
        self.drop_taken(&mut records);
        if let Err(error) = self.append(records.clone()) {
            let mut late = held(&self.late);
            records.append(&mut late);
            *late = records;
            return Err(error);
        }
        tell(
            "leaves of this node that were not recorded are now",
            vec![("records", count.to_string())],
        );
        Ok(count)
    }

    /// Once a disk goes on that hung, it may take what nobody waited for any more.
    fn drop_taken(&self, records: &mut Vec<Issued>) {
        let Some(log) = self.log().filter(|it| !it.hangs()) else {
            return;
        };
        if !self.unsure.swap(false, Ordering::SeqCst) {
            return;
        }
        let all = records.iter().map(told).collect();
        // Recorded twice is better than not at all.
        if let Ok(missing) = waiting(|| unrecorded(log.directory(), all)) {
            records.retain(|it| missing.contains(&told(it)));
        }
    }

    /// The last chance to record what is late: what stays is said. The next start finds it.
    pub(super) fn end(&self) {
        let Err(error) = self.catch_up() else { return };
        for record in &*held(&self.late) {
            say("a leaf of this node is still not recorded", record, &error);
        }
    }

    /// Records the leaves that lie on the node and that no record is of: by K3s, by people, or by a
    /// process that ended before it could.
    pub(super) fn find(&self, inventory: &Inventory) {
        let Some(log) = self.log() else { return };
        let is_leaf = |kind: &Kind| matches!(kind, Kind::Leaf(_) | Kind::Listener { .. });
        let rows = inventory.rows.iter().filter(|it| is_leaf(&it.row.kind));
        let lying = rows.filter_map(|it| Some((it.row.id, it.file.first_certificate()?)));
        let key = |leaf: &Certificate| {
            let spki = leaf.spki_sha256().to_string();
            (leaf.serial().to_string(), spki)
        };
        let mut lying: BTreeMap<Told, _> = lying
            .map(|(name, leaf)| (key(leaf), (name, leaf)))
            .collect();
        {
            let (known, late) = (held(&self.known), held(&self.late));
            lying.retain(|leaf, _| !known.contains(leaf));
            lying.retain(|leaf, _| late.iter().all(|it| told(it) != *leaf));
        }
        if lying.is_empty() {
            return;
        }
        let all: BTreeSet<Told> = lying.keys().cloned().collect();
        let missing = match waiting(|| unrecorded(log.directory(), all.clone())) {
            Ok(missing) => missing,
            Err(error) => {
                let fields = vec![("reason", error_chain(&error))];
                return tell(
                    "whether this node's leaves are recorded is not known",
                    fields,
                );
            }
        };
        held(&self.known).extend(all.difference(&missing).cloned());
        lying.retain(|leaf, _| missing.contains(leaf));
        let now = self.clock.now();
        let found = lying.values();
        let found: Vec<Issued> = found
            .map(|(name, leaf)| Issued::found(leaf, log.server(), name, now))
            .collect();
        if found.is_empty() {
            return;
        }
        let count = found.len().to_string();
        // They are in use: what cannot be recorded now follows.
        if let Ok(Entered::Now) = self.enter(found, Need::Urgent) {
            let fields = vec![("records", count)];
            tell(
                "leaves of this node that no record was of are recorded as found",
                fields,
            );
        }
    }

    /// An observer of plans that change leaves of this node.
    pub(super) fn of(&self, need: Need) -> Recorded<'_> {
        Recorded {
            records: self,
            need,
            says_steps: false,
        }
    }

    /// The same, which says what is done.
    pub(super) fn said(&self, need: Need) -> Recorded<'_> {
        Recorded {
            says_steps: true,
            ..self.of(need)
        }
    }

    fn append(&self, mut records: Vec<Issued>) -> Result<(), LogError> {
        let reason = |reason| LogError { reason };
        let Some(log) = self.log() else {
            return Err(reason("it is not open yet".to_owned()));
        };
        // Those of before it was open do not know whose they are.
        for record in &mut records {
            record.node = Some(log.server().to_lowercase());
        }
        let all: Vec<Told> = records.iter().map(told).collect();
        let added = waiting(|| log.append_now(records));
        if matches!(added, Err(Refused::Hangs { .. })) {
            self.unsure.store(true, Ordering::SeqCst);
        }
        added.map_err(|error| reason(error_chain(&error)))?;
        held(&self.known).extend(all);
        Ok(())
    }

    fn record(&self, name: &str, leaf: &Certificate) -> Issued {
        let log = self.log();
        let server = log.as_ref().map_or("", Log::server);
        Issued::own(leaf, server, name, self.clock.now())
    }

    fn enter(&self, records: Vec<Issued>, need: Need) -> Result<Entered, LogError> {
        let Err(error) = self.append(records.clone()) else {
            return Ok(Entered::Now);
        };
        if need == Need::CanWait {
            return Err(error);
        }
        for record in &records {
            let message = "a leaf of this node is used without a record, which follows";
            say(message, record, &error);
        }
        held(&self.late).extend(records);
        Ok(Entered::Later)
    }
}

/// Tells what is known of a leaf that is in no record.
fn say(message: &str, record: &Issued, error: &LogError) {
    let fields = vec![
        ("leaf", record.endpoint.clone()),
        ("subject", record.subject.clone()),
        ("serial", record.serial.clone()),
        ("spki", record.spki.clone()),
        ("not_after", record.not_after.to_string()),
        ("reason", error.to_string()),
    ];
    tell(message, fields);
}

/// What is held is whole whoever panicked: it is changed in one.
fn held<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the disk; a worker of a runtime hands over what else it has to do.
fn waiting<T>(wait: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|it| it.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
        _ => wait(),
    }
}

impl OwnRecords for Records {
    fn issued(&self, name: &str, leaf: &Certificate, need: Need) -> Result<Entered, LogError> {
        self.enter(vec![self.record(name, leaf)], need)
    }
}

/// Records the leaves of plans.
#[derive(Debug)]
pub(super) struct Recorded<'a> {
    records: &'a Records,
    need: Need,
    says_steps: bool,
}

impl Observer for Recorded<'_> {
    fn begin(&self, _step: &Step) {}

    fn done(&self, step: &Step) {
        if self.says_steps {
            let what = format!("done {}: {}", step.number, headline(step));
            tell("a step of a renewal", vec![("what", what)]);
        }
    }

    fn register(&self) -> Option<&dyn Register> {
        Some(self)
    }
}

impl Register for Recorded<'_> {
    fn enter(&self, made: &[(LeafId, Certificate)]) -> Result<(), String> {
        let record = |(id, leaf): &(LeafId, Certificate)| self.records.record(&id.0, leaf);
        let records = made.iter().map(record).collect();
        let entered = self.records.enter(records, self.need);
        entered.map(drop).map_err(|error| error.to_string())
    }
}
