//! Records of the datastore, many to a question: whoever comes while one is asked shares the next.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kubepki::datastore::{Datastore, Record};
use tokio::sync::oneshot;

/// Keys in one question: what the datastores take at once, twice.
const AT_ONCE: usize = 64;

/// Asks one question at a time, for as many as wait.
///
/// A datastore has one connection, and a question costs more than a key in it: with thousands of
/// requests a second, each for another node, they would all stand in line.
#[derive(Clone, Default)]
pub(crate) struct Lookups(Arc<Mutex<Line>>);

#[derive(Default)]
struct Line {
    waiting: Vec<Waiting>,
    /// Those that nobody waits for yet: they fill up what the others leave.
    ahead: Vec<Waiting>,
    /// Whether somebody asks for those who wait.
    is_served: bool,
}

struct Waiting {
    key: String,
    answer: oneshot::Sender<Option<Record>>,
}

/// The datastore does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Silent;

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookups(..)")
    }
}

impl Lookups {
    /// What `key` holds, by a question that is asked after this call.
    pub(crate) async fn get(
        &self,
        datastore: &Arc<dyn Datastore>,
        key: String,
    ) -> Result<Option<Record>, Silent> {
        self.ask(datastore, key, |line| &mut line.waiting).await
    }

    /// The same, behind all that somebody waits for.
    pub(crate) async fn look_ahead(
        &self,
        datastore: &Arc<dyn Datastore>,
        key: String,
    ) -> Result<Option<Record>, Silent> {
        self.ask(datastore, key, |line| &mut line.ahead).await
    }

    async fn ask(
        &self,
        datastore: &Arc<dyn Datastore>,
        key: String,
        place: fn(&mut Line) -> &mut Vec<Waiting>,
    ) -> Result<Option<Record>, Silent> {
        let (answer, found) = oneshot::channel();
        let is_served = {
            let mut line = self.line();
            place(&mut line).push(Waiting { key, answer });
            mem::replace(&mut line.is_served, true)
        };
        if !is_served {
            // On its own: who asked first may stop waiting, the others do not.
            let serving = Serving {
                lookups: self.clone(),
                is_done: false,
            };
            tokio::spawn(serving.serve(Arc::clone(datastore)));
        }
        found.await.map_err(|_| Silent)
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for those who wait.
struct Serving {
    lookups: Lookups,
    is_done: bool,
}

impl Drop for Serving {
    /// Ended half-way, it leaves nobody waiting and its place free.
    fn drop(&mut self) {
        if !self.is_done {
            *self.lookups.line() = Line::default();
        }
    }
}

impl Serving {
    /// Those of the next question; `None`, and its place is free, when nobody waits.
    fn next(&mut self) -> Option<Vec<Waiting>> {
        let mut line = self.lookups.line();
        let count = line.waiting.len().min(AT_ONCE);
        let mut together: Vec<Waiting> = line.waiting.drain(..count).collect();
        let count = line.ahead.len().min(AT_ONCE - count);
        together.extend(line.ahead.drain(..count));
        if together.is_empty() {
            line.is_served = false;
            self.is_done = true;
            return None;
        }
        Some(together)
    }

    /// Asks until nobody waits.
    async fn serve(mut self, datastore: Arc<dyn Datastore>) {
        while let Some(together) = self.next() {
            let mut keys: Vec<String> = together.iter().map(|it| it.key.clone()).collect();
            keys.sort_unstable();
            keys.dedup();
            let Ok(records) = datastore.get_all(&keys).await else {
                // Who came meanwhile would find the same silence: all are let go without an answer.
                return;
            };
            for Waiting { key, answer } in together {
                let found = records.iter().find(|record| record.key == key);
                let _ = answer.send(found.cloned());
            }
        }
    }
}
