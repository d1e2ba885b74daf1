//! The cluster's datastore as a command finds it: where, with which TLS files, and which tokens
//! may open the bootstrap data.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use kubepki::apply::Cluster;
use kubepki::bootstrap::{Candidates, KEY_PREFIX, LocateError, Opened, Passphrase, locate};
use kubepki::datastore::DatastoreError;
use kubepki::host::{EntryKind, Host};
use kubepki::init::{Passwd, SERVER};
use kubepki::k3s::Connection;
use kubepki::token::{TokenTextError, read_token};
use kubepki_datastore::Store;
use zeroize::Zeroizing;

use crate::error::{CliError, Exit};
use crate::k3s::Settings;
use crate::output;

mod alive;
mod open;
mod reach;

pub use alive::{refuse_living, refuse_strangers};
pub use kubepki_datastore::Access;
pub use open::{open, open_or_make, snapshot};
pub use reach::{Reach, supervisor};

/// Where the datastore is.
#[derive(Clone, Debug, Default, Args)]
pub struct EndpointArgs {
    /// The datastore, as K3s's flag of that name has it: sqlite://…, postgres://…, mysql://…,
    /// https://… for etcd [default: from K3s's configuration, else what the data directory holds].
    #[arg(
        long,
        env = "K3S_DATASTORE_ENDPOINT",
        hide_env_values = true,
        value_name = "ENDPOINT",
        value_parser = secret
    )]
    pub datastore_endpoint: Option<Secret>,
    /// CA of the datastore's server certificate.
    #[arg(long, env = "K3S_DATASTORE_CAFILE", value_name = "FILE")]
    pub datastore_cafile: Option<PathBuf>,
    /// Client certificate for the datastore.
    #[arg(long, env = "K3S_DATASTORE_CERTFILE", value_name = "FILE")]
    pub datastore_certfile: Option<PathBuf>,
    /// Its key.
    #[arg(long, env = "K3S_DATASTORE_KEYFILE", value_name = "FILE")]
    pub datastore_keyfile: Option<PathBuf>,
    /// A file with a server token that may open the bootstrap data; `-` for standard input; may
    /// be given several times [default: K3s's own, then what the data directory holds].
    #[arg(long = "token-file", value_name = "FILE")]
    pub token_files: Vec<PathBuf>,
    /// Seconds for which the datastore must stand still before it is written: fewer only where no
    /// server can be alive.
    #[arg(long, value_name = "SECONDS", default_value_t = STILL_FOR)]
    pub still_for: u64,
}

/// Servers renew leases every ten seconds.
const STILL_FOR: u64 = 12;

/// Where the datastore is, or what is read in its place.
#[derive(Clone, Debug, Default, Args)]
pub struct DatastoreArgs {
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    /// Read a snapshot of etcd, or a copy of state.db, instead of the datastore.
    #[arg(long, value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
}

/// A command line's secret, which is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Zeroizing<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "clap's parsers answer with a result"
)]
fn secret(text: &str) -> Result<Secret, String> {
    Ok(Secret(Zeroizing::new(text.to_owned())))
}

/// An open datastore.
#[derive(Debug)]
pub struct Connected {
    /// It.
    pub store: Box<dyn Store>,
    /// It in words, without credentials: what plans name it by.
    pub place: String,
    /// Where it was found: `--datastore-endpoint`, a line of a configuration file, a directory.
    pub from: String,
    /// What it is.
    pub kind: Kind,
    /// What is to be known of it before it is believed, for people.
    pub remarks: Vec<String>,
    /// How it was reached.
    way: Option<open::Way>,
    /// How it stood when no server was seen to live on it.
    quiet_at: std::sync::OnceLock<alive::Stand>,
}

/// Kinds of datastore, as far as commands differ about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// kine's own file; where.
    Sqlite(PathBuf),
    /// A database server, or etcd beside K3s.
    Server,
    /// etcd inside the K3s that runs on this machine: K3s alone writes to it.
    Embedded,
    /// Files of a stopped etcd, or a snapshot: read only.
    Files,
}

impl Connected {
    /// The same for a plan's executor, which opens and seals with `passphrases`.
    pub fn cluster<'a>(&'a self, passphrases: &'a [Passphrase]) -> Cluster<'a> {
        Cluster {
            store: self.store.as_ref(),
            description: &self.place,
            passphrases,
        }
    }
}

/// The bootstrap data of a cluster, with the datastore that they are in.
#[derive(Debug)]
pub struct Found {
    /// The datastore.
    pub connected: Connected,
    /// Every token at hand.
    pub candidates: Candidates,
    /// The data.
    pub opened: Opened,
}

/// Finds, opens and decrypts.
///
/// # Errors
///
/// When the datastore cannot be reached, or no token opens the data.
pub async fn find(
    host: &dyn Host,
    args: &DatastoreArgs,
    settings: &Settings,
    access: Access,
) -> Result<Found, CliError> {
    let candidates = candidates(host, &args.endpoint, settings).await?;
    let connected = match &args.snapshot {
        Some(path) => snapshot(path, access).await?,
        None => open(host, &args.endpoint, settings, access).await?,
    };
    let mut opened = read(&connected, &candidates).await?;
    opened.notes.extend(connected.remarks.iter().cloned());
    Ok(Found {
        connected,
        candidates,
        opened,
    })
}

/// The same of a datastore that is to be written later: opened for reading, so that a refusal
/// leaves it as it was.
///
/// # Errors
///
/// As [`find`], and [`Connected::refuse_read_only`] before anything is decrypted.
pub async fn find_writable(
    host: &dyn Host,
    endpoint: &EndpointArgs,
    settings: &Settings,
) -> Result<Found, CliError> {
    let candidates = candidates(host, endpoint, settings).await?;
    let connected = open(host, endpoint, settings, Access::Read).await?;
    connected.refuse_read_only()?;
    let opened = read(&connected, &candidates).await?;
    Ok(Found {
        connected,
        candidates,
        opened,
    })
}

/// Decrypts the bootstrap data of an open datastore.
///
/// # Errors
///
/// When there are none, or no token opens them.
pub async fn read(connected: &Connected, candidates: &Candidates) -> Result<Opened, CliError> {
    let records = connected.store.list(KEY_PREFIX).await.map_err(reached)?;
    let opened = locate(&records, candidates).map_err(|error| unopened(connected, &error))?;
    for named in candidates.passed_over(&opened.origin) {
        output::talk(&format!(
            "Note: the token in {named} does not open the data in {}; the one from {} does.",
            connected.place, opened.origin
        ));
    }
    Ok(opened)
}

/// What the operator is told of data that cannot be opened: refused, because nothing failed.
pub fn unopened(connected: &Connected, error: &LocateError) -> CliError {
    CliError {
        exit: match error {
            LocateError::Sealed { .. } | LocateError::Bundle { .. } => Exit::Broken,
            _ => Exit::Refused,
        },
        message: format!("{}: {}", connected.place, kubepki::error_chain(error)),
        hint: match error {
            LocateError::Sealed { .. } | LocateError::Bundle { .. } => Some(
                "`kubepki bootstrap restore` puts this server's files there anew, with --snapshot \
                 FILE those of a snapshot"
                    .to_owned(),
            ),
            _ => None,
        },
    }
}

/// What the operator is told of a datastore that does not do what it is asked.
pub fn reached(error: DatastoreError) -> CliError {
    let exit = match &error {
        DatastoreError::Conflict { .. } | DatastoreError::ReadOnly { .. } => Exit::Refused,
        DatastoreError::Endpoint { .. } => Exit::Usage,
        _ => Exit::Failed,
    };
    CliError {
        exit,
        ..CliError::failed(&error)
    }
}

/// Every token that may open the data: those that are named, K3s's own, what the data directory
/// holds.
///
/// # Errors
///
/// A named file that is no token. What K3s's configuration or the directory holds and cannot be
/// used is told and passed over.
pub async fn candidates(
    host: &dyn Host,
    args: &EndpointArgs,
    settings: &Settings,
) -> Result<Candidates, CliError> {
    let mut candidates = Candidates::new();
    let stdin = args.token_files.iter().filter(|it| is_stdin(it)).count();
    if stdin > 1 {
        return Err(CliError::usage("standard input can hold one token"));
    }
    for path in &args.token_files {
        let origin = match is_stdin(path) {
            true => "standard input".to_owned(),
            false => path.display().to_string(),
        };
        let text = named(path)?;
        let added = candidates.add_named_token(&text, &origin);
        added.map_err(|error| CliError::usage(format!("--token-file {origin}: {error}")))?;
    }
    for (origin, text) in environment()? {
        maybe(&mut candidates, &text, &origin);
    }
    configured(host, &settings.connection, &mut candidates).await?;
    let server = settings.data_dir.join("server");
    if let Some(text) = text(host, &server.join("token")).await? {
        let origin = server.join("token").display().to_string();
        maybe(&mut candidates, &text, &origin);
    }
    let passwd = server.join("cred/passwd");
    if let Some(text) = text(host, &passwd).await?
        && let Ok(passwd_file) = Passwd::parse(&text)
        && let Some(password) = passwd_file.password(SERVER.0)
    {
        let origin = passwd.display().to_string();
        candidates.add_password(Passphrase::new(password.clone()), &origin);
    }
    Ok(candidates)
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// The text of a token file that is named: it must be there, and may be a link.
///
/// # Errors
///
/// When it cannot be read.
pub fn named(path: &Path) -> Result<Zeroizing<String>, CliError> {
    use std::io::Read as _;

    let place = match is_stdin(path) {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    };
    let mut bytes = Zeroizing::new(Vec::new());
    let read = match is_stdin(path) {
        true => std::io::stdin().lock().take(LIMIT).read_to_end(&mut bytes),
        false => {
            std::fs::File::open(path).and_then(|file| file.take(LIMIT).read_to_end(&mut bytes))
        }
    };
    read.map_err(|error| CliError::usage(format!("--token-file: cannot read {place}: {error}")))?;
    // A part of a long file, or a password with a byte order mark, would be another token.
    let usable = read_token(&bytes).map(drop).and_then(|()| {
        let text = str::from_utf8(&bytes).map_err(|_| TokenTextError::NotText)?;
        Ok(Zeroizing::new(text.to_owned()))
    });
    usable.map_err(|error| {
        CliError::usage(format!(
            "--token-file {place}: {}",
            kubepki::error_chain(&error)
        ))
    })
}

/// More than any token: enough to see that it is none.
const LIMIT: u64 = 128 << 10;

/// `K3S_TOKEN` and `K3S_TOKEN_FILE` of this process, as K3s reads them.
fn environment() -> Result<Vec<(String, Zeroizing<String>)>, CliError> {
    let mut found = Vec::new();
    let set = |name: &str| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty());
        value.map(|value| Zeroizing::new(value.to_string_lossy().into_owned()))
    };
    if let Some(token) = set("K3S_TOKEN") {
        found.push(("K3S_TOKEN".to_owned(), token));
    }
    if let Some(path) = set("K3S_TOKEN_FILE") {
        let path = PathBuf::from(path.as_str());
        found.push((path.display().to_string(), named(&path)?));
    }
    Ok(found)
}

async fn configured(
    host: &dyn Host,
    connection: &Connection,
    candidates: &mut Candidates,
) -> Result<(), CliError> {
    if let Some(found) = &connection.token {
        maybe(candidates, &found.value, &found.from);
    }
    if let Some(found) = &connection.token_file
        && let Some(text) = text(host, &found.value).await?
    {
        maybe(candidates, &text, &found.value.display().to_string());
    }
    Ok(())
}

fn maybe(candidates: &mut Candidates, text: &str, origin: &str) {
    if let Err(error) = candidates.add_token(text, origin) {
        output::talk(&format!("Note: {origin} is left out: {error}"));
    }
}

/// A regular file's text. A link is not followed: in a copied tree it leads to the original.
async fn text(host: &dyn Host, path: &Path) -> Result<Option<Zeroizing<String>>, CliError> {
    let Some(EntryKind::File(bytes)) = host.read(path).await?.map(|entry| entry.kind) else {
        return Ok(None);
    };
    Ok(str::from_utf8(&bytes)
        .ok()
        .map(|text| Zeroizing::new(text.to_owned())))
}
