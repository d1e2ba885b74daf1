//! Whether a server lives on a datastore that is to be written directly.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kubepki::edge::{Clock as _, SystemClock};
use kubepki::state::StateDir;
use kubepki_serve::cluster::{HEARTBEAT, LEASE, Member, SERVERS, Sign};
use zeroize::Zeroizing;

use super::{Connected, EndpointArgs, Kind, reached};
use crate::error::CliError;
use crate::k3s::{Settings, running_in};
use crate::serving::{FILE as LOCK, ended, serving};

/// What becomes of `kubepki serve` on a datastore that is to be written directly.
enum Ours<'a> {
    /// It is another server: what it would do itself is handed to it.
    Refused,
    /// It takes up what is written, and the plan is one of its own, under its own lock: the state
    /// directory that it serves with.
    Follows(&'a Path),
}

/// Refuses while a server works with the datastore: its process runs here, its port answers, its
/// file is open, it said that it lives, or the datastore's newest revision moves.
///
/// # Errors
///
/// A refusal that says how the server was seen; a failure when the datastore cannot be asked.
pub async fn refuse_living(
    connected: &Connected,
    args: &EndpointArgs,
    settings: &Settings,
) -> Result<(), CliError> {
    refuse(sign_of_life(connected, args, settings, &Ours::Refused).await?)
}

/// The same for a plan that `kubepki serve` made by itself in that state directory, where servers
/// of ours may live: they take up what is written.
///
/// # Errors
///
/// As [`refuse_living`].
pub async fn refuse_strangers(
    connected: &Connected,
    args: &EndpointArgs,
    settings: &Settings,
    state: &Path,
) -> Result<(), CliError> {
    refuse(sign_of_life(connected, args, settings, &Ours::Follows(state)).await?)
}

fn refuse(sign: Option<String>) -> Result<(), CliError> {
    if let Some(sign) = sign {
        return Err(CliError::refused(format!(
            "a server is alive, or somebody else is at work: {sign}; what is written beside it would be lost or tear its \
             servers apart. Stop every server, or go through the running one"
        )));
    }
    Ok(())
}

async fn sign_of_life(
    connected: &Connected,
    args: &EndpointArgs,
    settings: &Settings,
    ours: &Ours<'_>,
) -> Result<Option<String>, CliError> {
    if let Some(process) = running_in(&settings.data_dir, &settings.configured)
        && process.name.ends_with("server")
    {
        return Ok(Some(format!("{} runs as {}", process.name, process.pid)));
    }
    // Another directory's server is another cluster's, or a copy's original.
    if settings.config.is_some() {
        let port = settings.https_port();
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let is_ours = match ours {
            Ours::Refused => false,
            Ours::Follows(state) => {
                serving(state).is_some_and(|url| url.ends_with(&format!(":{port}")))
            }
        };
        if !is_ours && TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok() {
            return Ok(Some(format!("{address} answers")));
        }
    }
    if let Kind::Sqlite(path) = &connected.kind
        && let Some(pid) = holder(path, ours)
    {
        return Ok(Some(format!(
            "{}: process {pid} has {} open",
            crate::output::harmless(name_of(pid).trim()),
            path.display()
        )));
    }
    match ours {
        Ours::Refused => {
            // What was killed here is not waited for.
            let state = StateDir::of_data_dir(&settings.data_dir);
            let dead = Dead(ended(state.path()));
            if let Some(sign) = server_of_ours(connected, args, &dead).await? {
                return Ok(Some(sign));
            }
            moving(connected, args, &dead).await
        }
        Ours::Follows(_) => leasing(connected, args).await,
    }
}

/// The run of a server on this machine that is over, whatever the datastore says.
struct Dead(Option<String>);

impl Dead {
    fn is(&self, member: &Member) -> bool {
        self.0.is_some() && member.life == self.0
    }
}

/// A `kubepki serve` that said not long ago that it lives, here or elsewhere.
async fn server_of_ours(
    connected: &Connected,
    args: &EndpointArgs,
    dead: &Dead,
) -> Result<Option<String>, CliError> {
    // Who says that none can be alive need not wait until a killed one counts as dead.
    if args.still_for == 0 {
        return Ok(None);
    }
    let now = SystemClock.now().as_secs();
    let records = connected.store.list(SERVERS).await.map_err(reached)?;
    let members = records.iter().filter_map(|it| match Sign::read(&it.value) {
        Sign::Of(member) => Some(member),
        Sign::Goes => None,
        Sign::Unreadable(why) => {
            let key = crate::output::harmless(&it.key);
            crate::output::talk(&format!(
                "Note: {key} in the datastore is no record of a server that this kubepki reads: \
                 {why}"
            ));
            None
        }
    });
    let lease = i64::try_from(LEASE.as_secs()).unwrap_or(i64::MAX);
    let mut living = members
        .filter(|it| !it.stopped && !dead.is(it) && now.saturating_sub(it.heard).abs() < lease);
    Ok(living.next().map(|it| {
        format!(
            "`kubepki serve` of node {} at {} was heard {} s ago",
            crate::output::harmless(&it.node),
            it.address,
            now.saturating_sub(it.heard)
        )
    }))
}

async fn moving(
    connected: &Connected,
    args: &EndpointArgs,
    dead: &Dead,
) -> Result<Option<String>, CliError> {
    let look = async || connected.stand().await;
    let first = look().await?;
    let still = match first.may_live(dead) && args.still_for > 0 {
        true => args.still_for.max(HEARTBEAT.as_secs() + SLACK),
        false => args.still_for,
    };
    if let Some(last) = other_than(&first, (still, INTERVAL), look).await? {
        return Ok(Some(first.change(&last)));
    }
    // Whoever writes later asks whether it is still so.
    let _ = connected.quiet_at.set(first);
    Ok(None)
}

/// How a datastore stands that nobody works with.
#[derive(Debug, PartialEq, Eq)]
pub struct Stand {
    newest: i64,
    /// What servers of ours said last. In a table they write it over in its row, so that no
    /// revision moves; and by its time alone a server whose clock is wrong is taken for a dead one.
    servers: Vec<(String, Zeroizing<Vec<u8>>)>,
}

impl Stand {
    /// Whether one of them did not say that it ended. What cannot be read may be by a newer one.
    fn may_live(&self, dead: &Dead) -> bool {
        self.servers
            .iter()
            .any(|(_, value)| match Sign::read(value) {
                Sign::Of(member) => !member.stopped && !dead.is(&member),
                Sign::Goes => false,
                Sign::Unreadable(_) => true,
            })
    }

    /// What became of it, for people.
    pub fn change(&self, now: &Self) -> String {
        match self.newest == now.newest {
            true => "a `kubepki serve` said that it lives".to_owned(),
            false => format!(
                "the datastore's newest revision went from {} to {}",
                self.newest, now.newest
            ),
        }
    }
}

impl Connected {
    /// How it stands now.
    ///
    /// # Errors
    ///
    /// When it cannot be asked.
    pub async fn stand(&self) -> Result<Stand, CliError> {
        let newest = self.store.newest_revision().await.map_err(reached)?;
        let records = self.store.list(SERVERS).await.map_err(reached)?;
        let servers = records.into_iter().map(|it| (it.key, it.value));
        Ok(Stand {
            newest,
            servers: servers.collect(),
        })
    }
}

/// API servers renew leases; our own servers write other keys.
async fn leasing(connected: &Connected, args: &EndpointArgs) -> Result<Option<String>, CliError> {
    let leases = async || {
        let leases = connected.store.list(LEASES).await.map_err(reached)?;
        Ok(leases.iter().map(|it| it.revision).max())
    };
    let first = leases().await?;
    // Each look reads all of them: a large cluster has thousands.
    let looks = (
        args.still_for,
        Duration::from_secs(args.still_for.div_ceil(3)),
    );
    let moved = other_than(&first, looks, leases).await?;
    Ok(moved.map(|_| "leases of Kubernetes are renewed".to_owned()))
}

/// Looks for so many seconds, once in that interval; answers what is there instead of `first`.
async fn other_than<T: PartialEq>(
    first: &T,
    (still, interval): (u64, Duration),
    look: impl AsyncFn() -> Result<T, CliError>,
) -> Result<Option<T>, CliError> {
    let still = Duration::from_secs(still);
    let mut waited = Duration::ZERO;
    while waited < still {
        let pause = interval.min(still - waited);
        tokio::time::sleep(pause).await;
        waited += pause;
        let now = look().await?;
        if now != *first {
            return Ok(Some(now));
        }
    }
    Ok(None)
}

/// Where leases lie.
const LEASES: &str = "/registry/leases/";

/// Between two looks at the newest revision.
const INTERVAL: Duration = Duration::from_millis(500);

/// Seconds by which a sign of life may be late.
const SLACK: u64 = 5;

/// Another process that has the file open, as far as `/proc` tells.
fn holder(path: &Path, ours: &Ours<'_>) -> Option<u32> {
    let path = std::fs::canonicalize(path).ok()?;
    let own = std::process::id();
    let lock = match ours {
        Ours::Refused => None,
        Ours::Follows(state) => std::fs::canonicalize(state.join(LOCK)).ok(),
    };
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .find_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            if pid == own {
                return None;
            }
            let open = std::fs::read_dir(entry.path().join("fd")).ok()?;
            let open = open.flatten().flat_map(|fd| std::fs::read_link(fd.path()));
            let open: Vec<PathBuf> = open.collect();
            // The server itself has its lock open for as long as it serves; another command of
            // ours at work on the file has not.
            let is_server = lock.as_ref().is_some_and(|lock| open.contains(lock));
            (open.contains(&path) && !is_server).then_some(pid)
        })
}

fn name_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}
