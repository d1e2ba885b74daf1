//! Files on a host: directly, or by the hand of a container.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use kubepki::host::{Attributes, Entry, EntryKind, Host, HostError, Output};
use zeroize::Zeroizing;

use super::set::{NO_TAR, NOT_UNPACKED, READ_LIMIT, Set, under};
use super::{HostSpec, Link, Notify, archive};
use crate::docker::{Bind, DockerError, Engine, Helper, System};

/// A host that flushes slowly is not a dead one.
pub(super) const SCRIPT_PATIENCE: Duration = Duration::from_secs(300);

/// Where every node of RKE has its files, below its prefix.
pub(super) const BASE: &str = "/etc/kubernetes";

/// Prints the directory `$1` as an archive, without what lies in its folders.
const READ: &str = r#"command -v tar >/dev/null || exit 91
[ -e "$1" ] || exit 93
cd "$1" || exit 92
exec tar -cf - --exclude='./*/*' ."#;

/// The exit code of [`READ`] where there is nothing.
const NO_DIRECTORY: i32 = 93;

/// Files by name; `None` if there is no such directory.
type Listing = Option<BTreeMap<String, Entry>>;

/// The label's value of containers that only read; they are never started.
const READER: &str = "read";

/// No reading takes that long, in seconds.
const READER_AGE: i64 = 3600;

/// Removes what readers left behind that were killed. It is a courtesy: the next connection tries
/// again.
pub(super) async fn remove_readers(engine: &Engine, system: &System) {
    if let Some(now) = system.now {
        let _ = engine.remove_helpers(READER, now.plus(-READER_AGE)).await;
    }
}

/// The way that files take on one host.
#[derive(Clone, Debug)]
pub(super) enum Files {
    /// The user may write them.
    Direct(Arc<dyn Host>),
    /// Through a container of its Docker.
    Docker,
}

/// What the operations on files need of a connection.
pub(super) struct Desk<'a> {
    pub(super) spec: &'a HostSpec,
    pub(super) link: &'a dyn Link,
    pub(super) engine: &'a Engine,
    pub(super) files: &'a Files,
    /// What comes before every path on the host.
    pub(super) prefix: &'a Path,
    pub(super) notify: &'a Notify,
}

impl Desk<'_> {
    /// `held` is the container of the host's lock, if this program has it.
    pub(super) async fn read_directory(
        &self,
        directory: &Path,
        held: Option<&Helper>,
    ) -> Result<Listing, HostError> {
        match self.files {
            Files::Direct(host) => {
                let at = under(self.prefix, directory);
                match self.read_at_once(&at).await? {
                    Some(read) => Ok(read),
                    None => read_direct(&**host, &at).await,
                }
            }
            Files::Docker => self.read_by_docker(directory, held).await,
        }
    }

    /// One command that prints all files, where each of them would be asked for several times;
    /// `None` if that fails: the long way does without what is missing, or tells what is wrong.
    async fn read_at_once(&self, directory: &Path) -> Result<Option<Listing>, HostError> {
        let directory = directory.display().to_string();
        let command = ["sh", "-c", READ, "kubepki", &directory].map(str::to_owned);
        let mut ended = match self.link.feed(&command, b"").await {
            Some(Ok(ended)) => ended,
            Some(Err(error @ HostError::Unreachable { .. })) => return Err(error),
            Some(Err(_)) | None => return Ok(None),
        };
        let archive = Zeroizing::new(std::mem::take(&mut ended.stdout));
        match ended.code {
            Some(0) if archive.len() <= READ_LIMIT => {}
            Some(NO_DIRECTORY) => return Ok(Some(None)),
            _ => return Ok(None),
        }
        Ok(archive::files(&archive).ok().map(Some))
    }

    async fn read_by_docker(
        &self,
        directory: &Path,
        held: Option<&Helper>,
    ) -> Result<Listing, HostError> {
        self.check_base(directory)?;
        let engine = self.engine;
        // With the dot a link is followed, as whoever reads the files there would.
        let at = format!("{}/.", directory.display());
        // A container that is gone says the same as a directory that is not there.
        if let Some(held) = held
            && let Ok(Some(bytes)) = engine.download(held, &at, READ_LIMIT).await
            && let Ok(files) = archive::files(&bytes)
        {
            return Ok(Some(files));
        }
        let image = self.any_image().await?;
        let made = engine.create(None, READER, &image, &self.bind()).await;
        let helper = made.map_err(|error| self.failed(error))?;
        let read = engine.download(&helper, &at, READ_LIMIT).await;
        let removed = engine.remove(&helper).await;
        let Some(bytes) = read.map_err(|error| self.failed(error))? else {
            return Ok(None);
        };
        removed.map_err(|error| self.failed(error))?;
        let files = archive::files(&bytes);
        files.map(Some).map_err(|error| HostError::Remote {
            host: self.spec.name.clone(),
            message: format!("cannot read {}", directory.display()),
            source: Some(Box::new(error)),
        })
    }

    /// Stages the set and puts it in place; `helper` is the container of the host's lock.
    pub(super) async fn deploy(&self, set: &Set<'_>, helper: &Helper) -> Result<(), HostError> {
        match self.files {
            Files::Direct(host) => self.deploy_direct(&**host, set).await,
            Files::Docker => self.deploy_by_docker(set, helper).await,
        }
    }

    async fn deploy_direct(&self, host: &dyn Host, set: &Set<'_>) -> Result<(), HostError> {
        let prefix = self.prefix;
        if let Some(ended) = self.deploy_at_once(host, set).await? {
            return self.judge(&ended);
        }
        if let Err(error) = stage_direct(host, set, prefix).await {
            return Err(self.not_staged(host, set, error).await);
        }
        let ended = host.run(&set.command(prefix), SCRIPT_PATIENCE).await?;
        self.judge(&ended)
    }

    /// One command with all files as its input, where writing each of them would ask the host a
    /// hundred times; `None` if it has no `tar`.
    async fn deploy_at_once(
        &self,
        host: &dyn Host,
        set: &Set<'_>,
    ) -> Result<Option<Output>, HostError> {
        let archive = set.archive().map_err(|error| self.not_packed(error))?;
        let command = set.command_with_files(self.prefix);
        let Some(ended) = self.link.feed(&command, &archive).await else {
            return Ok(None);
        };
        let ended = ended?;
        match ended.code {
            Some(NO_TAR) => Ok(None),
            Some(NOT_UNPACKED) => {
                let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
                let error = self.hindered(format!("cannot write the new files: {said}"));
                Err(self.not_staged(host, set, error).await)
            }
            _ => Ok(Some(ended)),
        }
    }

    /// What is staged goes: its space may be what is missing.
    async fn not_staged(&self, host: &dyn Host, set: &Set<'_>, error: HostError) -> HostError {
        let error = self.explain(host, set, error).await;
        let _ = host.run(&set.clean_up(self.prefix), SCRIPT_PATIENCE).await;
        error
    }

    fn not_packed(&self, error: std::io::Error) -> HostError {
        HostError::Remote {
            host: self.spec.name.clone(),
            message: "cannot pack the files".to_owned(),
            source: Some(Box::new(error)),
        }
    }

    /// Neither SFTP nor tar tells how much is missing on a full disk.
    async fn explain(&self, host: &dyn Host, set: &Set<'_>, error: HostError) -> HostError {
        let base = under(self.prefix, set.base()).display().to_string();
        let asked = ["df", "-P", "-k", &base].map(str::to_owned);
        let Ok(said) = host.run(&asked, SCRIPT_PATIENCE).await else {
            return error;
        };
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let words = said.lines().nth(1).map(str::split_whitespace);
        let free = words.and_then(|mut it| it.nth(3)?.parse::<u64>().ok());
        match free {
            Some(free) if free < set.kibibytes() => HostError::Remote {
                host: self.spec.name.clone(),
                message: format!(
                    "no space left for the new files: {} KiB are needed at {base}, {free} KiB are \
                     free; nothing was changed",
                    set.kibibytes()
                ),
                source: Some(Box::new(error)),
            },
            _ => error,
        }
    }

    async fn deploy_by_docker(&self, set: &Set<'_>, helper: &Helper) -> Result<(), HostError> {
        self.check_base(set.base())?;
        self.check_base(set.directory())?;
        let root = Path::new("/");
        let failed = |error| self.failed(error);
        let engine = self.engine;
        // It may have been stopped meanwhile, with its host or its Docker.
        engine.start(helper).await.map_err(failed)?;
        let archive = set.archive().map_err(|error| self.not_packed(error))?;
        let base = set.base().display().to_string();
        if let Err(error) = engine.upload(helper, &base, archive).await {
            let _ = engine.run(helper, set.clean_up(root)).await;
            return Err(failed(error));
        }
        let ended = engine.run(helper, set.command(root)).await;
        self.judge(&ended.map_err(failed)?)
    }

    pub(super) fn bind(&self) -> Bind {
        Bind {
            host: under(self.prefix, Path::new(BASE)).display().to_string(),
            container: BASE.to_owned(),
            relabel: self.spec.relabel,
        }
    }

    fn check_base(&self, path: &Path) -> Result<(), HostError> {
        if path.starts_with(BASE) {
            return Ok(());
        }
        Err(self.hindered(format!(
            "files outside {BASE} are not reached through Docker: {}",
            path.display()
        )))
    }

    fn judge(&self, ended: &Output) -> Result<(), HostError> {
        if ended.code == Some(0) {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ended.stderr);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let code = ended
            .code
            .map_or("a signal".to_owned(), |it| it.to_string());
        Err(self.hindered(format!(
            "files could not be put in place (status {code}): {said}; the former files are where \
             they were, or in the plan's folder under {BASE}/.kubepki"
        )))
    }

    pub(super) fn failed(&self, error: DockerError) -> HostError {
        error.at(&self.spec.name)
    }

    pub(super) fn hindered(&self, message: String) -> HostError {
        HostError::Remote {
            host: self.spec.name.clone(),
            message,
            source: None,
        }
    }
}

async fn read_direct(host: &dyn Host, directory: &Path) -> Result<Listing, HostError> {
    let Some(names) = host.list(directory).await? else {
        return Ok(None);
    };
    let wanted = names.into_iter().filter(|it| !it.starts_with(".kubepki"));
    let reads = wanted.map(|name| async move {
        match host.read(&directory.join(&name)).await {
            Ok(entry) => Ok(entry.map(|entry| (name, entry))),
            Err(HostError::Special { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    });
    let entries = try_join_all(reads).await?;
    let is_file = |it: &(String, Entry)| matches!(it.1.kind, EntryKind::File(_));
    Ok(Some(
        entries.into_iter().flatten().filter(is_file).collect(),
    ))
}

async fn stage_direct(host: &dyn Host, set: &Set<'_>, prefix: &Path) -> Result<(), HostError> {
    let folder = Entry {
        kind: EntryKind::Directory,
        attributes: Attributes::new(0o700),
    };
    for path in set.folders() {
        host.put(&under(prefix, path), &folder).await?;
    }
    let stage = under(prefix, &set.stage);
    let puts = set.staged().map(|(name, entry)| {
        let path = stage.join(name);
        async move { host.put(&path, &entry).await }
    });
    try_join_all(puts).await.map(drop)
}
