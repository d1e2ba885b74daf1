//! Plans, journals, staged keys and backups, kept between runs.
//!
//! ```text
//! <state dir>/                    0700, files 0600
//!   lock                          held (flock) by whoever writes; names the holder's pid
//!   plans/<id>.json               what was meant
//!   journal/<id>.jsonl            what was done
//!   staging/<id>/<name>           keys and contents not yet in place; gone once a plan is finished
//!   backups/<id>/<step>           what a step replaced, or has to send to be taken back
//!   backups/<id>/<step>-sent      what a call sent
//! ```
//!
//! A [`StateDir`] only reads, and a directory that is not there is an empty one. Everything that
//! writes is a method of [`Locked`], so nothing is written without the lock. [`StateDir::quiet`] only
//! keeps others from taking it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Mode, OFlags};
use zeroize::Zeroizing;

use crate::edge::file;
use crate::host::Attributes;
use crate::journal::{Contents, JournalError, parse};
use crate::plan::{PLAN_FORMAT, Plan, PlanId};

mod locked;
mod prune;

pub use locked::{Locked, Quiet};
pub(crate) use prune::looks_like_ca_key;
pub use prune::{KEEP_DAYS, KEEP_PLANS};

/// The directory in which kubepki remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir {
    path: PathBuf,
    /// Whether the directory above is ours too.
    shelf: bool,
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A name that could leave the directory, or is unfit for a file.
    #[error(
        "{name:?} cannot be the name of a {what}: letters, digits, '.', '_' and '-', \
         not beginning with '.', {MAX_NAME} at most"
    )]
    Name {
        /// "plan", "staged file".
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A plan that was never saved, or was pruned.
    #[error("there is no plan {id} in {}; `kubepki history` lists them", path.display())]
    NoPlan {
        /// The plan.
        id: PlanId,
        /// The state directory.
        path: PathBuf,
    },
    /// A saved plan from a newer program.
    #[error("plan {id} has format {found}, this program knows up to {PLAN_FORMAT}")]
    NewerPlan {
        /// The plan.
        id: PlanId,
        /// Its format.
        found: u64,
    },
    /// A saved plan that does not parse.
    #[error("{} is not a plan", path.display())]
    BadPlan {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A plan under a name that is already another's.
    #[error("plan {id} is saved already and says something else; make a new plan")]
    PlanDiffers {
        /// The plan.
        id: PlanId,
    },
    /// Another process writes.
    #[error(
        "another kubepki{} is at work in {}; wait until it has ended",
        holder.map(|pid| format!(" (process {pid})")).unwrap_or_default(), path.display()
    )]
    Locked {
        /// The state directory.
        path: PathBuf,
        /// The other process, if it said.
        holder: Option<u32>,
    },
    /// The state directory could be read or changed by others.
    #[error("{} {problem}; make it a directory of this user with mode 0700", path.display())]
    Unsafe {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A plan that still needs its copies.
    #[error("plan {id} is not finished; `kubepki resume {id}` or `kubepki undo {id}` first")]
    StillNeeded {
        /// The plan.
        id: PlanId,
    },
    /// A plan's journal cannot be used.
    #[error("plan {id}")]
    Journal {
        /// The plan.
        id: PlanId,
        /// Why.
        #[source]
        source: JournalError,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl StateDir {
    /// The state directory at `path`. Touches nothing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            shelf: false,
        }
    }

    /// The state directory of a K3s data directory: `<data-dir>/kubepki`. Never under `server/`,
    /// whose presence makes K3s take the node for a server.
    pub fn of_data_dir(root: &Path) -> Self {
        Self::new(root.join("kubepki"))
    }

    /// The state directory of an RKE cluster: `.kubepki/<name>` beside its state file, whose name
    /// it has. `.kubepki`, which it shares with the other clusters there, is made with it.
    pub fn of_rke_state(state: &Path) -> Self {
        let shelf = state.parent().unwrap_or(Path::new("/")).join(".kubepki");
        Self {
            path: shelf.join(state.file_stem().unwrap_or_default()),
            shelf: true,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The saved plans, oldest first.
    ///
    /// # Errors
    ///
    /// When the directory cannot be listed; one that is absent has no plans.
    pub fn plans(&self) -> Result<Vec<PlanId>, StateError> {
        let names = names(&self.path.join(PLANS))?;
        let ids = names.iter().filter_map(|name| name.strip_suffix(".json"));
        Ok(ids
            .map(|id| PlanId(id.to_owned()))
            .filter(|id| plan_name(id).is_ok())
            .collect())
    }

    /// A saved plan.
    ///
    /// # Errors
    ///
    /// [`StateError::NoPlan`], [`StateError::NewerPlan`], [`StateError::BadPlan`].
    pub fn load_plan(&self, id: &PlanId) -> Result<Plan, StateError> {
        let no_plan = || StateError::NoPlan {
            id: id.clone(),
            path: self.path.clone(),
        };
        let bytes = self.plan_bytes(id)?.ok_or_else(no_plan)?;
        let bad = |source| StateError::BadPlan {
            path: self.plan_path(id),
            source,
        };
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(bad)?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(found) if found > u64::from(PLAN_FORMAT) => Err(StateError::NewerPlan {
                id: id.clone(),
                found,
            }),
            _ => serde_json::from_value(value).map_err(bad),
        }
    }

    /// The SHA-256 of a plan as saved, hex.
    ///
    /// # Errors
    ///
    /// [`StateError::NoPlan`], or when it cannot be read.
    pub fn plan_sha256(&self, id: &PlanId) -> Result<String, StateError> {
        let no_plan = || StateError::NoPlan {
            id: id.clone(),
            path: self.path.clone(),
        };
        Ok(pki::sha256(&self.plan_bytes(id)?.ok_or_else(no_plan)?).to_string())
    }

    /// What a plan's journal says; nothing if it was never begun.
    ///
    /// # Errors
    ///
    /// When it cannot be read or used.
    pub fn journal(&self, id: &PlanId) -> Result<Contents, StateError> {
        plan_name(id)?;
        let contents = match read(&self.journal_path(id))? {
            Some(bytes) => parse(&bytes),
            None => Ok(Contents::empty()),
        };
        contents.map_err(|source| StateError::Journal {
            id: id.clone(),
            source,
        })
    }

    /// When a plan's journal last grew, as its file system says: finer than the seconds inside,
    /// to tell which of two plans of one second is the later. `None` if it was never begun.
    pub fn journal_modified(&self, id: &PlanId) -> Option<SystemTime> {
        plan_name(id).ok()?;
        let metadata = std::fs::metadata(self.journal_path(id)).ok()?;
        metadata.modified().ok()
    }

    /// A staged file of a plan; `None` if there is none of that name.
    ///
    /// # Errors
    ///
    /// When the name is unfit or the file cannot be read.
    pub fn read_staged(
        &self,
        id: &PlanId,
        name: &str,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        read(&self.staged_path(id, name)?)
    }

    /// What a step replaced; `None` if nothing was kept.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn read_backup(
        &self,
        id: &PlanId,
        step: u32,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        plan_name(id)?;
        read(&self.directory(BACKUPS, id).join(step.to_string()))
    }

    /// What a step's call sent; `None` if it called nothing.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn read_sent(
        &self,
        id: &PlanId,
        step: u32,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        plan_name(id)?;
        read(&self.sent_path(id, step))
    }

    /// The process that holds the lock now: `None` when nobody does, `Some(None)` when it has not
    /// said which it is.
    ///
    /// # Errors
    ///
    /// When the lock cannot be looked at.
    pub fn holder(&self) -> Result<Option<Option<u32>>, StateError> {
        let path = self.path.join(LOCK);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let lock = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(lock) => File::from(lock),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed("read", &path, error.into())),
        };
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(Some(pid_in(lock))),
            Err(error) => Err(failed("read", &path, error.into())),
        }
    }

    fn plan_bytes(&self, id: &PlanId) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        plan_name(id)?;
        read(&self.plan_path(id))
    }

    fn plan_path(&self, id: &PlanId) -> PathBuf {
        self.path.join(PLANS).join(format!("{id}.json"))
    }

    fn journal_path(&self, id: &PlanId) -> PathBuf {
        self.path.join(JOURNALS).join(format!("{id}.jsonl"))
    }

    fn sent_path(&self, id: &PlanId, step: u32) -> PathBuf {
        self.directory(BACKUPS, id).join(format!("{step}-sent"))
    }

    fn directory(&self, kind: &str, id: &PlanId) -> PathBuf {
        self.path.join(kind).join(&id.0)
    }

    fn staged_path(&self, id: &PlanId, name: &str) -> Result<PathBuf, StateError> {
        plan_name(id)?;
        if !fit_for_a_file(name) {
            return Err(StateError::Name {
                what: "staged file",
                name: name.to_owned(),
            });
        }
        Ok(self.directory(STAGING, id).join(name))
    }
}

/// Refuses a plan id that could leave its directory.
fn plan_name(id: &PlanId) -> Result<(), StateError> {
    if fit_for_a_file(&id.0) {
        return Ok(());
    }
    Err(StateError::Name {
        what: "plan",
        name: id.0.clone(),
    })
}

fn fit_for_a_file(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("read", path, source)),
    }
}

/// The names in a directory, sorted, temporary files excepted; none if it is absent.
fn names(path: &Path) -> Result<Vec<String>, StateError> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed("list", path, source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry
            .map_err(|source| failed("list", path, source))?
            .file_name();
        names.extend(
            name.into_string()
                .ok()
                .filter(|name| !name.starts_with('.')),
        );
    }
    names.sort_unstable();
    Ok(names)
}

/// Writes a file that only this user can read.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    file::replace(path, bytes, &Attributes::new(0o600))
        .map_err(|source| failed("write", path, source))
}

/// The pid that a lock's holder wrote; it may not have come to that yet.
fn pid_in(lock: File) -> Option<u32> {
    let mut holder = String::new();
    lock.take(20).read_to_string(&mut holder).ok()?;
    holder.trim().parse().ok()
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> StateError {
    StateError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

const PLANS: &str = "plans";
const JOURNALS: &str = "journal";
const STAGING: &str = "staging";
const BACKUPS: &str = "backups";
const LOCK: &str = "lock";
const OWNER: &str = "owner";
/// Leaves room in 255 bytes for a temporary file's affixes.
const MAX_NAME: usize = 200;

#[cfg(test)]
mod tests;
