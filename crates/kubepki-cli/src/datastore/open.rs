//! From flags, configuration or data directory to an open datastore.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use kubepki::edge::file::make_directory;
use kubepki::host::{Attributes, Host};
use kubepki_datastore::etcd::{EtcdFile, EtcdStore, Unapplied};
use kubepki_datastore::{Endpoint, Tls};
use zeroize::Zeroizing;

use super::{Access, Connected, EndpointArgs, Kind, reached};
use crate::error::CliError;
use crate::k3s::Settings;

/// Opens the datastore that the arguments name, else K3s's configuration, else what the data
/// directory holds.
///
/// # Errors
///
/// When there is none, it cannot be reached, or it can only be read and `access` is to write.
pub async fn open(
    host: &dyn Host,
    args: &EndpointArgs,
    settings: &Settings,
    access: Access,
) -> Result<Connected, CliError> {
    let server = settings.data_dir.join("server");
    if let Some((text, from)) = endpoint(args, settings) {
        return connect(&text, from, &tls(args, settings), &server, access).await;
    }
    let member = server.join("db/etcd/member");
    if host.list(&member).await?.is_some() {
        return embedded(settings, &server, access).await;
    }
    let file = server.join("db/state.db");
    if std::fs::exists(&file)? {
        let from = server.join("db").display().to_string();
        return connect("", from, &Tls::default(), &server, access).await;
    }
    if !std::fs::exists(&server)? && std::fs::exists(settings.data_dir.join("agent"))? {
        return Err(CliError::message(format!(
            "{} is an agent's: only servers reach the datastore. Run this on a server, or name \
             the datastore with --datastore-endpoint",
            settings.data_dir.display()
        )));
    }
    Err(CliError::message(format!(
        "{} holds no datastore (neither db/state.db nor db/etcd/member), and K3s's configuration \
         names none: name it with --datastore-endpoint",
        server.display()
    )))
}

/// The same for a server's first start, as K3s has it: SQLite in the data directory where no
/// datastore is named and none lies there, kine's table where a named database has none.
///
/// # Errors
///
/// As [`open`] for writing, and when the file or the table cannot be made.
pub async fn open_or_make(
    host: &dyn Host,
    args: &EndpointArgs,
    settings: &Settings,
) -> Result<Connected, CliError> {
    let directory = settings.data_dir.join("server/db");
    let file = directory.join("state.db");
    let named = endpoint(args, settings);
    if named.is_none() && !file.exists() && !directory.join("etcd").exists() {
        for directory in [&settings.data_dir.join("server"), &directory] {
            if !directory.is_dir() {
                make_directory(directory, &Attributes::new(0o700))?;
            }
        }
        kubepki_datastore::new_sqlite(&file)
            .await
            .map_err(reached)?;
    }
    let connected = match open(host, args, settings, Access::Write).await {
        Err(error) => {
            let Some((text, _)) = named else {
                return Err(error);
            };
            let parsed = Endpoint::parse(&text).map_err(reached)?;
            let made = kubepki_datastore::make_table(&parsed, &tls(args, settings)).await;
            match made {
                // What is wrong there is no missing table.
                Err(_) => return Err(error),
                Ok(()) => open(host, args, settings, Access::Write).await?,
            }
        }
        connected => connected?,
    };
    connected.refuse_read_only()?;
    Ok(connected)
}

/// The endpoint that is named, and where.
fn endpoint(args: &EndpointArgs, settings: &Settings) -> Option<(Zeroizing<String>, String)> {
    if let Some(given) = &args.datastore_endpoint
        && !given.0.is_empty()
    {
        return Some((given.0.clone(), "--datastore-endpoint".to_owned()));
    }
    let found = settings.connection.endpoint.as_ref()?;
    Some((found.value.clone(), found.from.clone()))
}

/// The TLS files: flags, then the configuration, each for itself as with K3s.
fn tls(args: &EndpointArgs, settings: &Settings) -> Tls {
    let connection = &settings.connection;
    let or = |given: &Option<PathBuf>, found: &Option<kubepki::k3s::Found<PathBuf>>| {
        let found = found.as_ref().map(|it| it.value.clone());
        given.clone().or(found)
    };
    Tls {
        ca_file: or(&args.datastore_cafile, &connection.ca_file),
        cert_file: or(&args.datastore_certfile, &connection.certificate_file),
        key_file: or(&args.datastore_keyfile, &connection.key_file),
    }
}

async fn connect(
    text: &str,
    from: String,
    tls: &Tls,
    server: &Path,
    access: Access,
) -> Result<Connected, CliError> {
    let way = Way {
        text: Zeroizing::new(text.to_owned()),
        tls: tls.clone(),
        server: server.to_owned(),
        access,
    };
    let endpoint = Endpoint::parse(text).map_err(reached)?;
    let (place, kind) = match &endpoint {
        // The same file has the same name whatever directory it is seen from.
        Endpoint::Sqlite(file) => {
            let path = file.path_below(server);
            (format!("sqlite://{}", path.display()), Kind::Sqlite(path))
        }
        other => (other.describe(), Kind::Server),
    };
    let store = kubepki_datastore::open(&endpoint, tls, server, access)
        .await
        .map_err(reached)?;
    Ok(Connected {
        store,
        place,
        from,
        kind,
        remarks: Vec::new(),
        way: Some(way),
        quiet_at: OnceLock::new(),
    })
}

/// How a datastore was reached, so that it can be reached again for writing. It may hold a
/// password.
pub(super) struct Way {
    text: Zeroizing<String>,
    tls: Tls,
    server: PathBuf,
    access: Access,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Way").finish_non_exhaustive()
    }
}

impl Connected {
    /// Refuses what only K3s writes, or nobody.
    ///
    /// # Errors
    ///
    /// A refusal with the way out.
    pub fn refuse_read_only(&self) -> Result<(), CliError> {
        match self.kind {
            Kind::Sqlite(_) | Kind::Server => Ok(()),
            Kind::Embedded => Err(CliError::refused(
                "the datastore is the etcd of a K3s that runs: while it runs only K3s writes to it, \
                 and when K3s is stopped so is its etcd",
            )
            .hint(
                "go through the running server: `kubepki rotate-ca` for CAs, and for \
                 service-account keys with a --path that holds only tls/service.key; `k3s token \
                 rotate` for the token",
            )),
            Kind::Files => Err(CliError::refused(format!(
                "{} is the file of an etcd that does not run, or a snapshot: it can only be read",
                self.place
            ))
            .hint("start K3s and go through it, as `kubepki rotate-ca` does")),
        }
    }

    /// The same datastore for writing. Until then it is opened for reading only: SQLite tidies
    /// its files up behind a writer, even behind one that wrote nothing.
    ///
    /// # Errors
    ///
    /// As [`Self::refuse_read_only`], when it cannot be reached again, and when somebody has
    /// written to it since it was found quiet: the operator may think long before saying yes.
    pub async fn for_writing(self) -> Result<Self, CliError> {
        self.refuse_read_only()?;
        if let Some(quiet) = self.quiet_at.get() {
            let now = self.stand().await?;
            if now != *quiet {
                return Err(CliError::refused(format!(
                    "somebody wrote to the datastore since the plan was made ({}), so nothing was \
                     changed: a server was started. Stop every server and try again, or go through \
                     the running one",
                    quiet.change(&now)
                )));
            }
        }
        match &self.way {
            Some(way) if way.access == Access::Read => {
                let from = self.from.clone();
                connect(&way.text, from, &way.tls, &way.server, Access::Write).await
            }
            _ => Ok(self),
        }
    }
}

/// etcd inside K3s: the running member if it is this data directory's, else its files.
async fn embedded(
    settings: &Settings,
    server: &Path,
    access: Access,
) -> Result<Connected, CliError> {
    let from = server.join("db/etcd").display().to_string();
    // A copy's files must not lead to the member that runs on the original.
    let ours = settings.data_dir == settings.configured;
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), CLIENT_PORT);
    if ours && TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok() {
        match EtcdStore::embedded(server).await {
            Ok(store) => {
                let connected = Connected {
                    place: format!("embedded etcd ({})", store.endpoint()),
                    store: Box::new(store),
                    from,
                    kind: Kind::Embedded,
                    remarks: Vec::new(),
                    way: None,
                    quiet_at: OnceLock::new(),
                };
                return checked(connected, access);
            }
            // Something else answers there. A member that runs after all holds its file.
            Err(error) => {
                let store = EtcdFile::stopped_member(server).map_err(|_| reached(error))?;
                return files(store, from, access).await;
            }
        }
    }
    let store = EtcdFile::stopped_member(server).map_err(reached)?;
    files(store, from, access).await
}

/// What a stopped member's file does not have yet, in words.
async fn unapplied(store: &EtcdFile) -> Option<String> {
    let log = match store.unapplied().await {
        Ok(unapplied) if unapplied.changes == 0 => return None,
        Ok(Unapplied {
            changes,
            of_bootstrap,
        }) => match of_bootstrap {
            0 => format!("{changes} changes lie only in etcd's log, none of the bootstrap data"),
            some => format!(
                "{changes} changes lie only in etcd's log, {some} of them of the bootstrap data, \
                 which are older here than in the cluster: start K3s and stop it in good order, \
                 or look at another member"
            ),
        },
        Err(error) => format!(
            "whether etcd's log holds newer changes is not known: {}",
            kubepki::error_chain(&error)
        ),
    };
    let path = store.path().display();
    Some(format!(
        "{path} is read as it is, as K3s itself does when it starts: {log}"
    ))
}

fn checked(connected: Connected, access: Access) -> Result<Connected, CliError> {
    if access == Access::Write {
        connected.refuse_read_only()?;
    }
    Ok(connected)
}

/// The port at which K3s's etcd answers clients.
const CLIENT_PORT: u16 = 2379;

async fn files(store: EtcdFile, from: String, access: Access) -> Result<Connected, CliError> {
    let place = store.path().display().to_string();
    let connected = Connected {
        remarks: unapplied(&store).await.into_iter().collect(),
        store: Box::new(store),
        place,
        from,
        kind: Kind::Files,
        way: None,
        quiet_at: OnceLock::new(),
    };
    checked(connected, access)
}

/// Opens a snapshot of etcd, or a copy of kine's file, for reading.
///
/// # Errors
///
/// When it is neither, or `access` is to write.
pub async fn snapshot(path: &Path, access: Access) -> Result<Connected, CliError> {
    let shown = path.display();
    let mut head = [0; SQLITE.len()];
    // A pipe would be waited for, and cannot be searched.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(CliError::usage(format!(
            "--snapshot: {shown} is no regular file"
        )));
    }
    let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut head));
    let read =
        read.map_err(|error| CliError::usage(format!("--snapshot: cannot read {shown}: {error}")))?;
    if access == Access::Write {
        return Err(CliError::usage("a snapshot is not written to"));
    }
    let from = "--snapshot".to_owned();
    if head.get(..read) == Some(SQLITE) {
        let path = std::path::absolute(path)?;
        let tls = Tls::default();
        let endpoint = format!("sqlite://{}", path.display());
        let connected = connect(&endpoint, from, &tls, Path::new("/"), access).await?;
        return Ok(Connected {
            kind: Kind::Files,
            ..connected
        });
    }
    files(EtcdFile::open(path).map_err(reached)?, from, access).await
}

/// How every SQLite file begins.
const SQLITE: &[u8] = b"SQLite format 3\0";
