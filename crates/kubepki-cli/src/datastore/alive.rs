//! Whether a K3s server lives on a datastore that is to be written directly.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::{Connected, EndpointArgs, Kind, reached};
use crate::error::CliError;
use crate::k3s::{Settings, running_in};

/// Refuses while a K3s server works with the datastore: its process runs here, its port answers,
/// its file is open, or the datastore's newest revision moves.
///
/// # Errors
///
/// A refusal that says how the server was seen; a failure when the datastore cannot be asked.
pub async fn refuse_living(
    connected: &Connected,
    args: &EndpointArgs,
    settings: &Settings,
) -> Result<(), CliError> {
    if let Some(sign) = sign_of_life(connected, args, settings).await? {
        return Err(CliError::refused(format!(
            "a K3s server is alive: {sign}; what is written beside it would be lost or tear its \
             servers apart. Stop every server, or go through the running one"
        )));
    }
    Ok(())
}

async fn sign_of_life(
    connected: &Connected,
    args: &EndpointArgs,
    settings: &Settings,
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
        if TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok() {
            return Ok(Some(format!("{address} answers")));
        }
    }
    if let Kind::Sqlite(path) = &connected.kind
        && let Some(pid) = holder(path)
    {
        let path = path.display();
        return Ok(Some(format!("process {pid} has {path} open")));
    }
    let still = Duration::from_secs(args.still_for);
    let first = connected.store.newest_revision().await.map_err(reached)?;
    let mut waited = Duration::ZERO;
    while waited < still {
        let pause = INTERVAL.min(still - waited);
        tokio::time::sleep(pause).await;
        waited += pause;
        let newest = connected.store.newest_revision().await.map_err(reached)?;
        if newest != first {
            return Ok(Some(format!(
                "the datastore's newest revision went from {first} to {newest}"
            )));
        }
    }
    // Whoever writes later asks whether it is still so.
    let _ = connected.quiet_at.set(first);
    Ok(None)
}

/// Between two looks at the newest revision.
const INTERVAL: Duration = Duration::from_millis(500);

/// Another process that has the file open, as far as `/proc` tells.
fn holder(path: &Path) -> Option<u32> {
    let path = std::fs::canonicalize(path).ok()?;
    let own = std::process::id();
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .find_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            if pid == own {
                return None;
            }
            let open = std::fs::read_dir(entry.path().join("fd")).ok()?;
            let holds = open
                .flatten()
                .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == path));
            holds.then_some(pid)
        })
}
