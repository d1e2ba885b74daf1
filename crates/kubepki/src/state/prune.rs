//! What may be forgotten, and when.

use std::collections::BTreeSet;

use pki::{DAY, UnixTime};

use super::{BACKUPS, Locked, STAGING, StateDir, StateError, names};
use crate::journal::{Event, Progress, replay};
use crate::plan::{Plan, PlanId};

/// How many plans are kept however old they are.
pub const KEEP_PLANS: usize = 5;
/// How long plans are kept however many they are, in days.
pub const KEEP_DAYS: i64 = 30;

impl Locked {
    /// Removes plans with all that is kept of them, except the newest [`KEEP_PLANS`], those of
    /// the last [`KEEP_DAYS`], those that are begun and not finished, those whose backups an
    /// unfinished plan needs, and those that hold a CA's private key. Returns what it removed.
    ///
    /// A plan or journal that cannot be read is kept too: somebody has to look at it.
    ///
    /// # Errors
    ///
    /// When listing or removing fails.
    pub fn prune(&self, now: UnixTime) -> Result<Vec<PlanId>, StateError> {
        let mut plans = Vec::new();
        for id in self.plans()? {
            if let Ok(plan) = self.load_plan(&id) {
                plans.push(plan);
            }
        }
        plans.sort_by_key(|plan| std::cmp::Reverse(plan.created));
        let needed = self.needed_by_others(&plans);
        let mut removed = Vec::new();
        for plan in plans.iter().skip(KEEP_PLANS) {
            let young = now.since(plan.created) < KEEP_DAYS * DAY;
            let keep = young
                || needed.contains(&plan.id)
                || self.is_open(&plan.id)
                || self.holds_ca_key(&plan.id)?;
            if !keep {
                self.remove_plan(&plan.id)?;
                removed.push(plan.id.clone());
            }
        }
        Ok(removed)
    }

    /// Removes what is staged for plans that are done or given up; a CA's key that was staged for
    /// a plan that was given up stays, for it may be nowhere else.
    ///
    /// # Errors
    ///
    /// When listing or removing fails.
    pub fn drop_finished_staging(&self) -> Result<(), StateError> {
        for name in names(&self.path().join(STAGING))? {
            let id = PlanId(name);
            let Ok(contents) = self.journal(&id) else {
                continue;
            };
            let drop = match replay(&contents.entries).map(|replay| replay.progress) {
                Ok(Progress::Finished) => true,
                Ok(Progress::Abandoned) => !self.stages_ca_key(&id)?,
                _ => false,
            };
            if drop {
                self.drop_staging(&id)?;
            }
        }
        Ok(())
    }

    /// Removes plans that were never begun and have something staged: who made them was killed
    /// before the first line of their journal, so nothing of them was put anywhere, and only their
    /// maker could have begun them. For whoever is about to begin another plan.
    ///
    /// # Errors
    ///
    /// When listing or removing fails.
    pub fn drop_unbegun(&self) -> Result<(), StateError> {
        for name in names(&self.path().join(STAGING))? {
            let id = PlanId(name);
            let begun = match self.journal(&id) {
                Ok(contents) => contents.header.is_some() || !contents.entries.is_empty(),
                Err(_) => true,
            };
            if !begun {
                self.remove_plan(&id)?;
            }
        }
        Ok(())
    }

    /// Removes everything that is kept of one plan, copies of CA keys included. It can then not
    /// be undone. A plan or journal that cannot be read goes too: this is the way to clear one.
    ///
    /// # Errors
    ///
    /// [`StateError::StillNeeded`] for a plan that is begun and not finished, or whose backups an
    /// unfinished undo needs; [`StateError::NoPlan`] if there is none.
    pub fn forget(&self, id: &PlanId) -> Result<(), StateError> {
        self.plan_sha256(id)?;
        let plans: Vec<Plan> = self
            .plans()?
            .iter()
            .filter_map(|other| self.load_plan(other).ok())
            .collect();
        let legible = self.load_plan(id).is_ok() && self.journal(id).is_ok();
        if legible && self.is_open(id) || self.needed_by_others(&plans).contains(id) {
            return Err(StateError::StillNeeded { id: id.clone() });
        }
        self.remove_plan(id)
    }

    /// Plans whose backups are the content of a plan that is begun and not finished.
    fn needed_by_others(&self, plans: &[Plan]) -> BTreeSet<PlanId> {
        let open = plans.iter().filter(|plan| self.is_open(&plan.id));
        open.flat_map(|plan| &plan.steps)
            .flat_map(|step| step.action.contents())
            .filter_map(|content| content.kept_by().cloned())
            .collect()
    }
}

impl StateDir {
    /// Whether a plan is begun and neither finished nor abandoned, or nobody can tell.
    fn is_open(&self, id: &PlanId) -> bool {
        let Ok(contents) = self.journal(id) else {
            return true;
        };
        match replay(&contents.entries).map(|replay| replay.progress) {
            Ok(Progress::NotStarted | Progress::Finished | Progress::Abandoned) => false,
            Ok(Progress::InProgress { .. } | Progress::InFlight { .. }) | Err(_) => true,
        }
    }

    /// Whether a copy of a CA's private key is kept for a plan.
    ///
    /// # Errors
    ///
    /// When journal or staging directory cannot be read.
    pub fn holds_ca_key(&self, id: &PlanId) -> Result<bool, StateError> {
        let in_backups = self
            .journal(id)?
            .entries
            .iter()
            .any(|entry| matches!(&entry.event, Event::Intend(intend) if intend.holds_ca_key));
        if in_backups && !names(&self.directory(BACKUPS, id))?.is_empty() {
            return Ok(true);
        }
        self.stages_ca_key(id)
    }

    fn stages_ca_key(&self, id: &PlanId) -> Result<bool, StateError> {
        for name in names(&self.directory(STAGING, id))? {
            if let Ok(Some(bytes)) = self.read_staged(id, &name)
                && looks_like_ca_key(&name, &bytes)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether `bytes` from a file called `name` hold a CA's private key, by what K3s, RKE and
/// kubeadm call such files: a private key in PEM under a name of which `ca` is a word
/// (`server-ca.key`, `kube-ca-key.pem`).
pub(crate) fn looks_like_ca_key(name: &str, bytes: &[u8]) -> bool {
    let mut words = name.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.any(|word| word.eq_ignore_ascii_case("ca"))
        && bytes.windows(MARK.len()).any(|window| window == MARK)
}

const MARK: &[u8] = b"PRIVATE KEY-----";
