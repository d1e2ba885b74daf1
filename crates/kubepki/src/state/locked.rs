//! The state directory with its lock held: everything that writes.

use std::fs::File;
use std::io::Write;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{
    BACKUPS, JOURNALS, LOCK, OWNER, PLANS, STAGING, StateDir, StateError, failed, names, pid_in,
    plan_name, read, write_private,
};
use crate::edge::{Entropy, file};
use crate::host::Attributes;
use crate::journal::Journal;
use crate::plan::{Plan, PlanId};

/// How many files wait for the disk at the same time.
const WRITERS: usize = 16;

/// How often, and how long, the lock is waited for where it is not held but looked at: 10 s, more
/// than a record of what is issued may take meanwhile.
const MOMENTS: u32 = 1000;
pub(super) const MOMENT: Duration = Duration::from_millis(10);

/// A [`StateDir`] whose lock this process holds, until this value is dropped.
#[derive(Debug)]
pub struct Locked {
    state: StateDir,
    _lock: Held,
}

/// A [`StateDir`] whose lock nobody takes, until this value is dropped.
#[derive(Debug)]
pub struct Quiet {
    /// `None` where there is no directory.
    _lock: Option<Held>,
}

/// The lock's file, while it is locked.
#[derive(Debug)]
struct Held(File);

impl Drop for Held {
    /// Lets go at once: closing the file would not while a child that was just forked has a copy
    /// of it.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

impl Deref for Locked {
    type Target = StateDir;

    fn deref(&self) -> &StateDir {
        &self.state
    }
}

impl StateDir {
    /// Makes the directory if it is absent (its parent must exist, unless it is ours too) and
    /// takes the lock.
    ///
    /// # Errors
    ///
    /// [`StateError::Locked`] while another process, or another value in this one, holds it;
    /// [`StateError::Unsafe`] when others could write to the directory.
    pub fn lock(&self) -> Result<Locked, StateError> {
        let shelf = self.path.parent().filter(|_| self.shelf);
        for path in shelf.into_iter().chain([self.path.as_path()]) {
            if let Err(source) = rustix::fs::mkdir(path, Mode::RWXU)
                && source != Errno::EXIST
            {
                return Err(failed("make", path, source.into()));
            }
            refuse_unsafe(path)?;
        }

        let failed = |error: Errno| failed("lock", &self.path.join(LOCK), error.into());
        let mut lock = self.lock_file().map_err(failed)?;
        match take(&lock) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let holder = pid_in(lock);
                return Err(StateError::Locked {
                    path: self.path.clone(),
                    holder,
                });
            }
            Err(error) => return Err(failed(error)),
        }
        // The pid is for people; on a full disk the lock holds without it.
        let _ = lock
            .set_len(0)
            .and_then(|()| lock.write_all(format!("{}\n", std::process::id()).as_bytes()));
        Ok(Locked {
            state: self.clone(),
            _lock: Held(lock),
        })
    }

    /// Keeps plans from beginning here, for a moment: something is written that they know the
    /// content of. `None` while one is at work. Who wants the [lock](Self::lock) waits for it.
    ///
    /// # Errors
    ///
    /// When there is a directory, and its lock cannot be used.
    pub fn quiet(&self) -> Result<Option<Quiet>, StateError> {
        let failed = |error: Errno| failed("lock", &self.path.join(LOCK), error.into());
        let lock = match self.lock_file() {
            Ok(lock) => lock,
            // No plan was ever made here.
            Err(Errno::NOENT) => return Ok(Some(Quiet { _lock: None })),
            Err(error) => return Err(failed(error)),
        };
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Some(Quiet {
                _lock: Some(Held(lock)),
            })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn lock_file(&self) -> Result<File, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::open(self.path.join(LOCK), flags, mode).map(File::from)
    }
}

/// Takes the lock, unless another has it. Those who [keep it from being taken](StateDir::quiet), or
/// look who [holds](StateDir::holder) it, share it for a moment.
fn take(lock: &File) -> Result<(), Errno> {
    for _ in 0..MOMENTS {
        match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {}
            taken => return taken,
        }
        rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared)?;
        rustix::fs::flock(lock, FlockOperation::Unlock)?;
        std::thread::sleep(MOMENT);
    }
    Err(Errno::WOULDBLOCK)
}

fn refuse_unsafe(path: &Path) -> Result<(), StateError> {
    let unsafe_because = |problem| StateError::Unsafe {
        path: path.to_owned(),
        problem,
    };
    let metadata =
        std::fs::symlink_metadata(path).map_err(|source| failed("read", path, source))?;
    if !metadata.is_dir() {
        return Err(unsafe_because("is not a directory"));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(unsafe_because("belongs to another user"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(unsafe_because("can be written to by other users"));
    }
    Ok(())
}

impl Locked {
    /// Saves a plan. Saving the same plan again does nothing.
    ///
    /// # Errors
    ///
    /// [`StateError::PlanDiffers`] when another plan has that id.
    pub fn save_plan(&self, plan: &Plan) -> Result<(), StateError> {
        let path = self.plan_path(&plan.id);
        let mut bytes = serde_json::to_vec_pretty(plan).map_err(|source| StateError::BadPlan {
            path: path.clone(),
            source,
        })?;
        bytes.push(b'\n');
        match self.plan_bytes(&plan.id)? {
            Some(saved) if *saved == bytes => return Ok(()),
            Some(_) => {
                return Err(StateError::PlanDiffers {
                    id: plan.id.clone(),
                });
            }
            None => {}
        }
        self.directory_for(&self.path.join(PLANS))?;
        write_private(&path, &bytes)
    }

    /// Keeps `bytes` under `name` until the plan is finished. An older file of that name is
    /// replaced.
    ///
    /// # Errors
    ///
    /// When the name is unfit or writing fails.
    pub fn stage(&self, id: &PlanId, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.staged_path(id, name)?;
        self.directory_for(&self.path.join(STAGING))?;
        self.directory_for(&self.directory(STAGING, id))?;
        write_private(&path, bytes)
    }

    /// [`Self::stage`] for many files, by name: they wait for the disk together.
    ///
    /// # Errors
    ///
    /// As [`Self::stage`]; some of the files may be staged.
    pub fn stage_all<T: AsRef<[u8]> + Sync>(
        &self,
        id: &PlanId,
        files: &[(String, T)],
    ) -> Result<(), StateError> {
        let mut staged = Vec::new();
        for (name, bytes) in files {
            staged.push((self.staged_path(id, name)?, bytes.as_ref()));
        }
        if staged.is_empty() {
            return Ok(());
        }
        self.directory_for(&self.path.join(STAGING))?;
        self.directory_for(&self.directory(STAGING, id))?;
        let share = staged.len().div_ceil(WRITERS);
        let write = |share: &[(PathBuf, &[u8])]| {
            let mut files = share.iter();
            files.try_for_each(|(path, bytes)| write_private(path, bytes))
        };
        std::thread::scope(|scope| {
            let others = staged
                .chunks(share)
                .map(|it| scope.spawn(move || write(it)));
            let others: Vec<_> = others.collect();
            others.into_iter().try_for_each(|it| match it.join() {
                Ok(written) => written,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    /// Keeps what a step is about to replace.
    ///
    /// # Errors
    ///
    /// When writing fails.
    pub fn backup(&self, id: &PlanId, step: u32, bytes: &[u8]) -> Result<(), StateError> {
        plan_name(id)?;
        self.directory_for(&self.path.join(BACKUPS))?;
        let directory = self.directory(BACKUPS, id);
        self.directory_for(&directory)?;
        write_private(&directory.join(step.to_string()), bytes)
    }

    /// Keeps what a call is about to send, for the undo of its undo.
    ///
    /// # Errors
    ///
    /// When writing fails.
    pub fn keep_sent(&self, id: &PlanId, step: u32, bytes: &[u8]) -> Result<(), StateError> {
        plan_name(id)?;
        self.directory_for(&self.path.join(BACKUPS))?;
        self.directory_for(&self.directory(BACKUPS, id))?;
        write_private(&self.sent_path(id, step), bytes)
    }

    /// The name under which this state directory locks hosts, made once: whatever a plan of it
    /// left locked, the next one may take over, for this directory's own lock keeps two programs
    /// apart.
    ///
    /// # Errors
    ///
    /// When it cannot be read or written, or `entropy` fails.
    pub fn owner(&self, entropy: &dyn Entropy) -> Result<String, StateError> {
        let path = self.path.join(OWNER);
        let known = read(&path)?.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        let is_owner = |text: &String| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            !text.is_empty() && text.len() < 100 && text.bytes().all(plain)
        };
        if let Some(known) = known.map(|text| text.trim().to_owned()).filter(is_owner) {
            return Ok(known);
        }
        let mut random = [0; 8];
        entropy
            .fill(&mut random)
            .map_err(|error| failed("make", &path, std::io::Error::other(error)))?;
        let owner = format!("kubepki-{}", pki::hex(&random));
        write_private(&path, format!("{owner}\n").as_bytes())?;
        Ok(owner)
    }

    /// Opens a plan's journal for adding lines.
    ///
    /// # Errors
    ///
    /// [`StateError::Journal`].
    pub fn open_journal(&self, id: &PlanId) -> Result<Journal, StateError> {
        plan_name(id)?;
        self.directory_for(&self.path.join(JOURNALS))?;
        Journal::open(&self.journal_path(id)).map_err(|source| StateError::Journal {
            id: id.clone(),
            source,
        })
    }

    /// Removes what was staged for a plan. Nothing there is success.
    ///
    /// # Errors
    ///
    /// When a file cannot be removed.
    pub fn drop_staging(&self, id: &PlanId) -> Result<(), StateError> {
        plan_name(id)?;
        self.remove_flat(&self.directory(STAGING, id))
    }

    /// Removes everything that is kept of a plan. What is staged and backed up goes first, so
    /// that a crash leaves no secret without the plan that names it.
    pub(super) fn remove_plan(&self, id: &PlanId) -> Result<(), StateError> {
        plan_name(id)?;
        self.remove_flat(&self.directory(STAGING, id))?;
        self.remove_flat(&self.directory(BACKUPS, id))?;
        for path in [self.journal_path(id), self.plan_path(id)] {
            file::remove(&path).map_err(|source| failed("remove", &path, source))?;
        }
        Ok(())
    }

    /// Removes a directory of files, temporary ones included; never descends.
    fn remove_flat(&self, directory: &Path) -> Result<(), StateError> {
        let failed_at = |path: &Path, source| failed("remove", path, source);
        for name in names(directory)? {
            let path = directory.join(name);
            file::remove_temporary(&path).map_err(|source| failed_at(&path, source))?;
            file::remove(&path).map_err(|source| failed_at(&path, source))?;
        }
        // What a crash left of a file that never got its name.
        if let Ok(entries) = std::fs::read_dir(directory) {
            for entry in entries.flatten() {
                let path = entry.path();
                file::remove(&path).map_err(|source| failed_at(&path, source))?;
            }
        }
        file::remove(directory).map_err(|source| failed_at(directory, source))
    }

    fn directory_for(&self, path: &Path) -> Result<(), StateError> {
        if path.is_dir() {
            return Ok(());
        }
        file::make_directory(path, &Attributes::new(0o700))
            .map_err(|source| failed("make", path, source))
    }
}
