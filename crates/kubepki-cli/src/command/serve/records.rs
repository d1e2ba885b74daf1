//! The issuance log, for what a server issues to its own node: its leaves, the listener's
//! certificate, what it reissues when other CAs are in force.
//!
//! ```text
//! leaf, signed --> record, fsync --> files
//!                     |
//!                     `-- the log takes none:  the leaf in place will do for days -> it stays
//!                                              else -> used, said, recorded when the log takes it
//! ```
//!
//! Other CAs are taken up whatever the log does: a full disk must not keep a server on CAs that
//! were replaced. Issuing to others stops meanwhile.

use std::sync::{Arc, Mutex, PoisonError};

use kubepki::apply::{Observer, Register};
use kubepki::edge::Clock;
use kubepki::error_chain;
use kubepki::log::{Issued, Log};
use kubepki::plan::{LeafId, Step, headline};
use kubepki_serve::issuance::{LogError, Need, OwnRecords};
use pki::Certificate;

use super::tell;

/// One server's records of its own leaves.
#[derive(Debug)]
pub(super) struct Records {
    clock: Arc<dyn Clock>,
    log: Mutex<Option<Log>>,
    /// Of leaves that are used, and not in the log yet.
    late: Mutex<Vec<Issued>>,
}

impl Records {
    /// Before the log is open: what is issued then is recorded when it is.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            log: Mutex::default(),
            late: Mutex::default(),
        })
    }

    /// From now on records go into `log`.
    pub(super) fn keep_in(&self, log: Log) {
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = Some(log);
        self.catch_up();
    }

    /// A start that failed is tried again: its log is open no longer.
    pub(super) async fn let_go(&self) {
        let held = self.log.lock().ok().and_then(|mut it| it.take());
        if let Some(log) = held {
            log.close().await;
        }
    }

    fn log(&self) -> Option<Log> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.clone()
    }

    /// Records what could not be recorded before; answers why that is not possible yet.
    pub(super) fn catch_up(&self) -> Option<LogError> {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        if late.is_empty() {
            return None;
        }
        let error = self.append(late.clone()).err();
        if error.is_none() {
            let count = late.len().to_string();
            tell(
                "leaves of this node that were not recorded are now",
                vec![("records", count)],
            );
            late.clear();
        }
        error
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
        let added = match self.log() {
            Some(log) => {
                // Those of before it was open do not know whose they are.
                for record in &mut records {
                    record.node = Some(log.server().to_lowercase());
                }
                let added = log.append_now(records);
                added.map_err(|error| error_chain(&error))
            }
            None => Err("it is not open yet".to_owned()),
        };
        added.map_err(|reason| LogError { reason })
    }

    fn record(&self, name: &str, leaf: &Certificate) -> Issued {
        let log = self.log();
        let server = log.as_ref().map_or("", Log::server);
        Issued::own(leaf, server, name, self.clock.now())
    }

    fn enter(&self, records: Vec<Issued>, need: Need) -> Result<(), LogError> {
        let Err(error) = self.append(records.clone()) else {
            return Ok(());
        };
        if need == Need::CanWait {
            return Err(error);
        }
        for record in &records {
            tell(
                "a leaf of this node is used without a record, which follows",
                vec![
                    ("leaf", record.endpoint.clone()),
                    ("subject", record.subject.clone()),
                    ("serial", record.serial.clone()),
                    ("spki", record.spki.clone()),
                    ("not_after", record.not_after.to_string()),
                    ("reason", error.to_string()),
                ],
            );
        }
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.extend(records);
        Ok(())
    }
}

impl OwnRecords for Records {
    fn issued(&self, name: &str, leaf: &Certificate, need: Need) -> Result<(), LogError> {
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
        entered.map_err(|error| error.to_string())
    }
}
